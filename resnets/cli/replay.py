"""`resnets replay`: repeat the training step that was not finite."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import tyro

from resnets.utils.printable import echo


def command(
    run: Annotated[Path, tyro.conf.Positional],
    /,
    data: str | None = None,
    device: str = "auto",
) -> int:
    """Repeat the step of a run whose loss or weights were not finite, and say where it began.

    The first time, training goes on from the run's newest checkpoint until that step, which is kept
    with its batch, weights and settings in RUN/nonfinite; later it is repeated from there.

    Args:
        run: Folder of the run.
        data: The data set's current location.
        device: auto, cpu, cuda, cuda:1, mps.
    """
    from resnets.train.replay import replay

    found = replay(run, data=data, device=device)
    echo(found)
    for name, value in found.largest.items():
        echo(f"  largest output before: {name} {value:.4g}")
    echo(f"kept: {found.file}")
    return 0
