"""Weights of whole detectors and segmenters: torchvision's, detectron2's and our own."""

from __future__ import annotations

import dataclasses
import logging
import re
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from resnets.config import ConfigError, DetectSpec, Preprocess, Recipe
from resnets.data.preprocess import Preprocessor
from resnets.models import Net
from resnets.weights.errors import WeightsError
from resnets.weights.files import Weights, read_path
from resnets.weights.hub import torchvision_file
from resnets.weights.maps import name_map, shorten
from resnets.weights.rules import Tensors

log = logging.getLogger("resnets")

# Names that only whole models have: torchvision's, detectron2's, and ours.
WHOLE = re.compile(r"(rpn|roi_heads|proposal_generator|classifier\.\d|net\.|backbone\.fpn)")
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
# torchvision's builders of published detectors and segmenters, for each task and head.
PUBLISHED = {
    ("detect", "fpn"): "fasterrcnn_{}_fpn",
    ("instances", "fpn"): "maskrcnn_{}_fpn",
    ("segment", "fcn"): "fcn_{}",
    ("segment", "deeplabv3"): "deeplabv3_{}",
}
# detectron2's model zoo: MSRA's ResNets on BGR in 0..255, stride in the first 1x1.
MSRA = Preprocess(
    mean=(123.675 / 255, 116.28 / 255, 103.53 / 255), std=(1 / 255,) * 3, channel_order="bgr"
)


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
    found = read_path(str(torchvision_file(entry.url)))
    # torchvision builds its published detectors with norms that add nothing to the variance.
    fields = {} if recipe.task == "segment" else {"norm_eps": 0.0}
    classes = tuple(entry.meta["categories"])
    return dataclasses.replace(found, source=source, fields=fields, classes=classes)


def is_whole(tensors: Mapping[str, Tensor]) -> bool:
    """Whether these are the tensors of a detector or segmenter, not of a classifier."""
    return any(WHOLE.match(name) for name in tensors) and "features.0.weight" not in tensors


def follow(recipe: Recipe, weights: Weights) -> tuple[Recipe, Preprocessor]:
    """The recipe with what names do not show of the net that whole `weights` are of."""
    if weights.recipe is not None:  # ours
        theirs = weights.recipe
        spec = dataclasses.replace(theirs.model, num_classes=recipe.model.num_classes)
        assert weights.preprocess is not None
        return dataclasses.replace(recipe, model=spec), weights.preprocess
    if _from_detectron2(weights.tensors):
        spec = recipe.model
        if spec.expansion > 1:
            spec = dataclasses.replace(spec, stride_in="1x1")
        return dataclasses.replace(recipe, model=spec), Preprocessor(MSRA)
    spec = dataclasses.replace(recipe.model, **weights.fields)
    return dataclasses.replace(recipe, model=spec), Preprocessor(Preprocess())


def fit_whole(model: nn.Module, weights: Weights) -> None:
    """Copy `weights` into a detector or segmenter; layers of other classes stay as they are drawn.

    WeightsError names tensors that have no place, are missing, or have another shape.
    """
    net, spec = model.net, model.spec
    assert isinstance(net, Net)
    assert isinstance(spec, DetectSpec)
    tensors = dict(weights.tensors)
    if any(name.startswith("net.") for name in tensors):
        found = tensors
    elif _from_detectron2(tensors):
        found = _detectron2(tensors, net, spec)
    else:
        found = _torchvision(tensors, net)
    own = model.state_dict()
    counters = {name: own[name] for name in own if name.endswith("num_batches_tracked")}
    found = counters | found
    replaced = sorted(
        name
        for name in own
        if OF_CLASSES.match(name) and name in found and found[name].shape != own[name].shape
    )
    if replaced:
        log.info("%s: new layers for other classes: %s", weights.source, shorten(replaced))
        found |= {name: own[name] for name in replaced}
    unknown, missing = sorted(found.keys() - own.keys()), sorted(own.keys() - found.keys())
    wrong = [name for name in own if name in found and found[name].shape != own[name].shape]
    for names, what in ((unknown, "no place for"), (missing, "missing"), (wrong, "another shape")):
        if names:
            raise WeightsError(
                f"{weights.source}: does not fit {net.spec.name}-{spec.head}: {len(names)} tensors "
                f"{what} ({shorten(names)})"
            )
    model.load_state_dict(found)


def _from_detectron2(tensors: Mapping[str, Tensor]) -> bool:
    return any(name.startswith("proposal_generator.") for name in tensors)


def _body(net: Net, format: str, place: Callable[[str], str]) -> dict[str, str]:
    """Their name -> ours, of the net's tensors but its head; `place` adds what stands before."""
    theirs = name_map(format, _Named(net)).theirs  # type: ignore[arg-type]
    return {place(name): f"net.{own}" for own, name in theirs.items() if name is not None}


class _Named:
    """A net as name maps see it; they only need its spec and the names of its tensors."""

    def __init__(self, net: Net) -> None:
        self.spec, self._net = net.spec, net

    def state_dict(self) -> dict[str, Any]:
        return {name: None for name in self._net.state_dict() if not name.startswith("head.")}


def _torchvision(tensors: Tensors, net: Net) -> Tensors:
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


def _detectron2(tensors: Tensors, net: Net, spec: DetectSpec) -> Tensors:
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
    """Our name of a tensor that is not the net's; `first` is the number of its finest level."""
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
