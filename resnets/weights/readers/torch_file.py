"""torch's files (.pth, .pt, .ckpt, .bin and others), without torch's own reader.

`torch.load` knows more than weights, and prints warnings and colors where it refuses. Here a file
is a pickle of containers (`resnets.data.files.unpickle`) whose tensors are read when they are
chosen, from the zip archive that torch writes since 1.6 or from what followed the pickle before.
Pickles of arrays (detectron2's model zoo) are read by the same function.
"""

from __future__ import annotations

import functools
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
from resnets.weights.readers.unsupported_file import kind_of_archive

MAGIC = 0x1950A86A20F9469CFC6C  # starts files from before torch 1.6
LONGEST_PICKLE = 1 << 26  # bytes of the containers in an archive
MOST_DIMENSIONS = 8
BITS = {"conj": torch.conj_physical, "neg": torch.neg}  # of a tensor's metadata
SPREAD = 4  # times its elements over which a tensor's elements may lie in its storage

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
BYTES = torch.uint8  # of a storage without a type


@dataclass(frozen=True, eq=False)
class Storage:
    """Values on end in a file; `read(start, count)` gives bytes of them.

    dtype: None where only the tensors know it. size: in bytes.
    """

    dtype: torch.dtype | None
    size: int
    read: Callable[[int, int], bytes]


def read_pickled(path: Path) -> Any:
    """What `torch.save` or `pickle.dump` put into a file; tensors are `LazyTensor`.

    WeightsError where the file holds more than containers, numbers, text, tensors and arrays.
    """
    try:
        with open(path, "rb") as file:
            start = file.read(4)
        if start == b"PK\x03\x04":
            if not zipfile.is_zipfile(path):
                raise PickleError("cut short: an archive without its end; fetch or copy it again")
            return _read_archive(path)
        return _read_old(path)
    except PickleError as error:
        if error.unknown is not None:
            _refuse(path, error.unknown)
        raise WeightsError(f"{path}: cannot be read as weights: {error}") from None


def _refuse(path: Path, unknown: str) -> NoReturn:
    raise WeightsError(
        f"{path}: holds a pickled {unknown}, and to make one can run any code; where the file was "
        "made, save tensors alone: torch.save(model.state_dict(), 'weights.pth')"
    )


def _read_archive(path: Path) -> Any:
    archive = zipfile.ZipFile(path)  # open as long as a tensor may be read from it
    names = {info.filename: info for info in archive.infolist()}
    if min((info.header_offset for info in names.values()), default=0):
        raise WeightsError(f"{path}: another file stands before an archive of torch's; not read")
    pickles = [name for name in names if name.count("/") == 1 and name.endswith("/data.pkl")]
    if len(pickles) != 1:
        raise WeightsError(f"{path}: cannot be read as weights: it is {kind_of_archive(archive)}")
    root = pickles[0].removesuffix("data.pkl")
    if f"{root}constants.pkl" in names or any(name.startswith(f"{root}code/") for name in names):
        raise WeightsError(
            f"{path}: a TorchScript program; its tensors are had where torch runs it: "
            "torch.save(torch.jit.load(FILE).state_dict(), 'weights.pth')"
        )
    if f"{root}byteorder" in names and archive.read(f"{root}byteorder")[:8] == b"big":
        raise WeightsError(f"{path}: was saved on a big-endian machine; not read")
    if names[pickles[0]].file_size > LONGEST_PICKLE:
        raise WeightsError(
            f"{path}: {pickles[0]} is longer than that of any weights, as of NumPy arrays in place "
            "of tensors; not read. Save tensors: torch.save(model.state_dict(), 'weights.pth')"
        )

    def member(name: str, start: int, count: int) -> bytes:
        with archive.open(names[name]) as file:
            if start:
                file.seek(start)
            return file.read(count)

    def persistent(said: Any) -> Storage:
        kind, key, size = _storage_id(said, 5)
        name = f"{root}data/{key}"
        if name not in names:
            raise PickleError(f"lacks the data of tensor {key}")
        return _storage(kind, size, names[name].file_size, functools.partial(member, name))

    data = archive.read(pickles[0])
    return Unpickler(data, VOCABULARY, persistent).load()


