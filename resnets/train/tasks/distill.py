"""Knowledge distillation (Hinton, Vinyals and Dean 2015): a teacher's probabilities as targets."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from resnets.config import ConfigError, DistillSpec, Recipe
from resnets.data.batch import Batch
from resnets.data.transforms.preprocess import Preprocessor
from resnets.models import ImageClassifier
from resnets.train.loss import Losses, LossFn
from resnets.weights.checkpoint.format import Checkpoint, digest_of
from resnets.weights.errors import UnnamedClassesError, UnstatedModelError
from resnets.weights.load import load_classifier


class Teacher:
    """A trained classifier that is evaluated on the student's own batches.

    Args:
        weights: The teacher's weights.
        classes: Classes of the data; the teacher's logits are reordered to match them.
        student: Preprocessing of the batches.

    `digest` is the SHA-256 of the teacher's weights. Raises ConfigError if the teacher lacks a
    class, has other input channels, or its weights do not specify its network.
    """

    def __init__(self, weights: str, classes: Sequence[str], student: Preprocessor) -> None:
        try:
            self.model: ImageClassifier = load_classifier(weights).eval().requires_grad_(False)
        except (UnstatedModelError, UnnamedClassesError) as error:  # --model is the student's
            raise ConfigError(
                f"distill.teacher: {error.problem}; save it with both, in Python:"
                f" resnets.load({weights!r}, model=NAME, classes=NAMES).save(FOLDER)"
            ) from None
        self.digest = digest_of(self.model.state_dict())
        names = list(self.model.classes)
        if missing := [name for name in classes if name not in names]:
            raise ConfigError(
                f"distill.teacher: {weights}: its classes ({', '.join(names[:3])}, ...) lack"
                f" {len(missing):,} of the data's, such as {missing[0]}"
            )
        self.order = torch.tensor([names.index(name) for name in classes])
        ours = self.model.preprocess
        if ours.spec.channels != student.spec.channels:
            raise ConfigError(
                f"distill.teacher: {weights}: expects {ours.spec.channels} input channels, the "
                f"student {student.spec.channels}"
            )
        self._flip = ours.spec.channel_order != student.spec.channel_order
        # A batch is (x - mean) * scale with the student's statistics; convert it to the teacher's.
        mean, scale = (each.flip(0) if self._flip else each for each in _pixel_statistics(ours))
        student_mean, student_scale = _pixel_statistics(student)
        self.scale = scale / student_scale
        self.shift = (student_mean - mean) * scale

    def __call__(self, images: Tensor) -> Tensor:
        """Return logits (B, K) of the student's `images` (B, C, H, W) in the order of `classes`."""
        device = images.device
        self.model.to(device)  # copies only the first time
        self.scale, self.shift, self.order = (
            each.to(device) for each in (self.scale, self.shift, self.order)
        )
        with torch.no_grad():
            x = torch.addcmul(self.shift, images, self.scale)
            logits: Tensor = self.model(x.flip(1) if self._flip else x)
            return logits.float().index_select(1, self.order)


def teacher_changes(recipe: Recipe, metadata: Mapping[str, Any], resumed: Checkpoint) -> list[str]:
    """Return a note if the teacher of a `resumed` run has other weights than at the run's start.

    metadata: that of the checkpoints to be written.
    """
    if metadata.get("teacher") == resumed.meta.get("teacher", metadata.get("teacher")):
        return []
    return [f"distill.teacher: {recipe.distill.teacher} has other weights than before"]


def _pixel_statistics(preprocessor: Preprocessor) -> tuple[Tensor, Tensor]:
    """Return mean and scale (C, 1, 1) of pixels 0..255; a mean image is averaged over positions."""
    mean, scale = preprocessor.mean_and_scale(torch.device("cpu"))
    channels = preprocessor.spec.channels
    return mean.mean((1, 2), keepdim=True).expand(channels, 1, 1), scale.expand(channels, 1, 1)


def distillation_loss(
    spec: DistillSpec, base: LossFn, teacher: Callable[[Tensor], Tensor]
) -> LossFn:
    """Return `base` combined with the KL divergence of the student from the teacher.

    The loss is (1 - weight) base + weight T^2 KL(teacher || student), with both probabilities at
    temperature T. The factor T^2 preserves the magnitude of the gradients (Hinton et al. 2015,
    section 2). Student and teacher see the same batch, including mixed images.
    """

    def loss_fn(model: Callable[..., Tensor], batch: Batch) -> Losses:
        logits = model(batch.images)
        losses = base(lambda _: logits, batch)
        assert isinstance(batch.images, Tensor)
        teacher_logs = F.log_softmax(teacher(batch.images) / spec.temperature, 1)
        student_logs = F.log_softmax(logits.float() / spec.temperature, 1)
        divergence = F.kl_div(student_logs, teacher_logs, reduction="batchmean", log_target=True)
        divergence = divergence * spec.temperature**2
        total = torch.lerp(losses.total, divergence, spec.weight)
        count = len(batch)
        sums = {
            **losses.sums,
            "loss": total.detach() * count,
            "distill_loss": divergence.detach() * count,
        }
        return Losses(total, sums, losses.count)

    return loss_fn
