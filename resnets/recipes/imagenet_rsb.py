"""ImageNet in 600, 300 and 100 epochs: "ResNet strikes back" (Wightman et al. 2021, Table 2)."""

from __future__ import annotations

from dataclasses import replace

from resnets.config import DataSpec, EvalSpec, LossSpec, OptimSpec, Recipe, ScheduleSpec
from resnets.models import catalog
from resnets.recipes.imagenet import INCEPTION_CROP


def imagenet_rsb_a1(net: str = "resnet50") -> Recipe:
    """Procedure A1: 600 epochs for the best ResNet-50; A2 with stronger mixup and label smoothing.

    LAMB, lr 5e-3 for a batch of 2,048, cosine after 5 epochs of warm-up, weight decay 0.01 but for
    norms and biases, binary cross-entropy with label smoothing 0.1, mixup 0.2 or cutmix 1 on every
    batch, RandAugment of magnitude 7 (deviation 0.5), 3 repeats of an image in a batch,
    stochastic depth 0.05, tested on 95% of the shorter side. Gradients are clipped to norm 1, as
    timm's LAMB does unasked. Images are resized bilinearly, where theirs are bicubic.
    Command: resnets train imagenet-rsb-a1 --data IMAGENET.
    Hardware and time: theirs took 110 hours on four V100. Expected: 19.6% top-1 for ResNet-50.
    Not run here at full length: no ImageNet; run on Imagenette for a few iterations.
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
    Not run here at full length: no ImageNet; run on Imagenette for a few iterations.
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
    """Procedure A3: 100 epochs at 160 px, tested at 224; what a small budget gets.

    As A2 with lr 8e-3, RandAugment of magnitude 6, no repeats and no stochastic depth.
    Command: resnets train imagenet-rsb-a3 --data IMAGENET.
    Hardware and time: theirs took 15 hours on four V100. Expected: 21.9% top-1 for ResNet-50.
    Not run here at full length: no ImageNet; run on Imagenette for a few iterations.
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
