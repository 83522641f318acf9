"""`resnets study forms`: Tables 1 to 3 of He et al., "Identity Mappings" (ECCV 2016), and ours.

Table 1 changes the shortcut, Table 2 the order of the layers, both in one network; Table 3 compares
the original and the pre-activation network at several depths.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

from matplotlib.axes import Axes

from resnets.diagrams.draw import block_diagram
from resnets.report.figure_style import INK, SERIES, SOFT, add_legend, figure_style, subplots
from resnets.report.page import Figure, Numbers, Table
from resnets.report.render import Row
from resnets.study import paper
from resnets.study.depth.presets import DIGITS, depth_grid
from resnets.study.depth.summary import ModelSummary
from resnets.study.grid.cells import Grid
from resnets.study.grid.model_names import model_spec

MODELS = ("cifar-resnet32", "cifar-resnet56")
SEEDS, BUDGET = 2, "200it"
SETTINGS = (  # half the width, so that digits take minutes
    "batch_size=128",
    "optim.nesterov=false",
    "eval.every=4ep",
    "checkpoint_every=4ep",
    "model.widths=[8,16,32]",
    "model.stem_width=8",
)
FAILED = 20.0  # percent, above which the paper reports "fail"
PREACT = paper.ORDER_FORMS[-1]


def forms_grid(
    *,
    models: Sequence[str] = MODELS,
    data: str | None = None,
    seeds: int | Sequence[int] | None = None,
    budget: str | None = None,
    recipe: str | None = None,
    settings: Sequence[str] = (),
) -> Grid:
    """Return the grid of Tables 1 and 2 for the first of `models`, and of Table 3 for all of them.

    The default is narrow networks on the embedded digits, 200 iterations and two seeds; on other
    data, the defaults of `depth_grid`. Raises ConfigError.
    """
    models = tuple(models) or MODELS
    names = [form_name(models[0], form) for form in (*paper.SHORTCUT_FORMS, *paper.ORDER_FORMS)]
    names += [name for model in models for name in (model, form_name(model, PREACT))]
    if (data or DIGITS) == DIGITS:
        budget, seeds = budget or BUDGET, seeds or SEEDS
        settings = (*SETTINGS, *settings)
    grid = depth_grid(
        models=tuple(dict.fromkeys(names)),
        data=data,
        seeds=seeds,
        budget=budget,
        recipe=recipe,
        settings=settings,
    )
    return dataclasses.replace(grid, study="forms")


def form_name(model: str, form: paper.PaperForm) -> str:
    """Return the name of `model` in a form of the paper's tables."""
    kind = "bottleneck" if model_spec(model).is_bottleneck else "basic"
    return f"{model}:{form.form.replace('*', kind)}" if form.form else model


def base_models(grid: Grid) -> list[str]:
    """Return the models that a grid of forms was requested for."""
    return [model for model in grid.models if ":" not in model]


@dataclass(frozen=True)
class FormRow:
    """A row of Table 1 or 2: the paper's errors, and those of our network (None: not finished)."""

    form: paper.PaperForm
    model: ModelSummary | None

    @property
    def error(self) -> float | None:
        """Mean held-out error of the finished seeds, in percent."""
        model = self.model
        return None if model is None else model.errors(model.held_out, "last").mean

    @property
    def train(self) -> float | None:
        """Mean last training error of the finished seeds, in percent."""
        return None if self.model is None else self.model.errors("train", "last").mean

    @property
    def failed(self) -> bool:
        """Whether every run ended with an error, such as a loss that diverged."""
        return self.model is not None and all(cell.status == "failed" for cell in self.model.cells)


@dataclass(frozen=True)
class Forms:
    """The three tables of a grid of forms; depths: layers -> original and pre-activation row."""

    shortcuts: tuple[FormRow, ...]
    orders: tuple[FormRow, ...]
    depths: Mapping[int, tuple[FormRow, FormRow]]

    @property
    def agreement(self) -> dict[str, tuple[int, int]]:
        """By table: pairs of rows ordered by our training errors as by the paper's test errors.

        The second number is that of all pairs. A network that diverged is worse than one that did
        not. Pairs of rows that both failed in the paper do not count.
        """
        return {
            "Table 1": _count_agreement(self.shortcuts),
            "Table 2": _count_agreement(self.orders),
        }


def read_forms(grid: Grid, models: Sequence[ModelSummary]) -> Forms:
    """Build the rows of the three tables from the models of a grid of forms."""
    by_name = {model.name: model for model in models}
    bases = base_models(grid)

    def make_row(model: str, form: paper.PaperForm) -> FormRow:
        return FormRow(form, by_name.get(form_name(model, form)))

    return Forms(
        tuple(make_row(bases[0], form) for form in paper.SHORTCUT_FORMS),
        tuple(make_row(bases[0], form) for form in paper.ORDER_FORMS),
        {
            model_spec(base).num_layers: (
                make_row(base, paper.ORDER_FORMS[0]),
                make_row(base, PREACT),
            )
            for base in bases
        },
    )


