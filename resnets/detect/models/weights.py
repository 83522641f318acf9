"""Weights of whole detectors and segmenters: torchvision's, detectron2's and our own."""

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
from resnets.weights.check_values import check_values, warn_of_values
from resnets.weights.errors import WeightsError
from resnets.weights.heads import HeadPolicy, head_rows
from resnets.weights.hub import torchvision_file
from resnets.weights.lazy_tensors import naming
from resnets.weights.name_maps.find_tensors import choose_copy
from resnets.weights.name_maps.maps import name_map, shorten
from resnets.weights.name_maps.rules import Tensors
from resnets.weights.read import Weights, read_path
from resnets.weights.readers.configs.input_convention import assumed_input, stated_input

log = logging.getLogger("resnets")

# The first convolution of a network in a whole model: torchvision's, detectron2's, and ours.
BODY = re.compile(
    r"(.*\.)?(backbone\.body\.conv1|backbone\.conv1|backbone\.(bottom_up\.)?stem\.conv1"
    r"|net\.stem\.conv)\.weight"
)
# Layers that only whole models have, and all that belongs to one.
WHOLE = re.compile(
    r"(rpn|roi_heads|proposal_generator|(aux_)?classifier\.\d|backbone\.fpn|pyramid|predictor"
    r"|proposer|objectness|offsets)\."
)
PARTS = re.compile(WHOLE.pattern + r"|(backbone|net|classifier)\.")
# Layers as wide as there are classes; they are replaced where the number differs.
OF_CLASSES = re.compile(
    r"roi_heads\.box_predictor\.(cls_score|bbox_pred)\.|roi_heads\.mask_predictor\.mask_fcn_logits\."
    r"|(aux_)?classifier\.4\.|(classifier|objectness|offsets)\.(weight|bias)|predictor\."
)
# torchvision's layers before it wrapped convolutions (its RPNHead, FPN and mask head, version 1).
OLD_NAMES = (
    (re.compile(r"(rpn\.head\.conv)\.(weight|bias)"), r"\1.0.0.\2"),
    (re.compile(r"(fpn\.(?:inner|layer)_blocks\.\d+)\.(weight|bias)"), r"\1.0.\2"),
)
OLD_MASK = re.compile(r"roi_heads\.mask_head\.mask_fcn(\d)\.(weight|bias)")
UNUSED = "N/A"
# torchvision's builders of published detectors and segmenters, for each task and head.
PUBLISHED = {
    ("detect", "fpn"): "fasterrcnn_{}_fpn",
    ("instances", "fpn"): "maskrcnn_{}_fpn",
    ("segment", "fcn"): "fcn_{}",
    ("segment", "deeplabv3"): "deeplabv3_{}",
}


