"""The split to evaluate on, and its classes matched with the model's."""

from __future__ import annotations

import dataclasses
import logging
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import torch
from torch import Tensor

from resnets.config import ConfigError, DataSpec, Postprocess, Preprocess, Recipe
from resnets.data import Batch, DataError, FileSplit, Split, open_data
from resnets.data.dataset.image_hash import file_keys
from resnets.data.dataset.labeled_images import with_summary
from resnets.data.dataset.labels import is_multilabel
from resnets.data.dataset.source import Source
from resnets.data.decode.pixel_values import RANGE_16_BIT
from resnets.data.splits.all_images import open_all, open_unlabeled
from resnets.data.splits.image_record import Fingerprint
from resnets.data.tables.ground_truth_file import WNIDS
from resnets.evaluate.data.ground_truth import GroundTruth, read_labels, split_truth
from resnets.evaluate.views import image_name
from resnets.utils.files.source_paths import path_within, prefixes
from resnets.utils.printable import join_names
from resnets.utils.suggest import suggest
from resnets.weights.heads import imagenet_classes

log = logging.getLogger("resnets")

SplitName = Literal["test", "val", "train"]
MAX_NAMES = 5  # of classes in a message


class ModelInfo(Protocol):
    """The attributes of a model or artifact that evaluation uses; see `models.ImageClassifier`."""

    preprocess: Any
    postprocess: Postprocess
    classes: tuple[str, ...]
    recipe: Recipe | None
    origin: str


def open_labeled(
    model: ModelInfo,
    source: str | Source | None,
    name: SplitName,
    labels: Path | None = None,
    others: Sequence[ModelInfo] = (),
) -> tuple[Split, GroundTruth]:
    """Open the images to evaluate `model` on, with their own labels or those of the file `labels`.

    others: the other members of an ensemble; images that any of them trained on are not held out.
    Raises as `open_split`, `match_classes` and `read_labels` do.
    """
    if labels is None or source is None or isinstance(source, Source):
        images = open_split(model, source, name, stored=True, others=others)
    else:
        images = _open_for_labels(model, source, name, others)
    if labels is not None:
        if model.postprocess.multilabel:
            raise ConfigError(
                "--labels: only for single-label models; these weights are multi-label"
            )
        names = [image_name(images, row) for row in range(len(images))]
        stored_order = not isinstance(images, FileSplit)  # pixels have numbers, no file names
        truth = read_labels(labels, names, model.classes, stored_order=stored_order)
        summary = getattr(images, "summary", None)
        if truth.paired and summary is not None:
            summary = dataclasses.replace(summary, notes=(truth.paired, *summary.notes))
            images = with_summary(images, summary)
        return images, truth
    outputs = match_classes(images.classes, model.classes, images.description)
    if is_multilabel(images.labels) != model.postprocess.multilabel:
        theirs, ours = (
            ("several labels per image", "one class")
            if is_multilabel(images.labels)
            else ("one label each", "several labels per image")
        )
        raise DataError(
            f"{images.description}: the images have {theirs}, but the weights predict {ours}"
        )
    if note := class_number_note(images.classes, model.classes):
        images = _with_description(images, f"{images.description}, {note}")
    return images, split_truth(images.labels, outputs, len(model.classes))


def _merge_fingerprints(models: Sequence[ModelInfo]) -> tuple[Fingerprint | None, str]:
    """Merge the fingerprints of the models' training images; also a note on models without one."""
    records: list[Fingerprint | None] = [getattr(model, "fingerprint", None) for model in models]
    known = [record for record in records if record is not None]
    without = [
        model.origin for model, record in zip(models, records, strict=True) if record is None
    ]
    note = ", not compared with training images" if without else ""
    if note and len(models) > 1:
        note += f" of {', '.join(without)}"
    return Fingerprint.union(known) if len(known) > 1 else next(iter(known), None), note


