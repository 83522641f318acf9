"""`create_model`: models by name, with random weights or those of a file or library."""

from __future__ import annotations

import dataclasses
import difflib
import logging
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from resnets.config import ConfigError, ModelSpec, Preprocess
from resnets.data.transforms.preprocess import Preprocessor
from resnets.models import ImageClassifier, build, catalog
from resnets.models.cost import shapes_only
from resnets.weights import hub
from resnets.weights.adapt import adapt_input, adapt_preprocess, adapt_stem, stated_preprocess
from resnets.weights.check_values import (
    check_arch,
    check_empty,
    check_values,
    require_same_model,
    warn_of_values,
)
from resnets.weights.errors import WeightsError
from resnets.weights.heads import HeadPolicy, head_rows, imagenet_classes, read_classes
from resnets.weights.lazy_tensors import LazyTensor, naming
from resnets.weights.name_maps.find_tensors import HEAD_TENSORS, Selection, select
from resnets.weights.name_maps.leftovers import report
from resnets.weights.name_maps.maps import OWN, NameMap, maps_of, name_map, own_map, shorten
from resnets.weights.name_maps.matching_models import matching_models_hint
from resnets.weights.name_maps.rules import Tensors
from resnets.weights.read import Weights, read_path
from resnets.weights.readers.configs.input_convention import (
    stated_input,
    warn_of_detectron2,
    warn_of_other_name,
    warn_of_raw_input,
)

log = logging.getLogger("resnets")

FLOATS = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
DETECTRON2 = "detectron2"  # the format that has networks of both kinds
STEM_KERNEL = 7  # side of the ImageNet stem's
IMAGENET = 1000  # classes
SMALL = 64  # px; formats of larger images than this are ImageNet's
# A tensor in a file may be so many times as large as the network's own before it is refused
# unread: heads differ in their classes, first convolutions in their kernel and channels.
LARGER, MARGIN = 64, 1 << 22


def create_model(
    spec: ModelSpec | str,
    num_classes: int | None = None,
    in_channels: int | None = None,
    weights: str | None = None,
    classes: Sequence[str] | None = None,
) -> ImageClassifier:
    """A model by catalog name or from a spec, in training mode, float32, on the CPU.

    weights: None draws them at random (torch's global generator). "torchvision:IMAGENET1K_V2",
    "timm:resnet50.a1_in1k" and "hub:ORG/NAME" are downloaded once and cached. Otherwise it is a
    path: a file in any format of `resnets.weights.name_maps.formats`, a checkpoint, a run or a
    pushed folder. FILE#PART takes the tensors whose names begin with PART, such as model_ema.

    classes: names of the outputs, in order. The head of the weights is then kept only if it has the
    same classes, by name; without `classes`, if it has the same number.

    The model then has `.preprocess` and `.classes` if they are known, and `.origin`. What is done
    to make weights fit is logged (logger "resnets", level INFO): the model follows them in
    details that tensors do not show (`stride_in`, `stem_pool`, `shortcut_pool`, `norm_eps`,
    `conv_bias`); a head for another number of classes, or none, is replaced by a new one; the first
    convolution is adapted to other input channels and to a CIFAR stem. Every other tensor must fit.

    Raises ConfigError for an unknown model or weights name, WeightsError (a ValueError) for weights
    that cannot be read, fetched or fitted.
    """
    spec = catalog.spec(spec) if isinstance(spec, str) else spec
    if classes is not None:
        num_classes = len(classes) if num_classes is None else num_classes
        read_classes(classes, num_classes, "the model")
    if num_classes is not None:
        spec = dataclasses.replace(spec, num_classes=num_classes)
    if in_channels is not None:
        spec = dataclasses.replace(spec, in_channels=in_channels)
    if weights is None:
        net = build(spec)
        net.classes = tuple(classes or ())
        return net
    return net_from(read_weights(weights, spec), spec, classes=classes)


def read_weights(source: str, spec: ModelSpec) -> Weights:
    """What `create_model` takes as `weights`, read and recognized for the model `spec`."""
    if hub.is_library(source):
        return recognize(hub.read_library(source, spec), spec)
    if not isinstance(source, str | Path):
        raise ConfigError(f"weights: {source!r}: must be a string{_meant(str(source), spec)}")
    try:
        return recognize(read_path(str(source)), spec)
    except ConfigError as error:
        if Path(source).expanduser().exists() or not (hint := _meant(source, spec)):
            raise
        raise ConfigError(f"{error}{hint}") from None


