"""ImageNet: the paper's recipe, 90 epochs, torchvision's, FFCV's, and "ResNet strikes back"."""

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

# Szegedy et al. 2015 (8% to 100% of the area), the usual augmentation since.
INCEPTION_CROP = AugmentSpec(crop="random-resized", scale=(0.08, 1.0), flip=True)


def imagenet_paper(net: str = "resnet50-v1") -> Recipe:
    """Section 3.4: SGD, batch 256, lr 0.1 divided by 10 when the error plateaus, 60e4 iterations.

    Shorter side sampled in [256, 480], random 224 crop, flip, PCA color, per-pixel mean, weight
    decay 1e-4, momentum 0.9, no dropout. The plateau is detected on 2% of the training set, so that
    the validation set, which is the test set, is not used for any choice. The paper used eight GPUs
    with 32 images each, over which batch norm computes its statistics: --set norm_batch=32.
    Command: resnets train imagenet-paper --data IMAGENET (train/ and val/ class folders).
    Hardware and time: eight GPUs; the paper gives no time. Expected (Table 3, ten crops): 22.85%
    top-1 for ResNet-50. Not run here at full length: ImageNet was not available. Run on Imagenette
    for a few iterations.
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
    """ResNet-50 baseline of Goyal et al. 2017, section 5.1: 90 epochs.

    Nesterov SGD, lr 0.1 for a batch of 256 (scale both together) divided by 10 after 30, 60 and 80
    epochs, 5 epochs of warm-up, weight decay 1e-4 except for norms and biases, random resized crops
    and flips, each block's last norm at zero. All training images are used and no weights are
    selected; the test error is only plotted.
    Command: resnets train imagenet-90 --data IMAGENET.
    Hardware and time: not measured; at the 3,000 images/s that docs/scale.md assumes for one GPU,
    11 hours. Expected (their Table 1, one crop): 23.6% top-1 for ResNet-50. Not run here at full
    length: ImageNet was not available. Run on Imagenette for a few iterations.
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
    or cutmix 1, random erasing 0.1, label smoothing 0.1, 4 repeats of an image in a batch, weight
    decay 2e-5 except for norms and biases, averaged weights (approximately theirs, which are
    averaged every 32 steps with a decay of 0.9989). Source: Vryniotis 2021, "How to Train
    State-Of-The-Art Models Using TorchVision's Latest Primitives", and torchvision's references.
    Command: resnets train imagenet-tv2 --data IMAGENET.
    Hardware and time: not measured here. Expected: 19.1% top-1 for ResNet-50. Not run here at full
    length: ImageNet was not available. Run on Imagenette for a few iterations.
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


def imagenet_fast_16(net: str = "resnet50") -> Recipe:
    """16 epochs: images grow from 160 to 192 px during epochs 11 to 13; tested at 256 px.

    SGD, lr 0.5 for a batch of 1,024, with a warm-up of 2 epochs and linear decay to 0, label
    smoothing 0.1, weight decay 1e-4 (5e-5 for models of basic blocks) except for norms and biases,
    channels_last. FFCV uses eight GPUs with 512 images each at lr 1.7, which is the same rate per
    image. FFCV's networks have blurred subsampling: --set model.blur_pool=true; off here. Source:
    Leclerc et al. 2023, rn50_configs of ffcv-imagenet. The speed is limited by data loading: pack
    the images first (resnets data pack).
    Command: resnets train imagenet-fast-16 --data IMAGENET.
    Hardware and time: theirs took 15 minutes on eight A100. Expected (with blurring, and scores
    averaged over an image and its mirror image): 26.2% top-1 for ResNet-50, 33.1% for ResNet-18.
    Not run here at full length: ImageNet was not available. Run on Imagenette for a few iterations.
    """
    return _fast(net, 16, grow_between=(11 / 16, 13 / 16))


def imagenet_fast_18(net: str = "resnet50") -> Recipe:
    """18 epochs, otherwise as imagenet-fast-16.

    Command: resnets train imagenet-fast-18 --data IMAGENET.
    Hardware and time: 17 minutes on eight A100, estimated from the speed of the other two.
    Expected: between the 26.2% that FFCV publishes for 16 epochs and its 24.4% for 24. Not run here
    at full length: ImageNet was not available. Run on Imagenette for a few iterations.
    """
    return _fast(net, 18, grow_between=(11 / 16, 13 / 16))


def imagenet_fast_40(net: str = "resnet50") -> Recipe:
    """40 epochs, otherwise as imagenet-fast-16; images grow during epochs 29 to 34.

    Command: resnets train imagenet-fast-40 --data IMAGENET.
    Hardware and time: theirs took 36 minutes on eight A100. Expected (as there): 22.8% top-1 for
    ResNet-50, 29.4% for ResNet-18.
    Not run here at full length: ImageNet was not available. Run on Imagenette for a few iterations.
    """
    return _fast(net, 40, grow_between=(29 / 40, 34 / 40))


