"""Short runs of detectors and segmenters on drawn rectangles."""

import dataclasses

from detect_models import NET

from resnets.config import DataSpec, OptimSpec, Recipe
from resnets.train.run import run_training


def tiny_run(root, task, spec):
    """A run of three steps on rectangles."""
    detect = dataclasses.replace(
        spec, train_sizes=(64,), max_size=120, crop=64, score_threshold=0.0, max_detections=12,
        anchor_sizes=(8, 16, 32, 48, 64),
    )  # fmt: skip
    recipe = Recipe(
        task=task, model=NET, detect=detect, duration="3it", batch_size=2,
        data=DataSpec(source=str(root / "set"), val_fraction=0.2, normalize="imagenet"),
        optim=OptimSpec(lr=0.01),
    )  # fmt: skip
    run_training(recipe, root / task, device="cpu", quiet=True)
    return root / task
