"""The model catalog: names of models and their `ModelSpec`."""

from __future__ import annotations

import dataclasses
import fnmatch
import re
from collections.abc import Mapping
from functools import cache
from types import MappingProxyType
from typing import Any

from resnets.config import Block, ConfigError, ModelSpec, TransformerSpec
from resnets.utils.api_function import api_function
from resnets.utils.suggest import suggest

# He et al., CVPR 2016, Table 1: block and blocks per stage.
IMAGENET: dict[int, tuple[Block, tuple[int, ...]]] = {
    18: ("basic", (2, 2, 2, 2)),
    34: ("basic", (3, 4, 6, 3)),
    50: ("bottleneck", (3, 4, 6, 3)),
    101: ("bottleneck", (3, 4, 23, 3)),
    152: ("bottleneck", (3, 8, 36, 3)),
}
PREACT: dict[Block, Block] = {"basic": "preact-basic", "bottleneck": "preact-bottleneck"}

# Blocks per stage of later networks: timm's small ones, 200 layers (He et al., ECCV 2016), and 269.
LATER_DEPTHS: dict[int, tuple[Block, tuple[int, ...]]] = {
    **IMAGENET,
    10: ("basic", (1, 1, 1, 1)),
    14: ("bottleneck", (1, 1, 1, 1)),
    26: ("bottleneck", (2, 2, 2, 2)),
    200: ("bottleneck", (3, 24, 36, 3)),
    269: ("bottleneck", (3, 30, 48, 8)),
}
# The letter after the number of layers in timm's names: a deep stem (c, s, d) or a tiered stem (t),
# of twice the width (s), an average pool on the shortcut (d, t). He et al. 2019, "Bag of Tricks",
# Fig. 2.
LETTERS: dict[str, dict[str, Any]] = {
    "": {},
    "c": {"stem": "deep"},
    "s": {"stem": "deep", "stem_width": 128},
    "d": {"stem": "deep", "shortcut_pool": "average"},
    "t": {"stem": "tiered", "shortcut_pool": "average"},
}
# Bello et al. 2021 ("Revisiting ResNets"): blocks per stage, and px of the training images.
RESNET_RS = {
    50: ((3, 4, 6, 3), 160),
    101: ((3, 4, 23, 3), 192),
    152: ((3, 8, 36, 3), 256),
    200: ((3, 24, 36, 3), 256),
    270: ((4, 29, 53, 4), 256),
    350: ((4, 36, 72, 4), 288),
    420: ((4, 44, 87, 4), 320),
}
LATER_NAMES = (
    "resnet10t", "resnet14t", "resnet26", "resnet200", "resnet26t", "resnet50t",
    *(f"resnet{depth}d" for depth in (18, 26, 34, 50, 101, 152, 200)),
    *(f"resnet{depth}{letter}" for letter in "cs" for depth in (50, 101, 152)),
    "resnext50_32x4d", "resnext50d_32x4d",
    *(f"resnext101_{each}d" for each in ("32x4", "32x8", "32x16", "32x32", "64x4")),
    *(f"seresnet{depth}" for depth in ("18", "34", "50", "101", "152", "152d")),
    "seresnext26d_32x4d", "seresnext26t_32x4d", "seresnext50_32x4d", "seresnext101_32x4d",
    "seresnext101_32x8d", "seresnext101_64x4d", "seresnext101d_32x8d",
    *(f"ecaresnet{depth}" for depth in ("26t", "50d", "50t", "101d", "269d")),
    *(f"resnetrs{depth}" for depth in RESNET_RS),
    *(f"resnetv2_{depth}" for depth in ("18", "18d", "34", "34d", "50", "50d", "101", "101d")),
    *(f"resnetv2_{each}_bit" for each in ("50x1", "50x3", "101x1", "101x3", "152x2", "152x4")),
)  # fmt: skip

# Simonyan and Zisserman 2015, Table 1 (A, B, D, E): 3x3 convolutions per stage.
VGG = {
    11: (1, 1, 2, 2, 2),
    13: (2, 2, 2, 2, 2),
    16: (2, 2, 3, 3, 3),
    19: (2, 2, 4, 4, 4),
}

# Depths in the paper's Table 6; models with any other 6n+2 layers can be created by name, too.
CIFAR_DEPTHS = (20, 32, 44, 56, 110, 1202)
# He et al., ECCV 2016: CIFAR networks of bottlenecks with 9n+2 layers (164 is also 6n+2).
CIFAR_BOTTLENECK_DEPTHS = (164, 1001)

