"""Classify the other tensors in a weights file: used only in training, or part of the network.

Layers before a network (input normalization), after its pooled features (a neck, a second
classifier) or inside its head (LoRA, quantization scales) change what it computes. Their names are
arbitrary, so they are recognized by their shapes: the input channels, the features that the head
takes, and the outputs. What is used only in training is recognized by name.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from resnets.utils.printable import join_names
from resnets.weights.lazy_tensors import LazyTensor

log = logging.getLogger("resnets")

# Words in names of tensors used only in training: losses, metrics, optimizers, averaged copies.
TRAINING = frozenset(
    {
        "criterion", "criteria", "loss", "losses", "metric", "metrics", "acc", "accuracy",
        "auroc", "auc", "confmat", "confusion", "precision", "recall", "prec", "meter",
        "optim", "optimizer", "optimizers", "optimiser", "scheduler", "schedulers", "queue",
        "callbacks", "rng", "epoch", "step", "best", "averaged", "ema", "swa", "teacher",
        "momentum", "shadow",
    }
)  # fmt: skip
MOMENTS = re.compile(r"(max_)?exp_avg(_sq)?|exp_inf|square_avg|grad_avg|acc_delta")
STATISTICS = frozenset({"running_mean", "running_var", "moving_mean", "moving_variance"})
LAYER = frozenset({"weight", "kernel"})
VECTOR = STATISTICS | {"weight", "bias", "gamma", "beta"}
CONSTANTS = frozenset({"mean", "std", "var", "variance"})
MIN_NETWORK_KERNELS = 8  # convolutions of a module that is another network, not a layer


@dataclass(frozen=True)
class Network:
    """A network in a file and the sizes of its inputs and outputs.

    prefix: of its names. copies: prefixes of other copies of it. head: name of the head's
    weight in the file; None without a head. width: input features of the head. rows: outputs;
    channels: input channels; None if unknown.
    """

    prefix: str
    copies: Collection[str]
    head: str | None
    width: int
    rows: int | None
    channels: int | None


@dataclass(frozen=True)
class Leftovers:
    """Names of the other tensors in a file, by kind.

    own: layers before the network or inside it, which change what it computes. head: layers
    between its features and its outputs, or after them. training: used only in training. unknown:
    the rest.
    """

    own: tuple[str, ...] = ()
    head: tuple[str, ...] = ()
    training: tuple[str, ...] = ()
    unknown: tuple[str, ...] = ()


def classify_leftovers(
    tensors: Mapping[str, LazyTensor], unused: Sequence[str], net: Network
) -> Leftovers:
    """Classify the `unused` tensors relative to `net`."""
    copies = tuple(copy for copy in net.copies if copy and not net.prefix.startswith(copy))
    branches = _find_networks(tensors, unused, net.prefix)
    kinds = {name: _classify(name, tensors, net, copies, branches) for name in unused}
    for kind in ("head", "own"):  # all tensors of a layer are of the same kind
        layers = {_layer(name) for name, each in kinds.items() if each == kind} - {net.prefix, ""}
        kinds |= {
            name: kind
            for name, each in kinds.items()
            if each == "unknown" and _layer(name) in layers
        }
    return Leftovers(
        **{
            kind: tuple(name for name in unused if kinds[name] == kind)
            for kind in set(kinds.values())
        }
    )


def _classify(
    name: str,
    tensors: Mapping[str, LazyTensor],
    net: Network,
    copies: tuple[str, ...],
    branches: Collection[tuple[bool, str]],
) -> str:
    shape = tensors[name].shape
    if name.startswith(copies) or _is_training_only(name, net):
        return "training"
    if _branch(name, net.prefix) in branches:
        return "unknown"
    if _is_in_head(name, net) or _is_after_features(name, shape, net):
        return "head"
    if _is_before_input(name, shape, net) or _is_inside(name, shape, net):
        return "own"
    return "unknown"


def log_leftovers(leftovers: Leftovers, source: str) -> None:
    """Log which tensors of a file are ignored; a warning if they may be part of the network."""
    if leftovers.training:
        names = sorted(
            leftovers.training, key=lambda name: name.startswith("optim")
        )  # rare ones first
        log.info(
            "%s: ignored %d tensors that are not part of the network (%s)",
            source, len(names), join_names(names),
        )  # fmt: skip
    if leftovers.head:
        log.warning(
            "%s: its head is not used: there are other layers next to it (%s)",
            source, join_names(leftovers.head),
        )  # fmt: skip
    if leftovers.unknown:
        log.warning(
            "%s: ignored %d tensors that may be part of the network (%s)",
            source, len(leftovers.unknown), join_names(leftovers.unknown),
        )  # fmt: skip


def refusal_message(names: Sequence[str], net: Network, source: str) -> str:
    """Return the error message for layers that the networks of this package do not have."""
    part = net.prefix.removesuffix(".")
    remedy = f"use {source}#{part}" if part else "save the network's state dict alone"
    return (
        f"{source}: has {len(names)} tensors before or inside its network that change what it "
        f"computes ({join_names(names)}); to load the network without them, {remedy}"
    )


def _parts(name: str) -> list[str]:
    return re.split(r"[./]", name)


def _relative_parts(name: str, prefix: str) -> list[str]:
    """Return the parts of a name after those it has in common with the network's prefix."""
    parts, common = _parts(name), prefix.split(".")
    while len(parts) > 1 and common and parts[0] == common[0]:
        parts, common = parts[1:], common[1:]
    return parts


