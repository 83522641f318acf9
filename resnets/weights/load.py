"""Load a classifier from a run, checkpoint, folder or published weights, ready to use."""

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
from resnets.models.custom_model import MODEL_KEYS, MakeModel, build_custom
from resnets.utils.printable import join_names
from resnets.weights import folder, hub
from resnets.weights.adapt import CIFAR_SIZE, resolve_preprocess
from resnets.weights.check_values import check_values, resolve_arch
from resnets.weights.checkpoint.find import open_checkpoint, resolve_file
from resnets.weights.checkpoint.format import FOLDER, Checkpoint
from resnets.weights.checkpoint.image_record import read_fingerprint
from resnets.weights.checkpoint.store import display_path
from resnets.weights.create import build_from_weights, recognize_weights
from resnets.weights.errors import CheckpointError, UnstatedModelError, WeightsError
from resnets.weights.heads import match_class_names, parse_classes, unnamed_classes_error
from resnets.weights.lazy_tensors import reading_weights
from resnets.weights.name_maps.matching_models import find_matching_models, join_or
from resnets.weights.read import (
    Weights,
    read_folder,
    read_path,
    read_postprocess,
    read_preprocess,
    select_group,
    split_part,
)
from resnets.weights.readers.safetensors_file import read_metadata
from resnets.weights.readers.unsupported_file import check_folder_kind

log = logging.getLogger("resnets")

CIFAR_KERNEL = 3  # px


@dataclass(frozen=True)
class LoadOptions:
    """Options of every command for weights that do not specify them.

    model: catalog name of the model. classes: names of its outputs, as for `heads.parse_classes`;
    without `rename`, only for outputs without names.
    """

    model: str | None = None
    classes: str | Sequence[str] | None = None
    rename: bool = True


DEFAULT_LOAD_OPTIONS = LoadOptions()
Need = Literal["names", "head", "body"]


def load_classifier(
    weights: str | PathLike[str],
    options: LoadOptions = DEFAULT_LOAD_OPTIONS,
    need: Need = "names",
    *,
    custom: nn.Module | MakeModel | None = None,
) -> ImageClassifier:
    """Load a classifier; see `resnets.load`. ConfigError for a model of another task.

    need: "names" refuses outputs without names; "head" logs only what is assumed; "body" accepts
    weights without a head, for features. custom: the network of a run with one from outside the
    package, in place of `options.model`.
    """
    source, model = fspath(weights), options.model
    if custom is not None:
        return _load_checkpoint(source, source, None, options, custom)
    if hub.is_library(source):
        spec = None if model is None else catalog.spec(model)
        return _build_published(hub.read_library(source, spec), options, need)
    place, part = split_part(source)
    local = Path(place).expanduser()
    if (local / folder.CONFIG).is_file():
        published = dataclasses.replace(read_folder(local, source), part=part)
        return _build_published(published, options, need)
    path = resolve_file(place)
    if path is None and local.is_dir():
        check_folder_kind(local)
    if path is not None and not _is_resnets_checkpoint(path):
        published = read_path(str(path) if part is None else f"{path}#{part}")
        return _build_published(dataclasses.replace(published, source=source), options, need)
    return _load_checkpoint(path or place, source, part, options)


def _load_checkpoint(
    where: str | Path,
    source: str,
    part: str | None,
    options: LoadOptions,
    custom: nn.Module | MakeModel | None = None,
) -> ImageClassifier:
    """Load a checkpoint of this package, or its `part`.

    source: `where` as the user gave it. custom: the network, if it is not of this package.
    """
    checkpoint = open_checkpoint(where)
    with reading_weights(display_path(checkpoint.path)):
        return _build_checkpoint(checkpoint, source, part, options, custom)


