"""Draws the figures of the CIFAR-10 studies and writes their rows, from their committed cells.

    python docs/images/degradation.py

A study's cells are in docs/results/NAME/cells/NETWORK-seedK, its rows in docs/results/NAME.json.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Iterable
from pathlib import Path
from statistics import mean
from typing import Any

from resnets.models import catalog
from resnets.study.depth.figures import plot_error_curves
from resnets.study.depth.summary import ErrorCurves
from resnets.train.log.run_log import read_rows

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import result_tables

IMAGES = Path(__file__).resolve().parent
FIGURES = {
    "degradation-cifar10-16000it": "cifar10-degradation",
    "degradation-cifar10-8000it": "cifar10-degradation-8000it",
}
Cells = dict[tuple[str, int], list[dict[str, Any]]]  # metrics by network and seed
LAST = 10  # rows of training, of 100 iterations each


def read_cells(study: str) -> Cells:
    """Return the metrics of each finished cell by network and seed."""
    cells = {}
    for folder in sorted((IMAGES.parent / "results" / study / "cells").iterdir()):
        network, _, seed = folder.name.rpartition("-seed")
        cells[network, int(seed)] = read_rows(folder)
    return cells


def errors(rows: Iterable[dict[str, Any]], kind: str) -> dict[int, float]:
    """Return step -> top-1 error of the rows of `kind`."""
    return {row["step"]: row["top1_error"] for row in rows if row["kind"] == kind}


def table_rows(cells: Cells) -> list[list[str | float | None]]:
    """Return network, seed and final errors of each cell: the columns of the study's table."""
    table: list[list[str | float | None]] = []
    for (network, seed), rows in cells.items():
        train, val, test = (list(errors(rows, kind).values()) for kind in ("train", "val", "test"))
        figures = (train[-1], mean(train[-LAST:]), val[-1], test[-1])
        table.append([network, seed, *(round(figure, 2) for figure in figures)])
    return table


def curves(cells: Cells, family: str, label: str) -> list[ErrorCurves]:
    """Return the curves of the networks of `family`, "plain" or "resnet", as a panel `label`."""
    found = []
    for network in dict.fromkeys(name for name, _ in cells if name.startswith(f"cifar-{family}")):
        seeds = [rows for (name, _), rows in cells.items() if name == network]
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
        result_tables.save(dataclasses.replace(result, rows=table_rows(cells)))
        panels = [*curves(cells, "plain", "plain"), *curves(cells, "resnet", "residual")]
        plot_error_curves(panels, "test").savefig(IMAGES / f"{name}.png", dpi=200)


if __name__ == "__main__":
    main()
