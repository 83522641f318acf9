"""Opening a stored set: by name, or by the path of a folder or file."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from resnets.config import ConfigError, DataSpec
from resnets.data.arrays import (
    DEBIAN_FASHION_MNIST,
    FASHION_CLASSES,
    has_idx,
    open_digits,
    open_idx,
)
from resnets.data.cifar import find_cifar, open_cifar
from resnets.data.content import content_keys
from resnets.data.errors import DataError
from resnets.data.fetch import fetch_cifar, fetch_fashion_mnist
from resnets.data.files import list_folder
from resnets.data.flat_labels import is_table
from resnets.data.folder_tables import open_folder_table
from resnets.data.identity import hold_out, hold_out_by_rank, identify
from resnets.data.pack import is_pack, open_pack
from resnets.data.parquet import open_parquet
from resnets.data.parts import Part, Rows, Source
from resnets.data.pixel_values import Levels, measure_levels, said_of
from resnets.data.quarantine import Quarantine
from resnets.data.shards import find_shards, open_shards
from resnets.data.split import Split, with_summary
from resnets.data.summary import DataSummary, origin_of, summarize
from resnets.data.table_files import TABLE_SUFFIXES
from resnets.data.tables import open_table
from resnets.data.tabular import HUB, is_tabular, open_tabular
from resnets.data.tars import IMAGENET_TRAIN, open_imagenet, open_tar
from resnets.data.tree import open_tree
from resnets.data.walk import LeftOut

NAMES = ("digits", "fashion-mnist", "cifar10", "cifar100")


@dataclass(frozen=True)
class Splits:
    """A set, split. `test()` opens the test pictures, and nothing else does; None without any.

    value_range: as `DataSpec` has it, or as it was measured on the training images.
    summary: what was understood of the set; each split has it too.
    """

    train: Split
    val: Split | None
    classes: tuple[str, ...]
    name: str
    test: Callable[[], Split | None]
    summary: DataSummary
    value_range: Levels | None = None


def open_data(spec: DataSpec) -> Splits:
    """Open `spec.source` and hold out validation and test shares where it brings none.

    Shares are of the source's training part; which images they are follows from `spec.split_seed`
    and each image's own identity (`data.identity`). Images in quarantine are left out of the shares
    they would be in. DataError says what is missing, empty, damaged or of one class only.
    """
    left_out = Quarantine.of(spec)
    source = find_source(spec)
    classes, labels = source.classes, source.train.labels
    _check_classes(source, labels)
    train_rows, val_rows, test_rows = held_out_rows(source, spec)
    levels = spec.value_range or source.value_range
    if levels is None and source.train.files is not None:
        levels = measure_levels(source.train.files, train_rows)
    spec = replace(spec, value_range=levels)
    source = replace(source, notes=(*source.notes, *said_of(levels)))
    summary = _summary(source, spec, left_out, (train_rows, val_rows, test_rows))

    def share(part: Part, rows: Rows, role: str) -> Split | None:
        if len(rows) == 0:
            return None
        kept = left_out.keep(part.files, rows)
        title = " ".join(filter(None, (source.name, part.title)))
        if len(rows) < len(part.labels):
            title += f", {role} share (seed {spec.split_seed})"
        description = f"{title}, {len(kept):,} pictures"
        if len(kept) < len(rows):
            description += f" ({len(rows) - len(kept):,} in quarantine)"
        if len(kept) == 0:
            raise DataError(f"{description}: all are in quarantine; see data.quarantine")
        split = part.open(kept, classes, description, spec, training=role == "training")
        return with_summary(split, summary)

    def whole(part: Part, role: str) -> Split | None:
        if part.labels.max(initial=0) >= len(classes):
            raise DataError(
                f"{spec.source}: {role} labels go up to {part.labels.max()},"
                f" but the training part has {len(classes)} classes"
            )
        return share(part, np.arange(len(part.labels)), role)

    def test() -> Split | None:
        if source.test:
            return whole(source.test(), "test")
        return share(source.train, test_rows, "test")

    train = share(source.train, train_rows, "training")
    assert train is not None
    val = (
        whole(source.val, "validation")
        if source.val
        else share(source.train, val_rows, "validation")
    )
    return Splits(train, val, classes, source.name, test, summary, levels)


def _summary(
    source: Source, spec: DataSpec, quarantine: Quarantine, rows: tuple[Rows, Rows, Rows]
) -> DataSummary:
    """What was understood, with the shares `rows` of the training part, without those in
    quarantine."""
    out, part = LeftOut(), source.train
    title = origin_of(part)
    kept = [quarantine.keep(part.files, each) for each in rows]
    shares: dict[str, tuple[Rows | None, str]] = {"train": (kept[0], title)}
    means = "rank" if spec.split_rule == "rank" else "pixels" if part.files is None else "identity"
    for role, own, chosen, fraction in (
        ("val", source.val is not None, kept[1], spec.val_fraction),
        ("test", source.test is not None, kept[2], spec.test_fraction),
    ):
        held = f"{fraction:.0%} held out by image {means}, seed {spec.split_seed}"
        if own:
            val = origin_of(source.val) if source.val is not None else ""
            shares[role] = None, val if role == "val" else source.test_title
        elif len(chosen):
            shares[role] = chosen, held
    for all_rows, kept_rows in zip(rows, kept, strict=True):
        if len(kept_rows) < len(all_rows):
            out.add("in quarantine", "", suffix="", count=len(all_rows) - len(kept_rows))
    return summarize(source, shares, out)


def held_out_rows(source: Source, spec: DataSpec) -> tuple[Rows, Rows, Rows]:
    """Rows of the training part for training, validation and test, as `spec.split_rule` says."""
    part = source.train
    val_fraction = 0.0 if source.val else spec.val_fraction
    test_fraction = 0.0 if source.test else spec.test_fraction
    if spec.split_rule == "rank":
        return hold_out_by_rank(
            part.labels,
            val_fraction=val_fraction,
            test_fraction=test_fraction,
            seed=spec.split_seed,
        )
    if not val_fraction and not test_fraction:
        none = np.empty(0, np.int64)
        return np.arange(len(part.labels)), none, none
    content = content_keys(part)
    return hold_out(
        part.labels,
        identify(part, content).ids,
        val_fraction=val_fraction,
        test_fraction=test_fraction,
        seed=spec.split_seed,
        content=content,
    )


def find_source(spec: DataSpec) -> Source:
    """The stored set that `spec.source`, a name or path, means, as its parts.

    ConfigError where `spec.streaming` asks for what only Parquet and WebDataset can do.
    """
    source, streaming = spec.source, spec.streaming
    path = Path(source).expanduser()
    if source.startswith(HUB) or (path.exists() and is_tabular(path)):
        where = source if source.startswith(HUB) else str(path)
        return open_parquet(where) if streaming else open_tabular(where)
    if path.is_dir() and (found := find_shards(path)):
        return open_shards(found, path.resolve().name, streaming=streaming)
    stored = None
    if path.is_file() and not is_pack(path) and path.suffix.lower() not in TABLE_SUFFIXES:
        stored = open_tar(path, source, streaming=streaming, labels_from=spec.labels_from)
    if stored is None and streaming:
        raise ConfigError(
            f"data.streaming: {source} is neither Parquet nor WebDataset nor on the Hub, and"
            " only those are streamed; set it to false"
        )
    return stored or _whole(source, path, spec.truth, spec.labels_from)


def _whole(source: str, path: Path, truth: str | None, labels_from: str) -> Source:
    """A set that is not streamed: by name, or by the path of a file or folder."""
    if source == "digits":
        return open_digits()
    if source == "fashion-mnist":
        local = has_idx(DEBIAN_FASHION_MNIST)
        folder = DEBIAN_FASHION_MNIST if local else fetch_fashion_mnist()
        return open_idx(folder, source, FASHION_CLASSES)
    if source in ("cifar10", "cifar100"):
        return _cifar(fetch_cifar(source), source)
    if path.is_file():
        return open_pack(path) if is_pack(path) else open_table(path)
    if not path.is_dir():
        near = difflib.get_close_matches(source, NAMES, 1)
        hint = f"did you mean {near[0]}?" if near else f"known sets: {', '.join(NAMES)}"
        raise DataError(f"{source}: no such folder or file; {hint}")
    name = path.resolve().name
    if has_idx(path):
        return open_idx(path, name)
    if found := find_cifar(path):
        return open_cifar(*found, name)
    if (path / IMAGENET_TRAIN).is_file():
        return open_imagenet(path, name, truth)
    listing = list_folder(path, is_table)
    described = None if truth is not None else open_folder_table(path, listing, name)
    return described or open_tree(listing, name, source, truth, labels_from)


def _cifar(folder: Path, name: str) -> Source:
    found = find_cifar(folder)
    if found is None:
        raise DataError(f"{folder}: holds no CIFAR batches; remove it, so that it is fetched again")
    return open_cifar(*found, name)


def _check_classes(source: Source, labels: Rows) -> None:
    if len(source.classes) < 2:
        raise DataError(
            f"{source.name}: one class only ({', '.join(source.classes)});"
            " a classifier needs two or more, each in a folder of its own"
        )
    counts = np.bincount(labels, minlength=len(source.classes))
    if len(counts) > len(source.classes):
        raise DataError(
            f"{source.name}: label {len(counts) - 1}, but {len(source.classes)} classes"
        )
    if not counts.all():
        raise DataError(f"{source.name}: class {source.classes[counts.argmin()]} has no pictures")
