"""Whether a file states that its network was trained with a sigmoid for each class."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from typing import Any

from resnets.weights.errors import WeightsError
from resnets.weights.lazy_tensors import LazyTensor

log = logging.getLogger("resnets")

LOSSES = ("loss", "loss_fn", "loss_name", "criterion", "task", "task_type", "problem_type")
SIGMOID = ("bce_loss", "use_sigmoid")
MULTILABEL = re.compile(r"bce|binary_?cross|multi[-_ ]?label", re.I)
SINGLE = "single_label_classification"  # transformers' problem_type of a softmax


def warn_of_sigmoid(
    nodes: Sequence[tuple[str, dict[Any, Any] | str]],
    tensors: Mapping[str, LazyTensor],
    source: str,
) -> None:
    """Log fields that say that several classes may be true at once.

    WeightsError for transformers' problem_type, which their config.json is refused for too.
    """
    found = [name for name in tensors if name.rpartition(".")[2] == "pos_weight"]
    for place, node in nodes:
        before = f"{place}." if place else ""
        if not isinstance(node, dict):
            continue
        problem = node.get("problem_type")
        if isinstance(problem, str) and problem not in ("", SINGLE):
            raise WeightsError(
                f"{source}: {before}problem_type = {short_text(problem)}: is another question; only"
                f" {SINGLE!r}"
            )
        found += [
            f"{before}{key} {short_text(node[key])}"
            for key in LOSSES
            if isinstance(node.get(key), str) and MULTILABEL.search(node[key])
        ]
        found += [f"{before}{key} True" for key in SIGMOID if node.get(key) is True]
    if found:
        log.warning(
            "%s: %s says that it was trained with a sigmoid for each class; the probabilities here"
            " are of a softmax, which is not what it was trained for",
            source, found[0],
        )  # fmt: skip


def short_text(value: Any) -> str:
    """A value of a foreign file, for a message: at most 60 printable characters."""
    return clean(repr(value))


def clean(text: str) -> str:
    """The first 60 characters of a foreign text, printable."""
    return "".join(char if char.isprintable() else " " for char in text[:60])