def _meant(source: str, spec: ModelSpec) -> str:
    """A hint if `source` is no file but looks like the name of published weights."""
    library, colon, name = source.partition(":")
    near = difflib.get_close_matches(library.lower(), hub.LIBRARIES, 1)
    if colon and near and not name.startswith("//"):
        return f"; neither a file nor a library; did you mean {near[0]}:{name}?"
    tag = source.rpartition("_Weights.")[2]  # torchvision's enumerations
    if tag.upper() == "DEFAULT" or re.fullmatch(r"IMAGENET1K_\w+", tag.upper()):
        return f"; did you mean torchvision:{tag.upper()}?"
    if source.lower() in ("imagenet", "imagenet1k", "pretrained", "true"):
        return "; did you mean torchvision:DEFAULT?"
    net = spec.name.replace("-", "_")
    for given in (source, f"{net}.{source}"):
        if given.partition(".")[2] in hub.TIMM.get(given.partition(".")[0], ()):
            return f"; did you mean timm:{given}?"
    if re.fullmatch(r"[\w-]+/[\w.-]+", source):
        return f"; did you mean hub:{source}?"
    return ""


def recognize(weights: Weights, spec: ModelSpec) -> Weights:
    """`weights` with their tensors and format, and what the format implies.

    Raises WeightsError if no format has these names, or the file cannot be read.
    """
    if weights.spec is None:
        check_arch(weights, spec)
    elif weights.part is None:  # FILE#PART takes the tensors alone
        require_same_model(weights.source, weights.spec, spec, (*weights.fields, "conv_bias"))
    with shapes_only():  # biases beside norms are known in every format
        sketch = build(dataclasses.replace(spec, conv_bias="all"))
    chosen = select(weights.contents, maps_of(sketch), weights.source, weights.part)
    if chosen is None:
        raise WeightsError(
            f"{weights.source}: none of its {len(weights.contents)} tensors "
            f"({shorten(weights.contents)}) is known to {spec.name}; docs/weights.md has the "
            f"formats{matching_models_hint(weights.contents, weights.part)}"
        )
    if chosen.refused:
        raise WeightsError(chosen.refused)
    report(chosen.left, weights.source)
    names = chosen.map
    tensors = _read(weights, chosen, sketch)
    format = names.format
    present = names.own_names(tensors)
    fields = {**format.needs, **weights.fields}
    if spec.norm == "batch" and not spec.is_vgg:
        everywhere = "stage1.0.conv1.bias" in present
        stem = "stem" if "stem.conv.bias" in present else "none"
        fields["conv_bias"] = "all" if everywhere else stem
    known = format.preprocess(spec)
    said = None
    if weights.preprocess is None and weights.spec is None:
        said = _input_of(weights, names, tensors, spec, fields)
        known = said or known
    if {"mean", "std"} <= weights.stored.preprocess.keys():
        known = stated_preprocess(weights, spec)
    first = names.own(tensors, f"{sketch.input_layer}.weight")
    head = names.own(tensors, HEAD_TENSORS[0])
    channels = None if first is None or first.dim() != 4 else first.shape[1]
    rows = None if head is None or head.dim() != 2 else head.shape[0]
    if weights.spec is not None and channels not in (None, weights.spec.in_channels):
        raise WeightsError(
            f"{weights.source}: its config is of {weights.spec.in_channels} input channels, its"
            f" tensors of {channels}"
        )
    classes = _named_once(weights, rows)
    thousand = head is not None and head.shape[0] == IMAGENET
    implied = known is not None and not weights.stored.preprocess
    if implied and known is not None and not classes and known.size > SMALL and thousand:
        classes = imagenet_classes()
    return dataclasses.replace(
        weights,
        format=format.name,
        tensors=tensors,
        fields=fields,
        preprocess=weights.preprocess or (Preprocessor(known) if known is not None else None),
        classes=classes,
        head_note=chosen.head_note,
        head_rows=rows,
        assumed=weights.preprocess is None and known is not None and said is None,
        channels=channels,
        stem_kernel=None if first is None or first.dim() != 4 else first.shape[-1],
    )


