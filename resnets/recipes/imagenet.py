"""ImageNet classification: the paper's recipe, the 90 epochs that followed, and torchvision's."""

from __future__ import annotations

from dataclasses import replace

from resnets.config import (
    AugmentSpec,
    DataSpec,
    EvalSpec,
    LossSpec,
    OptimSpec,
    Recipe,
    ScheduleSpec,
)
from resnets.models import catalog

# Szegedy et al. 2015, as most of the field has it since: 8% to 100% of the area.
INCEPTION_CROP = AugmentSpec(crop="random-resized", scale=(0.08, 1.0), flip=True)


def imagenet_paper(net: str = "resnet50-v1") -> Recipe:
    """Section 3.4: SGD, batch 256, lr 0.1 divided by 10 when the error plateaus, 60e4 iterations.

    Shorter side sampled in [256, 480], random 224 crop, flip, PCA color, per-pixel mean, weight
    decay 1e-4, momentum 0.9, no dropout. The plateau is read on 2% of the training set, so that
    the validation set (tested on) decides nothing. The paper's eight GPUs took 32 images each, over
    which batch norm took its statistics: --set norm_batch=32.
    Command: resnets train imagenet-paper --data IMAGENET (train/ and val/ class folders).
    Hardware and time: eight GPUs; the paper gives no time. Expected (Table 3, ten crops): 22.85%
    top-1 for ResNet-50. Not run here at full length: no ImageNet; run on Imagenette for a few
    iterations.
    """
    return Recipe(
        name="imagenet-paper",
        model=catalog.spec(net),
        data=DataSpec(
            source="imagenet",
            size=224,
            resize=256,
            val_fraction=0.02,
            normalize="per-pixel-mean",
            augment=AugmentSpec(crop="scale-jitter", scale=(256, 480), flip=True, pca_color=0.1),
        ),
        optim=OptimSpec(lr=0.1, momentum=0.9, weight_decay=1e-4),
        schedule=ScheduleSpec(kind="plateau", gamma=0.1, patience=5),
        duration="600000it",
        batch_size=256,
    )


def imagenet_90(net: str = "resnet50") -> Recipe:
    """90 epochs of fb.resnet.torch's successor: Goyal et al. 2017, section 5.1.

    Nesterov SGD, lr 0.1 for a batch of 256 (scale both alike) divided by 10 after 30, 60 and 80
    epochs, 5 epochs of warm-up, weight decay 1e-4 but for norms and biases, random resized crops
    and flips, each block's last norm at zero. All training images are trained on and nothing is
    chosen; the test error is drawn into the curves and decides nothing.
    Command: resnets train imagenet-90 --data IMAGENET.
    Hardware and time: not measured; at the 3,000 images/s that docs/scale.md assumes of one GPU, 11
    hours.
    Expected (their Table 1, one crop): 23.6% top-1 for ResNet-50. Not run here at full length: no
    ImageNet; run on Imagenette for a few iterations.
    """
    return Recipe(
        name="imagenet-90",
        model=catalog.spec(net, zero_init_residual=True),
        data=DataSpec(
            source="imagenet",
            size=224,
            resize=256,
            val_fraction=0.0,
            normalize="imagenet",
            augment=INCEPTION_CROP,
        ),
        optim=OptimSpec(lr=0.1, nesterov=True, weight_decay=1e-4, decay_norm_and_bias=False),
        schedule=ScheduleSpec(kind="steps", milestones=(30 / 90, 60 / 90, 80 / 90), warmup=5 / 90),
        duration="90ep",
        batch_size=256,
        eval=EvalSpec(watch_test=True),
    )


def imagenet_tv2(net: str = "resnet50") -> Recipe:
    """600 epochs at 176 px, tested at 224: the recipe behind torchvision's IMAGENET1K_V2 weights.

    SGD, lr 0.5 for a batch of 1,024, cosine after 5 epochs of warm-up, TrivialAugment, mixup 0.2
    or cutmix 1, random erasing 0.1, label smoothing 0.1, 4 repeats of an image in a batch,
    weight decay 2e-5 but for norms and biases, averaged weights (theirs, every 32 steps with a
    decay of 0.9989, are about these). Source: Vryniotis 2021, "How to Train State-Of-The-Art
    Models Using TorchVision's Latest Primitives", and torchvision's references.
    Command: resnets train imagenet-tv2 --data IMAGENET.
    Hardware and time: not measured here. Expected: 19.1% top-1 for ResNet-50. Not run
    here at full length: no ImageNet; run on Imagenette for a few iterations.
    """
    return Recipe(
        name="imagenet-tv2",
        model=catalog.spec(net),
        data=DataSpec(
            source="imagenet",
            size=176,
            test_size=224,
            resize=232,
            val_fraction=0.0,
            normalize="imagenet",
            augment=replace(
                INCEPTION_CROP, policy="trivial", mixup=0.2, cutmix=1.0, random_erase=0.1, repeats=4
            ),
        ),
        optim=OptimSpec(lr=0.5, weight_decay=2e-5, decay_norm_and_bias=False),
        schedule=ScheduleSpec(kind="cosine", warmup=5 / 600),
        duration="600ep",
        batch_size=1024,
        loss=LossSpec(label_smoothing=0.1),
        ema_decay=0.99997,
        eval=EvalSpec(every="5ep", watch_test=True),
    )
