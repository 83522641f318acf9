"""The split to measure on, and its classes held against the net's."""

from __future__ import annotations

import dataclasses
import difflib
import logging
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import torch
from torch import Tensor

from resnets.config import ConfigError, DataSpec, Preprocess, Recipe
from resnets.data import Batch, DataError, FileSplit, Split, open_data
from resnets.data.dataset.content_hash import file_keys
from resnets.data.dataset.quarantine import path_within, prefixes
from resnets.data.dataset.source import Source
from resnets.data.dataset.split import with_summary
from resnets.data.decode.pixel_values import FULL
from resnets.data.splits.all_images import open_all, open_unlabeled
from resnets.data.splits.fingerprint import Fingerprint
from resnets.data.tables.ground_truth import WNIDS
from resnets.evaluate.truth import Truth, own_truth, read_truth
from resnets.evaluate.views.crops import picture_name
from resnets.weights.hub import imagenet_classes

log = logging.getLogger("resnets")

SplitName = Literal["test", "val", "train"]
SHOWN = 5  # class names in a message


class Known(Protocol):
    """What a net, or an artifact of one, says of itself: see `models.ImageClassifier`."""

    preprocess: Any
    classes: tuple[str, ...]
    recipe: Recipe | None
    origin: str


def open_pictures(
    net: Known,
    source: str | Source | None,
    name: SplitName,
    labels: Path | None = None,
    others: Sequence[Known] = (),
) -> tuple[Split, Truth]:
    """The pictures to measure `net` on, and what is right: their own classes or those of `labels`.

    others: the further members of an ensemble; no image that any of them trained on is held out.
    Raises as `open_split`, `match_classes` and `read_truth` do.
    """
    if labels is None or source is None or isinstance(source, Source):
        pictures = open_split(net, source, name, stored=True, others=others)
    else:
        pictures = _open_for_labels(net, source, name, others)
    if labels is not None:
        names = [picture_name(pictures, row) for row in range(len(pictures))]
        stored_order = not isinstance(pictures, FileSplit)  # pixels have numbers, no file names
        truth = read_truth(labels, names, net.classes, stored_order=stored_order)
        summary = getattr(pictures, "summary", None)
        if truth.paired and summary is not None:
            summary = dataclasses.replace(summary, notes=(truth.paired, *summary.notes))
            pictures = with_summary(pictures, summary)
        return pictures, truth
    outputs = match_classes(pictures.classes, net.classes, pictures.description)
    if note := number_note(pictures.classes, net.classes):
        pictures = _described(pictures, f"{pictures.description}, {note}")
    return pictures, own_truth(pictures.labels, outputs, len(net.classes))


def _record(nets: Sequence[Known]) -> tuple[Fingerprint | None, str]:
    """What the networks' runs remember of their images, together; and which remember nothing."""
    records: list[Fingerprint | None] = [getattr(net, "fingerprint", None) for net in nets]
    known = [record for record in records if record is not None]
    without = [net.origin for net, record in zip(nets, records, strict=True) if record is None]
    note = ", not compared with training images" if without else ""
    if note and len(nets) > 1:
        note += f" of {', '.join(without)}"
    return Fingerprint.union(known) if len(known) > 1 else next(iter(known), None), note


