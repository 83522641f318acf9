"""The nets of the paper: one residual family and VGG, each built from a `ModelSpec`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from resnets.config import ModelSpec

if TYPE_CHECKING:
    from resnets.models.net import Net

__all__ = ["Net", "build"]


def __getattr__(name: str) -> Any:
    """Import `Net` on first use (PEP 562): the names of the catalog do not need torch."""
    if name == "Net":
        from resnets.models.net import Net

        return Net
    raise AttributeError(f"module 'resnets.models' has no attribute {name!r}")


def build(spec: ModelSpec) -> Net:
    """The net that `spec` describes, freshly initialised from torch's global random generator.

    Raises ConfigError where fields of `spec` contradict each other.
    """
    from resnets.models.resnet import ResNet
    from resnets.models.vgg import VGG

    return VGG(spec) if spec.block == "vgg" else ResNet(spec)
