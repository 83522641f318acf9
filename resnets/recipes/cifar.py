"""CIFAR-10 and CIFAR-100: the paper's recipe (section 4.2) and a fast modern one."""

from __future__ import annotations

import dataclasses
from typing import Literal

from resnets.config import (
    AugmentSpec,
    DataSpec,
    LossSpec,
    ModelSpec,
    OptimSpec,
    Recipe,
    ScheduleSpec,
)
from resnets.models import catalog

PAD_AND_FLIP = AugmentSpec(crop="pad", pad=4, flip=True)
# Published test sets are not changed, so that results are comparable; duplicates are counted.
PUBLISHED: Literal["allow"] = "allow"


def cifar10_paper(net: str = "cifar-resnet20") -> Recipe:
    """Section 4.2: SGD, lr 0.1 divided by 10 at 32k and 48k of 64k iterations, batch 128.

    Weight decay 1e-4, momentum 0.9, 4-pixel zero pad, random 32 crop, flip, per-pixel mean; the
    whole training set, no validation split (the paper chose the schedule on 45k/5k: --set
    data.val_fraction=0.1). Models of 110 layers and more train at lr 0.01 until the training error
    is below 80% (in the paper only ResNet-110). --iterations shortens the run and scales the
    milestones. There is one difference on a single device: the paper trained on two GPUs, so its
    batch norm presumably used statistics of 64 images, here 128; --set norm_batch=64 does as in the
    paper.
    Command: resnets train cifar10-paper --data PATH --model cifar-resnet56.
    Hardware and time: at the 1,817 images/s measured on two CPU cores with AMX (docs/scale.md), 64k
    iterations of resnet20 take 75 minutes, plus the evaluations. Expected (Table 6): 8.75 / 7.51 /
    7.17 / 6.97 at 20 / 32 / 44 / 56 layers, 6.61 ± 0.16 over five runs (best 6.43) at 110. Not run
    here at full length.
    """
    model = catalog.spec(net, num_classes=10)
    return Recipe(
        name="cifar10-paper",
        model=model,
        data=DataSpec(
            source="cifar10",
            val_fraction=0.0,
            normalize="per-pixel-mean",
            augment=PAD_AND_FLIP,
            overlap=PUBLISHED,
        ),
        optim=OptimSpec(lr=0.1, momentum=0.9, weight_decay=1e-4),
        schedule=ScheduleSpec(
            kind="steps", milestones=(32 / 64, 48 / 64), hold_until_error=_hold(model)
        ),
        duration="64000it",
        recompute=_very_deep(model),
    )


def cifar100_paper(net: str = "cifar-resnet20") -> Recipe:
    """The CIFAR-10 recipe of section 4.2 on CIFAR-100, which the paper did not run.

    Command: resnets train cifar100-paper --data PATH.
    Hardware and time: those of cifar10-paper. Expected: about 31% error for resnet20.
    Not run here: CIFAR-100 was not available.
    """
    base = cifar10_paper(net)
    return dataclasses.replace(
        base,
        name="cifar100-paper",
        model=dataclasses.replace(base.model, num_classes=100),
        data=dataclasses.replace(base.data, source="cifar100"),
    )


def cifar10_fast(net: str = "cifar-resnet20") -> Recipe:
    """One-cycle with Nesterov momentum, averaged weights and images that grow from 24 to 32 px.

    Trains on all training images and uses the last weights: with a learning rate that decays to
    zero these are the best ones, and selection on a small validation split is worse (12.7 or 13.8%
    in one run).

    Command: resnets train cifar10-fast --data PATH.
    Hardware and time: resnet20 in 825 s on two CPU cores with AMX.
    Expected: 12% test error on JPEG images. Reached here: 11.99% (docs/results.md).
    """
    model = catalog.spec(net, num_classes=10)
    return Recipe(
        name="cifar10-fast",
        model=model,
        data=DataSpec(
            source="cifar10",
            val_fraction=0.0,
            normalize="channel",
            augment=PAD_AND_FLIP,
            overlap=PUBLISHED,
            grow_from=24,
            grow_between=(0.3, 0.7),
            grow_step=4,
        ),
        optim=OptimSpec(lr=0.25, nesterov=True, weight_decay=5e-4, decay_norm_and_bias=False),
        schedule=ScheduleSpec(kind="one-cycle", warmup=0.2),
        duration="36ep",
        loss=LossSpec(label_smoothing=0.1),
        ema_decay=0.998,
        compile="auto",
        recompute=_very_deep(model),
    )


def cifar10_speedrun(net: str = "cifar-speedrun") -> Recipe:
    """A small residual network with pooled stages, trained by Muon in minutes.

    After Page 2018 and Jordan 2024 (airbench94_muon): a whitening stem, scaled logits, large
    learning rates for shifts, alternating flips, label smoothing, progressive resizing.

    Command: resnets train cifar10-speedrun --data PATH.
    Hardware and time: 1,212 s on one CPU core with AVX-512 bfloat16; estimated 582 s on two,
    from the rates of ten steps at each image size.
    Expected: 10.6% test error on JPEG images. Reached here: 10.61%, mean of three seeds
    (docs/results.md).
    """
    return Recipe(
        name="cifar10-speedrun",
        model=catalog.spec(net, num_classes=10),
        data=DataSpec(
            source="cifar10",
            val_fraction=0.0,
            normalize="channel",
            augment=AugmentSpec(crop="pad", pad=2, flip=True, flip_rule="alternate"),
            overlap=PUBLISHED,
            grow_from=20,
            grow_between=(0.25, 0.6),
            grow_step=4,
        ),
        optim=OptimSpec(
            kind="muon",
            lr=0.17,
            momentum=0.6,
            nesterov=True,
            unit_filters=True,
            weight_decay=1e-4,
            head_lr_scale=6.5,
            norm_bias_lr_scale=400.0,
        ),
        schedule=ScheduleSpec(kind="linear"),
        batch_size=500,
        duration="10ep",
        loss=LossSpec(label_smoothing=0.2),
    )


def _hold(model: ModelSpec) -> float | None:
    """Error below which the warm-up ends, for the models that need one (110 layers and more)."""
    return 80.0 if sum(model.depths) >= 54 else None


def _very_deep(model: ModelSpec) -> bool:
    """Whether storing all activations at batch 128 would need more than about 16 GB."""
    return sum(model.depths) >= 300
