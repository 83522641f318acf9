"""Detection, localisation and segmentation on the stages of a net."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from resnets.utils.errors import ConfigError

ClassMapScheme = Literal["", "ids", "binary", "voc", "cityscapes", "cityscapes-trainids"]
AnnotationFormat = Literal["", "coco", "voc", "yolo", "labelme", "cvat"]
Head = Literal["fpn", "c4", "fcn", "deeplabv3", "pcr", "rcnn"]


@dataclass(frozen=True, kw_only=True)
class DetectSpec:
    """A detector's head, its pictures and its test (Ren et al. 2015; the paper's appendices).

    Pictures:
    train_set, val_set, test_set: image sets of the source, joined by + ("train", "VOC2007:trainval+
    VOC2012:trainval", "train2017"); "" = its own train, val and test sets, or what stands for them.
    train_sizes: shorter sides in px, one drawn for each training picture (scale jitter).
    max_size: longer side in px that no picture passes, in training and at test.
    scale: range of a random factor on the drawn size (0.5, 2.0 for semantic segmentation).
    crop: side in px of the square that semantic segmentation trains on.
    flip, flip_vertical: mirror half of the training pictures left to right, top to bottom.
    group_aspect: batches of wide or of tall pictures only, so that little is padded.
    keep_empty: train on pictures without objects too.
    keep_difficult: learn objects that VOC marks as difficult too; no test counts them.
    repeat_threshold: repeat pictures of classes that fewer than this share of pictures hold
    (repeat-factor sampling, Gupta et al. 2019; 0.001 for LVIS), 0 = off.
    format: form of the annotations, where a set has several: "coco", "voc", "yolo", "labelme" or
    "cvat"; "" = the first of coco, cvat, voc, labelme and yolo that is there.
    skip_bad: leave out bad annotations instead of refusing to train.
    upright: boxes are for images as EXIF turns them, where their size does not tell; else those
    images are refused.
    class_map: what the pixels of class maps mean (task "segment"). "ids": the numbers of the file
    that names the classes; "binary": 0, and 1 or 255; "voc": VOC's numbers or colors;
    "cityscapes": its labelIds or colors, "cityscapes-trainids": its trainIds. 255 is ignored, but
    for "binary". "" = "ids", refused for maps of 0 and 255 alone.

    Model:
    head: "fpn" reads a feature pyramid (Lin et al. 2017); "c4" runs the net's last stage on each
    region (the paper's appendix A; for VGG its fc6 and fc7, Ren et al. 2015). "fcn" and
    "deeplabv3" label pixels, for task "segment". "pcr" puts one box a class, "rcnn" looks again at
    its proposals, for task "localise" (appendix C).
    pyramid_from: first stage that feeds the pyramid; None = the first at stride 4 (CIFAR: 1).
    pyramid_width, region_width: channels of the pyramid; units of fc6 and fc7 on it.
    anchor_sizes, anchor_ratios: sides of the anchors in px, and their heights over their widths.
    A pyramid takes one size a level (one more than the stages that feed it); c4 takes any number.
    roi: regions are cut from the maps by bilinear samples ("align", He et al. 2017) or by maxima
    ("pool", Girshick 2015). roi_size: their side; None = 7 on a pyramid and for VGG, 14 for c4.
    context: append the vector of the whole picture to that of each region (appendix B).
    recompute_norm: replace the statistics of batch norms by true averages over the detection
    training set before training; with finetune.freeze_norm they then stay (the paper's appendix A
    takes them on ImageNet's training set instead).
    anchors, regions: drawn from each picture for the two losses. proposals: boxes that the first
    half hands to the second, in training and at test.
    auxiliary: weight of a second FCN head, on the stage before the last ("segment").
    proposals_from: run of a "pcr" localiser, of the same net, whose boxes "rcnn" starts from.

    Test:
    score_threshold, nms, max_detections: least score, overlap above which the weaker of two boxes
    goes, and most boxes a picture.
    refine: regions are read again at their regressed boxes, old and new boxes are suppressed
    together at an overlap of 0.3, and each vote moves them (appendix B).
    test_sizes: shorter sides of an image pyramid; each region is read at the two that suit it
    best, merged by maxout (appendix B). () = one scale, the last of train_sizes.
    """

    train_set: str = ""
    val_set: str = ""
    test_set: str = ""
    train_sizes: tuple[int, ...] = (600,)
    max_size: int = 1000
    scale: tuple[float, float] = (1.0, 1.0)
    crop: int = 480
    flip: bool = True
    flip_vertical: bool = False
    group_aspect: bool = True
    keep_empty: bool = False
    keep_difficult: bool = False
    repeat_threshold: float = 0.0
    format: AnnotationFormat = ""
    skip_bad: bool = False
    upright: bool = False
    class_map: ClassMapScheme = ""
    head: Head = "fpn"
    pyramid_from: int | None = None
    pyramid_width: int = 256
    region_width: int = 1024
    anchor_sizes: tuple[int, ...] = (32, 64, 128, 256, 512)
    anchor_ratios: tuple[float, ...] = (0.5, 1.0, 2.0)
    roi: Literal["align", "pool"] = "align"
    roi_size: int | None = None
    context: bool = False
    recompute_norm: bool = False
    anchors: int = 256
    regions: int = 512
    proposals: tuple[int, int] = (2000, 1000)
    auxiliary: float = 0.0
    proposals_from: str | None = None
    score_threshold: float = 0.05
    nms: float = 0.5
    max_detections: int = 100
    refine: bool = False
    test_sizes: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        self._check_pictures()
        self._check_model()

    def _check_model(self) -> None:
        counts = ("pyramid_width", "region_width", "anchors", "regions", "max_detections")
        for name in counts:
            if getattr(self, name) < 1:
                raise ConfigError(f"detect.{name}: {getattr(self, name)} must be at least 1")
        if not self.anchor_sizes or min(self.anchor_sizes) < 1:
            raise ConfigError(f"detect.anchor_sizes: {self.anchor_sizes}; give sides in pixels")
        if not self.anchor_ratios or min(self.anchor_ratios) <= 0:
            raise ConfigError(f"detect.anchor_ratios: {self.anchor_ratios} must be above 0")
        if min(self.proposals) < 1:
            raise ConfigError(f"detect.proposals: {self.proposals} must be at least 1")
        for name in ("score_threshold", "nms"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"detect.{name}: {getattr(self, name)} is not in 0..1")
        if any(size < 16 for size in self.test_sizes):
            raise ConfigError(f"detect.test_sizes: {self.test_sizes}; give sides of 16 px or more")

    def _check_pictures(self) -> None:
        if not self.train_sizes or min(self.train_sizes) < 16:
            raise ConfigError(f"detect.train_sizes: {self.train_sizes}; give sides of 16 px up")
        if self.max_size < max(self.train_sizes):
            raise ConfigError(
                f"detect.max_size: {self.max_size} px is less than the shorter side"
                f" {max(self.train_sizes)} px of detect.train_sizes"
            )
        if not 0 < self.scale[0] <= self.scale[1]:
            raise ConfigError(f"detect.scale: {self.scale} is no range of positive factors")
        if self.crop < 16:
            raise ConfigError(f"detect.crop: {self.crop} px; give 16 or more")
        if not 0 <= self.repeat_threshold < 1:
            raise ConfigError(f"detect.repeat_threshold: {self.repeat_threshold} is not in [0, 1)")
