"""`resnets study identity`: measure, then write the page."""

from __future__ import annotations

import shlex
from pathlib import Path

from resnets.study.batches import (
    check_finite,
    draw_split,
    load_subjects,
    show,
)
from resnets.study.convergence import caution
from resnets.study.identity.identity import measure_identity
from resnets.study.identity.lesion import (
    residual_blocks,
)
from resnets.study.identity.page import identity_page
from resnets.study.page import Report, write_report
from resnets.utils import environment
from resnets.weights.load import NOTHING_SAID, LoadOptions


def identity_study(
    checkpoint: Path,
    *,
    data: str | None,
    examples: int,
    seed: int,
    device: str,
    out: Path,
    loading: LoadOptions = NOTHING_SAID,
) -> Report:
    """Measure the residual net of `checkpoint` on `examples` held-out pictures; returns the report.

    `seed` draws the pictures and the random lesions. Raises ConfigError (a plain net among other
    things), DataError, CheckpointError, and ValueError for a net whose outputs are no numbers.
    """

    (subject,) = load_subjects([checkpoint], data, loading)
    residual_blocks(subject.net)
    split = draw_split(subject.net, data, "held-out", examples, seed)
    pictures = show(split, subject.net, device)
    check_finite(pictures.evaluate(subject.net).loss, checkpoint)
    words = ["resnets", "study", "identity", str(checkpoint), "--examples", str(examples)]
    words += ["--seed", str(seed), *(["--data", data] if data is not None else [])]
    figures = measure_identity(subject.net, pictures, seed, subject.label)
    page = identity_page(
        figures,
        measured=pictures.protocol,
        commands=(shlex.join(words),),
        environment=environment.describe(pictures.device),
        caution=caution(checkpoint, figures.error, len(pictures.classes), errors_of="held-out"),
    )
    return write_report(page, out)
