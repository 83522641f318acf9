"""Checkpoints: one safetensors file whose header carries JSON; written whole or not at all.

Tensors are named `model/<parameter>`, `ema/<parameter>`, `optim/<parameter>/<state>` and
`preprocess/mean_image`. The header holds `resnets`: JSON with `format`, `step`, `recipe`,
`classes`, `preprocess`, `state` (what the loop needs to resume) and `sha256` of all of that and of
the tensors. Files of format 1, whose checksum is of the tensors alone, are still read.
"""

from __future__ import annotations

import hashlib
import json
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import safetensors
import torch

from resnets.weights.errors import CheckpointError, StoreError
from resnets.weights.store import Folder, Store
from resnets.weights.store_url import named, open_store, path_of, url_of

FORMAT = 2
FOLDER, LAST, BEST = "checkpoints", "last.safetensors", "best.safetensors"
RECIPE = "recipe.toml"
# How files of weights end (see `files.READERS`; the rest are torch's). All else behind a URL is a
# run, whose name may have a dot in it.
SUFFIXES = {
    *(".safetensors", ".pkl", ".caffemodel", ".h5", ".hdf5", ".keras"),
    *(".pth", ".pt", ".th", ".tar", ".bin", ".ckpt"),
}

# Of safetensors, in the order in which a file has them.
DTYPES = {
    torch.int64: "I64",
    torch.float64: "F64",
    torch.float32: "F32",
    torch.int32: "I32",
    torch.bfloat16: "BF16",
    torch.float16: "F16",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}


@dataclass(frozen=True)
class Checkpoint:
    """Contents of one file: `tensors` by name (see module docstring) and the JSON `meta`."""

    path: Path
    tensors: dict[str, torch.Tensor]
    meta: dict[str, Any]

    def group(self, prefix: str) -> dict[str, torch.Tensor]:
        """Tensors whose name starts with `prefix`/, with the prefix taken off."""
        start = f"{prefix}/"
        return {
            name.removeprefix(start): tensor
            for name, tensor in self.tensors.items()
            if name.startswith(start)
        }


class Encoded:
    """A checkpoint as the bytes of its file, to the byte what `safetensors.torch.save` makes.

    Its writer is not used: before 0.8 it keeps Python's lock, so that a loop beside it stands
    still, and from 0.8 on it puts a temporary file of its own where a killed process leaves it.
    """

    def __init__(self, tensors: Mapping[str, torch.Tensor], meta: Mapping[str, Any]) -> None:
        flat = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        whole = json.loads(json.dumps({"format": FORMAT, **meta}))
        described = json.dumps({**whole, "sha256": _digest(flat, whole)})
        order = list(DTYPES)
        self._tensors = sorted(flat.items(), key=lambda item: (order.index(item[1].dtype), item[0]))
        entries: dict[str, Any] = {"__metadata__": {"resnets": described}}
        end = 0
        for name, tensor in self._tensors:
            start, end = end, end + tensor.nbytes
            kind, shape = DTYPES[tensor.dtype], list(tensor.shape)
            entries[name] = {"dtype": kind, "shape": shape, "data_offsets": [start, end]}
        header = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode()
        header += b" " * (-len(header) % 8)
        self._head = len(header).to_bytes(8, "little") + header
        self.size = len(self._head) + end

    def write(self, file: BinaryIO) -> None:
        """Write all of it."""
        file.write(self._head)
        for _, tensor in self._tensors:
            file.write(_bytes(tensor))


def save_checkpoint(
    path: Path, tensors: Mapping[str, torch.Tensor], meta: Mapping[str, Any]
) -> None:
    """Write atomically: a temporary file beside `path`, flushed to disk, then renamed over it.

    Raises CheckpointError when the disk refuses; the file that was there stays as it was.
    """
    try:
        Folder(path.parent).put(path.name, Encoded(tensors, meta))
    except StoreError as error:
        raise CheckpointError(
            f"{path}: cannot write the checkpoint ({error.reason}); {error.cure}; what was saved "
            "before is intact"
        ) from None


def read_checkpoint(where: str | Path) -> Checkpoint:
    """Read and verify a file of `save_checkpoint`; CheckpointError names what is wrong with it."""
    path = find_checkpoint(where) if url_of(where) else Path(where)
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            header = (file.metadata() or {}).get("resnets")
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except FileNotFoundError:
        raise CheckpointError(f"{named(path)}: no such checkpoint") from None
    except (safetensors.SafetensorError, OSError) as error:
        raise CheckpointError(
            f"{named(path)}: cut short or not a safetensors file ({error}); use an older checkpoint"
        ) from None
    if header is None:
        raise CheckpointError(
            f"{named(path)}: safetensors without a resnets header; not a checkpoint"
        )
    try:
        meta = json.loads(header)
        version, digest = meta["format"], meta["sha256"]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise CheckpointError(f"{named(path)}: its header is damaged") from None
    if version not in (1, FORMAT):
        raise CheckpointError(
            f"{named(path)}: format {version!r}, this version reads 1 and {FORMAT}; the file is"
            " damaged, or of a newer version"
        )
    described = {key: value for key, value in meta.items() if key != "sha256"}
    if digest != _digest(tensors, described if version > 1 else None):
        raise CheckpointError(f"{named(path)}: checksum differs, the file is damaged")
    return Checkpoint(path, tensors, meta)


