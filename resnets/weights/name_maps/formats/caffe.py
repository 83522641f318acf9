"""Formats of the authors' models: Caffe, Detectron's pickles of them, Keras Applications.

All have the stride in a bottleneck's first 1x1 convolution, and inputs in BGR, 0..255 minus a mean.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch

from resnets.config import ModelSpec, Preprocess
from resnets.weights.name_maps.formats.spec import Format, Rules, Tensors

# x - mean in 0..255, BGR: preprocessing of models that come from Caffe.
BYTE = 1 / 255  # one gray level
RESNET_MEAN = (103.0626, 115.9029, 123.1516)  # mean of the authors' ResNet_mean.binaryproto, BGR
DETECTRON_MEAN = (103.53, 116.28, 123.675)
KERAS_MEAN = (103.939, 116.779, 123.68)
KERAS_EPS = 1.001e-5

BRANCHES = ((1, "a"), (2, "b"), (3, "c"))  # our conv1..conv3 are Caffe's branch2a..branch2c
BLOCK = re.compile(r"(res|bn|scale)(\d)([a-z])(\d*)_branch(.+)")  # res4b22_branch2c/0


def caffe_preprocess(mean: tuple[float, ...]) -> Preprocess:
    """Return the authors' preprocessing: BGR in 0..255 minus `mean`, 224 px of a side of 256."""
    means = tuple(value * BYTE for value in mean)
    return Preprocess(mean=means, std=(BYTE,) * 3, channel_order="bgr")


def _is_released(spec: ModelSpec) -> bool:
    """Return whether the authors released such models: bottlenecks with projections (option B)."""
    return spec.is_resnet and spec.is_bottleneck and spec.shortcut == "B" and spec.groups == 1


def _leaves(ours: str, theirs: str, leaves: Mapping[str, str | None]) -> Rules:
    """Return a rule for each of our `leaves`, with its name in the other format."""
    return tuple(
        (f"{ours}.{our}", None if their is None else theirs + their)
        for our, their in leaves.items()
    )


def _norm_leaves(weight: str, bias: str, mean: str, var: str) -> dict[str, str | None]:
    leaves = {"weight": weight, "bias": bias, "running_mean": mean, "running_var": var}
    return leaves | {"num_batches_tracked": None}


def _branches(conv: Mapping[str, str | None], norm: Mapping[str, str | None], bn: str) -> Rules:
    """Return the rules of blocks of Caffe and Detectron (res2_0_branch2a); bn: pattern of norms."""
    rules: list[tuple[str, str | None]] = []
    for part, branch in (*((f"conv{k}", f"2{letter}") for k, letter in BRANCHES), ("", "1")):
        block = "stage#.#." + (part or "shortcut.conv")
        norm_block = block.replace("conv", "norm")
        rules += _leaves(block, f"res#+1_#_branch{branch}", conv)
        rules += _leaves(norm_block, bn.format(branch=branch), norm)
    return rules


def _detectron(spec: ModelSpec) -> Rules | None:
    """Return the rules of Detectron (Caffe2) and of MSRA's backbones in detectron2's model zoo."""
    if not _is_released(spec):
        return None
    conv = {"weight": "_w", "bias": "_b"}
    norm = _norm_leaves("_bn_s", "_bn_b", "_bn_rm", "_bn_riv")
    return (
        *_leaves("stem.conv", "conv1", conv),
        *_leaves("stem.norm", "res_conv1", norm),
        *_branches(conv, norm, "res#+1_#_branch{branch}"),
        *_leaves("head", "fc1000", conv),
    )


def _detectron_decode(tensors: Tensors) -> Tensors:
    """Undo Caffe2's conventions: norms folded into scale and shift, convolutions with zero biases.

    A scale and shift becomes a norm of mean 0 and variance 1 - eps.
    """
    decoded = {}
    for name, tensor in tensors.items():
        if name.endswith("_momentum"):
            continue
        if re.fullmatch(r"(conv1|res\d_\d+_branch\w+?)_b", name) and not name.endswith("_bn_b"):
            if tensor.any():
                decoded[name] = tensor
            continue
        decoded[re.sub(r"^pred_(?=[wb]$)", "fc1000_", name)] = tensor
        if name.endswith("_bn_s") and name.replace("_bn_s", "_bn_rm") not in tensors:
            decoded[name.replace("_bn_s", "_bn_rm")] = torch.zeros_like(tensor)
            decoded[name.replace("_bn_s", "_bn_riv")] = torch.full_like(tensor, 1 - 1e-5)
    return decoded


