"""`Format`: how a library names and lays out the tensors of models of this family."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from resnets.config import ModelSpec, Preprocess

Tensors = dict[str, Tensor]
Rules = Sequence[tuple[str, str | None]]


@dataclass(frozen=True)
class Format:
    """How a library stores models of this family.

    rules: for a model, pairs (own pattern, foreign pattern) of whole tensor names; None if the
    library has no such model. `#` is a number, `#+1` and `#-1` on the foreign side that number plus
    or minus one, `##+1` the same with two digits at least, `*` the last part of a name. The first
    rule whose left side matches applies. A right side None: the library's files do not have the
    tensor (a batch counter). decode: converts from the foreign layout to that of this package,
    under foreign names, where renaming is not enough (transposed kernels, one tensor stored as
    two). implied_fields: fields of `ModelSpec`
    common to all its models that names and shapes do not show. preprocess: preprocessing of the
    models published in this format, if a file specifies none. is_decoded: whether a name is one of
    those that `decode` changes. decodes_values: whether `decode` looks at values, so that shapes
    alone do not show what it returns.
    """

    name: str
    rules: Callable[[ModelSpec], Rules | None]
    decode: Callable[[Tensors], Tensors] = dict
    implied_fields: Mapping[str, Any] = field(default_factory=dict)
    preprocess: Callable[[ModelSpec], Preprocess | None] = lambda _spec: None
    is_decoded: Callable[[str], object] = lambda _name: False
    decodes_values: bool = False


def translate(names: Iterable[str], rules: Rules) -> dict[str, str | None]:
    """Return the foreign name of each of our `names`; each must match a rule."""
    compiled = [(ours.partition("#")[0].rstrip("*"), _pattern(ours), to) for ours, to in rules]
    foreign: dict[str, str | None] = {}
    for name in names:
        for start, pattern, template in compiled:
            match = pattern.fullmatch(name) if name.startswith(start) else None
            if match:
                foreign[name] = None if template is None else _fill(template, match)
                break
        else:
            raise AssertionError(f"no rule for {name}")
    return foreign


def _pattern(ours: str) -> re.Pattern[str]:
    return re.compile(re.escape(ours).replace(r"\#", r"(\d+)").replace(r"\*", r"([^.]+)"))


def _fill(template: str, match: re.Match[str]) -> str:
    """Return `template` with the groups of `match` filled in, in order."""
    groups = iter(match.groups())

    def fill(placeholder: re.Match[str]) -> str:
        group, (digits, offset) = next(groups), placeholder.groups()
        return str(int(group) + int(offset)).zfill(len(digits)) if offset else group

    return re.sub(r"(#+)([+-]1)|#|\*", fill, template)