def open_split(
    net: Known,
    source: str | Source | None,
    name: SplitName,
    *,
    stored: bool = False,
    others: Sequence[Known] = (),
) -> Split:
    """The split called `name` of `source`, or of the data `net` was trained on.

    Shares and seeds of splits are the recipe's, so a validation split is the one the run had; the
    size the pictures are read at is the one that travels with the weights. "test" of another source
    than the net was trained on is its test part, or all of it where it has no parts: none of its
    images were trained on. `stored` leaves images in their files, whole, for views at any scale.
    others: see `open_pictures`. A set that is given as a Python object (`Source`) is told by its
    images to be the run's own or another. Raises ConfigError when there is neither a source nor a
    recipe, DataError when there is no such split.
    """
    if net.recipe is None and source is None:
        raise ConfigError(f"{net.origin}: does not say what it was trained on; name it with --data")
    given = source if isinstance(source, Source) else None
    where = source.name if isinstance(source, Source) else source
    spec = net.recipe.data if net.recipe is not None else DataSpec()
    seen: Preprocess = net.preprocess.spec
    foreign = net.recipe is None or given is not None
    foreign |= where is not None and not _same(where, spec.source)
    whole = foreign and name == "test"
    known, unknown = _record((net, *others))
    splits = open_data(
        dataclasses.replace(
            spec,
            source=where or spec.source,
            quarantine=None if foreign else spec.quarantine,
            ground_truth=None if foreign else spec.ground_truth,
            labels_from="auto" if foreign else spec.labels_from,
            streaming=False if foreign else spec.streaming,
            size=seen.size,
            resize=seen.resize,
            value_range=seen.value_range or FULL,  # never measured on what is evaluated
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
        raise DataError(f"{splits.name}: has no {name} split{_why(known, foreign)}")
    if splits.changes:
        changed = f"{split.description}, set changed since training ({splits.changes})"
        split = _described(split, changed)
    return _described(split, split.description + unknown) if name != "train" else split


def _described(split: Split, description: str) -> Split:
    return dataclasses.replace(split, description=description)  # type: ignore[type-var]


def _why(known: Fingerprint | None, foreign: bool) -> str:
    """What may be behind a missing split, and the way out."""
    if foreign and known is not None:
        return " (its images are those that the run trained on); choose another --split"
    return "; choose another --split"


def _without_trained(split: FileSplit, known: Fingerprint | None) -> FileSplit:
    """The images of loose files that the run did not train on; DataError where none is left."""
    if known is None:
        return split
    trained = known.trained(file_keys(split.files))
    if not trained.any():
        return split
    if trained.all():
        raise DataError(
            f"{split.description}: all were trained on; measure them as such with --split train, or"
            " give images that were not"
        )
    rows = np.flatnonzero(~trained)
    note = f"{int(trained.sum()):,} left out that were trained on"
    return dataclasses.replace(
        split,
        files=split.files.take(rows),
        labels=split.labels[torch.from_numpy(rows)],
        description=f"{split.description} ({note})",
    )


def open_every(net: Known, source: str) -> Split:
    """Every image of `source`, whole, whatever part or class it is in, or none.

    Where the net was trained on it, what its recipe says of reading it holds.
    """
    spec = net.recipe.data if net.recipe is not None else DataSpec()
    if net.recipe is None or not _same(source, spec.source):
        spec = dataclasses.replace(spec, quarantine=None, ground_truth=None, labels_from="auto")
    levels = net.preprocess.spec.value_range or FULL
    spec = dataclasses.replace(spec, source=source, in_memory="never", value_range=levels)
    return open_all(spec)


def _open_for_labels(net: Known, source: str, name: SplitName, others: Sequence[Known]) -> Split:
    """The images that a file labels: a split of `source`, or all of what has no classes."""
    loose, (known, _) = open_unlabeled(source), _record((net, *others))
    if loose is not None and any("/" not in path for path in _paths_within(loose, source)):
        return loose if name == "train" else _without_trained(loose, known)
    try:
        return open_split(net, source, name, stored=True, others=others)
    except DataError:
        own = net.recipe is not None and _same(source, net.recipe.data.source)
        if loose is None or own:  # all of its own set would be measured on what it was trained on
            raise
        return loose if name == "train" else _without_trained(loose, known)


def _paths_within(split: FileSplit, source: str) -> Iterator[str]:
    return (path_within(split.files.name(row), prefixes(source)) for row in range(len(split.files)))


def _same(source: str, other: str) -> bool:
    return source == other or Path(source).expanduser().resolve() == Path(other).resolve()


def match_classes(data: Sequence[str], net: Sequence[str], source: str) -> Tensor:
    """(K,) int64: for each class of the data, the network's output of that name.

    The data may have some of the network's classes only. Data whose K classes are called 0, 1, ...,
    K - 1 names the outputs by number (ImageNet-V2). A network of ImageNet knows WordNet ids by its
    libraries' English names too. Names that differ in how Unicode composes them (NFC, NFD) are the
    same. DataError counts and names classes that the network does not know, and refuses numbers
    that may be names or places.
    """
    if (known := _imagenet_outputs(data, net)) is not None:
        return known
    ours, theirs = _composed(data), _composed(net)
    if _are_numbers(ours, theirs):
        if both := sorted(set(ours) & set(theirs), key=int):
            raise DataError(
                f"{source}: its classes 0 to {len(ours) - 1} may be names of the network's classes"
                f" ({_shown(both)}) or places among them; call them as the network does:"
                f" {_shown(theirs)}"
            )
        return torch.tensor([int(name) for name in ours])
    extra = [name for name in ours if name not in set(theirs)]
    if extra:
        parts = [f"{len(extra):,} of its {len(ours):,} classes are unknown to the network"]
        if len(extra) == len(ours):
            parts = [f"the network knows none of its classes ({len(ours):,})"]
        parts.append(_shown(extra))
        near = difflib.get_close_matches(extra[0], theirs, 1)
        cased = [name for name in theirs if name.casefold() == extra[0].casefold()]
        if guess := (cased or near):
            parts.append(f"did you mean {guess[0]}?")
        parts.append(f"the network's {len(theirs):,} are {_shown(theirs)}")
        raise DataError(f"{source}: {'; '.join(parts)}; leave them out or rename them")
    if ours == theirs:
        return torch.arange(len(ours))
    if twice := sorted(set(ours) & {name for name, count in Counter(theirs).items() if count > 1}):
        raise DataError(
            f"{source}: the network has several classes called {_shown(twice)}, so the data's may"
            " be either; call them by their WordNet ids or numbers, or leave them out"
        )
    where = {name: index for index, name in enumerate(theirs)}
    return torch.tensor([where[name] for name in ours])


def number_note(data: Sequence[str], net: Sequence[str]) -> str:
    """What a protocol says where `match_classes` takes the data's classes as places; else empty."""
    ours, theirs = _composed(data), _composed(net)
    if not _are_numbers(ours, theirs):
        return ""
    pairs = [f"{number} is {name}" for number, name in enumerate(theirs)]
    return f"its labels are numbers, taken as places of the network's classes ({_shown(pairs)})"


def _are_numbers(data: Sequence[str], net: Sequence[str]) -> bool:
    """Whether the data's classes are 0 to K - 1 and the network's K are called otherwise."""
    return set(data) != set(net) and set(data) == set(map(str, range(len(net))))


def _composed(names: Sequence[str]) -> list[str]:
    return [unicodedata.normalize("NFC", name) for name in names]


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
