"""Detection, localization and segmentation on the stages of a model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from resnets.config.ranges import check_ranges
from resnets.utils.errors import ConfigError

ClassMapScheme = Literal["", "ids", "binary", "voc", "cityscapes", "cityscapes-trainids"]
AnnotationFormat = Literal[
    "", "coco", "voc", "yolo", "labelme", "cvat", "rle", "rle-columns", "rle-rows"
]
Head = Literal["fpn", "c4", "fcn", "deeplabv3", "pcr", "rcnn"]

MAX_TEST_SIZE = 8192  # px
RANGES = {
    **dict.fromkeys(("pyramid_width", "region_width", "rpn_batch_size"), "[1, inf)"),
    **dict.fromkeys(("box_batch_size", "max_detections", "proposals", "roi_size"), "[1, inf)"),
    **dict.fromkeys(("score_threshold", "nms_threshold"), "[0, 1]"),
    "anchor_sizes": "[1, inf)",
    "anchor_ratios": "(0, inf)",
    "aux_loss_weight": "[0, inf)",
    "repeat_threshold": "[0, 1)",
}


@dataclass(frozen=True, kw_only=True)
class DetectSpec:
    """Detection, localization and segmentation: training images, head and test.

    Attributes:
        train_set: Image sets to train on, joined by + ("train", "train2017",
            "VOC2007:trainval+VOC2012:trainval"); "" is the source's own training split. "val1" and
            "val2", where the source has no such lists, are halves of "val" by class.
        val_set: Image sets to validate on; "" is the source's own, or held-out training images.
        test_set: Image sets to test on; "" is the source's own test split, or its validation split.
        train_sizes: [px] Shorter sides, one drawn for each training image (scale jitter).
        max_size: [px] Upper limit of the longer side, in training and at test.
        scale: [factor] Range of a random factor on the drawn size: 0.5 to 2.0 for semantic
            segmentation.
        crop: [px] Side of the square that semantic segmentation trains on.
        train_crop: [px] Side of the random square that a localizer trains on, with half of the area
            of an object or more where one fits; it is then tested on the center square, or with
            `test_sizes` on the whole image. None is whole images (the paper, appendix C).
        flip: Horizontal flip of training images with probability 0.5.
        flip_vertical: Vertical flip of training images with probability 0.5.
        group_aspect: Batches of wide or of tall images only, so that little is padded.
        keep_empty: Train on images without objects too.
        keep_difficult: Train on objects that VOC marks as difficult too; they are never tested.
        repeat_threshold: [fraction] Repeat images of classes that are in fewer than this fraction
            of the images; 0 is off, 0.001 is for LVIS (Gupta et al. 2019).
        format: Annotation format to read if there are several; "" is the first of coco, cvat, voc,
            labelme, yolo and rle. "rle" is refused where its runs fit rows better than columns;
            "rle-columns" and "rle-rows" specify the direction of the runs.
        skip_invalid: Exclude invalid annotations instead of refusing to train.
        apply_exif: Boxes refer to images rotated as their EXIF data says, where the annotated size
            does not tell; otherwise such images are refused.
        class_map: Encoding of the pixels of label maps (class maps): "ids" the numbers of the file
            that names the classes; "binary" 0, and 1 or 255; "voc" and "cityscapes" their numbers
            or colors; "cityscapes-trainids" its trainIds. "" is "ids", and refuses maps of 0 and
            255 alone.
        class_map_folder: Folder that contains the label maps ("1st_manual"), or several joined by
            +; "" is found by its name or by its files, and refused where several folders match the
            images one to one.
        head: "fpn" is a feature pyramid (Lin et al. 2017). "c4" runs the last stage on each region
            (the paper, appendix A; for VGG, Ren et al. 2015). "fcn" and "deeplabv3" are for task
            "segment" (Long et al. 2015, Chen et al. 2017). "pcr" and "rcnn" are for task "localize"
            (the paper, appendix C).
        pyramid_from: [stage] First stage that feeds the pyramid; None is the first of stride 4 (1
            for CIFAR networks).
        pyramid_width: [channels] Width of the pyramid.
        region_width: [units] Width of the two fully connected layers on each region.
        anchor_sizes: [px] Sides of the anchors. A pyramid takes one per level (one more than the
            stages that feed it); "c4" takes any number.
        anchor_ratios: [factor] Height over width of the anchors.
        roi: Pooling of region features: bilinear sampling ("align", He et al. 2017) or maximum
            ("pool", Girshick 2015).
        roi_size: [cells] Side of a region after that; None is 7 on a pyramid and for VGG, 14 for
            "c4".
        context: Append the features of the whole image to those of each region (the paper, appendix
            B).
        recompute_norm: Replace the running statistics of batch norms by averages over the detection
            training set, in padded batches, before training. This is not what the paper does:
            `resnets recompute-norm` averages over the classifier's training set.
        rpn_batch_size: [anchors] Anchors sampled per image for the loss of the proposals (Ren et
            al. 2015).
        box_batch_size: [regions] Regions sampled per image for the loss of the boxes (Girshick
            2015).
        proposals: [boxes] Proposals kept per image, in training and at test.
        aux_loss_weight: [weight] Weight of the loss of a second FCN head on the stage before the
            last, for task "segment".
        proposals_from: Run with the same network whose proposals are used: a "pcr" localizer for
            "rcnn", or for a detector with `train_part` "regions" one that was trained with
            "proposals".
        train_part: "all" trains both halves of a detector together (approximate joint training).
            The four steps of alternating training take one half each: "proposals" trains the RPN,
            "regions" what runs on its proposals (Ren et al. 2015, section 3.2).
        freeze_shared: The layers that both halves share stay as the weights have them, as in the
            last two of the four steps (Ren et al. 2015, section 3.2).
        score_threshold: [probability] Lowest score of a detection.
        nms_threshold: [IoU] Overlap above which the weaker of two boxes of a class is suppressed.
        max_detections: [boxes] Maximum number of detections per image.
        refine: Box refinement: RoI features are pooled again at the regressed boxes, followed by
            box voting (the paper, appendix B).
        test_sizes: [px] Shorter sides of an image pyramid at test; () is one scale, the last of
            `train_sizes`. Detectors merge the two scales that suit a region by maxout, localizers
            read the whole image at each ("dense") and keep the most confident box of a class (the
            paper, appendices B and C).
    """

    train_set: str = ""
    val_set: str = ""
    test_set: str = ""
    train_sizes: tuple[int, ...] = (600,)
    max_size: int = 1000
    scale: tuple[float, float] = (1.0, 1.0)
    crop: int = 480
    train_crop: int | None = None
    flip: bool = True
    flip_vertical: bool = False
    group_aspect: bool = True
    keep_empty: bool = False
    keep_difficult: bool = False
    repeat_threshold: float = 0.0
    format: AnnotationFormat = ""
    skip_invalid: bool = False
    apply_exif: bool = False
    class_map: ClassMapScheme = ""
    class_map_folder: str = ""
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
    rpn_batch_size: int = 256
    box_batch_size: int = 512
    proposals: tuple[int, int] = (2000, 1000)
    aux_loss_weight: float = 0.0
    proposals_from: str | None = None
    train_part: Literal["all", "proposals", "regions"] = "all"
    freeze_shared: bool = False
    score_threshold: float = 0.05
    nms_threshold: float = 0.5
    max_detections: int = 100
    refine: bool = False
    test_sizes: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        self._check_images()
        self._check_model()

    def _check_model(self) -> None:
        check_ranges(self, "detect.", RANGES)
        for name in ("anchor_sizes", "anchor_ratios"):
            if not getattr(self, name):
                raise ConfigError(f"detect.{name}: is empty; give at least one")
        check_test_sizes(self.test_sizes)

    def _check_images(self) -> None:
        if not self.train_sizes or min(self.train_sizes) < 16:
            raise ConfigError(
                f"detect.train_sizes: {self.train_sizes} must be sides of at least 16 px"
            )
        if self.max_size < max(self.train_sizes):
            raise ConfigError(
                f"detect.max_size: {self.max_size} px is less than the shorter side"
                f" {max(self.train_sizes)} px of detect.train_sizes"
            )
        if not 0 < self.scale[0] <= self.scale[1]:
            raise ConfigError(
                f"detect.scale: {self.scale} must be a range of positive factors, such as "
                "(0.5, 2.0)"
            )
        for name in ("crop", "train_crop"):
            if (side := getattr(self, name)) is not None and side < 16:
                raise ConfigError(f"detect.{name}: {side} px must be at least 16")


def check_test_sizes(sizes: tuple[int, ...]) -> None:
    """Raise ConfigError if a shorter side [px] of `sizes`, detect.test_sizes, is out of range."""
    if any(not 16 <= size <= MAX_TEST_SIZE for size in sizes):
        raise ConfigError(
            f"detect.test_sizes (--scales): {', '.join(map(str, sizes))} must be sides of 16 to "
            f"{MAX_TEST_SIZE:,} px"
        )
