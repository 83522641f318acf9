"""Trained models under study, the images that they are measured on, and their units.

All analyses (`study.analyses.base`) compute in float32, so that equal models give equal bits.
"""

from __future__ import annotations

import dataclasses
import math
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from resnets.config import ConfigError
from resnets.config.ranges import check_range
from resnets.data import Batch, FileSplit, Split, TensorSplit, eval_batches, order
from resnets.data.dataset.summary import announce
from resnets.evaluate import Evaluation, describe_protocol, evaluate_model
from resnets.evaluate.data.match_classes import (
    SplitName,
    class_number_note,
    map_targets,
    match_classes,
    open_split,
)
from resnets.evaluate.prepare import to_device
from resnets.models import ImageClassifier
from resnets.weights.given import copy_for_inference
from resnets.weights.load import DEFAULT_LOAD_OPTIONS, LoadOptions, load_classifier

BATCH_SIZE = 250
PRECISION: Literal["float32"] = "float32"
# Fields of `DataSpec` that decide which images a split contains, of `Preprocess` how they are
# cropped.
SPLIT_FIELDS = ("val_fraction", "test_fraction", "split_seed", "split_rule")
CROP_FIELDS = ("size", "resize", "channels", "interpolation")


@dataclass(frozen=True, eq=False)
class TrainedModel:
    """A trained model under study; `label` is its unique name on the page.

    path: None if it was loaded before.
    """

    label: str
    path: Path | None
    model: ImageClassifier


@dataclass(frozen=True, eq=False)
class LabeledImages:
    """Labeled images as one model expects them, on its device, for repeated measurements.

    Targets are indices into the model's outputs, `classes`.
    """

    batches: tuple[Batch, ...]
    classes: tuple[str, ...]
    protocol: str
    device: torch.device

    def evaluate(self, model: nn.Module) -> Evaluation:
        """Errors and loss of `model` on these images, in eval mode."""
        evaluation = evaluate_model(
            model,
            self.batches,
            self.classes,
            protocol=self.protocol,
            precision=PRECISION,
            device=self.device,
        )
        assert isinstance(evaluation, Evaluation)  # `load_models` refuses several labels per image
        return evaluation


def multilabel_error(where: str) -> ConfigError:
    """Return the error for data or a model with several labels per image."""
    return ConfigError(f"{where}: has several labels; studies measure one class per image")


def load_models(
    checkpoints: Sequence[str | Path | ImageClassifier],
    data: str | None,
    loading: LoadOptions = DEFAULT_LOAD_OPTIONS,
) -> list[TrainedModel]:
    """Load the models of runs or checkpoints that can be measured on the same images.

    Loaded models are copied. `data` replaces the source named in the recipes. Raises ConfigError
    without checkpoints, for models trained on different data, and CheckpointError.
    """
    if not checkpoints:
        raise ConfigError("name at least one run or checkpoint")
    models: list[TrainedModel] = []
    for given in checkpoints:
        if isinstance(given, ImageClassifier):
            models.append(TrainedModel(given.origin, None, copy_for_inference(given)))
        else:
            path = str(given)
            models.append(TrainedModel(path, Path(path), load_classifier(path, loading)))
    first = models[0]
    for each in models:
        if each.model.postprocess.multilabel:
            raise multilabel_error(each.label)
        difference = _find_data_mismatch(first.model, each.model, data)
        if difference is not None:
            raise ConfigError(
                f"{each.label} and {first.label} were trained on different data ({difference}); "
                "study checkpoints of one data set together"
            )
    return _name_models(models)


def _name_models(models: Sequence[TrainedModel]) -> list[TrainedModel]:
    """Label each model by its network, and those of one network also by their run or number."""
    names = [each.model.spec.name for each in models]
    runs = [
        f"{name} ({_run_name(each.path)})" if each.path else f"{name} (model {number})"
        for number, (name, each) in enumerate(zip(names, models, strict=True), 1)
    ]
    return [
        dataclasses.replace(each, label=name if names.count(name) == 1 else run)
        for each, name, run in zip(models, names, runs, strict=True)
    ]


def sample_split(
    model: ImageClassifier,
    data: str | None,
    part: Literal["train", "held-out"],
    count: int,
    seed: int,
) -> Split:
    """Draw `count` images by `seed` from the data of `model`, or from `data`; all if fewer.

    "held-out" is the validation split, or the test split if the recipe has none. Raises
    ConfigError and DataError.
    """
    check_range("--examples", count, "[1, inf)")
    has_val = model.recipe is not None and model.recipe.data.val_fraction > 0
    name: SplitName = "train" if part == "train" else "val" if has_val else "test"
    split = open_split(model, data, name)
    announce(split)
    return _sample(split, count, seed)