def _build_checkpoint(
    checkpoint: Checkpoint,
    source: str,
    part: str | None,
    options: LoadOptions,
    custom: nn.Module | MakeModel | None,
) -> ImageClassifier:
    """Build the model of a checkpoint; see `_load_checkpoint`."""
    recipe, path = checkpoint.recipe, checkpoint.path
    if recipe.task != "classify":
        raise ConfigError(
            f"{source}: is for task {recipe.task}, not a classifier; use `resnets evaluate` or"
            " `resnets predict` with its path"
        )
    if options.model is not None:
        check_model(source, recipe.model, catalog.spec(options.model))
    missing = [name for key, name in (recipe.custom or {}).items() if key in MODEL_KEYS]
    if custom is not None:
        net, _ = build_custom(custom, recipe.model)
        check_model(source, recipe.model, net.spec, "model=")
    elif missing:
        raise ConfigError(
            f"{display_path(path)}: its network is custom ({', '.join(missing)}); pass it, in"
            f" Python: resnets.load({source!r}, model=...)"
        )
    else:
        net = build(recipe.model)
    averaged = checkpoint.group("ema") if part in (None, "ema") else {}
    load_weights(net, select_group(checkpoint, part, source), path)
    check_values(net.state_dict(), display_path(path))
    net.preprocess = read_preprocess(checkpoint)
    net.classes = checkpoint.classes
    net.postprocess = read_postprocess(checkpoint)
    if len(net.classes) != recipe.model.num_classes:
        raise CheckpointError(
            f"{display_path(path)}: names {len(net.classes)} classes, but its network has"
            f" {recipe.model.num_classes} outputs"
        )
    if options.classes is not None and options.rename:
        net.classes = parse_classes(options.classes, recipe.model.num_classes, source)
    net.recipe = recipe
    net.fingerprint = read_fingerprint(checkpoint)
    kind = ", averaged weights" if averaged or checkpoint.meta.get("averaged") else ""
    net.origin = f"{path.name} (step {checkpoint.step:,}{kind})"
    return net.eval()


def _is_resnets_checkpoint(path: Path) -> bool:
    """Return whether a file is a checkpoint of this package, possibly damaged."""
    try:
        return "resnets" in read_metadata(path)
    except (safetensors.SafetensorError, OSError):
        return path.parent.name == FOLDER


def has_known_model(where: str | Path) -> bool:
    """Return whether weights specify their model."""
    place, _ = split_part(str(where))
    if hub.is_library(place):
        return True
    try:
        path = resolve_file(place)
    except (CheckpointError, ConfigError):
        return True  # loading them raises the error
    return path is None or _is_resnets_checkpoint(path)


def _build_published(weights: Weights, options: LoadOptions, need: Need) -> ImageClassifier:
    """Build the model that `weights` or the user specifies, with the head of the weights."""
    source, spec = weights.source, weights.spec
    model, classes = options.model, options.classes
    if spec is None:
        spec = _choose_spec(weights, model)
        weights = recognize_weights(weights, spec)
        spec = _fit_spec(weights, spec, need)
    else:
        if model is not None:
            check_model(source, spec, catalog.spec(model))
        weights = recognize_weights(weights, spec)
    if spec.num_classes == 1 and need != "body":
        raise WeightsError(
            f"{source}: has one output, as of a sigmoid; the softmax of this package makes 1 of any"
            " single output. Save a head of two outputs: weight 0 and bias 0 for the first, its own"
            " for the second"
        )
    net = build_from_weights(weights, spec, whole=need != "body")
    count = spec.num_classes
    if classes is not None and (options.rename or not net.classes):
        stored_names = net.classes
        net.classes = parse_classes(classes, count, source)
        stored_names = stored_names or _find_same_names(weights, net.classes)
        warn_about_names(source, stored_names, net.classes)
    if not net.classes:
        if need == "names":
            raise unnamed_classes_error(source, count)
        net.classes = tuple(map(str, range(count)))
    assumed = net.preprocess is None or weights.preprocess_assumed
    if net.preprocess is None:
        net.preprocess = Preprocessor(resolve_preprocess(weights, net.spec))
    if assumed or need != "head":
        _log_summary(net, assumed, weights)
    net.recipe = weights.recipe
    return net.eval()


def _find_same_names(weights: Weights, given: Sequence[str]) -> tuple[str, ...]:
    """Return a list in the file of the same names as those given, in any order; () without one."""
    expected = sorted(name.strip().casefold() for name in given)
    for names in weights.other_names:
        if sorted(name.strip().casefold() for name in names) == expected:
            return names
    return ()


def warn_about_names(source: str, theirs: Sequence[str], given: Sequence[str]) -> None:
    """Log a warning if the given names, or their order, differ from those in the file."""
    one, other = ([name.strip().casefold() for name in names] for names in (theirs, given))
    if not theirs or one == other:
        return
    rows = match_class_names(theirs, given)
    if rows is not None and rows.tolist() == list(range(len(given))):
        return
    reordered = sorted(one) == sorted(other) or rows is not None
    log.warning(
        "%s: the given classes %s (%s); the outputs are named as given",
        source,
        "are those of the file in another order" if reordered else "differ from those of the file",
        join_names(theirs),
    )


