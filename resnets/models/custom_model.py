"""Custom networks, given as Python objects."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import NoReturn

import torch
from torch import Tensor, nn

from resnets.config import ConfigError, ModelSpec
from resnets.models import ImageClassifier
from resnets.utils.imports import qualified_name

MakeModel = Callable[[ModelSpec], nn.Module]
MODEL_KEYS = ("model", "block", "norm")  # keys of `Recipe.custom` that describe the network


class CustomModel(ImageClassifier):
    """A module that returns logits (B, K) for images (B, C, H, W), without named stages."""

    stage_names = ()

    def __init__(self, spec: ModelSpec, module: nn.Module) -> None:
        super().__init__(spec)
        self.module = module

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (B, K) for images (B, C, H, W)."""
        logits: Tensor = self.module(x)
        return logits

    def forward_head(self, features: Tensor) -> Tensor:
        """Not supported: raises ConfigError."""
        self._refuse()

    def reset_classifier(self, num_classes: int) -> None:
        """Not supported: raises ConfigError."""
        self._refuse()

    def _new_head(self, num_classes: int) -> nn.Linear:
        self._refuse()

    def stages(self, x: Tensor, last: str | None = None) -> dict[str, Tensor]:
        """Not supported: raises ConfigError."""
        self._refuse()

    def _refuse(self) -> NoReturn:
        raise ConfigError(
            f"{self.spec.name}: a custom network outputs logits only; features, new heads, dense "
            "views and studies of stages need a network built from stages, such as ResNet(spec, "
            "block=...)"
        )


def build_custom(
    model: nn.Module | MakeModel, spec: ModelSpec
) -> tuple[ImageClassifier, dict[str, str]]:
    """Return the network `model` for `spec`, and where its parts are defined.

    The keys are "block" and "norm" for a network of the package with custom parts, and "model" for
    any other; the dict is empty for a network of the package without custom parts. Raises
    ConfigError if the network does not accept the images, or does not return one logit per class.
    """
    made = model if isinstance(model, nn.Module) else model(spec)
    if not isinstance(made, nn.Module):
        raise ConfigError(f"model: must return an nn.Module, got {type(made).__name__}")
    inner = made.module if isinstance(made, CustomModel) else made
    if isinstance(inner, ImageClassifier):
        net, names = inner, inner.custom_names
        if not type(inner).__module__.startswith("resnets."):
            names = {"model": qualified_name(inner)}
    else:
        net = CustomModel(replace(spec, name=type(inner).__name__), inner)
        # For a plain nn.Sequential, the name of the function that creates it is more informative.
        made_by_torch = type(inner).__module__.startswith("torch.") and inner is not model
        names = {"model": qualified_name(model if made_by_torch else type(inner))}
    _check_logits(net, spec)
    return net, names


def _check_logits(net: ImageClassifier, spec: ModelSpec) -> None:
    """Raise ConfigError if `net` does not accept images of `spec` or return logits (B, K)."""
    modes = {module: module.training for module in net.modules()}
    first = next(net.parameters(), None)
    device = None if first is None else first.device
    images = torch.zeros(2, spec.in_channels, spec.input_size, spec.input_size, device=device)
    try:
        with torch.no_grad():
            logits = net.eval()(images)
    except (RuntimeError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise ConfigError(
            f"model: {net.spec.name} does not accept images of shape {tuple(images.shape)}: "
            f"{reason}"
        ) from error
    finally:
        for module, training in modes.items():
            module.training = training
    shape = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
    if shape != (2, spec.num_classes):
        raise ConfigError(
            f"model: {net.spec.name} returns {shape} for 2 images, not logits (2,"
            f" {spec.num_classes}): one per class"
        )
