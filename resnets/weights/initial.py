"""Nets to start from: by name, with random weights or with those of a file or a library."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from resnets.config import ConfigError, ModelSpec
from resnets.models import Net, build, catalog
from resnets.weights.maps import WeightsError, detect, shorten

log = logging.getLogger(__name__)

Tensors = dict[str, Tensor]
# Fields that change what given weights compute; the rest of a spec may differ from the catalog's.
ARCHITECTURE = ("block", "depths", "widths", "shortcut", "stride_in", "stem", "norm", "groups")


def create_model(
    spec: ModelSpec | str,
    num_classes: int | None = None,
    in_channels: int | None = None,
    weights: str | None = None,
) -> Net:
    """A net by catalog name or from a spec, in training mode, float32, on the CPU.

    weights: None draws them at random (torch's global generator). "torchvision:IMAGENET1K_V2" or
    "torchvision:DEFAULT" downloads torchvision's for the net of that name. Else it is the path of
    a state dict (.safetensors, or .pth read with `weights_only`), in our names or torchvision's.
    Where the weights have another number of classes, the head keeps its random weights; where
    they have other input channels, the first convolution is adapted (`adapt_input`); both are
    logged as warnings. Every other tensor must fit.

    Raises ConfigError for an unknown net or weights name, WeightsError (a ValueError) for weights
    that cannot be read, fetched or fitted.
    """
    spec = catalog.spec(spec) if isinstance(spec, str) else spec
    if num_classes is not None:
        spec = dataclasses.replace(spec, num_classes=num_classes)
    if in_channels is not None:
        spec = dataclasses.replace(spec, in_channels=in_channels)
    net = build(spec)
    if weights is not None:
        tensors = read_weights(weights, spec)
        fill(net, tensors, weights)
        net.origin = weights
    return net


def read_weights(source: str, spec: ModelSpec) -> Tensors:
    """Tensors of `source` (see `create_model`) as they are named there."""
    library, colon, name = source.partition(":")
    if colon and library in LIBRARIES:
        return LIBRARIES[library](name, spec)
    path = Path(source)
    if not path.is_file():
        known = ", ".join(f"{library}:NAME" for library in LIBRARIES)
        raise ConfigError(f"weights: {source}: no such file; give a path or {known}")
    return _read_file(path)


def fill(net: Net, tensors: Mapping[str, Tensor], source: str) -> None:
    """Copy `tensors`, in any known naming, into `net`; adapts head and input as `create_model`."""
    names = detect(tensors, net)
    if names is None:
        raise WeightsError(
            f"{source}: none of its {len(tensors)} tensors ({shorten(tensors)}) is known to "
            f"{net.spec.name}; state dicts in our names or torchvision's can be read"
        )
    try:
        found = names.to_own(tensors)
    except WeightsError as error:
        raise WeightsError(f"{source}: {error}") from None
    own = net.state_dict()
    _keep_own_head(net, found, own, source)
    first = f"{net.input_layer}.weight"
    have, want = found[first].shape, own[first].shape
    if have[1:2] != want[1:2] and have[2:] == want[2:]:
        found[first] = adapt_input(found[first], net.spec.in_channels)
        log.warning(
            "%s: first convolution adapted from %d to %d input channels", source, have[1], want[1]
        )
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
    net.load_state_dict(found)


def adapt_input(weight: Tensor, in_channels: int) -> Tensor:
    """A first convolution (O, C, k, k) for `in_channels` in place of C input channels.

    To one channel by summing, which is exact for a grey picture repeated C times. Else channels
    are repeated in turn and scaled by C / in_channels, which keeps the size of the response.
    """
    old = weight.shape[1]
    if in_channels == 1:
        return weight.sum(1, keepdim=True)
    turns = torch.arange(in_channels) % old
    return weight[:, turns] * (old / in_channels)


def _keep_own_head(net: Net, found: Tensors, own: Mapping[str, Tensor], source: str) -> None:
    """Where the number of classes differs, put the net's own head into `found`."""
    have, want = found["head.weight"].shape[0], net.spec.num_classes
    if have == want:
        return
    for name in ("head.weight", "head.bias"):
        found[name] = own[name]
    log.warning("%s: head for %d classes replaced by a new one for %d", source, have, want)


def _read_file(path: Path) -> Tensors:
    """The state dict in a .safetensors or a torch file, on the CPU; nothing in it is executed."""
    try:
        if path.suffix == ".safetensors":
            found: Any = safetensors.torch.load_file(path)
        else:
            found = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise WeightsError(f"{path}: cannot be read as weights: {_reason(error)}") from None
    if not isinstance(found, dict) or not all(isinstance(item, Tensor) for item in found.values()):
        kind = f"keys {shorten(map(str, found))}" if isinstance(found, dict) else type(found)
        raise WeightsError(f"{path}: not a state dict (names to tensors) but {kind}")
    return dict(found)


def _from_torchvision(name: str, spec: ModelSpec) -> Tensors:
    """torchvision's published weights `name` for the net called `spec.name`, downloaded once."""
    from torchvision import models

    theirs = spec.name.replace("-", "_")
    if theirs not in models.list_models(module=models):
        raise ConfigError(f"weights: torchvision has none for {spec.name}")
    published = catalog.spec(spec.name)
    for field in ARCHITECTURE:
        if getattr(published, field) != getattr(spec, field):
            raise ConfigError(
                f"weights: torchvision's {theirs} has {field} {getattr(published, field)!r}, "
                f"this net {getattr(spec, field)!r}"
            )
    choices = models.get_model_weights(theirs)
    if name not in choices.__members__:
        raise ConfigError(
            f"weights: torchvision has no {name!r} for {theirs}; "
            f"known: {', '.join(choices.__members__)}"
        )
    return _download(choices[name])


def _download(entry: Any) -> Tensors:
    """State dict of a torchvision `WeightsEnum` member, from torch's cache or the network."""
    folder = Path(torch.hub.get_dir()) / "checkpoints"
    file = folder / entry.url.rsplit("/", 1)[-1]
    try:
        return dict(entry.get_state_dict(progress=False, check_hash=True, weights_only=True))
    except OSError as error:
        reason = getattr(error, "reason", None) or error.strerror or error
        raise WeightsError(
            f"cannot download {entry.url} ({reason}); fetch it elsewhere and put it at {file}"
        ) from None
    except Exception as error:
        raise WeightsError(f"{file}: damaged ({_reason(error)}); delete it and try again") from None


def _reason(error: Exception) -> str:
    """First line of what a reader said. Readers raise errors of any kind on arbitrary bytes."""
    return (str(error).splitlines() or [type(error).__name__])[0]


LIBRARIES: Mapping[str, Callable[[str, ModelSpec], Tensors]] = {"torchvision": _from_torchvision}
