"""Reader of torch's files (.pth, .pt, .ckpt, .bin and others), without `torch.load`.

`torch.load` accepts more than weights, and prints warnings. Here a file is a pickle of containers
(`resnets.data.files.unpickle`) whose tensors are read on demand, from the zip archive that torch
writes since 1.6 or from the bytes after the pickle in older files. Pickles of arrays (detectron2's
model zoo) are read by the same function.
"""

from __future__ import annotations

import functools
import math
import struct
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import Tensor

from resnets.data.files.pickle_machine import Known, PickleError, Unbuilt, hashable
from resnets.data.files.unpickle import Unpickler
from resnets.data.files.unpickle_numpy import ARRAYS
from resnets.weights.errors import WeightsError
from resnets.weights.lazy_tensors import LazyTensor
from resnets.weights.readers.unsupported_file import describe_archive

MAGIC = 0x1950A86A20F9469CFC6C  # starts files from before torch 1.6
MAX_PICKLE_SIZE = 1 << 26  # bytes of the pickle in an archive
MAX_DIMENSIONS = 8
BITS = {"conj": torch.conj_physical, "neg": torch.neg}  # of a tensor's metadata
MAX_SPREAD = 4  # span of a tensor in its storage over its number of elements

DTYPES = {
    "Double": torch.float64,
    "Float": torch.float32,
    "Half": torch.float16,
    "BFloat16": torch.bfloat16,
    "Long": torch.int64,
    "Int": torch.int32,
    "Short": torch.int16,
    "Char": torch.int8,
    "Byte": torch.uint8,
    "Bool": torch.bool,
    "ComplexFloat": torch.complex64,
    "ComplexDouble": torch.complex128,
}


@dataclass(frozen=True, eq=False)
class Storage:
    """Contiguous values in a file; `read(start, count)` returns bytes of them.

    dtype: None if only the tensors specify it. size: in bytes.
    """

    dtype: torch.dtype | None
    size: int
    read: Callable[[int, int], bytes]


def read_pickled(path: Path) -> Any:
    """Return what `torch.save` or `pickle.dump` wrote to a file; tensors are `LazyTensor`.

    Raises WeightsError if the file has anything except containers, numbers, text, tensors, arrays.
    """
    try:
        with open(path, "rb") as file:
            start = file.read(4)
        if start == b"PK\x03\x04":
            if not zipfile.is_zipfile(path):
                raise PickleError(
                    "truncated: an archive without its end; download or copy it again"
                )
            return _read_archive(path)
        return _read_legacy(path)
    except PickleError as error:
        if error.unknown is not None:
            _raise_unknown_type(path, error.unknown)
        raise WeightsError(f"{path}: cannot be read as weights: {error}") from None


def _raise_unknown_type(path: Path, unknown: str) -> NoReturn:
    raise WeightsError(
        f"{path}: contains a pickled {unknown}, which could run any code; save only tensors where "
        "the file was written: torch.save(model.state_dict(), 'weights.pth')"
    )


def _read_archive(path: Path) -> Any:
    archive = zipfile.ZipFile(path)  # stays open, since tensors are read from it later
    names = {info.filename: info for info in archive.infolist()}
    if min((info.header_offset for info in names.values()), default=0):
        raise WeightsError(f"{path}: another file precedes the torch archive; not supported")
    pickles = [name for name in names if name.count("/") == 1 and name.endswith("/data.pkl")]
    if len(pickles) != 1:
        raise WeightsError(f"{path}: cannot be read as weights: it is {describe_archive(archive)}")
    root = pickles[0].removesuffix("data.pkl")
    if f"{root}constants.pkl" in names or any(name.startswith(f"{root}code/") for name in names):
        raise WeightsError(
            f"{path}: a TorchScript program; save its tensors with torch: "
            "torch.save(torch.jit.load(FILE).state_dict(), 'weights.pth')"
        )
    if f"{root}byteorder" in names and archive.read(f"{root}byteorder")[:8] == b"big":
        raise WeightsError(f"{path}: was saved on a big-endian machine; not read")
    if names[pickles[0]].file_size > MAX_PICKLE_SIZE:
        raise WeightsError(
            f"{path}: {pickles[0]} is longer than that of any weights; does it have NumPy arrays "
            "instead of tensors? Save tensors: torch.save(model.state_dict(), 'weights.pth')"
        )

    def read_member(name: str, start: int, count: int) -> bytes:
        with archive.open(names[name]) as file:
            if start:
                file.seek(start)
            return file.read(count)

    def persistent(storage_id: Any) -> Storage:
        kind, key, size = _parse_storage_id(storage_id, 5)
        name = f"{root}data/{key}"
        if name not in names:
            raise PickleError(f"the data of tensor {key} are missing")
        return _make_storage(
            kind, size, names[name].file_size, functools.partial(read_member, name)
        )

    data = archive.read(pickles[0])
    return Unpickler(data, VOCABULARY, persistent).load()


