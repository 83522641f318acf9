"""`resnets recompute-norm`: average the batch norm statistics of a trained classifier."""

from __future__ import annotations

from pathlib import Path

import tyro

from resnets.cli.process import log_to_stderr
from resnets.utils.printable import echo


def command(
    weights: tyro.conf.Positional[str],
    /,
    out: Path,
    data: str | None = None,
    model: str | None = None,
    batch_size: int = 256,
    device: str = "auto",
) -> int:
    """Average the batch norm statistics of a trained classifier over its training set.

    The averages replace the moving averages of training, as in the paper before it trains detectors
    (appendix A). Training images are read once, without augmentation.

    Args:
        weights: Run folder, checkpoint, weights file, or published weights (see docs/weights.md).
        out: New folder for the model: weights and config.json, which every command reads.
        data: Data set (name, hub:ORG/NAME, or a path, as for train); default: what the run was
            trained on. Its training images are read; their classes do not matter.
        model: Architecture of weights that do not specify it (a state dict); a name listed by
            `resnets info`.
        batch_size: Largest batch size.
        device: auto, cpu, cuda, cuda:1, mps.
    """
    from resnets.api.recompute_norm import recompute_norm

    log_to_stderr()
    result = recompute_norm(
        weights, data, out=out, model=model, batch_size=batch_size, device=device
    )
    echo(f"{result.origin}: {out}")
    return 0
