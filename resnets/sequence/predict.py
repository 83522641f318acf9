"""Predict with models of sequences: generate text, and classify signals."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from os import PathLike, fspath
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from resnets.config import ConfigError
from resnets.data.decode.arrays import to_array
from resnets.data.errors import DataError
from resnets.data.transforms.preprocess import ImageInput
from resnets.evaluate.prepare import to_device
from resnets.models.block_config import eval_mode
from resnets.models.transformer.network import Transformer
from resnets.sequence.load import SequenceModel, SignalNetwork, load_sequence_model
from resnets.sequence.signals import Floats, as_signals, cut_windows, read_csv, read_npz
from resnets.sequence.text import encode
from resnets.utils.errors import reading
from resnets.weights.given import copy_for_inference

BATCH = 256


def predict_sequences(
    weights: str | SequenceModel, inputs: Sequence[ImageInput], *, length: int, device: str
) -> Iterator[SignalPrediction | str]:
    """Yield each text with `length` further characters, or the class of each signal, in order.

    Args:
        weights: A path, or a loaded model, which is copied.
        inputs: Texts; or files of signals and arrays (N, L) or (N, C, L).
        length: Number of characters to generate.
        device: Device, such as "cpu".

    Raises ConfigError and DataError.
    """
    model: SequenceModel
    if isinstance(weights, str):
        model = load_sequence_model(weights)
    else:
        model = copy_for_inference(weights)
    to_device(model, device, "float32")
    if isinstance(model, Transformer):
        return (generate(model, _to_text(each), length) for each in inputs)
    return _classify_signals(model, inputs)


def _to_text(value: ImageInput) -> str:
    if not isinstance(value, str):
        raise ConfigError(
            f"images: {type(value).__name__} is not a string; this is a model of text"
        )
    return value


def _classify_signals(
    model: SignalNetwork, inputs: Sequence[ImageInput]
) -> Iterator[SignalPrediction]:
    for number, each in enumerate(inputs):
        if isinstance(each, np.ndarray | torch.Tensor):
            yield from predict_signals(model, Path(f"signals {number}"), to_array(each))
        elif isinstance(each, str | PathLike):
            yield from predict_signals(model, Path(fspath(each)))
        else:
            raise ConfigError(
                f"images: {type(each).__name__} is not a file of signals or an array (N, C, L)"
            )


def generate(
    model: Transformer, prompt: str, count: int, *, temperature: float = 1.0, seed: int = 0
) -> str:
    """Return `prompt` and `count` more characters, each sampled from the predictions of `model`.

    temperature: divides the logits; 0 takes the most probable character. Raises DataError for
    characters that the model does not know, and ConfigError for an empty prompt.
    """
    if not prompt:
        raise ConfigError("prompt: give at least one character")
    device = next(model.parameters()).device
    codes = encode(prompt, model.classes, "prompt").tolist()
    random = torch.Generator().manual_seed(seed)
    with eval_mode(model), torch.inference_mode():
        for _ in range(count):
            context = torch.tensor([codes[-model.spec.context :]], device=device)
            logits = model(context)[0, -1].float().cpu()
            if temperature == 0:
                codes.append(int(logits.argmax()))
            else:
                probabilities = (logits / temperature).softmax(-1)
                codes.append(int(torch.multinomial(probabilities, 1, generator=random)))
    return "".join(model.classes[code] for code in codes)


@dataclass(frozen=True)
class SignalPrediction:
    """The most probable class of signal `row` (from 0) of a file, or of its window."""

    path: Path
    row: int
    name: str
    probability: float


def predict_signals(
    model: SignalNetwork, path: Path, values: NDArray[Any] | None = None
) -> list[SignalPrediction]:
    """Classify each signal of a file: .csv as for training, .npy, or the array `x` of an .npz.

    The column of labels may be missing and is not used. values: signals in memory, (N, L) or
    (N, C, L), that are called `path`. Raises DataError if the channels or the
    length of the signals differ from those of the training data.
    """
    values = _read_signals(model, path) if values is None else as_signals(values, str(path))
    expected = (model.spec.in_channels, model.spec.input_size)
    if values.shape[1:] != expected:
        raise DataError(
            f"{path}: signals of {values.shape[1]} x {values.shape[2]} (channels x steps); the"
            f" model reads {expected[0]} x {expected[1]}"
        )
    device = next(model.parameters()).device
    top_classes: list[tuple[int, float]] = []
    with eval_mode(model), torch.inference_mode():
        for start in range(0, len(values), BATCH):
            part = torch.from_numpy(np.ascontiguousarray(values[start : start + BATCH]))
            top = model(part.to(device)).softmax(1).max(1)
            top_classes += zip(top.indices.tolist(), top.values.tolist(), strict=True)
    return [
        SignalPrediction(path, row, model.classes[code], probability)
        for row, (code, probability) in enumerate(top_classes)
    ]


def _read_signals(model: SignalNetwork, path: Path) -> Floats:
    spec = model.recipe.signal
    if path.suffix == ".npz":
        return as_signals(read_npz(str(path), ("x",))[0], str(path))
    if path.suffix == ".npy":
        with reading(path, DataError, "as a NumPy array"):  # a map is not longer than the file
            array = np.array(np.load(path, mmap_mode="r", allow_pickle=False))
        return as_signals(array, str(path))
    columns = model.spec.in_channels if spec.window else model.spec.input_size
    values, _ = read_csv(str(path), spec, columns=columns)
    return cut_windows(values[0].T, spec) if spec.window else values
