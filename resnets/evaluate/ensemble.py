"""Scores of one net or several over all views of each picture, in bounded memory."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from resnets.config import Preprocess
from resnets.data import DataError, Split
from resnets.evaluate.batch_size import Budget
from resnets.evaluate.batched_inference import compute_in_groups
from resnets.evaluate.views.crops import Pixels, cut
from resnets.evaluate.views.dense import fully_convolutional, normalize
from resnets.evaluate.views.views import Average, Views, average_scores, logits_of
from resnets.models import ImageClassifier
from resnets.utils.cpu_count import cores

FEWEST, MOST = 32, 1024  # pictures read and scored together


class Member:
    """One net of an ensemble, on its device and in eval mode, with its views and preprocessing.

    `columns` (K,) says which of its outputs is class k of the ensemble.
    """

    def __init__(
        self,
        net: ImageClassifier,
        views: Views,
        columns: Tensor,
        device: torch.device,
        precision: str,
    ) -> None:
        views.check(net)
        self.net, self.views, self.columns = net, views, columns
        self.preprocess: Preprocess = net.preprocess.spec
        self.device, self.precision = device, precision
        self.forward = fully_convolutional(net) if views.kind == "dense" else net
        self.budget = Budget(device)

    @property
    def pixels(self) -> int:
        """About how many pixels the views of one picture have, flips left out."""
        sides, count = self.views.sides(self.preprocess), self.views.count(self.preprocess)
        if self.views.kind == "dense":
            return sum(side * side for side in sides) * 4 // 3  # most photographs are 4:3
        return count * self.preprocess.size**2 // (1 + self.views.flipped)

    def logits(self, pictures: Sequence[Sequence[Pixels]]) -> Tensor:
        """Logits (V, B, K) of the cuts of B pictures; those of one size are computed together."""
        count, flips = len(pictures[0]), 1 + self.views.flipped
        logits = torch.empty(flips, count, len(pictures), len(self.columns))
        places: dict[tuple[int, ...], list[tuple[int, int]]] = defaultdict(list)
        for b, cuts in enumerate(pictures):
            for v, pixels in enumerate(cuts):
                places[pixels.shape].append((v, b))
        for same in places.values():
            images = torch.from_numpy(np.stack([pictures[b][v] for v, b in same]))
            scores = self.budget.run(self._compute, images.permute(0, 3, 1, 2))  # (n, flips, K)
            v, b = torch.tensor(same).T
            logits[:, v, b] = scores.movedim(1, 0)
        return logits.flatten(0, 1)

    def _compute(self, images: Tensor) -> Tensor:
        """Logits (n, flips, K) on the CPU of uint8 images (n, C, H, W).

        A mirror image is that of the normalised picture, as in training.
        """
        inputs = normalize(self.net.preprocess, images.to(self.device))
        shown = [inputs, inputs.flip(3)] if self.views.flipped else [inputs]
        scores = [logits_of(self.forward, each, precision=self.precision) for each in shown]
        return torch.stack(scores, 1)[..., self.columns].cpu()


@dataclass(frozen=True, eq=False)
class Scored:
    """Pictures that were scored together: rows (B,) of the split with logits (B, K) float32.

    errors: row and message of each picture that could not be read.
    """

    rows: Tensor
    logits: Tensor
    errors: tuple[tuple[int, str], ...]

    @classmethod
    def of(cls, group: Sequence[tuple[int, Tensor | str]], classes: int) -> Scored:
        """A group of `compute_in_groups`: rows with their logits (K,), or why they have none."""
        whole = [(row, found) for row, found in group if not isinstance(found, str)]
        logits = [found for _, found in whole] or [torch.empty(0, classes)]
        return cls(
            torch.tensor([row for row, _ in whole], dtype=torch.int64),
            torch.stack(logits).reshape(-1, classes),
            tuple((row, found) for row, found in group if isinstance(found, str)),
        )

    def __len__(self) -> int:
        """Pictures that went by, unreadable ones too."""
        return len(self.rows) + len(self.errors)


class Ensemble:
    """Nets that may differ in architecture and preprocessing, with the same classes by name.

    Views of each net are averaged first, then nets; classes are in the order of the first.
    Raises DataError where classes differ, ConfigError where a net cannot take the views.
    """

    def __init__(
        self,
        nets: Sequence[ImageClassifier],
        views: Views,
        average: Average,
        device: torch.device,
        precision: str,
    ) -> None:
        self.classes, self.average = nets[0].classes, average
        self.members = [
            Member(net, views, _columns(net, nets[0]), device, precision) for net in nets
        ]

    def read(self, split: Split, row: int) -> list[list[Pixels]]:
        """What each member sees of a picture, flips left out."""
        return [cut(split, row, each.views, each.preprocess) for each in self.members]

    def score(self, pictures: Sequence[Sequence[Sequence[Pixels]]]) -> Tensor:
        """Logits (B, K) on the CPU of B pictures from `read`."""
        scores = [
            average_scores(member.logits(cuts), self.average)
            for member, *cuts in zip(self.members, *pictures, strict=True)
        ]
        return average_scores(torch.stack(scores), self.average)

    def scores(
        self, split: Split, rows: Sequence[int], workers: int | None = None
    ) -> Iterator[Scored]:
        """All `rows` of `split`, each once, read by `workers` threads while the nets compute.

        At most two groups of pictures are held, each as large as the device takes at once but of
        32 to 1,024 pictures.
        """

        least = min(each.budget.pictures(each.pixels) for each in self.members)
        for group in compute_in_groups(
            lambda row: self.read(split, row),
            self.score,
            rows,
            group=min(max(FEWEST, least), MOST),
            workers=workers or cores(),
        ):
            yield Scored.of(group, len(self.classes))

    def protocol(self, names: Sequence[str]) -> str:
        """Views, sizes, averaging, precision and weights, net by net; `names` of the weights."""
        parts = [
            f"{each.views.describe(each.preprocess, self.average)}, {each.precision}, {name}"
            for each, name in zip(self.members, names, strict=True)
        ]
        if len(parts) == 1:
            return parts[0]
        nets = "; ".join(parts)
        return f"{len(parts)} nets, {self.average} averaged [{nets}]"


def _columns(net: ImageClassifier, first: ImageClassifier) -> Tensor:
    """(K,): which output of `net` is each class of `first`."""
    if sorted(net.classes) != sorted(first.classes):
        lacking = sorted(set(first.classes) ^ set(net.classes))[:5]
        raise DataError(
            f"{net.origin} ({len(net.classes)} classes) and {first.origin}"
            f" ({len(first.classes)}) cannot vote together; only one of them knows:"
            f" {', '.join(lacking)}"
        )
    where = {name: output for output, name in enumerate(net.classes)}
    return torch.tensor([where[name] for name in first.classes])
