"""Write an artifact to a temporary folder, verify it, then move it into place with its manifest."""

from __future__ import annotations

import datetime
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from resnets.config import ConfigError, dump_json, lock_path
from resnets.runtime.artifact import (
    SUFFIXES,
    Kind,
    artifact_files,
    file_sha256,
    manifest_path,
    versions,
)
from resnets.weights.checkpoint.find import find_checkpoint
from resnets.weights.checkpoint.format import CheckpointError


def write_verified(
    out: Path,
    kind: Kind,
    make: Callable[[Path], dict[str, Any]],
    weights: dict[str, Any],
    source: Path | None,
) -> dict[str, Any]:
    """Write `out` and its manifest, which is returned; nothing if `make` raises.

    make: writes the artifact to a path, verifies it and returns its manifest, to which source,
    versions, date and checksums are added. weights: where the model is from; source: its file.
    """
    if SUFFIXES.get(out.suffix.lower()) != kind:
        expected = next(suffix for suffix, each in SUFFIXES.items() if each == kind)
        raise ConfigError(f"--out {out}: a file for {kind} ends in {expected}")
    with (
        lock_path(out),
        tempfile.TemporaryDirectory(dir=out.parent, prefix=".export-") as folder,
    ):
        artifact = Path(folder, out.name)
        manifest = make(artifact)
        manifest |= {
            "source": {**weights, **_checksum(source)},
            "versions": versions(),
            "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "sha256": {file.name: file_sha256(file) for file in artifact_files(artifact)},
        }
        dump_json(manifest, manifest_path(artifact))
        for file in (*artifact_files(artifact)[1:], manifest_path(artifact), artifact):
            os.replace(file, out.with_name(file.name))
    return manifest


def _checksum(source: Path | None) -> dict[str, str]:
    try:
        return {} if source is None else {"sha256": file_sha256(find_checkpoint(source))}
    except CheckpointError:  # published models are not a single file
        return {}
