"""A grid with swept fields: each network at the value that trains it best.

"Degradation" could be a learning rate that does not suit the depth. So a swept grid is judged at
the best value of each network, by the mean of its last training errors. For the verdict, the value
of each seed is the one that the *other* seeds choose, so that the choice cannot flatter a network
with its own luck; figures show the value that all seeds choose together.
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
from resnets.report.figures import CARD, INK, SERIES, figure_style, subplots
from resnets.report.page import Figure, Numbers, Table
from resnets.report.render import Row
from resnets.study.depth.verdict import Verdict, degradation
from resnets.study.grid.cells import Cell, Grid
from resnets.study.metric import ERROR

CELL = (0.62, 0.42)  # inches of a cell of the heat map
MAX_COLUMNS = 2


@dataclass(frozen=True)
class Swept:
    """One network of a swept grid: its cells by value, in the order of the sweep.

    name: without the swept fields. best: the value with the lowest mean of the last training
    errors, of those whose runs have all finished; None without any.
    """

    name: str
    cells: dict[str, tuple[Cell, ...]]

    @property
    def errors(self) -> dict[str, float | None]:
        """Value -> mean last training error in percent; None where a run has not finished."""
        return {value: _mean(cells) for value, cells in self.cells.items()}

    @property
    def best(self) -> str | None:
        """See the class."""
        known = {value: error for value, error in self.errors.items() if error is not None}
        return min(known, key=lambda value: known[value], default=None)

    @property
    def at_edge(self) -> bool:
        """Whether the best value is the first or the last: a better one may lie outside."""
        return self.best in (next(iter(self.cells)), list(self.cells)[-1])

    def at(self, value: str | None) -> list[Cell]:
        """The cells of a value, under the network's name."""
        return [_renamed(cell, self.name) for cell in self.cells.get(value or "", ())]

    def chosen_by_others(self) -> list[Cell]:
        """The cell of each seed at the value that is best for the other seeds."""
        complete = {value: self.cells[value] for value, e in self.errors.items() if e is not None}
        chosen = []
        for seed in sorted({cell.seed for cells in complete.values() for cell in cells}):
            means = {
                value: _mean([cell for cell in cells if len(cells) == 1 or cell.seed != seed])
                for value, cells in complete.items()
            }
            known = {value: mean for value, mean in means.items() if mean is not None}
            value = min(known, key=lambda each: known[each])
            chosen += [_renamed(cell, self.name) for cell in complete[value] if cell.seed == seed]
        return chosen


@dataclass(frozen=True)
class Sweep:
    """A swept grid: its networks, the swept fields, and the value that all of them are held to.

    fixed: the recipe's own value if it was swept, otherwise the middle one.
    """

    fields: str
    fixed: str
    networks: tuple[Swept, ...]

    @property
    def best(self) -> list[Cell]:
        """All cells of each network at its best value."""
        return [cell for each in self.networks for cell in each.at(each.best)]

    @property
    def verdict(self) -> Verdict:
        """The verdict at the best value of each network."""
        return degradation([cell for each in self.networks for cell in each.chosen_by_others()])

    @property
    def verdict_fixed(self) -> Verdict:
        """The verdict at one value for all."""
        return degradation([cell for each in self.networks for cell in each.at(self.fixed)])

    @property
    def edges(self) -> list[Swept]:
        """The networks whose best value is the first or the last one swept."""
        return [each for each in self.networks if each.best is not None and each.at_edge]