def _input_of(
    weights: Weights, names: NameMap, tensors: Tensors, spec: ModelSpec, fields: dict[str, Any]
) -> Preprocess | None:
    """The preprocessing that constants in the file say, and the stride with it, in `fields`.

    Where nothing says it and the file may be from Caffe, a warning does.
    """
    said = stated_input(weights.contents, weights.source, weights.part)
    if said is not None:
        fields["stride_in"] = said.stride_in
        return said.preprocess
    if names.format.name == DETECTRON2:
        warn_of_detectron2(weights.source, spec)
    elif names.format.preprocess(spec) is None and not weights.stored.preprocess:
        first, variance = (
            names.own(tensors, name) if name in names.foreign_names else None
            for name in ("stem.conv.weight", "stem.norm.running_var")
        )
        if first is not None:
            warn_of_raw_input(weights.source, first, variance)
        warn_of_other_name(weights.source, spec)
    return None


def _named_once(weights: Weights, rows: int | None) -> tuple[str, ...]:
    """The class names in a file, if they match its head."""
    names = weights.classes
    if rows is not None and names and len(names) != rows:
        log.warning(
            "%s: names %d classes (%s), but its head has %d outputs; the names are not used",
            weights.source, len(names), shorten(names), rows,
        )  # fmt: skip
        return ()
    if len(set(names)) != len(names) and len(names) != IMAGENET:  # it has two cranes
        twice = next(name for name in names if names.count(name) > 1)
        raise WeightsError(f"{weights.source}: names a class twice ({shorten([twice])})")
    return names


def _read(weights: Weights, chosen: Selection, sketch: ImageClassifier) -> Tensors:
    """The chosen tensors, after a check that their sizes are near those of the model."""
    own = {name: tensor.numel() for name, tensor in sketch.state_dict().items()}
    theirs = {
        their: own[name] for name, their in chosen.map.foreign_names.items() if their is not None
    }
    largest, budget = max(own.values()), LARGER * sum(own.values()) + MARGIN
    found: Tensors = {}
    for name, full in chosen.names.items():
        stored = weights.contents[full]
        budget -= stored.size
        if stored.size > LARGER * theirs.get(name, largest) + MARGIN or budget < 0:
            raise WeightsError(
                f"{weights.source}: {shorten([full])} of shape {stored.shape} is far larger than "
                f"any tensor of {sketch.spec.name}; not read"
            )
        found[name] = _loaded(stored, full, weights.source)
    return found


def _loaded(stored: LazyTensor, name: str, source: str) -> Tensor:
    with naming(source):
        tensor = stored.read()
    name = shorten([name])
    if tensor.is_floating_point() and tensor.dtype not in FLOATS:
        raise WeightsError(f"{source}: {name} is of {tensor.dtype}, as of a quantized network")
    if tensor.is_complex() or tensor.is_quantized:
        raise WeightsError(f"{source}: {name} is of {tensor.dtype}, which is not real")
    return tensor


def net_from(
    weights: Weights,
    spec: ModelSpec,
    *,
    classes: Sequence[str] | None = None,
    policy: HeadPolicy = "names",
    whole: bool = False,
) -> ImageClassifier:
    """The model `spec`, in training mode, with recognized `weights`; see `create_model`.

    classes, policy: the classes that the model is for, and what of the weights' head serves them
    (`heads.head_rows`). With `whole`, WeightsError where they lack a head for as many classes.
    """
    spec = _follow(spec, weights)
    net = build(spec)
    found = _tensors_for(net, weights)
    check_empty(found, weights.source)
    taken = _take_head(net, found, weights, classes, policy)
    if whole and not taken:
        note = f" ({weights.head_note})" if weights.head_note else ""
        raise WeightsError(f"{weights.source}: has no head for {spec.num_classes} classes{note}")
    if taken and classes is None and len(weights.classes) == spec.num_classes:
        net.classes = weights.classes
        net.postprocess = weights.postprocess
    elif classes is not None:
        net.classes = tuple(classes)
    _adapt_first(net, found, weights.source)
    _check(net, found, weights.source)
    warn_of_values(found, weights.source, weights.format)
    net.load_state_dict(found)
    if weights.preprocess is not None:
        small = spec.stem == "cifar" and weights.stem_kernel == STEM_KERNEL
        net.preprocess = adapt_preprocess(weights.preprocess, spec, small)
    net.origin = weights.source
    return net


