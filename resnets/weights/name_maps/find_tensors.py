"""Select the tensors of a network in a weights file, regardless of their prefix.

Training scripts and wrappers add prefixes ("state_dict.module.", "model._orig_mod.", "encoder_q.")
and other tensors (losses, metrics, projectors, averaged copies, optimizer state). A list of these
would never be complete. So the network is searched by its own names.
"""

from __future__ import annotations

import dataclasses
import logging
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch

from resnets.utils.printable import join_names, printable
from resnets.utils.suggest import suggest
from resnets.weights.errors import WeightsError
from resnets.weights.lazy_tensors import LazyTensor, reading_weights
from resnets.weights.name_maps.leftovers import (
    MOMENTS,
    Leftovers,
    Network,
    classify_leftovers,
    refusal_message,
)
from resnets.weights.name_maps.maps import NameMap

log = logging.getLogger("resnets")
LogFunction = Callable[..., None]

NUM_ANCHORS = 8  # names of a network that are searched after a prefix
COPY_RATIO = 0.9  # of the best copy's number of names, for another prefix to count as a copy
PARTIAL_COPY_RATIO = 0.5  # the same for incomplete copies, such as averages of parameters alone
MAX_COMPARED = 1 << 26  # elements of a tensor that is compared with another
# Words in names of copies derived from another one: averages over steps, and the target networks of
# self-supervised learning, if there is an online network (domain adaptation trains two).
AVERAGE_WORDS = frozenset(
    {"ema", "averaged", "average", "avg", "swa", "teacher", "momentum", "shadow"}
)
TARGET_WORD, ONLINE_WORDS = "target", frozenset({"online", "student", "query"})
# Words in names of tensors that have the shapes of weights but are not weights.
NON_WEIGHTS = frozenset(
    {
        "grad", "grads", "gradient", "gradients", "optim", "optimizer", "optimizers", "delta",
        "deltas", "diff", "update", "updates", "fisher", "mask", "masks", "velocity",
    }
)  # fmt: skip
# Names of a last linear layer that differ from the format's.
HEAD_LAYER = re.compile(
    r"(fc|classifier|head|cls|cls_head|linear|last_linear|output|logits|9|10|11)"
    r"((\.(fc|linear|classifier|layers))?(\.\d+)?)?"
)
HEAD_TENSORS = ("head.weight", "head.bias")


@dataclass(frozen=True)
class Selection:
    """The network's tensors in a file.

    names: name in the format -> name in the file. head_note: why the file has no usable head; "" if
    there is one, or nothing that looks like one. leftovers: the other tensors. error: why the
    network cannot be loaded from this file; "" if it can.
    """

    map: NameMap
    names: Mapping[str, str]
    head_note: str
    leftovers: Leftovers
    error: str


def select_tensors(
    tensors: Mapping[str, LazyTensor],
    maps: Sequence[NameMap],
    source: str,
    part: str | None = None,
    log_info: LogFunction = log.info,
) -> Selection | None:
    """Select the tensors of the network of `maps`; None if no map has any name in common.

    part: prefix of the names to use, for a file with several copies. Raises WeightsError for an
    unknown part, and if it is ambiguous which copy to use.
    """
    within = list(tensors) if part is None else _names_under(tensors, part, source)
    best: tuple[int, NameMap, str] | None = None
    for names in maps:
        for prefix in _find_prefixes(names, within):
            score = names.count_own(_strip_prefix(within, prefix))
            if score > (best[0] if best else 0):
                best = score, names, prefix
    if best is None:
        return None
    score, names, prefix = best
    scores = {
        each: names.count_own(_strip_prefix(within, each)) for each in _find_prefixes(names, within)
    }
    copies = [each for each, count in scores.items() if count >= COPY_RATIO * score]
    prefix = select_copy(_drop_duplicates(copies, tensors, names, source), prefix, source, log_info)
    _refuse_non_weights(prefix, part, source)
    others = [
        each
        for each, count in scores.items()
        if count >= PARTIAL_COPY_RATIO * score and each != prefix
    ]
    return _make_selection(tensors, within, names, prefix, others, source, log_info)


