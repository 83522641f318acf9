"""What a model of sequences says: text that it writes, and classes of signals."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from resnets.config import ConfigError
from resnets.data.errors import DataError
from resnets.models.block_config import eval_mode
from resnets.models.transformer.network import Transformer
from resnets.sequence.load import SignalNetwork
from resnets.sequence.signals import Floats, as_signals, read_csv, windows
from resnets.sequence.text import encode
from resnets.utils.errors import reading

BATCH = 256


def generate(
    model: Transformer, prompt: str, count: int, *, temperature: float = 1.0, seed: int = 0
) -> str:
    """`prompt` and `count` further characters, each drawn from what `model` predicts.

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
            given = torch.tensor([codes[-model.spec.context :]], device=device)
            logits = model(given)[0, -1].float().cpu()
            if temperature == 0:
                codes.append(int(logits.argmax()))
            else:
                shares = (logits / temperature).softmax(-1)
                codes.append(int(torch.multinomial(shares, 1, generator=random)))
    return "".join(model.classes[code] for code in codes)


@dataclass(frozen=True)
class SignalPrediction:
    """The most probable class of signal `row` (from 0) of a file, or of its window."""

    path: Path
    row: int
    name: str
    probability: float


def predict_signals(model: SignalNetwork, path: Path) -> list[SignalPrediction]:
    """The class of each signal of a file: .csv as for training, .npy, or `x` of an .npz.

    The column of the label may be missing, and is not read. Raises DataError where signals have
    other channels or another length than the model was trained on.
    """
    values = _read(model, path)
    expected = (model.spec.in_channels, model.spec.input_size)
    if values.shape[1:] != expected:
        raise DataError(
            f"{path}: signals of {values.shape[1]} x {values.shape[2]} (channels x steps); the"
            f" model reads {expected[0]} x {expected[1]}"
        )
    device = next(model.parameters()).device
    found: list[tuple[int, float]] = []
    with eval_mode(model), torch.inference_mode():
        for start in range(0, len(values), BATCH):
            part = torch.from_numpy(np.ascontiguousarray(values[start : start + BATCH]))
            top = model(part.to(device)).softmax(1).max(1)
            found += zip(top.indices.tolist(), top.values.tolist(), strict=True)
    return [
        SignalPrediction(path, row, model.classes[code], share)
        for row, (code, share) in enumerate(found)
    ]


def _read(model: SignalNetwork, path: Path) -> Floats:
    spec = model.recipe.signal
    if path.suffix in (".npy", ".npz"):
        with reading(path, DataError, "as NumPy arrays"):
            found = np.load(path, allow_pickle=False)
            return as_signals(found if path.suffix == ".npy" else found["x"], str(path))
    columns = model.spec.in_channels if spec.window else model.spec.input_size
    values, _ = read_csv(str(path), spec, columns=columns)
    return windows(values[0].T, spec) if spec.window else values
