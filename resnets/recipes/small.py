"""Small real sets that train in minutes anywhere."""

from __future__ import annotations

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


def digits(net: str = "cifar-resnet20") -> Recipe:
    """Scikit-learn's 1,797 handwritten digits, embedded: works anywhere, offline.

    Command: resnets train digits. Hardware and time: two idle CPU cores, 17 s of training.
    Expected: about 1.5% test error. Reached here: see docs/results.md.
    """
    return Recipe(
        name="digits",
        model=catalog.spec(net, num_classes=10, in_channels=1, input_size=16),
        data=DataSpec(source="digits", augment=AugmentSpec(crop="pad", pad=1)),
        optim=OptimSpec(lr=0.1, nesterov=True, weight_decay=5e-4),
        schedule=ScheduleSpec(kind="one-cycle", warmup=0.2),
        duration="40ep",
        batch_size=64,
        log_every="2ep",
        eval=EvalSpec(every="5ep"),
        checkpoint_every="5ep",
    )


def fashion_mnist_fast(net: str = "cifar-resnet20") -> Recipe:
    """Fashion-MNIST (Xiao et al. 2017), one-cycle, label smoothing, averaged weights.

    Command: resnets train fashion-mnist-fast. Hardware and time: 11 minutes at
    the 900 images/s of one free CPU core; 44 minutes were measured on half a busy one.
    Expected: under 8% test error. Reached here: see docs/results.md.
    """
    return Recipe(
        name="fashion-mnist-fast",
        model=catalog.spec(net, num_classes=10, in_channels=1, input_size=28),
        data=DataSpec(
            source="fashion-mnist",
            val_fraction=0.05,
            augment=AugmentSpec(crop="pad", pad=2, flip=True),
        ),
        optim=OptimSpec(lr=0.2, nesterov=True, weight_decay=5e-4),
        schedule=ScheduleSpec(kind="one-cycle", warmup=0.2),
        duration="10ep",
        loss=LossSpec(label_smoothing=0.05),
        ema_decay=0.998,
    )
