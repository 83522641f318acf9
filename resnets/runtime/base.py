"""`Backend`, the interface of all inference runtimes: artifacts and PyTorch models."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from resnets.config import SOFTMAX, Postprocess, Recipe
from resnets.data.transforms.preprocess import Preprocessor
from resnets.evaluate.batched_inference import PixelBudget
from resnets.runtime.artifact import ArtifactError, ArtifactMetadata

Images = NDArray[np.uint8]
Scores = NDArray[np.float32]
Runtime = Literal["auto", "torch", "onnx", "openvino"]


class Backend(ABC):
    """A classifier ready for inference on one runtime: an artifact, or a PyTorch model.

    name: runtime and precision, such as "openvino int8". classes: names of the K outputs.
    preprocess: how images are decoded; inputs are center crops for its `view`, uint8 (B, size,
    size, channels), RGB or grayscale. postprocess: what the logits mean
    (`evaluate.postprocess.decide`). batch: the preferred batch size. at_once: batches that the
    caller should run concurrently, in its own threads. note: why this backend was selected, for the
    log; "" if there was no choice. `logits` is thread-safe.
    """

    def __init__(
        self,
        name: str,
        classes: tuple[str, ...],
        preprocess: Preprocessor,
        origin: str,
        recipe: Recipe | None = None,
        postprocess: Postprocess = SOFTMAX,
    ) -> None:
        spec = preprocess.spec
        self.postprocess = postprocess
        self.name, self.classes, self.preprocess, self.origin = name, classes, preprocess, origin
        self.recipe, self.size, self.channels = recipe, spec.size, spec.channels
        self.batch = PixelBudget(torch.device("cpu")).images(spec.size**2)
        self.note, self.at_once = "", 1

    @abstractmethod
    def _compute(self, images: Images) -> Scores:
        """Logits (B, K) of images whose shape has been checked."""

    def logits(self, images: Images) -> Scores:
        """(B, K) float32 of images (B, size, size, channels) uint8, float32 where bits are kept."""
        expected = (self.size, self.size, self.channels)
        dtype = np.float32 if self.preprocess.spec.keep_bits else np.uint8
        if images.dtype != dtype or images.shape[1:] != expected or not len(images):
            raise ValueError(
                f"images {images.dtype} {images.shape}: {self.name} takes {np.dtype(dtype)} (B, "
                + ", ".join(map(str, expected))
                + ")"
            )
        return self._compute(np.ascontiguousarray(images))


class ArtifactBackend(Backend):
    """A backend that executes an artifact and has its metadata.

    settings: options of its runtime that its outputs depend on, for the manifest.
    """

    settings: Mapping[str, Any] = MappingProxyType({})

    def __init__(self, metadata: ArtifactMetadata, path: Path) -> None:
        if metadata.task != "classify":
            raise ArtifactError(
                f"{path}: is not a classifier; keep its manifest {path.name}.json, which specifies"
                " its task, next to it"
            )
        self.metadata = metadata
        super().__init__(
            f"{metadata.kind} {metadata.precision}",
            metadata.classes,
            metadata.preprocessor,
            f"{path.name} (of {metadata.origin})",
            metadata.recipe,
            metadata.postprocess,
        )

    def full_image_logits(self, image: Images) -> Scores | None:
        """Return logits (K,) of an image (H, W, C) that the graph resizes; None if it cannot.

        Used for verification. In prediction the decoder resizes, which can skip pixels.
        """
        return None


def describe_backend(backend: Backend) -> str:
    """Return the name of the backend and, if there was a choice, the reason, for log lines."""
    return f"{backend.name} ({backend.note})" if backend.note else backend.name


def open_error(path: Path, error: Exception) -> ArtifactError:
    """Return the exception to raise if a runtime cannot open `path`."""
    reason = (str(error).strip().splitlines() or [type(error).__name__])[-1]
    return ArtifactError(f"{path}: cannot be opened ({reason.strip()[:200]})")
