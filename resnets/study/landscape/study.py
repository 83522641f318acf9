"""`resnets study landscape`: measure, then write the page."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

from resnets.config import ConfigError
from resnets.study.batches import (
    check_finite,
    draw_split,
    load_subjects,
    show,
)
from resnets.study.convergence import caution, cautions
from resnets.study.landscape.landscape import measure_landscape
from resnets.study.landscape.page import landscape_page
from resnets.study.page import Report, write_report
from resnets.utils import environment
from resnets.weights.load import NOTHING_SAID, LoadOptions


def landscape_study(
    checkpoints: Sequence[Path],
    *,
    data: str | None,
    examples: int,
    steps: int,
    seed: int,
    device: str,
    out: Path,
    loading: LoadOptions = NOTHING_SAID,
) -> Report:
    """Measure the loss around each of `checkpoints` on `examples` training pictures.

    `steps` is the number of points on each side of the plane, odd; `seed` draws the pictures and
    the directions. Returns the report in `out`. Raises ConfigError, DataError, CheckpointError,
    and ValueError for a net whose outputs are no numbers.
    """

    if steps < 3 or steps % 2 == 0:
        raise ConfigError(
            f"--steps {steps}: give an odd number of 3 or more; its middle is the net"
        )
    subjects = load_subjects(checkpoints, data, loading)
    split = draw_split(subjects[0].net, data, "train", examples, seed)
    landscapes, protocol, doubts = [], [], {}
    for subject in subjects:
        pictures = show(split, subject.net, device)
        check_finite(pictures.evaluate(subject.net).loss, subject.where)
        landscapes.append(
            measure_landscape(subject.net, pictures, points=steps, seed=seed, label=subject.label)
        )
        protocol.append(f"{subject.label}: {pictures.protocol}.")
        doubts[subject.label] = caution(
            subject.where,
            landscapes[-1].center.error,
            len(pictures.classes),
            errors_of="training",
        )
    words = ["resnets", "study", "landscape", *map(str, checkpoints), "--examples", str(examples)]
    words += ["--steps", str(steps), "--seed", str(seed)]
    words += ["--data", data] if data is not None else []
    page = landscape_page(
        landscapes,
        measured=" ".join(protocol),
        commands=(shlex.join(words),),
        environment=environment.describe(pictures.device),
        caution=cautions(doubts),
    )
    return write_report(page, out)
