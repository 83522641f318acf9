"""From a run or checkpoint to a net that is ready to use, with its preprocessing and classes."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from resnets.config import Preprocess, Recipe, from_dict
from resnets.data.preprocess import Preprocessor
from resnets.models import Net, build
from resnets.weights.checkpoint import (
    Checkpoint,
    CheckpointError,
    find_checkpoint,
    read_checkpoint,
)


def load(where: str | Path) -> Net:
    """The net of a run folder or checkpoint, in eval mode, in float32 on the CPU.

    A run gives its best checkpoint on validation, or its last where it had no validation split;
    averaged (EMA) weights are taken where the run kept them. The net carries `.preprocess`
    (a `Preprocessor`), `.classes`, `.recipe` and `.origin` (file, step and kind of weights).
    Raises CheckpointError.
    """
    path = find_checkpoint(where)
    checkpoint = read_checkpoint(path)
    recipe = from_dict(Recipe, checkpoint.meta["recipe"], where=str(path))
    net = build(recipe.model)
    averaged = checkpoint.group("ema")
    load_weights(net, averaged or checkpoint.group("model"), path)
    net.preprocess = read_preprocess(checkpoint)
    net.classes = tuple(checkpoint.meta["classes"])
    net.recipe = recipe
    kind = ", averaged weights" if averaged or checkpoint.meta.get("averaged") else ""
    net.origin = f"{path.name} (step {checkpoint.meta['step']:,}{kind})"
    return net.eval()


def load_weights(net: nn.Module, weights: dict[str, torch.Tensor], path: Path) -> None:
    """Copy `weights` into `net`; CheckpointError names the first tensors that do not fit."""
    own = net.state_dict()
    wrong = [
        name
        for name in sorted(own.keys() | weights.keys())
        if name not in own or name not in weights or own[name].shape != weights[name].shape
    ]
    if wrong:
        shown = ", ".join(wrong[:3]) + (" ..." if len(wrong) > 3 else "")
        name = net.spec.name if isinstance(net, Net) else "this model"
        raise CheckpointError(
            f"{path}: holds another architecture than {name}: "
            f"{len(wrong)} tensors differ ({shown})"
        )
    net.load_state_dict(weights)


def read_preprocess(checkpoint: Checkpoint) -> Preprocessor:
    """The preprocessing stored with the weights."""
    spec = from_dict(Preprocess, checkpoint.meta["preprocess"], where=str(checkpoint.path))
    return Preprocessor(spec, checkpoint.tensors.get("preprocess/mean_image"))
