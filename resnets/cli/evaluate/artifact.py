"""`resnets evaluate` of an artifact: the same figures, computed in its own runtime."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from resnets.config import ConfigError
from resnets.utils.terminal import say

if TYPE_CHECKING:
    from resnets.data import Split
    from resnets.evaluate.ensemble import Scored
    from resnets.evaluate.match import SplitName
    from resnets.evaluate.measure import Measurement


def evaluate(
    weights: tuple[str, ...],
    *,
    data: str | None,
    split: SplitName,
    labels: Path | None,
    views: dict[str, object],
    device: str,
    precision: str,
    quiet: bool,
) -> tuple[Measurement, Split]:
    """The figures of one artifact, and the pictures they are of.

    `views` are options that only a checkpoint takes. Raises ConfigError, DataError, ArtifactError.
    """
    from resnets.data.dataset.summary import announce
    from resnets.evaluate.match import open_pictures
    from resnets.evaluate.prepare import with_progress
    from resnets.export.score import evaluate_backend
    from resnets.runtime.open import open_artifact

    if len(weights) > 1:
        raise ConfigError("an artifact votes with no other net; name it alone, or the checkpoints")
    for name, value in views.items():
        if value:
            raise ConfigError(f"--{name}: an artifact sees the centre view; use its checkpoint")
    engine = open_artifact(Path(weights[0]), device=device, precision=precision)
    pictures, truth = open_pictures(engine, data, split, labels)
    announce(pictures)
    if not quiet:
        say(f"evaluating with {engine.name}", error=True)

    def watch(scored: Iterable[Scored]) -> Iterator[Scored]:
        for each in with_progress(scored, len(truth.rows), len):
            for _, error in each.errors:
                say(f"resnets evaluate: {error}", error=True)
            yield each

    return evaluate_backend(engine, pictures, truth, watch), pictures
