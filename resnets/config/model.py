"""The architecture of a model."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from resnets.config.ranges import check_ranges
from resnets.utils.errors import ConfigError

Block = Literal[
    "basic",
    "bottleneck",
    "preact-basic",
    "preact-bottleneck",
    "relu-preact-basic",
    "relu-preact-bottleneck",
    "norm-after-add-basic",
    "norm-after-add-bottleneck",
    "relu-before-add-basic",
    "relu-before-add-bottleneck",
    "vgg",
]
BranchScale = Literal["rsqrt-depth", "skipinit", "rezero", "fixup"]


# Limits that keep damaged or hostile files from building networks without end.
MAX_BLOCKS, MAX_CHANNELS = 20_000, 2**24
COUNTS = (
    *("widths", "num_classes", "in_channels", "stem_width", "groups", "width_per_group"),
    *("input_size", "norm_groups", "se_reduction"),
)
MODEL_RANGES = {
    "depths": f"[1, {MAX_BLOCKS}]",
    **dict.fromkeys(COUNTS, f"[1, {MAX_CHANNELS}]"),
    **dict.fromkeys(("dropout", "drop_path", "shortcut_dropout", "norm_eps"), "[0, 1)"),
}


@dataclass(frozen=True, kw_only=True)
class ModelSpec:
    """Architecture of a network: residual, plain, pre-activation or VGG.

    Attributes:
        name: Name shown in reports and stored with the weights; does not affect the model.
        block: Building block. "basic" is two 3x3 convolutions and "bottleneck" 1x1, 3x3, 1x1 (the
            paper, Fig. 5). A prefix gives another order of layers: "preact-" has norm and ReLU
            before each convolution, "relu-preact-" only the ReLU, "norm-after-add-" the last norm
            after the addition, "relu-before-add-" the last ReLU before it (He et al. 2016, ECCV,
            Fig. 4). "vgg" is single 3x3 convolutions with a max pool after each stage (Simonyan and
            Zisserman 2015).
        dims: [axes] Axes of the input besides its channels: 2 for images, 1 for signals. With 1,
            convolutions, norms and pools are one-dimensional: a kernel of k in place of k x k.
        depths: [blocks] Number of blocks in each stage; for "vgg", of 3x3 convolutions.
        widths: [channels] Width of the 3x3 convolutions of each stage. The output of a bottleneck
            is four times as wide.
        shortcut: Option where dimensions increase: A pads with zeros, B projects by a 1x1
            convolution, C projects every shortcut (the paper, section 4.1). "none" removes all
            shortcuts: the plain network.
        shortcut_pool: "average" is a 2x2 average pool before each projection, which takes its
            stride (He et al. 2019, ResNet-D).
        attention: Channel attention at the end of F(x): a factor for each channel. "se" computes it
            from the channels' means by two layers (Hu et al. 2018, squeeze and excitation), "eca"
            by one convolution over neighboring channels (Wang et al. 2020).
        se_reduction: [factor] Reduction ratio of "se": channels of a map divided by those between
            its two layers, which are rounded to a multiple of 8 (Hu et al. 2018: 16; Bello et al.
            2021, ResNet-RS: 4).
        shortcut_gate: Gate g(x) on each shortcut. "exclusive" multiplies the branch by g and the
            shortcut by 1 - g, "shortcut-only" the shortcut alone; g is the sigmoid of a 1x1
            convolution (He et al. 2016, ECCV, Table 1). "highway" is exclusive with a 3x3
            convolution, as its layers have (Srivastava et al. 2015).
        gate_bias: [logit] Initial bias of the gates. The lower it is, the nearer to the identity
            the network starts (He et al. 2016, ECCV, Table 1: 0 to -10).
        shortcut_scale: [factor] Constant factor of each shortcut (He et al. 2016, ECCV, Table 1:
            0.5).
        shortcut_dropout: [probability] Dropout on each shortcut (He et al. 2016, ECCV, Table 1:
            0.5).
        branch_scale: [factor] Factor of each branch F(x) before the addition: a constant;
            "rsqrt-depth", the constant 1 / sqrt(number of blocks) (Hayou et al. 2021); or a number
            that is learned. "rezero" starts at 0 (Bachlechner et al. 2021), "skipinit" is the same
            without norms (De and Smith 2020), and "fixup" starts at 1 without norms, with a scalar
            bias before each convolution, ReLU and the head (a projection shares that of the branch;
            option A has none), smaller initial weights, and zero last layers (Zhang et al. 2019).
        stride_in: Which convolution of a bottleneck has the stride: "1x1", the first (the paper,
            "v1"), or "3x3" ("v1.5", as in torchvision).
        stem: "imagenet" is a 7x7 convolution of stride 2 and a 3x3 max pool (the paper, Table 1),
            "cifar" one 3x3 convolution (the paper, section 4.2). "deep" has three 3x3 convolutions
            in place of the 7x7, the first two half as wide (He et al. 2019, ResNet-C and -D),
            "tiered" the same with the first three eighths as wide (timm's ResNet-T). "whitening" is
            a fixed 2x2 convolution without padding that whitens patches of the training images, and
            a trained bias (Jordan 2024); it has 8 filters for each channel of the input.
        stem_width: [channels] Width of the stem.
        downsample: What halves the resolution. "stride" is the stride of the first block of each
            stage but the first one. "max-pool" is a 3x3 convolution and a 2x2 max pool, norm and
            ReLU before the first block of every stage (Page 2018).
        stem_pool: Pool of the stem. "padded" is a max pool that pads by one pixel, as PyTorch
            models do; "ceil" has no padding and rounds sizes up, as the authors' Caffe models do;
            "zeros" pads with zeros, which differs where values are negative (Kolesnikov et al.
            2020, BiT). "conv" is a 3x3 convolution of stride 2 with its norm (Bello et al. 2021,
            ResNet-RS).
        stem_norm: Norm and ReLU after the last convolution of the stem. Without them the first
            pre-activation block has a norm of its own, after the pool (BiT, timm's resnetv2).
        groups: [groups] Groups of the 3x3 convolutions of bottlenecks (Xie et al. 2017, ResNeXt).
        width_per_group: [channels] Width of one group of the first stage, where 64 stands for
            `widths`: 128 gives the wide residual networks of torchvision (Zagoruyko and Komodakis
            2016).
        norm: "batch" is batch normalization after each convolution (Ioffe and Szegedy 2015),
            "group+ws" group normalization with standardized convolution weights (Kolesnikov et al.
            2020, BiT).
        norm_scale: Batch norms learn a scale besides the shift of each channel (off: Page 2018).
        norm_eps: [variance] Epsilon of the norms, added to the variance.
        norm_groups: [groups] Groups of channels of the norm "group+ws" (Wu and He 2018).
        conv_bias: Convolutions with a bias, for weights of other libraries: "stem" for the authors'
            Caffe ResNet-50, "all" for Keras. Batch normalization cancels these biases in training.
        activation: After norms and additions: ReLU (the paper) or GELU (Hendrycks and Gimpel 2016).
        head_pool: Pool of all positions before the head: their average (the paper) or maximum.
        logit_scale: [factor] Constant factor of the logits, for large learning rates (Page 2018:
            1/8).
        init: Initial weights: "he" is normal with variance 2 / fan_in (He et al. 2015), "naive"
            normal with standard deviation 0.01 (Krizhevsky et al. 2012).
        zero_init_residual: Initialize the scale of the last norm of each block to 0, so that blocks
            start as the identity (Goyal et al. 2017).
        dropout: [probability] Dropout before the head, or in the fully connected layers of VGG.
        drop_path: [probability] Probability that the last residual branch is dropped for an image
            in training; it grows linearly with depth from 0 (stochastic depth, Huang et al. 2016).
        blur_pool: Low-pass filter before each subsampling (Zhang 2019).
        dilate: [stages] Number of last stages that use dilated convolutions in place of a stride,
            for semantic segmentation (Chen et al. 2017).
        num_classes: [classes] Outputs of the head. Training sets it from the data.
        in_channels: [channels] Channels of the input. Training sets it from the data.
        input_size: [px] Side of the images that the network is made for: the default of data.size,
            and what the fully connected layers of VGG depend on. Training sets it from the data.
    """

    name: str = "resnet18"
    block: Block = "basic"
    dims: Literal[1, 2] = 2
    depths: tuple[int, ...] = (2, 2, 2, 2)
    widths: tuple[int, ...] = (64, 128, 256, 512)
    shortcut: Literal["A", "B", "C", "none"] = "B"
    shortcut_pool: Literal["none", "average"] = "none"
    attention: Literal["none", "se", "eca"] = "none"
    se_reduction: int = 16
    stride_in: Literal["1x1", "3x3"] = "3x3"
    stem: Literal["imagenet", "deep", "tiered", "cifar", "whitening"] = "imagenet"
    stem_width: int = 64
    downsample: Literal["stride", "max-pool"] = "stride"
    stem_pool: Literal["padded", "ceil", "zeros", "conv"] = "padded"
    stem_norm: bool = True
    groups: int = 1
    width_per_group: int = 64
    shortcut_gate: Literal["none", "exclusive", "shortcut-only", "highway"] = "none"
    gate_bias: float = -6.0
    shortcut_scale: float = 1.0
    shortcut_dropout: float = 0.0
    branch_scale: float | BranchScale = 1.0
    norm: Literal["batch", "group+ws", "none"] = "batch"
    norm_scale: bool = True
    norm_eps: float = 1e-5
    norm_groups: int = 32
    conv_bias: Literal["none", "stem", "all"] = "none"
    activation: Literal["relu", "gelu"] = "relu"
    head_pool: Literal["average", "max"] = "average"
    logit_scale: float = 1.0
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
        return not self.is_vgg and self.shortcut != "none"

    @property
    def passes_identity(self) -> bool:
        """Whether a block of one shape computes the identity where its branch is zero."""
        changed = (self.shortcut_gate, self.shortcut_scale, self.shortcut_dropout)
        return (
            self.shortcut in ("A", "B")
            and self.order != "norm-after-add"
            and changed == ("none", 1.0, 0.0)
        )

    @property
    def is_vgg(self) -> bool:
        """Whether this is a VGG: stages of convolutions, no stem and no blocks."""
        return self.block == "vgg"

    @property
    def is_resnet(self) -> bool:
        """Whether the layers are those of ResNet as other libraries have it."""
        blocks = self.block in ("basic", "bottleneck") and not self.scales_paths
        later = (self.attention, self.shortcut_pool) != ("none", "none")
        stem = len(self.stem_widths) == 1 and self.stem_pool != "conv"
        return blocks and stem and not (later or self.has_speedrun_layers)

    @property
    def has_speedrun_layers(self) -> bool:
        """Whether layers are those of networks that train in minutes (`models.speedrun_layers`)."""
        layers = (self.downsample, self.activation, self.head_pool, self.norm_scale)
        usual = layers == ("stride", "relu", "average", True) and self.logit_scale == 1
        return self.stem == "whitening" or not usual

    @property
    def stem_widths(self) -> tuple[int, ...]:
        """Output channels of the convolutions of the stem, without those of its pool."""
        if self.stem == "whitening":
            return (8 * self.in_channels,)
        half = self.stem_width // 2
        first = {"deep": (half, half), "tiered": (3 * self.stem_width // 8, half)}
        return (*first.get(self.stem, ()), self.stem_width)

    @property
    def order(self) -> str:
        """Order of the layers of a block: the prefix of `block`, "" for that of the paper."""
        return self.block.removesuffix("basic").removesuffix("bottleneck").removesuffix("-")

    @property
    def is_preact(self) -> bool:
        """Whether norm and relu come before each convolution (He et al., ECCV 2016)."""
        return self.order == "preact"

    @property
    def scales_paths(self) -> bool:
        """Whether F(x) or the shortcut is gated, scaled or dropped before the addition."""
        path = (self.shortcut_gate, self.shortcut_scale, self.shortcut_dropout, self.branch_scale)
        return path != ("none", 1.0, 0.0, 1.0)

    @property
    def is_bottleneck(self) -> bool:
        """Whether blocks have 1x1, 3x3 and 1x1 convolutions instead of two 3x3."""
        return self.block.endswith("bottleneck")

    @property
    def expansion(self) -> int:
        """Output channels of a block over `widths`."""
        return 4 if self.is_bottleneck else 1

    @property
    def out_channels(self) -> int:
        """Channels of the last stage's output."""
        return self.widths[-1] * self.expansion

    @property
    def layers_per_block(self) -> int:
        """Convolutions of one block, that on the shortcut not counted; 1 for VGG."""
        return 1 if self.is_vgg else 3 if self.is_bottleneck else 2

    @property
    def num_layers(self) -> int:
        """Layers with weights, projections on shortcuts not counted (the paper's "20 layers")."""
        if self.is_vgg:
            return sum(self.depths) + 3
        transitions = len(self.depths) if self.downsample == "max-pool" else 0
        return sum(self.depths) * self.layers_per_block + 2 + transitions

    def __post_init__(self) -> None:
        if len(self.depths) != len(self.widths) or not self.depths:
            raise ConfigError(
                f"model: depths {self.depths} and widths {self.widths} must have the same length"
            )
        check_ranges(self, "model.", MODEL_RANGES)
        if sum(self.depths) > MAX_BLOCKS:
            raise ConfigError(
                f"model.depths: {sum(self.depths):,} blocks; must be at most {MAX_BLOCKS:,}"
            )

    def check(self) -> None:
        """Raise ConfigError if fields contradict each other; building a model calls it."""
        if self.is_vgg:
            _check_vgg(self)
        else:
            _check_residual(self)


def _check_vgg(spec: ModelSpec) -> None:
    if spec.dims == 1:
        raise ConfigError(f"model.dims: 1 (signals) is not supported by {spec.name}; use a resnet")
    for field in ("drop_path", "blur_pool", "dilate", "scales_paths"):
        if getattr(spec, field):
            field = "shortcut_*, model.branch_scale" if field == "scales_paths" else field
            raise ConfigError(f"model.{field}: not supported by {spec.name}; use a resnet")
    allowed = (("attention", ("none",)), ("norm", ("none", "batch")), ("activation", ("relu",)))
    for field, plain in allowed:
        value = getattr(spec, field)
        if value not in plain:
            raise ConfigError(
                f"model.{field}: {value!r} is not supported by {spec.name}; use a resnet"
            )
    smallest = 2 ** len(spec.depths)
    if spec.input_size < smallest:
        raise ConfigError(
            f"model.input_size: {spec.input_size} px is less than the {smallest} px that the "
            f"{len(spec.depths)} pools of {spec.name} need; use larger images (data.size)"
        )


def _check_residual(spec: ModelSpec) -> None:
    images = ("attention", "shortcut_pool", "stem_pool")
    later = any(getattr(spec, field) not in ("none", "padded", "ceil") for field in images)
    later = later or spec.blur_pool or spec.has_speedrun_layers
    if spec.dims == 1 and (spec.norm == "group+ws" or spec.branch_scale == "fixup" or later):
        raise ConfigError(
            "model.dims: 1 (signals) needs model.norm 'batch' or 'none', and cannot be combined "
            "with blur_pool, branch_scale 'fixup', attention, shortcut_pool, stem_pool 'zeros' or "
            "'conv', or the layers of cifar-speedrun"
        )
    channels = (spec.stem_widths[-1], *(width * spec.expansion for width in spec.widths))
    if spec.shortcut == "A" and list(channels) != sorted(channels):
        raise ConfigError(
            "model.shortcut: with option A the number of channels must not decrease, but "
            f"stem_width and widths give {channels}; use B"
        )
    if not spec.is_bottleneck and (spec.groups, spec.width_per_group) != (1, 64):
        raise ConfigError(
            f"model.groups, model.width_per_group: only for bottlenecks, not for {spec.block!r}"
        )
    if min(spec.widths) * spec.width_per_group < 64:
        raise ConfigError(
            f"model.groups {spec.groups} with width_per_group {spec.width_per_group}: too few "
            "channels"
        )
    if spec.drop_path and not spec.residual:
        raise ConfigError(f"model.drop_path: {spec.drop_path} must be 0 without shortcuts")
    if not 0 <= spec.dilate < len(spec.depths):
        raise ConfigError(
            f"model.dilate: {spec.dilate} must be below {len(spec.depths)}, the number of stages"
        )
    if not spec.norm_scale and (spec.norm != "batch" or spec.zero_init_residual):
        raise ConfigError("model.norm_scale: false needs norm 'batch', and no zero_init_residual")
    if spec.blur_pool and (spec.norm == "group+ws" or spec.branch_scale == "fixup"):
        raise ConfigError(
            "model.blur_pool: cannot be combined with norm 'group+ws' or branch_scale 'fixup'"
        )
    if spec.blur_pool and spec.stem_pool == "ceil":
        raise ConfigError("model.blur_pool: cannot be combined with stem_pool 'ceil'; use 'padded'")
    if spec.stem_width < 8 and len(spec.stem_widths) > 1:
        raise ConfigError(
            f"model.stem_width: {spec.stem_width} must be at least 8 for stem {spec.stem!r}"
        )
    if not (spec.stem_norm or spec.is_preact):
        raise ConfigError("model.stem_norm: false is only for pre-activation blocks")
    if spec.shortcut_pool != "none" and spec.shortcut not in ("B", "C"):
        raise ConfigError(
            f"model.shortcut_pool: needs model.shortcut 'B' or 'C', not {spec.shortcut!r}"
        )
    _check_paths(spec)
    if spec.norm == "group+ws":
        odd = [each for each in _norm_widths(spec) if each % spec.norm_groups]
        if odd:
            raise ConfigError(
                f"model.norm_groups: {odd[0]} channels are not divisible by {spec.norm_groups}"
            )


def _check_paths(spec: ModelSpec) -> None:
    """Raise ConfigError where what multiplies branch and shortcut contradicts other fields."""
    if spec.scales_paths and not spec.residual:
        raise ConfigError(f"model.shortcut_*, model.branch_scale: {spec.name} has no shortcuts")
    if spec.gate_bias != ModelSpec.gate_bias and spec.shortcut_gate == "none":
        raise ConfigError("model.gate_bias: needs a gate, such as model.shortcut_gate=exclusive")
    shortcut = (spec.shortcut_gate != "none", spec.shortcut_scale != 1, spec.shortcut_dropout > 0)
    if sum(shortcut) > 1:
        raise ConfigError(
            "model.shortcut_gate, shortcut_scale and shortcut_dropout cannot be combined; set one"
        )
    scale = spec.branch_scale
    if scale in ("skipinit", "fixup") and spec.norm != "none":
        raise ConfigError(f"model.branch_scale: {scale!r} needs model.norm 'none'")
    if scale == "fixup" and (spec.order or any(shortcut)):
        raise ConfigError(
            "model.branch_scale: 'fixup' needs the paper's blocks and plain shortcuts"
        )
    if spec.zero_init_residual and scale in ("rezero", "skipinit", "fixup"):
        raise ConfigError(
            f"model.zero_init_residual: cannot be combined with branch_scale {scale!r}; both start "
            "branches at 0, and none would get a gradient"
        )
    if scale == 0 or not all(map(math.isfinite, (spec.gate_bias, spec.shortcut_scale))):
        raise ConfigError(
            "model.branch_scale, shortcut_scale, gate_bias: must be finite, branch_scale not 0"
        )


def _norm_widths(spec: ModelSpec) -> list[int]:
    """Channels that norms work on."""
    inner = [
        width * spec.width_per_group // 64 * spec.groups if spec.is_bottleneck else width
        for width in spec.widths
    ]
    stem = () if spec.stem == "whitening" else spec.stem_widths
    return [*stem, *inner, *(width * spec.expansion for width in spec.widths)]