def _caffe(spec: ModelSpec) -> Rules | None:
    """Return the rules of the authors' models: "layer/number", a norm in two layers."""
    if not _is_released(spec):
        return None
    conv = {"weight": "/0", "bias": "/1"}
    bn = _norm_leaves("/weight", "/bias", "/0", "/1")
    return (
        *_leaves("stem.conv", "conv1", conv),
        *_leaves("stem.norm", "bn_conv1", bn),
        *_branches(conv, bn, "bn#+1_#_branch{branch}"),
        *_leaves("head", "fc1000", conv),
    )


def _caffe_decode(tensors: Tensors) -> Tensors:
    """Join the two layers of each norm; statistics are divided by the factor in blob 2."""

    def number_block(match: re.Match[str]) -> str:
        kind, stage, letter, digits, branch = match.groups()
        return f"{kind}{stage}_{digits or ord(letter) - ord('a')}_branch{branch}"

    joined = {}
    for name, tensor in tensors.items():
        layer, _, leaf = name.rpartition("/")
        factor = tensors.get(f"{layer}/2")
        if layer.startswith("bn") and factor is not None:
            if leaf == "2":
                continue
            tensor = tensor / factor if factor.any() else torch.zeros_like(tensor)
        elif layer.startswith("scale"):
            layer, leaf = f"bn{layer.removeprefix('scale')}", "weight" if leaf == "0" else "bias"
        joined[BLOCK.sub(number_block, f"{layer}/{leaf}")] = tensor
    return joined


def _keras(spec: ModelSpec) -> Rules | None:
    """Return the rules of keras.applications.ResNet50, 101 and 152 (not V2)."""
    if not _is_released(spec):
        return None
    conv = {"weight": "/kernel", "bias": "/bias"}
    norm = _norm_leaves("/gamma", "/beta", "/moving_mean", "/moving_variance")
    return (
        *_leaves("stem.conv", "conv1_conv", conv),
        *_leaves("stem.norm", "conv1_bn", norm),
        *_leaves("stage#.#.conv#", "conv#+1_block#+1_#_conv", conv),
        *_leaves("stage#.#.norm#", "conv#+1_block#+1_#_bn", norm),
        *_leaves("stage#.#.shortcut.conv", "conv#+1_block#+1_0_conv", conv),
        *_leaves("stage#.#.shortcut.norm", "conv#+1_block#+1_0_bn", norm),
        *_leaves("head", "predictions", conv),
    )


def _keras_decode(tensors: Tensors) -> Tensors:
    return {
        name: tensor.permute(3, 2, 0, 1) if tensor.dim() == 4 else _transposed(tensor)
        for name, tensor in tensors.items()
    }


def _transposed(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.t() if tensor.dim() == 2 else tensor


V1 = {"stride_in": "1x1"}
DETECTRON = Format(
    "detectron",
    _detectron,
    decode=_detectron_decode,
    implied_fields=V1,
    preprocess=lambda _spec: caffe_preprocess(DETECTRON_MEAN),
    is_decoded=re.compile(r"(conv1|res_?conv1|res\d_\d+_branch\w+?|pred|fc1000)_\w+").fullmatch,
    decodes_values=True,
)
CAFFE = Format(
    "caffe",
    _caffe,
    decode=_caffe_decode,
    implied_fields=V1 | {"stem_pool": "ceil"},
    preprocess=lambda _spec: caffe_preprocess(RESNET_MEAN),
    is_decoded=re.compile(r"(conv1|(bn|scale)_conv1|(res|bn|scale)\d\w+|fc1000)/\d").fullmatch,
    decodes_values=True,
)
KERAS = Format(
    "keras",
    _keras,
    decode=_keras_decode,
    implied_fields=V1 | {"norm_eps": KERAS_EPS},
    preprocess=lambda _spec: caffe_preprocess(KERAS_MEAN),
)
