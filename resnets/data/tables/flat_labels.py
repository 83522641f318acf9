"""Labels of a folder of images alone: in a table in it or beside it, or in ImageNet's own files.

Tables are read by `reader`: path and label, or one column of 0 and 1 for each class
(Roboflow's _classes.csv). They are found by what they are called (labels.csv, _classes.csv,
metadata.csv, train.csv for train/), inside an archive too. A row that may mean images of two
splits labels neither, unless the table has one row for each image of one of them and no other.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path

from resnets.data.errors import DataError
from resnets.data.files.folder import Listing
from resnets.data.files.walk import suffix_of
from resnets.data.layout.class_spelling import check_spellings
from resnets.data.layout.folder_layout import SplitRows
from resnets.data.tables.ground_truth_file import find_labels, read_labels
from resnets.data.tables.label_sets import LabelForm, joined_sets, read_label_sets
from resnets.data.tables.labels import ONE_LABEL, Label, names_of
from resnets.data.tables.reader import JSON_SUFFIXES, Table, TableRow, open_table_bytes
from resnets.data.tables.unread_labels import HEAD, WRITTEN

TABLE_SUFFIXES = frozenset({".csv", ".tsv", *JSON_SUFFIXES})
UNNAMED = "image that the table does not name"
UNREAD_TABLES = "tables that were not read"  # how a note begins
NO_ROW = TableRow(0, "")
TABLE_NAMES = ("_classes", "classes", "labels", "label", "metadata", "annotations", "truth")


@dataclass(frozen=True)
class FlatLabels:
    """The label of each image, and the file that says so.

    splits: that of each image, where the file says so and no folder does; an image that it does
    not name has neither label nor split then. said: which columns were taken for what, or how
    labels without names were paired. groups: the group of each image, where a column says it.
    """

    file: str
    labels: Sequence[Label]
    splits: Sequence[str] = ()
    said: str = ""
    groups: Sequence[str] | None = None


class UnlabeledError(DataError):
    """A table does not say the labels of a split, which may do without if it is the test split."""


def is_table(path: str) -> bool:
    """Whether a file of a listing may hold labels."""
    return suffix_of(path) in TABLE_SUFFIXES


def flat_labels(
    split: SplitRows,
    paths: Sequence[str],
    listing: Listing,
    where: str,
    truth: str | None,
    others: Sequence[Sequence[str]] = (),
    group: str | None = None,
    form: LabelForm = "auto",
) -> FlatLabels | None:
    """The labels of the images `paths` of a split without class folders; None where no file has
    them, as of a test split that a table of training images lies beside.

    others: the images of each other split of the set. group: name of the column of groups. form:
    see `label_sets.read_label_sets`.
    DataError: a table that cannot be read, that lacks an image, that gives one several labels or
    another split than its folder does. UnlabelledError: one that need not be of these images: its
    rows may mean those of another split, or it has no labels and they are test images.
    """
    names = [posixpath.basename(path) for path in paths]
    # Files that are known by their names label validation images, or a set without splits.
    known_files = truth is not None or split.role not in ("train", "test")
    file = find_labels(Path(where), split.folder, truth) if known_files else None
    if file is not None:
        if truth is not None and split.role != "train":
            _check_truth(str(file), names, others)
        labels, paired = read_labels(file, names)
        return FlatLabels(str(file), labels, said=paired)
    row = _find(split, listing)
    if row is None:
        row = _alone(split, paths, listing, form)
    if row is None:
        return None
    place = listing.files.name(row)
    every = [*paths, *chain.from_iterable(others)]
    try:
        table, known, how = _read(bytes(listing.files.read(row)), place, every, group, form)
    except DataError as error:
        if split.role == "test":  # a table of test images need not have labels
            raise UnlabeledError(str(error)) from error
        raise
    keys = [_key(path, known) for path in paths]
    if not _is_own(split, listing.paths[row], others):
        _check_owner(place, known, paths, keys, others)
    _check_row_each(place, known, paths, keys)
    missing = [path for path, key in zip(paths, keys, strict=True) if key is None]
    if table is None or (len(missing) == len(paths) and split.role == "test"):
        return None
    by_column = table.columns.splits and split.role is None
    if by_column and (lost := sorted(known.keys() - set(keys))):
        raise DataError(
            f"{place}: line {known[lost[0]].line}: there is no image {known[lost[0]].path}"
            + (f", and {len(lost) - 1:,} more are missing" if len(lost) > 1 else "")
        )
    if missing and not by_column:
        raise DataError(
            f"{place}: has no label for {len(missing):,} of {len(paths):,} images, among them"
            f" {missing[0]}"
        )
    table.warn_of_unused()
    found = [NO_ROW if key is None else known[key] for key in keys]
    if table.columns.splits and split.role is not None:
        _check_role(place, split, found)
    splits = [row.split for row in found] if by_column else ()
    grouped = table.columns.group is not None
    groups = [row.group for row in found] if grouped else None
    said = "; ".join(filter(None, (table.said(), how)))
    return FlatLabels(place, [row.label for row in found], splits, said, groups)


def _check_truth(file: str, names: Sequence[str], others: Sequence[Sequence[str]]) -> None:
    """UnlabelledError where `file`, which labels by name, may mean images of another split."""
    stems = {posixpath.splitext(name)[0]: name for name in names}
    for path in chain.from_iterable(others):
        if (name := stems.get(posixpath.splitext(posixpath.basename(path))[0])) is not None:
            raise UnlabeledError(
                f"{file}: {name} may mean {path} of another split; give each split a table of its"
                " own, in its folder"
            )


def _check_owner(
    place: str,
    known: Mapping[str, TableRow],
    paths: Sequence[str],
    keys: Sequence[str | None],
    others: Sequence[Sequence[str]],
) -> None:
    """UnlabelledError where rows mean images of another split too, and are not these for sure."""

    def is_whole(found: Sequence[str | None]) -> bool:
        return len(found) == len(known) and set(found) == set(known)

    here = {key: path for path, key in zip(paths, keys, strict=True) if key is not None}
    found = [[_key(path, known) for path in other] for other in others]
    if is_whole(keys) and not any(map(is_whole, found)):
        return
    for other, theirs in zip(others, found, strict=True):
        for path, key in zip(other, theirs, strict=True):
            if key is not None and key in here:
                raise UnlabeledError(
                    f"{place}: line {known[key].line}: {key!r} may mean {here[key]} and {path}, of"
                    " two splits; write paths with their folders, or put a table into the folder"
                    " of each split"
                )


def _check_row_each(
    place: str, known: Mapping[str, TableRow], paths: Sequence[str], keys: Sequence[str | None]
) -> None:
    """DataError where one row means two images of a split."""
    seen: dict[str, str] = {}
    for path, key in zip(paths, keys, strict=True):
        if key is not None and seen.setdefault(key, path) != path:
            raise DataError(
                f"{place}: line {known[key].line}: {key!r} may mean {seen[key]} and {path}; write"
                " paths with their folders and suffixes"
            )


def _check_role(place: str, split: SplitRows, rows: Sequence[TableRow]) -> None:
    """DataError where a table puts an image into another split than its folder does."""
    role = "train" if split.role == "trainval" else split.role
    for row in rows:
        if row.split != role:
            raise DataError(
                f"{place}: line {row.line}: {row.path} is of the split {row.split}, but it lies in"
                f" {split.title}/; correct one of them"
            )


def _is_own(split: SplitRows, table: str, others: Sequence[Sequence[str]]) -> bool:
    """Whether a table is of this split alone, by its name or by the folder that it lies in."""
    if posixpath.splitext(posixpath.basename(table))[0].lower() in _own_names(split):
        return True
    folder = posixpath.dirname(table)
    above = f"{folder}/" if folder else ""
    return not any(path.startswith(above) for path in chain.from_iterable(others))


def _own_names(split: SplitRows) -> set[str]:
    names = {split.title.lower(), split.role or ""} - {""}
    forms = ("{}", "{}_labels", "labels_{}", "{}labels", "{}_set")
    return {form.format(name) for name in names for form in forms}


def _find(split: SplitRows, listing: Listing) -> int | None:
    """Row of the table that labels a split: by its name, in its folder or one of those above."""
    own, others = _own_names(split), listing.others
    tables = [row for row, path in enumerate(listing.paths) if path in others and is_table(path)]
    folder = split.folder.rstrip("/")
    while True:
        here = [row for row in tables if posixpath.dirname(listing.paths[row]) == folder]
        names = {row: posixpath.basename(listing.paths[row]).lower() for row in here}
        stems = {posixpath.splitext(name)[0]: row for row, name in names.items()}
        for stem in (*sorted(own), *TABLE_NAMES):
            if stem in stems:
                return stems[stem]
        if not folder:
            return None
        folder = posixpath.dirname(folder)


def _alone(split: SplitRows, paths: Sequence[str], listing: Listing, form: LabelForm) -> int | None:
    """Row of the only table in the folder of a split, of any name, where it names all images and a
    column is called like labels; None for what this package writes."""
    folder = split.folder.rstrip("/")
    here = [
        row
        for row, path in enumerate(listing.paths)
        if path in listing.others and is_table(path) and posixpath.dirname(path) == folder
    ]
    if len(here) != 1:
        return None
    data = bytes(listing.files.read(here[0]))
    if WRITTEN.match(data[:HEAD].decode("utf-8-sig", "replace")):
        return None
    try:
        table, known, _ = _read(data, listing.paths[here[0]], paths, None, form)
    except DataError:
        return None
    whole = all(_key(path, known) is not None for path in paths)
    return here[0] if whole and table is not None and table.columns.names_label else None


def _read(
    data: bytes, place: str, paths: Sequence[str], group: str | None, form: LabelForm
) -> tuple[Table | None, dict[str, TableRow], str]:
    """A table that labels some of `paths`, its rows by their paths, and how sets are written."""
    tails = {key for path in paths for key in _keys(path)}
    table = open_table_bytes(data, place, lambda cell: _plain(cell) in tails, group=group)
    written = [] if table is None else list(table.rows())
    sets = read_label_sets(
        [row.label for row in written], lambda row: f"{place}: line {written[row].line}", form
    )
    found: dict[str, TableRow] = {}
    for row, label in zip(written, sets.labels, strict=True):
        row = replace(row, label=label)
        before = found.setdefault(_plain(row.path), row)
        if form == "multi":
            names = joined_sets([names_of(before.label), names_of(label)])
            before = row = found[_plain(row.path)] = replace(before, label=names)
        if before.label != row.label:
            raise DataError(f"{place}: line {row.line}: {row.path} has two labels; {ONE_LABEL}")
        if before.split != row.split:
            raise DataError(f"{place}: line {row.line}: {row.path} is in two splits; keep one")
    spelled = [(row.line, name) for row in found.values() for name in names_of(row.label)]
    check_spellings([name for _, name in spelled], lambda at: f"{place}: line {spelled[at][0]}")
    return table, found, "; ".join(filter(None, (sets.said, sets.warning)))


def _key(path: str, known: Mapping[str, TableRow]) -> str | None:
    return next((key for key in _keys(path) if key in known), None)


def _plain(path: str) -> str:
    return path.replace("\\", "/").removeprefix("./")


def _keys(path: str) -> Iterator[str]:
    """What a table may call an image: its path from any folder above, with suffix or without."""
    parts = path.split("/")
    for start in range(len(parts)):
        tail = "/".join(parts[start:])
        yield tail
        yield posixpath.splitext(tail)[0]
