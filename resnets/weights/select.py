"""Which of the tensors in a file are the network's: under what prefix, and what else is there.

Training scripts and wrappers put names before those of a network ("state_dict.module.",
"model._orig_mod.", "encoder_q.") and other tensors beside it (losses, metrics, projectors,
averaged copies, an optimizer's state). No list of these is ever complete, so none is used: the
network is where its own names are found, whatever stands before them.
"""

from __future__ import annotations

import difflib
import logging
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from resnets.config.terminal import printable
from resnets.weights.errors import WeightsError
from resnets.weights.maps import NameMap, shorten
from resnets.weights.stored import Stored

log = logging.getLogger("resnets")
Say = Callable[..., None]

ANCHORS = 8  # names of a network that are looked for behind a prefix
NEARLY = 0.9  # share of the names found of the best copy that makes another one a copy
# Copies that are made of another one: averages over steps, and the targets of self-supervision.
AVERAGED = re.compile(
    r"(^|[._])(\w*ema\w*|averaged?\w*|swa\w*|(teacher|target|momentum)\w*|\w+_k)(?=\.)"
)
# What a last linear layer is called where the format has another name for it.
HEADS = re.compile(
    r"(fc|classifier|head|cls|cls_head|linear|last_linear|output|logits|9|10|11)"
    r"((\.(fc|linear|classifier|layers))?(\.\d+)?)?"
)
HEAD = ("head.weight", "head.bias")


@dataclass(frozen=True)
class Selection:
    """The network's tensors in a file: their names in the format's terms, and where they lie.

    names: a name of the format -> the name in the file. head_note: why the file has no head that
    this network can use, "" where nothing was found that looks like one.
    """

    map: NameMap
    names: Mapping[str, str]
    head_note: str


def select(
    tensors: Mapping[str, Stored],
    maps: Sequence[NameMap],
    source: str,
    part: str | None = None,
    say: Say = log.info,
) -> Selection | None:
    """The tensors of the network that `maps` are of; None where no map knows a single one.

    part: the beginning of the names to take, where a file has several copies. What is left out is
    logged. Raises WeightsError for an unknown part, and where several copies would serve.
    """
    within = list(tensors) if part is None else _within(tensors, part, source)
    best: tuple[int, NameMap, str] | None = None
    for names in maps:
        for prefix in _prefixes(names, within):
            score = names.count(_without(within, prefix))
            if score > (best[0] if best else 0):
                best = score, names, prefix
    if best is None:
        return None
    score, names, prefix = best
    copies = [
        each
        for each in _prefixes(names, within)
        if names.count(_without(within, each)) >= NEARLY * score
    ]
    prefix = one_of(copies, prefix, source, say)
    return _selected(tensors, within, names, prefix, source, say)


def _within(tensors: Iterable[str], part: str, source: str) -> list[str]:
    found = [name for name in tensors if name.startswith(f"{part}.")]
    if not found:
        known = sorted({printable(name.partition(".")[0]) for name in tensors if "." in name})
        near = difflib.get_close_matches(part, known, 1)
        hint = f"; did you mean {near[0]}?" if near else f"; it has {', '.join(known[:8])}"
        raise WeightsError(f"{source}: no tensors under {part!r}{hint}")
    return found


def _prefixes(names: NameMap, within: Sequence[str]) -> list[str]:
    """What stands before names of the format in a file, most frequent first; "" among them."""
    anchors = names.anchors(ANCHORS)
    found: dict[str, int] = {}
    for name in within:
        for anchor in anchors:
            if name.endswith(anchor):
                prefix = name[: len(name) - len(anchor)]
                if not prefix or prefix.endswith("."):
                    found[prefix] = found.get(prefix, 0) + 1
    ordered = sorted(found, key=lambda prefix: -found[prefix])[:64]
    return ordered if "" in ordered else [*ordered, ""]


def _without(within: Iterable[str], prefix: str) -> list[str]:
    return [name.removeprefix(prefix) for name in within if name.startswith(prefix)]


def one_of(copies: Sequence[str], best: str, source: str, say: Say) -> str:
    """The copy to take: the only one that is not made of another."""
    if len(copies) < 2:
        return best
    plain = [prefix for prefix in copies if not AVERAGED.search(prefix)]
    called = [printable(prefix.removesuffix(".")) or "(no prefix)" for prefix in copies]
    if len(plain) != 1:
        raise WeightsError(
            f"{source}: holds {len(copies)} sets of weights, {', '.join(called)}; say which, as "
            f"{source}#{called[0]}"
        )
    others = [name for name, prefix in zip(called, copies, strict=True) if prefix != plain[0]]
    taken = plain[0].removesuffix(".") or "those without prefix"
    say(
        "%s: holds several sets of weights: took %s; for %s say %s#%s",
        source, taken, " or ".join(others), source, others[0],
    )  # fmt: skip
    return plain[0]


def _selected(
    tensors: Mapping[str, Stored],
    within: Sequence[str],
    names: NameMap,
    prefix: str,
    source: str,
    say: Say,
) -> Selection:
    under = {name.removeprefix(prefix): name for name in within if name.startswith(prefix)}
    known, roots = names.known(under), names.roots()
    taken = {
        name: full
        for name, full in under.items()
        if name in known or any(root.fullmatch(_root(name)) for root in roots)
    }
    note = ""
    head = names.theirs.get(HEAD[0])
    if head is not None and head not in taken:
        note = _other_head(tensors, within, taken, names, prefix, source, say)
    used = set(taken.values())
    left = [name for name in tensors if name not in used]
    if left:
        left.sort(key=lambda name: name.startswith("optim"))  # the rest is rarer, and says more
        say(
            "%s: left out %d tensors that are not the network's (%s)",
            source, len(left), shorten(left),
        )  # fmt: skip
    return Selection(names, taken, note)


def _root(name: str) -> str:
    return name.partition(".")[0]


def _other_head(
    tensors: Mapping[str, Stored],
    within: Sequence[str],
    taken: dict[str, str],
    names: NameMap,
    prefix: str,
    source: str,
    say: Say,
) -> str:
    """Take a single linear layer of the right width for the head; else why there is none."""
    outer = prefix.removesuffix(".").rpartition(".")[0]
    outer = f"{outer}." if outer else ""
    found: dict[str, list[str]] = {}
    used = set(taken.values())
    for place in dict.fromkeys((prefix, outer)):
        for name in within:
            rest = name.removeprefix(place)
            layer, _, leaf = rest.rpartition(".")
            if name.startswith(place) and name not in used and HEADS.fullmatch(layer):
                found.setdefault(f"{place}{layer}", []).append(leaf)
    width = names.head_width
    fits = [
        layer
        for layer, leaves in found.items()
        if {"weight", "bias"} == set(leaves) and tensors[f"{layer}.weight"].shape[1:] == (width,)
    ]
    if len(found) == len(fits) == 1:
        say("%s: the head is %s", source, fits[0])
        for ours, leaf in zip(HEAD, ("weight", "bias"), strict=True):
            theirs = names.theirs[ours]
            assert theirs is not None
            taken[theirs] = f"{fits[0]}.{leaf}"
        return ""
    return f"its head is not one linear layer ({shorten(found)})" if found else ""
