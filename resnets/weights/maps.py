"""Name maps between our tensors and other libraries', two-way and without loss.

A `NameMap` is the rules of a format (`resnets.weights.formats`) applied to one net: a bijection
between two sets of names, so either direction uses every tensor exactly once or fails and names
the tensors.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from resnets.models import Net
from resnets.weights.errors import WeightsError
from resnets.weights.formats import FORMATS
from resnets.weights.rules import Format, Tensors, translate

BATCH_COUNT = "num_batches_tracked"
OWN = Format("resnets", rules=lambda _spec: None)


@dataclass(frozen=True)
class NameMap:
    """Both directions between our tensors and those of `format`, for one net.

    theirs: their name of each of our tensors; None where their files do not have it.
    """

    format: Format
    net: str
    theirs: Mapping[str, str | None]

    def to_foreign(self, tensors: Mapping[str, Tensor]) -> Tensors:
        """Our tensors under the names and in the layout of `format`. WeightsError as `to_own`."""
        self._check(tensors.keys(), self.theirs.keys())
        renamed = {their: tensors[own] for own, their in self.theirs.items() if their is not None}
        return self.format.encode(renamed)

    def to_own(self, tensors: Mapping[str, Tensor], optional: Collection[str] = ()) -> Tensors:
        """Tensors of `format` under our names and in our layout.

        WeightsError names tensors that this net has no place for, or that are missing. Those of
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

    def own_names(self, tensors: Mapping[str, Tensor]) -> set[str]:
        """Our names of those of `tensors` that this map knows."""
        ours = {their: own for own, their in self.theirs.items() if their is not None}
        return {ours[name] for name in self.format.decode(dict(tensors)) if name in ours}

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
            raise WeightsError(
                f"{self.format.name} weights do not fit {self.net}: tensors {' and '.join(parts)}"
            )


def shorten(names: Iterable[str]) -> str:
    """The first three of `names`, for a message of one line."""
    names = list(names)
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")


def own_map(net: Net) -> NameMap:
    """The identity: our own names for `net`."""
    return NameMap(OWN, net.spec.name, {name: name for name in net.state_dict()})


def name_map(format: str, net: Net) -> NameMap:
    """The map between `net` and `format`, a key of `FORMATS`.

    WeightsError where that library has no net of this kind.
    """
    rules = FORMATS[format].rules(net.spec)
    if rules is None:
        raise WeightsError(f"{format} has no net like {net.spec.name}")
    theirs = translate(net.state_dict(), rules)
    named = [name for name in theirs.values() if name is not None]
    assert len(set(named)) == len(named), f"{format}: two tensors share a name"
    return NameMap(FORMATS[format], net.spec.name, theirs)


def detect(tensors: Mapping[str, Tensor], net: Net) -> NameMap | None:
    """The map whose names are most like those of `tensors`; None where none shares a single one."""
    foreign = [name_map(name, net) for name, format in FORMATS.items() if format.rules(net.spec)]
    best, most = None, 0
    for names in (own_map(net), *foreign):
        shared = len(names.own_names(tensors))
        if shared > most:
            best, most = names, shared
    return best


def _counts(name: str) -> bool:
    return name.endswith(f".{BATCH_COUNT}")
