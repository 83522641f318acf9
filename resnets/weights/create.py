"""`create_model`: models by name, with random weights or those of a file or library."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Sequence
from os import PathLike, fspath
from pathlib import Path
from typing import Any

import torch

from resnets.config import ConfigError, ModelSpec, Preprocess, from_dict, to_dict
from resnets.data.transforms.preprocess import Preprocessor
from resnets.models import ImageClassifier, build, catalog
from resnets.models.cost import shapes_only
from resnets.utils.api_function import api_function
from resnets.utils.printable import join_names
from resnets.weights import hub
from resnets.weights.adapt import (
    STEM_KERNEL,
    adapt_first_conv,
    adapt_preprocess_to_model,
    resolve_preprocess,
)
from resnets.weights.check_values import (
    check_arch,
    check_not_empty,
    check_same_model,
    check_values,
    warn_about_unstated_network,
    warn_about_values,
)
from resnets.weights.errors import WeightsError
from resnets.weights.heads import (
    NUM_IMAGENET_CLASSES,
    HeadPolicy,
    imagenet_classes,
    parse_classes,
    select_head_rows,
)
from resnets.weights.name_maps.find_tensors import HEAD_TENSORS, select_tensors
from resnets.weights.name_maps.formats.spec import Tensors
from resnets.weights.name_maps.leftovers import log_leftovers
from resnets.weights.name_maps.maps import (
    OWN,
    NameMap,
    build_name_map,
    identity_map,
    list_name_maps,
)
from resnets.weights.name_maps.matching_models import matching_models_hint
from resnets.weights.read import Weights, read_path
from resnets.weights.read_tensors import read_tensors
from resnets.weights.readers.configs.input_convention import (
    read_input_convention,
    warn_about_detectron2,
    warn_about_file_name,
    warn_about_raw_input,
)

log = logging.getLogger("resnets")

DETECTRON2 = "detectron2"  # its networks are of both input conventions
MIN_IMAGENET_SIZE = 65  # px; preprocessing for images at least this large is ImageNet's


@api_function
def create_model(
    model: str | ModelSpec,
    num_classes: int | None = None,
    in_channels: int | None = None,
    weights: str | PathLike[str] | Any = None,  # Any: others are refused with what to write
    classes: str | Sequence[str] | None = None,
    **fields: Any,
) -> ImageClassifier:
    """Create a model by name (`list_models`) or from a spec, in training mode, float32, on the CPU.

        resnets.create_model("resnet50", weights="torchvision:DEFAULT")
        resnets.create_model("cifar-resnet20", num_classes=100, drop_path=0.1)

    weights: None initializes them at random (torch's global generator).
    "torchvision:IMAGENET1K_V2", "timm:resnet50.a1_in1k" and "hub:ORG/NAME" are downloaded once and
    cached. Otherwise it is a path: a file in any format of `resnets.weights.name_maps.formats`, a
    checkpoint, a run or a pushed folder. FILE#PART uses the tensors whose names begin with PART,
    such as model_ema.

    classes: names of the outputs, in order: a sequence, or text as for `resnets.load`. The head of
    the weights is then kept only if it has the same classes, by name; without `classes`, if it has
    the same number. fields: other fields of `ModelSpec`.

    The model then has `.preprocess` and `.classes` if they are known, and `.origin`. Adaptations
    are logged (logger "resnets", level INFO): the model adopts details that tensors do not show
    (`stride_in`, `stem_pool`, `shortcut_pool`, `norm_eps`, `conv_bias`); a head for another number
    of classes, or a missing one, is replaced by a new one; the first convolution is adapted to
    other input channels and to a CIFAR stem. Every other tensor must fit.

    Raises ConfigError for an unknown model, weights name or field, WeightsError (a ValueError) for
    weights that cannot be read, fetched or fitted.
    """
    spec = catalog.spec(model) if isinstance(model, str) else model
    if fields.pop("pretrained", False):  # of timm, and of torchvision before 0.13
        raise ConfigError(f"pretrained: {hub.suggest_published(spec)}")
    names: tuple[str, ...] = ()
    if classes is not None:
        count = spec.num_classes if num_classes is None and classes == "numbers" else num_classes
        names = parse_classes(classes, count, "the model")
        num_classes = len(names)
    given = {"num_classes": num_classes, "in_channels": in_channels}
    fields |= {name: value for name, value in given.items() if value is not None}
    if fields:
        spec = from_dict(ModelSpec, to_dict(spec) | fields, "create_model")
    if weights is None:
        net = build(spec)
        net.classes = names
        return net
    return build_from_weights(read_weights(weights, spec), spec, classes=names or None)


def read_weights(weights: str | PathLike[str], spec: ModelSpec) -> Weights:
    """Read what `create_model` accepts as `weights`, and recognize its format for `spec`."""
    if not isinstance(weights, str | PathLike):
        hint = hub.suggest_weights(str(weights), spec)
        raise ConfigError(f"weights: {weights!r}: must be a name or a path{hint}")
    source = fspath(weights)
    if hub.is_library(source):
        return recognize_weights(hub.read_library(source, spec), spec)
    try:
        return recognize_weights(read_path(source), spec)
    except ConfigError as error:
        if Path(source).expanduser().exists() or not (hint := hub.suggest_weights(source, spec)):
            raise
        raise ConfigError(f"{error}{hint}") from None


def recognize_weights(weights: Weights, spec: ModelSpec) -> Weights:
    """Return `weights` with their tensors and format, and what the format implies.

    Raises WeightsError if no format has these names, or the file cannot be read.
    """
    if weights.spec is None:
        check_arch(weights, spec)
    elif weights.part is None:  # with FILE#PART only the tensors count
        check_same_model(weights.source, weights.spec, spec, (*weights.fields, "conv_bias"))
    with shapes_only():  # every format may have biases in convolutions before norms
        template = build(dataclasses.replace(spec, conv_bias="all"))
    selection = select_tensors(
        weights.contents, list_name_maps(template), weights.source, weights.part
    )
    if selection is None:
        raise WeightsError(
            f"{weights.source}: none of its {len(weights.contents)} tensors "
            f"({join_names(weights.contents)}) belongs to {spec.name}; docs/weights.md lists the "
            f"formats{matching_models_hint(weights.contents, weights.part)}"
        )
    if selection.error:
        raise WeightsError(selection.error)
    log_leftovers(selection.leftovers, weights.source)
    names = selection.map
    tensors = read_tensors(weights, selection, template)
    format = names.format
    if format is OWN:
        warn_about_unstated_network(weights, spec)
    present = names.own_names(tensors)
    fields = {**format.implied_fields, **weights.fields}
    if spec.norm == "batch" and not spec.is_vgg and spec.stem != "whitening":
        fields["conv_bias"] = "stem" if "stem.conv.bias" in present else "none"
        if "stage1.0.conv1.bias" in present:
            fields["conv_bias"] = "all"
    preprocess, stated = format.preprocess(spec), None
    if weights.preprocess is None and weights.spec is None:
        stated = _find_stated_input(weights, names, tensors, spec, fields)
        preprocess = stated or preprocess
    if {"mean", "std"} <= weights.stored_config.preprocess.keys():
        preprocess = resolve_preprocess(weights, spec)
    first = names.get_own(tensors, f"{template.input_layer}.weight")
    head = names.get_own(tensors, HEAD_TENSORS[0])
    channels = None if first is None or first.dim() != 4 else first.shape[1]
    rows = None if head is None or head.dim() != 2 else head.shape[0]
    if weights.spec is not None and channels not in (None, weights.spec.in_channels):
        raise WeightsError(
            f"{weights.source}: its config has {weights.spec.in_channels} input channels, its"
            f" tensors {channels}"
        )
    classes = _check_classes(weights, rows)
    if not classes and _is_of_imagenet(weights, preprocess, head):
        classes = imagenet_classes()
    return dataclasses.replace(
        weights,
        format=format.name,
        tensors=tensors,
        fields=fields,
        preprocess=weights.preprocess or (None if preprocess is None else Preprocessor(preprocess)),
        classes=classes,
        head_note=selection.head_note,
        head_rows=rows,
        preprocess_assumed=weights.preprocess is None and preprocess is not None and stated is None,
        channels=channels,
        stem_kernel=None if first is None or first.dim() != 4 else first.shape[-1],
    )


def _is_of_imagenet(
    weights: Weights, preprocess: Preprocess | None, head: torch.Tensor | None
) -> bool:
    """Whether weights without class names have ImageNet's classes, by input size and outputs."""
    return (
        preprocess is not None
        and not weights.stored_config.preprocess
        and preprocess.size >= MIN_IMAGENET_SIZE
        and head is not None
        and head.shape[0] == NUM_IMAGENET_CLASSES
    )


def _find_stated_input(
    weights: Weights, names: NameMap, tensors: Tensors, spec: ModelSpec, fields: dict[str, Any]
) -> Preprocess | None:
    """Return the preprocessing that constants in the file specify; store the stride in `fields`.

    Logs a warning if nothing specifies it and the file may be from Caffe.
    """
    convention = read_input_convention(weights.contents, weights.source, weights.part)
    if convention is not None:
        fields["stride_in"] = convention.stride_in
        return convention.preprocess
    if names.format.name == DETECTRON2:
        warn_about_detectron2(weights.source, spec)
    elif names.format.preprocess(spec) is None and not weights.stored_config.preprocess:
        first, variance = (
            names.get_own(tensors, name) if name in names.foreign_names else None
            for name in ("stem.conv.weight", "stem.norm.running_var")
        )
        if first is not None:
            warn_about_raw_input(weights.source, first, variance)
        warn_about_file_name(weights.source, spec)
    return None


def _check_classes(weights: Weights, rows: int | None) -> tuple[str, ...]:
    """Return the class names in a file, () if they do not match its head of `rows` classes."""
    names = weights.classes
    if rows is not None and names and len(names) != rows:
        log.warning(
            "%s: has names of %d classes (%s), but its head has %d outputs; the names are not used",
            weights.source, len(names), join_names(names), rows,
        )  # fmt: skip
        return ()
    if len(set(names)) != len(names) and len(names) != NUM_IMAGENET_CLASSES:  # it has two cranes
        duplicate = next(name for name in names if names.count(name) > 1)
        raise WeightsError(f"{weights.source}: contains a class twice ({join_names([duplicate])})")
    return names


def build_from_weights(
    weights: Weights,
    spec: ModelSpec,
    *,
    classes: Sequence[str] | None = None,
    policy: HeadPolicy = "names",
    whole: bool = False,
) -> ImageClassifier:
    """Build the model `spec`, in training mode, with recognized `weights`; see `create_model`.

    classes, policy: the classes of the model, and how the head of the weights is kept for them
    (`heads.select_head_rows`). With `whole`, raises WeightsError if the weights have no head for as
    many classes.
    """
    spec = _adopt_fields(spec, weights)
    net = build(spec)
    tensors = _to_own(net, weights)
    check_not_empty(tensors, weights.source)
    head_kept = _fit_head(net, tensors, weights, classes, policy)
    if whole and not head_kept:
        note = f" ({weights.head_note})" if weights.head_note else ""
        raise WeightsError(f"{weights.source}: has no head for {spec.num_classes} classes{note}")
    if head_kept and classes is None and len(weights.classes) == spec.num_classes:
        net.classes = weights.classes
        net.postprocess = weights.postprocess
    elif classes is not None:
        net.classes = tuple(classes)
    adapt_first_conv(net, tensors, weights.source)
    _check_tensors(net, tensors, weights.source)
    warn_about_values(tensors, weights.source, weights.format)
    net.load_state_dict(tensors)
    if weights.preprocess is not None:
        stem_adapted = spec.stem == "cifar" and weights.stem_kernel == STEM_KERNEL
        net.preprocess = adapt_preprocess_to_model(weights.preprocess, spec, stem_adapted)
    net.origin = weights.source
    return net


def _adopt_fields(spec: ModelSpec, weights: Weights) -> ModelSpec:
    """Return `spec` with those fields of the weights' model that tensors do not show."""
    changes = {
        name: value
        for name, value in weights.fields.items()
        if getattr(spec, name) != value
        and not (name == "stride_in" and spec.expansion == 1)
        and not (name == "stem_pool" and spec.stem == "cifar")
    }
    if changes:
        changed = ", ".join(f"{name} {value!r}" for name, value in changes.items())
        log.info("%s: model adapted to its weights: %s", weights.source, changed)
    return dataclasses.replace(spec, **changes)


def _to_own(net: ImageClassifier, weights: Weights) -> Tensors:
    """Return the tensors under the names of `net`; those of the head may be missing."""
    assert weights.format is not None
    is_own = weights.format == OWN.name
    names = identity_map(net) if is_own else build_name_map(weights.format, net)
    try:
        return names.to_own(weights.tensors, optional=HEAD_TENSORS)
    except WeightsError as error:
        raise WeightsError(f"{weights.source}: {error}") from None


def _fit_head(
    net: ImageClassifier,
    tensors: Tensors,
    weights: Weights,
    classes: Sequence[str] | None,
    policy: HeadPolicy,
) -> bool:
    """Return whether the head of the weights is kept; if not, `tensors` gets a random one."""
    expected, source = net.spec.num_classes, weights.source
    count = None
    if HEAD_TENSORS[0] in tensors:
        count = tensors[HEAD_TENSORS[0]].shape[0]
        if HEAD_TENSORS[1] not in tensors:
            log.warning(
                "%s: its head has no bias; it is read as a linear layer with bias 0, which is wrong"
                " for a classifier by cosines (of normalized features and weights)",
                source,
            )
            tensors[HEAD_TENSORS[1]] = torch.zeros(count)
    if count is not None and classes is not None:
        rows = select_head_rows(source, weights.classes, count, classes, policy)
        if rows is not None:
            tensors |= {name: tensors[name][rows] for name in HEAD_TENSORS}
            return True
    elif count == expected:
        return True
    own = net.state_dict()
    tensors |= {name: own[name] for name in HEAD_TENSORS}
    if count is None:
        note = f" ({weights.head_note})" if weights.head_note else ""
        log.info("%s: has no head%s; a new one for %d classes", source, note, expected)
    elif classes is None:
        log.info("%s: head for %d classes replaced by a new one for %d", source, count, expected)
    return False


def _check_tensors(net: ImageClassifier, tensors: Tensors, source: str) -> None:
    """Raise WeightsError if shapes differ, or values are impossible for a trained network."""
    own = net.state_dict()
    wrong = [
        f"{name} {tuple(tensors[name].shape)} for {tuple(own[name].shape)}"
        for name in own
        if tensors[name].shape != own[name].shape
    ]
    if wrong:
        raise WeightsError(
            f"{source}: {len(wrong)} tensors have another shape than in {net.spec.name}: "
            f"{join_names(wrong)}"
        )
    integers = [
        name for name in own if own[name].is_floating_point() > tensors[name].is_floating_point()
    ]
    if integers:
        raise WeightsError(f"{source}: integers, as of a quantized model: {join_names(integers)}")
    check_values(tensors, source)
