"""Weights of complete detectors and segmenters: torchvision's, detectron2's and our own."""

from __future__ import annotations

import dataclasses
import logging
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from resnets.config import ConfigError, DetectSpec, Preprocess, Recipe
from resnets.data.transforms.preprocess import Preprocessor
from resnets.models import ImageClassifier
from resnets.utils.printable import join_names
from resnets.utils.suggest import suggest
from resnets.weights.check_values import check_same_model, check_values, warn_about_values
from resnets.weights.errors import WeightsError
from resnets.weights.heads import HeadPolicy, select_head_rows
from resnets.weights.hub import torchvision_file
from resnets.weights.lazy_tensors import reading_weights
from resnets.weights.name_maps.find_tensors import select_copy
from resnets.weights.name_maps.formats.spec import Tensors
from resnets.weights.name_maps.maps import build_name_map
from resnets.weights.read import HIDDEN_FIELDS, Weights, read_path
from resnets.weights.readers.configs.input_convention import (
    assume_input_convention,
    read_input_convention,
)

log = logging.getLogger("resnets")

# The first convolution of the network in a complete model: torchvision's, detectron2's, ours.
FIRST_CONVOLUTION = re.compile(
    r"(.*\.)?(backbone\.body\.conv1|backbone\.conv1|backbone\.(bottom_up\.)?stem\.conv1"
    r"|net\.stem\.conv)\.weight"
)
# Layers that only complete models have, and all layers of one.
WHOLE_MODEL_LAYERS = re.compile(
    r"(rpn|roi_heads|proposal_generator|(aux_)?classifier\.\d|backbone\.fpn|pyramid|predictor"
    r"|proposer|objectness|offsets)\."
)
MODEL_LAYERS = re.compile(WHOLE_MODEL_LAYERS.pattern + r"|(backbone|net|classifier)\.")
# Layers with a row per class, which are replaced if the number differs.
CLASS_LAYERS = re.compile(
    r"roi_heads\.box_predictor\.(cls_score|bbox_pred)\.|roi_heads\.mask_predictor\.mask_fcn_logits\."
    r"|(aux_)?classifier\.4\.|(classifier|objectness|offsets)\.(weight|bias)|predictor\."
)
# torchvision's layers before it wrapped convolutions (its RPNHead, FPN and mask head, version 1).
OLD_NAMES = (
    (re.compile(r"(rpn\.head\.conv)\.(weight|bias)"), r"\1.0.0.\2"),
    (re.compile(r"(fpn\.(?:inner|layer)_blocks\.\d+)\.(weight|bias)"), r"\1.0.\2"),
)
OLD_MASK = re.compile(r"roi_heads\.mask_head\.mask_fcn(\d)\.(weight|bias)")
UNUSED_CLASS = "N/A"
# Fields of `DetectSpec` that decide what the tensors of a detector mean, and do not show in them.
FIELDS_WITHOUT_TENSORS = ("anchor_sizes", "anchor_ratios", "roi", "context")
# torchvision's builders of published detectors and segmenters, for each task and head.
PUBLISHED = {
    ("detect", "fpn"): "fasterrcnn_{}_fpn",
    ("instances", "fpn"): "maskrcnn_{}_fpn",
    ("segment", "fcn"): "fcn_{}",
    ("segment", "deeplabv3"): "deeplabv3_{}",
}


def read_published(source: str, recipe: Recipe) -> Weights | None:
    """Read torchvision's detector or segmenter "torchvision:COCO_..." for this recipe.

    Returns None if `source` is something else. Raises ConfigError if torchvision has none for the
    recipe.
    """
    library, _, tag = source.partition(":")
    if library != "torchvision" or not tag.startswith("COCO"):
        return None
    from torchvision import models

    pattern = PUBLISHED.get((recipe.task, recipe.detect.head), "")
    name = pattern.format(recipe.model.name)
    if not pattern or name not in models.list_models():
        raise ConfigError(
            f"weights: torchvision has no {recipe.model.name}-{recipe.detect.head} for task "
            f"{recipe.task!r} trained on COCO"
        )
    choices = models.get_model_weights(name)
    if tag not in choices.__members__:
        hint = suggest(tag, choices.__members__)
        raise ConfigError(f"weights: torchvision has no {tag!r} for {name}; {hint}")
    entry = choices[tag]
    found = find_model_tensors(read_path(str(torchvision_file(entry.url))))
    # torchvision builds its published detectors with norms that add nothing to the variance.
    fields = {} if recipe.task == "segment" else {"norm_eps": 0.0}
    classes = tuple(entry.meta["categories"])
    return dataclasses.replace(found, source=source, fields=fields, classes=classes)