def read_published(source: str, recipe: Recipe) -> Weights | None:
    """torchvision's detector or segmenter that "torchvision:COCO_..." names for this recipe.

    None where `source` names something else. ConfigError where torchvision has none like it.
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
        known = ", ".join(choices.__members__)
        raise ConfigError(f"weights: torchvision has no {tag!r} for {name}; known: {known}")
    entry = choices[tag]
    found = find_whole(read_path(str(torchvision_file(entry.url))))
    # torchvision builds its published detectors with norms that add nothing to the variance.
    fields = {} if recipe.task == "segment" else {"norm_eps": 0.0}
    classes = tuple(entry.meta["categories"])
    return dataclasses.replace(found, source=source, fields=fields, classes=classes)


def find_whole(weights: Weights) -> Weights:
    """`weights` with the tensors of the detector or segmenter in them, if there is one.

    Prefixes before its names are taken off; what is not the model's is left out, and logged.
    WeightsError where several models would serve.
    """
    part = "" if weights.part is None else f"{weights.part}."
    names = [name for name in weights.contents if name.startswith(part)]
    prefixes = dict.fromkeys(found[1] or "" for name in names if (found := BODY.fullmatch(name)))
    prefixes.pop("proposer.", None)  # of our models, beside the model's own
    whole = [prefix for prefix in prefixes if any(map(WHOLE.match, _without(names, prefix)))]
    if not whole:
        return weights
    prefix = choose_copy(whole, whole[0], weights.source, log.info)
    kept = {
        name.removeprefix(prefix): stored
        for name, stored in weights.contents.items()
        if name.startswith(prefix) and PARTS.match(name.removeprefix(prefix))
    }
    left = len(weights.contents) - len(kept)
    if left and weights.recipe is None:
        log.info("%s: left out %d tensors that are not the model's", weights.source, left)
    with naming(weights.source):
        tensors = {name: stored.read() for name, stored in kept.items()}
    return dataclasses.replace(weights, tensors=tensors)


def _without(names: list[str], prefix: str) -> list[str]:
    return [name.removeprefix(prefix) for name in names if name.startswith(prefix)]


def follow(recipe: Recipe, weights: Weights) -> tuple[Recipe, Preprocessor]:
    """The recipe with what names do not show of the network that whole `weights` are of."""
    if weights.recipe is not None:  # ours
        theirs = weights.recipe
        spec = dataclasses.replace(theirs.model, num_classes=recipe.model.num_classes)
        assert weights.preprocess is not None
        return dataclasses.replace(recipe, model=spec), weights.preprocess
    if _from_detectron2(weights.tensors):
        spec, said = recipe.model, stated_input(weights.contents, weights.source, weights.part)
        if said is None:
            said = assumed_input(weights.source)
        if spec.expansion > 1:
            spec = dataclasses.replace(spec, stride_in=said.stride_in)
        return dataclasses.replace(recipe, model=spec), Preprocessor(said.preprocess)
    spec = dataclasses.replace(recipe.model, **weights.fields)
    return dataclasses.replace(recipe, model=spec), Preprocessor(Preprocess())


def fit_whole(
    model: nn.Module,
    weights: Weights,
    classes: Sequence[str] | None = None,
    policy: HeadPolicy = "names",
) -> None:
    """Copy `weights` (of `find_whole`) into a detector or segmenter.

    classes, policy: as of `heads.head_rows`: layers of classes are kept by the names of these, in
    their order; where they are others, the layers stay as they are drawn. Without `classes`, they
    are kept where there are as many. WeightsError names tensors that have no place, are missing, or
    have another shape.
    """
    net, spec = model.net, model.spec
    assert isinstance(net, ImageClassifier)
    assert isinstance(spec, DetectSpec)
    tensors = dict(weights.tensors)
    if any(name.startswith("net.") for name in tensors):
        found = tensors
    elif _from_detectron2(tensors):
        found = _detectron2(tensors, net, spec)
    else:
        found = _torchvision(tensors, net)
    own = model.state_dict()
    if getattr(model, "proposer", None) is None:  # of step 2 of alternating training
        found = {name: each for name, each in found.items() if not name.startswith("proposer.")}
    counters = {name: own[name] for name in own if name.endswith("num_batches_tracked")}
    found = counters | found
    of_classes = [name for name in own if OF_CLASSES.match(name) and name in found]
    replaced: Sequence[str] = [name for name in of_classes if found[name].shape != own[name].shape]
    if classes is not None and of_classes:
        replaced = _fit_classes(found, of_classes, weights, classes, policy)
    if replaced:
        message = shorten(sorted(replaced))
        log.info("%s: new layers for other classes: %s", weights.source, message)
        found |= {name: own[name] for name in replaced}
    unknown, missing = sorted(found.keys() - own.keys()), sorted(own.keys() - found.keys())
    wrong = [name for name in own if name in found and found[name].shape != own[name].shape]
    for names, what in ((unknown, "no place for"), (missing, "missing"), (wrong, "another shape")):
        if names:
            raise WeightsError(
                f"{weights.source}: does not fit {net.spec.name}-{spec.head}: {len(names)} tensors "
                f"{what} ({shorten(names)})"
            )
    check_values(found, weights.source)
    warn_of_values(found, weights.source, "detectron2")  # detectors' norms are frozen
    model.load_state_dict(found)


def _fit_classes(
    found: Tensors,
    of_classes: Sequence[str],
    weights: Weights,
    classes: Sequence[str],
    policy: HeadPolicy,
) -> Sequence[str]:
    """Bring rows into the order of `classes`; the names of layers that are to be new instead."""
    decides = min(of_classes, key=lambda name: found[name].shape[0])
    first = 1 if _has_background(decides) else 0
    count = found[decides].shape[0] - first
    theirs = list(weights.classes)
    if len(theirs) == count + first and first:  # torchvision names the background too
        theirs = theirs[1:]
    # Numbers that COCO left unused, in torchvision's lists.
    places = [place for place, name in enumerate(theirs) if name != UNUSED]
    named = [theirs[place] for place in places]
    if places and len(named) < count and len(theirs) == count:
        chosen = head_rows(weights.source, named, len(named), classes, policy)
        rows = None if chosen is None else torch.tensor(places)[chosen]
    else:
        rows = head_rows(weights.source, theirs, count, classes, policy)
    if rows is None:
        return of_classes
    for name in of_classes:
        found[name] = _with_rows(name, found[name], rows, count)
    return ()


def _has_background(name: str) -> bool:
    """Whether a layer's first row is the background's, beside those of the classes."""
    return "cls_score" in name or "bbox_pred" in name or "mask_fcn_logits" in name


def _with_rows(name: str, tensor: Tensor, rows: Tensor, count: int) -> Tensor:
    """A layer of `count` classes, or of anchors times classes, with those of `rows` alone."""
    if _has_background(name):
        rows, count = torch.cat((torch.tensor([0]), rows + 1)), count + 1
    values = 4 if "bbox_pred" in name or name.startswith("offsets") else 1
    split = tensor.unflatten(0, (-1, count, values))
    return split[:, rows].flatten(0, 2)


def _from_detectron2(tensors: Mapping[str, Tensor]) -> bool:
    return any(name.startswith("proposal_generator.") for name in tensors)


def _body(net: ImageClassifier, format: str, place: Callable[[str], str]) -> dict[str, str]:
    """Their name -> ours for the network without its head; `place` adds the prefix."""
    theirs = name_map(format, _Named(net)).foreign_names  # type: ignore[arg-type]
    return {place(name): f"net.{own}" for own, name in theirs.items() if name is not None}


class _Named:
    """A network as name maps see it; they only need its spec and the names of its tensors."""

    def __init__(self, net: ImageClassifier) -> None:
        self.spec, self._net = net.spec, net

    def state_dict(self) -> dict[str, Any]:
        return {name: None for name in self._net.state_dict() if not name.startswith("head.")}


def _torchvision(tensors: Tensors, net: ImageClassifier) -> Tensors:
    """torchvision's detection and segmentation models."""
    detects = any(name.startswith("backbone.body.") for name in tensors)
    before = "backbone.body." if detects else "backbone."
    names = _body(net, "torchvision", lambda name: before + name)
    found = {}
    for name, tensor in tensors.items():
        for pattern, new in OLD_NAMES:
            name = pattern.sub(new, name)
        name = OLD_MASK.sub(lambda m: f"roi_heads.mask_head.{int(m[1]) - 1}.0.{m[2]}", name)
        own = names.get(name, name)
        found[own.replace("backbone.fpn.", "pyramid.fpn.")] = tensor
    return found


def _detectron2(tensors: Tensors, net: ImageClassifier, spec: DetectSpec) -> Tensors:
    """detectron2's Faster and Mask R-CNN, FPN and C4 (its model zoo's names)."""

    def place(name: str) -> str:
        if spec.head == "fpn":
            return f"backbone.bottom_up.{name}"
        return f"roi_heads.{name}" if name.startswith("res5") else f"backbone.{name}"

    names = _body(net, "detectron2", place)
    first = len(net.spec.depths) - 2 if spec.head == "fpn" else 0
    found = {}
    for name, tensor in tensors.items():
        if name in names:
            found[names[name]] = tensor
        elif not name.startswith(("pixel_", "anchor")) and "anchor_generator" not in name:
            own = _detectron2_head(name, first)
            found[own] = _as_torchvision(own, tensor, spec)
    return found


def _detectron2_head(name: str, first: int) -> str:
    """Our name of a tensor that is not the network's; `first` is the number of its finest level."""
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


def _as_torchvision(name: str, tensor: Tensor, spec: DetectSpec) -> Tensor:
    """Background first, which detectron2 has last or not at all; anchors by ratio, then by size."""
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
