"""The interface of loss functions, and the losses of classification."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F

from resnets.config import ConfigError, LossSpec
from resnets.data.batch import Batch
from resnets.utils.suggest import suggest


@dataclass(frozen=True)
class Losses:
    """The loss of one batch.

    Attributes:
        total: Scalar to minimize.
        sums: Detached scalars, summed over the examples; the log divides them by `count`. The sum
            "errors" counts wrong predictions.
        count: Number of examples.
    """

    total: torch.Tensor
    sums: dict[str, torch.Tensor]
    count: int


# Minimum fraction of a mixed image at which a class counts as present in it.
MIN_SHARE = 0.2

LossFn = Callable[[Callable[..., torch.Tensor], Batch], Losses]


def classification_loss(
    spec: LossSpec = LossSpec(),  # noqa: B008 (frozen)
    class_weights: torch.Tensor | None = None,
) -> LossFn:
    """Return the loss function of `spec` for integer targets (B,); images may be mixed.

    class_weights: (K,) weight of each image's loss by its class; None = 1. The sum is divided by
    the number of images, not by the sum of weights, so that micro-batches add up to the loss of the
    batch.

    - "cross-entropy", "focal": with label smoothing (Szegedy et al. 2016). The loss of a mixed
      image is the mean over its two classes, weighted by their fractions (mixup, Zhang et al.
      2018).
    - "bce": see `binary_cross_entropy`. Targets may be multi-hot (B, K); "label_errors" is then the
      fraction of wrong decisions among all labels.

    Errors are counted against `targets` only, so they are high for mixed images.
    """
    criterion = CRITERIA[spec.kind]

    def loss_fn(model: Callable[..., torch.Tensor], batch: Batch) -> Losses:
        nonlocal class_weights
        logits = model(batch.images).float()  # (B, K)
        assert isinstance(batch.targets, torch.Tensor)
        if class_weights is not None:
            class_weights = class_weights.to(logits.device)  # copies only the first time
        loss = criterion(logits, batch, spec, class_weights)
        return Losses(loss, _loss_sums(loss, logits.detach(), batch), len(batch))

    return loss_fn


def _loss_sums(loss: torch.Tensor, logits: torch.Tensor, batch: Batch) -> dict[str, torch.Tensor]:
    """Return the sums of `Losses`."""
    assert isinstance(batch.targets, torch.Tensor)
    sums = {"loss": loss.detach() * len(batch)}
    if batch.targets.ndim == 2:
        wrong = (logits > 0).ne(batch.targets > 0)
        return sums | {"label_errors": wrong.float().mean(1).sum()}
    return sums | {"errors": logits.argmax(1).ne(batch.targets).sum()}


def class_weights(spec: LossSpec, labels: torch.Tensor, classes: Sequence[str]) -> torch.Tensor:
    """Return the weight (K,) of each of `classes` by `spec.class_weights`.

    "auto": N / (K n) for a class of n images, so that the mean over the images is 1 (King and Zeng
    2001; scikit-learn's "balanced"). labels: (N,) classes of the training images. Raises
    ConfigError for an unknown class.
    """
    if spec.class_weights == "auto":
        counts = torch.bincount(labels.cpu(), minlength=len(classes)).double()
        present = counts > 0  # a class without images has no loss
        weights = len(labels) / (present.sum() * counts.clamp(min=1))
        return torch.where(present, weights, 1.0).float()
    weights_by_name = {} if isinstance(spec.class_weights, str) else spec.class_weights
    for name in weights_by_name.keys() - set(classes):
        hint = suggest(name, classes)
        raise ConfigError(f"loss.class_weights.{name}: not a class of the data; {hint}")
    return torch.tensor([weights_by_name.get(name, 1.0) for name in classes])


def custom_loss(loss: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]) -> LossFn:
    """Return a user's `loss(logits, targets)` for logits (B, K) and classes (B,) as a `LossFn`.

    `loss` returns the mean over the images, or losses (B,). Mixed images (mixup, cutmix) require
    losses (B,), which are weighted by the fractions of their two classes. A module is moved to the
    device of the logits; its own parameters are not trained. Raises ConfigError for any other
    result.
    """

    def values(logits: torch.Tensor, targets: torch.Tensor, batch: Batch) -> torch.Tensor:
        value = loss(logits, targets)
        if value.shape not in ((), (len(batch),)):
            raise ConfigError(
                f"loss: returns shape {tuple(value.shape)} for {len(batch)} images; expected a "
                "mean () or one value per image"
            )
        if value.dim() == 0 and batch.other_targets is not None:
            raise ConfigError(
                "loss: returns a mean, which cannot be weighted for mixed images; return one value"
                " per image, or set data.augment.mixup and cutmix to 0"
            )
        return value

    def loss_fn(model: Callable[..., torch.Tensor], batch: Batch) -> Losses:
        logits = model(batch.images).float()  # (B, K)
        assert isinstance(batch.targets, torch.Tensor)
        if isinstance(loss, nn.Module):
            loss.to(logits.device)
        total, weight = values(logits, batch.targets, batch), batch.target_weight
        if batch.other_targets is not None and weight is not None:
            total = weight * total + (1 - weight) * values(logits, batch.other_targets, batch)
        total = total.mean()
        return Losses(total, _loss_sums(total, logits.detach(), batch), len(batch))

    return loss_fn


def cross_entropy(
    logits: torch.Tensor, batch: Batch, spec: LossSpec, weights: torch.Tensor | None = None
) -> torch.Tensor:
    """Return the mean cross-entropy of `logits` (B, K)."""
    assert isinstance(batch.targets, torch.Tensor)
    smoothing = spec.label_smoothing
    if batch.other_targets is None and weights is None:
        return F.cross_entropy(logits, batch.targets, label_smoothing=smoothing)

    def values(classes: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(logits, classes, label_smoothing=smoothing, reduction="none")

    return _weighted_mean(values, batch, weights)


def focal(
    logits: torch.Tensor, batch: Batch, spec: LossSpec, weights: torch.Tensor | None = None
) -> torch.Tensor:
    """Return the mean focal loss of `logits` (B, K): -sum_k q_k (1 - p_k)^gamma log p_k.

    Lin et al. 2017, equation 4, with a softmax instead of a sigmoid. q is the one-hot target,
    possibly smoothed; the class weight is their alpha.
    """
    logs = logits.log_softmax(1)
    terms = -((1 - logs.exp()) ** spec.gamma) * logs  # (B, K)

    def values(classes: torch.Tensor) -> torch.Tensor:
        own = terms.gather(1, classes[:, None])[:, 0]
        return (1 - spec.label_smoothing) * own + spec.label_smoothing * terms.mean(1)

    return _weighted_mean(values, batch, weights)


def binary_cross_entropy(
    logits: torch.Tensor, batch: Batch, spec: LossSpec, weights: torch.Tensor | None = None
) -> torch.Tensor:
    """Return the mean binary cross-entropy of `logits` (B, K), one decision per class.

    As in Wightman et al. 2021, section 2.2, a mixed image contains both of its classes regardless
    of their fractions; as in their code, only classes with a fraction above `MIN_SHARE`. Targets
    are 1 for present classes and 0 for others, smoothed to 1 - smoothing + smoothing / K and
    smoothing / K. The weight of a mixed image is the mean of the weights of its two classes,
    weighted by their fractions.

    Targets may be multi-hot (B, K); a mixed image has the labels of both images.
    """
    off = spec.label_smoothing / logits.shape[1]
    on = 1 - spec.label_smoothing + off
    targets = torch.full_like(logits, off)
    assert isinstance(batch.targets, torch.Tensor)
    if batch.targets.ndim == 2:
        return F.binary_cross_entropy_with_logits(logits, _label_targets(batch, off, on))
    weight = batch.target_weight
    if batch.other_targets is None or weight is None:
        targets.scatter_(1, batch.targets[:, None], on)
    else:
        for classes, share in ((batch.targets, weight), (batch.other_targets, 1 - weight)):
            current = targets.gather(1, classes[:, None])
            value = torch.where(share[:, None] > MIN_SHARE, on, current)
            targets.scatter_(1, classes[:, None], value)
    if weights is None:
        return F.binary_cross_entropy_with_logits(logits, targets)
    losses = F.binary_cross_entropy_with_logits(logits, targets, reduction="none").mean(1)
    return _weighted_mean(lambda classes: losses, batch, weights)


def _label_targets(batch: Batch, off: float, on: float) -> torch.Tensor:
    """Return multi-label targets (B, K); a mixed image also has its partner's labels."""
    assert isinstance(batch.targets, torch.Tensor)
    present = batch.targets > 0
    if batch.other_targets is not None and batch.target_weight is not None:
        share = batch.target_weight[:, None]
        others = (batch.other_targets > 0) & (1 - share > MIN_SHARE)
        present = (present & (share > MIN_SHARE)) | others
    return torch.where(present, on, off)


def _weighted_mean(
    values: Callable[[torch.Tensor], torch.Tensor], batch: Batch, weights: torch.Tensor | None
) -> torch.Tensor:
    """Return the mean of `values(classes)` (B,), weighted by class and by mixing fraction."""

    def weighted(classes: torch.Tensor) -> torch.Tensor:
        return values(classes) if weights is None else weights[classes] * values(classes)

    assert isinstance(batch.targets, torch.Tensor)
    own, weight = weighted(batch.targets), batch.target_weight
    if batch.other_targets is None or weight is None:
        return own.mean()
    return (weight * own + (1 - weight) * weighted(batch.other_targets)).mean()


CRITERIA = {"cross-entropy": cross_entropy, "bce": binary_cross_entropy, "focal": focal}
