"""Nets to start from: by name, with random weights or with those of a file or a library."""

from __future__ import annotations

import dataclasses
import difflib
import logging

from resnets.config import ConfigError, ModelSpec
from resnets.data.preprocess import Preprocessor
from resnets.models import Net, build, catalog
from resnets.models.sketch import shapes_only
from resnets.weights import hub
from resnets.weights.adapt import adapt_input, adapt_preprocess, adapt_stem
from resnets.weights.errors import WeightsError
from resnets.weights.files import Weights, read_path
from resnets.weights.maps import OWN, detect, name_map, own_map, shorten
from resnets.weights.rules import Tensors

log = logging.getLogger("resnets")

HEAD = ("head.weight", "head.bias")
SMALL = 64  # px; formats of larger pictures than this are ImageNet's


def create_model(
    spec: ModelSpec | str,
    num_classes: int | None = None,
    in_channels: int | None = None,
    weights: str | None = None,
) -> Net:
    """A net by catalog name or from a spec, in training mode, float32, on the CPU.

    weights: None draws them at random (torch's global generator). "torchvision:IMAGENET1K_V2",
    "timm:resnet50.a1_in1k" and "hub:ORG/NAME" are fetched once and kept. Else it is a path, of a
    file in any format of `resnets.weights.formats`, a checkpoint, a run or a pushed folder.

    The net then carries `.preprocess` and `.classes` where they are known, and `.origin`. What is
    done to make weights fit is logged (logger "resnets", level INFO): the net follows them in
    details that tensors do not show (`stride_in`, `stem_pool`, `norm_eps`, `conv_bias`); a head
    for another number of classes, or none, is replaced by a new one; the first convolution is
    adapted to other input channels and to a CIFAR stem. Every other tensor must fit.

    Raises ConfigError for an unknown net or weights name, WeightsError (a ValueError) for weights
    that cannot be read, fetched or fitted.
    """
    spec = catalog.spec(spec) if isinstance(spec, str) else spec
    if num_classes is not None:
        spec = dataclasses.replace(spec, num_classes=num_classes)
    if in_channels is not None:
        spec = dataclasses.replace(spec, in_channels=in_channels)
    return build(spec) if weights is None else net_from(read_weights(weights, spec), spec)


def read_weights(source: str, spec: ModelSpec) -> Weights:
    """What `create_model` takes as `weights`, read and recognised for the net `spec`."""
    if hub.is_library(source):
        return recognise(hub.read_library(source, spec), spec)
    try:
        return recognise(read_path(source), spec)
    except ConfigError:
        library, colon, name = source.partition(":")
        near = difflib.get_close_matches(library, hub.LIBRARIES, 1)
        if not colon or not near:
            raise
        raise ConfigError(
            f"weights: {source}: neither a file nor a library; did you mean {near[0]}:{name}?"
        ) from None


def recognise(weights: Weights, spec: ModelSpec) -> Weights:
    """`weights` with their format, and with what it tells of the net and its preprocessing.

    Raises WeightsError where no format has these names.
    """
    with shapes_only():  # biases beside norms are known in every format
        sketch = build(dataclasses.replace(spec, conv_bias="all"))
    names = detect(weights.tensors, sketch)
    if names is None:
        raise WeightsError(
            f"{weights.source}: none of its {len(weights.tensors)} tensors "
            f"({shorten(weights.tensors)}) is known to {spec.name}; docs/weights.md has the formats"
        )
    format = names.format
    present = names.own_names(weights.tensors)
    fields = {**format.needs, **weights.fields}
    if spec.norm == "batch" and spec.block != "vgg":
        everywhere = "stage1.0.conv1.bias" in present
        stem = "stem" if "stem.conv.bias" in present else "none"
        fields["conv_bias"] = "all" if everywhere else stem
    known = format.preprocess(spec)
    classes = weights.classes
    if known is not None and not classes and known.size > SMALL:
        classes = hub.imagenet_classes()
    return dataclasses.replace(
        weights,
        format=format.name,
        fields=fields,
        preprocess=weights.preprocess or (Preprocessor(known) if known is not None else None),
        classes=classes,
    )


def net_from(weights: Weights, spec: ModelSpec, *, whole: bool = False) -> Net:
    """The net `spec`, in training mode, with recognised `weights`; see `create_model`.

    With `whole`, WeightsError where they lack a head for its number of classes.
    """
    spec = _follow(spec, weights)
    net = build(spec)
    found = _tensors_for(net, weights)
    taken = _take_head(net, found, weights)
    if whole and not taken:
        raise WeightsError(f"{weights.source}: has no head for {spec.num_classes} classes")
    if taken and len(weights.classes) == spec.num_classes:
        net.classes = weights.classes
    _adapt_first(net, found, weights.source)
    _check(net, found, weights.source)
    net.load_state_dict(found)
    if weights.preprocess is not None:
        net.preprocess = adapt_preprocess(weights.preprocess, spec)
    net.origin = weights.source
    return net


def _follow(spec: ModelSpec, weights: Weights) -> ModelSpec:
    """`spec` with those details of the weights' net that tensors do not show."""
    changes = {
        name: value
        for name, value in weights.fields.items()
        if getattr(spec, name) != value
        and not (name == "stride_in" and spec.expansion == 1)
        and not (name == "stem_pool" and spec.stem == "cifar")
    }
    if changes:
        words = ", ".join(f"{name} {value!r}" for name, value in changes.items())
        log.info("%s: the net follows its weights: %s", weights.source, words)
    return dataclasses.replace(spec, **changes)


def _tensors_for(net: Net, weights: Weights) -> Tensors:
    """The weights' tensors under our names, the head's only where they have one."""
    assert weights.format is not None
    names = own_map(net) if weights.format == OWN.name else name_map(weights.format, net)
    try:
        return names.to_own(weights.tensors, optional=HEAD)
    except WeightsError as error:
        raise WeightsError(f"{weights.source}: {error}") from None


def _take_head(net: Net, found: Tensors, weights: Weights) -> bool:
    """Whether the weights' head serves; else the net's own, drawn at random, goes into `found`."""
    have = found["head.weight"].shape[0] if all(name in found for name in HEAD) else None
    want = net.spec.num_classes
    if have == want:
        return True
    own = net.state_dict()
    found |= {name: own[name] for name in HEAD}
    if have is None:
        log.info("%s: has no head; a new one for %d classes", weights.source, want)
    else:
        log.info("%s: head for %d classes replaced by a new one for %d", weights.source, have, want)
    return False


def _adapt_first(net: Net, found: Tensors, source: str) -> None:
    """Bring the first convolution to the net's input channels, and to its stem."""
    name = f"{net.input_layer}.weight"
    have, want = found[name].shape, net.state_dict()[name].shape
    if have[1:2] != want[1:2]:
        found[name] = adapt_input(found[name], want[1])
        log.info(
            "%s: first convolution adapted from %d to %d input channels", source, have[1], want[1]
        )
    if net.spec.stem == "cifar" and have[2:] == (7, 7):
        found[name] = adapt_stem(found[name])
        log.info("%s: 7x7 kernel of the stem adapted to 3x3, for small pictures", source)


def _check(net: Net, found: Tensors, source: str) -> None:
    """WeightsError where shapes differ or values are not finite."""
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
    broken = [name for name, tensor in found.items() if not tensor.isfinite().all()]
    if broken:
        raise WeightsError(f"{source}: not finite in {len(broken)} tensors: {shorten(broken)}")
