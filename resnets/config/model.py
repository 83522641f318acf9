"""What the net is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from resnets.utils.errors import ConfigError

Block = Literal["basic", "bottleneck", "preact-basic", "preact-bottleneck", "vgg"]


@dataclass(frozen=True, kw_only=True)
class ModelSpec:
    """Architecture of one net of the family: residual, plain, pre-activation or VGG.

    `block="vgg"` reads `depths` as 3x3 convolutions per stage and ends each stage with a max pool
    (Simonyan and Zisserman 2015); every other block is stacked `depths[i]` times in stage i + 1.
    `widths` are the widths of the 3x3 convolutions; a bottleneck's output is four times as wide.
    `shortcut` is the paper's option A, B or C (section 4.1), or "none" for the plain twin.
    `stride_in` places a bottleneck's stride in its first 1x1 (the paper, "v1") or its 3x3 ("v1.5").

    `stem_pool`, `conv_bias` and `norm_eps` are there for weights made elsewhere. "ceil" is the 3x3
    pool of the authors' Caffe models: no padding, sizes rounded up. Biases on convolutions that a
    norm follows change nothing that a net can learn: their Caffe ResNet-50 has one in the stem,
    Keras has them on all.

    drop_path: share of residual branches left out in training, the later the likelier (stochastic
    depth, Huang et al. 2016). blur_pool: low-pass filter before each subsampling (Zhang 2019).
    dilate: how many of the last stages keep their resolution and widen their kernels instead
    (semantic segmentation, Chen et al. 2017).
    """

    name: str = "resnet18"
    block: Block = "basic"
    depths: tuple[int, ...] = (2, 2, 2, 2)
    widths: tuple[int, ...] = (64, 128, 256, 512)
    shortcut: Literal["A", "B", "C", "none"] = "B"
    stride_in: Literal["1x1", "3x3"] = "3x3"
    stem: Literal["imagenet", "cifar"] = "imagenet"
    stem_width: int = 64
    stem_pool: Literal["padded", "ceil"] = "padded"
    groups: int = 1
    width_per_group: int = 64
    norm: Literal["batch", "none"] = "batch"
    norm_eps: float = 1e-5
    conv_bias: Literal["none", "stem", "all"] = "none"
    init: Literal["he", "naive"] = "he"
    zero_init_residual: bool = False
    dropout: float = 0.0
    drop_path: float = 0.0
    blur_pool: bool = False
    dilate: int = 0
    num_classes: int = 1000
    in_channels: int = 3
    input_size: int = 224

    @property
    def residual(self) -> bool:
        """Whether blocks add a shortcut."""
        return self.block != "vgg" and self.shortcut != "none"

    @property
    def expansion(self) -> int:
        """Output width of a block over `widths` (4 for bottlenecks)."""
        return 4 if self.block.endswith("bottleneck") else 1

    def __post_init__(self) -> None:
        if len(self.depths) != len(self.widths) or not self.depths:
            raise ConfigError(
                f"model: depths {self.depths} and widths {self.widths} must be equally long"
            )
        if min(self.depths) < 1 or min(self.widths) < 1 or self.num_classes < 1:
            raise ConfigError("model: depths, widths and num_classes must be at least 1")
        for name in ("in_channels", "stem_width", "groups", "width_per_group", "input_size"):
            if getattr(self, name) < 1:
                raise ConfigError(f"model.{name}: {getattr(self, name)}, must be at least 1")
        for name in ("dropout", "drop_path", "norm_eps"):
            if not 0 <= getattr(self, name) < 1:
                raise ConfigError(f"model.{name}: {getattr(self, name)}, must be from 0 to below 1")
