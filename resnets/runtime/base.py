"""What predicts: one interface to an artifact's runtime and to a checkpoint's net in torch."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from resnets.config import Recipe
from resnets.data.transforms.preprocess import Preprocessor
from resnets.evaluate.batch_size import Budget
from resnets.runtime.artifact import ArtifactError, ArtifactMetadata

Pictures = NDArray[np.uint8]
Scores = NDArray[np.float32]
Runtime = Literal["auto", "torch", "onnx", "openvino"]


class Backend(Protocol):
    """A classifier that is ready to compute, whatever computes it.

    name: what computes and how precisely, such as "openvino int8". classes: of the K outputs.
    Pictures come as the centre view that `preprocess.view` asks the decoder for: uint8
    (B, size, size, channels), RGB or grey. batch: pictures that are worth computing at once;
    at_once: batches that are, by threads of the caller.
    note: why this computes and nothing faster, for people; "" where there was no choice.
    Both methods may be called by several threads at a time.
    """

    name: str
    classes: tuple[str, ...]
    size: int
    channels: int
    preprocess: Preprocessor
    origin: str
    batch: int
    at_once: int
    note: str

    def logits(self, pictures: Pictures) -> Scores:
        """(B, K) float32 of pictures (B, size, size, channels) uint8."""
        ...

    def probabilities(self, pictures: Pictures) -> Scores:
        """The same after the softmax; rows sum to 1."""
        ...


def described(backend: Backend) -> str:
    """What computes and, where there was a choice, why: for a line to people."""
    return f"{backend.name} ({backend.note})" if backend.note else backend.name


class Engine(ABC):
    """What all backends share; see `runtime.base.Backend`. Safe to call from several threads."""

    def __init__(
        self,
        name: str,
        classes: tuple[str, ...],
        preprocess: Preprocessor,
        origin: str,
        recipe: Recipe | None = None,
    ) -> None:
        spec = preprocess.spec
        self.name, self.classes, self.preprocess, self.origin = name, classes, preprocess, origin
        self.recipe, self.size, self.channels = recipe, spec.size, spec.channels
        self.batch = Budget(torch.device("cpu")).pictures(spec.size**2)
        self.note, self.at_once = "", 1

    @abstractmethod
    def _compute(self, pictures: Pictures) -> Scores:
        """Logits (B, K) of pictures of the right shape."""

    def logits(self, pictures: Pictures) -> Scores:
        """(B, K) float32 of pictures (B, size, size, channels) uint8."""
        wanted = (self.size, self.size, self.channels)
        if pictures.dtype != np.uint8 or pictures.shape[1:] != wanted or not len(pictures):
            raise ValueError(
                f"pictures {pictures.dtype} {pictures.shape}: {self.name} takes uint8 (B, "
                + ", ".join(map(str, wanted))
                + ")"
            )
        return self._compute(np.ascontiguousarray(pictures))

    def probabilities(self, pictures: Pictures) -> Scores:
        """The same after the softmax; rows sum to 1."""
        logits = self.logits(pictures)
        shares = np.exp(logits - logits.max(1, keepdims=True))
        scores: Scores = shares / shares.sum(1, keepdims=True)
        return scores


class ArtifactEngine(Engine):
    """An engine of an artifact, which says of itself what it is."""

    def __init__(self, facts: ArtifactMetadata, path: Path) -> None:
        self.facts = facts
        super().__init__(
            f"{facts.kind} {facts.precision}",
            facts.classes,
            facts.preprocessor,
            f"{path.name} (of {facts.origin})",
            facts.recipe,
        )

    def whole(self, picture: Pictures) -> Scores | None:
        """Logits (K,) of a picture (H, W, C) that the graph scales and crops; None where it cannot.

        For the proof: whoever predicts has the decoder do this, which need not give all pixels.
        """
        return None


def unreadable(path: Path, error: Exception) -> ArtifactError:
    """What to raise where a runtime cannot open `path`."""
    reason = (str(error).strip().splitlines() or [type(error).__name__])[-1]
    return ArtifactError(f"{path}: cannot be opened ({reason.strip()[:200]})")
