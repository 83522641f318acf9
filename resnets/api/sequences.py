"""`resnets.predict` for models of text and signals."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from os import PathLike, fspath
from pathlib import Path

import numpy as np

from resnets.config import ConfigError
from resnets.data.transforms.preprocess import ImageInput
from resnets.evaluate.prepare import to_device
from resnets.models.transformer.network import Transformer
from resnets.sequence.load import SignalNetwork, load_sequence_model
from resnets.sequence.predict import SignalPrediction, generate, predict_signals

SequenceModel = Transformer | SignalNetwork


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
    model = load_sequence_model(weights) if isinstance(weights, str) else copy.deepcopy(weights)
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
        if isinstance(each, np.ndarray):
            yield from predict_signals(model, Path(f"signals {number}"), each)
        elif isinstance(each, str | PathLike):
            yield from predict_signals(model, Path(fspath(each)))
        else:
            raise ConfigError(
                f"images: {type(each).__name__} is not a file of signals or an array (N, C, L)"
            )