def open_split(
    model: ModelInfo,
    source: str | Source | None,
    name: SplitName,
    *,
    stored: bool = False,
    others: Sequence[ModelInfo] = (),
) -> Split:
    """Open the split `name` of `source`, or of the data that `model` was trained on.

    Fractions and seeds of splits are the recipe's, so a validation split is that of the run; the
    image size is the one stored with the weights. "test" of another source than the training data
    is its test split, or all of it if it has no splits, since none of its images were trained on.
    Whether a `Source` (a Python object) is the training data is decided by its images. stored:
    whether images stay in their files, whole, for views at any scale. others: see `open_labeled`.
    Raises ConfigError if there is neither a source nor a recipe, DataError if there is no such
    split.
    """
    if model.recipe is None and source is None:
        raise ConfigError(f"{model.origin}: does not specify its training data; add --data")
    given = source if isinstance(source, Source) else None
    where = source.name if isinstance(source, Source) else source
    spec = model.recipe.data if model.recipe is not None else DataSpec()
    seen: Preprocess = model.preprocess.spec
    foreign = model.recipe is None or given is not None
    foreign |= where is not None and not _is_same_source(where, spec.source)
    whole = foreign and name == "test"
    known, unknown = _merge_fingerprints((model, *others))
    splits = open_data(
        dataclasses.replace(
            spec,
            source=where or spec.source,
            quarantine=None if foreign else spec.quarantine,
            ground_truth=None if foreign else spec.ground_truth,
            labels_from="auto" if foreign else spec.labels_from,
            labels="multi" if model.postprocess.multilabel else spec.labels,
            streaming=False if foreign else spec.streaming,
            size=seen.size,
            resize=seen.resize,
            value_range=seen.value_range or RANGE_16_BIT,  # never measured on what is evaluated
            # Sets are read into memory with bilinear interpolation only.
            in_memory="never" if stored or seen.interpolation != "bilinear" else spec.in_memory,
        ),
        known,
        source=given,
        other=foreign,
        whole=whole,
    )
    if splits.changes:
        log.warning("%s: changed since the run was trained: %s", splits.name, splits.changes)
    split = splits.test() if name == "test" else splits.val if name == "val" else splits.train
    if split is None and whole and not splits.recognized:
        split = splits.train
    if split is None:
        raise DataError(f"{splits.name}: has no {name} split{_explain_missing(known, foreign)}")
    if splits.changes:
        changed = f"{split.description}, set changed since training ({splits.changes})"
        split = _with_description(split, changed)
    by_recipe = not foreign and all(each.recipe == model.recipe for each in others)
    return split if name == "train" else warn_unrecorded(split, unknown, by_recipe=by_recipe)


def warn_unrecorded(split: Split, note: str, *, by_recipe: bool = False) -> Split:
    """Log, and add to the description, that a model has no record of its training images.

    by_recipe: whether the split is that of the model's recipe, on its own data set.
    """
    if not note:
        return split
    consequence = ", so some of these images may have been trained on"
    if by_recipe:
        consequence = "; by the recipe these images were held out, if the data set has not changed"
    log.warning("%s%s: there is no record of those%s", split.description, note, consequence)
    return _with_description(split, split.description + note)


def _with_description(split: Split, description: str) -> Split:
    return dataclasses.replace(split, description=description)  # type: ignore[type-var]


def _explain_missing(known: Fingerprint | None, foreign: bool) -> str:
    """Return why a split may be missing, and what to do."""
    if foreign and known is not None:
        return " (its images are those the run was trained on); choose another --split"
    return "; choose another --split"


def _drop_trained(split: FileSplit, known: Fingerprint | None) -> FileSplit:
    """Exclude the images that the run trained on; DataError if none is left."""
    if known is None:
        return split
    trained = known.was_trained_on(file_keys(split.files))
    if not trained.any():
        return split
    if trained.all():
        raise DataError(
            f"{split.description}: all were trained on; evaluate them with --split train, or give"
            " images that were not"
        )
    rows = np.flatnonzero(~trained)
    note = f"{int(trained.sum()):,} excluded because they were trained on"
    return dataclasses.replace(
        split,
        files=split.files.take(rows),
        labels=split.labels[torch.from_numpy(rows)],
        description=f"{split.description} ({note})",
    )


def open_all_images(model: ModelInfo, source: str) -> Split:
    """Open every image of `source`, whole, of any split and class, or without a class.

    If the model was trained on `source`, its recipe decides how it is read.
    """
    spec = model.recipe.data if model.recipe is not None else DataSpec()
    if model.recipe is None or not _is_same_source(source, spec.source):
        spec = dataclasses.replace(spec, quarantine=None, ground_truth=None, labels_from="auto")
    levels = model.preprocess.spec.value_range or RANGE_16_BIT
    spec = dataclasses.replace(spec, source=source, in_memory="never", value_range=levels)
    return open_all(spec)


def _open_for_labels(
    model: ModelInfo, source: str, name: SplitName, others: Sequence[ModelInfo]
) -> Split:
    """Open the images for a file of labels: a split of `source`, or all images without classes."""
    loose, (known, unknown) = open_unlabeled(source), _merge_fingerprints((model, *others))
    if loose is not None and any("/" not in path for path in _paths_within(loose, source)):
        return loose if name == "train" else warn_unrecorded(_drop_trained(loose, known), unknown)
    try:
        return open_split(model, source, name, stored=True, others=others)
    except DataError:
        own = model.recipe is not None and _is_same_source(source, model.recipe.data.source)
        if loose is None or own:  # all of its own set includes what it was trained on
            raise
        return loose if name == "train" else warn_unrecorded(_drop_trained(loose, known), unknown)