def _follow(spec: ModelSpec, weights: Weights) -> ModelSpec:
    """`spec` with the details of the weights' model that tensors do not show."""
    changes = {
        name: value
        for name, value in weights.fields.items()
        if getattr(spec, name) != value
        and not (name == "stride_in" and spec.expansion == 1)
        and not (name == "stem_pool" and spec.stem == "cifar")
    }
    if changes:
        words = ", ".join(f"{name} {value!r}" for name, value in changes.items())
        log.info("%s: model adapted to its weights: %s", weights.source, words)
    return dataclasses.replace(spec, **changes)


def _tensors_for(net: ImageClassifier, weights: Weights) -> Tensors:
    """The weights' tensors under our names, the head's only where they have one."""
    assert weights.format is not None
    names: NameMap = own_map(net) if weights.format == OWN.name else name_map(weights.format, net)
    try:
        return names.to_own(weights.tensors, optional=HEAD_TENSORS)
    except WeightsError as error:
        raise WeightsError(f"{weights.source}: {error}") from None


def _take_head(
    net: ImageClassifier,
    found: Tensors,
    weights: Weights,
    classes: Sequence[str] | None,
    policy: HeadPolicy,
) -> bool:
    """Whether the head of the weights is kept; if not, `found` gets a random one."""
    want, source = net.spec.num_classes, weights.source
    have = None
    if HEAD_TENSORS[0] in found:
        have = found[HEAD_TENSORS[0]].shape[0]
        if HEAD_TENSORS[1] not in found:
            log.warning(
                "%s: its head has no bias; it is taken for a linear layer whose bias is 0, which a"
                " classifier by cosines (of normalized features and weights) is not",
                source,
            )
            found[HEAD_TENSORS[1]] = torch.zeros(have)
    if have is not None and classes is not None:
        rows = head_rows(source, weights.classes, have, classes, policy)
        if rows is not None:
            found |= {name: found[name][rows] for name in HEAD_TENSORS}
            return True
    elif have == want:
        return True
    own = net.state_dict()
    found |= {name: own[name] for name in HEAD_TENSORS}
    if have is None:
        note = f" ({weights.head_note})" if weights.head_note else ""
        log.info("%s: has no head%s; a new one for %d classes", source, note, want)
    elif classes is None:
        log.info("%s: head for %d classes replaced by a new one for %d", source, have, want)
    return False


def _adapt_first(net: ImageClassifier, found: Tensors, source: str) -> None:
    """Adapt the first convolution to the input channels and the stem of the model."""
    name = f"{net.input_layer}.weight"
    have, want = found[name].shape, net.state_dict()[name].shape
    if len(have) != len(want):
        return  # `_check` refuses it
    if have[1:2] != want[1:2]:
        found[name] = adapt_input(found[name], want[1])
        log.info(
            "%s: first convolution adapted from %d to %d input channels", source, have[1], want[1]
        )
    if net.spec.stem == "cifar" and have[2:] == (STEM_KERNEL, STEM_KERNEL):
        found[name] = adapt_stem(found[name])
        log.info("%s: 7x7 kernel of the stem adapted to 3x3, for small images", source)


def _check(net: ImageClassifier, found: Tensors, source: str) -> None:
    """Raise WeightsError if shapes differ or values cannot be those of a network."""
    own = net.state_dict()
    wrong = [
        f"{name} {tuple(found[name].shape)} for {tuple(own[name].shape)}"
        for name in own
        if found[name].shape != own[name].shape
    ]
    if wrong:
        raise WeightsError(
            f"{source}: {len(wrong)} tensors have another shape than in {net.spec.name}: "
            f"{shorten(wrong)}"
        )
    whole = [
        name for name in own if own[name].is_floating_point() > found[name].is_floating_point()
    ]
    if whole:
        raise WeightsError(f"{source}: integers, as of a quantized model: {shorten(whole)}")
    check_values(found, source)
