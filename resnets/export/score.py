"""What a backend makes of a split: the figures of `resnets evaluate`, from an artifact."""

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


class Scorer:
    """A backend as `evaluate.measure` wants one: scores of pictures of a split, one view each."""

    def __init__(self, backend: Backend) -> None:
        self.backend, self.classes = backend, backend.classes

    def scores(
        self, split: Split, rows: Sequence[int], workers: int | None = None
    ) -> Iterator[Scored]:
        """All `rows`, each once, read by `workers` threads while the backend computes."""
        preprocess, views = self.backend.preprocess.spec, Views()

        def read(row: int) -> Pixels:
            return cut(split, row, views, preprocess)[0]

        def compute(pictures: Sequence[Pixels]) -> Tensor:
            return torch.from_numpy(self.backend.logits(np.stack(pictures)))

        group = min(max(FEWEST, self.backend.batch), MOST)
        for found in compute_in_groups(
            read,
            compute,
            rows,
            group=group,
            workers=workers or cores(),
            at_once=self.backend.at_once,
        ):
            yield Scored.of(found, len(self.classes))

    def protocol(self, names: Sequence[str]) -> str:
        """Views, size, what computes, and the artifact."""
        views = Views().describe(self.backend.preprocess.spec, "probabilities")
        return f"{views}, {self.backend.name}, {', '.join(names)}"


def evaluate_backend(
    backend: Backend,
    split: Split,
    truth: Truth,
    watch: Callable[[Iterable[Scored]], Iterable[Scored]] = iter,
) -> Measurement:
    """Figures of `backend` on the pictures of `split` that have a label."""
    return measure(Scorer(backend), split, truth, weights=[backend.origin], watch=watch)
