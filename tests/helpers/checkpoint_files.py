"""Checkpoints as single files, outside a run."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from resnets.weights.checkpoint.format import EncodedCheckpoint
from resnets.weights.checkpoint.store import FolderStore


def save_checkpoint(
    path: Path, tensors: Mapping[str, torch.Tensor], meta: Mapping[str, Any]
) -> None:
    """Write a checkpoint of these tensors and this metadata to `path`."""
    FolderStore(path.parent).write(path.name, EncodedCheckpoint(tensors, meta))
