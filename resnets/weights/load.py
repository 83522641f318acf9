"""From a run, checkpoint or published net to one that is ready to use, with its preprocessing."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from resnets.config import ConfigError, stored_recipe
from resnets.models import Net, build
from resnets.weights import folder, hub
from resnets.weights.checkpoint import CheckpointError, find_checkpoint, read_checkpoint
from resnets.weights.files import Weights, read_folder, read_preprocess
from resnets.weights.initial import net_from, recognise
from resnets.weights.store_url import named


def load(where: str | Path) -> Net:
    """The net of a run, checkpoint or pushed folder, in eval mode, float32, on the CPU.

    Runs and checkpoints may lie behind a URL that fsspec opens.
    A run gives its best checkpoint on validation, or its last where it had no validation split;
    averaged (EMA) weights are taken where the run kept them. The net carries `.preprocess`
    (a `Preprocessor`), `.classes`, `.recipe` and `.origin` (file, step and kind of weights).
    Published nets are loaded by name: "hub:ORG/NAME", "timm:resnet50.a1_in1k",
    "torchvision:resnet50.IMAGENET1K_V2"; classes without names are called "0", "1", ...
    Raises CheckpointError, WeightsError, and ConfigError for an unknown name.
    """
    if hub.is_library(str(where)):
        return _published(hub.read_library(str(where)))
    if (Path(where) / folder.CONFIG).is_file():
        return _published(read_folder(Path(where), str(where)))
    path = find_checkpoint(where)
    checkpoint = read_checkpoint(path)
    recipe = stored_recipe(checkpoint.meta["recipe"], where=str(path))
    net = build(recipe.model)
    averaged = checkpoint.group("ema")
    load_weights(net, averaged or checkpoint.group("model"), path)
    net.preprocess = read_preprocess(checkpoint)
    net.classes = tuple(checkpoint.meta["classes"])
    net.recipe = recipe
    kind = ", averaged weights" if averaged or checkpoint.meta.get("averaged") else ""
    net.origin = f"{path.name} (step {checkpoint.meta['step']:,}{kind})"
    return net.eval()


def _published(weights: Weights) -> Net:
    """The net that the source of `weights` says they are of, with its own head."""
    spec = weights.spec
    if spec is None or weights.preprocess is None:
        raise ConfigError(
            f"{weights.source}: does not say of which net it is; "
            f"use resnets.create_model(NET, weights={weights.source!r})"
        )
    net = net_from(recognise(weights, spec), spec, whole=True)
    net.classes = net.classes or tuple(map(str, range(spec.num_classes)))
    net.recipe = weights.recipe
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
            f"{named(path)}: holds another architecture than {name}: "
            f"{len(wrong)} tensors differ ({shown})"
        )
    net.load_state_dict(weights)