def _names_under(tensors: Iterable[str], part: str, source: str) -> list[str]:
    names = [name for name in tensors if name.startswith(f"{part}.")]
    if not names:
        known = sorted({printable(name.partition(".")[0]) for name in tensors if "." in name})
        raise WeightsError(f"{source}: no tensors under {part!r}; {suggest(part, known)}")
    return names


def _find_prefixes(names: NameMap, within: Sequence[str]) -> list[str]:
    """Return prefixes of the format's names in a file, most frequent first; "" included."""
    anchors = names.anchor_names(NUM_ANCHORS)
    counts: dict[str, int] = {}
    for name in within:
        for anchor in anchors:
            if name.endswith(anchor):
                prefix = name[: len(name) - len(anchor)]
                if not prefix or prefix.endswith("."):
                    counts[prefix] = counts.get(prefix, 0) + 1
    ordered = sorted(counts, key=lambda prefix: -counts[prefix])[:64]
    return ordered if "" in ordered else [*ordered, ""]


def _strip_prefix(within: Iterable[str], prefix: str) -> list[str]:
    return [name.removeprefix(prefix) for name in within if name.startswith(prefix)]


def _drop_duplicates(
    copies: Sequence[str], tensors: Mapping[str, LazyTensor], names: NameMap, source: str
) -> list[str]:
    """Return `copies` without those whose tensors all equal those of an earlier one."""
    unique: list[str] = []
    for copy in copies:
        if not any(_are_equal(one, copy, tensors, names, source) for one in unique):
            unique.append(copy)
    return unique


def _are_equal(
    one: str, other: str, tensors: Mapping[str, LazyTensor], names: NameMap, source: str
) -> bool:
    known = [
        names.known_names(full.removeprefix(prefix) for full in tensors if full.startswith(prefix))
        for prefix in (one, other)
    ]
    if known[0] != known[1]:
        return False
    pairs = [(tensors[one + name], tensors[other + name]) for name in sorted(known[0])]
    if any(left.shape != right.shape or left.size > MAX_COMPARED for left, right in pairs):
        return False
    with reading_weights(source):
        return all(torch.equal(left.read(), right.read()) for left, right in pairs)


def select_copy(copies: Sequence[str], best: str, source: str, log_info: LogFunction) -> str:
    """Return the prefix of the copy to use: the only one that is not derived from another."""
    if len(copies) < 2:
        return best
    words = {prefix: _words(prefix) for prefix in copies}
    has_online = any(ONLINE_WORDS & each for each in words.values())
    plain = [
        prefix
        for prefix, each in words.items()
        if not (AVERAGE_WORDS & each or (TARGET_WORD in each and has_online))
        and not re.search(r"_k(\.|$)", prefix)
    ]
    labels = [printable(prefix.removesuffix(".")) or "(no prefix)" for prefix in copies]
    if len(plain) != 1:
        raise WeightsError(
            f"{source}: has {len(copies)} sets of weights, {', '.join(labels)}; choose one, as in "
            f"{source}#{labels[0]}"
        )
    others = [name for name, prefix in zip(labels, copies, strict=True) if prefix != plain[0]]
    used = plain[0].removesuffix(".") or "the one without prefix"
    log_info(
        "%s: has several sets of weights; using %s; for %s use %s#%s",
        source, used, " or ".join(others), source, others[0],
    )  # fmt: skip
    return plain[0]


def _refuse_non_weights(prefix: str, part: str | None, source: str) -> None:
    """Raise WeightsError for tensors that by name are not weights, unless `part` names them."""
    requested = part is not None and prefix.startswith(part)
    parts = prefix.split(".")
    if not requested and (_words(prefix) & NON_WEIGHTS or any(map(MOMENTS.fullmatch, parts))):
        raise WeightsError(
            f"{source}: has no weights except {printable(prefix.removesuffix('.'))}, which by"
            " its name is optimizer state or a difference of two networks; save the network's"
            " state dict"
        )


