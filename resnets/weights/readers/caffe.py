"""Caffe's .caffemodel and .binaryproto: a minimal reader of the protobuf wire format.

Only the fields that hold weights are read (numbers from BVLC's caffe.proto); all others are passed
over, which the format allows. https://protobuf.dev/programming-guides/encoding
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from resnets.data.transforms.preprocess import Preprocessor
from resnets.weights.errors import WeightsError
from resnets.weights.name_maps.formats_caffe import BYTE, RESNET_MEAN, caffe_preprocess

log = logging.getLogger("resnets")

MOST_LAYERS, MOST_DIMENSIONS = 20_000, 8  # ResNet-152 has some 500 layers
VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5  # wire types
NET_LAYERS = {100: (1, 7), 2: (4, 6)}  # NetParameter.layer, .layers (V1): fields of name and blobs
BLOB_DIMS, BLOB_SHAPE, SHAPE_DIM = (1, 2, 3, 4), 7, 1  # num, channels, height, width; shape.dim
BLOB_VALUES = {5: "<f4", 8: "<f8"}  # data, double_data


def read_caffemodel(path: Path) -> dict[str, Tensor]:
    """Blobs of every layer that has some, as "layer/number"; WeightsError for a damaged file."""
    found: dict[str, Tensor] = {}
    layers = 0
    with _opened(path) as data:
        for number, layer in _fields(data):
            if number in NET_LAYERS and isinstance(layer, memoryview):
                name, blobs = _layer(layer, *NET_LAYERS[number])
                layers += 1
                if layers > MOST_LAYERS:
                    raise ValueError(f"more than {MOST_LAYERS:,} layers")
                found |= {f"{name}/{index}": blob for index, blob in enumerate(blobs)}
    if not found:
        raise WeightsError(f"{path}: no layer with weights in it; not a .caffemodel")
    return found


def read_mean(path: Path) -> Tensor:
    """The mean image of a .binaryproto, (C, H, W) float32 in 0..1 in the file's channel order."""
    with _opened(path) as data:
        blob = _blob(data)
    if blob.dim() != 3:
        raise WeightsError(f"{path}: not a mean image but an array of {tuple(blob.shape)}")
    return blob * BYTE


def find_preprocess(model: Path) -> Preprocessor:
    """The authors' preprocessing, with the mean image in the folder of `model`.

    Unless there is exactly one .binaryproto, their mean pixel is used. A larger mean image
    is cropped to its center, as Caffe crops it with the images.
    """
    known = caffe_preprocess(RESNET_MEAN)
    files = sorted(model.parent.glob("*.binaryproto"))
    if len(files) != 1:
        log.info("%s: no mean image (one .binaryproto) beside it; the authors' mean pixel", model)
        return Preprocessor(known)
    image = read_mean(files[0])
    height, width = image.shape[1:]
    if image.shape[0] != 3 or min(height, width) < known.size:
        raise WeightsError(f"{files[0]}: {tuple(image.shape)} does not cover 3 x 224 x 224")
    log.info("%s: mean image from %s", model, files[0].name)
    top, left = (height - known.size) // 2, (width - known.size) // 2
    image = image[:, top : top + known.size, left : left + known.size].contiguous()
    means = tuple(image.mean((1, 2)).tolist())
    return Preprocessor(replace(known, mean=means, mean_image=True), image)


@contextmanager
def _opened(path: Path) -> Iterator[memoryview]:
    """The bytes of `path`; what is raised over damaged ones becomes a WeightsError naming it."""
    try:
        yield memoryview(path.read_bytes())
    except IndexError:
        raise WeightsError(f"{path}: cut short, or no Caffe file") from None
    except (ValueError, OverflowError) as error:
        raise WeightsError(f"{path}: damaged, or no Caffe file ({error})") from None


def _fields(data: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """Numbers and values of a message's fields; a value is an integer or the field's bytes."""
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        wire = key & 7
        if wire == VARINT:
            value, at = _varint(data, at)
            yield key >> 3, value
            continue
        if wire == BYTES:
            size, at = _varint(data, at)
        elif wire in (FIXED64, FIXED32):
            size = 8 if wire == FIXED64 else 4
        else:
            raise ValueError(f"wire type {wire} at byte {at}")
        if at + size > len(data):
            raise ValueError(f"cut short at byte {len(data)}")
        yield key >> 3, data[at : at + size]
        at += size


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    """The integer at byte `at` (seven bits a byte, lowest first), and the byte after it."""
    value = 0
    for shift in range(0, 70, 7):
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise ValueError(f"an integer without end at byte {at}")


def _layer(data: memoryview, name_field: int, blobs_field: int) -> tuple[str, list[Tensor]]:
    name, blobs = "", []
    for number, value in _fields(data):
        if isinstance(value, memoryview) and number == name_field:
            name = bytes(value).decode()
        elif isinstance(value, memoryview) and number == blobs_field:
            blobs.append(_blob(value))
    return name, blobs


def _blob(data: memoryview) -> Tensor:
    """A blob's values in its shape. Blobs of old have four sizes, the first of them 1 or not."""
    sizes = dict.fromkeys(BLOB_DIMS, 1)
    shape: list[int] | None = None
    values = []
    for number, value in _fields(data):
        if number in sizes and isinstance(value, int):
            sizes[number] = value
        elif number == BLOB_SHAPE and isinstance(value, memoryview):
            shape = list(_dims(value))
        elif number in BLOB_VALUES and isinstance(value, memoryview):
            with np.errstate(all="ignore"):  # float64 values that float32 cannot hold
                values.append(np.frombuffer(value, BLOB_VALUES[number]).astype(np.float32))
    if shape is None:
        shape = list(sizes.values())
        while len(shape) > 1 and shape[0] == 1:
            shape.pop(0)
    array = np.concatenate(values) if values else np.empty(0, np.float32)
    if len(shape) > MOST_DIMENSIONS or array.size != math.prod(shape):
        raise ValueError(f"{array.size} values for a blob of {tuple(shape)}")
    return torch.from_numpy(array).view(shape)


def _dims(data: memoryview) -> Iterator[int]:
    """Sizes in a BlobShape, packed or one by one."""
    for number, value in _fields(data):
        if number == SHAPE_DIM and isinstance(value, int):
            yield value
        elif number == SHAPE_DIM and isinstance(value, memoryview):
            at = 0
            while at < len(value):
                size, at = _varint(value, at)
                yield size
