"""`resnets.load`: load a trained model of any task as a module."""

from __future__ import annotations

from collections.abc import Sequence
from os import PathLike, fspath
from typing import Any

from torch import nn

from resnets.config import ConfigError
from resnets.models import ImageClassifier
from resnets.models.custom_model import MakeModel
from resnets.runtime.artifact import is_artifact
from resnets.utils.api_function import api_function
from resnets.utils.errors import refuse_options
from resnets.weights.checkpoint.find import read_task
from resnets.weights.load import LoadOptions, Need, load_classifier


@api_function
def load(
    weights: str | PathLike[str],
    model: str | nn.Module | MakeModel | None = None,
    classes: str | Sequence[str] | None = None,
) -> ImageClassifier | Any:  # Any: of other tasks, whose methods differ
    """Load the model of a run, checkpoint, folder or file in eval mode, in float32, on the CPU.

        model = resnets.load("runs/detect-1")
        found = model(model.preprocess(["a.jpg", "b.jpg"]))

    Args:
        weights: A run or checkpoint, also at a URL that fsspec opens. For a run: the checkpoint
            with the best validation metric (the last one without a validation split), with averaged
            (EMA) weights if it has them. For classifiers also a file in a known format, or
            published weights: "hub:ORG/NAME", "timm:resnet50.a1_in1k",
            "torchvision:resnet50.IMAGENET1K_V2".
        model: Network of a file that does not specify it, such as a state dict; then `weights` may
            be anything that `create_model` accepts. For a run of a custom network: that network, an
            `nn.Module` into which the weights are loaded, or the function that creates it from a
            `ModelSpec`.
        classes: Names of the outputs, in order: a sequence, a file with one name per line, "a,b,c",
            "imagenet" or "numbers". Outputs without names are named "0", "1", ....

    Every model has `.classes`, `.recipe` and `.origin` (file, step and kind of weights). A model of
    images also has `.preprocess`, which converts a path, PIL image or array to the model's input.
    If a file does not specify its preprocessing, the default is assumed and logged. Inputs and
    outputs of `forward`, by task:

    - a classifier (`ImageClassifier`): images (B, C, H, W); logits (B, K).
    - a detector: a list of images (3, h, w); for each a dict of boxes (N, 4) in its pixels, scores
      (N,), labels (N,), where 1 is the first of `.classes`, and for Mask R-CNN masks (N, 1, 28, 28)
      within the boxes. The format is torchvision's, but images must be preprocessed.
    - a segmenter: images (B, 3, H, W); class scores (B, K, H, W).
    - a localizer: a list of images (3, h, w); probabilities (B, K), one box per class (B, K, 4),
      and the confidence of each box (B, K).
    - a model of text: characters (B, T), int64, as rows of `.classes`; logits (B, T, K).
    - a model of signals: values (B, C, L), unnormalized; logits (B, K).

    Raises CheckpointError, WeightsError, and ConfigError for an unknown name, another network, a
    missing custom network or an artifact.
    """
    source = fspath(weights)
    if is_artifact(source):
        raise ConfigError(
            f"{source}: is an artifact, not a module; load the run that it was exported from, or "
            "give the artifact to resnets.predict"
        )
    if model is None or isinstance(model, str):
        return load_any(source, LoadOptions(model, classes), "head")
    return load_any(source, LoadOptions(classes=classes), custom=model)


def load_any(
    source: str,
    options: LoadOptions,
    need: Need = "names",
    *,
    custom: nn.Module | MakeModel | None = None,
) -> ImageClassifier | Any:
    """Load the model of any task at a path; see `load`, and `load_classifier` for the arguments."""
    task = read_task(source)
    if task == "classify":
        return load_classifier(source, options, need, custom=custom)
    refuse_options(
        f"only for classifiers, not for task {task}",
        model=options.model or custom,
        classes=options.classes,
    )
    if task in ("text", "signals"):
        from resnets.sequence.load import load_sequence_model

        return load_sequence_model(source)
    from resnets.detect.models.build import load_detection_model  # takes a second to import

    return load_detection_model(source)