def _words(prefix: str) -> set[str]:
    return {word.lower() for word in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+", prefix)}


def _make_selection(
    tensors: Mapping[str, LazyTensor],
    within: Sequence[str],
    names: NameMap,
    prefix: str,
    copies: Sequence[str],
    source: str,
    log_info: LogFunction,
) -> Selection:
    under = {name.removeprefix(prefix): name for name in within if name.startswith(prefix)}
    known, roots = names.known_names(under), names.root_patterns()
    selected = {
        name: full
        for name, full in under.items()
        if name in known or any(root.fullmatch(_root(name)) for root in roots)
    }
    note = ""
    head = names.foreign_names.get(HEAD_TENSORS[0])
    if head is not None and head not in selected:
        note = _find_head(tensors, within, selected, names, prefix, source, log_info)
    net = _describe_network(tensors, selected, names, prefix, copies)
    used = set(selected.values())
    unused = [name for name in within if name not in used]
    leftovers = classify_leftovers(tensors, unused, net)
    if leftovers.head:
        note = f"its head is not the only layer after the features: {join_names(leftovers.head)}"
        for ours in HEAD_TENSORS:
            selected.pop(names.foreign_names[ours] or "", None)
    leftovers = dataclasses.replace(
        leftovers, training=(*leftovers.training, *sorted(set(tensors) - set(within)))
    )
    error = refusal_message(leftovers.own, net, source) if leftovers.own else ""
    return Selection(names, selected, note, leftovers, error)


def _describe_network(
    tensors: Mapping[str, LazyTensor],
    selected: Mapping[str, str],
    names: NameMap,
    prefix: str,
    copies: Sequence[str],
) -> Network:
    """Return the sizes of the selected network's inputs and outputs."""
    head = selected.get(names.foreign_names.get(HEAD_TENSORS[0]) or "")
    rows = None if head is None else _inputs_and_outputs(head, tensors)[1]
    first = selected.get(next(iter(names.anchor_names(1)), ""))
    channels = None if first is None else _inputs_and_outputs(first, tensors)[0]
    return Network(prefix, copies, head, names.head_width, rows, channels)


def _inputs_and_outputs(
    name: str, tensors: Mapping[str, LazyTensor]
) -> tuple[int | None, int | None]:
    """Return input and output channels of a matrix or kernel; Keras stores them last."""
    shape = tensors[name].shape
    if len(shape) < 2:
        return None, None
    return (shape[-2], shape[-1]) if name.endswith("kernel") else (shape[1], shape[0])


def _root(name: str) -> str:
    return name.partition(".")[0]


def _find_head(
    tensors: Mapping[str, LazyTensor],
    within: Sequence[str],
    selected: dict[str, str],
    names: NameMap,
    prefix: str,
    source: str,
    log_info: LogFunction,
) -> str:
    """Use a single linear layer of the right width as the head, or return why there is none."""
    outer = prefix.removesuffix(".").rpartition(".")[0]
    outer = f"{outer}." if outer else ""
    candidates: dict[str, list[str]] = {}
    used = set(selected.values())
    for start in dict.fromkeys((prefix, outer)):
        for name in within:
            layer, _, leaf = name.removeprefix(start).rpartition(".")
            if name.startswith(start) and name not in used and HEAD_LAYER.fullmatch(layer):
                candidates.setdefault(f"{start}{layer}", []).append(leaf)
    width = names.head_width
    fits = [
        layer
        for layer, leaves in candidates.items()
        if {"weight", "bias"} == set(leaves) and tensors[f"{layer}.weight"].shape[1:] == (width,)
    ]
    if len(candidates) == len(fits) == 1:
        log_info("%s: the head is %s", source, fits[0])
        for ours, leaf in zip(HEAD_TENSORS, ("weight", "bias"), strict=True):
            theirs = names.foreign_names[ours]
            assert theirs is not None
            selected[theirs] = f"{fits[0]}.{leaf}"
        return ""
    if candidates:
        return f"its head is not one linear layer ({join_names(candidates)})"
    near = [name for name in within if name not in used and _is_linear_on(tensors[name], width)]
    return f"{join_names(near)} may be the head, in an unknown format" if near else ""


def _is_linear_on(stored: LazyTensor, width: int) -> bool:
    """Return whether a tensor is a matrix, or a 1x1 kernel, on the features of the head."""
    shape = tuple(size for size in stored.shape if size != 1)
    return len(shape) == 2 and width in shape and len(stored.shape) in (2, 4)