def sweep(grid: Grid, cells: Sequence[Cell], recipe: Recipe | None) -> Sweep:
    """The networks of a swept grid, shallow before deep within each family."""
    found: dict[str, dict[str, list[Cell]]] = {}
    for cell in cells:
        base, point = grid.swept(cell.model)
        found.setdefault(base, {}).setdefault(", ".join(point), []).append(cell)
    networks = [
        Swept(name, {value: tuple(each) for value, each in values.items()})
        for name, values in found.items()
    ]
    networks.sort(key=lambda each: _order(next(iter(each.cells.values()))[0]))
    values = list(networks[0].cells)
    paths = [axis.partition("=")[0] for axis in grid.sweep]
    own = "" if recipe is None else ", ".join(_value(recipe, path) for path in paths)
    same = [value for value in values if _number(value) == _number(own)]
    fixed = same[0] if same else values[len(values) // 2]
    return Sweep(" and ".join(paths), fixed, tuple(networks))


def sweep_figure(found: Sweep) -> Figure:
    """Last training error by network and value, a panel for each family."""
    families: dict[str, list[Swept]] = {}
    for each in found.networks:
        families.setdefault(next(iter(each.cells.values()))[0].family, []).append(each)
    columns = min(MAX_COLUMNS, len(families))
    rows = -(-len(families) // columns)
    values = list(found.networks[0].cells)
    deepest = max(map(len, families.values()))
    panel = (1.9 + CELL[0] * len(values), 1.5 + CELL[1] * deepest)
    with figure_style():
        figure, panels = subplots(rows, columns, panel=(max(3.2, panel[0]), panel[1]))
        for axes, (name, networks) in zip(panels, families.items(), strict=False):
            _draw_family(axes, networks, values)
            depth = next(iter(networks[0].cells.values()))[0].metric.depth.split()[-1]
            axes.set(title=f"{name[:1].upper()}{name[1:]}", xlabel=found.fields, ylabel=depth)
        for axes in panels[len(families) :]:
            axes.set_visible(False)
    columns_csv = ("model", "layers", found.fields, "seeds", "training error mean", "status")
    numbers = tuple(
        (
            each.name,
            cells[0].depth,
            value,
            len(cells),
            _mean(cells),
            ", ".join(sorted({cell.status for cell in cells})),
        )
        for each in found.networks
        for value, cells in each.cells.items()
    )
    return Figure("sweep", figure, Numbers(columns_csv, numbers))


def _draw_family(axes: Axes, networks: Sequence[Swept], values: Sequence[str]) -> None:
    """One heat map: rows from shallow to deep, the best value of each row framed."""
    grid = np.array(
        [[_or_nan(each.errors.get(value)) for value in values] for each in networks], dtype=float
    )
    colors = LinearSegmentedColormap.from_list("errors", [CARD, SERIES[0], SERIES[3]])
    top = 100.0 if next(iter(networks[0].cells.values()))[0].metric is ERROR else np.nanmax(grid)
    axes.imshow(grid, cmap=colors, vmin=0, vmax=top, aspect="auto")
    for row, each in enumerate(networks):
        for column, value in enumerate(values):
            error = each.errors.get(value)
            cells = each.cells.get(value, ())
            failed = any(cell.status == "failed" for cell in cells)
            text = ("×" if failed else "–") if error is None else f"{error:.1f}"
            color = CARD if error is not None and error > 0.45 * top else INK
            axes.text(column, row, text, ha="center", va="center", fontsize=9, color=color)
            if value == each.best:
                frame = Rectangle((column - 0.47, row - 0.45), 0.94, 0.9, fill=False, lw=2)
                frame.set_edgecolor(INK)
                axes.add_patch(frame)
    axes.set_xticks(range(len(values)), values)
    depths = [next(iter(each.cells.values()))[0].depth for each in networks]
    axes.set_yticks(range(len(networks)), [str(depth) for depth in depths])
    axes.grid(visible=False)


def sweep_table(found: Sweep) -> Table:
    """Each network at its best value and at the fixed one."""
    rows: list[Row] = []
    for each in found.networks:
        best = [_last(cell) for cell in each.at(each.best)]
        chosen = [_last(cell) for cell in each.chosen_by_others()]
        rows.append(
            (
                *(each.name, next(iter(each.cells.values()))[0].depth, each.best),
                statistics.fmean(best) if best else None,
                statistics.stdev(best) if len(best) > 1 else None,
                statistics.fmean(chosen) if chosen else None,
                each.errors.get(found.fixed),
                "yes" if each.best is not None and each.at_edge else "no",
            )
        )
    columns = (
        *("Model", "Layers", f"Best {found.fields}", "Training error there"),
        *("Standard deviation", "Chosen by other seeds", f"Training error at {found.fixed}"),
        "Best at the edge",
    )
    return Table("sweep-best", columns, tuple(rows))


def _mean(cells: Sequence[Cell]) -> float | None:
    """Mean last training error of cells that have all finished."""
    rows = [(cell, cell.last("train")) for cell in cells if cell.status == "done"]
    if not cells or len(rows) < len(cells) or any(row is None for _, row in rows):
        return None
    return statistics.fmean(cell.metric.of(row) for cell, row in rows if row is not None)


def _last(cell: Cell) -> float:
    row = cell.last("train")
    assert row is not None  # of a value whose runs have all finished
    return cell.metric.of(row)


def _renamed(cell: Cell, model: str) -> Cell:
    return dataclasses.replace(cell, model=model)


def _order(cell: Cell) -> tuple[bool, bool, str, int, str]:
    own = cell.family not in ("plain", "residual")
    return cell.kind != "plain", own, cell.family, cell.depth, cell.model


def _value(recipe: Recipe, path: str) -> str:
    node: object = recipe
    for part in (path if "." in path else f"model.{path}").split("."):
        node = getattr(node, part)
    return str(node)


def _number(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text


def _or_nan(value: float | None) -> float:
    return float("nan") if value is None else value
