"""Evaluate an inference backend on a split, as `resnets evaluate` does for artifacts."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from resnets.data import Split
from resnets.evaluate.batched_inference import compute_in_groups
from resnets.evaluate.ensemble import FEWEST, MOST, Scored
from resnets.evaluate.measure import Measurement, measure
from resnets.evaluate.truth import Truth
from resnets.evaluate.views.crops import Pixels, cut
from resnets.evaluate.views.views import Views
from resnets.runtime.base import Backend
from resnets.utils.cpu_count import cores


class BackendScorer:
    """Adapts a backend to `evaluate.measure`: one view per image."""

    def __init__(self, backend: Backend) -> None:
        self.backend, self.classes = backend, backend.classes

    def scores(
        self, split: Split, rows: Sequence[int], workers: int | None = None
    ) -> Iterator[Scored]:
        """Scores of `rows`, decoded by `workers` threads while the backend computes."""
        preprocess, views = self.backend.preprocess.spec, Views()

        def read(row: int) -> Pixels:
            return cut(split, row, views, preprocess)[0]

        def compute(images: Sequence[Pixels]) -> Tensor:
            return torch.from_numpy(self.backend.logits(np.stack(images)))

        batch_size = min(max(FEWEST, self.backend.batch), MOST)
        for logits in compute_in_groups(
            read,
            compute,
            rows,
            group=batch_size,
            workers=workers or cores(),
            at_once=self.backend.at_once,
        ):
            yield Scored.of(logits, len(self.classes))

    def protocol(self, names: Sequence[str]) -> str:
        """The evaluation protocol: views, size, backend and weights."""
        views = Views().describe(self.backend.preprocess.spec, "probabilities")
        return f"{views}, {self.backend.name}, {', '.join(names)}"


def evaluate_backend(
    backend: Backend,
    split: Split,
    truth: Truth,
    progress: Callable[[Iterable[Scored]], Iterable[Scored]] = iter,
) -> Measurement:
    """Metrics of `backend` on the labeled images of `split`."""
    return measure(BackendScorer(backend), split, truth, weights=[backend.origin], watch=progress)
