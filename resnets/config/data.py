"""Where images come from, how they are changed at random, and how a model sees them."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import Literal

from resnets.config.ranges import check_ranges
from resnets.utils.errors import ConfigError

AUGMENT_RANGES = {
    **dict.fromkeys(("random_erase", "mix_probability", "grayscale", "blur"), "[0, 1]"),
    **dict.fromkeys(
        ("pad", "mixup", "cutmix", "pca_color", "policy_ops", "policy_std"), "[0, inf)"
    ),
    "policy_magnitude": "[0, 10]",
    "repeats": "[1, inf)",
}
DATA_RANGES = {
    **dict.fromkeys(("val_fraction", "test_fraction", "max_unreadable"), "[0, 1)"),
    **dict.fromkeys(("size", "test_size", "resize", "grow_from", "grow_step"), "[1, inf)"),
    **dict.fromkeys(("shuffle_buffer", "channels"), "[1, inf)"),
    **dict.fromkeys(("workers", "fold"), "[0, inf)"),
    "train_fraction": "(0, 1]",
}


@dataclass(frozen=True, kw_only=True)
class AugmentSpec:
    """Random augmentation of training images, a function of (seed, epoch, sample).

    Attributes:
        crop: Random crop. "pad" pads with zeros by `pad` and crops back, for CIFAR (the paper,
            section 4.2); "scale-jitter" samples the shorter side from `scale` and crops (the paper,
            section 3.4); "random-resized" samples an area fraction from `scale` and an aspect ratio
            of 3/4 to 4/3 (Szegedy et al. 2015).
        pad: [px] Zero padding on each side, for crop "pad".
        scale: [px or fraction] Range of the shorter side in px for crop "scale-jitter"; of the area
            fraction for "random-resized".
        flip: Horizontal flip with probability 0.5.
        flip_rule: When `flip` flips an image. "random": a draw in each epoch. "alternate": in
            every other epoch, from a random one on, so that two epochs have both (Jordan 2024).
        vertical_flip: Vertical flip with probability 0.5, for images without a canonical
            orientation: microscopes, satellites.
        rotate90: Rotate each image by 0, 90, 180 or 270 degrees with equal probability.
        color_jitter: [fraction] Brightness, contrast, saturation and hue: factors from
            1 - v to 1 + v, hue by -v to v of the circle (at most 0.5), in random order
            (torchvision's ColorJitter; Szegedy et al. 2015).
        grayscale: [probability] Probability that an image is converted to grayscale (Chen et al.
            2020).
        blur: [probability] Probability that an image is blurred by a Gaussian filter (Chen et al.
            2020).
        blur_sigma: [px] Range of its standard deviation.
        pca_color: [std] Standard deviation of the step along the principal components of the
            colors; 0 is off (Krizhevsky et al. 2012).
        policy: "rand" applies random operations (RandAugment, Cubuk et al. 2020, as in timm);
            "trivial" one operation of random magnitude (TrivialAugment, Müller and Hutter 2021).
        policy_ops: [operations] Operations drawn per image, each applied with probability 0.5, for
            policy "rand".
        policy_magnitude: [0 to 10] Mean magnitude of the operations, for policy "rand".
        policy_std: [std] Standard deviation of that magnitude.
        mixup: [alpha] Mix pairs of images with a weight from Beta(alpha, alpha); 0 is off (Zhang et
            al. 2018). If cutmix is on too, each batch uses one of them.
        cutmix: [alpha] Paste a rectangle of another image, of an area from Beta(alpha, alpha); 0 is
            off (Yun et al. 2019).
        mix_probability: [probability] Probability that a batch is mixed.
        random_erase: [probability] Probability that a rectangle of an image is replaced by noise
            (Zhong et al. 2020).
        repeats: [copies] Differently augmented copies of an image in a batch; an epoch keeps its
            length and has 1 / repeats of the distinct images (Hoffer et al. 2020).
    """

    crop: Literal["none", "pad", "scale-jitter", "random-resized"] = "none"
    pad: int = 4
    scale: tuple[float, float] = (0.35, 1.0)
    flip: bool = False
    flip_rule: Literal["random", "alternate"] = "random"
    vertical_flip: bool = False
    rotate90: bool = False
    color_jitter: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 0.0)
    grayscale: float = 0.0
    blur: float = 0.0
    blur_sigma: tuple[float, float] = (0.1, 2.0)
    pca_color: float = 0.0
    policy: Literal["none", "rand", "trivial"] = "none"
    policy_ops: int = 2
    policy_magnitude: float = 7.0
    policy_std: float = 0.5
    mixup: float = 0.0
    cutmix: float = 0.0
    mix_probability: float = 1.0
    random_erase: float = 0.0
    repeats: int = 1

    def __post_init__(self) -> None:
        check_ranges(self, "data.augment.", AUGMENT_RANGES)


@dataclass(frozen=True, kw_only=True)
class DataSpec:
    """Where images come from, and how they reach the network.

    Attributes:
        source: A name ("digits", "fashion-mnist", "cifar10", "cifar100"), "hub:ORG/NAME", or a
            path: class folders, an archive of them, ImageNet's layout, a packed data set, a
            path,label table, Parquet, Arrow or WebDataset files, IDX or CIFAR files.
        size: [px] Side of the square input; None uses the stored size, for data sets in which all
            images have one size.
        test_size: [px] Side at test time; None is `size`. Random crops show objects larger than the
            center crop does, which a larger test size compensates (Touvron et al. 2019).
        resize: [px] Shorter side before the center crop at test time; None is `test_size`.
        val_fraction: [fraction] Training images held out for validation where the source has no
            validation split.
        test_fraction: [fraction] Images held out for testing where the source has no test split. A
            source with train/ and val/ but no test/ is tested on val/, and validated on images held
            out of train/.
        split_seed: [seed] Random seed for the choice of held-out images.
        split_rule: "identity" draws each image by `split_seed` and its own path, so that images
            added later move no others; "rank" is the rule of earlier versions, by its index among
            the sorted files.
        train_fraction: [fraction] Fraction of the training images that is used, stratified by
            class; a smaller fraction is a subset of a larger one. `resnets study data` sets it.
        folds: [folds] Parts of equal size that the training images are divided into, stratified
            by class; one is the test split (cross-validation), in place of a test split of the
            source; 0 is off. `resnets folds` sets it.
        fold: [0 to folds - 1] The fold that is the test split.
        group: Images that belong together, such as the frames of a video or the images of a
            patient, and are all trained on or all held out: "column:NAME" is a column of the table
            of labels, "regex:PATTERN" a regular expression, whose first group (or whole match) in
            an image's path within the source names its group.
        overlap: What to do if byte-identical images, or images of one group, are both in training
            and held out: "refuse", "leave-out" (of training), or "allow" and report.
        normalize: Normalization of the input: subtract the mean image of the training set (the
            paper, section 3.4), or standardize each channel by the statistics of the training set
            or of ImageNet. Pretrained weights bring their own.
        in_memory: Keep the whole data set as one uint8 tensor. "auto" does if images share one size
            and fit 2 GiB, or if they are read at a fixed size without random scaling.
        grow_from: [px] Side at which training starts (progressive resizing); None is `size`
            throughout.
        grow_between: [fraction of the run] Start and end of the growth to `size`.
        grow_step: [px] Step by which the side grows.
        workers: [threads] Threads that decode images; 0 is one per core. Does not affect the
            result.
        ground_truth: File with the labels of a flat validation folder (ImageNet's ground truth),
            if it is not found next to it.
        labels_from: Where the class of an image in a folder or archive comes from: "auto" detects
            class folders, split folders and tables; "folder" takes every folder at the top as a
            class; "name" takes the part of the file name before its number.
        balance: Which images an epoch contains. "none": each once. "classes": as many of each
            class: images of rare classes are repeated, some of frequent classes are deferred to
            later epochs; "sqrt": in proportion to the square root of the images of a class
            (Mahajan et al. 2018; Kang et al. 2020). An epoch keeps its length. Not for streamed
            data sets.
        labels: "single" is one label per image. "multi" is any number of labels per image
            ("cat,dog" in a cell, lists, a column of 0 and 1 for each label, COCO's categories),
            trained with the loss "bce". "auto" selects "multi" where a table clearly has several
            labels per image, and reports it.
        streaming: Read Parquet, WebDataset and Hub data sets in blocks, without copying them first.
        shuffle_buffer: [images] Images buffered to shuffle a streamed data set.
        corrections: CSV file of path, label and correction that gives images other labels, as
            written by `resnets folds`; None applies no corrections.
        quarantine: File that lists images to exclude, as `resnets data check` writes it; None is
            quarantine.txt in the folder of the source, if there is one.
        max_unreadable: [fraction] Training images that may be unreadable before a run stops; one
            always may, unless this is 0.
        channels: [channels] Planes of each image: 1 gray, 3 RGB, or the channels of TIFF and NumPy
            (.npy) stacks; None is model.in_channels. The first convolution of pretrained weights is
            adapted to them.
        keep_bits: Read values of more than 8 bits as they are, in float32, in place of 8 bits; the
            network then computes in float32, too (`precision` "auto").
        value_range: [pixel value] Values that become 0 and 255 in images of more than 8 bits; None
            measures them on the training images if those fill less than half of 16 bits. Stored
            with the weights.
        augment: Random augmentation, `AugmentSpec`.
    """

    source: str = "digits"
    size: int | None = None
    test_size: int | None = None
    resize: int | None = None
    val_fraction: float = 0.1
    test_fraction: float = 0.2
    split_seed: int = 0
    split_rule: Literal["identity", "rank"] = "identity"
    train_fraction: float = 1.0
    folds: int = 0
    fold: int = 0
    group: str | None = None
    overlap: Literal["refuse", "leave-out", "allow"] = "refuse"
    normalize: Literal["per-pixel-mean", "channel", "imagenet"] = "channel"
    in_memory: Literal["auto", "always", "never"] = "auto"
    grow_from: int | None = None
    grow_between: tuple[float, float] = (0.35, 0.8)
    grow_step: int = 32
    workers: int = 0
    ground_truth: str | None = None
    labels_from: Literal["auto", "folder", "name"] = "auto"
    balance: Literal["none", "classes", "sqrt"] = "none"
    labels: Literal["auto", "single", "multi"] = "auto"
    streaming: bool = False
    shuffle_buffer: int = 10_000
    corrections: str | None = None
    quarantine: str | None = None
    max_unreadable: float = 0.01
    channels: int | None = None
    keep_bits: bool = False
    value_range: tuple[float, float] | None = None
    augment: AugmentSpec = field(default_factory=AugmentSpec)

    def __post_init__(self) -> None:
        check_ranges(self, "data.", DATA_RANGES)
        if self.folds and not 0 <= self.fold < self.folds:
            raise ConfigError(
                f"data.fold: {self.fold} must be from 0 to below data.folds={self.folds}"
            )
        if self.folds < 0 or self.folds == 1:
            raise ConfigError(f"data.folds: {self.folds} must be at least 2, or 0 for off")
        if self.folds and self.split_rule != "identity":
            raise ConfigError("data.folds: needs data.split_rule 'identity'")
        if self.group is not None:
            parse_group(self.group)
            if self.split_rule != "identity":
                raise ConfigError("data.group: needs data.split_rule 'identity'")
        if self.value_range is not None and not self.value_range[0] < self.value_range[1]:
            raise ConfigError(
                f"data.value_range: {self.value_range}: the first value must be below the second"
            )
        if self.keep_bits and self.channels is None:
            raise ConfigError(
                "data.keep_bits: needs data.channels, the number of channels of an image"
            )
        if self.has_stacks and (self.streaming or self.in_memory == "always"):
            raise ConfigError(
                "data.channels, data.keep_bits: multi-channel stacks cannot be streamed or kept "
                "in memory; set data.streaming to false and data.in_memory to 'auto'"
            )
        if self.test_size in (None, self.size):
            return
        if self.size is None or self.augment.crop not in ("scale-jitter", "random-resized"):
            raise ConfigError(
                f"data.test_size: {self.test_size} differs from data.size {self.size}, which "
                "needs data.augment.crop 'scale-jitter' or 'random-resized', and data.size"
            )

    @property
    def has_stacks(self) -> bool:
        """Whether images have other channels than gray and RGB, or more bits than 8."""
        return self.keep_bits or self.channels not in (None, 1, 3)

    @property
    def group_column(self) -> str | None:
        """The column of the table of labels that `group` names, if it names one."""
        if self.group is None:
            return None
        kind, text = parse_group(self.group)
        return text if kind == "column" else None

    @property
    def tested_at(self) -> int | None:
        """Pixels of the square the model sees at test time; None = as stored."""
        return self.test_size or self.size


def data_source(data: str | PathLike[str]) -> str:
    """Return a data set's name, or absolute path, for `DataSpec.source`; ConfigError for ""."""
    if not str(data).strip():
        raise ConfigError("data: is empty; give the name, folder or file of a data set")
    return str(Path(data).resolve() if Path(data).exists() else data)


def parse_group(group: str) -> tuple[Literal["column", "regex"], str]:
    """Split "column:NAME" or "regex:PATTERN"; raises ConfigError for anything else."""
    kind, _, text = group.partition(":")
    if kind == "regex" and text:
        try:
            re.compile(text)
        except re.error as error:
            raise ConfigError(
                f"data.group: {text!r} is not a valid regular expression: {error}"
            ) from None
        return "regex", text
    if kind == "column" and text:
        return "column", text
    raise ConfigError(
        f"data.group: {group!r} must be column:NAME (a column of the label table) or "
        "regex:PATTERN (a pattern of image paths)"
    )


@dataclass(frozen=True, kw_only=True)
class Preprocess:
    """From an image to the network's input; stored with the weights.

    An image becomes `channels` planes (1 gray, 3 RGB, else those of a stack), its shorter side is
    resized to `resize` px with antialiasing, its center is cropped to `size` px, and its values
    become (x / 255 - mean) / std.

    Attributes:
        size: [px] Side of the center crop.
        resize: [px] Shorter side before the crop.
        channels: [channels] 1 is gray, 3 is RGB; others are those of TIFF and NumPy stacks.
        keep_bits: Values keep more than 8 bits (`data.keep_bits`).
        mean: [fraction of 255] Mean of each channel.
        std: [fraction of 255] Standard deviation of each channel.
        interpolation: Filter of the resizing.
        channel_order: Order in which the network takes the channels.
        mean_image: The checkpoint has a mean image (C, size, size) in 0..1 in place of `mean`.
        value_range: [pixel value] Values that become x = 0 and 255 in images of more than 8 bits;
            None is 0 and 65,535.
    """

    size: int = 224
    resize: int = 256
    channels: int = 3
    keep_bits: bool = False
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"
    channel_order: Literal["rgb", "bgr"] = "rgb"
    mean_image: bool = False
    value_range: tuple[float, float] | None = None

    @property
    def has_stacks(self) -> bool:
        """Whether images have other channels than gray and RGB, or more bits than 8."""
        return self.keep_bits or self.channels not in (1, 3)
