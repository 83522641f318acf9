"""Recipes: functions that return a `Recipe` for a model; docstrings state the expected result."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

from resnets.config import ConfigError, Recipe, aliases
from resnets.recipes import cifar, detection, imagenet, sequence, small
from resnets.utils.suggest import suggest

RECIPES: Mapping[str, Callable[..., Recipe]] = MappingProxyType(
    {
        "digits": small.digits,
        "fashion-mnist-fast": small.fashion_mnist_fast,
        "cifar10-paper": cifar.cifar10_paper,
        "cifar10-fast": cifar.cifar10_fast,
        "cifar10-speedrun": cifar.cifar10_speedrun,
        "cifar100-paper": cifar.cifar100_paper,
        "imagenet-paper": imagenet.imagenet_paper,
        "imagenet-90": imagenet.imagenet_90,
        "imagenet-rsb-a1": imagenet.imagenet_rsb_a1,
        "imagenet-rsb-a2": imagenet.imagenet_rsb_a2,
        "imagenet-rsb-a3": imagenet.imagenet_rsb_a3,
        "imagenet-tv2": imagenet.imagenet_tv2,
        "imagenet-fast-16": imagenet.imagenet_fast_16,
        "imagenet-fast-18": imagenet.imagenet_fast_18,
        "imagenet-fast-40": imagenet.imagenet_fast_40,
        "scratch": small.scratch,
        "finetune": small.finetune,
        "qat": small.qat,
        "detect": detection.detect,
        "detect-paper": detection.detect_paper,
        "detect-small": detection.detect_small,
        "instances": detection.instances,
        "segment": detection.segment,
        "localize": detection.localize,
        "signals": sequence.signals,
        "text": sequence.text,
    }
)


def recipe(name: str, net: str | None = None) -> Recipe:
    """Return the recipe `name` for model `net` (or its default); ConfigError suggests a name."""
    name = aliases.RECIPES.get(name, name)
    if name not in RECIPES:
        hint = suggest(name, RECIPES, "`resnets train --list` lists all")
        raise ConfigError(f"unknown recipe {name!r}; {hint}")
    return RECIPES[name](net) if net else RECIPES[name]()
