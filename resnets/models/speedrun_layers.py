"""Layers for training within minutes: a whitening stem, pooled stages, scaled logits.

They are those of David Page's ResNet for DAWNBench ("How to Train Your ResNet", 2018) and of Jordan
2024 ("94% on CIFAR-10 in 3.29 Seconds on a Single GPU"), and can be combined with the blocks of any
other network.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import replace

import torch
from torch import Tensor, nn

from resnets.config import ConfigError, ModelSpec
from resnets.models.block_config import BlockConfig, MakeBlock, get_block_attr

PATCH = 2  # [px] side length of the whitened patches
MIN_VARIANCE = 5e-4  # added to each eigenvalue to limit noise (Jordan 2024)


def check_speedrun_layers(spec: ModelSpec) -> None:
    """Raise ConfigError if `spec` combines these layers with incompatible ones.

    Also if images of `spec.input_size` px are too small for the pools.
    """
    if not 0 < spec.logit_scale < math.inf:
        raise ConfigError(f"model.logit_scale: {spec.logit_scale} must be positive and finite")
    if spec.downsample != "max-pool":
        return
    if spec.dilate or spec.blur_pool or spec.branch_scale == "fixup":
        raise ConfigError(
            "model.downsample: 'max-pool' cannot be combined with model.dilate, model.blur_pool or"
            " model.branch_scale 'fixup'"
        )
    smallest = 2 ** len(spec.depths) + (spec.stem == "whitening")
    if spec.input_size < smallest:
        raise ConfigError(
            f"model.input_size: {spec.input_size} px is less than the {smallest} px that the"
            f" {len(spec.depths)} pools of {spec.name} need; use larger images (data.size)"
        )


class WhiteningConv(nn.Conv2d):
    """A 2x2 convolution without padding whose fixed filters whiten image patches.

    The filters are the eigenvectors of the covariance of 2x2 patches, divided by the square roots
    of their eigenvalues, and their negatives, so that relu loses no information. Only the bias is
    trained. Until `fit` is called, the filters are random.
    """

    def __init__(self, in_channels: int) -> None:
        super().__init__(in_channels, 2 * in_channels * PATCH**2, PATCH)
        weight = self.weight.detach()
        del self.weight
        self.register_buffer("weight", weight)

    @torch.no_grad()
    def fit(self, batches: Iterable[Tensor]) -> None:
        """Compute the filters from the normalized images in `batches` (B, C, H, W)."""
        channels = self.in_channels
        total = torch.zeros(channels * PATCH**2, channels * PATCH**2, dtype=torch.float64)
        count = 0
        for images in batches:
            patches = (
                nn.functional.unfold(images.cpu().double(), PATCH).transpose(1, 2).flatten(0, 1)
            )
            total += patches.T @ patches
            count += len(patches)
        variances, directions = torch.linalg.eigh(total / count)
        filters = directions.T / (variances + MIN_VARIANCE).sqrt()[:, None]
        filters = filters.view(-1, channels, PATCH, PATCH)
        self.weight.copy_(torch.cat([filters, -filters]))


def fit_stem(model: nn.Module, batches: Iterable[Tensor]) -> None:
    """Fit a whitening stem of `model` to normalized images (B, C, H, W); other stems read none."""
    stem = getattr(getattr(model, "stem", None), "conv", None)
    if isinstance(stem, WhiteningConv):
        stem.fit(batches)


class Transition(nn.Module):
    """3x3 convolution, 2x2 max pool, norm and relu: halves the resolution and sets the width."""

    def __init__(self, config: BlockConfig) -> None:
        super().__init__()
        self.conv = config.conv(config.in_channels, config.out_channels, 3)
        self.pool = nn.MaxPool2d(2)
        self.norm = config.norm(config.out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) -> (B, out_channels, H // 2, W // 2)."""
        out: Tensor = self.norm(self.pool(self.conv(x)))
        return out


class PooledBlock(nn.Module):
    """A `Transition` and a block: the first block of a stage with "max-pool" downsampling.

    block: any block. Its shortcut starts after the transition.
    """

    def __init__(self, config: BlockConfig, make_block: MakeBlock) -> None:
        super().__init__()
        self.transition = Transition(config)
        self.block = make_block(replace(config, in_channels=config.out_channels, stride=1))
        if hasattr(self.block, "after_add"):
            self.after_add = self.block.after_add

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) -> (B, out_channels, H // 2, W // 2)."""
        out: Tensor = self.block(self.transition(x))
        return out

    def paths(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return F(x) and the tensor that the shortcut adds, (B, out_channels, H // 2, W // 2)."""
        branch, shortcut = get_block_attr(self.block, "paths")(self.transition(x))
        return branch, shortcut

    @property
    def shortcut(self) -> nn.Module:
        """The shortcut of the block after the transition."""
        shortcut: nn.Module = get_block_attr(self.block, "shortcut")
        return shortcut

    @property
    def last_layer(self) -> nn.Module:
        """The last layer of F(x)."""
        layer: nn.Module = get_block_attr(self.block, "last_layer")
        return layer


class ScaledLinear(nn.Linear):
    """A linear layer times a constant: small initial logits allow a large learning rate."""

    def __init__(self, in_features: int, out_features: int, scale: float) -> None:
        super().__init__(in_features, out_features)
        self.scale = scale

    def forward(self, input: Tensor) -> Tensor:
        """(B, in_features) -> (B, out_features)."""
        return super().forward(input) * self.scale

    def extra_repr(self) -> str:
        """Return the sizes and the factor."""
        return f"{super().extra_repr()}, scale={self.scale:g}"
