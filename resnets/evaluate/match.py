"""The split to measure on, and its classes held against the net's."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from resnets.config import ConfigError, DataSpec, Preprocess, Recipe
from resnets.data import Batch, DataError, FileSplit, Split, open_data
from resnets.data.all_images import open_all, open_unlabelled
from resnets.data.pixel_values import FULL
from resnets.data.quarantine import path_within, prefixes
from resnets.data.wnids import WNIDS
from resnets.evaluate.cuts import picture_name
from resnets.evaluate.truth import Truth, own_truth, read_truth
from resnets.weights.hub import imagenet_classes

SplitName = Literal["test", "val", "train"]
SHOWN = 5  # class names in a message


class Known(Protocol):
    """What a net, or an artefact of one, says of itself: see `models.Net`."""

    preprocess: Any
    classes: tuple[str, ...]
    recipe: Recipe | None
    origin: str


def open_pictures(
    net: Known, source: str | None, name: SplitName, labels: Path | None = None
) -> tuple[Split, Truth]:
    """The pictures to measure `net` on, and what is right: their own classes or those of `labels`.

    Raises as `open_split`, `match_classes` and `read_truth` do.
    """
    if labels is None or source is None:
        pictures = open_split(net, source, name, stored=True)
    else:
        pictures = _open_for_labels(net, source, name)
    if labels is not None:
        names = [picture_name(pictures, row) for row in range(len(pictures))]
        return pictures, read_truth(labels, names, net.classes)
    outputs = match_classes(pictures.classes, net.classes, pictures.description)
    return pictures, own_truth(pictures.labels, outputs, len(net.classes))


def open_split(net: Known, source: str | None, name: SplitName, *, stored: bool = False) -> Split:
    """The split called `name` of `source`, or of the data `net` was trained on.

    Shares and seeds of splits are the recipe's, so a validation split is the one the run had; the
    size the pictures are read at is the one that travels with the weights. "test" of another source
    than the net was trained on is its test part, or all of it where it has no parts: none of its
    pictures were trained on. `stored` leaves pictures in their files, whole, for views at any
    scale. Raises ConfigError when there is neither a source nor a recipe,
    DataError when there is no such split.
    """
    if net.recipe is None and source is None:
        raise ConfigError(f"{net.origin}: does not say what it was trained on; name it with --data")
    spec = net.recipe.data if net.recipe is not None else DataSpec()
    seen: Preprocess = net.preprocess.spec
    foreign = net.recipe is None or (source is not None and not _same(source, spec.source))
    whole = foreign and name == "test"
    splits = open_data(
        dataclasses.replace(
            spec,
            source=source or spec.source,
            quarantine=None if foreign else spec.quarantine,
            truth=None if foreign else spec.truth,
            streaming=False if foreign else spec.streaming,
            size=seen.size,
            resize=seen.resize,
            value_range=seen.value_range or FULL,  # never measured on what is evaluated
            # Sets are read into memory with bilinear interpolation only.
            in_memory="never" if stored or seen.interpolation != "bilinear" else spec.in_memory,
            val_fraction=0.0 if whole else spec.val_fraction,
            test_fraction=0.0 if whole else spec.test_fraction,
        )
    )
    split = splits.test() if name == "test" else splits.val if name == "val" else splits.train
    if split is None and whole:
        split = splits.train
    if split is None:
        raise DataError(f"{splits.name}: has no {name} split; choose another --split")
    return split


def open_every(net: Known, source: str) -> Split:
    """Every image of `source`, whole, whatever part or class it is in, or none.

    Where the net was trained on it, what its recipe says of reading it holds.
    """
    spec = net.recipe.data if net.recipe is not None else DataSpec()
    if net.recipe is None or not _same(source, spec.source):
        spec = dataclasses.replace(spec, quarantine=None, truth=None)
    return open_all(dataclasses.replace(spec, source=source, in_memory="never"))


def _open_for_labels(net: Known, source: str, name: SplitName) -> Split:
    """The images that a file labels: a split of `source`, or all of what has no classes."""
    loose = open_unlabelled(source)
    if loose is not None and any("/" not in path for path in _paths_within(loose, source)):
        return loose
    try:
        return open_split(net, source, name, stored=True)
    except DataError:
        own = net.recipe is not None and _same(source, net.recipe.data.source)
        if loose is None or own:  # all of its own set would be measured on what it was trained on
            raise
        return loose


def _paths_within(split: FileSplit, source: str) -> Iterator[str]:
    return (path_within(split.files.name(row), prefixes(source)) for row in range(len(split.files)))


def _same(source: str, other: str) -> bool:
    return source == other or Path(source).expanduser().resolve() == Path(other).resolve()


def match_classes(data: Sequence[str], net: Sequence[str], source: str) -> Tensor:
    """(K,) int64: for each class of the data, the net's output of that name.

    Data whose K classes are called 0, 1, ..., K - 1 names the outputs by number (ImageNet-V2).
    Classes that are WordNet ids of ImageNet's 1,000 need not be all of them (Imagenette has ten),
    and a net of ImageNet knows them by its libraries' English names too. Otherwise raises DataError
    naming what is missing and what is too many unless both hold the same names.
    """
    if (known := _imagenet_outputs(data, net)) is not None:
        return known
    if set(data) != set(net) and set(data) == set(map(str, range(len(net)))):
        return torch.tensor([int(name) for name in data])
    missing = [name for name in net if name not in set(data)]
    extra = [name for name in data if name not in set(net)]
    if missing or extra:
        parts = [
            f"{what}: {_shown(names)}"
            for what, names in (("the data lacks", missing), ("the net does not know", extra))
            if names
        ]
        raise DataError(
            f"{source}: its {len(data)} classes are not the net's {len(net)}; {'; '.join(parts)}"
        )
    where = {name: index for index, name in enumerate(net)}
    return torch.tensor([where[name] for name in data])


def _imagenet_outputs(data: Sequence[str], net: Sequence[str]) -> Tensor | None:
    """`match_classes` where both are classes of ImageNet, else None."""
    places = {wnid: place for place, wnid in enumerate(WNIDS)}
    if not set(data) <= set(places):
        return None
    numbers = tuple(map(str, range(len(WNIDS))))  # what a net is loaded with that says no names
    if tuple(net) in (imagenet_classes(), numbers):
        return torch.tensor([places[wnid] for wnid in data])
    where = {name: index for index, name in enumerate(net)}
    if set(data) <= set(where) <= set(places):
        return torch.tensor([where[wnid] for wnid in data])
    return None


def relabel(batches: Iterable[Batch], outputs: Tensor) -> Iterator[Batch]:
    """Batches whose targets t became outputs[t]."""
    for batch in batches:
        assert isinstance(batch.targets, Tensor)
        targets = outputs.to(batch.targets.device)[batch.targets]
        yield dataclasses.replace(batch, targets=targets)


def _shown(names: Sequence[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more
