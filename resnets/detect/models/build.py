"""Build a detector, localizer or segmenter from a recipe, or load it from a run or checkpoint."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Sequence
from os import PathLike, fspath
from pathlib import Path

from torch import Tensor

from resnets.config import ConfigError, Preprocess, Recipe
from resnets.data.transforms.preprocess import Preprocessor
from resnets.detect.data.transforms import FittedPreprocessor
from resnets.detect.loading.train_batches import DetectStream
from resnets.detect.models.base import InferenceOptions, ModelKind
from resnets.detect.models.detector import Detector
from resnets.detect.models.layers import pad
from resnets.detect.models.localizer import Localizer, Refiner
from resnets.detect.models.segmenter import Segmenter
from resnets.detect.models.weights import (
    adapt_recipe,
    find_model_tensors,
    load_whole_weights,
    read_published,
)
from resnets.models import ImageClassifier, build
from resnets.models.norm_statistics import recompute_statistics
from resnets.weights.checkpoint.find import open_checkpoint
from resnets.weights.checkpoint.image_record import read_fingerprint
from resnets.weights.checkpoint.store import remote_url
from resnets.weights.create import build_from_weights, read_weights, recognize_weights
from resnets.weights.hub import is_library
from resnets.weights.load import load_weights
from resnets.weights.read import Weights, read_path, read_preprocess, split_part

Model = Detector | Segmenter | Localizer | Refiner
HEADS = {
    "detect": ("fpn", "c4"),
    "instances": ("fpn", "c4"),
    "segment": ("fcn", "deeplabv3"),
    "localize": ("pcr", "rcnn"),
}
KINDS: dict[str, ModelKind] = {
    "detect": "detector",
    "instances": "detector",
    "segment": "segmenter",
    "localize": "localizer",
}


def build_model(
    recipe: Recipe, num_classes: int, classes: Sequence[str] | None = None
) -> tuple[Model, Preprocessor]:
    """Return the model of `recipe` for `num_classes` in training mode, and its preprocessing.

    classes: class names, by which class layers of complete models are selected; see
    `load_whole_weights`.

    Random weights are drawn with torch's global generator. `recipe.weights` are those of a network,
    as for `resnets.create_model`, or of a complete detector or segmenter: a file of torchvision,
    detectron2 or this package, or "torchvision:COCO_V1" and the like. They determine the
    preprocessing. Raises WeightsError if they do not fit.
    """
    check_recipe(recipe)
    if recipe.weights is None:
        return assemble(build(recipe.model), recipe, num_classes), Preprocessor(Preprocess())
    weights = _read_weights(recipe.weights, recipe)
    is_whole_model = weights.format is None
    check_initial_weights(recipe, whole=is_whole_model)
    if is_whole_model:
        recipe, preprocessor = adapt_recipe(recipe, weights)
        model = assemble(build(recipe.model), recipe, num_classes)
        load_whole_weights(model, weights, classes, recipe.weights_head)
        return model, per_channel_preprocessor(preprocessor)
    net = build_from_weights(weights, recipe.model)
    preprocessor = per_channel_preprocessor(net.preprocess or Preprocessor(Preprocess()))
    return assemble(net, recipe, num_classes), preprocessor


def per_channel_preprocessor(preprocessor: Preprocessor) -> Preprocessor:
    """Return the preprocessing with one mean per channel, because image sizes vary."""
    if preprocessor.mean_image is None:
        return preprocessor
    return Preprocessor(dataclasses.replace(preprocessor.spec, mean_image=False))


def _read_weights(source: str, recipe: Recipe) -> Weights:
    """Read the weights of a complete model unchanged, or those of a network by its format."""
    published = read_published(source, recipe)
    if published is not None:
        return published
    if is_library(source):
        return read_weights(source, recipe.model)
    if not Path(split_part(source)[0]).expanduser().exists() and remote_url(source) is None:
        return read_weights(source, recipe.model)  # raises an error
    found = find_model_tensors(read_path(source))
    return found if found.tensors else recognize_weights(found, recipe.model)


def assemble(net: ImageClassifier, recipe: Recipe, num_classes: int) -> Model:
    """Return `net` with the head of the recipe's task instead of its classification head."""
    net.recompute = recipe.recompute
    spec = recipe.detect
    if recipe.task == "segment":
        return Segmenter(net, spec, num_classes)
    if recipe.task != "localize":
        proposer = None
        if spec.proposals_from is not None:
            proposer = Detector(build(net.spec), spec, num_classes)
        return Detector(net, spec, num_classes, recipe.task == "instances", proposer)
    if spec.head == "pcr":
        return Localizer(net, spec, num_classes)
    return Refiner(net, Localizer(build(net.spec), spec, num_classes), spec, num_classes)


