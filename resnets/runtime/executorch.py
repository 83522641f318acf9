"""ExecuTorch on the CPU, with XNNPACK: .pte files, as on phones and edge devices."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import torch

from resnets.runtime.artifact import ArtifactError, ArtifactMetadata
from resnets.runtime.base import ArtifactBackend, Images, Scores, open_error
from resnets.utils.imports import require_package

MAX_BATCH = 8  # images; memory for that many is reserved
METADATA_METHOD = "resnets"  # of a program; returns `ArtifactMetadata` as JSON in bytes


class ExecutorchBackend(ArtifactBackend):
    """A .pte file in ExecuTorch."""

    settings = {"largest_batch": MAX_BATCH}  # noqa: RUF012 (constant)

    def __init__(self, path: Path) -> None:
        require_package("executorch", f"{path}:", "executorch")
        from executorch.runtime import Runtime

        try:
            program = Runtime.get().load_program(path)
            if METADATA_METHOD not in program.method_names:
                raise ArtifactError(f"{path}: was not written by `resnets export`")
            (described,) = program.load_method(METADATA_METHOD).execute([])
            self.method = program.load_method("forward")
        except (RuntimeError, ValueError) as error:
            raise open_error(path, error) from None
        metadata = ArtifactMetadata.from_json(bytes(described.numpy()).decode(), path)
        super().__init__(metadata, path)
        self.program = program  # owns the memory of its methods
        self.batch = MAX_BATCH
        self.lock = threading.Lock()

    def _compute(self, images: Images) -> Scores:
        chunks = [images[at : at + MAX_BATCH] for at in range(0, len(images), MAX_BATCH)]
        return np.concatenate([self._compute_chunk(each) for each in chunks])

    def _compute_chunk(self, images: Images) -> Scores:
        # A copy into a new tensor, whose strides of dimensions of size 1 are the usual ones.
        tensor = torch.empty(images.shape, dtype=torch.uint8).copy_(torch.from_numpy(images))
        with self.lock:
            scores: Scores = self.method.execute([tensor])[0].numpy().copy()
        return scores
