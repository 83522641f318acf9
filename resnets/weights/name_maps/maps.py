"""Name maps between the tensors of this package and those of other libraries, in both directions.

A `NameMap` is the rules of a format (`resnets.weights.name_maps.formats`) applied to one model: a
bijection between two sets of names, so each direction uses every tensor exactly once or raises an
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
from resnets.utils.printable import join_names
from resnets.weights.errors import WeightsError
from resnets.weights.name_maps.formats import FORMATS
from resnets.weights.name_maps.formats.spec import Format, Tensors, translate

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
        """Return our tensors under the names of `format`, in our layout. Raises as `to_own`."""
        self._check(tensors.keys(), self.foreign_names.keys())
        return {
            foreign: tensors[own]
            for own, foreign in self.foreign_names.items()
            if foreign is not None
        }

    def to_own(self, tensors: Mapping[str, Tensor], optional: Collection[str] = ()) -> Tensors:
        """Return tensors of `format` under our names and in our layout.

        Raises WeightsError for tensors that the model does not have, or that are missing. Those of
        our names in `optional` may be missing, and so may batch counters, which other libraries and
        files from before torch 0.4.1 lack; they start at zero, as in torch.
        """
        decoded = self.format.decode(dict(tensors))
        ours = {foreign: own for own, foreign in self.foreign_names.items() if foreign is not None}
        may_miss = {
            foreign for foreign, own in ours.items() if own in optional or _is_batch_count(own)
        }
        self._check(decoded.keys(), ours.keys(), may_miss)
        own = {ours[name]: tensor for name, tensor in decoded.items()}
        counters = (
            name for name in self.foreign_names if _is_batch_count(name) and name not in own
        )
        return own | {name: torch.tensor(0) for name in counters}

    def get_own(self, tensors: Mapping[str, Tensor], name: str) -> Tensor | None:
        """Return the tensor with our name `name`, in our layout; None if it is missing."""
        return self.format.decode(dict(tensors)).get(self.foreign_names[name] or "")

    def own_names(self, tensors: Mapping[str, Tensor]) -> set[str]:
        """Return our names of the `tensors` that this map contains."""
        ours = self._own_names
        return {ours[name] for name in self.format.decode(dict(tensors)) if name in ours}

    def own_shapes(
        self, shapes: Mapping[str, tuple[int, ...]]
    ) -> dict[str | None, tuple[int, ...]]:
        """Return shapes in our layout by our names, None for tensors that the model does not have.

        shapes: of the tensors of a file, by their names in the format. The format must not decode
        values.
        """
        meta = {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}
        decoded = self.format.decode(meta)
        return {self._own_names.get(name): tuple(each.shape) for name, each in decoded.items()}

    @cached_property
    def _own_names(self) -> dict[str, str]:
        return {foreign: own for own, foreign in self.foreign_names.items() if foreign is not None}

    def _decode_names(self, names: Iterable[str]) -> Iterable[str]:
        """Return the names that `to_own` decodes these to; values are not needed."""
        if self.format.decode is dict:
            return names
        return self.format.decode({name: torch.zeros(1) for name in names})

    def count_own(self, names: Iterable[str]) -> int:
        """Return how many tensors of this model a file with `names` has, without batch counters."""
        return sum(
            name in self._own_names and not _is_batch_count(name)
            for name in self._decode_names(names)
        )

    def known_names(self, names: Iterable[str]) -> set[str]:
        """Return the `names` that `to_own` uses: of the model, or of the layout of the format."""
        names = list(names)
        if self.format.decode is dict:
            return {name for name in names if name in self._own_names}
        return {name for name in names if self.format.is_decoded(name) or name in self._own_names}

    def anchor_names(self, limit: int) -> list[str]:
        """Return up to `limit` names of weights in this format, first layers first."""
        weights = [
            foreign
            for foreign in self._own_names
            if foreign.endswith(("weight", "_w", "kernel", "/0"))
        ]
        return weights[:limit]

    def root_patterns(self) -> list[re.Pattern[str]]:
        """Return patterns of the first parts of this model's names, at any depth.

        A number matches any number ("layer1" matches "layer9"), unless it is the whole part.
        """
        heads = {self.foreign_names.get("head.weight"), self.foreign_names.get("head.bias")}
        roots = {foreign.partition(".")[0] for foreign in self._own_names if foreign not in heads}
        return [
            re.compile(root if root.isdigit() else re.sub(r"\d+", r"\\d+", re.escape(root)))
            for root in sorted(roots)
        ]

    def _check(
        self, given: Collection[str], known: Collection[str], may_miss: Collection[str] = ()
    ) -> None:
        unknown = sorted(set(given) - set(known))
        missing = sorted(set(known) - set(given) - set(may_miss))
        if unknown or missing:
            parts = [
                f"{len(names)} {problem} ({join_names(names)})"
                for names, problem in ((unknown, "it does not have"), (missing, "missing"))
                if names
            ]
            paddle = any(name.endswith("._variance") for name in unknown)
            raise WeightsError(
                f"{self.format.name} weights do not fit {self.net}: tensors"
                f" {' and '.join(parts)}{PADDLE if paddle else ''}"
            )


def identity_map(net: ImageClassifier) -> NameMap:
    """Return the map of our own names for `net`."""
    return NameMap(OWN, net.spec.name, {name: name for name in net.state_dict()}, _head_width(net))


def build_name_map(format: str, net: ImageClassifier) -> NameMap:
    """Return the map between `net` and `format`, a key of `FORMATS`.

    Raises WeightsError if that library has no model of this kind.
    """
    rules = FORMATS[format].rules(net.spec)
    if rules is None:
        raise WeightsError(f"{format} has no model like {net.spec.name}")
    foreign = translate(net.state_dict(), rules)
    names = [name for name in foreign.values() if name is not None]
    assert len(set(names)) == len(names), f"{format}: duplicate names"
    return NameMap(FORMATS[format], net.spec.name, foreign, _head_width(net))


def _head_width(net: ImageClassifier) -> int:
    head = getattr(net, "head", None)  # a detector's wrapper has none
    return 0 if head is None else head.in_features


def list_name_maps(net: ImageClassifier) -> list[NameMap]:
    """Return the map of our own names for `net`, and that of each format that has such a model."""
    foreign = (name for name, format in FORMATS.items() if format.rules(net.spec))
    return [identity_map(net), *(build_name_map(name, net) for name in foreign)]


def _is_batch_count(name: str) -> bool:
    return name.endswith(f".{BATCH_COUNT}")
