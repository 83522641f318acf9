"""Tables and figures of the guides on labels, label errors and data.

    python docs/images/trust.py multilabel RUNS --data SETS
    python docs/images/trust.py label-errors FOLDS --data SETS
    python docs/images/trust.py learning-curve CURVES

The folders hold what the commands in docs/results/ wrote, for each of three seeds. SETS holds the
sets of benchmarks/made_sets.py.
"""

from __future__ import annotations

import argparse
import csv
import json
import statistics
import sys
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

import resnets
from resnets.evaluate.measure import Measurement
from resnets.evaluate.metrics.multilabel import MultilabelEvaluation
from resnets.report.figure_style import INK, SERIES, SOFT, figure_style
from resnets.study.data_curve import extrapolate

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from result_tables import record

IMAGES = Path(__file__).resolve().parent
SEEDS = (0, 1, 2)
BEFORE, AFTER = SERIES[0], SERIES[3]


def spread(values: Iterable[float], digits: int = 1, unit: str = "%") -> str:
    """Format mean and standard deviation: "61.8% ± 0.4"."""
    numbers = list(values)
    mean = f"{statistics.fmean(numbers):.{digits}f}{unit}"
    return mean if len(numbers) < 2 else f"{mean} ± {statistics.stdev(numbers):.{digits}f}"


def finished(folder: Path, name: str) -> list[int]:
    """Return the seeds of which `folder` has `name`, with SEED in it."""
    return [seed for seed in SEEDS if (folder / name.replace("SEED", str(seed))).exists()]


def save(plot: Figure, name: str) -> None:
    """Write docs/images/NAME.png."""
    plot.savefig(IMAGES / f"{name}.png", dpi=120)


def result(run: Path) -> dict[str, Any]:
    """Return result.json of a run."""
    found: dict[str, Any] = json.loads((run / "result.json").read_text(encoding="utf-8"))
    return found


def show_image(axes: Axes, file: Path, title: str, color: str = INK) -> None:
    """Draw an image with its title and without axes."""
    axes.imshow(np.asarray(Image.open(file).convert("RGB")), interpolation="nearest")
    axes.set_title(title, fontsize=7, fontweight="normal", loc="center", color=color)
    axes.set_axis_off()


# Several labels per image


def measure_labels(run: Path, threshold: float | None) -> MultilabelEvaluation:
    """Evaluate a run at its own thresholds, or at one for all labels."""
    model = resnets.load(run)
    if threshold is not None:
        every = (threshold,) * len(model.classes)
        model.postprocess = replace(model.postprocess, thresholds=every)
    found = resnets.evaluate(model, quiet=True)
    assert isinstance(found, Measurement)
    assert isinstance(found.evaluation, MultilabelEvaluation)
    return found.evaluation


def multilabel(runs: Path, sets: Path) -> None:
    """F1 at 0.5 and at the thresholds from validation; images with their predictions."""
    own, half = (
        [measure_labels(runs / f"pairs{seed}", threshold) for seed in SEEDS]
        for threshold in (None, 0.5)
    )
    rows = [
        [name, *(spread(getattr(each, key) for each in found) for key in METRICS)]
        for name, found in (("0.5 for every label", half), ("chosen on validation", own))
    ]
    command = (
        "python benchmarks/made_sets.py pairs cifar10 pairsSEED --images 4000 --seed SEED; resnets"
        " train cifar10-fast --data pairsSEED/labels.csv --epochs 12 --seed SEED --set"
        " data.val_fraction=0.1; python docs/images/trust.py multilabel runs"
    )
    record("multilabel", command, ["thresholds", "mAP", "macro F1", "micro F1"], rows)
    with (sets / "pairs0" / "labels.csv").open(newline="") as file:
        truth = {row["path"]: row["label"] for row in csv.DictReader(file)}
    paths = [path for path in truth if path.startswith("test/")][:8]
    found = resnets.predict(
        runs / "pairs0", [str(sets / "pairs0" / path) for path in paths], quiet=True
    )
    with figure_style():
        plot = Figure(figsize=(8.6, 3.6))
        left, right = plot.subfigures(1, 2, width_ratios=(1.25, 1))
        for axes, path, each in zip(left.subplots(2, 4).flat, paths, found, strict=True):
            given, said = set(truth[path].split(";")), set(each.labels or ())
            title = "\n".join(f"{'+' if name in given else '−'} {name}" for name in sorted(said))
            missed = "\n".join(f"(missed {name})" for name in sorted(given - said))
            show_image(axes, sets / "pairs0" / path, f"{title}\n{missed}".strip())
        axes = right.subplots()
        names = [row.name for row in own[0].per_class]
        for place, (label, found_at) in enumerate((("0.5", half), ("from validation", own))):
            f1 = [
                statistics.fmean(each.per_class[k].f1 or 0 for each in found_at)
                for k in range(len(names))
            ]
            ys = np.arange(len(names)) + (0.2 if place else -0.2)
            axes.barh(ys, np.array(f1) * 100, 0.38, color=(BEFORE, AFTER)[place], label=label)
        axes.set_yticks(range(len(names)), names)
        axes.invert_yaxis()
        axes.set(xlabel="F1 on test images (%)", title="threshold")
        right.legend(loc="outside upper right", ncols=2, fontsize=8)
        save(plot, "multilabel")


