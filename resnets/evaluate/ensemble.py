"""Scores of one model or several over all views of each image, in bounded memory."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from resnets.config import SOFTMAX, Postprocess, Preprocess
from resnets.data import DataError, Split
from resnets.evaluate.batched_inference import PixelBudget, batched_inference
from resnets.evaluate.views import (
    Average,
    Pixels,
    Views,
    average_scores,
    compute_logits,
    fully_convolutional,
    normalize,
    read_views,
)
from resnets.models import ImageClassifier
from resnets.utils.machine.cpu_count import cores

MIN_BATCH, MAX_BATCH = 32, 1024  # images read and scored together


class Member:
    """One model of an ensemble, on its device and in eval mode, with its views and preprocessing.

    `columns` (K,): which of its outputs is class k of the ensemble.
    """

    def __init__(
        self,
        model: ImageClassifier,
        views: Views,
        columns: Tensor,
        device: torch.device,
        precision: str,
    ) -> None:
        views.check(model)
        self.model, self.views, self.columns = model, views, columns
        self.preprocess: Preprocess = model.preprocess.spec
        self.device, self.precision = device, precision
        self.postprocess: Postprocess = model.postprocess
        self.forward = fully_convolutional(model) if views.kind == "dense" else model
        self.budget = PixelBudget(device)

    @property
    def pixels(self) -> int:
        """Approximate number of pixels of one image's views, without flips."""
        sides, count = self.views.sides(self.preprocess), self.views.count(self.preprocess)
        if self.views.kind == "dense":
            return sum(side * side for side in sides) * 4 // 3  # most photographs are 4:3
        return count * self.preprocess.size**2 // (1 + self.views.flipped)

    def logits(self, views: Sequence[Sequence[Pixels]]) -> Tensor:
        """Compute logits (V, B, K) of the views of B images; views of one size form batches."""
        count, flips = len(views[0]), 1 + self.views.flipped
        logits = torch.empty(flips, count, len(views), len(self.columns))
        by_shape: dict[tuple[int, ...], list[tuple[int, int]]] = defaultdict(list)
        for b, image_views in enumerate(views):
            for v, pixels in enumerate(image_views):
                by_shape[pixels.shape].append((v, b))
        for same_shape in by_shape.values():
            batch = torch.from_numpy(np.stack([views[b][v] for v, b in same_shape]))
            scores = self.budget.run(self._compute, batch.permute(0, 3, 1, 2))  # (n, flips, K)
            v, b = torch.tensor(same_shape).T
            logits[:, v, b] = scores.movedim(1, 0)
        return logits.flatten(0, 1)

    def _compute(self, images: Tensor) -> Tensor:
        """Compute logits (n, flips, K), on the CPU, of uint8 images (n, C, H, W).

        The normalized image is mirrored, as in training.
        """
        inputs = normalize(self.model.preprocess, images.to(self.device))
        views = [inputs, inputs.flip(3)] if self.views.flipped else [inputs]
        scores = [compute_logits(self.forward, each, precision=self.precision) for each in views]
        return torch.stack(scores, 1)[..., self.columns].cpu()


@dataclass(frozen=True, eq=False)
class ScoredBatch:
    """Images scored together: rows (B,) of the split with logits (B, K) float32.

    errors: row and message of each image that could not be read.
    """

    rows: Tensor
    logits: Tensor
    errors: tuple[tuple[int, str], ...]

    @classmethod
    def of(cls, group: Sequence[tuple[int, Tensor | str]], classes: int) -> ScoredBatch:
        """Return a batch of `batched_inference`: rows with logits (K,), or with their error."""
        readable = [(row, output) for row, output in group if not isinstance(output, str)]
        logits = [output for _, output in readable] or [torch.empty(0, classes)]
        return cls(
            torch.tensor([row for row, _ in readable], dtype=torch.int64),
            torch.stack(logits).reshape(-1, classes),
            tuple((row, output) for row, output in group if isinstance(output, str)),
        )

    def __len__(self) -> int:
        """Number of images, unreadable ones included."""
        return len(self.rows) + len(self.errors)