def _read_old(path: Path) -> Any:
    """Before 1.6: five pickles, then the storages. Any other pickle is a value by itself."""
    data = path.read_bytes()
    sizes: dict[str, int] = {}
    starts: dict[str, int] = {}

    def persistent(said: Any) -> Storage:
        kind, key, size = _storage_id(said, 6)
        view = said[5]
        first = 0
        if view is not None:
            if type(view) is not tuple or len(view) != 3 or not _whole(view[1:]):
                raise PickleError("damaged: a view of a storage")
            first, size = view[1], view[2]
        width = 1 if kind is None else kind.itemsize
        sizes.setdefault(key, width)

        def read(start: int, count: int) -> bytes:
            at = starts[key] + first * width + start
            return data[at : at + count]

        return _storage(kind, size, size * width, read)

    reader = Unpickler(data, VOCABULARY, persistent)
    value = reader.load()
    if type(value) is not int or value != MAGIC:
        return value
    _version, system, value, keys = (reader.load() for _ in range(4))
    if isinstance(system, dict) and system.get("little_endian") is False:
        raise PickleError("was saved on a big-endian machine")
    if type(keys) is not list:
        raise PickleError("cut short or damaged")
    at = reader.position
    for key in keys:
        if at + 8 > len(data) or key not in sizes:
            raise PickleError("cut short or damaged")
        (count,) = struct.unpack_from("<q", data, at)
        starts[key] = at + 8
        at += 8 + count * sizes[key]
        if count < 0 or at > len(data):
            raise PickleError("cut short or damaged")
    return value


def _storage_id(said: Any, length: int) -> tuple[torch.dtype | None, str, int]:
    """dtype, key and number of elements in the persistent id of a storage."""
    if type(said) is not tuple or len(said) != length or said[0] != "storage":
        raise PickleError("refers to something that is no storage")
    _, kind, key, _location, size = said[:5]
    if type(kind) is not Known or type(key) is not str or type(size) is not int or size < 0:
        raise PickleError("damaged: a storage without type or size")
    name = kind.name.removeprefix("torch.").removesuffix("Storage")
    if name != "Untyped" and name not in DTYPES:
        raise PickleError(f"a storage of {kind.name}", kind.name)
    return DTYPES.get(name), key, size


def _storage(
    kind: torch.dtype | None, size: int, there: int, read: Callable[[int, int], bytes]
) -> Storage:
    size *= 1 if kind is None else kind.itemsize
    if size > there:
        raise PickleError(f"cut short: {there:,} bytes for a tensor of {size:,}")
    return Storage(kind, size, read)


def _whole(numbers: Any) -> bool:
    return all(type(each) is int and each >= 0 for each in numbers)


