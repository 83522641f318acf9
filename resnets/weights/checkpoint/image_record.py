"""Storage of the fingerprint of a run's images: in its checkpoints, or in a file next to them.

A small fingerprint is stored in each checkpoint. That of a large data set, 29 bytes per image, is
one file next to the checkpoints, which store its name and hash.
"""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path
from typing import Any

import torch

from resnets.data.splits.image_record import Fingerprint
from resnets.utils.errors import reading
from resnets.weights.checkpoint.format import Checkpoint, EncodedCheckpoint, read_checkpoint
from resnets.weights.checkpoint.store import display_path
from resnets.weights.errors import CheckpointError

log = logging.getLogger("resnets")

MAX_EMBEDDED = 1 << 14  # images of a fingerprint that is stored in each checkpoint
FIELD = "images"


class FingerprintRecord:
    """The parts of a stored fingerprint.

    tensors, meta: what each checkpoint contains. file: name and payload of the file next to the
    checkpoints, None without one.
    """

    def __init__(self, fingerprint: Fingerprint | None) -> None:
        self.tensors: dict[str, torch.Tensor] = {}
        self.meta: dict[str, Any] = {}
        self.file: tuple[str, EncodedCheckpoint] | None = None
        if fingerprint is None:
            return
        self.meta = {FIELD: fingerprint.counts()}
        tensors = fingerprint.tensors()
        if len(fingerprint) <= MAX_EMBEDDED:
            self.tensors = tensors
            return
        digest = _digest(tensors)
        name = f"images-{digest[:16]}.safetensors"
        self.meta[FIELD] |= {"file": name, "digest": digest}
        self.file = name, EncodedCheckpoint(tensors, {})


def read_fingerprint(checkpoint: Checkpoint) -> Fingerprint | None:
    """Read the fingerprint of a run's images; None for a checkpoint of an older version.

    Returns None and logs a warning if the file that the checkpoint names is missing or damaged.
    """
    entry = checkpoint.meta.get(FIELD)
    if not isinstance(entry, dict) or "file" not in entry:
        return _parse_fingerprint(checkpoint.tensors, checkpoint.path)
    path = checkpoint.path.parent / str(entry["file"])
    try:
        tensors = read_checkpoint(path).tensors
    except CheckpointError as error:
        log.warning("%s; images are not compared with those of the training", error)
        return None
    if _digest(tensors) != entry.get("digest"):
        log.warning(
            "%s: is not the fingerprint that %s names; images are not compared with those of the"
            " training",
            path,
            display_path(checkpoint.path),
        )
        return None
    return _parse_fingerprint(tensors, path)


def _parse_fingerprint(tensors: dict[str, torch.Tensor], path: Path) -> Fingerprint | None:
    with reading(path, CheckpointError, "as a record of images"):
        return Fingerprint.from_tensors(tensors)


def _digest(tensors: dict[str, torch.Tensor]) -> str:
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(tensors[name].contiguous().view(torch.uint8).numpy().data)
    return digest.hexdigest()
