"""What else is in a file of weights: beside the network for training alone, or part of it.

Layers before a network (a normalization of its inputs), after its pooled features (a neck, a second
classifier) or inside its head (LoRA, scales of quantized values) change what it computes. Files
hold them under names of any kind, so they are told by what they connect to: the input channels, the
features that the head takes, and the outputs. Names tell what is of training alone.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from resnets.weights.lazy_tensors import LazyTensor
from resnets.weights.name_maps.maps import shorten

log = logging.getLogger("resnets")

# Words in names of what is used in training alone: losses, metrics, optimizers, averaged copies.
TRAINING = frozenset(
    {
        *("criterion", "criteria", "loss", "losses", "metric", "metrics", "acc", "accuracy"),
        *("auroc", "auc", "confmat", "confusion", "precision", "recall", "prec", "meter"),
        *("optim", "optimizer", "optimizers", "optimiser", "scheduler", "schedulers", "queue"),
        *("callbacks", "rng", "epoch", "step", "best", "averaged", "ema", "swa", "teacher"),
        *("momentum", "shadow"),
    }
)
MOMENTS = re.compile(r"(max_)?exp_avg(_sq)?|exp_inf|square_avg|grad_avg|acc_delta")
STATISTICS = frozenset({"running_mean", "running_var", "moving_mean", "moving_variance"})
LAYER = frozenset({"weight", "kernel"})
VECTOR = STATISTICS | {"weight", "bias", "gamma", "beta"}
CONSTANTS = frozenset({"mean", "std", "var", "variance"})
NETWORK = 8  # kernels from which on what lies beside is another network, not layers of this one


@dataclass(frozen=True)
class Network:
    """Where a network lies in a file and what it connects to.

    prefix: what stands before its names. copies: prefixes of other copies of it. head: the name of
    its head's matrix in the file; None without a head. width: features that its head takes.
    rows: its outputs; channels: those of its input; each None where not known.
    """

    prefix: str
    copies: Collection[str]
    head: str | None
    width: int
    rows: int | None
    channels: int | None


@dataclass(frozen=True)
class Leftovers:
    """Names in a file beside a network's, by what they are.

    own: layers that stand before the network or inside it, without which it computes otherwise.
    head: layers that stand between its features and its outputs, or after them. training: of
    training alone. unknown: the rest.
    """

    own: tuple[str, ...] = ()
    head: tuple[str, ...] = ()
    training: tuple[str, ...] = ()
    unknown: tuple[str, ...] = ()


def sort_leftovers(
    tensors: Mapping[str, LazyTensor], left: Sequence[str], net: Network
) -> Leftovers:
    """Those of `tensors` named in `left`, sorted by what they are to `net`."""
    copies = tuple(copy for copy in net.copies if copy and not net.prefix.startswith(copy))
    branches = _networks(tensors, left, net.prefix)
    kinds = {name: _kind(name, tensors, net, copies, branches) for name in left}
    for kind in ("head", "own"):  # a whole layer is what one of its tensors is
        layers = {_layer(name) for name, found in kinds.items() if found == kind} - {net.prefix, ""}
        kinds |= {
            name: kind
            for name, found in kinds.items()
            if found == "unknown" and _layer(name) in layers
        }
    found = {kind: [name for name in left if kinds[name] == kind] for kind in set(kinds.values())}
    return Leftovers(**{kind: tuple(names) for kind, names in found.items()})


def _kind(
    name: str,
    tensors: Mapping[str, LazyTensor],
    net: Network,
    copies: tuple[str, ...],
    branches: Collection[tuple[bool, str]],
) -> str:
    shape = tensors[name].shape
    if name.startswith(copies) or _of_training(name, net):
        return "training"
    if _branch(name, net.prefix) in branches:
        return "unknown"
    if _in_head(name, net) or _after_features(name, shape, net):
        return "head"
    if _before_input(name, shape, net) or _inside(name, shape, net):
        return "own"
    return "unknown"


def report(left: Leftovers, source: str) -> None:
    """Log what is left out of a file: as a warning where it may be part of the network."""
    if left.training:
        names = sorted(left.training, key=lambda name: name.startswith("optim"))  # rare ones first
        log.info(
            "%s: left out %d tensors that are not the network's (%s)",
            source, len(names), shorten(names),
        )  # fmt: skip
    if left.head:
        log.warning(
            "%s: its head is not taken: other layers stand beside it (%s)",
            source, shorten(left.head),
        )  # fmt: skip
    if left.unknown:
        log.warning(
            "%s: left out %d tensors that may be part of what its network computes (%s)",
            source, len(left.unknown), shorten(left.unknown),
        )  # fmt: skip


def why_refused(names: Sequence[str], net: Network, source: str) -> str:
    """One line for layers of a file that the networks here have no place for."""
    part = net.prefix.removesuffix(".")
    way = f"say {source}#{part}" if part else "save the network's own state dict alone"
    return (
        f"{source}: has {len(names)} tensors before or inside its network, which is another "
        f"without them ({shorten(names)}); to take the network without them, {way}"
    )


def _parts(name: str) -> list[str]:
    return re.split(r"[./]", name)


def _beside(name: str, prefix: str) -> list[str]:
    """The parts of a name, without those that it has in common with the network's prefix."""
    parts, before = _parts(name), prefix.split(".")
    while len(parts) > 1 and before and parts[0] == before[0]:
        parts, before = parts[1:], before[1:]
    return parts