def _paths_within(split: FileSplit, source: str) -> Iterator[str]:
    return (path_within(split.files.name(row), prefixes(source)) for row in range(len(split.files)))


def _is_same_source(source: str, other: str) -> bool:
    return source == other or Path(source).expanduser().resolve() == Path(other).resolve()


def match_classes(data: Sequence[str], model: Sequence[str], source: str) -> Tensor:
    """Return for each class of the data the network's output of that name, (K,) int64.

    The data may have only some of the network's classes. Data whose K classes are called 0, 1, ...,
    K - 1 name the outputs by number (ImageNet-V2). WordNet ids also match the English names of
    ImageNet models. Names that differ only in Unicode normalization (NFC, NFD) are equal. Raises
    DataError for classes that the network does not have, and for numbers that may be names or
    indices.
    """
    if (known := _match_imagenet(data, model)) is not None:
        return known
    ours, theirs = _normalize_unicode(data), _normalize_unicode(model)
    if _are_numbers(ours, theirs):
        if both := sorted(set(ours) & set(theirs), key=int):
            raise DataError(
                f"{source}: its classes 0 to {len(ours) - 1} may be names of the network's classes"
                f" ({join_names(both, MAX_NAMES)}) or their indices; use the network's names:"
                f" {join_names(theirs, MAX_NAMES)}"
            )
        return torch.tensor([int(name) for name in ours])
    extra = [name for name in ours if name not in set(theirs)]
    if extra:
        parts = [f"{len(extra):,} of its {len(ours):,} classes are unknown to the network"]
        if len(extra) == len(ours):
            parts = [f"the network knows none of its classes ({len(ours):,})"]
        parts.append(join_names(extra, MAX_NAMES))
        if guess := suggest(extra[0], theirs, otherwise=""):
            parts.append(guess)
        parts.append(f"the network's {len(theirs):,} are {join_names(theirs, MAX_NAMES)}")
        raise DataError(f"{source}: {'; '.join(parts)}; exclude them or rename them")
    if ours == theirs:
        return torch.arange(len(ours))
    if twice := sorted(set(ours) & {name for name, count in Counter(theirs).items() if count > 1}):
        raise DataError(
            f"{source}: the network has several classes named {join_names(twice, MAX_NAMES)}, so "
            "these classes of the data are ambiguous; use WordNet ids or numbers, or remove them"
        )
    outputs = {name: index for index, name in enumerate(theirs)}
    return torch.tensor([outputs[name] for name in ours])


def class_number_note(data: Sequence[str], model: Sequence[str]) -> str:
    """Return a note for the protocol if `match_classes` reads the data's classes as indices."""
    ours, theirs = _normalize_unicode(data), _normalize_unicode(model)
    if not _are_numbers(ours, theirs):
        return ""
    pairs = [f"{number} is {name}" for number, name in enumerate(theirs)]
    named = join_names(pairs, MAX_NAMES)
    return f"its labels are numbers, taken as class indices of the network ({named})"


def _are_numbers(data: Sequence[str], model: Sequence[str]) -> bool:
    """Return whether the data's classes are 0 to K - 1 and the network's have other names."""
    return set(data) != set(model) and set(data) == set(map(str, range(len(model))))


def _normalize_unicode(names: Sequence[str]) -> list[str]:
    return [unicodedata.normalize("NFC", name) for name in names]


def _match_imagenet(data: Sequence[str], model: Sequence[str]) -> Tensor | None:
    """Match classes if both are those of ImageNet, else return None."""
    imagenet = {wnid: output for output, wnid in enumerate(WNIDS)}
    if not set(data) <= set(imagenet):
        return None
    numbers = tuple(map(str, range(len(WNIDS))))  # of a model loaded without names
    if tuple(model) in (imagenet_classes(), numbers):
        return torch.tensor([imagenet[wnid] for wnid in data])
    outputs = {name: index for index, name in enumerate(model)}
    if set(data) <= set(outputs) <= set(imagenet):
        return torch.tensor([outputs[wnid] for wnid in data])
    return None


def map_targets(batches: Iterable[Batch], outputs: Tensor) -> Iterator[Batch]:
    """Yield batches with each target t replaced by outputs[t]."""
    for batch in batches:
        assert isinstance(batch.targets, Tensor)
        targets = outputs.to(batch.targets.device)[batch.targets]
        yield dataclasses.replace(batch, targets=targets)