def _branch(name: str, prefix: str) -> tuple[bool, str]:
    """Return the module, other than the network, that a tensor belongs to."""
    return name.startswith(prefix), _relative_parts(name, prefix)[0]


def _find_networks(
    tensors: Mapping[str, LazyTensor], unused: Sequence[str], prefix: str
) -> set[tuple[bool, str]]:
    """Return the other modules in the file that are networks themselves."""
    kernels: dict[tuple[bool, str], int] = {}
    for name in unused:
        branch = _branch(name, prefix)
        kernels[branch] = kernels.get(branch, 0) + (len(tensors[name].shape) == 4)
    return {branch for branch, count in kernels.items() if count >= MIN_NETWORK_KERNELS}


def _is_training_only(name: str, net: Network) -> bool:
    if net.head is not None and name.startswith(_layer(net.head)):
        return False
    parts = _relative_parts(name, net.prefix)
    words = {word.rstrip("0123456789") for part in parts for word in part.lower().split("_")}
    return bool(words & TRAINING) or any(map(MOMENTS.fullmatch, parts))


def _layer(matrix: str) -> str:
    """Return the prefix of the tensors of a layer: "fc." for "fc.weight"."""
    return matrix[: len(matrix) - len(_parts(matrix)[-1])]


def _is_in_head(name: str, net: Network) -> bool:
    """Return whether it is in the head's layer, or in the same head module."""
    if net.head is None:
        return False
    layer = _layer(net.head)
    module = layer[:-1].rpartition(".")[0]
    is_head_module = bool(module) and not net.prefix.startswith(f"{module}.")
    return name.startswith(layer) or (is_head_module and name.startswith(f"{module}."))


def _is_after_features(name: str, shape: Sequence[int], net: Network) -> bool:
    """Return whether it is a linear layer or norm on the head's features or outputs."""
    if net.head is None:
        return False
    leaf = _parts(name)[-1]
    if len(shape) == 2 and leaf in LAYER:
        inputs = shape[0] if leaf == "kernel" else shape[1]
        return net.width in shape or inputs == net.rows
    if len(shape) == 1:
        return (leaf in VECTOR and shape[0] == net.width) or (
            leaf in STATISTICS and shape[0] == net.rows and net.rows != net.channels
        )
    return False


def _is_before_input(name: str, shape: Sequence[int], net: Network) -> bool:
    """Return whether it is a convolution, norm or constant over the channels of the input."""
    leaf = _parts(name)[-1]
    if net.channels is None:
        return False
    if len(shape) == 4 and leaf in LAYER:
        return shape[2 if leaf == "kernel" else 1] == net.channels
    sizes = [size for size in shape if size != 1]
    if sizes != ([] if net.channels == 1 else [net.channels]) or leaf.startswith("pixel_"):
        return False  # detectron2's constants, which its formats read
    if CONSTANTS & set(leaf.lower().split("_")):
        return True
    is_norm = leaf in (VECTOR if net.rows not in (None, net.channels) else STATISTICS)
    return len(shape) == 1 and is_norm and net.channels > 1


def _is_inside(name: str, shape: Sequence[int], net: Network) -> bool:
    """Return whether it is a convolution inside a whole classifier."""
    is_inside = net.head is not None and name.startswith(net.prefix)
    return is_inside and len(shape) == 4 and _parts(name)[-1] in LAYER
