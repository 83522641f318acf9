"""Score the images of a split with an inference backend, for `resnets.evaluate.measure`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from resnets.data import Split
from resnets.evaluate.batched_inference import batched_inference
from resnets.evaluate.ensemble import MAX_BATCH, MIN_BATCH, ScoredBatch
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
