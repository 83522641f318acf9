"""Repeats studies of depth of the embedded data, and replaces rows and figures of their pages.

    python docs/images/depth_studies.py quick|text [--jobs 1] [--out runs/studies]

quick: docs/results/degradation-digits.json. text: text-depth.json, text-depth-verdict.json and
text-depth-networks.json, with two figures. A finished study in --out is kept.
"""

from __future__ import annotations

import argparse
import csv
import datetime
import shutil
import subprocess
import sys
from pathlib import Path

from resnets.config import dump_json
from resnets.study.convergence_rule import compute_convergence
from resnets.study.metric import BITS
from resnets.train.log.run_log import read_rows
from resnets.utils.files.json import read_object
from resnets.utils.printable import echo

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import result_tables
from guide_runs import IMAGES

Row = list[str | float | None]
ORIGIN = "origin.json"  # commit, hardware and date of a run, in its folder
FIGURES = {"error-against-depth": "study-text", "stream-norms": "study-text-norms"}
VERDICT = ["networks", "first", "second", "difference", "90% interval from", "to"]


def main() -> None:
    """Repeat the study that the command line names."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("preset", choices=["quick", "text"])
    parser.add_argument("--jobs", default="1")
    parser.add_argument("--out", type=Path, default=Path("runs/studies"))
    options = parser.parse_args()
    folder = options.out / f"depth-{options.preset}"
    words = ["study", "depth", "--preset", options.preset]
    if not (folder / ORIGIN).is_file():
        command = [sys.executable, "-m", "resnets", *words, "--jobs", options.jobs]
        subprocess.run([*command, "--out", str(folder)], check=True)
        origin = {
            "commit": result_tables.head_commit(),
            "hardware": result_tables.hardware(),
            "date": datetime.date.today().isoformat(),
        }
        dump_json(origin, folder / ORIGIN)
    command_line = " ".join(["resnets", *words])
    tables = text_tables(folder) if options.preset == "text" else quick_tables(folder)
    for name, (columns, rows) in tables.items():
        result = result_tables.Result(
            name=name, command=command_line, columns=columns, rows=rows,
            **read_object(folder / ORIGIN),
        )  # fmt: skip
        echo(str(result_tables.save(result)))
    if options.preset == "text":
        for figure, name in FIGURES.items():
            shutil.copy(folder / "figures" / f"{figure}.png", IMAGES / f"{name}.png")


def read_numbers(folder: Path, name: str) -> list[dict[str, str]]:
    """Return the rows of a CSV file of a study."""
    with (folder / "numbers" / f"{name}.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def verdict_rows(folder: Path) -> list[Row]:
    """Return each comparison with its interval, as in VERDICT."""
    columns = ("first", "second", "difference", "low", "high")
    return [
        [row["comparison"], *(round(float(row[column]), 2) for column in columns)]
        for row in read_numbers(folder, "verdict")
    ]


def quick_tables(folder: Path) -> dict[str, tuple[list[str], list[Row]]]:
    """Return columns and rows of each result of the digits."""
    return {"degradation-digits": (VERDICT, verdict_rows(folder))}


def text_tables(folder: Path) -> dict[str, tuple[list[str], list[Row]]]:
    """Return columns and rows of each result of text."""
    errors = {row["model"]: row for row in read_numbers(folder, "errors")}
    parameters = {
        row["model"]: int(row["parameters"]) for row in read_numbers(folder, "models-compared")
    }
    depths: list[Row] = []
    for name, row in errors.items():
        if name.startswith("plain-"):
            residual = errors[name.removeprefix("plain-")]
            losses = [
                _spread(each, part) for each in (row, residual) for part in ("training", "test")
            ]
            depths.append([int(row["layers"]), f"{parameters[residual['model']]:,}", *losses])
    kinds = ("plain, training", "plain, test", "residual, training", "residual, test")
    networks = ["network", *(f"training, seed {seed}" for seed in range(3))]
    networks += ["fall over the last fifth", "stream: embedding", "after the first block"]
    networks += ["smallest after it", "largest after it"]
    return {
        "text-depth": (["blocks", "parameters", *kinds], depths),
        "text-depth-verdict": (VERDICT, verdict_rows(folder)),
        "text-depth-networks": (networks, network_rows(folder)),
    }


def network_rows(folder: Path) -> list[Row]:
    """Return of each network its losses, whether they still fell, and the RMS of its stream."""
    runs = read_numbers(folder, "runs")
    norms = read_numbers(folder, "stream-norms")
    table: list[Row] = []
    for model in dict.fromkeys(row["model"] for row in runs):
        own = [row for row in runs if row["model"] == model]
        rows = [read_rows(folder / row["run folder"]) for row in own]
        convergence = compute_convergence(model, rows, classes=2, metric=BITS)
        assert convergence is not None
        assert convergence.fall is not None
        stream = [float(row["root mean square"]) for row in norms if row["model"] == model]
        figures = (*stream[:2], min(stream[1:]), max(stream[1:]))
        losses = [round(float(row["training last"]), 2) for row in own]
        rounded = [float(f"{figure:.3g}") for figure in figures]
        table.append([model, *losses, round(convergence.fall, 2), *rounded])
    return table


def _spread(row: dict[str, str], part: str) -> str:
    """Format mean and standard deviation of the last losses: "3.21 ± 0.03"."""
    mean, deviation = (float(row[f"{part} last {kind}"]) for kind in ("mean", "standard deviation"))
    return f"{mean:.2f} ± {deviation:.2f}"


if __name__ == "__main__":
    main()
