"""Detect that a file specifies training with a sigmoid for each class."""

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


def warn_about_sigmoid(
    nodes: Sequence[tuple[str, dict[Any, Any] | str]],
    tensors: Mapping[str, LazyTensor],
    source: str,
) -> None:
    """Log a warning for fields that specify multi-label training.

    Raises WeightsError for transformers' problem_type, as for a config.json with it.
    """
    fields = [name for name in tensors if name.rpartition(".")[2] == "pos_weight"]
    for place, node in nodes:
        prefix = f"{place}." if place else ""
        if not isinstance(node, dict):
            continue
        problem = node.get("problem_type")
        if isinstance(problem, str) and problem not in ("", SINGLE):
            raise WeightsError(
                f"{source}: {prefix}problem_type = {short_text(problem)}: is not supported; only"
                f" {SINGLE!r}"
            )
        fields += [
            f"{prefix}{key} {short_text(node[key])}"
            for key in LOSSES
            if isinstance(node.get(key), str) and MULTILABEL.search(node[key])
        ]
        fields += [f"{prefix}{key} True" for key in SIGMOID if node.get(key) is True]
    if fields:
        log.warning(
            "%s: %s specifies training with a sigmoid for each class; the probabilities here are of"
            " a softmax, which it was not trained for",
            source, fields[0],
        )  # fmt: skip


def short_text(value: Any) -> str:
    """Return a value of a foreign file for a message: at most 60 printable characters."""
    return clean(repr(value))


def clean(text: str) -> str:
    """Return the first 60 characters of a foreign text, printable."""
    return "".join(char if char.isprintable() else " " for char in text[:60])
