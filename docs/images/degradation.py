"""Draws the figures of the CIFAR-10 studies and writes their rows, from their committed cells.

    python docs/images/degradation.py

A study's cells are in docs/results/NAME/cells/NETWORK-seedK, its rows in docs/results/NAME.json,
and training errors by iteration in docs/results/NAME-curves.json.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from resnets.models import catalog
from resnets.study.convergence_rule import compute_convergence
from resnets.study.depth.figures import plot_error_curves
from resnets.study.depth.summary import ErrorCurves
from resnets.train.log.run_log import read_rows
from resnets.utils.files.json import read_object

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import result_tables

IMAGES = Path(__file__).resolve().parent
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
KINDS = ("train", "val", "test")
LAST = 10  # rows of training, of 100 iterations each


@dataclasses.dataclass(frozen=True)
class Cell:
    """A finished run: its metrics, and the precision that its machine trained in."""

    network: str
    seed: int
    rows: list[dict[str, Any]]
    precision: str


def read_cells(study: str) -> list[Cell]:
    """Return the finished cells by network and seed."""
    cells = []
    for folder in sorted((IMAGES.parent / "results" / study / "cells").iterdir()):
        network, _, seed = folder.name.rpartition("-seed")
        precision = read_object(folder / "environment.json")["precision"]
        cells.append(Cell(network, int(seed), read_rows(folder), precision))
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


def main() -> None:
    """Write the rows and the figure of each study."""
    for study, name in FIGURES.items():
        cells = read_cells(study)
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
        plot_error_curves(panels, "test").savefig(IMAGES / f"{name}.png", dpi=200)


if __name__ == "__main__":
    main()
