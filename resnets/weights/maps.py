"""Name maps between our tensors and other libraries', two-way and without loss.

A format is a list of rules (our module, their module) in which `#` stands for a number; the last
part of a tensor's name (`weight`, `running_mean`, ...) is the same on both sides. A `NameMap` is
the rules applied to one net: a bijection between two sets of names, so either direction uses
every tensor exactly once or fails and names the tensors.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from resnets.config import ModelSpec
from resnets.models import Net

Rules = tuple[tuple[str, str], ...]
BATCH_COUNT = "num_batches_tracked"


class WeightsError(ValueError):
    """Weights that cannot be had or do not fit the net; the message names the tensors or file."""


@dataclass(frozen=True)
class NameMap:
    """Both directions between our tensor names and those of `format`, for one net."""

    format: str
    net: str
    theirs: Mapping[str, str]

    def to_foreign(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Our tensors under the names of `format`. WeightsError as for `to_own`."""
        return self._rename(tensors, self.theirs)

    def to_own(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Tensors of `format` under our names.

        WeightsError names tensors that this net has no place for, or that are missing; but batch
        counters, which files from before torch 0.4.1 lack, start at zero as torch has it.
        """
        ours = {their: own for own, their in self.theirs.items()}
        old = {
            name: torch.tensor(0)
            for name in ours.keys() - tensors.keys()
            if name.endswith(f".{BATCH_COUNT}")
        }
        return self._rename({**tensors, **old}, ours)

    def _rename(self, tensors: Mapping[str, Tensor], names: Mapping[str, str]) -> dict[str, Tensor]:
        unknown = sorted(tensors.keys() - names.keys())
        missing = sorted(names.keys() - tensors.keys())
        if unknown or missing:
            parts = [
                f"{len(some)} {what} ({shorten(some)})"
                for some, what in ((unknown, "it has no place for"), (missing, "missing"))
                if some
            ]
            raise WeightsError(
                f"{self.format} weights do not fit {self.net}: tensors {' and '.join(parts)}"
            )
        return {names[name]: tensor for name, tensor in tensors.items()}


def shorten(names: Iterable[str]) -> str:
    """The first three of `names`, for a message of one line."""
    names = list(names)
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")


def own_map(net: Net) -> NameMap:
    """The identity: our own names for `net`."""
    return NameMap("resnets", net.spec.name, {name: name for name in net.state_dict()})


def name_map(format: str, net: Net) -> NameMap:
    """The map between `net` and `format`, a key of `FORMATS`.

    WeightsError where that library has no net of this kind.
    """
    rules = FORMATS[format](net.spec)
    if rules is None:
        raise WeightsError(f"{format} has no net like {net.spec.name}")
    theirs = {name: _translate(name, rules) for name in net.state_dict()}
    assert len(set(theirs.values())) == len(theirs), f"{format}: two tensors share a name"
    return NameMap(format, net.spec.name, theirs)


def detect(names: Iterable[str], net: Net) -> NameMap | None:
    """The map whose names are most like `names`; None where no format shares a single one."""
    present = set(names)
    foreign = [name_map(format, net) for format, rules in FORMATS.items() if rules(net.spec)]
    shared = {
        len(present.intersection(map.theirs.values())): map
        for map in reversed([own_map(net), *foreign])
    }
    return shared[max(shared)] if max(shared) > 0 else None


def _translate(name: str, rules: Rules) -> str:
    """Their name of our tensor `name`."""
    module, _, leaf = name.rpartition(".")
    for ours, theirs in rules:
        match = re.fullmatch(re.escape(ours).replace(r"\#", r"(\d+)"), module)
        if match:
            numbers = iter(match.groups())
            return re.sub("#", lambda _: next(numbers), theirs) + f".{leaf}"  # noqa: B023
    raise AssertionError(f"no rule for {name}")


TORCHVISION_RESNET: Rules = (
    ("stem.conv", "conv1"),
    ("stem.norm", "bn1"),
    ("stage#.#.conv#", "layer#.#.conv#"),
    ("stage#.#.norm#", "layer#.#.bn#"),
    ("stage#.#.shortcut.conv", "layer#.#.downsample.0"),
    ("stage#.#.shortcut.norm", "layer#.#.downsample.1"),
    ("head", "fc"),
)


def _torchvision_vgg(spec: ModelSpec) -> Rules:
    """torchvision numbers convolutions, norms, relus and pools in one list, `features`."""
    rules = [("fc1", "classifier.0"), ("fc2", "classifier.3"), ("head", "classifier.6")]
    normed = spec.norm == "batch"
    index = 0
    for stage, depth in enumerate(spec.depths, start=1):
        for unit in range(depth):
            rules.append((f"stage{stage}.{unit}.conv", f"features.{index}"))
            if normed:
                rules.append((f"stage{stage}.{unit}.norm", f"features.{index + 1}"))
            index += 3 if normed else 2
        index += 1
    return tuple(rules)


def _torchvision(spec: ModelSpec) -> Rules | None:
    """torchvision.models.resnet and .vgg; there are no pre-activation nets."""
    if spec.block.startswith("preact"):
        return None
    return _torchvision_vgg(spec) if spec.block == "vgg" else TORCHVISION_RESNET


FORMATS: Mapping[str, Callable[[ModelSpec], Rules | None]] = {"torchvision": _torchvision}
