"""Detection, localization and segmentation on the models of the catalog."""

from __future__ import annotations

import dataclasses
from typing import cast, get_args

from resnets.config import (
    DataSpec,
    DetectSpec,
    EvalSpec,
    FinetuneSpec,
    ModelSpec,
    OptimSpec,
    Recipe,
    ScheduleSpec,
)
from resnets.config.detect import Head
from resnets.models import catalog

DILATED = 2  # last stages of a segmenter's model that are dilated (output stride 8)
IMAGENET = "torchvision:IMAGENET1K_V1"


def split_name(name: str, default: Head) -> tuple[ModelSpec, Head]:
    """Split a name such as resnet50-fpn, resnet101-c4 or resnet50-deeplabv3 into model and head.

    A name without a head gets `default`; for a VGG "c4" replaces "fpn". The last stages of models
    for segmentation are dilated. Raises ConfigError as `catalog.spec` does.
    """
    net, dash, end = name.rpartition("-")
    if dash and end in get_args(Head):
        spec, head = catalog.spec(net), cast(Head, end)
    else:
        spec = catalog.spec(name)
        head = "c4" if spec.is_vgg and default == "fpn" else default
    if head in ("fcn", "deeplabv3"):
        spec = dataclasses.replace(spec, dilate=DILATED)
    return spec, head


def detect(net: str = "resnet50-fpn") -> Recipe:
    """Faster R-CNN with a feature pyramid, the "1x" schedule: 12 passes over COCO, batch 16.

    Shorter side 800, longer at most 1333, lr 0.02 divided by 10 after 2/3 and 8/9, batch norms with
    the statistics of the ImageNet weights (Lin et al. 2017; detectron2's R50-FPN 1x).
    Command: resnets train detect --data COCO. Hardware and time: not measured; eight GPUs, or one
    GPU with batch_size=2 and optim.lr=0.0025. Expected: mAP 37 on COCO val for resnet50-fpn. Not
    run here at full length: COCO was not available.
    """
    spec, head = split_name(net, "fpn")
    return Recipe(
        name="detect",
        task="detect",
        model=spec,
        data=DataSpec(source="coco", normalize="imagenet"),
        detect=DetectSpec(
            head=head, train_sizes=(800,), max_size=1333, anchor_sizes=_anchors(spec, head)
        ),
        optim=OptimSpec(lr=0.02, weight_decay=1e-4),
        schedule=ScheduleSpec(kind="steps", milestones=(2 / 3, 8 / 9), warmup=0.005),
        finetune=FinetuneSpec(freeze_norm=True),
        duration="12ep",
        batch_size=16,
        weights=IMAGENET,
        log_every="20it",
    )


def detect_paper(net: str = "resnet101-c4") -> Recipe:
    """The paper's detector and its schedule for COCO (appendix A).

    conv1 to conv4 shared, RoI pooling before conv5 (to 14 px; the paper does not say), conv5 on
    each region, batch norms frozen, shorter side 600, 300 proposals, lr 1e-3 for 240k iterations
    and 1e-4 for 80k. There are three differences, each of which can be changed to follow the paper:

    - the fixed batch norm statistics are those of the weights, which are moving averages in
      torchvision's; the paper's are averages over the ImageNet training set: resnets recompute-norm
      torchvision:resnet101.IMAGENET1K_V1 --data IMAGENET --out FIXED, then --set weights=FIXED;
    - proposals and regions are trained jointly (approximate joint training), while the paper trains
      in four steps with batches of 8 (RPN) and 16 (Fast R-CNN) images; here both use 16 images per
      step. The four steps are four commands (docs/detect.md, "Alternating training");
    - resnet101 has its stride in the 3x3 ("v1.5"), as torchvision's weights have it; the paper's
      has it in the first 1x1 (--model resnet101-v1-c4, with weights of such a network).

    Command: resnets train detect-paper --data COCO [--model resnet101-c4|vgg16]; the additions of
    appendix B with --set detect.context=true, and `resnets evaluate --refine --scales ...`.
    Hardware and time: not measured. Expected (the paper's mAP@.5 / mAP on COCO val): 48.4 / 27.2
    for ResNet-101, 41.5 / 21.2 for VGG-16. Not run here at full length: COCO was not available.
    """
    spec, head = split_name(net, "c4")
    return Recipe(
        name="detect-paper",
        task="detect",
        model=spec,
        data=DataSpec(source="coco", normalize="imagenet"),
        detect=DetectSpec(
            head=head,
            train_sizes=(600,),
            max_size=1000,
            anchor_sizes=(64, 128, 256, 512) if head == "c4" else (32, 64, 128, 256, 512),
            roi="pool" if head == "c4" else "align",
            box_batch_size=128,
            proposals=(2000, 300),
            nms_threshold=0.3,
        ),
        optim=OptimSpec(lr=1e-3, weight_decay=1e-4),
        schedule=ScheduleSpec(kind="steps", milestones=(0.75,)),
        finetune=FinetuneSpec(freeze_norm=True),
        duration="320000it",
        batch_size=16,
        weights=IMAGENET,
        checkpoint_every="5000it",
        log_every="20it",
        eval=EvalSpec(every="20000it"),
    )


