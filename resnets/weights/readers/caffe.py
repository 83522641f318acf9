"""Reader of Caffe's .caffemodel and .binaryproto: a minimal reader of the protobuf wire format.

Only the fields with weights are read (numbers from BVLC's caffe.proto); the format lets readers
skip all others. https://protobuf.dev/programming-guides/encoding
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
from resnets.weights.name_maps.formats.caffe import BYTE, RESNET_MEAN, caffe_preprocess

log = logging.getLogger("resnets")

MAX_LAYERS, MAX_DIMENSIONS = 20_000, 8  # ResNet-152 has some 500 layers
VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5  # wire types
NET_LAYERS = {100: (1, 7), 2: (4, 6)}  # NetParameter.layer, .layers (V1): fields of name and blobs
BLOB_DIMS, BLOB_SHAPE, SHAPE_DIM = (1, 2, 3, 4), 7, 1  # num, channels, height, width; shape.dim
BLOB_VALUES = {5: "<f4", 8: "<f8"}  # data, double_data


def read_caffemodel(path: Path) -> dict[str, Tensor]:
    """Return the blobs of all layers as "layer/number"; WeightsError for a damaged file."""
    tensors: dict[str, Tensor] = {}
    layers = 0
    with _open(path) as data:
        for number, layer in _iter_fields(data):
            if number in NET_LAYERS and isinstance(layer, memoryview):
                name, blobs = _parse_layer(layer, *NET_LAYERS[number])
                layers += 1
                if layers > MAX_LAYERS:
                    raise ValueError(f"more than {MAX_LAYERS:,} layers")
                tensors |= {f"{name}/{index}": blob for index, blob in enumerate(blobs)}
    if not tensors:
        raise WeightsError(f"{path}: has no layer with weights; not a .caffemodel")
    return tensors


def read_mean(path: Path) -> Tensor:
    """Return the mean image of a .binaryproto: (C, H, W) float32 in 0..1, channels as stored."""
    with _open(path) as data:
        blob = _parse_blob(data)
    if blob.dim() != 3:
        raise WeightsError(f"{path}: not a mean image but an array of {tuple(blob.shape)}")
    return blob * BYTE


def find_preprocess(model: Path) -> Preprocessor:
    """Return the authors' preprocessing, with the mean image in the folder of `model`.

    Unless there is exactly one .binaryproto, the authors' mean pixel is used. A larger mean image
    is cropped to its center, as Caffe crops it with the images.
    """
    preprocess = caffe_preprocess(RESNET_MEAN)
    files = sorted(model.parent.glob("*.binaryproto"))
    if len(files) != 1:
        log.info(
            "%s: no mean image (one .binaryproto) in its folder; using the authors' mean pixel",
            model,
        )
        return Preprocessor(preprocess)
    image = read_mean(files[0])
    height, width = image.shape[1:]
    if image.shape[0] != 3 or min(height, width) < preprocess.size:
        raise WeightsError(f"{files[0]}: {tuple(image.shape)} does not cover 3 x 224 x 224")
    log.info("%s: mean image from %s", model, files[0].name)
    size = preprocess.size
    top, left = (height - size) // 2, (width - size) // 2
    image = image[:, top : top + size, left : left + size].contiguous()
    means = tuple(image.mean((1, 2)).tolist())
    return Preprocessor(replace(preprocess, mean=means, mean_image=True), image)


@contextmanager
def _open(path: Path) -> Iterator[memoryview]:
    """Context with the bytes of `path`; errors of damaged files become a WeightsError."""
    try:
        yield memoryview(path.read_bytes())
    except IndexError:
        raise WeightsError(f"{path}: truncated, or not a Caffe file") from None
    except (ValueError, OverflowError) as error:
        raise WeightsError(f"{path}: damaged, or not a Caffe file ({error})") from None


def _iter_fields(data: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """Yield number and value of a message's fields; a value is an integer or the field's bytes."""
    at = 0
    while at < len(data):
        key, at = _read_varint(data, at)
        wire = key & 7
        if wire == VARINT:
            value, at = _read_varint(data, at)
            yield key >> 3, value
            continue
        if wire == BYTES:
            size, at = _read_varint(data, at)
        elif wire in (FIXED64, FIXED32):
            size = 8 if wire == FIXED64 else 4
        else:
            raise ValueError(f"wire type {wire} at byte {at}")
        if at + size > len(data):
            raise ValueError(f"truncated at byte {len(data)}")
        yield key >> 3, data[at : at + size]
        at += size


def _read_varint(data: memoryview, at: int) -> tuple[int, int]:
    """Return the integer at byte `at` (seven bits a byte, lowest first), and where it ends."""
    value = 0
    for shift in range(0, 70, 7):
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise ValueError(f"an integer without end at byte {at}")


def _parse_layer(data: memoryview, name_field: int, blobs_field: int) -> tuple[str, list[Tensor]]:
    name, blobs = "", []
    for number, value in _iter_fields(data):
        if isinstance(value, memoryview) and number == name_field:
            name = bytes(value).decode()
        elif isinstance(value, memoryview) and number == blobs_field:
            blobs.append(_parse_blob(value))
    return name, blobs


def _parse_blob(data: memoryview) -> Tensor:
    """Return the values of a blob in its shape; leading ones of old four-sized blobs are cut."""
    sizes = dict.fromkeys(BLOB_DIMS, 1)
    shape: list[int] | None = None
    values = []
    for number, value in _iter_fields(data):
        if number in sizes and isinstance(value, int):
            sizes[number] = value
        elif number == BLOB_SHAPE and isinstance(value, memoryview):
            shape = list(_iter_dims(value))
        elif number in BLOB_VALUES and isinstance(value, memoryview):
            with np.errstate(all="ignore"):  # float64 values that float32 cannot represent
                values.append(np.frombuffer(value, BLOB_VALUES[number]).astype(np.float32))
    if shape is None:
        shape = list(sizes.values())
        while len(shape) > 1 and shape[0] == 1:
            shape.pop(0)
    array = np.concatenate(values) if values else np.empty(0, np.float32)
    if len(shape) > MAX_DIMENSIONS or array.size != math.prod(shape):
        raise ValueError(f"{array.size} values for a blob of {tuple(shape)}")
    return torch.from_numpy(array).view(shape)


def _iter_dims(data: memoryview) -> Iterator[int]:
    """Yield the sizes in a BlobShape, packed or one by one."""
    for number, value in _iter_fields(data):
        if number == SHAPE_DIM and isinstance(value, int):
            yield value
        elif number == SHAPE_DIM and isinstance(value, memoryview):
            at = 0
            while at < len(value):
                size, at = _read_varint(value, at)
                yield size
