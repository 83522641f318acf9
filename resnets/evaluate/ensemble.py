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
    fully_convolutional,
    logits_of,
    normalize,
    read_views,
)
from resnets.models import ImageClassifier
from resnets.utils.cpu_count import cores

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
        """About how many pixels the views of one image have, without flips."""
        sides, count = self.views.sides(self.preprocess), self.views.count(self.preprocess)
        if self.views.kind == "dense":
            return sum(side * side for side in sides) * 4 // 3  # most photographs are 4:3
        return count * self.preprocess.size**2 // (1 + self.views.flipped)

    def logits(self, views: Sequence[Sequence[Pixels]]) -> Tensor:
        """Logits (V, B, K) of the views of B images; those of one size are computed together."""
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
        """Logits (n, flips, K) on the CPU of uint8 images (n, C, H, W).

        The mirror image is taken of the normalized image, as in training.
        """
        inputs = normalize(self.model.preprocess, images.to(self.device))
        views = [inputs, inputs.flip(3)] if self.views.flipped else [inputs]
        scores = [logits_of(self.forward, each, precision=self.precision) for each in views]
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
        """A batch of `batched_inference`: rows with their logits (K,) or the reason for none."""
        whole = [(row, found) for row, found in group if not isinstance(found, str)]
        logits = [found for _, found in whole] or [torch.empty(0, classes)]
        return cls(
            torch.tensor([row for row, _ in whole], dtype=torch.int64),
            torch.stack(logits).reshape(-1, classes),
            tuple((row, found) for row, found in group if isinstance(found, str)),
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
        columns = [_columns(model, models[0]) for model in models]
        self.members = [
            Member(model, views, each, device, precision)
            for model, each in zip(models, columns, strict=True)
        ]
        self.postprocess = _joined(models, columns)

    def read(self, split: Split, row: int) -> list[list[Pixels]]:
        """The views of an image for each member, without flips."""
        return [read_views(split, row, each.views, each.preprocess) for each in self.members]

    def score(self, images: Sequence[Sequence[Sequence[Pixels]]]) -> Tensor:
        """Logits (B, K) on the CPU of B images from `read`."""
        kind = self.postprocess.activation
        scores = [
            average_scores(member.logits(views), self.average, kind)
            for member, *views in zip(self.members, *images, strict=True)
        ]
        if len(scores) > 1:  # each at its own temperature; that of a single one comes after
            scores = [
                each / member.postprocess.temperature
                for each, member in zip(scores, self.members, strict=True)
            ]
        return average_scores(torch.stack(scores), self.average, kind)

    def scores(
        self, split: Split, rows: Sequence[int], workers: int | None = None
    ) -> Iterator[ScoredBatch]:
        """All `rows` of `split`, each once, read by `workers` threads while the models compute.

        At most two batches are held, each as large as the device takes at once but of 32 to 1,024
        images.
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
        """Views, sizes, averaging, precision and weights of each model; `names` of the weights."""
        parts = [
            f"{each.views.describe(each.preprocess, self.average)}, {each.precision}, {name}"
            for each, name in zip(self.members, names, strict=True)
        ]
        if len(parts) == 1:
            return parts[0]
        members = "; ".join(parts)
        return f"{len(parts)} models, {self.average} averaged [{members}]"


def _joined(models: Sequence[ImageClassifier], columns: Sequence[Tensor]) -> Postprocess:
    """What the averaged logits mean: of several models with the mean of their thresholds.

    DataError where some tell one class and others sets of labels.
    """
    specs: list[Postprocess] = [model.postprocess for model in models]
    if len(specs) == 1:
        return specs[0]
    if len({spec.activation for spec in specs}) > 1:
        raise DataError(
            f"{models[0].origin} and others cannot form an ensemble: some give one class, others"
            " sets of labels"
        )
    if not specs[0].multilabel:
        return SOFTMAX
    each = [np.array(s.thresholds)[c.numpy()] for s, c in zip(specs, columns, strict=True)]
    return Postprocess(activation="sigmoid", thresholds=tuple(np.mean(each, 0).tolist()))


def _columns(model: ImageClassifier, first: ImageClassifier) -> Tensor:
    """(K,): which output of `model` is each class of `first`."""
    if sorted(model.classes) != sorted(first.classes):
        lacking = sorted(set(first.classes) ^ set(model.classes))[:5]
        raise DataError(
            f"{model.origin} ({len(model.classes)} classes) and {first.origin}"
            f" ({len(first.classes)}) cannot form an ensemble; only one of them has:"
            f" {', '.join(lacking)}"
        )
    where = {name: output for output, name in enumerate(model.classes)}
    return torch.tensor([where[name] for name in first.classes])
