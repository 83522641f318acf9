"""Draws the figures of the CIFAR-10 studies and writes their results, from their committed cells.

    python docs/images/degradation.py

A study's cells are in docs/results/NAME/cells/NETWORK-seedK. Written are its report with figures
and CSV files in docs/results/NAME, its rows in docs/results/NAME.json, training errors by iteration
in NAME-curves.json, the differences with their intervals in NAME-verdict.json, and the times of all
cells in docs/results/degradation-cifar10-times.json.
"""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from resnets.config import to_toml
from resnets.models import catalog
from resnets.study.convergence_rule import compute_convergence
from resnets.study.depth.figures import plot_error_curves
from resnets.study.depth.page import write_grid_page
from resnets.study.depth.summary import ErrorCurves
from resnets.study.grid.cells import Grid, cell_recipe, write_grid
from resnets.train.log.run_log import read_rows
from resnets.utils.files.json import read_object

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import result_tables

IMAGES = Path(__file__).resolve().parent
RESULTS = IMAGES.parent / "results"
FIGURES = {
    "degradation-cifar10-16000it": "cifar10-degradation",
    "degradation-cifar10-8000it": "cifar10-degradation-8000it",
}
COLUMNS = [
    "network",
    "seed",
    "training error, last 100 iterations",
    "mean of the last 1,000 iterations",
    "validation error, last",
    "test error, last",
    "precision",
    "training error, fall over the last fifth",
]
CURVES = {"degradation-cifar10-16000it": (1, 2, 4, 6, 8, 9, 10, 12, 14, 16)}  # thousands
VERDICT_COLUMNS = [
    "networks",
    "training error of the first",
    "of the second",
    "difference of training error",
    "90% interval from",
    "to",
]
TIMES = "degradation-cifar10-times"
STEPS_PER_EPOCH = 352  # of 45,029 images
KINDS = ("train", "val", "test")
LAST = 10  # rows of training, of 100 iterations each


@dataclasses.dataclass(frozen=True)
class Cell:
    """A finished run: its metrics, precision and minutes of training."""

    folder: Path
    network: str
    seed: int
    rows: list[dict[str, Any]]
    precision: str
    minutes: float

    @property
    def iterations(self) -> int:
        """The length of the run."""
        last: int = self.rows[-1]["step"]
        return last


def read_cells(study: str) -> list[Cell]:
    """Return the finished cells by network and seed."""
    cells = []
    for folder in sorted((RESULTS / study / "cells").iterdir()):
        network, _, seed = folder.name.rpartition("-seed")
        precision = read_object(folder / "environment.json")["precision"]
        minutes = read_object(folder / "result.json")["seconds"] / 60
        cells.append(Cell(folder, network, int(seed), read_rows(folder), precision, minutes))
    return cells


def errors(rows: Iterable[dict[str, Any]], kind: str) -> dict[int, float]:
    """Return step -> top-1 error of the rows of `kind`."""
    return {row["step"]: row["top1_error"] for row in rows if row["kind"] == kind}


def table_rows(cells: Iterable[Cell]) -> list[list[str | float | None]]:
    """Return network, seed, final errors and precision of each cell, as in COLUMNS."""
    table: list[list[str | float | None]] = []
    for cell in cells:
        train, val, test = (list(errors(cell.rows, kind).values()) for kind in KINDS)
        figures = (train[-1], mean(train[-LAST:]), val[-1], test[-1])
        rounded = (round(figure, 2) for figure in figures)
        convergence = compute_convergence(cell.network, [cell.rows], classes=10)
        assert convergence is not None
        assert convergence.fall is not None
        fall = round(convergence.fall, 2)
        table.append([cell.network, cell.seed, *rounded, cell.precision, fall])
    return table


def curve_rows(cells: Iterable[Cell], thousands: Iterable[int]) -> list[list[str | float | None]]:
    """Return iteration, and the mean training error of the 1,000 before it of each cell."""
    training = [errors(cell.rows, "train") for cell in cells]
    return [
        [
            1000 * end,
            *(
                round(mean(each[step] for step in each if end - 1 < step / 1000 <= end), 2)
                for each in training
            ),
        ]
        for end in thousands
    ]


