"""Name maps between our tensors and other libraries', two-way and without loss.

A `NameMap` is the rules of a format (`resnets.weights.name_maps.formats`) applied to one model: a
bijection between two sets of names, so either direction uses every tensor exactly once or fails and
names the tensors.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from resnets.models import ImageClassifier
from resnets.utils.terminal import printable
from resnets.weights.errors import WeightsError
from resnets.weights.name_maps.formats import FORMATS
from resnets.weights.name_maps.rules import Format, Tensors, translate

LONGEST = 120  # characters of a name in a message
BATCH_COUNT = "num_batches_tracked"
PADDLE = (
    "; _mean and _variance are PaddlePaddle's names: call them running_mean and running_var, and"
    " transpose the head's weight"
)
OWN = Format("resnets", rules=lambda _spec: None)


@dataclass(frozen=True)
class NameMap:
    """Both directions between our tensors and those of `format`, for one net.

    theirs: their name of each of our tensors; None where their files do not have it. head_width:
    channels that the head of the model takes.
    """

    format: Format
    net: str
    theirs: Mapping[str, str | None]
    head_width: int = 0

    def to_foreign(self, tensors: Mapping[str, Tensor]) -> Tensors:
        """Our tensors under the names and in the layout of `format`. WeightsError as `to_own`."""
        self._check(tensors.keys(), self.theirs.keys())
        renamed = {their: tensors[own] for own, their in self.theirs.items() if their is not None}
        return self.format.encode(renamed)

    def to_own(self, tensors: Mapping[str, Tensor], optional: Collection[str] = ()) -> Tensors:
        """Tensors of `format` under our names and in our layout.

        WeightsError names tensors that this model has no place for, or that are missing. Those of
        ours in `optional` may be missing. So may batch counters, which other libraries and files
        from before torch 0.4.1 lack: they start at zero, as torch has it.
        """
        found = self.format.decode(dict(tensors))
        ours = {their: own for own, their in self.theirs.items() if their is not None}
        spare = {their for their, own in ours.items() if own in optional or _counts(own)}
        self._check(found.keys(), ours.keys(), spare)
        own = {ours[name]: tensor for name, tensor in found.items()}
        counters = (name for name in self.theirs if _counts(name) and name not in own)
        return own | {name: torch.tensor(0) for name in counters}

    def own(self, tensors: Mapping[str, Tensor], name: str) -> Tensor | None:
        """The tensor that we call `name`, in our layout; None where it is missing."""
        return self.format.decode(dict(tensors)).get(self.theirs[name] or "")

    def own_names(self, tensors: Mapping[str, Tensor]) -> set[str]:
        """Our names of those of `tensors` that this map knows."""
        ours = self._ours
        return {ours[name] for name in self.format.decode(dict(tensors)) if name in ours}

    @cached_property
    def _ours(self) -> dict[str, str]:
        return {their: own for own, their in self.theirs.items() if their is not None}

    def _decoded(self, names: Iterable[str]) -> Iterable[str]:
        """The names that `to_own` makes of these; of values it is told none."""
        if self.format.decode is dict:
            return names
        return self.format.decode({name: torch.zeros(1) for name in names})

    def count(self, names: Iterable[str]) -> int:
        """How many tensors of this model a file with such names has, but for batch counters."""
        return sum(name in self._ours and not _counts(name) for name in self._decoded(names))

    def known(self, names: Iterable[str]) -> set[str]:
        """Those of `names` that `to_own` uses: of the model, or of the layout of the format.

        Formats whose layout differs from ours say so by their names alone.
        """
        names = list(names)
        if self.format.decode is dict:
            return {name for name in names if name in self._ours}
        return {name for name in names if self.format.belongs(name) or name in self._ours}

    def anchors(self, limit: int) -> list[str]:
        """A few names that only a model in this format has, beginning with the first layers'."""
        named = [their for their in self._ours if their.endswith(("weight", "_w", "kernel", "/0"))]
        return named[:limit]

    def roots(self) -> list[re.Pattern[str]]:
        """First parts of names of this model, at any depth; such names belong to a model.

        Numbers stand for any number ("layer1" for "layer9"), but for parts that are a number alone.
        """
        heads = {self.theirs.get("head.weight"), self.theirs.get("head.bias")}
        found = {their.partition(".")[0] for their in self._ours if their not in heads}
        return [
            re.compile(root if root.isdigit() else re.sub(r"\d+", r"\\d+", re.escape(root)))
            for root in sorted(found)
        ]

    def _check(
        self, given: Collection[str], known: Collection[str], spare: Collection[str] = ()
    ) -> None:
        unknown = sorted(set(given) - set(known))
        missing = sorted(set(known) - set(given) - set(spare))
        if unknown or missing:
            parts = [
                f"{len(some)} {what} ({shorten(some)})"
                for some, what in ((unknown, "it has no place for"), (missing, "missing"))
                if some
            ]
            paddle = any(name.endswith("._variance") for name in unknown)
            raise WeightsError(
                f"{self.format.name} weights do not fit {self.net}: tensors"
                f" {' and '.join(parts)}{PADDLE if paddle else ''}"
            )


def shorten(names: Iterable[str]) -> str:
    """The first three of `names`, for a message of one line; files may hold any characters."""
    names = [printable(name[:LONGEST]) for name in names]
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")


def own_map(net: ImageClassifier) -> NameMap:
    """The identity: our own names for `net`."""
    return NameMap(OWN, net.spec.name, {name: name for name in net.state_dict()}, _width(net))


def name_map(format: str, net: ImageClassifier) -> NameMap:
    """The map between `net` and `format`, a key of `FORMATS`.

    WeightsError where that library has no model of this kind.
    """
    rules = FORMATS[format].rules(net.spec)
    if rules is None:
        raise WeightsError(f"{format} has no model like {net.spec.name}")
    theirs = translate(net.state_dict(), rules)
    named = [name for name in theirs.values() if name is not None]
    assert len(set(named)) == len(named), f"{format}: two tensors share a name"
    return NameMap(FORMATS[format], net.spec.name, theirs, _width(net))


def _width(net: ImageClassifier) -> int:
    head = getattr(net, "head", None)  # a detector's view of a model has none
    return 0 if head is None else head.in_features


def maps_of(net: ImageClassifier) -> list[NameMap]:
    """Our own names for `net`, and those of every format that has such a model."""
    foreign = (name for name, format in FORMATS.items() if format.rules(net.spec))
    return [own_map(net), *(name_map(name, net) for name in foreign)]


def detect(tensors: Mapping[str, Tensor], net: ImageClassifier) -> NameMap | None:
    """The map whose names are most like those of `tensors`; None where none shares a single one."""
    best, most = None, 0
    for names in maps_of(net):
        shared = len(names.own_names(tensors))
        if shared > most:
            best, most = names, shared
    return best


def _counts(name: str) -> bool:
    return name.endswith(f".{BATCH_COUNT}")
