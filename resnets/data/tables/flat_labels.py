"""Find and read the labels of a folder without class folders: a table, or ImageNet's files.

Tables are read by `reader`: path and label, or one column of 0 and 1 per class (Roboflow's
_classes.csv). They are found by their names (labels.csv, _classes.csv, metadata.csv, train.csv for
train/) in the folder or above it, also in archives. A row that matches images of two splits is
ignored, unless the rows of the table are exactly the images of one of them.
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
from resnets.data.tables.ground_truth_file import find_ground_truth, read_labels
from resnets.data.tables.labels import ONE_LABEL, Label, label_names
from resnets.data.tables.multilabel import LabelForm, parse_labels, union_labels
from resnets.data.tables.reader import JSON_SUFFIXES, Table, TableRow, open_table_bytes
from resnets.data.tables.unread_labels import HEAD_BYTES, WRITTEN_BY_PACKAGE
from resnets.utils.printable import format_count, printable

TABLE_SUFFIXES = frozenset({".csv", ".tsv", *JSON_SUFFIXES})
NOT_IN_TABLE = "image that the table does not name"
UNREAD_TABLES = "tables that were not read"  # how a note begins
NO_ROW = TableRow(0, "")
TABLE_NAMES = ("_classes", "classes", "labels", "label", "metadata", "annotations", "truth")


@dataclass(frozen=True)
class FlatLabels:
    """The label of each image, and the file they were read from.

    splits: the split of each image, if only the file has it; an image that is not in the file then
    has an empty label and split. description: how columns were used, or how labels without names
    were paired with images. groups: the group of each image, if a column has it. warning: which
    rows name no image.
    """

    file: str
    labels: Sequence[Label]
    splits: Sequence[str] = ()
    description: str = ""
    groups: Sequence[str] | None = None
    warning: str = ""


class UnlabeledError(DataError):
    """A table has no labels for a split; only a test split may be unlabeled."""


def is_table(path: str) -> bool:
    """Return whether a file of a listing may contain labels."""
    return suffix_of(path) in TABLE_SUFFIXES


def find_flat_labels(
    split: SplitRows,
    paths: Sequence[str],
    listing: Listing,
    root: str,
    ground_truth: str | None,
    other_splits: Sequence[Sequence[str]] = (),
    group: str | None = None,
    form: LabelForm = "auto",
) -> FlatLabels | None:
    """Return the labels of the images `paths` of a split without class folders.

    None if no file has them, for example for a test split next to a table of training images.

    other_splits: the images of each other split. group: the name of the column of groups. form: see
    `multilabel.parse_labels`. Raises DataError if a table cannot be read, lacks an image, or
    gives one several labels or a split other than its folder; UnlabeledError if its rows match
    images of another split too, or if it has no labels for test images.
    """
    names = [posixpath.basename(path) for path in paths]
    # Files that are known by their names label validation images, or a set without splits.
    known_files = ground_truth is not None or split.role not in ("train", "test")
    file = find_ground_truth(Path(root), split.folder, ground_truth) if known_files else None
    if file is not None:
        if ground_truth is not None and split.role != "train":
            _check_ground_truth(str(file), names, other_splits)
        labels, pairing = read_labels(file, names)
        return FlatLabels(str(file), labels, description=pairing)
    index = _find_table(split, listing)
    if index is None:
        index = _find_only_table(split, paths, listing, form)
    if index is None:
        return None
    table_name = listing.files.name(index)
    all_paths = [*paths, *chain.from_iterable(other_splits)]
    try:
        table, rows_by_path, set_format = _read_table(
            bytes(listing.files.read(index)), table_name, all_paths, group, form
        )
    except DataError as error:
        if split.role == "test":  # a table of test images need not have labels
            raise UnlabeledError(str(error)) from error
        raise
    keys = [_find_key(path, rows_by_path) for path in paths]
    if not _belongs_to_split(split, listing.paths[index], other_splits):
        _check_other_splits(table_name, rows_by_path, paths, keys, other_splits)
    _check_unique_rows(table_name, rows_by_path, paths, keys)
    missing = [path for path, key in zip(paths, keys, strict=True) if key is None]
    if table is None or (len(missing) == len(paths) and split.role == "test"):
        return None
    by_column = table.columns.has_splits and split.role is None
    absent = _describe_absent(rows_by_path, all_paths)
    if by_column and absent:
        raise DataError(f"{table_name}: {absent}")
    if missing and not by_column:
        raise DataError(
            f"{table_name}: has no label for {len(missing):,} of {len(paths):,} images, among them"
            f" {missing[0]}{absent and '; '}{absent}"
        )
    table.warn_of_unused_columns()
    rows = [NO_ROW if key is None else rows_by_path[key] for key in keys]
    if table.columns.has_splits and split.role is not None:
        _check_role(table_name, split, rows)
    row_splits = [row.split for row in rows] if by_column else ()
    has_groups = table.columns.group is not None
    groups = [row.group for row in rows] if has_groups else None
    description = "; ".join(filter(None, (table.describe(), set_format)))
    row_labels = [row.label for row in rows]
    warning = f"{table_name}: {absent}; images may be missing" if absent else ""
    return FlatLabels(table_name, row_labels, row_splits, description, groups, warning)


def _describe_absent(rows_by_path: Mapping[str, TableRow], paths: Sequence[str]) -> str:
    """Describe the rows that match none of `paths`: the first and their number; "" if all match."""
    matched = {_find_key(path, rows_by_path) for path in paths}
    absent = [row for key, row in rows_by_path.items() if key not in matched]
    if not absent:
        return ""
    more = f", nor those of {format_count(len(absent) - 1, 'more row')}" if absent[1:] else ""
    return f"line {absent[0].line}: there is no image {printable(absent[0].path)}{more}"


def _check_ground_truth(
    file: str, names: Sequence[str], other_splits: Sequence[Sequence[str]]
) -> None:
    """Raise UnlabeledError if `file`, which labels by name, matches images of another split."""
    stems = {posixpath.splitext(name)[0]: name for name in names}
    for path in chain.from_iterable(other_splits):
        if (name := stems.get(posixpath.splitext(posixpath.basename(path))[0])) is not None:
            raise UnlabeledError(
                f"{file}: {name} may mean {path} of another split; give each split a table of its"
                " own, in its folder"
            )


def _check_other_splits(
    table_name: str,
    rows_by_path: Mapping[str, TableRow],
    paths: Sequence[str],
    keys: Sequence[str | None],
    other_splits: Sequence[Sequence[str]],
) -> None:
    """Raise UnlabeledError if rows match images of another split, too."""

    def covers_table(other_keys: Sequence[str | None]) -> bool:
        return len(other_keys) == len(rows_by_path) and set(other_keys) == set(rows_by_path)

    path_of_key = {key: path for path, key in zip(paths, keys, strict=True) if key is not None}
    other_keys = [[_find_key(path, rows_by_path) for path in other] for other in other_splits]
    if covers_table(keys) and not any(map(covers_table, other_keys)):
        return
    for other, keys_there in zip(other_splits, other_keys, strict=True):
        for path, key in zip(other, keys_there, strict=True):
            if key is not None and key in path_of_key:
                raise UnlabeledError(
                    f"{table_name}: line {rows_by_path[key].line}: {key!r} may mean"
                    f" {path_of_key[key]} and {path}, of two splits; write paths with their"
                    " folders, or put a table into the folder of each split"
                )


def _check_unique_rows(
    table_name: str,
    rows_by_path: Mapping[str, TableRow],
    paths: Sequence[str],
    keys: Sequence[str | None],
) -> None:
    """Raise DataError if a row matches two images of a split."""
    seen: dict[str, str] = {}
    for path, key in zip(paths, keys, strict=True):
        if key is not None and seen.setdefault(key, path) != path:
            raise DataError(
                f"{table_name}: line {rows_by_path[key].line}: {key!r} may mean {seen[key]} and"
                f" {path}; write paths with their folders and suffixes"
            )


def _check_role(table_name: str, split: SplitRows, rows: Sequence[TableRow]) -> None:
    """Raise DataError if a table assigns an image to another split than its folder."""
    role = "train" if split.role == "trainval" else split.role
    for row in rows:
        if row.split != role:
            raise DataError(
                f"{table_name}: line {row.line}: {row.path} is of the split {row.split}, but it"
                f" lies in {split.title}/; correct one of them"
            )


def _belongs_to_split(split: SplitRows, table: str, other_splits: Sequence[Sequence[str]]) -> bool:
    """Return whether a table is of this split alone, by its name or its folder."""
    if posixpath.splitext(posixpath.basename(table))[0].lower() in _split_table_names(split):
        return True
    folder = posixpath.dirname(table)
    above = f"{folder}/" if folder else ""
    return not any(path.startswith(above) for path in chain.from_iterable(other_splits))


def _split_table_names(split: SplitRows) -> set[str]:
    names = {split.title.lower(), split.role or ""} - {""}
    forms = ("{}", "{}_labels", "labels_{}", "{}labels", "{}_set")
    return {form.format(name) for name in names for form in forms}


def _find_table(split: SplitRows, listing: Listing) -> int | None:
    """Return the row of the table of a split: by its name, in the split's folder or one above."""
    own, others = _split_table_names(split), listing.others
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