def _read_legacy(path: Path) -> Any:
    """Read a file from before torch 1.6: five pickles, then the storages; or a single pickle."""
    data = path.read_bytes()
    sizes: dict[str, int] = {}
    starts: dict[str, int] = {}

    def persistent(storage_id: Any) -> Storage:
        kind, key, size = _parse_storage_id(storage_id, 6)
        view = storage_id[5]
        first = 0
        if view is not None:
            if type(view) is not tuple or len(view) != 3 or not _are_sizes(view[1:]):
                raise PickleError("damaged: a view of a storage")
            first, size = view[1], view[2]
        width = 1 if kind is None else kind.itemsize
        sizes.setdefault(key, width)

        def read(start: int, count: int) -> bytes:
            at = starts[key] + first * width + start
            return data[at : at + count]

        return _make_storage(kind, size, size * width, read)

    reader = Unpickler(data, VOCABULARY, persistent)
    value = reader.load()
    if type(value) is not int or value != MAGIC:
        return value
    _version, system, value, keys = (reader.load() for _ in range(4))
    if isinstance(system, dict) and system.get("little_endian") is False:
        raise PickleError("was saved on a big-endian machine")
    if type(keys) is not list:
        raise PickleError("truncated or damaged")
    at = reader.position
    for key in keys:
        if at + 8 > len(data) or key not in sizes:
            raise PickleError("truncated or damaged")
        (count,) = struct.unpack_from("<q", data, at)
        starts[key] = at + 8
        at += 8 + count * sizes[key]
        if count < 0 or at > len(data):
            raise PickleError("truncated or damaged")
    return value


def _parse_storage_id(storage_id: Any, length: int) -> tuple[torch.dtype | None, str, int]:
    """Return dtype, key and number of elements in the persistent id of a storage."""
    if type(storage_id) is not tuple or len(storage_id) != length or storage_id[0] != "storage":
        raise PickleError("refers to something that is not a storage")
    _, kind, key, _location, size = storage_id[:5]
    if type(kind) is not Known or type(key) is not str or type(size) is not int or size < 0:
        raise PickleError("damaged: a storage without type or size")
    name = kind.name.removeprefix("torch.").removesuffix("Storage")
    if name != "Untyped" and name not in DTYPES:
        raise PickleError(f"a storage of {kind.name}", kind.name)
    return DTYPES.get(name), key, size


def _make_storage(
    kind: torch.dtype | None, size: int, available: int, read: Callable[[int, int], bytes]
) -> Storage:
    size *= 1 if kind is None else kind.itemsize
    if size > available:
        raise PickleError(f"truncated: {available:,} bytes for a tensor of {size:,}")
    return Storage(kind, size, read)


def _are_sizes(numbers: Any) -> bool:
    return all(type(each) is int and each >= 0 for each in numbers)


def _rebuild_tensor(
    storage: Any,
    first: Any,
    sizes: Any,
    strides: Any,
    _grad: Any = False,
    _hooks: Any = None,
    metadata: Any = None,
    *,
    dtype: Any = None,
) -> LazyTensor:
    """Return a tensor over a part of a storage, which must be within it.

    metadata: torch's bits of tensors whose values must be negated or conjugated after reading, such
    as those of `z.conj().imag`.
    """
    if type(metadata or {}) is not dict or any(key not in BITS for key in metadata or {}):
        raise PickleError(f"a tensor with unknown metadata: {str(metadata)[:60]}")
    bits = [apply for key, apply in BITS.items() if (metadata or {}).get(key)]
    dtype = dtype or (storage.dtype if isinstance(storage, Storage) else None)
    is_valid = isinstance(storage, Storage) and isinstance(dtype, torch.dtype)
    is_valid = is_valid and type(sizes) is tuple and type(strides) is tuple and type(first) is int
    if not is_valid or len(sizes) != len(strides) or len(sizes) > MAX_DIMENSIONS:
        raise PickleError("damaged: a tensor without shape or storage")
    if not _are_sizes((first, *sizes, *strides)):
        raise PickleError(f"damaged: a tensor of shape {sizes}, strides {strides}")
    pairs = list(zip(sizes, strides, strict=True))
    span = 0 if 0 in sizes else 1 + sum((size - 1) * stride for size, stride in pairs)
    width = dtype.itemsize
    if (first + span) * width > storage.size:
        raise PickleError(f"damaged: a tensor of shape {sizes} beyond the end of its storage")

    def read() -> Tensor:
        count = math.prod(sizes)
        if span > MAX_SPREAD * count + 1024:
            raise PickleError("a tensor spread over a larger one")
        if not span:
            return torch.empty(sizes, dtype=dtype)
        raw = storage.read(first * width, span * width)
        if len(raw) != span * width:
            raise PickleError("truncated or damaged")
        flat = torch.frombuffer(bytearray(raw), dtype=dtype)
        tensor = flat.as_strided(sizes, strides).contiguous()
        for apply in bits:
            tensor = apply(tensor)
        return tensor

    return LazyTensor(sizes, read)