def forms_tables(forms: Forms, held_out: str) -> list[Table]:
    """Return Tables 1 to 3 with our errors next to the paper's."""
    tables = []
    for name, rows in (("shortcuts", forms.shortcuts), ("orders", forms.orders)):
        layers = sorted({depth for row in rows for depth in row.form.errors})
        columns = (
            "case",
            "training error",
            f"{held_out} error",
            *(f"paper, {depth} layers" for depth in layers),
        )
        table_rows: list[Row] = []
        for row in rows:
            texts = [_format_errors(row.model, kind) for kind in ("train", held_out)]
            texts = ["failed", "failed"] if row.failed else texts
            reported = (_paper_error(row.form, depth) for depth in layers)
            table_rows.append((row.form.case, *texts, *reported))
        tables.append(Table(f"forms-{name}", columns, tuple(table_rows)))
    paper_rows: list[Row] = [
        (f"{layers}, paper ({data})", None, None, *errors)
        for (data, layers), errors in paper.PREACTIVATION.items()
    ]
    ours: list[Row] = [
        (
            f"{depth}, here",
            *(_format_errors(row.model, "train") for row in pair),
            *(_format_errors(row.model, held_out) for row in pair),
        )
        for depth, pair in forms.depths.items()
    ]
    columns = (
        "layers",
        "training, original",
        "training, pre-activation",
        f"{held_out}, original",
        f"{held_out}, pre-activation",
    )
    return [*tables, Table("forms-depths", columns, (*ours, *paper_rows))]


def plot_forms(forms: Forms) -> list[Figure]:
    """Plot the errors of each row next to the paper's, and draw the blocks of Table 2."""
    with figure_style():
        figure, panels = subplots(2, panel=(5.6, 4.4))
        for axes, title, rows in (
            (panels[0], "Table 1: shortcuts", forms.shortcuts),
            (panels[1], "Table 2: order of layers", forms.orders),
        ):
            _draw_rows(axes, rows)
            axes.set(title=title, xlabel="error (%)")
        add_legend(figure, panels[0], columns=3)
    columns = ("table", "case", "training error", "test error", "paper, 110 layers")
    numbers = tuple(
        (table, row.form.case, row.train, row.error, _paper_error(row.form, 110))
        for table, rows in (("1", forms.shortcuts), ("2", forms.orders))
        for row in rows
    )
    blocks = [form.form.removeprefix("block=").replace("*", "basic") for form in paper.ORDER_FORMS]
    blocks[0] = "basic"
    return [
        Figure("forms", figure, Numbers(columns, numbers)),
        Figure("orders-after", block_diagram(blocks[:3])),
        Figure("orders-before", block_diagram(blocks[3:])),
    ]


def _draw_rows(axes: Axes, rows: Sequence[FormRow]) -> None:
    """Draw our training error as bars, our test error as dots, the paper's as diamonds."""
    positions = range(len(rows))
    axes.barh(
        positions, [row.train or 0.0 for row in rows], color=SERIES[4], alpha=0.55, height=0.62,
        label="training error here",
    )  # fmt: skip
    tested = [
        (position, row.error)
        for position, row in zip(positions, rows, strict=True)
        if row.error is not None
    ]
    axes.plot(
        [error for _, error in tested], [position for position, _ in tested], "o", color=INK, ms=5,
        label="test error here",
    )  # fmt: skip
    for position, row in zip(positions, rows, strict=True):
        if row.failed:
            axes.text(1, position, "here: failed", va="center", fontsize=9, color=SERIES[4])
    known = [
        (position, row.form.errors[110]) for position, row in zip(positions, rows, strict=True)
    ]
    axes.plot(
        [error for _, error in known if error is not None],
        [position for position, error in known if error is not None],
        "D", color=SERIES[1], ms=6, mfc="none", mew=1.6, label="paper, 110 layers, CIFAR-10",
    )  # fmt: skip
    largest = max((max(row.train or 0.0, row.error or 0.0) for row in rows), default=0.0)
    for position, error in known:
        if error is None:
            axes.text(1.02, position, "paper: fail", va="center", fontsize=9, color=SERIES[1],
                      transform=axes.get_yaxis_transform())  # fmt: skip
    cases = [row.form.case.replace(" -", " \N{MINUS SIGN}") for row in rows]
    axes.set_yticks(list(positions), cases)
    axes.set_xlim(0, 100.0 if largest > 60 else 60.0)
    axes.invert_yaxis()
    axes.grid(visible=False, axis="y")
    axes.axvline(FAILED, color=SOFT, lw=0.8, ls=":")


def _count_agreement(rows: Sequence[FormRow]) -> tuple[int, int]:
    same = count = 0
    for one, other in combinations(rows, 2):
        first, second = (_rank(row.form.errors[110]) for row in (one, other))
        ours = [_rank(None) if row.failed else row.train for row in (one, other)]
        if None in ours or first == second:
            continue
        count += 1
        same += (ours[0] < ours[1]) == (first < second)  # type: ignore[operator]
    return same, count


def _rank(error: float | None) -> float:
    return float("inf") if error is None else error


def _format_errors(model: ModelSummary | None, kind: str) -> str | None:
    split = {"validation": "val"}.get(kind, kind)
    return None if model is None else model.errors(split, "last").text


def _paper_error(form: paper.PaperForm, layers: int) -> str | float | None:
    if layers not in form.errors:
        return None
    error = form.errors[layers]
    return "fail" if error is None else error
