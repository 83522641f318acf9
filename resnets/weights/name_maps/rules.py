"""How another library stores models of this family: names and layout of tensors."""

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
    """One library's way to write models of this family.

    rules: for a model, pairs (our pattern, their pattern) of whole tensor names; None where the
    library has no such net. `#` stands for a number, `#+1` and `#-1` on their side for the numbers
    after and before it, `*` for the last part of a name. The first rule whose left side matches
    counts. A right side None says that their files have no such tensor (a counter of batches).
    encode, decode: between tensors laid out as ours and as theirs, both under their names, where
    renaming is not all (transposed kernels, one tensor that is two there); inverse to each other.
    needs: fields of `ModelSpec` that all its models share and that names and shapes do not show.
    preprocess: what the models published in this format want, where a file does not say.
    belongs: whether a name that `decode` changes is one of this format's.
    """

    name: str
    rules: Callable[[ModelSpec], Rules | None]
    encode: Callable[[Tensors], Tensors] = dict
    decode: Callable[[Tensors], Tensors] = dict
    needs: Mapping[str, Any] = field(default_factory=dict)
    preprocess: Callable[[ModelSpec], Preprocess | None] = lambda _spec: None
    belongs: Callable[[str], object] = lambda _name: False


def translate(names: Iterable[str], rules: Rules) -> dict[str, str | None]:
    """Their name of each of our `names`; every name has to match a rule."""
    compiled = [(ours.partition("#")[0].rstrip("*"), _pattern(ours), to) for ours, to in rules]
    theirs = {}
    for name in names:
        for start, pattern, template in compiled:
            match = pattern.fullmatch(name) if name.startswith(start) else None
            if match:
                theirs[name] = None if template is None else _fill(template, match)
                break
        else:
            raise AssertionError(f"no rule for {name}")
    return theirs


def _pattern(ours: str) -> re.Pattern[str]:
    return re.compile(re.escape(ours).replace(r"\#", r"(\d+)").replace(r"\*", r"([^.]+)"))


def _fill(template: str, match: re.Match[str]) -> str:
    """`template` with the parts that `match` found, in their order."""
    parts = iter(match.groups())

    def part(place: re.Match[str]) -> str:
        found = next(parts)
        return str(int(found) + int(place[0][1:])) if place[0][1:] else found

    return re.sub(r"#[+-]1|#|\*", part, template)
