"""Damage to trained residual nets: blocks dropped or swapped (Veit et al., NIPS 2016).

A dropped block keeps its shortcut and loses its branch; an identity block is then gone. The net
is damaged in place while a context lasts, and whole again after it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import nn

from resnets.config import ConfigError
from resnets.models import ImageClassifier
from resnets.models.block import require

Pair = tuple[str, str]


def residual_blocks(net: ImageClassifier) -> dict[str, nn.Module]:
    """The blocks of `net` that have a shortcut, by name ("stage1.0"), first to last.

    ConfigError for a net without any.
    """
    if not net.spec.residual:
        raise ConfigError(
            f"{net.spec.name}: a plain net, it has no residual blocks; give a residual net"
        )
    return net.blocks()


def identity_blocks(net: ImageClassifier) -> list[str]:
    """Names of the blocks whose shortcut is the identity: those that can be taken out whole."""
    blocks = residual_blocks(net)
    return [
        name
        for name, block in blocks.items()
        if isinstance(require(block, "shortcut"), nn.Identity)
    ]


def swappable(net: ImageClassifier) -> list[list[str]]:
    """Groups of two or more blocks of one stage that differ in nothing but their weights."""
    groups: dict[tuple[str, str], list[str]] = {}
    for name, block in residual_blocks(net).items():
        stage = name.split(".")[0]
        groups.setdefault((stage, repr(block)), []).append(name)  # repr has all shapes and strides
    return [names for names in groups.values() if len(names) > 1]


@contextmanager
def dropped(net: ImageClassifier, names: Sequence[str]) -> Iterator[None]:
    """`net` without the branches of the blocks called `names`, while the context lasts.

    Their last layers are null, so that F(x) = 0.
    """
    blocks = residual_blocks(net)
    nulled = [
        parameter
        for name in names
        for parameter in require(blocks[name], "last_layer").parameters()
    ]
    kept = [parameter.detach().clone() for parameter in nulled]
    with torch.no_grad():
        for parameter in nulled:
            parameter.zero_()
    try:
        yield
    finally:
        with torch.no_grad():
            for parameter, value in zip(nulled, kept, strict=True):
                parameter.copy_(value)


@contextmanager
def swapped(net: ImageClassifier, pairs: Sequence[Pair]) -> Iterator[None]:
    """`net` with the blocks of each pair in each other's place, pair after pair, for the context.

    A pair must be of one group of `swappable`.
    """
    for pair in pairs:
        _exchange(net, pair)
    try:
        yield
    finally:
        for pair in reversed(pairs):
            _exchange(net, pair)


def _exchange(net: ImageClassifier, pair: Pair) -> None:
    """Exchange the modules at two places."""
    first, second = (net.get_submodule(name) for name in pair)
    net.set_submodule(pair[0], second)
    net.set_submodule(pair[1], first)