def _rebuild_tensor_of_dtype(
    storage: Any,
    first: Any,
    sizes: Any,
    strides: Any,
    _grad: Any,
    _hooks: Any,
    kind: Any,
    metadata: Any = None,
) -> LazyTensor:
    """Return a tensor of a dtype without a storage class of its own."""
    dtype = getattr(torch, kind.name.removeprefix("torch."), None) if type(kind) is Known else None
    if not isinstance(dtype, torch.dtype):
        raise PickleError("damaged: a tensor without dtype")
    return _rebuild_tensor(storage, first, sizes, strides, metadata=metadata, dtype=dtype)


def _rebuild_parameter(value: Any, *_rest: Any) -> LazyTensor:
    """Return the tensor of a parameter."""
    if type(value) is not LazyTensor:
        raise PickleError("damaged: a parameter without tensor")
    return value


def _rebuild_from_type(function: Any, kind: Any, arguments: Any, _state: Any) -> LazyTensor:
    """Return a tensor with attributes, without these."""
    if kind is not VOCABULARY["torch.Tensor"] and kind is not _PARAMETER:
        raise PickleError("a tensor of another class", getattr(kind, "name", None))
    if type(function) is not Known or type(arguments) is not tuple or not function.function:
        raise PickleError("damaged: a tensor without a constructor")
    return _rebuild_parameter(function.function(*arguments))


def _make_dict(*arguments: Any) -> dict[Any, Any]:
    """Return the dict of Counter(dict) or defaultdict(kind[, dict])."""
    return next((dict(each) for each in arguments if type(each) is dict), {})


def _make_set(items: Any = ()) -> set[Any]:
    if type(items) not in (list, tuple):
        raise PickleError("damaged: a set of something other than a list")
    return set(map(hashable, items))


def _make_namespace(*_arguments: Any) -> Unbuilt:
    """Return an object whose attributes, which follow, become a dict."""

    def build(state: Any) -> dict[Any, Any]:
        if type(state) is tuple and len(state) == 2 and state[1] is None:
            state = state[0]
        if type(state) is not dict:
            raise PickleError("damaged: attributes that are not a dict")
        return dict(state)

    return Unbuilt(build, {})


def _make_size(*arguments: Any) -> tuple[int, ...]:
    sizes = arguments[0] if arguments else ()
    if type(sizes) not in (list, tuple) or len(sizes) > MAX_DIMENSIONS or not _are_sizes(sizes):
        raise PickleError("damaged: a size")
    return tuple(sizes)


def _make_device(*arguments: Any) -> str:
    return ":".join(str(each)[:16] for each in arguments[:2])


_PARAMETER = Known("torch.nn.Parameter", _rebuild_parameter)
VOCABULARY: dict[str, Known] = {
    **ARRAYS,
    "collections.Counter": Known("Counter", _make_dict),
    "collections.defaultdict": Known("defaultdict", _make_dict),
    **{
        f"{home}.{kind}": Known(kind)
        for home in ("builtins", "__builtin__")
        for kind in ("dict", "list", "int", "float", "str", "set", "object")
    },
    "builtins.set": Known("set", _make_set),
    "__builtin__.set": Known("set", _make_set),
    "builtins.complex": Known("complex", lambda real=0.0, imag=0.0: (float(real), float(imag))),
    "builtins.bytearray": Known("bytearray", lambda *given: given[0] if given else b""),
    # Options that training scripts save with the weights.
    "argparse.Namespace": Known("Namespace", _make_namespace),
    "types.SimpleNamespace": Known("SimpleNamespace", _make_namespace),
    "lightning_fabric.utilities.data.AttributeDict": Known("AttributeDict", _make_dict),
    "lightning.fabric.utilities.data.AttributeDict": Known("AttributeDict", _make_dict),
    "pytorch_lightning.utilities.parsing.AttributeDict": Known("AttributeDict", _make_dict),
    "torch._utils._rebuild_tensor": Known("tensor", _rebuild_tensor),
    "torch._utils._rebuild_tensor_v2": Known("tensor", _rebuild_tensor),
    "torch._utils._rebuild_tensor_v3": Known("tensor", _rebuild_tensor_of_dtype),
    "torch._utils._rebuild_parameter": Known("parameter", _rebuild_parameter),
    "torch._utils._rebuild_parameter_with_state": Known("parameter", _rebuild_parameter),
    "torch._tensor._rebuild_from_type_v2": Known("tensor", _rebuild_from_type),
    "torch.Tensor": Known("torch.Tensor"),
    "torch.nn.parameter.Parameter": _PARAMETER,
    "torch.Size": Known("torch.Size", _make_size),
    "torch.device": Known("torch.device", _make_device),
    **{f"torch.{kind}Storage": Known(f"torch.{kind}Storage") for kind in (*DTYPES, "Untyped")},
    "torch.storage.UntypedStorage": Known("torch.UntypedStorage"),
    **{
        f"torch.{name}": Known(f"torch.{name}")
        for name in dir(torch)
        if isinstance(getattr(torch, name), torch.dtype)
    },
}
