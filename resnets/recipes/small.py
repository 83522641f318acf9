"""Small image sets: digits and Fashion-MNIST, which train in minutes, and your own folders."""

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
        log_every="1ep",
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


def scratch(net: str = "resnet18") -> Recipe:
    """Any folder of class folders from random weights, at 128 px.

    Command: resnets train scratch --data FOLDER. Hardware and time: about 20 minutes on two CPU
    cores for 3,000 images. Expected: a much higher error than fine-tuning of pretrained weights.
    Reached here on Imagenette: see docs/results.md.
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

    Only the head is trained for a tenth of the run, so that its random weights do not disturb the
    others; weights are averaged, and training stops after 5 evaluations without a lower validation
    error. Alternatives: --set finetune.layer_decay=0.7 gives early stages lower learning rates
    (with finetune.head_first=0 instead of training the head first, or in addition to it); --set
    finetune.freeze_norm=true keeps the pretrained statistics, for small batches and few images;
    --set finetune.head_first=1 trains a linear classifier on fixed features.
    Command: resnets train finetune --data FOLDER; for weights in a file --set weights=PATH.
    Hardware and time: not measured. Expected: a lower error than from random weights. Reached here:
    only with weights trained here, see docs/results.md (others could not be downloaded).
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


def qat(net: str = "cifar-resnet20") -> Recipe:
    """Quantization-aware fine-tuning, for networks whose int8 artifact fails verification.

    `resnets train qat RUN` takes network, data, augmentation, loss and batch size from the run, and
    trains for a tenth of its duration from a tenth of its learning rate, while weights and inputs
    of layers are rounded to 8 bits (Jacob et al. 2018). Then: resnets export runs/qat-1 --int8
    --calibrate DATA. Weights without a recipe are trained by this recipe; add --data.
    Command: resnets train qat RUN. Hardware and time: a tenth to a fifth of the run's time, since
    it computes in float32. Expected: an int8 artifact with the run's error. Reached here: see
    docs/export.md.
    """
    return Recipe(
        name="qat",
        model=catalog.spec(net, num_classes=10, in_channels=1, input_size=16),
        data=DataSpec(source="digits", augment=AugmentSpec(crop="pad", pad=1)),
        optim=OptimSpec(lr=0.01, nesterov=True, weight_decay=5e-4),
        schedule=ScheduleSpec(kind="cosine"),
        duration="4ep",
        batch_size=64,
        precision="float32",
        weights="resnets:digits/cifar-resnet20",
        finetune=FinetuneSpec(quantize=True),
    )