# For training on CIFAR-10 within minutes; widths tuned for two CPU cores (docs/results.md).
CIFAR_SPEEDRUN = ModelSpec(
    name="cifar-speedrun",
    depths=(1, 1, 1),
    widths=(64, 128, 256),
    stem="whitening",
    downsample="max-pool",
    activation="gelu",
    head_pool="max",
    logit_scale=1 / 9,
    norm_scale=False,
    num_classes=10,
    input_size=32,
)


def spec(name: str, **overrides: Any) -> ModelSpec:
    """Return the `ModelSpec` of the model `name`, with `overrides` of its fields.

    Raises ConfigError for an unknown name; the message suggests the most similar one.
    """
    if is_transformer(name):
        raise ConfigError(f"{name} is a text model; use it with the recipe 'text'")
    specs = _all_specs()
    found = specs.get(name) or _parse_cifar_name(name)
    if found is None:
        hint = suggest(name, specs, "`resnets info` lists all")
        raise ConfigError(f"unknown model {name!r}; {hint}")
    return dataclasses.replace(found, **overrides)


def transformer_spec(name: str) -> TransformerSpec:
    """Return the spec of transformerN (N pre-norm blocks) or plain-transformerN.

    Raises ConfigError for any other name.
    """
    match = re.fullmatch(r"(plain-)?transformer([1-9]\d{0,3})", name)
    if match is None:
        raise ConfigError(
            f"unknown text model {name!r}; use transformerN or plain-transformerN with N blocks"
        )
    return TransformerSpec(
        name=name, depth=int(match[2]), residual="none" if match[1] else "pre-norm"
    )


def is_transformer(name: str) -> bool:
    """True if `name` is the name of a transformer."""
    return name.startswith(("transformer", "plain-transformer"))


@api_function
def list_models(pattern: str = "") -> list[str]:
    """Return the model names of the catalog that match `pattern`, as listed by `resnets info`.

        resnets.list_models("resnet*")  # start with resnet: resnet18, resnet34, ...
        resnets.list_models("preact")  # contain preact: preact-resnet18, ...

    pattern: a wildcard pattern for the whole name (*, ? and [...], as in timm), or a part of the
    name, case-insensitive; default: all models. The list is empty if no name matches.
    `create_model` also accepts cifar-resnetN, cifar-plainN and cifar-preact-resnetN with any N =
    6n+2 (basic blocks) and N = 164 and 1001 (bottlenecks, 9n+2). Only the depths used in papers
    are listed.
    """
    if not set("*?[") & set(pattern):
        pattern = f"*{pattern}*"
    return [name for name in _all_specs() if fnmatch.fnmatchcase(name, pattern.lower())]


@cache
def _all_specs() -> Mapping[str, ModelSpec]:
    """Return the whole catalog by name."""
    cifar = [
        _cifar_spec(family, depth)
        for family, depths in (
            ("cifar-resnet", (*CIFAR_DEPTHS, 164)),
            ("cifar-plain", (20, 32, 44, 56, 110)),
            ("cifar-preact-resnet", (110, *CIFAR_BOTTLENECK_DEPTHS)),
        )
        for depth in depths
    ]
    later = map(_parse_timm_name, LATER_NAMES)
    specs = (*_imagenet_specs(), *later, *_vgg_specs(), *cifar, CIFAR_SPEEDRUN)
    return MappingProxyType({each.name: each for each in specs})


def _imagenet_specs() -> list[ModelSpec]:
    """Return the models of Table 1, their variants in the paper, and later ones of this family.

    resnetN uses option B shortcuts and has the stride in the 3x3 convolution ("v1.5"), as most
    later code. -v1 has the stride of the paper; -a and -c use the shortcut options of Table 3.
    Tables 2 and 6 use option A.
    """
    specs = []
    for depth, (block, depths) in IMAGENET.items():
        base = ModelSpec(name=f"resnet{depth}", block=block, depths=depths)
        specs += [base, _variant(base, f"preact-resnet{depth}", block=PREACT[block])]
        if block == "bottleneck":
            specs.append(_variant(base, f"resnet{depth}-v1", stride_in="1x1"))
        else:
            specs.append(_variant(base, f"resnet{depth}-a", shortcut="A"))
            specs.append(_variant(base, f"resnet{depth}-c", shortcut="C"))
            specs.append(_variant(base, f"plain{depth}", shortcut="none"))
    block, depths = IMAGENET[50]
    resnet50 = ModelSpec(block=block, depths=depths)
    resnet101 = dataclasses.replace(resnet50, depths=IMAGENET[101][1])
    return [
        *specs,
        _variant(resnet50, "wide_resnet50_2", width_per_group=128),
        _variant(resnet101, "wide_resnet101_2", width_per_group=128),
    ]