def curves(cells: Sequence[Cell], family: str, label: str) -> list[ErrorCurves]:
    """Return the curves of the networks of `family`, "plain" or "resnet", as a panel `label`."""
    found = []
    names = (cell.network for cell in cells if cell.network.startswith(f"cifar-{family}"))
    for network in dict.fromkeys(names):
        seeds = [cell.rows for cell in cells if cell.network == network]
        train, test = (
            {step: [errors(rows, kind)[step] for rows in seeds] for step in errors(seeds[0], kind)}
            for kind in ("train", "test")
        )
        spec = catalog.spec(network)
        found.append(ErrorCurves(network, label, spec.num_layers, spec.shortcut, train, test))
    return found


@contextlib.contextmanager
def reported(study: str, cells: Sequence[Cell]) -> Iterator[Path]:
    """Context with a folder in which `resnets study depth` has these cells, and its report."""
    seeds = Counter(cell.network for cell in cells)
    names = sorted(seeds, key=lambda name: (catalog.spec(name).shortcut != "none", _depth(name)))
    grid = Grid(
        models=tuple(names),
        seeds=tuple(seeds[name] for name in names),
        data="cifar10.tar.xz",
        recipe="cifar10-paper",
        budget=f"{cells[0].iterations}it",
        settings=("data.val_fraction=0.1",),
        iterations=cells[0].iterations,
        epoch=STEPS_PER_EPOCH,
    )
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made) / study
        write_grid(grid, folder)
        for cell in cells:
            run = folder / "cells" / cell.folder.name
            shutil.copytree(cell.folder, run)
            recipe = cell_recipe(grid, cell.network, cell.seed)
            (run / "recipe.toml").write_text(to_toml(recipe), encoding="utf-8")
        write_grid_page(folder)
        yield folder


def _depth(network: str) -> int:
    return catalog.spec(network).num_layers


def write_report(study: str, cells: Sequence[Cell]) -> None:
    """Write the report of all cells, with its figures and CSV files."""
    with reported(study, cells) as folder:
        for name in ("figures", "numbers"):
            shutil.rmtree(RESULTS / study / name, ignore_errors=True)
            shutil.copytree(folder / name, RESULTS / study / name)
        shutil.copy(folder / "report.html", RESULTS / study / "report.html")


def write_verdict(study: str, cells: Sequence[Cell]) -> None:
    """Write the differences between networks with several seeds, and their intervals."""
    seeds = Counter(cell.network for cell in cells)
    several = [cell for cell in cells if seeds[cell.network] > 1]
    if not several:
        return
    with reported(study, several) as folder:
        text = (folder / "numbers" / "verdict.csv").read_text(encoding="utf-8")
    found = list(csv.DictReader(text.splitlines()))
    names = ("first", "second", "difference", "low", "high")
    rows = [[row["comparison"], *(round(float(row[name]), 2) for name in names)] for row in found]
    result = dataclasses.replace(
        result_tables.load(study),
        name=f"{study}-verdict",
        command="python docs/images/degradation.py: means of three seeds, and Welch's interval",
        hardware=f"that of {study}",
        columns=VERDICT_COLUMNS,
        rows=rows,
    )
    result_tables.save(result)


def write_times(cells: Iterable[Cell]) -> None:
    """Write the minutes of training of cells."""
    rows: list[list[str | float | None]] = [
        [f"{cell.network}, {cell.iterations:,} iterations", cell.seed, round(cell.minutes, 1)]
        for cell in cells
    ]
    result = dataclasses.replace(result_tables.load(TIMES), rows=rows)
    result_tables.save(result)


def main() -> None:
    """Write the rows, the report and the figure of each study."""
    studies = {study: read_cells(study) for study in FIGURES}
    write_times(cell for cells in studies.values() for cell in cells)
    for study, cells in studies.items():
        write_report(study, cells)
        write_verdict(study, cells)
        result = result_tables.load(study)
        rows = table_rows(cells)
        result_tables.save(dataclasses.replace(result, columns=COLUMNS, rows=rows))
        if study in CURVES:
            columns = ["iterations", *(cell.network for cell in cells)]
            rows = curve_rows(cells, CURVES[study])
            result_tables.save(
                dataclasses.replace(result, name=f"{study}-curves", columns=columns, rows=rows)
            )
        panels = [*curves(cells, "plain", "plain"), *curves(cells, "resnet", "residual")]
        plot_error_curves(panels, "test").savefig(IMAGES / f"{FIGURES[study]}.png", dpi=200)


if __name__ == "__main__":
    main()
