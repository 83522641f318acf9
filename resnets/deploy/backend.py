"""What predicts: one interface to an artefact's runtime and to a checkpoint's net in torch."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from resnets.config import ConfigError
from resnets.data.preprocess import Preprocessor
from resnets.deploy.artefact import SUFFIXES

Pictures = NDArray[np.uint8]
Scores = NDArray[np.float32]
Prefer = Literal["auto", "torch", "onnx", "openvino"]


class Backend(Protocol):
    """A classifier that is ready to compute, whatever computes it.

    name: what computes and how precisely, such as "openvino int8". classes: of the K outputs.
    Pictures come as the centre view that `preprocess.view` asks the decoder for: uint8
    (B, size, size, channels), RGB or grey. batch: pictures that are worth computing at once.
    Both methods may be called by several threads at a time.
    """

    name: str
    classes: tuple[str, ...]
    size: int
    channels: int
    preprocess: Preprocessor
    origin: str
    batch: int

    def logits(self, pictures: Pictures) -> Scores:
        """(B, K) float32 of pictures (B, size, size, channels) uint8."""
        ...

    def probabilities(self, pictures: Pictures) -> Scores:
        """The same after the softmax; rows sum to 1."""
        ...


def open_backend(
    path: str | Path, *, prefer: Prefer = "auto", device: str = "auto", precision: str = "auto"
) -> Backend:
    """The backend of an artefact (.onnx, .xml, .pt2), or of a run, checkpoint or published net.

    An artefact computes in its own runtime. A checkpoint computes in torch, its norms folded into
    its convolutions, in `precision` ("auto", "float32", "bfloat16") on `device`. Raises ConfigError
    where the two contradict each other or a package is missing, ArtefactError for a damaged file.
    """
    from resnets.deploy.engines import TorchEngine, open_artefact
    from resnets.weights.load import load

    kind = SUFFIXES.get(Path(path).suffix.lower())
    if kind is None:
        if prefer not in ("auto", "torch"):
            raise ConfigError(
                f"{path}: is a checkpoint, which torch computes; `resnets export --to {prefer}`"
                " makes an artefact of it"
            )
        return TorchEngine(load(path), device, precision)
    if prefer not in ("auto", kind):
        raise ConfigError(f"{path}: is for {kind}, not {prefer}")
    return open_artefact(Path(path), device=device, precision=precision)