def _parse_timm_name(name: str) -> ModelSpec:
    """Return the spec of a name in `LATER_NAMES` (timm's naming scheme).

    "se" and "eca" are attention layers, "rs" is ResNet-RS (Bello et al. 2021), 32x4d is the number
    of groups and their width (Xie et al. 2017). "v2" has a norm before each convolution and none in
    the stem, "bit" has group norms and standardized weights, x3 is three times as wide (Kolesnikov
    et al. 2020).
    """
    pattern = r"(se|eca)?resne[x]?t(rs|v2_)?(\d+)([cdst]?)(?:_(\d+)x(\d+)d)?(?:x(\d+)_bit)?"
    match = re.fullmatch(pattern, name)
    assert match, name
    attention, family, layers, letter, groups, width, factor = match.groups()
    block, depths = LATER_DEPTHS[int(layers)] if family != "rs" else ("bottleneck", ())
    fields: dict[str, Any] = dict(LETTERS[letter])
    if attention:
        fields["attention"] = attention
    if groups:
        fields |= {"groups": int(groups), "width_per_group": int(width)}
    if family == "rs":
        depths, size = RESNET_RS[int(layers)]
        fields |= {**LETTERS["d"], "attention": "se", "se_reduction": 4, "stem_pool": "conv"}
        fields["input_size"] = size
    if family == "v2_":
        block = PREACT[block]
        fields["stem_norm"] = False
    if factor:
        wide = tuple(each * int(factor) for each in ModelSpec.widths)
        fields |= {"widths": wide, "stem_width": wide[0], "stem_pool": "zeros", "norm": "group+ws"}
    return ModelSpec(name=name, block=block, depths=depths, **fields)


def _vgg_specs() -> list[ModelSpec]:
    """Return VGG with 11, 13, 16 and 19 layers, without norms (as published) and with (-bn)."""
    specs = []
    for depth, depths in VGG.items():
        base = ModelSpec(
            name=f"vgg{depth}",
            block="vgg",
            depths=depths,
            widths=(64, 128, 256, 512, 512),
            shortcut="none",
            norm="none",
            dropout=0.5,
        )
        specs += [base, _variant(base, f"vgg{depth}-bn", norm="batch")]
    return specs


def _cifar_spec(family: str, depth: int) -> ModelSpec:
    """Return a CIFAR model: three stages of n blocks (section 4.2), option A shortcuts.

    Models with bottlenecks use option B (projections where shapes differ), as in their paper.
    """
    bottleneck = depth in CIFAR_BOTTLENECK_DEPTHS
    block: Block = "bottleneck" if bottleneck else "basic"
    n = (depth - 2) // (9 if bottleneck else 6)
    base = ModelSpec(
        name=f"{family}{depth}",
        block=PREACT[block] if family.startswith("cifar-preact") else block,
        depths=(n, n, n),
        widths=(16, 32, 64),
        shortcut="B" if bottleneck else "A",
        stem="cifar",
        stem_width=16,
        num_classes=10,
        input_size=32,
    )
    return dataclasses.replace(base, shortcut="none") if family == "cifar-plain" else base


def _parse_cifar_name(name: str) -> ModelSpec | None:
    """Return the CIFAR model of an unlisted depth; raises ConfigError for an invalid depth."""
    match = re.fullmatch(r"(cifar-resnet|cifar-plain|cifar-preact-resnet)(\d{1,5})", name)
    if match is None:
        return None
    family, depth = match[1], int(match[2])
    if depth in CIFAR_BOTTLENECK_DEPTHS or (depth >= 8 and depth % 6 == 2):
        return _cifar_spec(family, depth)
    nearest = max(8, round((depth - 2) / 6) * 6 + 2)
    raise ConfigError(
        f"unknown model {name!r}; depths are 6n+2 (8, 14, 20, ...); did you mean {family}{nearest}?"
    )


def _variant(base: ModelSpec, name: str, **changes: Any) -> ModelSpec:
    return dataclasses.replace(base, name=name, **changes)