METRICS = ("mAP", "macro_f1", "micro_f1")


# Label errors


def read_column(path: Path, name: str) -> dict[str, str]:
    """Return a column of a CSV file by `path`, in the order of the file."""
    with path.open(newline="") as file:
        return {row["path"]: row[name] for row in csv.DictReader(file)}


def label_errors(folds: Path, sets: Path) -> None:
    """Precision and recall of planted label errors; the first ones that were found."""
    rows: list[list[Any]] = []
    curves = {}
    for kind, title in (("digits", "digits, 1,797"), ("new", "CIFAR-10, 6,000")):
        scores = []
        seeds = finished(folds, f"folds-{kind}SEED/corrections.csv")
        for seed in seeds:
            folder = folds / f"folds-{kind}{seed}"
            planted = read_column(sets / f"wrong-{kind}{seed}" / "planted.csv", "true")
            named = read_column(folder / "corrections.csv", "correction")
            hits = np.array([path in planted for path in named])
            right = np.mean([named[path] == planted[path] for path in named if path in planted])
            errors = [
                result(cell.parent)["test"]["top1_error"]
                for cell in sorted(folder.glob("cells/*/result.json"))
            ]
            scores.append(
                (
                    statistics.fmean(errors),
                    len(planted),
                    len(named),
                    100 * hits.mean(),
                    100 * hits.sum() / len(planted),
                    100 * right,
                )
            )
            curves[kind, seed] = (hits, len(planted))
        columns = list(zip(*scores, strict=True))
        rows.append(
            [
                title,
                len(seeds),
                spread(columns[0]),
                round(statistics.fmean(columns[1])),
                spread(columns[2], 0, ""),
                *(spread(values) for values in columns[3:]),
            ]
        )
    command = (
        "python benchmarks/made_sets.py wrong-labels SOURCE wrong-KIND --images N --seed SEED, then"
        " resnets folds wrong-KIND/set with --recipe digits --k 5 --budget 10ep --set data.size=16"
        " (digits) or --recipe cifar10-fast --k 3 --budget 3ep --set"
        " weights=resnets:cifar10/cifar-resnet20 --set optim.lr=0.02 --set data.grow_from=none"
        " --set ema_decay=0 --set seed=SEED (CIFAR-10), both with --set data.split_seed=SEED;"
        " python docs/images/trust.py label-errors folds --data sets"
    )
    titles = ["images", "seeds", "error over the folds", "planted", "named", "precision", "recall"]
    record("label-errors", command, [*titles, "true class named"], rows)
    planted = read_column(sets / "wrong-new0" / "planted.csv", "true")
    named = read_column(folds / "folds-new0" / "corrections.csv", "correction")
    with figure_style():
        plot = Figure(figsize=(8.6, 3.9))
        left, right = plot.subfigures(1, 2, width_ratios=(1.45, 1))
        labels = read_column(folds / "folds-new0" / "corrections.csv", "label")
        for axes, (path, guess) in zip(left.subplots(3, 5).flat, named.items(), strict=False):
            color = SERIES[4] if path in planted else SERIES[1]
            file = sets / "wrong-new0" / "set" / path
            show_image(axes, file, f"{labels[path]}\n→ {guess}", color)
        left.suptitle("labels found first: planted, not planted (red)", fontsize=9)
        axes = right.subplots()
        for (kind, seed), (hits, total) in curves.items():
            found = np.cumsum(hits)
            axes.plot(
                100 * found / total,
                100 * found / np.arange(1, len(hits) + 1),
                color=AFTER if kind == "digits" else BEFORE,
                label=None if seed else {"digits": "digits", "new": "CIFAR-10"}[kind],
            )
        axes.set(xlabel="recall (%)", ylabel="precision (%)", xlim=(0, 101), ylim=(0, 103))
        axes.legend(loc="lower left")
        save(plot, "label-errors")


