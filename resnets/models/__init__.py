"""The nets of the paper: one residual family and VGG, each built from a `ModelSpec`."""

from __future__ import annotations

from resnets.config import ModelSpec
from resnets.models.net import Net
from resnets.models.resnet import ResNet
from resnets.models.vgg import VGG

__all__ = ["Net", "build"]


def build(spec: ModelSpec) -> Net:
    """The net that `spec` describes, freshly initialised from torch's global random generator.

    Raises ConfigError where fields of `spec` contradict each other.
    """
    return VGG(spec) if spec.block == "vgg" else ResNet(spec)
