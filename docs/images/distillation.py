"""Measures and draws distillation.png: students with and without a teacher, on CIFAR-10.

    python docs/images/distillation.py --data cifar10.tar.xz

The teachers ship with the package.
"""

from __future__ import annotations

import statistics
from typing import Any

from guide_runs import IMAGES, SEEDS, arguments, mean_and_spread, train
from matplotlib.figure import Figure
from result_tables import record

from resnets.report.figure_style import SERIES, SOFT, figure_style
from resnets.weights import zoo

FIELDS = {"data.grow_from": "none", "data.val_fraction": 0.05}
PAIRS = {  # result: student, teacher
    "distillation": ("cifar-resnet8", "cifar-resnet20"),
    "distillation-resnet20": ("cifar-resnet20", "cifar-resnet56"),
}
COMMAND = (
    "python docs/images/distillation.py: resnets train cifar10-fast --data cifar10.tar.xz --model"
    " {student} --iterations 300 --seed SEED --set data.grow_from=none --set"
    " data.val_fraction=0.05, and with --set distill.teacher=resnets:cifar10/{teacher}"
)


def draw(errors: dict[str, list[float]], teacher: float) -> None:
    """Draw the errors of all students, and their teacher's."""
    with figure_style():
        plot = Figure(figsize=(5.6, 2.6))
        axes = plot.subplots()
        for place, values in enumerate(errors.values()):
            color = (SERIES[0], SERIES[3])[place]
            axes.plot(values, [place] * len(values), "o", color=color)
            axes.plot([statistics.fmean(values)] * 2, [place - 0.25, place + 0.25], color=color)
        axes.axvline(teacher, color=SOFT, ls="--", lw=1)
        axes.text(teacher, -0.42, " teacher", color=SOFT, fontsize=8)
        axes.set_yticks(range(len(errors)), list(errors))
        axes.set(xlabel="test error (%)", ylim=(1.5, -0.5))
        plot.savefig(IMAGES / "distillation.png", dpi=120)


def main() -> None:
    """Train what is left, and write tables and figure."""
    options = arguments(__doc__)
    for name, (student, teacher) in PAIRS.items():
        weights = f"cifar10/{teacher}"
        arms: dict[str, dict[str, Any]] = {
            "labels alone": {},
            "with the teacher": {"distill.teacher": f"resnets:{weights}"},
        }
        errors: dict[str, list[float]] = {}
        rows: list[list[str | float | None]] = []
        for arm, fields in arms.items():
            tests = [
                train(
                    "cifar10-fast",
                    options.out / f"{name}-{len(fields)}-{seed}",
                    data=options.data,
                    model=student,
                    iterations=300,
                    seed=seed,
                    **{**FIELDS, **fields},
                ).result["test"]
                for seed in SEEDS
            ]
            errors[arm] = [test["top1_error"] for test in tests]
            losses = [test["loss"] for test in tests]
            loss = f"{statistics.fmean(losses):.3f} ± {statistics.stdev(losses):.3f}"
            cells = [f"{error:.2f}%" for error in errors[arm]]
            rows.append([arm, *cells, mean_and_spread(errors[arm]), loss])
        teacher_error = zoo.read_index()[weights].top1_error
        empty = [None] * len(SEEDS)
        rows.append(["the teacher itself", *empty, f"{teacher_error:.2f}%", None])
        columns = ["student", *(f"seed {seed}" for seed in SEEDS), "test error", "test loss"]
        record(name, COMMAND.format(student=student, teacher=teacher), columns, rows)
        if name == "distillation":
            draw(errors, teacher_error)


if __name__ == "__main__":
    main()
