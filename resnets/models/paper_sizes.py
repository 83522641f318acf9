"""Sizes of nets as the paper prints them (He et al., CVPR 2016), to stand beside those counted.

The errors that it reports are in `resnets.study.paper`.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Published:
    """The paper's figures of one net, in its own rounding; None where it gives none."""

    parameters: str | None = None
    multiply_adds: str | None = None


# Multiply-adds: Table 1, which does not tell plain nets and shortcut options apart; section 3.3 for
# VGG-19, section 4.1 for VGG-16. Parameters: Table 6. The paper's bottlenecks have their stride in
# the first 1x1 ("-v1").
PUBLISHED = {
    "resnet18": Published(multiply_adds="1.8G"),
    "resnet18-a": Published(multiply_adds="1.8G"),
    "plain18": Published(multiply_adds="1.8G"),
    "resnet34": Published(multiply_adds="3.6G"),
    "resnet34-a": Published(multiply_adds="3.6G"),
    "plain34": Published(multiply_adds="3.6G"),
    "resnet50-v1": Published(multiply_adds="3.8G"),
    "resnet101-v1": Published(multiply_adds="7.6G"),
    "resnet152-v1": Published(multiply_adds="11.3G"),
    "vgg16": Published(multiply_adds="15.3G"),
    "vgg19": Published(multiply_adds="19.6G"),
    "cifar-resnet20": Published(parameters="0.27M"),
    "cifar-resnet32": Published(parameters="0.46M"),
    "cifar-resnet44": Published(parameters="0.66M"),
    "cifar-resnet56": Published(parameters="0.85M"),
    "cifar-resnet110": Published(parameters="1.7M"),
    "cifar-resnet1202": Published(parameters="19.4M"),
}
