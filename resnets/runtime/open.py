"""Open an artifact in the runtime given by its suffix."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np

from resnets.runtime.artifact import ArtifactError, check_artifact_files, check_artifact_options
from resnets.runtime.base import ArtifactBackend, Backend
from resnets.utils.errors import reading

ROUNDS, ROUND_SECONDS = 4, 0.1  # interleaved timing rounds of two backends


def open_artifact(path: Path, *, device: str = "auto", precision: str = "auto") -> ArtifactBackend:
    """Open an artifact after checking its files against the manifest.

    Raises ArtifactError, and ConfigError if it does not support the device or precision.
    """
    check_artifact_files(path)
    with reading(path, ArtifactError, remedy="export again"):
        backend = _open(path)
    check_artifact_options(path, backend.metadata.precision, device, precision)
    return backend


def _open(path: Path) -> ArtifactBackend:
    # Imported on demand: each runtime takes long to import and may not be installed.
    suffix = path.suffix.lower()
    if suffix == ".onnx":
        from resnets.runtime.onnx import OnnxBackend

        return OnnxBackend(path)
    if suffix == ".xml":
        from resnets.runtime.openvino import OpenvinoBackend

        return OpenvinoBackend(path)
    if suffix == ".pte":
        from resnets.runtime.executorch import ExecutorchBackend

        return ExecutorchBackend(path)
    from resnets.runtime.torch import ProgramBackend

    return ProgramBackend(path)


def measure_relative_speed(backend: Backend, other: Backend) -> float:
    """Return the throughput of `backend` relative to `other`, from the best round of each."""
    shape = (other.size, other.size, other.channels)
    images = np.zeros((min(backend.batch, other.batch), *shape), np.uint8)
    backends, best = (backend, other), [0.0, 0.0]
    for _ in range(1 + ROUNDS):  # the first warms up
        for index, each in enumerate(backends):
            start, done = time.perf_counter(), 0
            while (elapsed := time.perf_counter() - start) < ROUND_SECONDS or not done:
                each.logits(images)
                done += 1
            best[index] = max(best[index], done / elapsed)
    return best[0] / best[1]