def check_recipe(recipe: Recipe) -> None:
    """Raise ConfigError if the recipe's task, head and network are incompatible."""
    heads, head = HEADS[recipe.task], recipe.detect.head
    if head not in heads:
        raise ConfigError(
            f"detect.head: {head!r} is not for task {recipe.task!r}; use {' or '.join(heads)}"
        )
    if recipe.model.has_speedrun_layers:  # their feature maps lose pixels at the border
        raise ConfigError(
            "model: the layers of cifar-speedrun (model.stem 'whitening', model.downsample, ...)"
            f" are for classification, not for task {recipe.task!r}; choose another network"
        )
    if recipe.model.in_channels != 3:
        raise ConfigError(
            f"model.in_channels: {recipe.model.in_channels} must be 3 for task {recipe.task!r}"
        )
    if recipe.compile == "on" and recipe.task != "segment":  # each size would compile a new graph
        raise ConfigError(f"compile: not supported for task {recipe.task!r}; set it to off")
    options = InferenceOptions(recipe.detect.refine, recipe.detect.test_sizes)
    options.check(KINDS[recipe.task])
    if recipe.detect.train_crop is not None and recipe.task != "localize":
        raise ConfigError("detect.train_crop: only for task localize; see detect.crop for segment")
    if head == "rcnn" and recipe.detect.proposals_from is None:
        raise ConfigError("detect.proposals_from: name the run of a 'pcr' localizer")
    _check_alternation(recipe)


def _check_alternation(recipe: Recipe) -> None:
    """Raise ConfigError if the fields of alternating training are incompatible."""
    spec = recipe.detect
    detects = recipe.task in ("detect", "instances")
    if not detects and (spec.train_part != "all" or spec.freeze_shared):
        field = "freeze_shared" if spec.train_part == "all" else "train_part"
        raise ConfigError(f"detect.{field}: only for tasks detect and instances")
    if spec.proposals_from is not None and spec.head != "rcnn" and spec.train_part != "regions":
        raise ConfigError(
            "detect.proposals_from: only for head 'rcnn' and for detect.train_part 'regions'"
        )


def check_initial_weights(recipe: Recipe, *, whole: bool) -> None:
    """Raise ConfigError if a step of alternating training would start with random layers.

    whole: whether `recipe.weights` are those of a detector. Only for new runs.
    """
    spec = recipe.detect
    if spec.freeze_shared and recipe.weights is None:
        raise ConfigError("detect.freeze_shared: needs weights, whose shared layers are frozen")
    if spec.train_part == "regions" and spec.proposals_from is None and not whole:
        raise ConfigError(
            "detect.train_part: 'regions' needs proposals: set detect.proposals_from, or weights to"
            " those of a detector"
        )


def recompute_norms(net: ImageClassifier, stream: DetectStream, recipe: Recipe) -> None:
    """Set the batch norms' statistics to averages over one epoch of the training images.

    The images are those of the detection data set, in batches padded to one size. The paper's
    statistics (appendix A) are those of the classifier on the ImageNet training set: `resnets
    recompute-norm` computes them.
    """
    batches = -(-stream.examples // recipe.batch_size)
    recompute_statistics(net, _training_images(stream, batches))


def _training_images(stream: DetectStream, batches: int) -> Iterator[Tensor]:
    for batch in itertools.islice(stream.batches(), batches):
        images = batch.images
        yield images if isinstance(images, Tensor) else pad(images).tensors


def load_detection_model(weights: str | PathLike[str]) -> Model:
    """Load the model of a run folder or checkpoint in eval mode, in float32, on the CPU.

    See `resnets.load`. Raises CheckpointError, and ConfigError for a classifier.
    """
    checkpoint = open_checkpoint(fspath(weights))
    recipe, path = checkpoint.recipe, checkpoint.path
    if recipe.task not in HEADS:
        raise ConfigError(f"{weights}: is for task {recipe.task!r}, which finds no objects")
    classes = checkpoint.classes
    model, _ = build_model(dataclasses.replace(recipe, weights=None), len(classes))
    averaged = checkpoint.group("ema")
    load_weights(model, averaged or checkpoint.group("model"), path)
    stored, spec = read_preprocess(checkpoint), recipe.detect
    model.preprocess = FittedPreprocessor(
        stored.spec, stored.mean_image, spec.train_sizes[-1], spec.max_size
    )
    model.classes, model.recipe = classes, recipe
    model.fingerprint = read_fingerprint(checkpoint)
    kind = ", averaged weights" if averaged or checkpoint.meta.get("averaged") else ""
    model.origin = f"{path.name} (step {checkpoint.step:,}{kind})"
    return model.eval()
