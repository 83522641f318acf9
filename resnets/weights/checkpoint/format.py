"""Checkpoints: one safetensors file whose header carries JSON; written whole or not at all.

Tensors are named `model/<parameter>`, `ema/<parameter>`, `optim/<parameter>/<state>` and
`preprocess/mean_image`. The header holds `resnets`: JSON with `format`, `step`, `recipe`,
`classes`, `preprocess`, `state` (what the loop needs to resume) and `sha256` of all of that and of
the tensors. Files of format 1, whose checksum is of the tensors alone, are still read.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, get_args, get_type_hints

import safetensors
import torch

from resnets.config import ConfigError, Recipe, stored_recipe
from resnets.config.aliases import with_current_names
from resnets.weights.checkpoint.store import Folder, Store
from resnets.weights.checkpoint.store_url import named, open_store, path_of, url_of
from resnets.weights.errors import CheckpointError, StoreError
from resnets.weights.readers.safetensors_file import read_metadata, read_safetensors

_log = logging.getLogger(__name__)

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
    """Contents of one file: `tensors` by name (see module docstring) and the JSON `meta`.

    The properties raise CheckpointError where the JSON lacks or misstates what they give.
    """

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

    @property
    def step(self) -> int:
        """Updates of the weights so far."""
        step = self.meta.get("step")
        if type(step) is not int or step < 0:
            raise self.wrong("step", "a number", step)
        return step

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the outputs, in their order."""
        names = self.meta.get("classes")
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise self.wrong("classes", "a list of names", names)
        return tuple(names)

    @property
    def recipe(self) -> Recipe:
        """What the weights were trained by."""
        said = self.meta.get("recipe")
        if not isinstance(said, dict):
            raise self.wrong("recipe", "an object", said)
        try:
            return stored_recipe(said, where="recipe")
        except ConfigError as error:
            raise CheckpointError(f"{named(self.path)}: {error}") from None

    def wrong(self, name: str, kind: str, found: object) -> CheckpointError:
        """The error of a JSON entry that is missing or of another kind."""
        given = "is missing" if found is None else f"is {shown(found)}"
        return CheckpointError(
            f"{named(self.path)}: {name} {given}, not {kind}; the file was not written by a run, or"
            " was changed since"
        )


class Encoded:
    """A checkpoint as the bytes of its file, to the byte what `safetensors.torch.save` makes.

    Its writer is not used: before 0.8 it keeps Python's lock, so that a loop beside it stands
    still, and from 0.8 on it puts a temporary file of its own where a killed process leaves it.
    """

    def __init__(self, tensors: Mapping[str, torch.Tensor], meta: Mapping[str, Any]) -> None:
        flat = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        whole = json.loads(json.dumps({**meta, "format": FORMAT}))
        whole.pop("sha256", None)  # of the checkpoint that this one was made from
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
        metadata, tensors = read_safetensors(path)
        header = metadata.get("resnets")
    except FileNotFoundError:
        raise CheckpointError(f"{named(path)}: no such checkpoint") from None
    except Exception as error:  # of what damaged bytes can cause there is no complete list
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
    if type(version) is not int or version not in (1, FORMAT):
        raise CheckpointError(
            f"{named(path)}: format {shown(version)}, this version reads 1 and {FORMAT}; the file"
            " is damaged, or of a newer version"
        )
    described = {key: value for key, value in meta.items() if key != "sha256"}
    if digest != _digest(tensors, described if version > 1 else None):
        raise CheckpointError(f"{named(path)}: checksum differs, the file is damaged")
    return Checkpoint(path, tensors, with_current_names(meta, "checkpoint"))


def read_whole(path: Path) -> Checkpoint:
    """`read_checkpoint` of a file that must say its step, recipe and classes."""
    checkpoint = read_checkpoint(path)
    _ = checkpoint.step, checkpoint.recipe, checkpoint.classes
    return checkpoint


def open_checkpoint(where: str | Path) -> Checkpoint:
    """The best intact checkpoint of a run, or the file that `where` names, read and verified.

    Of a run: the best on validation, else the last, else the newest older one. What is damaged is
    passed over, and a warning names it. Raises CheckpointError where none is intact, and as
    `find_checkpoint`.
    """
    path = file_of(where)
    if path is not None:
        return read_whole(path)
    bad: list[str] = []
    for path in _candidates(where):
        try:
            checkpoint = read_whole(path)
        except CheckpointError as error:
            bad.append(str(error))
            continue
        _say_passed_over(bad, checkpoint)
        return checkpoint
    raise CheckpointError(f"{'; '.join(bad)}; no other checkpoint of the run is intact")


