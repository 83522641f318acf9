"""Evaluate an inference backend on a split, as `resnets evaluate` does for artifacts."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from resnets.data import Split
from resnets.evaluate.batched_inference import batched_inference
from resnets.evaluate.data.ground_truth import GroundTruth
from resnets.evaluate.ensemble import MAX_BATCH, MIN_BATCH, ScoredBatch
from resnets.evaluate.measure import Measurement, measure
from resnets.evaluate.views import Pixels, Views, read_views
from resnets.runtime.base import Backend
from resnets.utils.machine.cpu_count import cores


class BackendScorer:
    """Adapts a backend to `evaluate.measure`: one view per image."""

    def __init__(self, backend: Backend) -> None:
        self.backend, self.classes = backend, backend.classes
        self.postprocess = backend.postprocess

    def scores(
        self, split: Split, rows: Sequence[int], workers: int | None = None
    ) -> Iterator[ScoredBatch]:
        """Scores of `rows`, decoded by `workers` threads while the backend computes."""
        preprocess, views = self.backend.preprocess.spec, Views()

        def read(row: int) -> Pixels:
            return read_views(split, row, views, preprocess)[0]

        def compute(images: Sequence[Pixels]) -> Tensor:
            return torch.from_numpy(self.backend.logits(np.stack(images)))

        batch_size = min(max(MIN_BATCH, self.backend.batch), MAX_BATCH)
        for logits in batched_inference(
            read,
            compute,
            rows,
            group=batch_size,
            workers=workers or cores(),
            at_once=self.backend.at_once,
        ):
            yield ScoredBatch.of(logits, len(self.classes))

    def protocol(self, names: Sequence[str]) -> str:
        """The evaluation protocol: views, size, backend and weights."""
        views = Views().describe(self.backend.preprocess.spec, "probabilities")
        return f"{views}, {self.backend.name}, {', '.join(names)}"


def evaluate_backend(
    backend: Backend,
    split: Split,
    truth: GroundTruth,
    progress: Callable[[Iterable[ScoredBatch]], Iterable[ScoredBatch]] = iter,
) -> Measurement:
    """Metrics of `backend` on the labeled images of `split`."""
    return measure(BackendScorer(backend), split, truth, weights=[backend.origin], watch=progress)