def find_model_tensors(weights: Weights) -> Weights:
    """Return `weights` reduced to the tensors of the detector or segmenter in them, if any.

    Prefixes of its names are removed; all other tensors are skipped, which is logged. Raises
    WeightsError if there are several models.
    """
    part = "" if weights.part is None else f"{weights.part}."
    names = [name for name in weights.contents if name.startswith(part)]
    prefixes = dict.fromkeys(
        match[1] or "" for name in names if (match := FIRST_CONVOLUTION.fullmatch(name))
    )
    prefixes.pop("proposer.", None)  # of our models, which have a network of their own too
    complete = [
        prefix
        for prefix in prefixes
        if any(map(WHOLE_MODEL_LAYERS.match, _strip_prefix(names, prefix)))
    ]
    if not complete:
        return weights
    prefix = select_copy(complete, complete[0], weights.source, log.info)
    chosen = {
        name.removeprefix(prefix): stored
        for name, stored in weights.contents.items()
        if name.startswith(prefix) and MODEL_LAYERS.match(name.removeprefix(prefix))
    }
    num_skipped = len(weights.contents) - len(chosen)
    if num_skipped and weights.recipe is None:
        log.info("%s: skipped %d tensors outside the model", weights.source, num_skipped)
    with reading_weights(weights.source):
        tensors = {name: stored.read() for name, stored in chosen.items()}
    return dataclasses.replace(weights, tensors=tensors)


def _strip_prefix(names: list[str], prefix: str) -> list[str]:
    return [name.removeprefix(prefix) for name in names if name.startswith(prefix)]


def adapt_recipe(recipe: Recipe, weights: Weights) -> tuple[Recipe, Preprocessor]:
    """Return the recipe, completed with what `weights` specify about the network.

    Raises ConfigError if the weights state another network than the recipe; logs a warning if they
    state other anchors or regions, which their tensors do not show.
    """
    if weights.recipe is not None:  # ours
        theirs = weights.recipe
        adopted = (*HIDDEN_FIELDS, "conv_bias")
        check_same_model(weights.source, theirs.model, recipe.model, adopted)
        for field in FIELDS_WITHOUT_TENSORS:
            stated, own = getattr(theirs.detect, field), getattr(recipe.detect, field)
            if stated != own:
                log.warning(
                    "%s: was trained with detect.%s %r, and continues with %r",
                    weights.source, field, stated, own,
                )  # fmt: skip
        spec = dataclasses.replace(theirs.model, num_classes=recipe.model.num_classes)
        assert weights.preprocess is not None
        return dataclasses.replace(recipe, model=spec), weights.preprocess
    if _is_detectron2(weights.tensors):
        spec, convention = (
            recipe.model,
            read_input_convention(weights.contents, weights.source, weights.part),
        )
        if convention is None:
            convention = assume_input_convention(weights.source)
        if spec.expansion > 1:
            spec = dataclasses.replace(spec, stride_in=convention.stride_in)
        return dataclasses.replace(recipe, model=spec), Preprocessor(convention.preprocess)
    spec = dataclasses.replace(recipe.model, **weights.fields)
    return dataclasses.replace(recipe, model=spec), Preprocessor(Preprocess())


