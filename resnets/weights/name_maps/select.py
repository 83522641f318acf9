"""Which of the tensors in a file are the network's: under what prefix, and what else is there.

Training scripts and wrappers put names before those of a network ("state_dict.module.",
"model._orig_mod.", "encoder_q.") and other tensors beside it (losses, metrics, projectors,
averaged copies, an optimizer's state). No list of these is ever complete, so none is used: the
network is where its own names are found, whatever stands before them.
"""

from __future__ import annotations

import dataclasses
import difflib
import logging
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch

from resnets.utils.terminal import printable
from resnets.weights.errors import WeightsError
from resnets.weights.lazy_tensors import LazyTensor, naming
from resnets.weights.name_maps.leftovers import (
    MOMENTS,
    Leftovers,
    Network,
    sort_leftovers,
    why_refused,
)
from resnets.weights.name_maps.maps import NameMap, shorten

log = logging.getLogger("resnets")
Say = Callable[..., None]

ANCHORS = 8  # names of a network that are looked for behind a prefix
NEARLY = 0.9  # share of the names found of the best copy that makes another one a copy
PARTLY = 0.5  # the same of a copy in which some are missing, as averages of parameters alone
MOST = 1 << 26  # elements of a tensor that is compared with another one
# Words in names of copies that are made of another one: averages over steps, and targets of
# self-supervision. A target is one only beside an online network: domain adaptation trains two.
AVERAGED = frozenset({"ema", "averaged", "average", "avg", "swa", "teacher", "momentum", "shadow"})
TARGET, ONLINE = "target", frozenset({"online", "student", "query"})
# Words in names of what is shaped like weights and is none.
CHANGES = frozenset(
    {
        *("grad", "grads", "gradient", "gradients", "optim", "optimizer", "optimizers", "delta"),
        *("deltas", "diff", "update", "updates", "fisher", "mask", "masks", "velocity"),
    }
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
    this network can use, "" where nothing was found that looks like one. left: what else is there.
    refused: why the network
    cannot be had of this file, "" where it can.
    """

    map: NameMap
    names: Mapping[str, str]
    head_note: str
    left: Leftovers
    refused: str


def select(
    tensors: Mapping[str, LazyTensor],
    maps: Sequence[NameMap],
    source: str,
    part: str | None = None,
    say: Say = log.info,
) -> Selection | None:
    """The tensors of the network that `maps` are of; None where no map knows a single one.

    part: the beginning of the names to take, where a file has several copies. Raises
    WeightsError for an unknown part, and where several copies would serve.
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
    scores = {each: names.count(_without(within, each)) for each in _prefixes(names, within)}
    copies = [each for each, count in scores.items() if count >= NEARLY * score]
    prefix = one_of(_distinct(copies, tensors, names, source), prefix, source, say)
    _refuse_changes(prefix, part, source)
    others = [each for each, count in scores.items() if count >= PARTLY * score and each != prefix]
    return _selected(tensors, within, names, prefix, others, source, say)


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


def _distinct(
    copies: Sequence[str], tensors: Mapping[str, LazyTensor], names: NameMap, source: str
) -> list[str]:
    """`copies` without those that are another name of one before them, equal in every tensor."""
    kept: list[str] = []
    for copy in copies:
        if not any(_equal(one, copy, tensors, names, source) for one in kept):
            kept.append(copy)
    return kept


def _equal(
    one: str, other: str, tensors: Mapping[str, LazyTensor], names: NameMap, source: str
) -> bool:
    known = [
        names.known(full.removeprefix(prefix) for full in tensors if full.startswith(prefix))
        for prefix in (one, other)
    ]
    if known[0] != known[1]:
        return False
    pairs = [(tensors[one + name], tensors[other + name]) for name in sorted(known[0])]
    if any(left.shape != right.shape or left.size > MOST for left, right in pairs):
        return False
    with naming(source):
        return all(torch.equal(left.read(), right.read()) for left, right in pairs)


def one_of(copies: Sequence[str], best: str, source: str, say: Say) -> str:
    """The copy to take: the only one that is not made of another."""
    if len(copies) < 2:
        return best
    words = {prefix: _words(prefix) for prefix in copies}
    online = any(ONLINE & found for found in words.values())
    plain = [
        prefix
        for prefix, found in words.items()
        if not (AVERAGED & found or (TARGET in found and online))
        and not re.search(r"_k(\.|$)", prefix)
    ]
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


def _refuse_changes(prefix: str, part: str | None, source: str) -> None:
    """WeightsError where tensors are called what is no weights, unless they are asked for."""
    asked = part is not None and prefix.startswith(part)
    parts = prefix.split(".")
    if not asked and (_words(prefix) & CHANGES or any(map(MOMENTS.fullmatch, parts))):
        raise WeightsError(
            f"{source}: holds no weights but {printable(prefix.removesuffix('.'))}, which by its"
            " name is of training or the difference of two networks; save the network's own"
            " state dict"
        )


def _words(prefix: str) -> set[str]:
    return {word.lower() for word in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+", prefix)}


def _selected(
    tensors: Mapping[str, LazyTensor],
    within: Sequence[str],
    names: NameMap,
    prefix: str,
    copies: Sequence[str],
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
    net = _network(tensors, taken, names, prefix, copies)
    left = _left(within, taken)
    found = sort_leftovers(tensors, left, net)
    if found.head:
        note = f"its head is not the only layer after the features: {shorten(found.head)}"
        for ours in HEAD:
            taken.pop(names.theirs[ours] or "", None)
    found = dataclasses.replace(
        found, training=(*found.training, *sorted(set(tensors) - set(within)))
    )
    refused = why_refused(found.own, net, source) if found.own else ""
    return Selection(names, taken, note, found, refused)


def _left(within: Sequence[str], taken: Mapping[str, str]) -> list[str]:
    used = set(taken.values())
    return [name for name in within if name not in used]


def _network(
    tensors: Mapping[str, LazyTensor],
    taken: Mapping[str, str],
    names: NameMap,
    prefix: str,
    copies: Sequence[str],
) -> Network:
    """What the chosen tensors connect to."""
    head = taken.get(names.theirs.get(HEAD[0]) or "")
    rows = None if head is None else _inputs_and_outputs(head, tensors)[1]
    first = taken.get(next(iter(names.anchors(1)), ""))
    channels = None if first is None else _inputs_and_outputs(first, tensors)[0]
    return Network(prefix, copies, head, names.head_width, rows, channels)


def _inputs_and_outputs(
    name: str, tensors: Mapping[str, LazyTensor]
) -> tuple[int | None, int | None]:
    """Channels that a matrix or kernel takes and makes; Keras has them last."""
    shape = tensors[name].shape
    if len(shape) < 2:
        return None, None
    return (shape[-2], shape[-1]) if name.endswith("kernel") else (shape[1], shape[0])


def _root(name: str) -> str:
    return name.partition(".")[0]


def _other_head(
    tensors: Mapping[str, LazyTensor],
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
    if found:
        return f"its head is not one linear layer ({shorten(found)})"
    near = [name for name in within if name not in used and _makes_outputs(tensors[name], width)]
    return f"{shorten(near)} may be it, under a name or in a form not known here" if near else ""


def _makes_outputs(stored: LazyTensor, width: int) -> bool:
    """Whether a tensor takes the features that a head takes: a matrix, or a kernel of 1x1."""
    shape = tuple(size for size in stored.shape if size != 1)
    return len(shape) == 2 and width in shape and len(stored.shape) in (2, 4)