# Distillation


def learning_curve(curves: Path, _: Path) -> None:
    """Errors of subsets, and what the smaller ones said of the larger ones."""
    rows: list[list[Any]] = []
    with figure_style():
        plot = Figure(figsize=(8.6, 3.2))
        seeds = finished(curves, "curveSEED/report.html")
        panels = plot.subplots(1, len(seeds), sharey=True, squeeze=False)[0]
        for seed, axes in zip(seeds, panels, strict=True):
            finished_cells = (curves / f"curve{seed}").glob("cells/*/result.json")
            cells = [result(cell.parent) for cell in finished_cells]
            points = sorted(
                (each["splits"]["images"]["train"], each["test"]["top1_error"]) for each in cells
            )
            images, errors = zip(*points, strict=True)
            tested = cells[0]["test"]["examples"]
            known = len(points) - 2
            law, expected = extrapolate(images[:known], errors[:known], tested)
            rows += [
                [
                    seed,
                    f"{images[known - 1]:,}",
                    f"{images[known + k]:,}",
                    f"{each.error:.2f}% ({each.low:.2f} to {each.high:.2f})",
                    f"{errors[known + k]:.2f}%",
                    "yes" if each.low <= errors[known + k] <= each.high else "no",
                ]
                for k, each in enumerate(expected)
            ]
            counts = np.geomspace(images[0], images[-1], 100)
            axes.plot(counts, [law(count) for count in counts], "--", color=SOFT, lw=1)
            below = [max(0.0, each.error - each.low) for each in expected]
            above = [max(0.0, each.high - each.error) for each in expected]
            axes.errorbar(
                images[known:], [each.error for each in expected], yerr=[below, above],
                fmt="s", color=BEFORE, ms=4, capsize=3, label="extrapolated, 90%",
            )  # fmt: skip
            axes.plot(images[:known], errors[:known], "o", color=AFTER, label="fitted")
            axes.plot(
                images[known:], errors[known:], "o", mfc="white", color=AFTER, label="measured"
            )
            axes.set(xscale="log", xlabel="training images", title=f"seed {seed}")
            axes.set_xticks([25, 50, 100, 200, 400, 800], [25, 50, 100, 200, 400, 800])
            axes.set_xticks([], minor=True)
        panels[0].set_ylabel("test error (%)")
        panels[-1].legend(fontsize=8)
        save(plot, "learning-curve")
    command = (
        "resnets study data --data digits --recipe digits --model cifar-resnet8 --subsets 6"
        " --budget 300it --set data.test_fraction=0.5 --set data.split_seed=SEED --set seed=SEED;"
        " python docs/images/trust.py learning-curve curves"
    )
    columns = ["seed", "fitted up to", "images", "extrapolated (90%)", "measured", "inside"]
    record("learning-curve", command, columns, rows)


KINDS = {
    "multilabel": multilabel,
    "label-errors": label_errors,
    "learning-curve": learning_curve,
}


def main() -> None:
    """Write table and figure of a guide."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("kind", choices=KINDS)
    parser.add_argument("runs", type=Path)
    parser.add_argument("--data", type=Path, default=Path(), help="folder of the sets")
    args = parser.parse_args()
    KINDS[args.kind](args.runs, args.data)


if __name__ == "__main__":
    main()
