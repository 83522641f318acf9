"""`load`: a model from a run, checkpoint, folder or published weights, ready to use."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from os import PathLike, fspath
from pathlib import Path
from typing import Literal

import safetensors
import torch
from torch import nn

from resnets.config import ConfigError, ModelSpec, Preprocess
from resnets.data.transforms.preprocess import Preprocessor
from resnets.models import ImageClassifier, build, catalog
from resnets.weights import folder, hub
from resnets.weights.adapt import CIFAR_SIZE, stated_preprocess
from resnets.weights.check_values import check_values, known_network
from resnets.weights.checkpoint.find import as_file, open_checkpoint
from resnets.weights.checkpoint.format import (
    FOLDER,
    Checkpoint,
    CheckpointError,
    read_run_checkpoint,
)
from resnets.weights.checkpoint.image_record import read_fingerprint
from resnets.weights.checkpoint.remote_store import display_path
from resnets.weights.create import net_from, recognize
from resnets.weights.custom_model import MODEL_KEYS, MakeModel, build_custom
from resnets.weights.errors import WeightsError
from resnets.weights.heads import no_names, read_classes, same_classes
from resnets.weights.lazy_tensors import naming
from resnets.weights.name_maps.matching_models import join_or, matching_models
from resnets.weights.read import (
    Weights,
    chosen_group,
    read_folder,
    read_path,
    read_postprocess,
    read_preprocess,
    split_part,
)
from resnets.weights.readers.safetensors_file import read_metadata
from resnets.weights.readers.unsupported_file import refuse_folder

log = logging.getLogger("resnets")

CIFAR_KERNEL = 3  # px
SHOWN = 3  # names of classes in a message


@dataclass(frozen=True)
class LoadOptions:
    """Options of every command for weights that do not state them.

    model: catalog name of the model. classes: names of its outputs, as for `heads.read_classes`;
    without `rename`, only for outputs without names.
    """

    model: str | None = None
    classes: str | None = None
    rename: bool = True


NOTHING_SAID = LoadOptions()


def load(
    where: str | PathLike[str],
    model: str | nn.Module | MakeModel | None = None,
    classes: str | Sequence[str] | None = None,
) -> ImageClassifier:
    """The model of a run, checkpoint, pushed folder or file, in eval mode, float32, on the CPU.

    Runs and checkpoints may be at a URL that fsspec opens.
    A run gives its best checkpoint on validation, or its last if it had no validation split, and
    averaged (EMA) weights if the run has them. The model has `.preprocess` (a `Preprocessor`),
    `.postprocess`, `.classes`, `.recipe` and `.origin` (file, step and kind of weights).
    Published models are loaded by name: "hub:ORG/NAME", "timm:resnet50.a1_in1k",
    "torchvision:resnet50.IMAGENET1K_V2".

    model: the network of a file that does not say it, such as a state dict; anything that
    `create_model` takes as `weights` is taken here then. For a run of a network from outside the
    package: that network, an `nn.Module` which gets the weights, or the function that makes it from
    a `ModelSpec`; ConfigError names its classes where it is missing. classes: names of the
    outputs, in their order: a sequence, or text as `--classes` takes it. Outputs that nobody names
    are called "0", "1", .... Preprocessing that a file does not say is assumed, and logged.

    Raises CheckpointError, WeightsError, and ConfigError for an unknown name or another network.
    """
    if model is None or isinstance(model, str):
        return _load(fspath(where), model, classes, "head")
    path = as_file(fspath(where))
    checkpoint = open_checkpoint(fspath(where)) if path is None else read_run_checkpoint(path)
    with naming(display_path(checkpoint.path)):
        return _net_of(checkpoint, fspath(where), None, None, classes, model)


def load_model(
    where: str | Path,
    options: LoadOptions = LoadOptions(),
    need: Literal["names", "head", "body"] = "names",
) -> ImageClassifier:
    """`load` for commands, with their options.

    need: "names" refuses outputs without names; "body" accepts weights without a head, for
    features.
    """
    return _load(where, options.model, options.classes, need, options.rename)


Need = Literal["names", "head", "body"]


def _load(
    where: str | Path,
    model: str | None,
    classes: str | Sequence[str] | None,
    need: Need,
    rename: bool = True,
) -> ImageClassifier:
    source = str(where)
    if hub.is_library(source):
        spec = None if model is None else catalog.spec(model)
        return _published(hub.read_library(source, spec), model, classes, need, rename)
    place, part = split_part(source)
    if (Path(place).expanduser() / folder.CONFIG).is_file():
        found = dataclasses.replace(read_folder(Path(place).expanduser(), source), part=part)
        return _published(found, model, classes, need, rename)
    path = as_file(place)
    if path is None and Path(place).expanduser().is_dir():
        refuse_folder(Path(place).expanduser())
    if path is not None and not _is_ours(path):
        found = read_path(str(path) if part is None else f"{path}#{part}")
        found = dataclasses.replace(found, source=source)
        return _published(found, model, classes, need, rename)
    checkpoint = open_checkpoint(place) if path is None else read_run_checkpoint(path)
    with naming(display_path(checkpoint.path)):
        return _net_of(checkpoint, source, part, model, classes if rename else None)


def _net_of(
    checkpoint: Checkpoint,
    source: str,
    part: str | None,
    model: str | None,
    classes: str | Sequence[str] | None,
    custom: nn.Module | MakeModel | None = None,
) -> ImageClassifier:
    """The model of one of our own checkpoints; `classes` are other names for its outputs.

    custom: its network, where that is from outside the package.
    """
    recipe, path = checkpoint.recipe, checkpoint.path
    if recipe.task != "classify":
        raise ConfigError(
            f"{source}: is for task {recipe.task}, not a classifier; `evaluate` and `predict` take"
            " its path"
        )
    if model is not None:
        _check_model(source, recipe.model, catalog.spec(model))
    missing = [name for key, name in (recipe.custom or {}).items() if key in MODEL_KEYS]
    if custom is not None:
        net, _ = build_custom(custom, recipe.model)
    elif missing:
        raise ConfigError(
            f"{display_path(path)}: its network is from outside the package ({', '.join(missing)});"
            f" give it, in Python: resnets.load({source!r}, model=...)"
        )
    else:
        net = build(recipe.model)
    averaged = checkpoint.group("ema") if part in (None, "ema") else {}
    load_weights(net, chosen_group(checkpoint, part, source), path)
    check_values(net.state_dict(), display_path(path))
    net.preprocess = read_preprocess(checkpoint)
    net.classes = checkpoint.classes
    net.postprocess = read_postprocess(checkpoint)
    if len(net.classes) != recipe.model.num_classes:
        raise CheckpointError(
            f"{display_path(path)}: names {len(net.classes)} classes, but its network has"
            f" {recipe.model.num_classes} outputs"
        )
    if classes is not None:
        net.classes = read_classes(classes, recipe.model.num_classes, source)
    net.recipe = recipe
    net.fingerprint = read_fingerprint(checkpoint)
    kind = ", averaged weights" if averaged or checkpoint.meta.get("averaged") else ""
    net.origin = f"{path.name} (step {checkpoint.step:,}{kind})"
    return net.eval()


def _is_ours(path: Path) -> bool:
    """Whether a file is a checkpoint of resnets, possibly damaged."""
    try:
        return "resnets" in read_metadata(path)
    except (safetensors.SafetensorError, OSError):
        return path.parent.name == FOLDER


def says_model(where: str | Path) -> bool:
    """Whether weights state their model."""
    place, _ = split_part(str(where))
    if hub.is_library(place):
        return True
    try:
        path = as_file(place)
    except (CheckpointError, ConfigError):
        return True  # whoever loads them says what is wrong
    return path is None or _is_ours(path)


def _published(
    weights: Weights,
    model: str | None,
    classes: str | Sequence[str] | None,
    need: Need,
    rename: bool,
) -> ImageClassifier:
    """The model that `weights` or the user states, with the head of the weights."""
    source, spec = weights.source, weights.spec
    if spec is None:
        spec = _said(weights, model)
        weights = recognize(weights, spec)
        spec = _sized(weights, spec, need)
    elif model is not None:
        _check_model(source, spec, catalog.spec(model))
        weights = recognize(weights, spec)
    else:
        weights = recognize(weights, spec)
    if spec.num_classes == 1 and need != "body":
        raise WeightsError(
            f"{source}: has one output, as of a sigmoid; classes here are told apart by a softmax,"
            " which makes 1 of any single output. Save a head of two outputs: weight 0 and bias 0"
            " for the first, its own for the second"
        )
    net = net_from(weights, spec, whole=need != "body")
    count = spec.num_classes
    if classes is not None and (rename or not net.classes):
        named_there = net.classes
        net.classes = read_classes(classes, count, source)
        named_there = named_there or _same_names(weights, net.classes)
        warn_of_names(source, named_there, net.classes)
    if not net.classes:
        if need == "names":
            raise no_names(source, count)
        net.classes = tuple(map(str, range(count)))
    assumed = net.preprocess is None or weights.assumed
    if net.preprocess is None:
        net.preprocess = Preprocessor(stated_preprocess(weights, net.spec))
    if assumed or need != "head":  # commands say what they understood, calls what they assumed
        _state(net, assumed, weights)
    net.recipe = weights.recipe
    return net.eval()


def _same_names(weights: Weights, given: Sequence[str]) -> tuple[str, ...]:
    """A list in the file of the same names as those given, in whatever order; () if none is."""
    wanted = sorted(name.strip().casefold() for name in given)
    for names in weights.other_names:
        if sorted(name.strip().casefold() for name in names) == wanted:
            return names
    return ()


def warn_of_names(source: str, theirs: Sequence[str], given: Sequence[str]) -> None:
    """Log a warning if the given names differ from those in the file, in order or at all."""
    one, other = ([name.strip().casefold() for name in names] for names in (theirs, given))
    if not theirs or one == other:
        return
    rows = same_classes(theirs, given)
    if rows is not None and rows.tolist() == list(range(len(given))):
        return
    moved = sorted(one) == sorted(other) or rows is not None
    how = "are those of the file in another order" if moved else "are others than the file's"
    more = ", ..." if len(theirs) > SHOWN else ""
    log.warning(
        "%s: the given classes %s (there: %s); the outputs are named as given",
        source, how, ", ".join(theirs[:SHOWN]) + more,
    )  # fmt: skip


def _said(weights: Weights, model: str | None) -> ModelSpec:
    if model is not None:
        return catalog.spec(model)
    if weights.stored.arch and (arch := known_network(weights.stored.arch)):
        raise ConfigError(
            f"{weights.source}: states that it is of {weights.stored.arch!r}"
            f" ({weights.stored.place}); say --model {arch} (in Python model={arch!r})"
        )
    fits = matching_models(weights.contents, weights.part)
    hint = f": the tensors match {join_or(fits)}" if fits else "; `resnets info` lists them"
    raise ConfigError(
        f"{weights.source}: does not state its model; give --model NAME (in Python"
        f" model=NAME){hint}"
    )


def _sized(weights: Weights, spec: ModelSpec, need: Need) -> ModelSpec:
    """`spec` with as many classes and input channels as the tensors have, and their stem."""
    count = weights.head_rows
    if count is None:
        if need == "body":
            return _sized(dataclasses.replace(weights, head_rows=spec.num_classes), spec, need)
        note = f" ({weights.head_note})" if weights.head_note else ""
        try:
            net_from(weights, spec)  # a new head would not help where the rest does not fit either
        except WeightsError as error:
            raise WeightsError(f"{error}; nor has it a head{note}") from None
        raise WeightsError(
            f"{weights.source}: has no head{note}, so it cannot name classes; train one with"
            f" `resnets train finetune --set weights={weights.source}`"
        )
    channels = weights.channels or spec.in_channels
    if weights.stem_kernel == CIFAR_KERNEL and spec.stem == "imagenet":
        log.warning(
            "%s: its first kernel is 3x3: taken for %s with a CIFAR stem (stride 1, no pool)",
            weights.source,
            spec.name,
        )
        spec = dataclasses.replace(spec, stem="cifar", input_size=CIFAR_SIZE)
    return dataclasses.replace(spec, num_classes=count, in_channels=channels)


def _check_model(source: str, theirs: ModelSpec, asked: ModelSpec) -> None:
    """ConfigError where the user names another network than the weights do."""
    field = folder.same_net(theirs, asked)
    if field is not None:
        raise ConfigError(
            f"--model {asked.name}: {source} is of {theirs.name}, whose {field} is"
            f" {getattr(theirs, field)!r}, not {getattr(asked, field)!r}; leave --model out"
        )


def _state(net: ImageClassifier, assumed: bool, weights: Weights) -> None:
    """Log in one line what was understood."""
    classes = ", ".join(net.classes[:SHOWN]) + (", ..." if len(net.classes) > SHOWN else "")
    whence = "preprocessing assumed, the file says none" if assumed else "preprocessing"
    if assumed and weights.stored.unread:
        whence = "preprocessing assumed, what the file states is not read"
    if weights.stored.preprocess:
        said = ", ".join(weights.stored.preprocess)
        whence = f"preprocessing, {said} as the file states, the rest assumed"
    say = log.warning if assumed else log.info
    say(
        "%s: %s in the names of %s, %d classes (%s); %s: %s",
        weights.source,
        net.spec.name,
        weights.format,
        len(net.classes),
        classes,
        whence,
        in_words(net.preprocess.spec),
    )


def in_words(seen: Preprocess) -> str:
    """The preprocessing in one line."""
    planes = seen.channel_order.upper() if seen.channels == 3 else "gray"
    mean = "a mean image" if seen.mean_image else f"mean {_numbers(seen.mean)}"
    return (
        f"shorter side {seen.resize} px ({seen.interpolation}), center {seen.size} px, {planes}, "
        f"{mean}, std {_numbers(seen.std)}"
    )


def _numbers(values: Sequence[float]) -> str:
    return "/".join(f"{value:.4g}" for value in values)


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
        name = net.spec.name if isinstance(net, ImageClassifier) else "this model"
        raise CheckpointError(
            f"{display_path(path)}: holds another architecture than {name}: "
            f"{len(wrong)} tensors differ ({shown})"
        )
    net.load_state_dict(weights)