def _branch(name: str, prefix: str) -> tuple[bool, str]:
    """The module beside the network that a tensor is of."""
    return name.startswith(prefix), _beside(name, prefix)[0]


def _networks(
    tensors: Mapping[str, LazyTensor], left: Sequence[str], prefix: str
) -> set[tuple[bool, str]]:
    """Modules beside the network that are networks by themselves."""
    kernels: dict[tuple[bool, str], int] = {}
    for name in left:
        branch = _branch(name, prefix)
        kernels[branch] = kernels.get(branch, 0) + (len(tensors[name].shape) == 4)
    return {branch for branch, count in kernels.items() if count >= NETWORK}


def _of_training(name: str, net: Network) -> bool:
    if net.head is not None and name.startswith(_layer(net.head)):
        return False
    parts = _beside(name, net.prefix)
    words = {word.rstrip("0123456789") for part in parts for word in part.lower().split("_")}
    return bool(words & TRAINING) or any(map(MOMENTS.fullmatch, parts))


def _layer(matrix: str) -> str:
    """The beginning of the names in the layer of a matrix: "fc." of "fc.weight"."""
    return matrix[: len(matrix) - len(_parts(matrix)[-1])]


def _in_head(name: str, net: Network) -> bool:
    """In the head's own layer, or beside it in a module that is the head's."""
    if net.head is None:
        return False
    layer = _layer(net.head)
    module = layer[:-1].rpartition(".")[0]
    of_head = bool(module) and not net.prefix.startswith(f"{module}.")
    return name.startswith(layer) or (of_head and name.startswith(f"{module}."))


def _after_features(name: str, shape: Sequence[int], net: Network) -> bool:
    """A linear layer or norm that takes or makes the head's features, or takes its outputs."""
    if net.head is None:
        return False
    leaf = _parts(name)[-1]
    if len(shape) == 2 and leaf in LAYER:
        taken = shape[0] if leaf == "kernel" else shape[1]
        return net.width in shape or taken == net.rows
    if len(shape) == 1:
        return (leaf in VECTOR and shape[0] == net.width) or (
            leaf in STATISTICS and shape[0] == net.rows and net.rows != net.channels
        )
    return False


def _before_input(name: str, shape: Sequence[int], net: Network) -> bool:
    """A convolution, a norm or a pair of constants over the channels of an image."""
    leaf = _parts(name)[-1]
    if net.channels is None:
        return False
    if len(shape) == 4 and leaf in LAYER:
        return shape[2 if leaf == "kernel" else 1] == net.channels
    wide = [size for size in shape if size != 1]
    if wide != ([] if net.channels == 1 else [net.channels]) or leaf.startswith("pixel_"):
        return False  # detectron2 keeps its constants in its files; its formats know them
    if CONSTANTS & set(leaf.lower().split("_")):
        return True
    named = leaf in VECTOR if net.rows not in (None, net.channels) else leaf in STATISTICS
    return len(shape) == 1 and named and net.channels > 1


def _inside(name: str, shape: Sequence[int], net: Network) -> bool:
    """A convolution among the layers of a whole classifier."""
    inside = net.head is not None and name.startswith(net.prefix)
    return inside and len(shape) == 4 and _parts(name)[-1] in LAYER
