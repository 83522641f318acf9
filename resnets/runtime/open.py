"""Opening an artifact in the runtime that its suffix names."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np

from resnets.config import ConfigError
from resnets.runtime.artifact import check_files
from resnets.runtime.base import ArtifactEngine, Engine

ROUNDS, LONG = 4, 0.1  # in which two engines take turns to show their speed; seconds of one


def open_artifact(path: Path, *, device: str = "auto", precision: str = "auto") -> ArtifactEngine:
    """The engine of an artifact whose files are what its card says.

    Raises ArtifactError, and ConfigError where it computes otherwise than it is told to.
    """
    if device not in ("auto", "cpu"):
        raise ConfigError(f"--device {device}: {path.name} computes on the CPU; use the checkpoint")
    check_files(path)
    engine = _open(path)
    if precision not in ("auto", engine.facts.precision):
        raise ConfigError(
            f"--precision {precision}: {path.name} computes in {engine.facts.precision}"
        )
    return engine


def _open(path: Path) -> ArtifactEngine:
    # Each runtime is imported when it is needed: each takes long, and may not be installed.
    suffix = path.suffix.lower()
    if suffix == ".onnx":
        from resnets.runtime.onnx import OnnxEngine

        return OnnxEngine(path)
    if suffix == ".xml":
        from resnets.runtime.openvino import OpenvinoEngine

        return OpenvinoEngine(path)
    from resnets.runtime.torch import ProgramEngine

    return ProgramEngine(path)


def times_as_fast(engine: Engine, other: Engine) -> float:
    """Speed of the first over that of the second, of their best rounds."""
    shape = (other.size, other.size, other.channels)
    pictures = np.zeros((min(engine.batch, other.batch), *shape), np.uint8)
    engines, best = (engine, other), [0.0, 0.0]
    for _ in range(1 + ROUNDS):  # the first warms up
        for place, each in enumerate(engines):
            start, done = time.perf_counter(), 0
            while (spent := time.perf_counter() - start) < LONG or not done:
                each.logits(pictures)
                done += 1
            best[place] = max(best[place], done / spent)
    return best[0] / best[1]