def _tensor(
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
    """A tensor over a part of a storage, which must lie inside it.

    metadata: torch's bits of tensors whose stored values are to be negated or conjugated when
    they are read, as those of `z.conj().imag` are.
    """
    if type(metadata or {}) is not dict or any(key not in BITS for key in metadata or {}):
        raise PickleError(f"a tensor with metadata that is not known here: {str(metadata)[:60]}")
    bits = [apply for key, apply in BITS.items() if (metadata or {}).get(key)]
    dtype = dtype or (storage.dtype if isinstance(storage, Storage) else None)
    plain = isinstance(storage, Storage) and isinstance(dtype, torch.dtype)
    plain = plain and type(sizes) is tuple and type(strides) is tuple and type(first) is int
    if not plain or len(sizes) != len(strides) or len(sizes) > MOST_DIMENSIONS:
        raise PickleError("damaged: a tensor without shape or storage")
    if not _whole((first, *sizes, *strides)):
        raise PickleError(f"damaged: a tensor of shape {sizes}, strides {strides}")
    pairs = list(zip(sizes, strides, strict=True))
    span = 0 if 0 in sizes else 1 + sum((size - 1) * stride for size, stride in pairs)
    width = dtype.itemsize
    if (first + span) * width > storage.size:
        raise PickleError(f"damaged: a tensor of shape {sizes} that passes its storage's end")

    def read() -> Tensor:
        count = 1
        for size in sizes:
            count *= size
        if span > SPREAD * count + 1024:
            raise PickleError("a tensor spread over a larger one")
        if not span:
            return torch.empty(sizes, dtype=dtype)
        raw = storage.read(first * width, span * width)
        if len(raw) != span * width:
            raise PickleError("cut short or damaged")
        flat = torch.frombuffer(bytearray(raw), dtype=dtype)
        tensor = flat.as_strided(sizes, strides).contiguous()
        for apply in bits:
            tensor = apply(tensor)
        return tensor

    return LazyTensor(sizes, read)


def _tensor_of_dtype(
    storage: Any,
    first: Any,
    sizes: Any,
    strides: Any,
    _grad: Any,
    _hooks: Any,
    kind: Any,
    metadata: Any = None,
) -> LazyTensor:
    """Of dtypes that have no storage class of their own."""
    dtype = getattr(torch, kind.name.removeprefix("torch."), None) if type(kind) is Known else None
    if not isinstance(dtype, torch.dtype):
        raise PickleError("damaged: a tensor without dtype")
    return _tensor(storage, first, sizes, strides, metadata=metadata, dtype=dtype)


def _first(value: Any, *_rest: Any) -> LazyTensor:
    """A parameter is its tensor."""
    if type(value) is not LazyTensor:
        raise PickleError("damaged: a parameter without tensor")
    return value


def _typed(function: Any, kind: Any, arguments: Any, _state: Any) -> LazyTensor:
    """A tensor that has attributes; these are let go."""
    if kind is not VOCABULARY["torch.Tensor"] and kind is not _PARAMETER:
        raise PickleError("a tensor of another class", getattr(kind, "name", None))
    if type(function) is not Known or type(arguments) is not tuple or not function.function:
        raise PickleError("damaged: a tensor without maker")
    return _first(function.function(*arguments))


def _dict(*arguments: Any) -> dict[Any, Any]:
    """Counter(dict), defaultdict(kind[, dict])."""
    found = next((each for each in arguments if type(each) is dict), None)
    return {} if found is None else dict(found)


def _set(items: Any = ()) -> set[Any]:
    if type(items) not in (list, tuple):
        raise PickleError("damaged: a set of what is no list")
    return set(map(hashable, items))


def _record(*_arguments: Any) -> Unbuilt:
    """An object that is a name for a dict: its attributes come afterwards."""

    def build(state: Any) -> dict[Any, Any]:
        if type(state) is tuple and len(state) == 2 and state[1] is None:
            state = state[0]
        if type(state) is not dict:
            raise PickleError("damaged: attributes that are no dict")
        return dict(state)

    return Unbuilt(build, {})


def _tuple(*arguments: Any) -> tuple[int, ...]:
    found = arguments[0] if arguments else ()
    if type(found) not in (list, tuple) or len(found) > MOST_DIMENSIONS or not _whole(found):
        raise PickleError("damaged: a size")
    return tuple(found)


def _device(*arguments: Any) -> str:
    return ":".join(str(each)[:16] for each in arguments[:2])


_PARAMETER = Known("torch.nn.Parameter", _first)
VOCABULARY: dict[str, Known] = {
    **ARRAYS,
    "collections.Counter": Known("Counter", _dict),
    "collections.defaultdict": Known("defaultdict", _dict),
    **{
        f"{home}.{kind}": Known(kind)
        for home in ("builtins", "__builtin__")
        for kind in ("dict", "list", "int", "float", "str", "set", "object")
    },
    "builtins.set": Known("set", _set),
    "__builtin__.set": Known("set", _set),
    "builtins.complex": Known("complex", lambda real=0.0, imag=0.0: (float(real), float(imag))),
    "builtins.bytearray": Known("bytearray", lambda *given: given[0] if given else b""),
    # Options beside the weights, in what training scripts save.
    "argparse.Namespace": Known("Namespace", _record),
    "types.SimpleNamespace": Known("SimpleNamespace", _record),
    "lightning_fabric.utilities.data.AttributeDict": Known("AttributeDict", _dict),
    "lightning.fabric.utilities.data.AttributeDict": Known("AttributeDict", _dict),
    "pytorch_lightning.utilities.parsing.AttributeDict": Known("AttributeDict", _dict),
    "torch._utils._rebuild_tensor": Known("tensor", _tensor),
    "torch._utils._rebuild_tensor_v2": Known("tensor", _tensor),
    "torch._utils._rebuild_tensor_v3": Known("tensor", _tensor_of_dtype),
    "torch._utils._rebuild_parameter": Known("parameter", _first),
    "torch._utils._rebuild_parameter_with_state": Known("parameter", _first),
    "torch._tensor._rebuild_from_type_v2": Known("tensor", _typed),
    "torch.Tensor": Known("torch.Tensor"),
    "torch.nn.parameter.Parameter": _PARAMETER,
    "torch.Size": Known("torch.Size", _tuple),
    "torch.device": Known("torch.device", _device),
    **{f"torch.{kind}Storage": Known(f"torch.{kind}Storage") for kind in (*DTYPES, "Untyped")},
    "torch.storage.UntypedStorage": Known("torch.UntypedStorage"),
    **{
        f"torch.{name}": Known(f"torch.{name}")
        for name in dir(torch)
        if isinstance(getattr(torch, name), torch.dtype)
    },
}
