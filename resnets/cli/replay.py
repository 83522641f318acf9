"""`resnets replay`: repeat the training step at which a loss became NaN or infinite."""

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
    """Repeat the step at which loss or weights became NaN or infinite, and name the layer.

    The first time, training continues from the newest checkpoint of the run to that step, which is
    saved with its batch, weights and settings in RUN/nonfinite; later it is repeated from there.

    Args:
        run: Folder of the run.
        data: Current location of the data set, if it has moved.
        device: auto, cpu, cuda, cuda:1, mps.
    """
    from resnets.train.replay import replay

    result = replay(run, data=data, device=device)
    echo(result)
    for name, value in result.max_outputs.items():
        echo(f"  largest output before: {name} {value:.4g}")
    echo(f"saved: {result.file}")
    return 0