def prepare_images(split: Split, model: ImageClassifier, device: str) -> LabeledImages:
    """Move `model` to `device` and decode `split` as it expects; DataError for other classes."""
    outputs = match_classes(split.classes, model.classes, split.description)
    chosen, precision = to_device(model, device, PRECISION)
    batches = eval_batches(split, model.preprocess, BATCH_SIZE, chosen)
    note = class_number_note(split.classes, model.classes)
    protocol = describe_protocol(
        size=model.preprocess.spec.size,
        precision=precision,
        weights=model.origin,
        data=", ".join(filter(None, (split.description, note))),
    )
    return LabeledImages(tuple(map_targets(batches, outputs)), model.classes, protocol, chosen)


def get_images(batch: Batch) -> Tensor:
    """Return the images of a batch as one tensor (B, C, H, W)."""
    assert isinstance(batch.images, Tensor)
    return batch.images


def named_units(model: ImageClassifier) -> dict[str, nn.Module]:
    """Return what `model` runs one after another behind its stem, by name ("stage1.0").

    Units are blocks or, in a VGG, convolutions with norm and relu, and pools.
    """
    return model.blocks() or {
        f"{stage}.{index}": unit
        for stage in model.stage_names
        for index, unit in model.get_submodule(stage).named_children()
    }


def apply_stem(model: ImageClassifier, images: Tensor) -> Tensor:
    """Return the input of the first unit, (B, C, H, W): the images themselves in a VGG."""
    return model.get_submodule("stem")(images) if "stem" in model.stage_names else images


def iter_units(
    model: ImageClassifier, images: Tensor
) -> Iterator[tuple[str, nn.Module, Tensor, Tensor]]:
    """Run `model` unit by unit: yield name, module, input and output (B, C, H, W) of each."""
    x = apply_stem(model, images)
    for name, unit in named_units(model).items():
        output = unit(x)
        yield name, unit, x, output
        x = output


def check_finite(value: float, path: Path | str) -> float:
    """Return `value`; raises ValueError if it is not finite, as of a run that diverged."""
    if not math.isfinite(value):
        raise ValueError(f"{path}: the model's outputs are not finite; its run diverged")
    return value


def format_command(study: str, *words: object, **flags: object) -> str:
    """Return the shell command that repeats a study; flags that are None are omitted."""
    given = [(f"--{name}", str(value)) for name, value in flags.items() if value is not None]
    return shlex.join(
        ["resnets", "study", study, *map(str, words), *(word for pair in given for word in pair)]
    )


def line_style(*, residual: bool, color: str) -> dict[str, Any]:
    """Return a model's line style: plain networks dashed, residual networks solid and bolder."""
    return {
        "color": color,
        "linestyle": "-" if residual else (0, (4, 2)),
        "lw": 2.2 if residual else 1.4,
    }


def _sample(split: Split, count: int, seed: int) -> Split:
    """Draw `count` images of `split` and keep their order."""
    if count >= len(split):
        return split
    rows = order.permutation(len(split), seed, 0)[:count].copy()
    rows.sort()
    labels = split.labels[torch.from_numpy(rows)]
    description = f"{count:,} drawn (seed {seed}) from {split.description}"
    if isinstance(split, TensorSplit):
        images = split.images[torch.from_numpy(rows)]
        return dataclasses.replace(split, images=images, labels=labels, description=description)
    assert isinstance(split, FileSplit)
    files = split.files.take(rows)
    return dataclasses.replace(split, files=files, labels=labels, description=description)


def _find_data_mismatch(
    first: ImageClassifier, other: ImageClassifier, data: str | None
) -> str | None:
    """Return in which respect two models need different images; None if they do not."""
    if set(first.classes) != set(other.classes):
        return f"{len(other.classes)} and {len(first.classes)} classes, or other names"
    ours, theirs = first.preprocess.spec, other.preprocess.spec
    fields = [(name, getattr(theirs, name), getattr(ours, name)) for name in CROP_FIELDS]
    if first.recipe is not None and other.recipe is not None:
        our_data, their_data = first.recipe.data, other.recipe.data
        if data is None and _resolve(our_data.source) != _resolve(their_data.source):
            return f"{their_data.source} and {our_data.source}"
        fields += [
            (f"data.{name}", getattr(their_data, name), getattr(our_data, name))
            for name in SPLIT_FIELDS
        ]
    for name, their_value, our_value in fields:
        if their_value != our_value:
            return f"{name} {their_value} and {our_value}"
    return None


def _resolve(source: str) -> str:
    """Return the absolute path of a data set's source, or its name if it is not a path."""
    path = Path(source).expanduser()
    return str(path.resolve()) if path.exists() else source


def _run_name(path: Path) -> str:
    """Return the name of a run's folder, with the checkpoint's if `path` is one inside it."""
    inside = path.parent.name == "checkpoints"
    return f"{path.parent.parent.name}/{path.name}" if inside else path.name
