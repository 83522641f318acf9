"""Labels of a folder of images alone: in a table in it or beside it, or in ImageNet's own files.

Tables are read by `table_files`: path and label, or one column of 0 and 1 for each class
(Roboflow's _classes.csv). They are found by what they are called (labels.csv, _classes.csv,
metadata.csv, train.csv for train/), inside an archive too.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from resnets.data.errors import DataError
from resnets.data.files import Listing
from resnets.data.ground_truth import find_labels, read_labels
from resnets.data.labels import ONE_LABEL, check_lists
from resnets.data.layout import SplitRows
from resnets.data.table_files import check_one_label, open_table_bytes
from resnets.data.walk import suffix_of

TABLE_SUFFIXES = frozenset({".csv", ".tsv"})
TABLE_NAMES = ("_classes", "classes", "labels", "label", "metadata", "annotations", "truth")


@dataclass(frozen=True)
class FlatLabels:
    """The label of each image, and the file that says so."""

    file: str
    labels: Sequence[str]


def is_table(path: str) -> bool:
    """Whether a file of a listing may hold labels."""
    return suffix_of(path) in TABLE_SUFFIXES


def flat_labels(
    split: SplitRows, paths: Sequence[str], listing: Listing, where: str, truth: str | None
) -> FlatLabels | None:
    """The labels of the images `paths` of a split without class folders; None where no file has
    them, as of a test split that a table of training images lies beside.

    DataError: a table that cannot be read, that lacks an image, or that gives one several labels.
    """
    names = [posixpath.basename(path) for path in paths]
    known_files = truth is not None or split.role != "test"
    file = find_labels(Path(where), split.folder, truth) if known_files else None
    if file is not None:
        return FlatLabels(str(file), read_labels(file, names))
    table = _find(split, listing)
    if table is None:
        return None
    place = listing.files.name(table)
    try:
        known = _read(bytes(listing.files.read(table)), place, paths)
    except DataError:
        if split.role == "test":  # a table of test images need not have labels
            return None
        raise
    keys = [next((key for key in _keys(path) if key in known), None) for path in paths]
    labels = [None if key is None else known[key] for key in keys]
    missing = [path for path, label in zip(paths, labels, strict=True) if label is None]
    if len(missing) == len(paths) and split.role == "test":
        return None
    if missing:
        raise DataError(
            f"{place}: has no label for {len(missing):,} of {len(paths):,} images, among them"
            f" {missing[0]}"
        )
    return FlatLabels(place, [label for label in labels if label is not None])


def _find(split: SplitRows, listing: Listing) -> int | None:
    """Row of the table that labels a split: by its name, in its folder or one of those above."""
    title = split.title.lower()
    own = {title, f"{title}_labels", f"labels_{title}", f"{title}labels", f"{title}_set"} - {""}
    others = listing.others
    tables = [row for row, path in enumerate(listing.paths) if path in others and is_table(path)]
    folder = split.folder.rstrip("/")
    while True:
        here = [row for row in tables if posixpath.dirname(listing.paths[row]) == folder]
        stems = {posixpath.basename(listing.paths[row])[:-4].lower(): row for row in here}
        for stem in (*sorted(own), *TABLE_NAMES):
            if stem in stems:
                return stems[stem]
        if not folder:
            return None
        folder = posixpath.dirname(folder)


def _read(data: bytes, place: str, paths: Sequence[str]) -> dict[str, str]:
    """Path and label of each row of a table that labels some of `paths`."""
    tails = {key for path in paths for key in _keys(path)}
    table = open_table_bytes(data, place, lambda cell: _plain(cell) in tails)
    found: dict[str, str] = {}
    for row in () if table is None else table.rows():
        check_one_label(row, place)
        if found.setdefault(_plain(row.path), row.label) != row.label:
            raise DataError(f"{place}: line {row.line}: {row.path} has two labels; {ONE_LABEL}")
    rows = list(found)
    check_lists([found[path] for path in rows], lambda row: f"{place}: {rows[row]}")
    return found


def _plain(path: str) -> str:
    return path.replace("\\", "/").removeprefix("./")


def _keys(path: str) -> Iterator[str]:
    """What a table may call an image: its path from any folder above, with suffix or without."""
    parts = path.split("/")
    for start in range(len(parts)):
        tail = "/".join(parts[start:])
        yield tail
        yield posixpath.splitext(tail)[0]
