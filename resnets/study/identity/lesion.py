"""Lesions of trained residual networks: blocks dropped or swapped (Veit et al., NIPS 2016).

A dropped block keeps its shortcut and loses its branch; an identity block then does nothing. The
model is changed in place inside a context, and restored after it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import nn

from resnets.config import ConfigError
from resnets.models import ImageClassifier
from resnets.models.block_config import get_block_attr

Pair = tuple[str, str]


def residual_blocks(model: ImageClassifier) -> dict[str, nn.Module]:
    """The blocks of `model` that have a shortcut, by name ("stage1.0"), first to last.

    Raises ConfigError for a model without any.
    """
    if not model.spec.residual:
        raise ConfigError(
            f"{model.spec.name}: a plain network without residual blocks; give a residual network"
        )
    return model.blocks()


def identity_blocks(model: ImageClassifier) -> list[str]:
    """Names of the blocks whose shortcut is the identity: those that can be removed entirely."""
    blocks = residual_blocks(model)
    return [
        name
        for name, block in blocks.items()
        if isinstance(get_block_attr(block, "shortcut"), nn.Identity)
    ]


def swappable_blocks(model: ImageClassifier) -> list[list[str]]:
    """Groups of two or more blocks of one stage that differ only in their weights."""
    groups: dict[tuple[str, str], list[str]] = {}
    for name, block in residual_blocks(model).items():
        stage = name.split(".")[0]
        groups.setdefault((stage, repr(block)), []).append(name)  # repr has all shapes and strides
    return [names for names in groups.values() if len(names) > 1]


@contextmanager
def dropped(model: ImageClassifier, names: Sequence[str]) -> Iterator[None]:
    """Context in which the blocks called `names` have no branch: their last layers are zero."""
    blocks = residual_blocks(model)
    zeroed = [
        parameter
        for name in names
        for parameter in get_block_attr(blocks[name], "last_layer").parameters()
    ]
    saved = [parameter.detach().clone() for parameter in zeroed]
    with torch.no_grad():
        for parameter in zeroed:
            parameter.zero_()
    try:
        yield
    finally:
        with torch.no_grad():
            for parameter, value in zip(zeroed, saved, strict=True):
                parameter.copy_(value)


@contextmanager
def swapped(model: ImageClassifier, pairs: Sequence[Pair]) -> Iterator[None]:
    """Context in which the blocks of each pair are exchanged, pair after pair.

    The blocks of a pair must belong to one group of `swappable_blocks`.
    """
    for pair in pairs:
        _exchange(model, pair)
    try:
        yield
    finally:
        for pair in reversed(pairs):
            _exchange(model, pair)


def _exchange(model: ImageClassifier, pair: Pair) -> None:
    """Exchange two modules."""
    first, second = (model.get_submodule(name) for name in pair)
    model.set_submodule(pair[0], second)
    model.set_submodule(pair[1], first)