def step_name(step: int) -> str:
    """File of an older checkpoint."""
    return f"step-{step:08d}.safetensors"


def older_steps(names: Sequence[str]) -> list[int]:
    """Steps of the older checkpoints among files, in order."""
    found = (re.fullmatch(r"step-(\d{8,})\.safetensors", name) for name in names)
    return sorted(int(match[1]) for match in found if match)


def find_checkpoint(where: str | Path) -> Path:
    """The file meant by a run (best on validation, else last) or a checkpoint's path or URL.

    What lies behind a URL is fetched; the path is then that of the copy. A run may be the folder
    of one, or the URL of its checkpoints. Raises CheckpointError, and ConfigError for a URL that
    nothing here can open.
    """
    url = url_of(where)
    if url is not None:
        return _find_there(url)
    path = path_of(where)
    if path.is_file():
        return path
    stores: list[Store] = [Folder(path / FOLDER)]
    if (place := _place_of(path)) is not None:
        stores.append(open_store(place))
    found = _choose(stores)
    if found is not None:
        return found
    if path.is_dir():
        raise CheckpointError(f"{path}: no checkpoint in this folder; name a run or a .safetensors")
    raise CheckpointError(f"{path}: no such run or checkpoint")


def place_for(out: Path, url: str) -> str:
    """Where the checkpoints of the run `out` lie, by its recipe's `checkpoint_url`."""
    return f"{url.rstrip('/')}/{out.resolve().name}"


def _place_of(out: Path) -> str | None:
    """Where a run's recipe puts its checkpoints, other than in its folder."""
    try:
        url = tomllib.loads((out / RECIPE).read_text(encoding="utf-8")).get("checkpoint_url")
    except (OSError, ValueError):
        return None
    return None if url is None else place_for(out, url)


def _find_there(url: str) -> Path:
    parent, _, name = url.rpartition("/")
    try:
        if Path(name).suffix.lower() in SUFFIXES:
            return open_store(parent).fetch(name)
        found = _choose([open_store(url), open_store(f"{url.rstrip('/')}/{FOLDER}")])
    except StoreError as error:
        raise CheckpointError(f"{url}: cannot be read ({error.reason}); {error.cure}") from None
    if found is None:
        raise CheckpointError(f"{url}: no checkpoint there; name a run's place or a .safetensors")
    return found


def _choose(stores: Sequence[Store]) -> Path | None:
    """The best checkpoint, else the last, else the newest older one; of each in the first store."""
    try:
        names = [store.names() for store in stores]
        older = [step_name(step) for each in names for step in older_steps(each)[::-1]]
        for name in (BEST, LAST, *older):
            for store, each in zip(stores, names, strict=True):
                if name in each:
                    return store.fetch(name)
    except StoreError as error:
        places = " or ".join(store.at("") for store in stores)
        raise CheckpointError(f"{places}: cannot be read ({error})") from None
    return None


def read_header(path: Path) -> dict[str, Any]:
    """The JSON of a file alone, not verified; empty where it has none or cannot be read."""
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            header = json.loads((file.metadata() or {}).get("resnets", "{}"))
    except (safetensors.SafetensorError, OSError, ValueError):
        return {}
    return header if isinstance(header, dict) else {}


def task_of(where: str | Path) -> str:
    """The task of a run or checkpoint, from the file's header alone.

    "classify" for all else, such as published nets; whoever loads them says what is wrong.
    """
    try:
        header = read_header(find_checkpoint(where))
    except CheckpointError:
        return "classify"
    return str(header.get("recipe", {}).get("task", "classify"))


def _digest(tensors: Mapping[str, torch.Tensor], meta: Mapping[str, Any] | None) -> str:
    """SHA-256 of the tensors and, but in files of format 1, of the JSON beside them."""
    digest = hashlib.sha256()
    if meta is not None:
        digest.update(json.dumps(meta, sort_keys=True).encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(_bytes(tensor))
    return digest.hexdigest()


def _bytes(tensor: torch.Tensor) -> memoryview:
    """The bytes of a contiguous tensor on the CPU, in place."""
    return tensor.reshape(-1).view(torch.uint8).numpy().data
