"""ImageNet classification as the paper trained it (section 3.4)."""

from __future__ import annotations

from resnets.config import AugmentSpec, DataSpec, OptimSpec, Recipe, ScheduleSpec
from resnets.models import catalog


def imagenet_paper(net: str = "resnet50-v1") -> Recipe:
    """Section 3.4: SGD, batch 256, lr 0.1 divided by 10 when the error plateaus, 60e4 iterations.

    Shorter side sampled in [256, 480], random 224 crop, flip, PCA colour, per-pixel mean, weight
    decay 1e-4, momentum 0.9, no dropout. The plateau is read on 2% of the training set, so that
    the validation set (tested on) decides nothing.
    Command: resnets train imagenet-paper --data IMAGENET (train/ and val/ class folders).
    Hardware and time: eight GPUs, days in 2015. Expected (Table 3, ten crops): 22.85% top-1 for
    ResNet-50. Not run here at full length: no ImageNet; run on Imagenette for a few iterations.
    """
    return Recipe(
        name="imagenet-paper",
        model=catalog.spec(net),
        data=DataSpec(
            source="imagenet",
            size=224,
            resize=256,
            val_fraction=0.02,
            normalise="per-pixel-mean",
            augment=AugmentSpec(crop="scale-jitter", scale=(256, 480), flip=True, pca_colour=0.1),
        ),
        optim=OptimSpec(lr=0.1, momentum=0.9, weight_decay=1e-4),
        schedule=ScheduleSpec(kind="plateau", gamma=0.1, patience=5),
        duration="600000it",
        batch_size=256,
    )
