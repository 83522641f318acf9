"""ImageNet in 16, 18 and 40 epochs of growing images (the recipes published with FFCV)."""

from __future__ import annotations

from resnets.config import DataSpec, EvalSpec, LossSpec, OptimSpec, Recipe, ScheduleSpec
from resnets.models import catalog
from resnets.recipes.imagenet import INCEPTION_CROP


def imagenet_fast_16(net: str = "resnet50") -> Recipe:
    """16 epochs: images grow from 160 to 192 px after 11 to 13 of them, and are tested at 256.

    SGD, lr 0.5 for a batch of 1,024, up in 2 epochs and linearly down to 0, label smoothing 0.1,
    weight decay 1e-4 (5e-5 for models of basic blocks) but for norms and biases, channels_last.
    FFCV's eight GPUs take 512 images each at lr 1.7, which is the same rate for an image. Theirs
    have blurred subsampling: --set model.blur_pool=true; off here. Source: Leclerc et al. 2023,
    rn50_configs of ffcv-imagenet. Trains as fast as images come: pack them first
    (resnets data pack).
    Command: resnets train imagenet-fast-16 --data IMAGENET.
    Hardware and time: theirs took 15 minutes on eight A100. Expected (with blurring, and scores
    averaged over an image and its mirror image): 26.2% top-1 for ResNet-50, 33.1% for ResNet-18.
    Not run here at full length: no ImageNet; run on Imagenette for a few iterations.
    """
    return _fast(net, 16, grow_between=(11 / 16, 13 / 16))


def imagenet_fast_18(net: str = "resnet50") -> Recipe:
    """18 epochs, otherwise as imagenet-fast-16.

    Command: resnets train imagenet-fast-18 --data IMAGENET.
    Hardware and time: 17 minutes on eight A100 by the speed of its neighbours. Expected: between
    the 26.2% that FFCV publishes for 16 epochs and its 24.4% for 24.
    Not run here at full length: no ImageNet; run on Imagenette for a few iterations.
    """
    return _fast(net, 18, grow_between=(11 / 16, 13 / 16))


def imagenet_fast_40(net: str = "resnet50") -> Recipe:
    """40 epochs, otherwise as imagenet-fast-16; images grow after 29 to 34 of them.

    Command: resnets train imagenet-fast-40 --data IMAGENET.
    Hardware and time: theirs took 36 minutes on eight A100. Expected (as there): 22.8% top-1 for
    ResNet-50, 29.4% for ResNet-18.
    Not run here at full length: no ImageNet; run on Imagenette for a few iterations.
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