def load_whole_weights(
    model: nn.Module,
    weights: Weights,
    classes: Sequence[str] | None = None,
    policy: HeadPolicy = "names",
) -> None:
    """Copy `weights` (of `find_model_tensors`) into a detector or segmenter.

    classes: names of the model's classes, to which rows of the class layers are matched; if they
    differ from those of the weights, these layers stay random. None: the layers are kept if the
    number of classes is equal. policy: see `heads.select_head_rows`.

    Raises WeightsError if tensors are unknown, missing or of another shape.
    """
    net, spec = model.net, model.spec
    assert isinstance(net, ImageClassifier)
    assert isinstance(spec, DetectSpec)
    tensors = dict(weights.tensors)
    if any(name.startswith("net.") for name in tensors):
        converted = tensors
    elif _is_detectron2(tensors):
        converted = _convert_detectron2(tensors, net, spec)
    else:
        converted = _convert_torchvision(tensors, net)
    state = model.state_dict()
    if getattr(model, "proposer", None) is None:  # of step 2 of alternating training
        converted = {
            name: each for name, each in converted.items() if not name.startswith("proposer.")
        }
    counters = {name: state[name] for name in state if name.endswith("num_batches_tracked")}
    converted = counters | converted
    class_layers = [name for name in state if CLASS_LAYERS.match(name) and name in converted]
    replaced: Sequence[str] = [
        name for name in class_layers if converted[name].shape != state[name].shape
    ]
    if classes is not None and class_layers:
        replaced = _match_classes(converted, class_layers, weights, classes, policy)
    if replaced:
        message = join_names(sorted(replaced))
        log.info("%s: new layers for other classes: %s", weights.source, message)
        converted |= {name: state[name] for name in replaced}
    unknown, missing = (
        sorted(converted.keys() - state.keys()),
        sorted(state.keys() - converted.keys()),
    )
    misshapen = [
        name for name in state if name in converted and converted[name].shape != state[name].shape
    ]
    for names, problem in (
        (unknown, "no place for"),
        (missing, "missing"),
        (misshapen, "another shape"),
    ):
        if names:
            raise WeightsError(
                f"{weights.source}: does not fit {net.spec.name}-{spec.head}: {len(names)} tensors "
                f"{problem} ({join_names(names)})"
            )
    check_values(converted, weights.source)
    warn_about_values(converted, weights.source, "detectron2")  # detectors' norms are frozen
    model.load_state_dict(converted)


def _match_classes(
    found: Tensors,
    of_classes: Sequence[str],
    weights: Weights,
    classes: Sequence[str],
    policy: HeadPolicy,
) -> Sequence[str]:
    """Reorder rows to `classes`; return the names of layers to initialize instead."""
    narrowest = min(of_classes, key=lambda name: found[name].shape[0])
    num_background = 1 if _has_background(narrowest) else 0
    count = found[narrowest].shape[0] - num_background
    theirs = list(weights.classes)
    if num_background and len(theirs) == count + num_background:
        theirs = theirs[1:]  # torchvision names the background too
    # Numbers that COCO left unused, in torchvision's lists.
    indices = [index for index, name in enumerate(theirs) if name != UNUSED_CLASS]
    used_names = [theirs[index] for index in indices]
    if indices and len(used_names) < count and len(theirs) == count:
        chosen = select_head_rows(weights.source, used_names, len(used_names), classes, policy)
        rows = None if chosen is None else torch.tensor(indices)[chosen]
    else:
        rows = select_head_rows(weights.source, theirs, count, classes, policy)
    if rows is None:
        return of_classes
    for name in of_classes:
        found[name] = _select_rows(name, found[name], rows, count)
    return ()


def _has_background(name: str) -> bool:
    """Return whether the first row of a layer is that of the background."""
    return "cls_score" in name or "bbox_pred" in name or "mask_fcn_logits" in name


def _select_rows(name: str, tensor: Tensor, rows: Tensor, count: int) -> Tensor:
    """Select the `rows` of a layer of `count` classes, or of anchors times classes."""
    if _has_background(name):
        rows, count = torch.cat((torch.tensor([0]), rows + 1)), count + 1
    values = 4 if "bbox_pred" in name or name.startswith("offsets") else 1
    split = tensor.unflatten(0, (-1, count, values))
    return split[:, rows].flatten(0, 2)


def _is_detectron2(tensors: Mapping[str, Tensor]) -> bool:
    return any(name.startswith("proposal_generator.") for name in tensors)


def _network_names(
    net: ImageClassifier, format: str, prefixed: Callable[[str], str]
) -> dict[str, str]:
    """Return their name -> ours for the network without its head; `prefixed` adds the prefix."""
    theirs = build_name_map(format, _NetworkNames(net)).foreign_names  # type: ignore[arg-type]
    return {prefixed(name): f"net.{own}" for own, name in theirs.items() if name is not None}


