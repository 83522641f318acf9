"""Where pictures come from, how they are changed at random, and how a net sees them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from resnets.utils.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class AugmentSpec:
    """Random changes to training pictures; all keyed by (seed, epoch, sample).

    crop: "none"; "pad" zero-pads by `pad` pixels and crops back (CIFAR); "scale-jitter" samples
    the shorter side from `scale` pixels and crops (the paper's ImageNet recipe); "random-resized"
    samples an area share from `scale` and an aspect ratio in 3/4..4/3 (Szegedy et al. 2015).
    pca_colour: standard deviation of the PCA colour shift (Krizhevsky et al. 2012), 0 = off.
    policy: "rand" draws `policy_ops` random operations, applies each half of the time, and at
    strength `policy_magnitude` in 0..10, itself normal with deviation `policy_std` (RandAugment,
    Cubuk et al. 2020, as in timm); "trivial" applies one of any strength (TrivialAugment, Mueller
    and Hutter 2021).
    mixup, cutmix: the alpha of Zhang et al. 2018 and Yun et al. 2019, 0 = off; a batch takes one
    of the two where both are on, and `mix_probability` is the share of batches that are mixed.
    erase: share of pictures of which a random rectangle is erased (Zhong et al. 2020).
    repeats: times a picture occurs in a batch, differently augmented (Hoffer et al. 2020); an
    epoch stays as long and sees 1 / repeats of the pictures.
    """

    crop: Literal["none", "pad", "scale-jitter", "random-resized"] = "none"
    pad: int = 4
    scale: tuple[float, float] = (0.35, 1.0)
    flip: bool = False
    pca_colour: float = 0.0
    policy: Literal["none", "rand", "trivial"] = "none"
    policy_ops: int = 2
    policy_magnitude: float = 7.0
    policy_std: float = 0.5
    mixup: float = 0.0
    cutmix: float = 0.0
    mix_probability: float = 1.0
    erase: float = 0.0
    repeats: int = 1


@dataclass(frozen=True, kw_only=True)
class DataSpec:
    """Where pictures come from and how they reach the net.

    source: a name ("digits", "fashion-mnist", "cifar10", "cifar100"), "hub:ORG/NAME", or a path:
    a folder of class folders, a tar of one, ImageNet's own layout, a packed set, a CSV of
    path,label, Parquet, Arrow or WebDataset files, or a folder with IDX or CIFAR files.
    truth: file with the labels of a flat validation folder (ImageNet's ground truth), where it is
    not found beside it.
    labels_from: what says the class of an image of a folder or archive: "auto" = class folders, in
    split folders or not, or a table beside flat ones; "folder" = every folder at the top is a
    class, whatever it is called; "name" = what comes before the number in the file's name.
    streaming: read Parquet, WebDataset and Hub sets block by block, in an order that is random
    within `shuffle_buffer` pictures, without copying them first.
    quarantine: file that lists pictures to leave out, as `resnets data check` writes it; None =
    quarantine.txt in the source's folder, where there is one.
    max_bad: share of the training pictures that may be unreadable before a run stops; one always
    may, unless it is 0. Each unreadable one is named; training takes another picture in its place,
    evaluation leaves it out and says so.
    size: pixels of the square the net sees; None = as stored (small sets only).
    test_size: the same at test time; None = `size`. Pictures cut at random scales look larger in
    training than at test, which a larger test size makes up for (Touvron et al. 2019, FixRes).
    resize: shorter side before the centre crop at test time; None = `test_size`.
    val_fraction, test_fraction: shares kept for validation and test where the source brings none.
    A source with train/ and val/ but no test/ (ImageNet's layout) is tested on val/, and validated
    on a share of train/.
    split_rule: how those shares are drawn. "identity": each image by `split_seed` and its own path
    below the class folders, so that images added or removed later move no others; at least one of
    each class. "rank": by its place among the sorted files, as versions before did; files that
    do not state a rule are of those.
    overlap: what to do where byte-identical images are both trained on and held out. "refuse" to
    start; "leave-out" of training; "allow", which log, protocols and report then say.
    in_memory: whether the whole set lives as one uint8 tensor; "auto" = when all pictures share
    one size and fit 2 GiB, or when they are read at a fixed size without random scaling.
    grow_from: pixels that training starts with (progressive resizing), None = `size` throughout.
    The size grows linearly to `size` between the two shares `grow_between` of the run, in steps
    of `grow_step` pixels.
    value_range: values of images with more than 8 bits that become 0 and 255; None = measured on
    the training images, where those fill less than half of 16 bits. It travels with the weights.
    workers: decode threads, 0 = one per core. Never changes a result.
    """

    source: str = "digits"
    size: int | None = None
    test_size: int | None = None
    resize: int | None = None
    val_fraction: float = 0.1
    test_fraction: float = 0.2
    split_seed: int = 0
    split_rule: Literal["identity", "rank"] = "identity"
    overlap: Literal["refuse", "leave-out", "allow"] = "refuse"
    normalise: Literal["per-pixel-mean", "channel", "imagenet"] = "channel"
    in_memory: Literal["auto", "always", "never"] = "auto"
    grow_from: int | None = None
    grow_between: tuple[float, float] = (0.35, 0.8)
    grow_step: int = 32
    workers: int = 0
    truth: str | None = None
    labels_from: Literal["auto", "folder", "name"] = "auto"
    streaming: bool = False
    shuffle_buffer: int = 10_000
    quarantine: str | None = None
    max_bad: float = 0.01
    value_range: tuple[float, float] | None = None
    augment: AugmentSpec = field(default_factory=AugmentSpec)

    def __post_init__(self) -> None:
        for name in ("val_fraction", "test_fraction", "max_bad"):
            if not 0 <= getattr(self, name) < 1:
                raise ConfigError(f"data.{name}: {getattr(self, name)} is not in [0, 1)")
        if self.value_range is not None and not self.value_range[0] < self.value_range[1]:
            raise ConfigError(
                f"data.value_range: {self.value_range}: the first must be below the second"
            )
        if self.test_size in (None, self.size):
            return
        if self.size is None or self.augment.crop not in ("scale-jitter", "random-resized"):
            raise ConfigError(
                f"data.test_size: {self.test_size} differs from data.size {self.size}; that needs "
                "data.augment.crop 'scale-jitter' or 'random-resized', and a size"
            )

    @property
    def tested_at(self) -> int | None:
        """Pixels of the square the net sees at test time; None = as stored."""
        return self.test_size or self.size


@dataclass(frozen=True, kw_only=True)
class Preprocess:
    """From a picture to the net's input; travels with the weights.

    A picture becomes `channels` planes (1 grey, 3 RGB), its shorter side `resize` px (antialiased
    `interpolation`), its centre crop `size` px, its values (x / 255 - mean) / std. With
    `mean_image` the checkpoint carries a mean picture (C, size, size) in 0..1 in place of `mean`.
    value_range: values of images with more than 8 bits that become x = 0 and 255; None = 0 and
    65,535.
    """

    size: int = 224
    resize: int = 256
    channels: int = 3
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"
    channel_order: Literal["rgb", "bgr"] = "rgb"
    mean_image: bool = False
    value_range: tuple[float, float] | None = None
