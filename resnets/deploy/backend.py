"""What predicts: one interface to an artefact's runtime and to a checkpoint's net in torch."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from resnets import host
from resnets.config import ConfigError
from resnets.data.preprocess import Preprocessor
from resnets.deploy.artefact import SUFFIXES
from resnets.weights.load import NOTHING_SAID, LoadOptions

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


def open_backend(
    path: str | Path,
    *,
    backend: Runtime = "auto",
    device: str = "auto",
    precision: str = "auto",
    pictures: int | None = 1,
    calibrate: str | None = None,
    max_drop: float = 0.5,
    loading: LoadOptions = NOTHING_SAID,
    say: Callable[[str], None] = lambda _: None,
) -> Backend:
    """The backend of an artefact (.onnx, .xml, .pt2), or of a run, checkpoint or published net.

    An artefact computes in its own runtime. A checkpoint computes in torch on an accelerator; on
    the CPU "auto" takes the fastest runtime that is installed, that has proved to compute the same,
    and whose preparation pays for so many `pictures` (None: no end of them); see
    `deploy/choose.py`. `precision` is "auto", "float32", "bfloat16", or "int8", which is calibrated
    and measured on the set `calibrate` and may lose `max_drop` points of top-1 error there.
    loading: what the user says of weights that do not say it. `say` hears of what takes seconds.

    Raises ConfigError where the options contradict each other or a package is missing,
    ArtefactError for a damaged file, `prove.Refused` for what was asked for by name and failed.
    """
    from resnets.deploy.engines import TorchEngine, open_artefact
    from resnets.weights.load import load_model

    kind = SUFFIXES.get(Path(path).suffix.lower())
    if kind is not None:
        if backend not in ("auto", kind):
            raise ConfigError(f"{path}: is for {kind}, not {backend}")
        if calibrate is not None:
            raise ConfigError(f"--calibrate: {path} is exported already; name its checkpoint")
        if loading != NOTHING_SAID:
            raise ConfigError(f"--model, --classes: {path} is exported, and says them itself")
        return open_artefact(Path(path), device=device, precision=precision)
    chosen = host.pick_device(device)
    if calibrate is not None and precision != "int8":
        raise ConfigError("--calibrate: is for --precision int8")
    if chosen.type != "cpu":
        if backend not in ("auto", "torch") or precision == "int8":
            raise ConfigError(f"--device {chosen}: torch computes there, in float32 or bfloat16")
        return TorchEngine(load_model(path, loading), device, precision)
    from resnets.deploy.choose import Chooser

    net = load_model(path, loading)
    chooser = Chooser(net, str(path), precision, pictures, calibrate, max_drop, say)
    return chooser.choose(backend)


def described(backend: Backend) -> str:
    """What computes and, where there was a choice, why: for a line to people."""
    return f"{backend.name} ({backend.note})" if backend.note else backend.name
