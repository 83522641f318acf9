"""`resnets study responses`: measure, then write the page."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

from resnets.study.batches import check_finite, draw_split, load_subjects, show
from resnets.study.convergence import caution, cautions
from resnets.study.page import Report, write_report
from resnets.study.responses.page import responses_page
from resnets.study.responses.responses import SEED, NetResponses, responses
from resnets.utils import environment
from resnets.weights.load import NOTHING_SAID, LoadOptions


def responses_study(
    checkpoints: Sequence[Path],
    *,
    data: str | None,
    examples: int,
    device: str,
    out: Path,
    loading: LoadOptions = NOTHING_SAID,
) -> Report:
    """Measure `checkpoints` on `examples` held-out pictures; returns the report in `out`.

    `data` says where the set lies, where it is not what the recipes name. Raises ConfigError,
    DataError, CheckpointError, and ValueError for a net whose outputs are no numbers.
    """

    subjects = load_subjects(checkpoints, data, loading)
    split = draw_split(subjects[0].net, data, "held-out", examples, SEED)
    nets, protocol, doubts = [], [], {}
    for subject in subjects:
        pictures = show(split, subject.net, device)
        measured = NetResponses(
            subject.label, subject.net.spec, responses(subject.net, pictures.batches)
        )
        check_finite(measured.mean, subject.where)
        nets.append(measured)
        error = pictures.evaluate(subject.net).top1_error
        doubts[subject.label] = caution(
            subject.where, error, len(pictures.classes), errors_of="held-out"
        )
        protocol.append(f"{subject.label}: {pictures.protocol}.")
    words = ["resnets", "study", "responses", *map(str, checkpoints), "--examples", str(examples)]
    words += ["--data", data] if data is not None else []
    page = responses_page(
        nets,
        measured=" ".join(protocol),
        commands=(shlex.join(words),),
        environment=environment.describe(pictures.device),
        caution=cautions(doubts),
    )
    return write_report(page, out)
