"""Evaluate a grid with swept fields: each network at its best value.

Degradation could come from a learning rate that is unsuitable for the depth. So a swept grid is
evaluated at the best value of each network, by the mean of its last training errors. For the
verdict, the value of each seed is the best one of the *other* seeds, so that the choice is not
biased by the seed's own errors; figures show the best value over all seeds.
"""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.patches import Rectangle

from resnets.config import Recipe
from resnets.report.figure_style import (
    CARD,
    DARK_ON_IMAGE,
    INK,
    LIGHT_ON_IMAGE,
    SERIES,
    figure_style,
    subplots,
)
from resnets.report.page import Figure, Numbers, Table
from resnets.report.render import Row
from resnets.study.depth.figures import capitalize
from resnets.study.depth.verdict import Verdict, judge_degradation
from resnets.study.grid.cells import Cell, Grid
from resnets.study.grid.model_names import field_path
from resnets.study.metric import ERROR

CELL = (0.62, 0.42)  # inches of a cell of the heat map


@dataclass(frozen=True)
class SweptNetwork:
    """One network of a swept grid: its cells by value, in the order of the sweep.

    name: without the swept fields.
    """

    name: str
    cells: dict[str, tuple[Cell, ...]]

    @property
    def errors(self) -> dict[str, float | None]:
        """Value -> mean last training error in percent; None if a run has not finished."""
        return {value: _mean_error(cells) for value, cells in self.cells.items()}

    @property
    def best(self) -> str | None:
        """The value with the lowest mean error, of those whose runs have all finished, or None."""
        known = {value: error for value, error in self.errors.items() if error is not None}
        return min(known, key=lambda value: known[value], default=None)

    @property
    def first_cell(self) -> Cell:
        """A cell of the network, for what all of them share."""
        return next(iter(self.cells.values()))[0]

    @property
    def at_edge(self) -> bool:
        """Whether the best value is the first or the last one, so a better one may lie outside."""
        return self.best in (next(iter(self.cells)), list(self.cells)[-1])

    def cells_at(self, value: str | None) -> list[Cell]:
        """Return the cells of a value, under the network's name."""
        return [_rename(cell, self.name) for cell in self.cells.get(value or "", ())]

    def cross_validated(self) -> list[Cell]:
        """Return the cell of each seed at the value that is best for the other seeds."""
        complete = {value: self.cells[value] for value, e in self.errors.items() if e is not None}
        cells_of_seeds = []
        for seed in sorted({cell.seed for cells in complete.values() for cell in cells}):
            means = {
                value: _mean_error([cell for cell in cells if len(cells) == 1 or cell.seed != seed])
                for value, cells in complete.items()
            }
            known = {value: mean for value, mean in means.items() if mean is not None}
            value = min(known, key=lambda each: known[each])
            cells_of_seeds += [
                _rename(cell, self.name) for cell in complete[value] if cell.seed == seed
            ]
        return cells_of_seeds


@dataclass(frozen=True)
class Sweep:
    """A swept grid: its networks, the swept fields, and one value to compare all of them at.

    fixed: the recipe's own value if it was swept, otherwise the middle one.
    """

    fields: str
    fixed: str
    networks: tuple[SweptNetwork, ...]

    @property
    def best(self) -> list[Cell]:
        """All cells of each network at its best value."""
        return [cell for each in self.networks for cell in each.cells_at(each.best)]

    @property
    def verdict(self) -> Verdict:
        """The verdict at the best value of each network."""
        return judge_degradation(
            [cell for each in self.networks for cell in each.cross_validated()]
        )

    @property
    def verdict_fixed(self) -> Verdict:
        """The verdict at one value for all."""
        return judge_degradation(
            [cell for each in self.networks for cell in each.cells_at(self.fixed)]
        )

    @property
    def edges(self) -> list[SweptNetwork]:
        """The networks whose best value is the first or the last one swept."""
        return [each for each in self.networks if each.best is not None and each.at_edge]


