"""Where a run stores its record of images: in its checkpoints, or in a file next to them.

Small records are in each checkpoint. Those of large sets, 29 bytes an image, are one file beside
the checkpoints, which name it and its hash.
"""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path
from typing import Any

import torch

from resnets.data.splits.image_record import Fingerprint
from resnets.utils.errors import reading
from resnets.weights.checkpoint.format import (
    Checkpoint,
    CheckpointError,
    EncodedCheckpoint,
    read_checkpoint,
)
from resnets.weights.checkpoint.remote_store import display_path

log = logging.getLogger("resnets")

MOST_WITHIN = 1 << 14  # images of a record that is in each checkpoint
FIELD = "images"


class Record:
    """How the checkpoints of a run keep a fingerprint.

    tensors, meta: what each checkpoint has of it. file: name and payload of the file beside them;
    None where there is none.
    """

    def __init__(self, fingerprint: Fingerprint | None) -> None:
        self.tensors: dict[str, torch.Tensor] = {}
        self.meta: dict[str, Any] = {}
        self.file: tuple[str, EncodedCheckpoint] | None = None
        if fingerprint is None:
            return
        self.meta = {FIELD: fingerprint.counts()}
        tensors = fingerprint.tensors()
        if len(fingerprint) <= MOST_WITHIN:
            self.tensors = tensors
            return
        digest = _digest(tensors)
        name = f"images-{digest[:16]}.safetensors"
        self.meta[FIELD] |= {"file": name, "digest": digest}
        self.file = name, EncodedCheckpoint(tensors, {})


def read_fingerprint(checkpoint: Checkpoint) -> Fingerprint | None:
    """What a checkpoint remembers of its run's images; None where it is of an older version.

    A warning says where the file that it names is missing or damaged.
    """
    stated = checkpoint.meta.get(FIELD)
    if not isinstance(stated, dict) or "file" not in stated:
        return _fingerprint(checkpoint.tensors, checkpoint.path)
    path = checkpoint.path.parent / str(stated["file"])
    try:
        found = read_checkpoint(path).tensors
    except CheckpointError as error:
        log.warning("%s; images are not compared with those that were trained on", error)
        return None
    if _digest(found) != stated.get("digest"):
        log.warning(
            "%s: is not the record that %s names; images are not compared with those that were"
            " trained on",
            path,
            display_path(checkpoint.path),
        )
        return None
    return _fingerprint(found, path)


def _fingerprint(tensors: dict[str, torch.Tensor], path: Path) -> Fingerprint | None:
    with reading(path, CheckpointError, "as a record of images"):
        return Fingerprint.from_tensors(tensors)


def _digest(tensors: dict[str, torch.Tensor]) -> str:
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(tensors[name].contiguous().view(torch.uint8).numpy().data)
    return digest.hexdigest()
