"""Formats of BiT (Kolesnikov et al. 2020): its authors' .npz and PyTorch network, transformers'.

Source: github.com/google-research/big_transfer, bit_pytorch/models.py.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Literal

from resnets.config import ModelSpec, Preprocess
from resnets.weights.name_maps.formats.spec import Format, Rules, Tensors

HALF = (0.5, 0.5, 0.5)  # mean and standard deviation of images for BiT
CONV = "standardized_conv2d"
NUMBERED = re.compile(rf"{CONV}_\d+(?=/)")  # as some of the published files have it
BRANCHES = ((1, "a"), (2, "b"), (3, "c"))  # our conv1..conv3


def _is_bit(spec: ModelSpec) -> bool:
    """Return whether the authors have such a model: bottlenecks with projections."""
    return (
        spec.is_preact
        and spec.is_bottleneck
        and (spec.norm, spec.stem, spec.shortcut) == ("group+ws", "imagenet", "B")
        and (spec.stem_norm, spec.attention, spec.shortcut_pool) == (False, "none", "none")
        and not spec.scales_paths
        and spec.groups == 1
        and spec.stem_pool != "conv"
    )


def _bit(spec: ModelSpec) -> Rules | None:
    return tuple(_bit_rules()) if _is_bit(spec) else None


def _bit_rules() -> Iterator[tuple[str, str]]:
    unit = "resnet/block#/unit##+1"
    layers = [("stem.conv", f"resnet/root_block/{CONV}"), ("head", "resnet/head/conv2d")]
    layers += [("stage#.#.shortcut.conv", f"{unit}/a/proj/{CONV}")]
    layers += [(f"stage#.#.conv{k}", f"{unit}/{branch}/{CONV}") for k, branch in BRANCHES]
    for ours, theirs in layers:
        yield f"{ours}.weight", f"{theirs}/kernel"
        yield f"{ours}.bias", f"{theirs}/bias"
    norms = [(f"stage#.#.norm{k}", f"{unit}/{branch}/group_norm") for k, branch in BRANCHES]
    for ours, theirs in (("norm", "resnet/group_norm"), *norms):
        yield f"{ours}.weight", f"{theirs}/gamma"
        yield f"{ours}.bias", f"{theirs}/beta"


def _bit_decode(tensors: Tensors) -> Tensors:
    """Return kernels (k, k, in, out) as (out, in, k, k), and that of the head as a matrix."""
    decoded = {}
    for name, tensor in tensors.items():
        if tensor.dim() == 4:
            tensor = tensor.permute(3, 2, 0, 1)
            tensor = tensor.flatten(1) if name == "resnet/head/conv2d/kernel" else tensor
        decoded[NUMBERED.sub(CONV, name)] = tensor
    return decoded


def bit_preprocess(
    size: int = 224, crop: float = 0.875, how: Literal["bilinear", "bicubic"] = "bilinear"
) -> Preprocess:
    """Return BiT's preprocessing as timm has it; its authors' script resizes to a square."""
    resize = int(size / crop)
    return Preprocess(size=size, resize=resize, mean=HALF, std=HALF, interpolation=how)


def published_preprocess(stem: str) -> Preprocess | None:
    """Return the preprocessing of a published file, by its name without suffix; None for others.

    Models that were fine-tuned on ILSVRC-2012 are for 448 px (R152x4: 480), distilled ones and
    their teachers for the size in the name, those that were trained from scratch for 224 px.
    """
    if match := re.fullmatch(r"BiT-[SML]-(R\d+x\d)(-ILSVRC2012)?", stem):
        if match[2] is None:
            return bit_preprocess()
        return bit_preprocess(480 if match[1] == "R152x4" else 448, crop=1.0)
    if match := re.fullmatch(r"R\d+x\d(?:_T)?_(160|224|384)", stem):
        size = int(match[1])
        return bit_preprocess(size, 1.0 if size == 384 else 0.875, "bicubic")
    return None


def _bit_pytorch(spec: ModelSpec) -> Rules | None:
    if not _is_bit(spec):
        return None
    unit = "body.block#.unit##+1"
    return (
        ("stem.conv.*", "root.conv.*"),
        ("stage#.#.conv#.*", f"{unit}.conv#.*"),
        ("stage#.#.norm#.*", f"{unit}.gn#.*"),
        ("stage#.#.shortcut.conv.*", f"{unit}.downsample.*"),
        ("norm.*", "head.gn.*"),
        ("head.*", "head.conv.*"),
    )


def _bit_pytorch_decode(tensors: Tensors) -> Tensors:
    """Return the head, a 1x1 convolution, as a matrix."""
    name = "head.conv.weight"
    if name in tensors and tensors[name].dim() == 4:
        tensors[name] = tensors[name].flatten(1)
    return tensors


def _transformers_bit(spec: ModelSpec) -> Rules | None:
    """transformers' BitForImageClassification."""
    if not _is_bit(spec):
        return None
    layer = "bit.encoder.stages.#-1.layers.#"
    return (
        ("stem.conv.*", "bit.embedder.convolution.*"),
        ("stage#.#.conv#.*", f"{layer}.conv#.*"),
        ("stage#.#.norm#.*", f"{layer}.norm#.*"),
        ("stage#.#.shortcut.conv.*", f"{layer}.downsample.conv.*"),
        ("norm.*", "bit.norm.*"),
        ("head.*", "classifier.1.*"),
    )


POOL = {"stem_pool": "zeros"}
BIT_NPZ = Format(
    "bit",
    _bit,
    decode=_bit_decode,
    implied_fields=POOL,
    preprocess=lambda _spec: bit_preprocess(),
    is_decoded=NUMBERED.search,
)
BIT_PYTORCH = Format(
    "bit-pytorch",
    _bit_pytorch,
    decode=_bit_pytorch_decode,
    implied_fields=POOL,
    preprocess=lambda _spec: bit_preprocess(),
)
BIT_TRANSFORMERS = Format("transformers-bit", _transformers_bit, implied_fields=POOL)