def _fast(net: str, epochs: int, grow_between: tuple[float, float]) -> Recipe:
    model = catalog.spec(net)
    return Recipe(
        name=f"imagenet-fast-{epochs}",
        model=model,
        data=DataSpec(
            source="imagenet",
            size=192,
            test_size=256,
            resize=292,
            val_fraction=0.0,
            normalize="imagenet",
            grow_from=160,
            grow_between=grow_between,
            augment=INCEPTION_CROP,
        ),
        optim=OptimSpec(
            lr=0.5,
            weight_decay=1e-4 if model.expansion == 4 else 5e-5,
            decay_norm_and_bias=False,
        ),
        schedule=ScheduleSpec(kind="one-cycle", warmup=2 / epochs),
        duration=f"{epochs}ep",
        batch_size=1024,
        loss=LossSpec(label_smoothing=0.1),
        compile="auto",
        eval=EvalSpec(watch_test=True),
    )


def imagenet_rsb_a1(net: str = "resnet50") -> Recipe:
    """Procedure A1: 600 epochs for the best ResNet-50; A2 with stronger mixup and label smoothing.

    LAMB, lr 5e-3 for a batch of 2,048, cosine after 5 epochs of warm-up, weight decay 0.01 except
    for norms and biases, binary cross-entropy with label smoothing 0.1, mixup 0.2 or cutmix 1 on
    every batch, RandAugment of magnitude 7 (deviation 0.5), 3 repeats of an image in a batch,
    stochastic depth 0.05, tested on 95% of the shorter side. Gradients are clipped to norm 1, as
    timm's LAMB does by default. Images are resized with a bilinear filter; theirs with a bicubic
    one.
    Command: resnets train imagenet-rsb-a1 --data IMAGENET.
    Hardware and time: theirs took 110 hours on four V100. Expected: 19.6% top-1 for ResNet-50.
    Not run here at full length: ImageNet was not available. Run on Imagenette for a few iterations.
    """
    base = imagenet_rsb_a2(net)
    return replace(
        base,
        name="imagenet-rsb-a1",
        data=replace(base.data, augment=replace(base.data.augment, mixup=0.2)),
        optim=replace(base.optim, weight_decay=0.01),
        schedule=replace(base.schedule, warmup=5 / 600),
        duration="600ep",
        loss=replace(base.loss, label_smoothing=0.1),
    )


def imagenet_rsb_a2(net: str = "resnet50") -> Recipe:
    """Procedure A2: 300 epochs, comparable with those of vision transformers.

    As A1 with mixup 0.1, no label smoothing and weight decay 0.02.
    Command: resnets train imagenet-rsb-a2 --data IMAGENET.
    Hardware and time: theirs took 55 hours on four V100. Expected: 20.2% top-1 for ResNet-50.
    Not run here at full length: ImageNet was not available. Run on Imagenette for a few iterations.
    """
    model = catalog.spec(net, zero_init_residual=True)
    return Recipe(
        name="imagenet-rsb-a2",
        model=replace(model, drop_path=0.05 if model.residual else 0.0),
        data=DataSpec(
            source="imagenet",
            size=224,
            resize=236,
            val_fraction=0.0,
            normalize="imagenet",
            augment=replace(
                INCEPTION_CROP,
                policy="rand",
                policy_ops=2,
                policy_magnitude=7.0,
                policy_std=0.5,
                mixup=0.1,
                cutmix=1.0,
                repeats=3,
            ),
        ),
        optim=OptimSpec(
            kind="lamb", lr=5e-3, weight_decay=0.02, decay_norm_and_bias=False, clip_norm=1.0
        ),
        schedule=ScheduleSpec(kind="cosine", warmup=5 / 300, final=1e-6 / 5e-3),
        duration="300ep",
        batch_size=2048,
        loss=LossSpec(kind="bce"),
        eval=EvalSpec(every="5ep", watch_test=True),
    )


def imagenet_rsb_a3(net: str = "resnet50") -> Recipe:
    """Procedure A3: 100 epochs at 160 px, tested at 224 px; for a small budget.

    As A2 with lr 8e-3, RandAugment of magnitude 6, no repeats and no stochastic depth.
    Command: resnets train imagenet-rsb-a3 --data IMAGENET.
    Hardware and time: theirs took 15 hours on four V100. Expected: 21.9% top-1 for ResNet-50.
    Not run here at full length: ImageNet was not available. Run on Imagenette for a few iterations.
    """
    base = imagenet_rsb_a2(net)
    augment = replace(base.data.augment, policy_magnitude=6.0, repeats=1)
    return replace(
        base,
        name="imagenet-rsb-a3",
        model=replace(base.model, drop_path=0.0),
        data=replace(base.data, size=160, test_size=224, augment=augment),
        optim=replace(base.optim, lr=8e-3),
        schedule=replace(base.schedule, warmup=5 / 100, final=1e-6 / 8e-3),
        duration="100ep",
    )
