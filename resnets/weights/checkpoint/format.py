"""Checkpoint files: safetensors with a JSON header, written atomically.

Tensors are named `model/<parameter>`, `ema/<parameter>`, `optim/<parameter>/<state>`,
`scaler/<name>` (of float16), `n_averaged` and `preprocess/mean_image`. The header has an entry
`resnets`: JSON with `format`, `step`, `recipe`, `classes`, `preprocess`, `state` (what the training
loop needs to resume) and `sha256` of all of that and of the tensors. Files of format 1, whose
checksum covers the tensors alone, are still read.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import safetensors
import torch

from resnets.config import ConfigError, Recipe, from_stored_dict
from resnets.config.aliases import with_current_names
from resnets.weights.checkpoint.store import display_path
from resnets.weights.errors import CheckpointError
from resnets.weights.readers.safetensors_file import read_metadata, read_safetensors

FORMAT = 2
FOLDER, LAST, BEST = "checkpoints", "last.safetensors", "best.safetensors"
RECIPE = "recipe.toml"

# Data types of safetensors, in the order in which its writer stores them.
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

    The properties raise CheckpointError if their JSON entry is missing or invalid.
    """

    path: Path
    tensors: dict[str, torch.Tensor]
    meta: dict[str, Any]

    def group(self, prefix: str) -> dict[str, torch.Tensor]:
        """Return the tensors whose name starts with `prefix`/, without that prefix."""
        start = f"{prefix}/"
        return {
            name.removeprefix(start): tensor
            for name, tensor in self.tensors.items()
            if name.startswith(start)
        }

    @property
    def step(self) -> int:
        """Optimizer steps so far."""
        step = self.meta.get("step")
        if type(step) is not int or step < 0:
            raise self.invalid_entry("step", "a number", step)
        return step

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names, in the order of the outputs."""
        names = self.meta.get("classes")
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise self.invalid_entry("classes", "a list of names", names)
        return tuple(names)

    @property
    def recipe(self) -> Recipe:
        """The recipe of the run."""
        entry = self.meta.get("recipe")
        if not isinstance(entry, dict):
            raise self.invalid_entry("recipe", "an object", entry)
        try:
            return from_stored_dict(entry, where="recipe")
        except ConfigError as error:
            raise CheckpointError(f"{display_path(self.path)}: {error}") from None

    def invalid_entry(self, name: str, kind: str, value: object) -> CheckpointError:
        """Return the error for a JSON entry that is missing or not `kind`."""
        problem = "is missing" if value is None else f"is {short_repr(value)}"
        return CheckpointError(
            f"{display_path(self.path)}: {name} {problem}, not {kind}; the file was not written by"
            " a run, or was modified"
        )


class EncodedCheckpoint:
    """A checkpoint as the bytes of its file, identical to those of `safetensors.torch.save`.

    The writer of safetensors is not used: before 0.8 it holds the GIL, which stops the training
    loop; since 0.8 it creates a temporary file, which a killed process leaves behind.
    """

    def __init__(self, tensors: Mapping[str, torch.Tensor], meta: Mapping[str, Any]) -> None:
        flat = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        entries_json = json.loads(json.dumps({**meta, "format": FORMAT}))
        entries_json.pop("sha256", None)  # of the checkpoint that these entries are from
        header_json = json.dumps({**entries_json, "sha256": digest_of(flat, entries_json)})
        order = list(DTYPES)
        self._tensors = sorted(flat.items(), key=lambda item: (order.index(item[1].dtype), item[0]))
        entries: dict[str, Any] = {"__metadata__": {"resnets": header_json}}
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
        """Write the whole file."""
        file.write(self._head)
        for _, tensor in self._tensors:
            file.write(_bytes(tensor))


def read_checkpoint(path: str | Path) -> Checkpoint:
    """Read and verify a file; CheckpointError if it is missing, damaged or of a newer version."""
    path = Path(path)
    try:
        metadata, tensors = read_safetensors(path)
        header = metadata.get("resnets")
    except FileNotFoundError:
        raise CheckpointError(f"{display_path(path)}: no such checkpoint") from None
    except Exception as error:  # damaged bytes raise many types
        raise CheckpointError(
            f"{display_path(path)}: truncated or not a safetensors file ({error});"
            " use an older checkpoint"
        ) from None
    if header is None:
        raise CheckpointError(
            f"{display_path(path)}: safetensors without a resnets header; not a checkpoint"
        )
    try:
        meta = json.loads(header)
        version, digest = meta["format"], meta["sha256"]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise CheckpointError(f"{display_path(path)}: its header is damaged") from None
    if type(version) is not int or version not in (1, FORMAT):
        raise CheckpointError(
            f"{display_path(path)}: format {short_repr(version)}, this version reads 1 and"
            f" {FORMAT}; the file is damaged or from a newer version"
        )
    described = {key: value for key, value in meta.items() if key != "sha256"}
    if digest != digest_of(tensors, described if version > 1 else None):
        raise CheckpointError(f"{display_path(path)}: checksum mismatch; the file is damaged")
    return Checkpoint(path, tensors, with_current_names(meta, "checkpoint"))


def read_run_checkpoint(path: Path) -> Checkpoint:
    """Read and verify a checkpoint that must have a step, a recipe and classes."""
    checkpoint = read_checkpoint(path)
    _ = checkpoint.step, checkpoint.recipe, checkpoint.classes
    return checkpoint


def step_name(step: int) -> str:
    """Return the file name of an older checkpoint."""
    return f"step-{step:08d}.safetensors"


def older_steps(names: Sequence[str]) -> list[int]:
    """Return the steps of the older checkpoints among file names, sorted."""
    matches = (re.fullmatch(r"step-(\d{8,})\.safetensors", name) for name in names)
    return sorted(int(match[1]) for match in matches if match)


def read_header(path: Path) -> dict[str, Any]:
    """Return the JSON header of a file, not verified; empty if missing or unreadable."""
    try:
        header = json.loads(read_metadata(path).get("resnets", "{}"))
    except (safetensors.SafetensorError, OSError, ValueError, RecursionError):
        return {}
    return header if isinstance(header, dict) else {}


def header_step(path: Path) -> int | None:
    """Return the step in the header of a file, not verified; None if it has none."""
    step = read_header(path).get("step")
    return step if type(step) is int else None


def short_repr(value: object) -> str:
    """Return the repr of a value of a damaged file, shortened for a one-line message."""
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:40]}..."


def digest_of(tensors: Mapping[str, torch.Tensor], meta: Mapping[str, Any] | None = None) -> str:
    """Return the SHA-256 of the tensors and, since format 2, of the JSON entries `meta`."""
    digest = hashlib.sha256()
    if meta is not None:
        digest.update(json.dumps(meta, sort_keys=True).encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(_bytes(tensor.cpu().contiguous()))
    return digest.hexdigest()


def _bytes(tensor: torch.Tensor) -> memoryview:
    """Return the bytes of a contiguous CPU tensor, without a copy."""
    return tensor.reshape(-1).view(torch.uint8).numpy().data
