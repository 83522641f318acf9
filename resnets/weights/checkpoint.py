"""Checkpoints: one safetensors file whose header carries JSON; written whole or not at all.

Tensors are named `model/<parameter>`, `ema/<parameter>`, `optim/<parameter>/<state>` and
`preprocess/mean_image`. The header holds `resnets`: JSON with `format`, `step`, `recipe`,
`classes`, `preprocess`, `state` (what the loop needs to go on) and `sha256` of the tensor bytes.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch

FORMAT = 1
LAST, BEST = "last.safetensors", "best.safetensors"


class CheckpointError(ValueError):
    """A checkpoint that is missing, damaged, or of another net; the message names the file."""


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


def save_checkpoint(
    path: Path, tensors: Mapping[str, torch.Tensor], meta: Mapping[str, Any]
) -> None:
    """Write atomically: a temporary file beside `path`, flushed to disk, then renamed over it.

    Raises CheckpointError when the disk refuses; the file that was there stays as it was.
    """
    flat = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    header = {"format": FORMAT, **meta, "sha256": _digest(flat)}
    payload = safetensors.torch.save(flat, metadata={"resnets": json.dumps(header)})
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "wb") as file:
            file.write(payload)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise CheckpointError(
            f"{path}: cannot write the checkpoint ({error.strerror}); free {len(payload) >> 20} "
            "MiB or choose another --out; what was saved before is intact"
        ) from None


def read_checkpoint(path: Path) -> Checkpoint:
    """Read and verify a file of `save_checkpoint`; CheckpointError names what is wrong with it."""
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            header = (file.metadata() or {}).get("resnets")
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except FileNotFoundError:
        raise CheckpointError(f"{path}: no such checkpoint") from None
    except (safetensors.SafetensorError, OSError) as error:
        raise CheckpointError(
            f"{path}: cut short or not a safetensors file ({error}); use an older checkpoint"
        ) from None
    if header is None:
        raise CheckpointError(f"{path}: safetensors without a resnets header; not a checkpoint")
    meta = json.loads(header)
    if meta["format"] != FORMAT:
        raise CheckpointError(f"{path}: format {meta['format']}, this version reads {FORMAT}")
    if meta["sha256"] != _digest(tensors):
        raise CheckpointError(f"{path}: checksum differs, the file is damaged")
    return Checkpoint(path, tensors, meta)


def find_checkpoint(where: str | Path) -> Path:
    """The file meant by a run folder (best on validation, else last) or a checkpoint path."""
    path = Path(where)
    if path.is_file():
        return path
    for name in (BEST, LAST):
        if (path / "checkpoints" / name).is_file():
            return path / "checkpoints" / name
    if path.is_dir():
        raise CheckpointError(f"{path}: no checkpoint in this folder; name a run or a .safetensors")
    raise CheckpointError(f"{path}: no such run or checkpoint")


def task_of(where: str | Path) -> str:
    """The task of a run or checkpoint, from the file's header alone.

    "classify" for all else, such as published nets; whoever loads them says what is wrong.
    """
    try:
        with safetensors.safe_open(find_checkpoint(where), framework="pt") as file:
            header = json.loads((file.metadata() or {}).get("resnets", "{}"))
    except (CheckpointError, safetensors.SafetensorError, OSError, ValueError):
        return "classify"
    return str(header.get("recipe", {}).get("task", "classify"))


def _digest(tensors: Mapping[str, torch.Tensor]) -> str:
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