def detect_small(net: str = "resnet18-fpn") -> Recipe:
    """Small sets (hundreds of images) of small images, from random weights or a classifier's.

    A pyramid from stride 8 on with half the usual channels, shorter sides of 288 to 352 px,
    horizontal and vertical flips (cells and aerial views have no fixed orientation), batch norms
    trained, averaged weights. Anchors are those of blood cells; set detect.anchor_sizes to the
    sizes of your objects at 320 px.
    Command: resnets train detect-small --data BCCD --set detect.skip_invalid=true (one box of a
    training image and one of a validation image have no area; the images are kept). Hardware and
    time: two CPU cores, under two hours. Expected: mAP@.5 above 0.75 on BCCD's test set; reached
    here: see docs/results.md.
    """
    spec, head = split_name(net, "fpn")
    return Recipe(
        name="detect-small",
        task="detect",
        model=spec,
        data=DataSpec(source="images"),
        detect=DetectSpec(
            head=head,
            train_sizes=(288, 320, 352, 320),
            max_size=640,
            flip_vertical=True,
            pyramid_from=2 if head == "fpn" else None,
            pyramid_width=128,
            region_width=256,
            anchor_sizes=(28, 64, 128, 256),
            rpn_batch_size=128,
            box_batch_size=128,
            proposals=(500, 200),
        ),
        optim=OptimSpec(lr=0.02, weight_decay=1e-4, decay_norm_and_bias=False, clip_norm=10.0),
        schedule=ScheduleSpec(kind="cosine", warmup=0.05),
        eval=EvalSpec(every="10ep"),
        duration="50ep",
        batch_size=4,
        ema_decay=0.998,
        log_every="10it",
    )


def instances(net: str = "resnet50-fpn") -> Recipe:
    """Mask R-CNN (He et al. 2017): the recipe `detect` with a mask for each box.

    Command: resnets train instances --data COCO. Hardware and time: not measured. Expected: 38 box
    mAP and 35 mask mAP on COCO val for resnet50-fpn. Not run here at full length: COCO was not
    available.
    """
    return dataclasses.replace(detect(net), name="instances", task="instances")


def segment(net: str = "resnet50-deeplabv3") -> Recipe:
    """Semantic segmentation: DeepLabV3 (Chen et al. 2017) or FCN on stages dilated to stride 8.

    Random scales of 0.5 to 2, 480 px crops, an auxiliary head, batch norms trained (torchvision's
    reference recipe). Command: resnets train segment --data VOC2012 [--model resnet50-fcn].
    Hardware and time: not measured. Expected: about 66% mean IoU on VOC 2012 val from ImageNet
    weights with COCO images, less on VOC alone. Not run here at full length.
    """
    spec, head = split_name(net, "deeplabv3")
    return Recipe(
        name="segment",
        task="segment",
        model=spec,
        data=DataSpec(source="voc2012", normalize="imagenet"),
        detect=DetectSpec(
            head=head,
            train_sizes=(520,),
            max_size=1040,
            scale=(0.5, 2.0),
            crop=480,
            aux_loss_weight=0.5,
        ),
        optim=OptimSpec(lr=0.02, weight_decay=1e-4),
        schedule=ScheduleSpec(kind="linear", warmup=0.02),
        finetune=FinetuneSpec(layer_decay=0.9),
        duration="30ep",
        batch_size=16,
        weights=IMAGENET,
        log_every="20it",
    )


def localize(net: str = "resnet50-pcr") -> Recipe:
    """One class and one box per image, as in ImageNet's localization task (the paper's appendix C).

    Per-class regression (PCR), an RPN with boxes per class, trained on batches of 256 random crops
    of 224 px of images whose shorter side is 256 to 480 px: 8 anchors per image, half of them
    positive. Then R-CNN on its 200 best proposals, also per class, 256 regions per batch, a quarter
    of them positive (4 of each of 64 images; the paper draws them from all images): resnets train
    localize --model resnet50-rcnn --set detect.proposals_from=runs/localize-1. The paper takes the
    class from other networks: resnets evaluate runs/localize-1 --classes-from NET [NET ...];
    without this option, the class comes from a linear layer trained with the RPN. Tested on the
    center crop; --scales 224,256,384,480,640 applies the network to the whole image at each.

    Not from the paper: learning rate and length, anchor sizes, how much of an object a crop must
    contain, and the choice of the most confident box over all scales.
    Command: resnets train localize --data ILSVRC2012 (Data/ and Annotations/CLS-LOC).
    Hardware and time: not measured. Expected: not known; the paper's errors are of ResNet-101.
    Not run here at full length: ImageNet was not available.
    """
    spec, head = split_name(net, "pcr")
    return Recipe(
        name="localize",
        task="localize",
        model=spec,
        data=DataSpec(source="imagenet", normalize="imagenet"),
        detect=DetectSpec(
            head=head,
            train_sizes=(256,),
            max_size=1024,
            scale=(1.0, 480 / 256),
            train_crop=224,
            anchor_sizes=(64, 128, 224),
            rpn_batch_size=8,
            box_batch_size=4 if head == "rcnn" else 512,
            proposals=(200, 200) if head == "rcnn" else (2000, 1000),
            group_aspect=False,
        ),
        optim=OptimSpec(lr=0.01 if head == "rcnn" else 0.04, weight_decay=1e-4),
        schedule=ScheduleSpec(kind="cosine", warmup=0.05),
        duration="30ep",
        batch_size=64 if head == "rcnn" else 256,
        weights=IMAGENET,
        log_every="20it",
    )


def _anchors(spec: ModelSpec, head: Head) -> tuple[int, ...]:
    """Anchor sizes in px: 32 to 512, or 8 times the strides of a pyramid without five levels."""
    levels = len(spec.depths) - (1 if spec.is_vgg else 0)
    if head != "fpn" or levels == 4:
        return (32, 64, 128, 256, 512)
    return tuple(8 * 2**level for level in range(levels + 1))
