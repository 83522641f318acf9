"""A table of paths and labels as a data set: CSV, TSV and what else `tables.reader` reads.

Given by itself (`open_table`), or found in or beside a folder of images without class folders
(`open_folder_table`): `images/` with labels.csv beside it, a flat folder whose labels.csv has a
column of splits. Labels alone in a flat folder are `flat_split`'s.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import groupby, pairwise
from pathlib import Path

from resnets.data.dataset.image_identity import hash_names
from resnets.data.dataset.source import FilePart, Part, Source, by_role
from resnets.data.errors import DataError
from resnets.data.files.folder import FolderFiles, Listing
from resnets.data.files.walk import LeftOut
from resnets.data.layout.class_spelling import check_spellings
from resnets.data.layout.folder_layout import Layout
from resnets.data.layout.folder_names import IMAGE_FOLDERS
from resnets.data.sources.class_folders import Tree
from resnets.data.tables.flat_labels import TABLE_NAMES, UNNAMED
from resnets.data.tables.label_sets import LabelForm, joined_sets, read_label_sets
from resnets.data.tables.labels import ONE_LABEL, class_names, names_of, number_labels
from resnets.data.tables.paths import TablePaths
from resnets.data.tables.reader import JSON_SUFFIXES, SPACE, TableRow, open_table_file
from resnets.utils.printable import printable

WHOLE = re.compile(r"([+-]?\d+)\.0+")  # whole numbers as pandas writes them beside a missing one
REAL = re.compile(r"[+-]?\d*\.\d+(e[+-]?\d+)?", re.IGNORECASE)
MANY = 20  # different real numbers that are no classes


def open_table(
    file: Path,
    name: str | None = None,
    root: Path | None = None,
    *,
    group: str | None = None,
    labels: LabelForm = "auto",
) -> Source:
    """The images that a table names, in one part or in those of its split column.

    Paths are found from `root`, the table's folder unless it is given (`table_paths`). `group`:
    name of the column of groups. labels: see `label_sets.read_label_sets`. DataError says in which
    line what is wrong: no such image, several labels, an unknown split.
    """
    root = file.parent if root is None else root
    paths = TablePaths(root)
    table = open_table_file(file, paths.is_file, paths.is_known, group=group)
    written = [] if table is None else list(table.rows())
    if not written:
        raise DataError(f"{file}: names no images; expected lines of path,label")
    assert table is not None
    found = read_label_sets(
        [row.label for row in written], lambda row: f"{file}: line {written[row].line}", labels
    )
    written = [replace(row, label=label) for row, label in zip(written, found.labels, strict=True)]
    names = [(row.line, name) for row in written for name in names_of(row.label)]
    check_spellings([name for _, name in names], lambda at: f"{file}: line {names[at][0]}")
    table.warn_of_unused()
    by_space = table.delimiter == SPACE
    if not found.multi:
        written = _as_classes(file, written)
    # Sorted by path, so that the order of the lines never changes a result.
    rows = sorted(_located(file, written, paths, by_space), key=lambda row: row.path)
    if labels == "multi":
        rows = _one_row_each(rows)
    _check_once(file, rows)
    said = "; ".join(filter(None, (f"{file.name}: {table.said()}", found.said)))
    said += f"; {paths.guessed:,} images found by their names" if paths.guessed else ""
    splits = sorted({row.split for row in rows})
    by_split = {split: [row for row in rows if row.split == split] for split in splits}
    training = by_split["train"] if len(by_split) > 1 and "train" in by_split else rows
    classes = class_names(row.label for row in training)
    parts = {
        split: _part(file, root, split, chosen, classes, grouped=table.columns.group is not None)
        for split, chosen in by_split.items()
    }
    source = by_role(name or file.name, classes, parts, str(file))
    warnings = (*source.warnings, *filter(None, [found.warning]))
    return replace(source, notes=(*source.notes, said), warnings=warnings)


def _part(
    file: Path,
    root: Path,
    split: str,
    rows: Sequence[TableRow],
    classes: Sequence[str],
    *,
    grouped: bool,
) -> FilePart:
    labels = number_labels(
        [row.label for row in rows], classes, lambda place: f"{file}: line {rows[place].line}"
    )
    paths = [row.path for row in rows]
    groups = [row.group for row in rows] if grouped else None
    return FilePart(split, FolderFiles(root, paths), labels, ids=hash_names(paths), groups=groups)


def _one_row_each(rows: Sequence[TableRow]) -> list[TableRow]:
    """One row of all labels for each image; `rows` are sorted by path."""
    found = []
    for _, same in groupby(rows, lambda row: (row.path, row.split)):
        first, *others = same
        sets = [names_of(row.label) for row in (first, *others)]
        found.append(replace(first, label=joined_sets(sets)))
    return found


def _as_classes(file: Path, rows: Sequence[TableRow]) -> list[TableRow]:
    """Labels 0.0, 1.0, ... as 0, 1; DataError for real numbers, which are no classes."""
    labels = {str(row.label) for row in rows}
    if all(map(WHOLE.fullmatch, labels)):
        return [replace(row, label=str(row.label).partition(".")[0]) for row in rows]
    real = sum(REAL.fullmatch(label) is not None for label in labels)
    if real == len(labels) > MANY:
        raise DataError(
            f"{file}: its labels are {real:,} different real numbers, such as {rows[0].label};"
            " expected classes, by name or whole number"
        )
    return list(rows)


def _located(
    file: Path, rows: Sequence[TableRow], paths: TablePaths, by_space: bool
) -> list[TableRow]:
    """The rows with the paths of their images; DataError where some are missing."""
    located, missing = [], []
    for row in rows:
        path = paths.find(row.path, f"{file}: line {row.line}")
        if path is None:
            missing.append(row)
        else:
            located.append(replace(row, path=path))
    if missing:
        first = missing[0]
        spaces = "; the last space of a line separates path and label: put a tab or comma there"
        raise DataError(
            f"{file}: line {first.line}: no file {paths.root / printable(first.path)}"
            + (f", and {len(missing) - 1:,} more are missing" if len(missing) > 1 else "")
            + (f"{spaces}, where labels have spaces" if by_space and " " in first.path else "")
            + "; paths are relative to the table's folder, and a header has path,label"
        )
    return located


def _check_once(file: Path, rows: Sequence[TableRow]) -> None:
    """DataError where an image comes twice; `rows` are sorted by path."""
    for one, two in pairwise(rows):
        if one.path == two.path:
            more = f"; {ONE_LABEL}" if one.label != two.label else "; remove one of them"
            raise DataError(
                f"{file}: line {max(one.line, two.line)}: {printable(one.path)} is in line"
                f" {min(one.line, two.line)} already{more}"
            )


SUFFIXES = (".csv", ".tsv", *JSON_SUFFIXES)
PLAIN_FOLDERS = IMAGE_FOLDERS | {"jpg", "jpeg", "jpegs", "png", "all"}


def open_folder_table(
    folder: Path,
    listing: Listing,
    name: str,
    group: str | None = None,
    labels: LabelForm = "auto",
) -> Source | None:
    """The set that a table of the images of `folder` makes; None where there is no such table.

    Images that it does not name are counted as left out. Raises as `open_table`.
    """
    images = [path for path in listing.paths if path not in listing.others]
    tops = {path.partition("/")[0] for path in images if "/" in path}
    if not images or any(top.lower() not in PLAIN_FOLDERS for top in tops):
        return None
    for file, inside in _candidates(folder.resolve()):
        paths = TablePaths(folder)
        table = open_table_file(file, paths.is_file, paths.is_known)
        if table is None:
            continue
        if inside and not tops and not table.columns.splits:
            return None  # labels alone
        found = open_table(file, name, root=folder, group=group, labels=labels)
        return replace(found, left_out=_left_out(found, listing, images))
    return None


def _candidates(folder: Path) -> Iterator[tuple[Path, bool]]:
    """Tables by their names, and whether they are in the folder or beside it."""
    own = (folder.name, f"{folder.name}_labels", f"{folder.name}labels")
    for place, names in ((folder, (*TABLE_NAMES, *own)), (folder.parent, ("labels", *own))):
        for stem in names:
            for suffix in SUFFIXES:
                file = place / f"{stem}{suffix}"
                if file.is_file():
                    yield file, place == folder


def described_tree(source: Source, listing: Listing) -> Tree:
    """What `open_folder_table` found, with its parts by role and the images that it leaves out."""
    found = {
        "train": source.train,
        "val": source.val,
        "test": source.test() if source.test else None,
    }
    parts = {role: part for role, part in found.items() if isinstance(part, FilePart)}
    named = _named(parts.values())
    paths = listing.images().paths
    left_out = {row: UNNAMED for row, path in enumerate(paths) if path not in named}
    return Tree(source, Layout([], left_out=left_out), parts)


def _named(parts: Iterable[Part | None]) -> set[str]:
    named: set[str] = set()
    for part in parts:
        if part is not None and isinstance(part.files, FolderFiles):
            named.update(part.files.paths)
    return named


def _left_out(source: Source, listing: Listing, images: list[str]) -> LeftOut:
    named = _named((source.train, source.val, source.test() if source.test else None))
    left_out = LeftOut()
    left_out.add_all(listing.left_out)
    for path in images:
        if path not in named:
            left_out.add(UNNAMED, path)
    return left_out
