"""Repeats studies of trained networks, and replaces the rows and figures of their pages.

    python docs/images/studies.py study-effective-cifar10 ... [--data cifar10.tar.xz]

The command of docs/results/NAME.json is run; results with the same command share one run. Finished
runs in --out are kept. The sentences of the pages are checked against the rows by `make docs`.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import datetime
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from statistics import mean, median

from resnets.config import dump_json
from resnets.study.analyses.similarity import relative_distance
from resnets.utils.files.json import read_object
from resnets.utils.printable import echo

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import result_tables
from guide_runs import IMAGES

Row = list[str | float | None]

# A study's table (numbers/NAME.csv) and the figure of its page (figures/NAME.png).
STUDIES = {
    "curvature": ("eigenvalues", "curvature"),
    "effective": ("depth", "effective"),
    "identity": ("block-figures", "blocks"),
    "inference": ("heads", "inference"),
    "landscape": ("landscape-figures", "plane"),
    "responses": ("response-means", "responses"),
    "shattered": ("half", "autocorrelation"),
    "similarity": ("similarity", "within"),
    "unravelled": ("unravelled", "removed"),
}
ORIGIN = "origin.json"  # commit, hardware and date of a run, in its folder
WITHOUT_FIGURE = {
    "study-curvature-cifar10",
    "study-inference-stages",
    "study-inference-stages-cifar10",
    "study-similarity-between",
}
OTHER_FIGURES = {
    "study-effective-several-cifar10": ("effective", "study-effective-cifar10"),
    "study-unravelled-cifar10": ("removed", "study-unravelled-removed"),
    "study-unravelled-several-cifar10": ("several", "study-unravelled-several"),
    "study-unravelled-paths-cifar10": ("paths", "study-unravelled-paths"),
}


def main() -> None:
    """Repeat the results that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="+", metavar="NAME", help="results of docs/results/")
    parser.add_argument("--data", help="path of the data set that the command names")
    parser.add_argument("--out", type=Path, default=Path("runs/studies"))
    args = parser.parse_args()
    for name in args.names:
        repeat(result_tables.load(name), args.data, args.out)


def repeat(result: result_tables.Result, data: str | None, out: Path) -> None:
    """Run the study of `result` unless it is in `out`, and replace its rows and figure."""
    words = shlex.split(result.command)[2:]
    table, figure = STUDIES[words[0]]
    folder = out / "-".join(word.replace("/", "-").replace(":", "-") for word in words)
    if not (folder / ORIGIN).is_file():
        if "--data" in words and data is not None:
            words[words.index("--data") + 1] = data
        command = [sys.executable, "-m", "resnets", "study", *words, "--out", str(folder)]
        subprocess.run(command, check=True)
        origin = {
            "commit": result_tables.head_commit(),
            "hardware": result_tables.hardware(),
            "date": datetime.date.today().isoformat(),
        }
        dump_json(origin, folder / ORIGIN)
    rows = ROWS.get(result.name, table_rows)(folder / "numbers" / f"{table}.csv")
    repeated = dataclasses.replace(result, rows=rows, **read_object(folder / ORIGIN))
    echo(str(result_tables.save(repeated)))
    if result.name not in WITHOUT_FIGURE:
        figure, name = OTHER_FIGURES.get(result.name, (figure, result.name))
        shutil.copy(folder / "figures" / f"{figure}.png", IMAGES / f"{name}.png")


def table_rows(path: Path) -> list[Row]:
    """Return the rows of a CSV file of numbers and text, numbers rounded for a page."""
    with path.open(encoding="utf-8", newline="") as file:
        _, *rows = csv.reader(file)
    return [[_cell(value) for value in row] for row in rows]


def _cell(text: str) -> str | float | None:
    try:
        return int(text)
    except ValueError:
        pass
    try:
        return _rounded(float(text))
    except ValueError:
        return text or None


def _rounded(value: float) -> float:
    """Round to hundredths, and to three digits below 1."""
    return round(value, 2) if abs(value) >= 1 else float(f"{value:.3g}")


