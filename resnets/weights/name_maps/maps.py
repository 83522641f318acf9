"""Name maps between our tensors and other libraries', two-way and without loss.

A `NameMap` is the rules of a format (`resnets.weights.name_maps.formats`) applied to one model: a
bijection between two sets of names, so either direction uses every tensor exactly once or raises an
error that names the tensors.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from resnets.models import ImageClassifier
from resnets.utils.printable import printable
from resnets.weights.errors import WeightsError
from resnets.weights.name_maps.formats import FORMATS
from resnets.weights.name_maps.rules import Format, Tensors, translate

MAX_NAME_LENGTH = 120  # characters of a name in a message
BATCH_COUNT = "num_batches_tracked"
PADDLE = (
    "; _mean and _variance are PaddlePaddle's names: rename them to running_mean and running_var,"
    " and transpose the head's weight"
)
OWN = Format("resnets", rules=lambda _spec: None)


@dataclass(frozen=True)
class NameMap:
    """Both directions between our tensors and those of `format`, for one model.

    foreign_names: the format's name of each of our tensors; None if its files do not have it.
    head_width: input channels of the head.
    """

    format: Format
    net: str
    foreign_names: Mapping[str, str | None]
    head_width: int = 0

    def to_foreign(self, tensors: Mapping[str, Tensor]) -> Tensors:
        """Our tensors under the names of `format`, in our layout. WeightsError as `to_own`."""
        self._check(tensors.keys(), self.foreign_names.keys())
        return {
            foreign: tensors[own]
            for own, foreign in self.foreign_names.items()
            if foreign is not None
        }

    def to_own(self, tensors: Mapping[str, Tensor], optional: Collection[str] = ()) -> Tensors:
        """Tensors of `format` under our names and in our layout.

        WeightsError names tensors that the model does not have, or that are missing. Those of ours
        in `optional` may be missing, and so may batch counters, which other libraries and files
        from before torch 0.4.1 lack; they start at zero, as in torch.
        """
        found = self.format.decode(dict(tensors))
        ours = {foreign: own for own, foreign in self.foreign_names.items() if foreign is not None}
        spare = {
            foreign for foreign, own in ours.items() if own in optional or _is_batch_count(own)
        }
        self._check(found.keys(), ours.keys(), spare)
        own = {ours[name]: tensor for name, tensor in found.items()}
        counters = (
            name for name in self.foreign_names if _is_batch_count(name) and name not in own
        )
        return own | {name: torch.tensor(0) for name in counters}

    def own(self, tensors: Mapping[str, Tensor], name: str) -> Tensor | None:
        """The tensor with our name `name`, in our layout; None if it is missing."""
        return self.format.decode(dict(tensors)).get(self.foreign_names[name] or "")

    def own_names(self, tensors: Mapping[str, Tensor]) -> set[str]:
        """Our names of the `tensors` that this map contains."""
        ours = self._own_names
        return {ours[name] for name in self.format.decode(dict(tensors)) if name in ours}

    @cached_property
    def _own_names(self) -> dict[str, str]:
        return {foreign: own for own, foreign in self.foreign_names.items() if foreign is not None}

    def _decoded(self, names: Iterable[str]) -> Iterable[str]:
        """The names that `to_own` decodes these to; values are not needed."""
        if self.format.decode is dict:
            return names
        return self.format.decode({name: torch.zeros(1) for name in names})

    def count(self, names: Iterable[str]) -> int:
        """Number of this model's tensors in a file with such names, without batch counters."""
        return sum(
            name in self._own_names and not _is_batch_count(name) for name in self._decoded(names)
        )

    def known(self, names: Iterable[str]) -> set[str]:
        """The `names` that `to_own` uses: of the model, or of the layout of the format.

        Formats whose layout differs from ours are recognized by their names alone.
        """
        names = list(names)
        if self.format.decode is dict:
            return {name for name in names if name in self._own_names}
        return {name for name in names if self.format.belongs(name) or name in self._own_names}

    def anchors(self, limit: int) -> list[str]:
        """Up to `limit` names of weights in this format, first layers first."""
        named = [
            foreign
            for foreign in self._own_names
            if foreign.endswith(("weight", "_w", "kernel", "/0"))
        ]
        return named[:limit]

    def roots(self) -> list[re.Pattern[str]]:
        """Patterns of the first parts of this model's names, at any depth.

        A number matches any number ("layer1" matches "layer9"), unless it is the whole part.
        """
        heads = {self.foreign_names.get("head.weight"), self.foreign_names.get("head.bias")}
        found = {foreign.partition(".")[0] for foreign in self._own_names if foreign not in heads}
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
                for some, what in ((unknown, "it does not have"), (missing, "missing"))
                if some
            ]
            paddle = any(name.endswith("._variance") for name in unknown)
            raise WeightsError(
                f"{self.format.name} weights do not fit {self.net}: tensors"
                f" {' and '.join(parts)}{PADDLE if paddle else ''}"
            )


def shorten(names: Iterable[str]) -> str:
    """The first three of `names`, printable, for a one-line message."""
    names = [printable(name[:MAX_NAME_LENGTH]) for name in names]
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")


def own_map(net: ImageClassifier) -> NameMap:
    """The identity map: our own names for `net`."""
    return NameMap(OWN, net.spec.name, {name: name for name in net.state_dict()}, _width(net))


def name_map(format: str, net: ImageClassifier) -> NameMap:
    """The map between `net` and `format`, a key of `FORMATS`.

    WeightsError if that library has no model of this kind.
    """
    rules = FORMATS[format].rules(net.spec)
    if rules is None:
        raise WeightsError(f"{format} has no model like {net.spec.name}")
    foreign = translate(net.state_dict(), rules)
    named = [name for name in foreign.values() if name is not None]
    assert len(set(named)) == len(named), f"{format}: duplicate names"
    return NameMap(FORMATS[format], net.spec.name, foreign, _width(net))


def _width(net: ImageClassifier) -> int:
    head = getattr(net, "head", None)  # a detector's wrapper has none
    return 0 if head is None else head.in_features


def maps_of(net: ImageClassifier) -> list[NameMap]:
    """The map of our own names for `net`, and of every format that has such a model."""
    foreign = (name for name, format in FORMATS.items() if format.rules(net.spec))
    return [own_map(net), *(name_map(name, net) for name in foreign)]


def detect(tensors: Mapping[str, Tensor], net: ImageClassifier) -> NameMap | None:
    """The map with the most names in common with `tensors`; None if there is none."""
    best, most = None, 0
    for names in maps_of(net):
        shared = len(names.own_names(tensors))
        if shared > most:
            best, most = names, shared
    return best


def _is_batch_count(name: str) -> bool:
    return name.endswith(f".{BATCH_COUNT}")