class _NetworkNames:
    """The spec and tensor names of a network, which is all that name maps need."""

    def __init__(self, net: ImageClassifier) -> None:
        self.spec, self._net = net.spec, net

    def state_dict(self) -> dict[str, Any]:
        return {name: None for name in self._net.state_dict() if not name.startswith("head.")}


def _convert_torchvision(tensors: Tensors, net: ImageClassifier) -> Tensors:
    """Convert torchvision's detection and segmentation models."""
    detects = any(name.startswith("backbone.body.") for name in tensors)
    prefix = "backbone.body." if detects else "backbone."
    names = _network_names(net, "torchvision", lambda name: prefix + name)
    converted = {}
    for name, tensor in tensors.items():
        for pattern, new in OLD_NAMES:
            name = pattern.sub(new, name)
        name = OLD_MASK.sub(lambda m: f"roi_heads.mask_head.{int(m[1]) - 1}.0.{m[2]}", name)
        own_name = names.get(name, name)
        converted[own_name.replace("backbone.fpn.", "pyramid.fpn.")] = tensor
    return converted


def _convert_detectron2(tensors: Tensors, net: ImageClassifier, spec: DetectSpec) -> Tensors:
    """Convert detectron2's Faster and Mask R-CNN, FPN and C4 (names of its model zoo)."""

    def prefixed(name: str) -> str:
        if spec.head == "fpn":
            return f"backbone.bottom_up.{name}"
        return f"roi_heads.{name}" if name.startswith("res5") else f"backbone.{name}"

    names = _network_names(net, "detectron2", prefixed)
    first = len(net.spec.depths) - 2 if spec.head == "fpn" else 0
    converted = {}
    for name, tensor in tensors.items():
        if name in names:
            converted[names[name]] = tensor
        elif not name.startswith(("pixel_", "anchor")) and "anchor_generator" not in name:
            own_name = _convert_head_name(name, first)
            converted[own_name] = _reorder_rows(own_name, tensor, spec)
    return converted


def _convert_head_name(name: str, first: int) -> str:
    """Return our name of a tensor outside the network; `first` is the index of its finest level."""
    match = re.fullmatch(r"backbone\.fpn_(lateral|output)(\d)\.(\w+)", name)
    if match:
        kind = "inner" if match[1] == "lateral" else "layer"
        return f"pyramid.fpn.{kind}_blocks.{int(match[2]) - first}.0.{match[3]}"
    match = re.fullmatch(r"roi_heads\.mask_head\.mask_fcn(\d)\.(\w+)", name)
    if match:
        return f"roi_heads.mask_head.{int(match[1]) - 1}.0.{match[2]}"
    for theirs, ours in (
        ("proposal_generator.rpn_head.conv.", "rpn.head.conv.0.0."),
        ("proposal_generator.rpn_head.objectness_logits.", "rpn.head.cls_logits."),
        ("proposal_generator.rpn_head.anchor_deltas.", "rpn.head.bbox_pred."),
        ("roi_heads.box_head.fc1.", "roi_heads.box_head.fc6."),
        ("roi_heads.box_head.fc2.", "roi_heads.box_head.fc7."),
        ("roi_heads.mask_head.deconv.", "roi_heads.mask_predictor.conv5_mask."),
        ("roi_heads.mask_head.predictor.", "roi_heads.mask_predictor.mask_fcn_logits."),
    ):
        name = name.replace(theirs, ours)
    return name


def _reorder_rows(name: str, tensor: Tensor, spec: DetectSpec) -> Tensor:
    """Put the background first (detectron2: last or none); order anchors by ratio, then size."""
    if ".cls_score." in name:
        return tensor.roll(1, 0)
    if ".bbox_pred." in name and name.startswith("roi_heads"):
        return torch.cat((torch.zeros_like(tensor[:4]), tensor))
    if ".mask_fcn_logits." in name:
        return torch.cat((torch.zeros_like(tensor[:1]), tensor))
    if spec.head == "c4" and re.match(r"rpn\.head\.(cls_logits|bbox_pred)\.", name):
        split = tensor.unflatten(0, (len(spec.anchor_sizes), len(spec.anchor_ratios), -1))
        return split.transpose(0, 1).flatten(0, 2)
    return tensor
