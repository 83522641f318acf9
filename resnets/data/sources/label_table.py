"""A table of paths and labels as a data set: CSV, TSV and other formats of `tables.reader`.

The table is given directly (`open_table`), or found in or next to a folder of images without class
folders (`open_folder_table`): `images/` with labels.csv next to it, or a flat folder whose
labels.csv has a column of splits. Tables of labels alone are read by `flat_folder`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import groupby, pairwise
from pathlib import Path

from resnets.data.dataset.image_identity import hash_names
from resnets.data.dataset.source import FilePart, Part, Source, source_from_parts
from resnets.data.errors import DataError
from resnets.data.files.folder import FolderFiles, Listing
from resnets.data.files.walk import SkippedFiles
from resnets.data.layout.class_spelling import check_spellings
from resnets.data.layout.folder_layout import Layout
from resnets.data.layout.folder_names import IMAGE_FOLDERS
from resnets.data.sources.class_folders import Tree
from resnets.data.tables.flat_labels import NOT_IN_TABLE, TABLE_NAMES
from resnets.data.tables.labels import ONE_LABEL, class_names, encode_labels, label_names
from resnets.data.tables.multilabel import LabelForm, parse_labels, union_labels
from resnets.data.tables.paths import TablePaths
from resnets.data.tables.reader import JSON_SUFFIXES, SPACE, TableRow, open_table_file
from resnets.data.tables.unread_labels import warn_of_other_tables
from resnets.utils.printable import printable

WHOLE_NUMBER = re.compile(r"[+-]?\d+(\.0+)?")  # pandas writes 1.0 next to missing ones
REAL_NUMBER = re.compile(r"[+-]?\d*\.\d+(e[+-]?\d+)?", re.IGNORECASE)
MAX_NUMBERS = 20  # number of distinct real labels above which they are not classes


def open_table(
    file: Path,
    name: str | None = None,
    root: Path | None = None,
    *,
    group: str | None = None,
    labels: LabelForm = "auto",
) -> Source:
    """Open the images in a table, as one part or by its split column.

    Paths are relative to `root`, by default the table's folder (`tables.paths`). group: the name of
    the column of groups. labels: see `multilabel.parse_labels`. Raises DataError with the line
    of a missing image, of several labels, or of an unknown split.
    """
    root = file.parent if root is None else root
    paths = TablePaths(root)
    table = open_table_file(file, paths.is_file, paths.is_known, group=group)
    table_rows = [] if table is None else list(table.rows())
    if not table_rows:
        raise DataError(f"{file}: names no images; expected lines of path,label")
    assert table is not None
    multilabel = parse_labels(
        [row.label for row in table_rows],
        lambda row: f"{file}: line {table_rows[row].line}",
        labels,
    )
    table_rows = [
        replace(row, label=label) for row, label in zip(table_rows, multilabel.labels, strict=True)
    ]
    if not multilabel.multi:
        table_rows = _convert_whole_numbers(file, table_rows)
    names = [(row.line, name) for row in table_rows for name in label_names(row.label)]
    check_spellings([name for _, name in names], lambda index: f"{file}: line {names[index][0]}")
    table.warn_of_unused_columns()
    by_space = table.delimiter == SPACE
    # Sorted by path, so that results do not depend on the order of lines.
    rows = sorted(_find_images(file, table_rows, paths, by_space), key=lambda row: row.path)
    if labels == "multi":
        rows = _merge_rows(rows)
    _check_unique(file, rows)
    description = "; ".join(
        filter(None, (f"{file.name}: {table.describe()}", multilabel.description))
    )
    description += (
        f"; {paths.num_guessed:,} images found by their names" if paths.num_guessed else ""
    )
    splits = sorted({row.split for row in rows})
    by_split = {split: [row for row in rows if row.split == split] for split in splits}
    training = by_split["train"] if len(by_split) > 1 and "train" in by_split else rows
    classes = class_names(row.label for row in training)
    parts = {
        split: _make_part(
            file, root, split, chosen, classes, grouped=table.columns.group is not None
        )
        for split, chosen in by_split.items()
    }
    source = source_from_parts(name or file.name, classes, parts, str(file))
    warnings = (*source.warnings, *filter(None, [multilabel.warning]))
    return replace(source, notes=(*source.notes, description), warnings=warnings)


def _make_part(
    file: Path,
    root: Path,
    split: str,
    rows: Sequence[TableRow],
    classes: Sequence[str],
    *,
    grouped: bool,
) -> FilePart:
    labels = encode_labels(
        [row.label for row in rows], classes, lambda row: f"{file}: line {rows[row].line}"
    )
    paths = [row.path for row in rows]
    groups = [row.group for row in rows] if grouped else None
    return FilePart(split, FolderFiles(root, paths), labels, ids=hash_names(paths), groups=groups)


def _merge_rows(rows: Sequence[TableRow]) -> list[TableRow]:
    """Merge the labels of all rows of an image; `rows` are sorted by path."""
    found = []
    for _, same in groupby(rows, lambda row: (row.path, row.split)):
        first, *others = same
        sets = [label_names(row.label) for row in (first, *others)]
        found.append(replace(first, label=union_labels(sets)))
    return found


def _convert_whole_numbers(file: Path, rows: Sequence[TableRow]) -> list[TableRow]:
    """Convert labels 0.0, 1.0, ... to 0, 1, ...; raise DataError for real numbers.

    1.000 next to 1 is not converted, because it may mean a thousand.
    """
    labels = {str(row.label) for row in rows}
    decimals = {label.partition(".")[2] for label in labels}
    if all(map(WHOLE_NUMBER.fullmatch, labels)) and not decimals >= {"", "000"}:
        return [replace(row, label=str(row.label).partition(".")[0]) for row in rows]
    real = sum(REAL_NUMBER.fullmatch(label) is not None for label in labels)
    if real == len(labels) > MAX_NUMBERS:
        raise DataError(
            f"{file}: its labels are {real:,} different real numbers, such as {rows[0].label};"
            " expected classes, by name or whole number"
        )
    return list(rows)


def _find_images(
    file: Path, rows: Sequence[TableRow], paths: TablePaths, by_space: bool
) -> list[TableRow]:
    """Return the rows with the paths of their images; raise DataError if some are missing."""
    rows_found, rows_missing = [], []
    for row in rows:
        path = paths.find(row.path, f"{file}: line {row.line}")
        if path is None:
            rows_missing.append(row)
        else:
            rows_found.append(replace(row, path=path))
    if rows_missing:
        first = rows_missing[0]
        spaces = "; the last space of a line separates path and label: put a tab or comma there"
        raise DataError(
            f"{file}: line {first.line}: no file {paths.root / printable(first.path)}"
            + (f", and {len(rows_missing) - 1:,} more are missing" if len(rows_missing) > 1 else "")
            + (f"{spaces}, where labels have spaces" if by_space and " " in first.path else "")
            + "; paths are relative to the table's folder, and a header has path,label"
        )
    return rows_found


def _check_unique(file: Path, rows: Sequence[TableRow]) -> None:
    """Raise DataError if an image occurs twice; `rows` are sorted by path."""
    for one, two in pairwise(rows):
        if one.path == two.path:
            more = f"; {ONE_LABEL}" if one.label != two.label else "; remove one of them"
            raise DataError(
                f"{file}: line {max(one.line, two.line)}: {printable(one.path)} is in line"
                f" {min(one.line, two.line)} already{more}"
            )


FOLDER_TABLE_SUFFIXES = (".csv", ".tsv", *JSON_SUFFIXES)
IMAGE_FOLDER_NAMES = IMAGE_FOLDERS | {"jpg", "jpeg", "jpegs", "png", "all"}


def open_folder_table(
    folder: Path,
    listing: Listing,
    name: str,
    group: str | None = None,
    labels: LabelForm = "auto",
) -> Source | None:
    """Open the data set described by a table of the images of `folder`; None without such a table.

    Images that are not in the table are counted as skipped. Raises as `open_table`.
    """
    images = [path for path in listing.paths if path not in listing.others]
    top_folders = {path.partition("/")[0] for path in images if "/" in path}
    if not images or any(top.lower() not in IMAGE_FOLDER_NAMES for top in top_folders):
        return None
    for file, is_inside in _iter_tables(folder.resolve()):
        paths = TablePaths(folder)
        table = open_table_file(file, paths.is_file, paths.is_known)
        if table is None:
            continue
        if is_inside and not top_folders and not table.columns.has_splits:
            return None  # labels alone
        found = open_table(file, name, root=folder, group=group, labels=labels)
        skipped = _count_skipped(found, listing, images)
        warnings = warn_of_other_tables(listing, str(folder), found.classes, [file.name])
        return replace(found, skipped=skipped, warnings=(*found.warnings, *warnings))
    return None


def _iter_tables(folder: Path) -> Iterator[tuple[Path, bool]]:
    """Yield possible tables, and whether they are inside the folder or next to it."""
    own = (folder.name, f"{folder.name}_labels", f"{folder.name}labels")
    for directory, names in ((folder, (*TABLE_NAMES, *own)), (folder.parent, ("labels", *own))):
        for stem in names:
            for suffix in FOLDER_TABLE_SUFFIXES:
                file = directory / f"{stem}{suffix}"
                if file.is_file():
                    yield file, directory == folder


def make_table_tree(source: Source, listing: Listing) -> Tree:
    """Return the data set of `open_folder_table` with its parts by role and the excluded images."""
    roles = {
        "train": source.train,
        "val": source.val,
        "test": source.test() if source.test else None,
    }
    parts = {role: part for role, part in roles.items() if isinstance(part, FilePart)}
    named = _image_paths(parts.values())
    paths = listing.images().paths
    skipped = {row: NOT_IN_TABLE for row, path in enumerate(paths) if path not in named}
    return Tree(source, Layout([], skipped=skipped), parts)


def _image_paths(parts: Iterable[Part | None]) -> set[str]:
    named: set[str] = set()
    for part in parts:
        if part is not None and isinstance(part.files, FolderFiles):
            named.update(part.files.paths)
    return named


def _count_skipped(source: Source, listing: Listing, images: list[str]) -> SkippedFiles:
    named = _image_paths((source.train, source.val, source.test() if source.test else None))
    skipped = SkippedFiles()
    skipped.add_all(listing.skipped)
    for path in images:
        if path not in named:
            skipped.add(NOT_IN_TABLE, path)
    return skipped
