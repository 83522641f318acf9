"""A folder of one's own images: from scratch, or from pretrained weights."""

from __future__ import annotations

from resnets.config import (
    AugmentSpec,
    DataSpec,
    EvalSpec,
    FinetuneSpec,
    LossSpec,
    OptimSpec,
    Recipe,
    ScheduleSpec,
)
from resnets.models import catalog


def scratch(net: str = "resnet18") -> Recipe:
    """Any folder of class folders from random weights, at 128 px.

    Command: resnets train scratch --data FOLDER. Hardware and time: about 20 minutes on two CPU
    cores for 3,000 images. Expected: far below fine-tuning where pretrained weights are at hand;
    reached here on Imagenette: see docs/results.md.
    """
    return Recipe(
        name="scratch",
        model=catalog.spec(net, zero_init_residual=True),
        data=DataSpec(
            source="images",
            size=128,
            resize=144,
            augment=AugmentSpec(crop="random-resized", scale=(0.35, 1.0), flip=True),
        ),
        optim=OptimSpec(lr=0.05, nesterov=True, weight_decay=5e-4, decay_norm_and_bias=False),
        schedule=ScheduleSpec(kind="cosine", warmup=0.1),
        duration="30ep",
        batch_size=64,
        loss=LossSpec(label_smoothing=0.1),
        ema_decay=0.995,
        log_every="10it",
    )


def finetune(net: str = "resnet50") -> Recipe:
    """Any folder of class folders from torchvision's ImageNet weights (needs a network once).

    The head learns alone for a tenth of the run, so that its random start does not disturb the
    rest; weights are averaged, and training stops when 5 evaluations in a row bring no better
    validation error. Other ways: --set finetune.layer_decay=0.7 lets early stages learn slower
    (with finetune.head_first=0 in place of the head's start, or on top of it);
    --set finetune.freeze_norm=true keeps the pretrained statistics, for small batches and few
    images; --set finetune.head_first=1 trains a linear classifier on fixed features.
    Command: resnets train finetune --data FOLDER; with a file at hand --set weights=PATH.
    Hardware and time: not measured. Expected: a lower error than from random weights. Reached here:
    from weights trained here only, docs/results.md (no network to fetch others).
    """
    return Recipe(
        name="finetune",
        model=catalog.spec(net),
        data=DataSpec(
            source="images",
            size=224,
            resize=256,
            normalize="imagenet",
            augment=AugmentSpec(crop="random-resized", scale=(0.35, 1.0), flip=True),
        ),
        optim=OptimSpec(lr=0.01, nesterov=True, weight_decay=1e-4, decay_norm_and_bias=False),
        schedule=ScheduleSpec(kind="cosine", warmup=0.1),
        duration="10ep",
        batch_size=64,
        loss=LossSpec(label_smoothing=0.1),
        ema_decay=0.995,
        weights="torchvision:DEFAULT",
        finetune=FinetuneSpec(head_first=0.1),
        eval=EvalSpec(patience=5),
        log_every="10it",
    )
