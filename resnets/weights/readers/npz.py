"""Reader of NumPy's archives (.npz), which BiT's weights are published in; nothing is unpickled."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from resnets.utils.files.numpy import SUFFIX, read_member_header
from resnets.weights.lazy_tensors import LazyTensor, reading_weights

MAX_ARRAYS = 100_000  # ResNet-152 has some 500


def is_npz(path: Path) -> bool:
    """Return whether a zip archive contains arrays of NumPy and nothing else."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
        return False
    return bool(names) and all(name.endswith(SUFFIX) for name in names)


def read_npz(path: Path) -> dict[str, LazyTensor]:
    """Return the arrays of floating-point numbers by name; counters and texts are excluded.

    Raises WeightsError for a damaged file, and one with pickled objects.
    """
    tensors = {}
    with reading_weights(path), zipfile.ZipFile(path) as archive:
        members = archive.infolist()
        if len(members) > MAX_ARRAYS:
            raise ValueError(f"it has more than {MAX_ARRAYS:,} arrays")
        for member in members:
            shape, dtype = read_member_header(archive, member)
            if dtype.kind == "f" and dtype.itemsize <= 8:
                name = member.filename.removesuffix(SUFFIX)
                tensors[name] = LazyTensor(shape, _make_reader(path, member.filename))
    return tensors


def _make_reader(path: Path, member: str) -> Callable[[], Tensor]:
    def read() -> Tensor:
        with (
            reading_weights(path),
            zipfile.ZipFile(path) as archive,
            archive.open(member) as stream,
        ):
            values = np.lib.format.read_array(stream, allow_pickle=False)
        return torch.from_numpy(np.array(values, values.dtype.newbyteorder("=")))

    return read