def _find_only_table(
    split: SplitRows, paths: Sequence[str], listing: Listing, form: LabelForm
) -> int | None:
    """Return the row of the only table in a split's folder, regardless of its name, or None.

    It must name all images and have a column with a usual name for labels. Tables that this
    package writes are ignored.
    """
    folder = split.folder.rstrip("/")
    here = [
        row
        for row, path in enumerate(listing.paths)
        if path in listing.others and is_table(path) and posixpath.dirname(path) == folder
    ]
    if len(here) != 1:
        return None
    data = bytes(listing.files.read(here[0]))
    if WRITTEN_BY_PACKAGE.match(data[:HEAD_BYTES].decode("utf-8-sig", "replace")):
        return None
    try:
        table, rows_by_path, _ = _read_table(data, listing.paths[here[0]], paths, None, form)
    except DataError:
        return None
    whole = all(_find_key(path, rows_by_path) is not None for path in paths)
    return here[0] if whole and table is not None and table.columns.has_label_name else None


def _read_table(
    data: bytes, table_name: str, paths: Sequence[str], group: str | None, form: LabelForm
) -> tuple[Table | None, dict[str, TableRow], str]:
    """Read a table with labels of some of `paths`.

    Returns its format, its rows by path, and how multiple labels are written.
    """
    tails = {key for path in paths for key in _iter_keys(path)}
    table = open_table_bytes(
        data, table_name, lambda cell: _normalize_path(cell) in tails, group=group
    )
    rows = [] if table is None else list(table.rows())
    sets = parse_labels(
        [row.label for row in rows], lambda row: f"{table_name}: line {rows[row].line}", form
    )
    by_path: dict[str, TableRow] = {}
    for row, label in zip(rows, sets.labels, strict=True):
        row = replace(row, label=label)
        earlier = by_path.setdefault(_normalize_path(row.path), row)
        if form == "multi":
            names = union_labels([label_names(earlier.label), label_names(label)])
            earlier = row = by_path[_normalize_path(row.path)] = replace(earlier, label=names)
        if earlier.label != row.label:
            raise DataError(
                f"{table_name}: line {row.line}: {row.path} has two labels; {ONE_LABEL}"
            )
        if earlier.split != row.split:
            raise DataError(f"{table_name}: line {row.line}: {row.path} is in two splits; keep one")
    spellings = [(row.line, name) for row in by_path.values() for name in label_names(row.label)]
    check_spellings(
        [name for _, name in spellings], lambda at: f"{table_name}: line {spellings[at][0]}"
    )
    return table, by_path, "; ".join(filter(None, (sets.description, sets.warning)))


def _find_key(path: str, rows_by_path: Mapping[str, TableRow]) -> str | None:
    return next((key for key in _iter_keys(path) if key in rows_by_path), None)


def _normalize_path(path: str) -> str:
    return path.replace("\\", "/").removeprefix("./")


def _iter_keys(path: str) -> Iterator[str]:
    """Yield what a table may call an image: its path from any folder down, or without suffix."""
    parts = path.split("/")
    for start in range(len(parts)):
        tail = "/".join(parts[start:])
        yield tail
        yield posixpath.splitext(tail)[0]