class Ensemble:
    """Models that may differ in architecture and preprocessing, with the same classes by name.

    Views of each model are averaged first, then models; classes are in the order of the first.
    Raises DataError if classes differ, ConfigError if a model cannot take the views.
    """

    def __init__(
        self,
        models: Sequence[ImageClassifier],
        views: Views,
        average: Average,
        device: torch.device,
        precision: str,
    ) -> None:
        self.classes, self.average = models[0].classes, average
        columns = [_match_columns(model, models[0]) for model in models]
        self.members = [
            Member(model, views, each, device, precision)
            for model, each in zip(models, columns, strict=True)
        ]
        self.postprocess = _merge_postprocess(models, columns)

    def read(self, split: Split, row: int) -> list[list[Pixels]]:
        """Read the views of an image for each member, without flips."""
        return [read_views(split, row, each.views, each.preprocess) for each in self.members]

    def score(self, images: Sequence[Sequence[Sequence[Pixels]]]) -> Tensor:
        """Compute logits (B, K), on the CPU, of B images from `read`."""
        kind = self.postprocess.activation
        scores = [
            average_scores(member.logits(views), self.average, kind)
            for member, *views in zip(self.members, *images, strict=True)
        ]
        if len(scores) > 1:  # each at its own temperature; a single one has it in `postprocess`
            scores = [
                each / member.postprocess.temperature
                for each, member in zip(scores, self.members, strict=True)
            ]
        return average_scores(torch.stack(scores), self.average, kind)

    def scores(
        self, split: Split, rows: Sequence[int], workers: int | None = None
    ) -> Iterator[ScoredBatch]:
        """Score all `rows` of `split`, read by `workers` threads while the models compute.

        At most two batches are in memory, each of 32 to 1,024 images.
        """
        smallest = min(each.budget.images(each.pixels) for each in self.members)
        for group in batched_inference(
            lambda row: self.read(split, row),
            self.score,
            rows,
            group=min(max(MIN_BATCH, smallest), MAX_BATCH),
            workers=workers or cores(),
        ):
            yield ScoredBatch.of(group, len(self.classes))

    def protocol(self, names: Sequence[str]) -> str:
        """Describe views, sizes, averaging, precision and weights (`names`) of each model."""
        parts = [
            f"{each.views.describe(each.preprocess, self.average)}, {each.precision}, {name}"
            for each, name in zip(self.members, names, strict=True)
        ]
        if len(parts) == 1:
            return parts[0]
        members = "; ".join(parts)
        return f"{len(parts)} models, {self.average} averaged [{members}]"


def _merge_postprocess(models: Sequence[ImageClassifier], columns: Sequence[Tensor]) -> Postprocess:
    """Return the postprocessing of averaged logits, with the mean of the models' thresholds.

    Raises DataError if some models predict one class and others several labels per image.
    """
    specs: list[Postprocess] = [model.postprocess for model in models]
    if len(specs) == 1:
        return specs[0]
    if len({spec.activation for spec in specs}) > 1:
        raise DataError(
            f"{models[0].origin} and others cannot form an ensemble: some are single-label, others "
            "multi-label"
        )
    if not specs[0].multilabel:
        return SOFTMAX
    each = [np.array(s.thresholds)[c.numpy()] for s, c in zip(specs, columns, strict=True)]
    return Postprocess(activation="sigmoid", thresholds=tuple(np.mean(each, 0).tolist()))


def _match_columns(model: ImageClassifier, first: ImageClassifier) -> Tensor:
    """Return the output of `model` for each class of `first`, (K,); DataError if classes differ."""
    if sorted(model.classes) != sorted(first.classes):
        differing = sorted(set(first.classes) ^ set(model.classes))[:5]
        raise DataError(
            f"{model.origin} ({len(model.classes)} classes) and {first.origin}"
            f" ({len(first.classes)}) cannot form an ensemble; only one of them has:"
            f" {', '.join(differing)}"
        )
    outputs = {name: output for output, name in enumerate(model.classes)}
    return torch.tensor([outputs[name] for name in first.classes])