def _choose_spec(weights: Weights, model: str | None) -> ModelSpec:
    """Return the spec that the user names; UnstatedModelError suggests models without one."""
    if model is not None:
        return catalog.spec(model)
    stored = weights.stored_config
    if stored.arch and (arch := resolve_arch(stored.arch)):
        raise UnstatedModelError(
            f"{weights.source}: specifies the architecture {stored.arch!r} ({stored.arch_field})",
            f"add --model {arch}",
        )
    fits = find_matching_models(weights.contents, weights.part)
    hint = f": the tensors match {join_or(fits)}" if fits else "; `resnets info` lists them"
    raise UnstatedModelError(
        f"{weights.source}: does not specify its model",
        f"give --model NAME{hint}",
    )


def _fit_spec(weights: Weights, spec: ModelSpec, need: Need) -> ModelSpec:
    """Return `spec` with the number of classes, the input channels and the stem of the tensors."""
    count = weights.head_rows
    if count is None:
        if need == "body":
            return _fit_spec(dataclasses.replace(weights, head_rows=spec.num_classes), spec, need)
        note = f" ({weights.head_note})" if weights.head_note else ""
        try:
            build_from_weights(weights, spec)  # a new head does not help if the rest does not fit
        except WeightsError as error:
            raise WeightsError(f"{error}; it has no head either{note}") from None
        raise WeightsError(
            f"{weights.source}: has no head{note}, so it cannot name classes; train one with"
            f" `resnets train finetune --set weights={weights.source}`"
        )
    channels = weights.channels or spec.in_channels
    if weights.stem_kernel == CIFAR_KERNEL and spec.stem == "imagenet":
        log.warning(
            "%s: its first kernel is 3x3: loaded as %s with a CIFAR stem (stride 1, no pool)",
            weights.source,
            spec.name,
        )
        spec = dataclasses.replace(spec, stem="cifar", input_size=CIFAR_SIZE)
    return dataclasses.replace(spec, num_classes=count, in_channels=channels)


def check_model(
    source: str,
    theirs: ModelSpec,
    given: ModelSpec,
    option: Literal["--model", "model="] = "--model",
) -> None:
    """Raise ConfigError if the network given by `option` is not the one the weights specify."""
    field = folder.first_difference(theirs, given)
    if field is not None:
        raise ConfigError(
            f"{option} {given.name}: {source} is of {theirs.name}, whose {field} is"
            f" {getattr(theirs, field)!r}, not {getattr(given, field)!r};"
            f" {'omit it' if option == '--model' else 'pass the network of the run'}"
        )


def _log_summary(net: ImageClassifier, assumed: bool, weights: Weights) -> None:
    """Log model, classes and preprocessing in one line; warn if the preprocessing is assumed."""
    provenance = "preprocessing assumed, the file has none" if assumed else "preprocessing"
    if assumed and weights.stored_config.unread:
        provenance = "preprocessing assumed, that of the file is not supported"
    if weights.stored_config.preprocess:
        stated = ", ".join(weights.stored_config.preprocess)
        provenance = f"preprocessing, {stated} as the file specifies, the rest assumed"
    log.log(
        logging.WARNING if assumed else logging.INFO,
        "%s: %s in the names of %s, %d classes (%s); %s: %s",
        weights.source,
        net.spec.name,
        weights.format,
        len(net.classes),
        join_names(net.classes),
        provenance,
        describe_preprocess(net.preprocess.spec),
    )


def describe_preprocess(spec: Preprocess) -> str:
    """Return the preprocessing in one line."""
    channels = spec.channel_order.upper() if spec.channels == 3 else "gray"
    mean = "a mean image" if spec.mean_image else f"mean {_format_numbers(spec.mean)}"
    return (
        f"shorter side {spec.resize} px ({spec.interpolation}), center {spec.size} px, {channels}, "
        f"{mean}, std {_format_numbers(spec.std)}"
    )


def _format_numbers(values: Sequence[float]) -> str:
    return "/".join(f"{value:.4g}" for value in values)


def load_weights(net: nn.Module, weights: dict[str, torch.Tensor], path: Path) -> None:
    """Copy `weights` into `net`; CheckpointError lists the first tensors that do not fit."""
    own = net.state_dict()
    wrong = [
        name
        for name in sorted(own.keys() | weights.keys())
        if name not in own or name not in weights or own[name].shape != weights[name].shape
    ]
    if wrong:
        name = net.spec.name if isinstance(net, ImageClassifier) else "this model"
        raise CheckpointError(
            f"{display_path(path)}: has another architecture than {name}: {len(wrong)} tensors "
            f"differ ({join_names(wrong)})"
        )
    net.load_state_dict(weights)
