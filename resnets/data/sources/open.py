"""Open a stored data set by name, or by the path of a folder or file."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from resnets.config import ConfigError, DataSpec
from resnets.data.dataset.labels import label_numbers, multi_hot
from resnets.data.dataset.pack import is_pack, open_pack
from resnets.data.dataset.source import Source
from resnets.data.decode.stacks import NPY_SUFFIX
from resnets.data.errors import DataError
from resnets.data.files.folder import Listing, list_folder
from resnets.data.files.walk import suffix_of
from resnets.data.sources.archive import IMAGENET_TRAIN, open_imagenet, open_tar
from resnets.data.sources.binary.cifar import find_cifar, open_cifar
from resnets.data.sources.binary.idx import (
    DEBIAN_FASHION_MNIST,
    FASHION_CLASSES,
    has_idx,
    open_idx,
)
from resnets.data.sources.binary.stl10 import find_stl10, open_stl10
from resnets.data.sources.builtin import fetch_cifar, fetch_fashion_mnist, open_digits
from resnets.data.sources.class_folders import Tree, read_tree
from resnets.data.sources.coco import find_coco, open_coco
from resnets.data.sources.huggingface import HUB, is_tabular, open_tabular
from resnets.data.sources.label_table import make_table_tree, open_folder_table, open_table
from resnets.data.sources.objects import check_not_object
from resnets.data.sources.parquet import open_parquet
from resnets.data.sources.webdataset import open_shard_folder
from resnets.data.tables.flat_labels import is_table
from resnets.data.tables.reader import TABLE_SUFFIXES
from resnets.utils.suggest import suggest, suggest_path

COCO_SUFFIX = ".json"
SPREADSHEETS = (".xlsx", ".xls", ".xlsm", ".ods", ".numbers")
BOTH_FIELDS, NO_FIELDS = frozenset({"labels_from", "ground_truth"}), frozenset[str]()
NAMES = ("digits", "fashion-mnist", "cifar10", "cifar100")


def find_source(spec: DataSpec) -> Source:
    """Open the stored data set `spec.source`: a known name or a path.

    Raises ConfigError if `spec.streaming` is set for a format other than Parquet and WebDataset.
    """
    found, read = _open_stored(spec)
    unread = [
        f"data.{name} = {getattr(spec, name)!r} has no effect: data sets of this format have labels"
        " of their own"
        for name in ("labels_from", "ground_truth")
        if name not in read and getattr(spec, name) != getattr(DataSpec, name)
    ]
    found = replace(found, warnings=(*found.warnings, *unread))
    return apply_label_form(found, spec)


def apply_label_form(found: Source, spec: DataSpec) -> Source:
    """Return a data set with single or multi-hot labels according to `spec.labels`.

    Raises DataError if it requires single labels and images have several.
    """
    if spec.labels == "single" and found.multilabel:
        raise DataError(
            f"{spec.source}: images have several labels each; remove data.labels=single"
        )
    return convert_to_sets(found) if spec.labels == "multi" and not found.multilabel else found


def convert_to_sets(source: Source) -> Source:
    """Convert single labels to multi-hot labels."""

    def convert(part: Any) -> Any:
        sets = [label_numbers(label) for label in part.labels.tolist()]
        return replace(part, labels=multi_hot(sets, len(source.classes)))

    test = source.test
    return replace(
        source,
        train=convert(source.train),
        val=None if source.val is None else convert(source.val),
        test=None if test is None else lambda: convert(test()),
    )


def _open_stored(spec: DataSpec) -> tuple[Source, frozenset[str]]:
    """Open the data set; also return which of `labels_from` and `ground_truth` were used."""
    source, streaming = spec.source, spec.streaming
    check_not_object(source)
    path = Path(source).expanduser()
    if source.startswith(HUB) or (path.exists() and is_tabular(path)):
        where = source if source.startswith(HUB) else str(path)
        read = open_parquet if streaming else open_tabular
        return read(where, spec.group_column, spec.labels), NO_FIELDS
    if path.is_dir() and (shards := open_shard_folder(path, streaming=streaming)) is not None:
        return shards, NO_FIELDS
    if path.suffix.lower() in SPREADSHEETS and path.is_file():
        raise DataError(
            f"{source}: spreadsheets are not supported; save the sheet as CSV (path,label)"
        )
    stored = None
    is_table_file = path.suffix.lower() in (*TABLE_SUFFIXES, COCO_SUFFIX)
    if path.is_file() and not is_pack(path) and not is_table_file:
        stored = open_tar(
            path,
            source,
            streaming=streaming,
            labels_from=spec.labels_from,
            group=spec.group_column,
            labels=spec.labels,
        )
    if stored is None and streaming:
        raise ConfigError(
            f"data.streaming: only for Parquet, WebDataset and Hub data sets, not {source}; set it "
            "to false"
        )
    if stored is not None:
        return stored, frozenset({"labels_from"})
    return _open_unstreamed(source, path, spec)


def _open_unstreamed(source: str, path: Path, spec: DataSpec) -> tuple[Source, frozenset[str]]:
    """Open a data set that is not streamed, by name or by the path of a file or folder."""
    if source == "digits":
        return open_digits(), NO_FIELDS
    if source == "fashion-mnist":
        local = has_idx(DEBIAN_FASHION_MNIST)
        folder = DEBIAN_FASHION_MNIST if local else fetch_fashion_mnist()
        return open_idx(folder, source, FASHION_CLASSES), NO_FIELDS
    if source in ("cifar10", "cifar100"):
        return _open_fetched_cifar(fetch_cifar(source), source), NO_FIELDS
    if path.is_file():
        if path.suffix.lower() == COCO_SUFFIX:
            return open_coco([path]), NO_FIELDS
        if is_pack(path):
            return open_pack(path), NO_FIELDS
        return open_table(path, group=spec.group_column, labels=spec.labels), NO_FIELDS
    if not path.is_dir():
        known = suggest(source, NAMES, f"known data sets: {', '.join(NAMES)}")
        raise DataError(f"{source}: no such folder or file{suggest_path(path) or f'; {known}'}")
    name = path.resolve().name
    if has_idx(path):
        return open_idx(path, name), NO_FIELDS
    if found := find_cifar(path):
        return open_cifar(*found, name, path), NO_FIELDS
    if stl10 := find_stl10(path):
        return open_stl10(stl10, name, path), NO_FIELDS
    if (path / IMAGENET_TRAIN).is_file():
        return open_imagenet(path, name, spec.ground_truth), frozenset({"ground_truth"})
    if spec.labels_from == "auto" and (files := find_coco(path)):
        return open_coco(files, name, path), NO_FIELDS
    return read_folder(path, _list_images(path, spec), spec).source, BOTH_FIELDS


def _list_images(path: Path, spec: DataSpec) -> Listing:
    """List the images of a folder, including NumPy arrays for multi-channel images."""
    if not spec.has_stacks:
        return list_folder(path, is_table)
    listing = list_folder(path, lambda file: is_table(file) or suffix_of(file) == NPY_SUFFIX)
    return replace(listing, others=frozenset(filter(is_table, listing.others)))


def read_folder(path: Path, listing: Listing, spec: DataSpec) -> Tree:
    """Read a folder of images: with a table that describes it, otherwise by class folders.

    Raises as `open_folder_table` and `read_tree`; messages name `spec.source`.
    """
    name = path.resolve().name
    table_source = None
    if spec.ground_truth is None and spec.labels_from == "auto":
        table_source = open_folder_table(path, listing, name, spec.group_column, spec.labels)
    if table_source is None:
        return read_tree(
            listing,
            name,
            spec.source,
            spec.ground_truth,
            spec.labels_from,
            spec.quarantine,
            spec.group_column,
            spec.labels,
        )
    return make_table_tree(table_source, listing)


def _open_fetched_cifar(folder: Path, name: str) -> Source:
    found = find_cifar(folder)
    if found is None:
        raise DataError(f"{folder}: contains no CIFAR batches; remove it to download them again")
    return open_cifar(*found, name)