def several_rows(path: Path) -> list[Row]:
    """Return the mean errors of each model by number of blocks removed, and of pairs swapped."""
    errors: dict[tuple[str, int], dict[str, list[tuple[float, float]]]] = {}
    with (path.parent / "removed.csv").open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            if row["kind"] != "intact":
                models = errors.setdefault((row["kind"], int(row["count"])), {})
                pair = (float(row["error"]), float(row["error with recomputed statistics"]))
                models.setdefault(row["model"], []).append(pair)
    names = {"removed": "blocks removed", "swapped": "pairs swapped"}
    rows = []
    for (kind, count), models in sorted(errors.items()):
        means = [mean(each) for pairs in models.values() for each in zip(*pairs, strict=True)]
        rows.append([names[kind], count, *(round(each, 1) for each in means)])
    return rows


def path_rows(path: Path) -> list[Row]:
    """Return length, gradient, and percentages of gradient and paths of each length of paths."""
    with (path.parent / "paths.csv").open(encoding="utf-8", newline="") as file:
        rows = [{key: float(row[key]) for key in list(row)[1:]} for row in csv.DictReader(file)]
    total, paths = (sum(row[name] for row in rows) for name in ("carried", "share of paths"))
    return [
        [
            int(row["length"]),
            float(f"{row['gradient']:.2g}"),
            round(100 * row["carried"] / total, 1),
            round(100 * row["share of paths"] / paths, 1),
        ]
        for row in rows
    ]


def effective_rows(path: Path) -> list[Row]:
    """Return the error of each model by number of blocks made linear, and of blocks removed."""
    errors: dict[tuple[str, int], list[float]] = {}
    with (path.parent / "effective.csv").open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            key = (row["kind"], int(row["replaced"]))
            errors.setdefault(key, []).append(float(row["error"]))
    names = {"linear": "blocks made linear", "identity": "blocks removed"}
    return [[names[kind], count, *each] for (kind, count), each in errors.items()]


def identity_rows(path: Path) -> list[Row]:
    """Return the rows of the blocks, and the medians of those with an identity shortcut."""
    rows = table_rows(path)
    identity = [row for row in rows if row[1] == "identity"]
    size, rise = (median(float(row[column] or 0) for row in identity) for column in (2, 4))
    return [*rows, ["median of these", "identity", _rounded(size), None, _rounded(rise)]]


def inference_rows(path: Path) -> list[Row]:
    """Return of each stage and model a head's error after it, and its range of cosines."""
    found: dict[str, dict[str, list[dict[str, str]]]] = {}
    with (path.parent / "inference.csv").open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            stage = row["name"].partition(".")[0]
            found.setdefault(stage, {}).setdefault(row["model"], []).append(row)
    table: list[Row] = []
    for stage, models in found.items():
        table.append([stage])
        for blocks in models.values():
            cosines = [float(row["cosine"]) for row in blocks if row["cosine"]]
            error = float(blocks[-1]["error of a linear head (%)"])
            table[-1] += [_rounded(each) for each in (error, min(cosines), max(cosines))]
    return table


def between_rows(path: Path) -> list[Row]:
    """Return by how much the relative depths of most similar blocks of two models differ."""
    values: dict[tuple[str, str], dict[str, dict[str, float]]] = {}
    with (path.parent / "within.csv").open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            blocks = values.setdefault((row["model"], row["other model"]), {})
            blocks.setdefault(row["block"], {})[row["other block"]] = float(row["cka"])
    matrices = {
        pair: [list(row.values()) for row in rows.values()] for pair, rows in values.items()
    }
    return [
        [one, other, _rounded(relative_distance(cka))]
        for (one, other), cka in matrices.items()
        if one != other
    ]


ROWS: dict[str, Callable[[Path], list[Row]]] = {
    "study-effective-several-cifar10": effective_rows,
    "study-identity": identity_rows,
    "study-identity-cifar10": identity_rows,
    "study-inference-stages": inference_rows,
    "study-inference-stages-cifar10": inference_rows,
    "study-similarity-between": between_rows,
    "study-unravelled-several-cifar10": several_rows,
    "study-unravelled-paths-cifar10": path_rows,
}


if __name__ == "__main__":
    main()
