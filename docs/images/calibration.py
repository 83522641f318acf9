"""Tables and figure of the guide on calibration and unknown images.

    python docs/images/calibration.py FEATURES

FEATURES holds the files of benchmarks/unknown.py, for each of three seeds.
"""

from __future__ import annotations

import statistics
import sys
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy.special import softmax

from resnets.evaluate.metrics.multiclass import calibration_error, equal_mass_error
from resnets.report.figure_style import SOFT, figure_style

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import unknown
from result_tables import record
from trust import AFTER, BEFORE, save, spread


def at_temperature(arrays: dict[str, Any], temperature: float) -> tuple[Any, Any, float]:
    """Return confidences and hits of the test images, and their loss in nats."""
    logits = (arrays["test"] @ arrays["weight"].T + arrays["bias"]) / temperature
    scores = softmax(logits, 1)
    labels = arrays["test_labels"]
    loss = -np.log(scores[np.arange(len(labels)), labels]).mean()
    return scores.max(1), scores.argmax(1) == labels, float(loss)


def draw_reliability(axes: Axes, confidence: Any, hits: Any, color: str, label: str) -> None:
    """Draw the share of correct predictions against the confidence, in ten equal-mass bins."""
    bins = np.array_split(np.argsort(confidence), 10)
    axes.plot(
        [confidence[each].mean() for each in bins],
        [hits[each].mean() for each in bins],
        "o-", ms=3, lw=1, color=color, label=label,
    )  # fmt: skip


def calibration(features: Path) -> None:
    """Errors before and after the temperature, and scores of unknown images."""
    rows: list[list[Any]] = []
    for name, title in NETWORKS.items():
        values = []
        for path in sorted(features.glob(f"runs-{name}[0-9]-*.npz")):
            arrays = dict(np.load(path))
            temperature = float(arrays["temperature"])
            (before, hits, loss), (after, _, loss_after) = (
                at_temperature(arrays, each) for each in (1.0, temperature)
            )
            values.append(
                (
                    100 * (1 - hits.mean()),
                    temperature,
                    *(calibration_error(each, hits) for each in (before, after)),
                    *(equal_mass_error(each, hits) for each in (before, after)),
                    loss,
                    loss_after,
                )
            )
        if not values:
            continue
        errors, temperatures, *others = zip(*values, strict=True)
        cells = [spread(temperatures, 2, ""), *(spread(each, 3, "") for each in others)]
        rows.append([title, len(values), spread(errors), *cells])
    columns = ["temperature", "ECE", "ECE at T", "equal mass", "equal mass at T", "loss"]
    record(
        "calibration",
        f"{RUNS}; {FIGURES}",
        ["network", "seeds", "test error", *columns, "loss at T"],
        rows,
    )
    groups = {
        **{
            title: sorted(features.glob(f"runs-{name}[0-9]-*.npz"))
            for name, title in NETWORKS.items()
        },
        **{
            title: sorted(features.glob(f"resnets-cifar10-*-{name}.npz"))
            for name, title in FOREIGN.items()
        },
    }
    found = {
        title: [unknown.compare(dict(np.load(path))) for path in paths]
        for title, paths in groups.items()
        if paths
    }
    rows = [
        [name, *(spread((each[name][0] for each in pairs), 3, "") for pairs in found.values())]
        for name in unknown.SCORES
    ]
    rows.sort(key=lambda row: -statistics.fmean(float(cell.split()[0]) for cell in row[1:]))
    rows.append(
        ["accepted at 95% recall, energy"]
        + [spread(100 * each["energy"][1] for each in pairs) for pairs in found.values()]
    )
    record("unknown", f"{RUNS}; {UNKNOWN}; {FIGURES}", ["score", *found], rows)
    arrays = dict(np.load(next(iter(groups.values()))[0]))
    with figure_style():
        plot = Figure(figsize=(8.6, 3.2))
        left, right = plot.subplots(1, 2)
        for value, color, label in (
            (1.0, BEFORE, "before"),
            (float(arrays["temperature"]), AFTER, f"T = {float(arrays['temperature']):.2f}"),
        ):
            confidence, hits, _ = at_temperature(arrays, value)
            draw_reliability(left, confidence, hits, color, label)
        left.plot((0, 1), (0, 1), color=SOFT, lw=1, ls="--")
        left.set(xlabel="predicted probability", ylabel="share correct", title="calibration")
        left.legend(loc="upper left")
        fit = unknown.Fitted(arrays)
        known, others = (
            unknown.SCORES["energy"](fit, arrays[name]) for name in ("test", "unknown")
        )
        edges = np.linspace(min(known.min(), others.min()), max(known.max(), others.max()), 40)
        for values, color, label in (
            (known, AFTER, "images of the classes"),
            (others, BEFORE, "images of two other classes"),
        ):
            right.hist(
                values, edges, density=True, histtype="step", lw=1.5, color=color, label=label
            )
        right.axvline(np.quantile(known, 0.05), color=SOFT, ls="--", lw=1)
        right.set(xlabel="logsumexp of the logits", title="unknown images", yticks=[])
        right.legend(fontsize=8)
        save(plot, "calibration")


NETWORKS = {
    "weak": "8 classes of CIFAR-10, 4,000 images",
    "eight": "8 classes of CIFAR-10, 40,000 images",
    "nette": "8 classes of Imagenette, 2,560 images",
}
FOREIGN = {
    "far-imagenette": "CIFAR-10 against Imagenette",
    "far-blood": "CIFAR-10 against blood cells",
}
RUNS = (
    "python benchmarks/made_sets.py unknown SOURCE SET --without CLASS,CLASS; resnets train"
    " cifar10-fast --data SET --seed SEED with --epochs 10 --set data.val_fraction=0.2 (of a subset"
    " of 4,000 images) or --iterations 800 --set data.val_fraction=0.1; resnets train scratch"
    " --data SET --model resnet18 --set data.size=64 --set data.resize=72 --set"
    " data.val_fraction=0.1 --epochs 5 --seed SEED"
)
UNKNOWN = (
    "python benchmarks/unknown.py RUN UNKNOWN, and resnets:cifar10/cifar-resnet20 and"
    " resnets:cifar10/cifar-plain20 with --data cifar10"
)
FIGURES = "python docs/images/calibration.py features"


if __name__ == "__main__":
    calibration(Path(sys.argv[1]))
