"""From a run or checkpoint to a detector, localiser or segmenter that is ready to use."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from resnets.config import ConfigError
from resnets.detect.models.build import Model, build_model
from resnets.weights.checkpoint.fingerprint import read_fingerprint
from resnets.weights.checkpoint.format import open_checkpoint
from resnets.weights.load import load_weights
from resnets.weights.read import read_preprocess


def load(where: str | Path) -> Model:
    """The model of a run folder or checkpoint, in eval mode, float32, on the CPU.

    As `resnets.load` does for classifiers: the best weights on validation, averaged ones where the
    run kept them. It carries `.preprocess`, `.classes`, `.recipe` and `.origin`. Raises
    CheckpointError, and ConfigError for a classifier.
    """
    checkpoint = open_checkpoint(where)
    recipe, path = checkpoint.recipe, checkpoint.path
    if recipe.task == "classify":
        raise ConfigError(f"{where}: is a classifier, which finds no objects")
    classes = checkpoint.classes
    model, _ = build_model(dataclasses.replace(recipe, weights=None), len(classes))
    averaged = checkpoint.group("ema")
    load_weights(model, averaged or checkpoint.group("model"), path)
    model.preprocess, model.classes = read_preprocess(checkpoint), classes
    model.recipe = recipe
    model.fingerprint = read_fingerprint(checkpoint)
    kind = ", averaged weights" if averaged or checkpoint.meta.get("averaged") else ""
    model.origin = f"{path.name} (step {checkpoint.step:,}{kind})"
    return model.eval()