def group_sweep(grid: Grid, cells: Sequence[Cell], recipe: Recipe | None) -> Sweep:
    """Group the cells of a swept grid by network, shallow before deep within each family."""
    by_network: dict[str, dict[str, list[Cell]]] = {}
    for cell in cells:
        base, point = grid.split_swept(cell.model)
        by_network.setdefault(base, {}).setdefault(", ".join(point), []).append(cell)
    networks = [
        SweptNetwork(name, {value: tuple(each) for value, each in values.items()})
        for name, values in by_network.items()
    ]
    networks.sort(key=lambda each: _sort_key(each.first_cell))
    values = list(networks[0].cells)
    paths = [axis.partition("=")[0] for axis in grid.sweep]
    own = (
        ""
        if recipe is None
        else ", ".join(_format_field(recipe, field_path(networks[0].name, path)) for path in paths)
    )
    same = [value for value in values if _parse_numbers(value) == _parse_numbers(own)]
    fixed = same[0] if same else values[len(values) // 2]
    return Sweep(" and ".join(paths), fixed, tuple(networks))


def plot_sweep(sweep: Sweep) -> Figure:
    """Plot the last training error by network and value, a panel for each family."""
    families: dict[str, list[SweptNetwork]] = {}
    for each in sweep.networks:
        families.setdefault(each.first_cell.family, []).append(each)
    values = list(sweep.networks[0].cells)
    deepest = max(map(len, families.values()))
    panel = (1.9 + CELL[0] * len(values), 1.5 + CELL[1] * deepest)
    with figure_style():
        figure, panels = subplots(len(families), panel=(max(3.2, panel[0]), panel[1]))
        for axes, (name, networks) in zip(panels, families.items(), strict=True):
            _draw_family(axes, networks, values)
            depth = networks[0].first_cell.metric.depth.split()[-1]
            axes.set(title=capitalize(name), xlabel=sweep.fields, ylabel=depth)
    columns = ("model", "layers", sweep.fields, "seeds", "training error mean", "status")
    numbers = tuple(
        (
            each.name,
            cells[0].depth,
            value,
            len(cells),
            _mean_error(cells),
            ", ".join(sorted({cell.status for cell in cells})),
        )
        for each in sweep.networks
        for value, cells in each.cells.items()
    )
    return Figure("sweep", figure, Numbers(columns, numbers))


def _draw_family(axes: Axes, networks: Sequence[SweptNetwork], values: Sequence[str]) -> None:
    """Draw one heat map: rows from shallow to deep, the best value of each row framed."""
    grid = np.array(  # None, of runs that have not finished, becomes NaN
        [[each.errors.get(value) for value in values] for each in networks], dtype=float
    )
    colors = LinearSegmentedColormap.from_list("errors", [CARD, SERIES[0], SERIES[3]])
    top = 100.0 if networks[0].first_cell.metric is ERROR else np.nanmax(grid)
    axes.imshow(grid, cmap=colors, vmin=0, vmax=top, aspect="auto")
    for row, each in enumerate(networks):
        for column, value in enumerate(values):
            error = each.errors.get(value)
            cells = each.cells.get(value, ())
            failed = any(cell.status == "failed" for cell in cells)
            text = ("×" if failed else "–") if error is None else f"{error:.1f}"
            color = INK  # over the card: a cell without a value is transparent
            if error is not None:
                color = LIGHT_ON_IMAGE if error > 0.45 * top else DARK_ON_IMAGE
            axes.text(column, row, text, ha="center", va="center", fontsize=9, color=color)
            if value == each.best:
                frame = Rectangle((column - 0.47, row - 0.45), 0.94, 0.9, fill=False, lw=2)
                frame.set_edgecolor(DARK_ON_IMAGE)
                axes.add_patch(frame)
    axes.set_xticks(range(len(values)), values)
    depths = [each.first_cell.depth for each in networks]
    axes.set_yticks(range(len(networks)), [str(depth) for depth in depths])
    axes.grid(visible=False)


def sweep_table(sweep: Sweep) -> Table:
    """Tabulate each network at its best value and at the fixed one."""
    rows: list[Row] = []
    for each in sweep.networks:
        best = [_last_error(cell) for cell in each.cells_at(each.best)]
        cross_validated = [_last_error(cell) for cell in each.cross_validated()]
        rows.append(
            (
                each.name,
                each.first_cell.depth,
                each.best,
                statistics.fmean(best) if best else None,
                statistics.stdev(best) if len(best) > 1 else None,
                statistics.fmean(cross_validated) if cross_validated else None,
                each.errors.get(sweep.fixed),
                "yes" if each.best is not None and each.at_edge else "no",
            )
        )
    columns = (
        "model",
        "layers",
        f"best {sweep.fields}",
        "training error there",
        "standard deviation",
        "chosen by other seeds",
        f"training error at {sweep.fixed}",
        "best at the edge",
    )
    return Table("sweep-best", columns, tuple(rows))


def _mean_error(cells: Sequence[Cell]) -> float | None:
    """Return the mean last training error of cells; None unless all have finished."""
    rows = [(cell, cell.last("train")) for cell in cells if cell.status == "done"]
    if not cells or len(rows) < len(cells) or any(row is None for _, row in rows):
        return None
    return statistics.fmean(cell.metric.of(row) for cell, row in rows if row is not None)


def _last_error(cell: Cell) -> float:
    row = cell.last("train")
    assert row is not None  # of a value whose runs have all finished
    return cell.metric.of(row)


def _rename(cell: Cell, model: str) -> Cell:
    return dataclasses.replace(cell, model=model)


def _sort_key(cell: Cell) -> tuple[bool, bool, str, int, str]:
    own = cell.family not in ("plain", "residual")
    return cell.kind != "plain", own, cell.family, cell.depth, cell.model


def _format_field(recipe: Recipe, path: str) -> str:
    node: object = recipe
    for part in path.split("."):
        node = getattr(node, part)
    return str(node)


def _parse_numbers(text: str) -> list[float | str]:
    """Return the values of a point of the sweep, numbers as such, so that 0 is 0.0."""
    return [_parse_number(word) for word in text.split(", ")]


def _parse_number(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text
