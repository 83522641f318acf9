"""The authors' Caffe models for tests: written in their format, run as the prototxt says."""

import struct
from collections.abc import Iterable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from resnets.config import ModelSpec

Blobs = dict[str, list[np.ndarray]]  # by layer, in the order of the file


# The protobuf wire format, written; the package only reads it.


def varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def number(field: int, value: int) -> bytes:
    return varint(field << 3) + varint(value)


def chunk(field: int, content: bytes) -> bytes:
    return varint(field << 3 | 2) + varint(len(content)) + content


def blob(array: np.ndarray, old: bool) -> bytes:
    """BlobProto: data packed and a shape; blobs of old have four sizes and values one by one."""
    if not old:
        shape = chunk(7, chunk(1, b"".join(map(varint, array.shape))))
        return shape + chunk(5, array.astype("<f4").tobytes())
    sizes = (1,) * (4 - array.ndim) + array.shape
    head = b"".join(number(field, size) for field, size in enumerate(sizes, start=1))
    return head + b"".join(b"\x2d" + struct.pack("<f", value) for value in array.ravel())


def caffemodel(blobs: Blobs, old: bool = False) -> bytes:
    """NetParameter with a name, layers with and without blobs, and fields no reader needs."""
    out = chunk(1, b"ResNet")
    for name, arrays in {"data": [], **blobs, "prob": []}.items():
        values = [blob(array, old) for array in arrays]
        if old:  # V1LayerParameter: an enum for the type, rates as fixed32
            parts = [chunk(4, name.encode()), number(5, 4), *(chunk(6, each) for each in values)]
            out += chunk(2, b"".join([*parts, b"\x3d" + struct.pack("<f", 1.0)]))
        else:
            parts = [chunk(1, name.encode()), chunk(2, b"Type"), chunk(3, b"bottom")]
            parts += [number(10, 1), *(chunk(7, each) for each in values)]
            out += chunk(100, b"".join(parts))
    return out


# The net as their prototxt describes it.


def letters(stage: int, depth: int, spec: ModelSpec) -> Iterable[str]:
    """Names of a stage's blocks: a, b, c in ResNet-50, a, b1, b2 in stages 3 and 4 of others."""
    if spec.depths != (3, 4, 6, 3) and stage in (3, 4):
        return ["a", *(f"b{block}" for block in range(1, depth))]
    return "abcdef"[:depth]


def random_blobs(spec: ModelSpec, seed: int, bias: bool, factor: float) -> Blobs:
    """All layers; statistics are stored times the moving-average factor, as Caffe keeps them."""
    draw = np.random.default_rng(seed)
    blobs: Blobs = {}

    def conv(name: str, norm: str, c_out: int, c_in: int, kernel: int) -> None:
        bound = (3 / (c_in * kernel**2)) ** 0.5
        blobs[name] = [draw.uniform(-bound, bound, (c_out, c_in, kernel, kernel))]
        mean, var = draw.uniform(-0.5, 1, c_out), draw.uniform(0.5, 1, c_out)
        blobs[f"bn{norm}"] = [mean * factor, var * factor, np.array([factor])]
        blobs[f"scale{norm}"] = [draw.uniform(0.5, 1, c_out), draw.uniform(-0.5, 1, c_out)]

    conv("conv1", "_conv1", spec.stem_width, 3, 7)
    if bias:
        blobs["conv1"].append(draw.uniform(-1, 1, spec.stem_width))
    c_in = spec.stem_width
    for stage, (depth, width) in enumerate(zip(spec.depths, spec.widths, strict=True), start=2):
        for block, letter in enumerate(letters(stage, depth, spec)):
            where = f"{stage}{letter}_branch"
            if block == 0:
                conv(f"res{where}1", f"{where}1", 4 * width, c_in, 1)
            conv(f"res{where}2a", f"{where}2a", width, c_in, 1)
            conv(f"res{where}2b", f"{where}2b", width, width, 3)
            conv(f"res{where}2c", f"{where}2c", 4 * width, width, 1)
            c_in = 4 * width
    weight = draw.normal(0, c_in**-0.5, (spec.num_classes, c_in))
    blobs["fc1000"] = [weight, draw.normal(0, 1, spec.num_classes)]
    return {name: [each.astype(np.float32) for each in arrays] for name, arrays in blobs.items()}


def pool(x: Tensor) -> Tensor:
    """Max of 3x3 windows at stride 2, without padding, the size rounded up, window by window."""
    size = -(-(x.shape[-1] - 3) // 2) + 1
    rows = [
        torch.stack(
            [x[:, :, 2 * i : 2 * i + 3, 2 * j : 2 * j + 3].amax((2, 3)) for j in range(size)], -1
        )
        for i in range(size)
    ]
    return torch.stack(rows, -2)


def run(blobs: Blobs, spec: ModelSpec, x: Tensor) -> Tensor:
    """The logits (input of `prob`) of the deployed net."""
    held = {name: [torch.from_numpy(each) for each in arrays] for name, arrays in blobs.items()}

    def conv(x: Tensor, name: str, norm: str, stride: int = 1) -> Tensor:
        weight, *bias = held[name]
        x = F.conv2d(x, weight, bias[0] if bias else None, stride, weight.shape[-1] // 2)
        mean, var, factor = held[f"bn{norm}"]
        inverse = 0 if factor == 0 else 1 / factor
        x = (x - (mean * inverse)[:, None, None]) / (var * inverse + 1e-5).sqrt()[:, None, None]
        gamma, beta = held[f"scale{norm}"]
        return x * gamma[:, None, None] + beta[:, None, None]

    x = pool(F.relu(conv(x, "conv1", "_conv1", 2)))
    for stage, depth in enumerate(spec.depths, start=2):
        for block, letter in enumerate(letters(stage, depth, spec)):
            where, stride = f"{stage}{letter}_branch", 2 if block == 0 and stage > 2 else 1
            out = F.relu(conv(x, f"res{where}2a", f"{where}2a", stride))
            out = F.relu(conv(out, f"res{where}2b", f"{where}2b"))
            out = conv(out, f"res{where}2c", f"{where}2c")
            x = conv(x, f"res{where}1", f"{where}1", stride) if block == 0 else x
            x = F.relu(out + x)
    weight, bias = held["fc1000"]
    return x.mean((2, 3)) @ weight.T + bias