_passed_over: set[tuple[str, int]] = set()


def _say_passed_over(bad: Sequence[str], taken: Checkpoint) -> None:
    """Warn of damaged checkpoints, once for each file that takes their place."""
    said = "; ".join(bad)
    key = said, taken.path.stat().st_mtime_ns
    if bad and key not in _passed_over:
        _passed_over.add(key)
        _log.warning("%s; using %s (step %s) instead", said, named(taken.path), f"{taken.step:,}")


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
    of one, or the URL of its checkpoints; of its files the one that `open_checkpoint` takes, so it
    is intact. Raises CheckpointError, and ConfigError for a URL that nothing here can open.
    """
    path = file_of(where)
    return open_checkpoint(where).path if path is None else path


def file_of(where: str | Path) -> Path | None:
    """The one file that a path or URL names, fetched where it must be; None of a run's."""
    url = url_of(where)
    if url is None:
        path = path_of(where)
        return path if path.is_file() else None
    parent, _, name = url.rpartition("/")
    if Path(name).suffix.lower() not in SUFFIXES:
        return None
    try:
        return open_store(parent).fetch(name)
    except StoreError as error:
        raise CheckpointError(f"{url}: cannot be read ({error.reason}); {error.cure}") from None


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


def _candidates(where: str | Path) -> Iterator[Path]:
    """The best checkpoint of a run, the last, the newest older ones; of each in the first store.

    A file is fetched when it is asked for. There is at least one.
    """
    url, path = url_of(where), path_of(where)
    if url is not None:
        stores: list[Store] = [open_store(url), open_store(f"{url.rstrip('/')}/{FOLDER}")]
    else:
        stores = [Folder(path / FOLDER)]
        if (place := _place_of(path)) is not None:
            stores.append(open_store(place))
    try:
        names = [store.names() for store in stores]
        steps = {step for each in names for step in older_steps(each)}
        found = False
        for name in (BEST, LAST, *map(step_name, sorted(steps, reverse=True))):
            for store, each in zip(stores, names, strict=True):
                if name in each:
                    yield store.fetch(name)
                    found = True
    except StoreError as error:
        if url is not None:
            raise CheckpointError(f"{url}: cannot be read ({error.reason}); {error.cure}") from None
        places = " or ".join(store.at("") for store in stores)
        raise CheckpointError(f"{places}: cannot be read ({error})") from None
    if found:
        return
    if url is not None:
        raise CheckpointError(f"{url}: no checkpoint there; name a run's place or a .safetensors")
    if path.is_dir():
        raise CheckpointError(f"{path}: no checkpoint in this folder; name a run or a .safetensors")
    raise CheckpointError(f"{path}: no such run or checkpoint")


def read_header(path: Path) -> dict[str, Any]:
    """The JSON of a file alone, not verified; empty where it has none or cannot be read."""
    try:
        header = json.loads(read_metadata(path).get("resnets", "{}"))
    except (safetensors.SafetensorError, OSError, ValueError, RecursionError):
        return {}
    return header if isinstance(header, dict) else {}


def step_of(path: Path) -> int | None:
    """The step that a file claims to be of, not verified; None where it says none."""
    step = read_header(path).get("step")
    return step if type(step) is int else None


def task_of(where: str | Path) -> str:
    """The task of a run or checkpoint, from the first file's header that says one.

    "classify" for all else, such as published models; whoever loads them says what is wrong.
    """
    tasks = get_args(get_type_hints(Recipe)["task"])
    try:
        path = file_of(where)
        for each in _candidates(where) if path is None else (path,):
            recipe = read_header(each).get("recipe")
            task = recipe.get("task", "classify") if isinstance(recipe, dict) else None
            if task in tasks:
                return str(task)
    except CheckpointError:
        pass
    return "classify"


def shown(found: object) -> str:
    """A value of a damaged or foreign file, short enough for one line."""
    text = repr(found)
    return text if len(text) <= 40 else f"{text[:40]}..."


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
