"""Weights in layouts that the package reads but does not write: BiT, Caffe, Keras, timm."""

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from resnets.models import ImageClassifier
from resnets.weights.lazy_tensors import to_lazy
from resnets.weights.name_maps.find_tensors import select_tensors
from resnets.weights.name_maps.formats.caffe import _transposed
from resnets.weights.name_maps.formats.spec import Tensors
from resnets.weights.name_maps.maps import NameMap, list_name_maps

PLAIN_BLOCK = re.compile(r"(res|bn|scale)(\d)_(\d+)_branch(.+)")  # res4_22_branch2c/0
LETTERED = 6  # the longest stage of ResNet-50; longer models number the blocks of stages 3 and 4


def find_map(tensors: Mapping[str, Tensor], net: ImageClassifier) -> NameMap | None:
    """The map that fits the names of `tensors` best; None if none fits."""
    contents = {name: to_lazy(tensor) for name, tensor in tensors.items()}
    selection = select_tensors(contents, list_name_maps(net), "file")
    return None if selection is None else selection.map


def encoded(names: NameMap, tensors: Mapping[str, Tensor]) -> Tensors:
    """Our `tensors` under the names and in the layout of the map's format."""
    renamed = names.to_foreign(tensors)
    encode = ENCODERS.get(names.format.name)
    return renamed if encode is None else encode(renamed)


def _caffe_encode(tensors: Tensors) -> Tensors:
    """Split norms into two layers, with a moving-average factor of 1, and name blocks by letters.

    ResNet-50 names its blocks a, b, c, ...; longer models use a, b1, b2, ... in stages 3 and 4.
    """
    longest = max(int(found[3]) + 1 for name in tensors if (found := PLAIN_BLOCK.match(name)))
    numbered = ("3", "4") if longest > LETTERED else ()

    def letter(found: re.Match[str]) -> str:
        kind, stage, block, branch = found[1], found[2], int(found[3]), found[4]
        name = f"b{block}" if block and stage in numbered else chr(ord("a") + block)
        return f"{kind}{stage}{name}_branch{branch}"

    split = {}
    for name, tensor in tensors.items():
        layer, _, leaf = PLAIN_BLOCK.sub(letter, name).rpartition("/")
        if leaf in ("weight", "bias"):
            layer, leaf = f"scale{layer.removeprefix('bn')}", "0" if leaf == "weight" else "1"
        split[f"{layer}/{leaf}"] = tensor
        if layer.startswith("bn"):
            split[f"{layer}/2"] = torch.ones(1)
    return split


def _keras_encode(tensors: Tensors) -> Tensors:
    """Kernels become (k, k, in, out), matrices (in, out)."""
    return {
        name: tensor.permute(2, 3, 1, 0) if tensor.dim() == 4 else _transposed(tensor)
        for name, tensor in tensors.items()
    }


def _bit_encode(tensors: Tensors) -> Tensors:
    """As Keras's; the head is a 1x1 convolution."""
    head = "resnet/head/conv2d/kernel"
    return _keras_encode(tensors | {head: tensors[head][:, :, None, None]})


def _timm_encode(tensors: Tensors) -> Tensors:
    """VGG's first two linear layers and resnetv2's head are convolutions there, of 7x7 and 1x1."""
    head = (("head.fc.weight", 1),) if "norm.weight" in tensors else ()
    for name, size in (("pre_logits.fc1.weight", 7), ("pre_logits.fc2.weight", 1), *head):
        if name in tensors:
            tensors[name] = tensors[name].unflatten(1, (-1, size, size))
    return tensors


ENCODERS = {
    "bit": _bit_encode,
    "caffe": _caffe_encode,
    "keras": _keras_encode,
    "timm": _timm_encode,
}
