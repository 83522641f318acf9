"""Find label files next to class folders that are not read although they list their images.

Classes come from the folders. A table, list or JSON file that names the same images may contain
other labels, official splits or groups of related images, and a table of the folders may show that
those are patients rather than classes. The user is warned. Only the first bytes of a few files are
read, and none of a spreadsheet.
"""

from __future__ import annotations

import csv
import os
import posixpath
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

from resnets.data.dataset.quarantine_list import FIRST_LINE as QUARANTINE_HEAD
from resnets.data.dataset.quarantine_list import QUARANTINE
from resnets.data.files.folder import Listing
from resnets.data.files.walk import IMAGE_SUFFIXES, suffix_of
from resnets.data.layout.folder_names import name_words, role_within, split_role
from resnets.data.tables.columns import format_names, is_split_or_group_name
from resnets.utils.printable import join_names, printable

TEXT_SUFFIXES = frozenset((".csv", ".tsv", ".tab", ".txt", ".lst", ".json", ".jsonl"))
SPREADSHEET_SUFFIXES = frozenset((".xlsx", ".xls", ".xlsm", ".ods"))
HEAD_BYTES = 1 << 16  # bytes that are read of a file
MAX_FILES = 40  # files that are searched
MAX_FOLDERS = 100  # folders whose files are searched
MIN_NAMES = 2  # images or folders that a file must name
MIN_DIGITS = 4  # of a number that may be the name of an image
MAX_TEXTS = 10  # in a folder; above, files named like images are skipped
# First line of tables that data check, predict and bulk prediction write.
WRITTEN_BY_PACKAGE = re.compile(
    r"path,finding,weight,|path,class1,(id1,)?probability1|path,class,(score,left,|pixels\r?\n)"
    r"|path,width,height,(objects|areas),|file,item,(kind,problem|outcome,reason)\r?\n"
)
DELIMITED = re.compile(r"[,;\t|]")
CELL = re.compile(r"""[,;|\t\n\r"'{}\[\]]+|:\s|\s+""")


@dataclass(frozen=True)
class LabelFile:
    """A file that names images of the set, or its folders.

    images: how many its first bytes name; None for a spreadsheet. classes: whether it also names
    the class folders. groups: columns that may contain groups of related images. splits: whether it
    is named like a list of a split. folders: its column about the folders, or "" if it names none.
    """

    path: str
    images: int | None
    classes: bool = False
    groups: tuple[str, ...] = ()
    splits: bool = False
    folders: str = ""


def find_label_files(
    listing: Listing, where: str, classes: Sequence[str], quarantine: str | None = None
) -> list[LabelFile]:
    """Return the files of `listing` that name its images or folders, and spreadsheets.

    Quarantine lists, such as the file `quarantine`, and files that this package writes are skipped.
    """
    names, ids = _image_names(listing, classes)
    numbered = {str(int(name)) for name in classes if name.isdecimal()}
    folder_names = _folder_names(listing)
    found = []
    for path, data in _iter_heads(listing, Path(where).expanduser()):
        if data is None:
            found.append(LabelFile(path, None))
            continue
        text = data.decode("utf-8-sig", "replace").replace("\\", "/")
        if _is_quarantine(path, text, where, quarantine) or WRITTEN_BY_PACKAGE.match(text):
            continue
        cells = set(CELL.split(text))
        image_cells = [cell for cell in cells if _is_image_name(cell, names)] or _leading_ids(
            text, ids
        )
        split_kind = _split_kind(path)
        if len(image_cells) < MIN_NAMES:
            folder_note = _describe_folder_column(text, folder_names)
            if folder_note or split_kind == "both":
                found.append(LabelFile(path, 0, splits=not folder_note, folders=folder_note))
            continue
        words = cells
        if not _has_other_words(text, cells, names):  # a list of paths, or paths and numbers
            above = {posixpath.basename(posixpath.dirname(cell)) for cell in image_cells}
            words = cells | above | set(path.split("/")[:-1])
        names_classes = not words.isdisjoint({*classes, *numbered})
        groups = _group_columns(path, text, names)
        found.append(LabelFile(path, len(image_cells), names_classes, groups, bool(split_kind)))
    return found


def _is_quarantine(path: str, text: str, where: str, quarantine: str | None) -> bool:
    if path == QUARANTINE or text.startswith(QUARANTINE_HEAD.rstrip("\n")):
        return True
    if quarantine is None:
        return False
    file = Path(where).expanduser() / path
    return file.resolve() == Path(quarantine).expanduser().resolve()


def describe_label_files(
    files: Sequence[LabelFile], classes: Sequence[str], *, split: bool
) -> tuple[list[str], list[str]]:
    """Return notes and warnings on files that name the images of class folders, or the folders.

    split: whether the set is already split by its folders or a table.
    """
    read = [file for file in files if file.images is not None]
    notes, warnings = [], []
    for file in [file for file in read if file.folders]:
        warnings.append(
            f"{printable(file.path)} says of folders what may be their class ({file.folders}) and"
            " is not read; the classes are the folder names. If those are patients or the like,"
            " write a table of path,label of the images and give it by --data"
        )
    listed = [
        file
        for file in read
        if file.splits and not split and not file.groups and (file.classes or not file.images)
    ]
    if listed:
        warnings.append(
            f"{format_files(listed)}: named like lists of splits and not read; which images are"
            " held out is drawn at random. To use the lists, write a table of path,label,split and"
            " give it by --data"
        )
    read = [file for file in read if file.images and file not in listed]
    grouped = [file for file in read if file.groups]
    without_classes = [file for file in read if not file.groups and not file.classes]
    with_classes = [file for file in read if not file.groups and file.classes]
    if grouped:
        columns = list(dict.fromkeys(name for file in grouped for name in file.groups))
        warnings.append(
            f"{_format_unread(grouped)}: {format_names(columns)} may say which images belong"
            " together; to take splits from a table, give it by --data, with a column split"
        )
    if without_classes:
        listed_classes = ", ".join(map(printable, classes[:3])) + (
            ", ..." if len(classes) > 3 else ""
        )
        warnings.append(
            f"{_format_unread(without_classes)}, and none of the classes ({listed_classes}), which"
            f" are folders' names, is in {'it' if len(without_classes) == 1 else 'them'}; to take"
            " labels from a table, give it by --data"
        )
    if with_classes:
        notes.append(f"{_format_unread(with_classes)}; classes are the folders")
    return notes, warnings


def warn_of_other_tables(
    listing: Listing, where: str, classes: Sequence[str], read: Sequence[str]
) -> tuple[str, ...]:
    """Return a warning if files other than those `read` name images without folders and classes."""
    found = find_label_files(listing, where, classes)
    other = [
        each
        for each in found
        if each.images
        and each.classes
        and not any(f"/{file}".endswith(f"/{each.path}") for file in read)
    ]
    if not other:
        return ()
    files = join_names([printable(file) for file in dict.fromkeys(read)])
    return (
        f"{format_files(other)}: not read, but {'names' if len(other) == 1 else 'name'} images and"
        f" classes, too; labels are those of {files}",
    )


def format_files(files: Sequence[LabelFile], most: int = 3) -> str:
    """Format the first `most` of the files for a message."""
    return join_names([printable(file.path) for file in files], most)


def _format_unread(files: Sequence[LabelFile]) -> str:
    one = len(files) == 1
    return (
        f"{format_files(files)} {'names' if one else 'name'} images of the class folders and"
        f" {'is' if one else 'are'} not read"
    )


def may_hold_labels(path: str) -> bool:
    """Return whether a file of a listing is text that may contain labels."""
    return suffix_of(path) in TEXT_SUFFIXES


def _image_names(listing: Listing, classes: Sequence[str]) -> tuple[set[str], set[str]]:
    """Return the names a file may use for the images, and names that are numbers."""
    image_names: set[str] = set()
    ids: set[str] = set()
    for path in listing.paths:
        if path in listing.others:
            continue
        tail = "/".join(path.split("/")[-2:])
        image_names |= {path, tail, posixpath.basename(path)}
        for name in (posixpath.splitext(each)[0] for each in (path, tail)):
            image_names |= {name} if "/" in name else set()
        stem = posixpath.splitext(posixpath.basename(path))[0]
        if re.search(r"[^\W\d_]", stem) and stem not in classes:
            image_names.add(stem)
        elif stem.isdecimal() and len(stem) >= MIN_DIGITS:
            ids.add(stem)
    return image_names, ids


def _folder_names(listing: Listing) -> set[str]:
    """Return what a table may call the folders of images: their paths from any folder down."""
    paths = {posixpath.dirname(path) for path in listing.images().paths}
    parts = [path.split("/") for path in paths]
    above = {tuple(each[:end]) for each in parts for end in range(1, len(each) + 1)}
    return {"/".join(each[start:]) for each in above for start in range(len(each))} - {""}


def _describe_folder_column(text: str, folders: set[str]) -> str:
    """Describe a column with few values in a table with one row per folder; "" if there is none."""
    rows = [
        [cell.strip().rstrip("/") for cell in row]
        for row in csv.reader(text.splitlines(), delimiter=_find_delimiter(text))
        if any(row)
    ]
    columns = list(zip_longest(*rows, fillvalue=""))
    keys = next((each for each in columns if sum(map(folders.__contains__, each)) >= MIN_NAMES), ())
    rows_of_folders = [row for row, key in enumerate(keys) if key in folders]
    if 2 * len(rows_of_folders) < len(keys) or len({keys[row] for row in rows_of_folders}) < len(
        rows_of_folders
    ):
        return ""  # several rows per folder: folders are classes there
    for index, column in enumerate(columns):
        values = sorted({column[row] for row in rows_of_folders})
        if column is not keys and 1 < len(values) <= len(rows_of_folders) / 2:
            name = column[0] if rows_of_folders[0] else f"column {index + 1}"
            return f"{printable(name)}: {format_names(values)}"
    return ""


def _find_delimiter(text: str) -> str:
    found = DELIMITED.search(text)
    return "," if found is None else found[0]


def _split_kind(path: str) -> str:
    """Return "one" for a file named like a split, "both" for one named like several, else ""."""
    stem = posixpath.splitext(posixpath.basename(path))[0]
    roles = {split_role(word) for word in name_words(stem)} - {None}
    return "both" if len(roles) > 1 else "one" if role_within(stem) is not None else ""


def _leading_ids(text: str, ids: set[str]) -> list[str]:
    """Return the numbers that most lines begin with, if these are names of images."""
    lines = text.splitlines()[:-1] if len(text) >= HEAD_BYTES else text.splitlines()
    first = [cells[0] for line in lines if (cells := CELL.split(line.strip(), maxsplit=1))[0]]
    found = [cell for cell in first if cell in ids]
    return found if 2 * len(found) > len(first) else []


def _has_other_words(text: str, cells: set[str], image_names: set[str]) -> bool:
    """Return whether a file contains words about the images, not only numbers, below its header."""
    header = set(CELL.split(text.partition("\n")[0]))
    if any(_is_image_name(cell, image_names) for cell in header):
        header = set()
    return any(
        re.search(r"[^\W\d_]", cell) and not _is_image_name(cell, image_names)
        for cell in cells - header
    )


def _group_columns(path: str, text: str, image_names: set[str]) -> tuple[str, ...]:
    """Return the columns of a header that may contain groups of related images or splits."""
    header = DELIMITED.split(text.partition("\n")[0].strip())
    if len(header) < 2 or suffix_of(path) in (".json", ".jsonl"):
        return ()
    names = [name.strip().strip('"') for name in header]
    if any(_is_image_name(name, image_names) for name in names):
        return ()
    return tuple(name for name in names if is_split_or_group_name(name))


def _is_image_name(cell: str, image_names: set[str]) -> bool:
    if cell in image_names:
        return True
    base = cell.rpartition("/")[2]
    return base in image_names and posixpath.splitext(base)[1].lower() in IMAGE_SUFFIXES


def _iter_heads(listing: Listing, root: Path) -> Iterator[tuple[str, bytes | None]]:
    """Yield the paths of possible label files with their first bytes, None for a spreadsheet."""
    stems = {posixpath.splitext(posixpath.basename(path))[0] for path in listing.images().paths}
    if not root.is_dir():
        row_of = {path: row for row, path in enumerate(listing.paths) if path in listing.others}
        texts = list(filter(may_hold_labels, row_of))
        for path in _drop_per_image_files(texts, stems)[:MAX_FILES]:
            yield path, bytes(listing.files.read(row_of[path])[:HEAD_BYTES])
        return
    remaining = MAX_FILES
    for folder in ("", *listing.folders[: MAX_FOLDERS - 1]):
        for path in _list_candidates(root, folder, stems):
            if not remaining:
                return
            remaining -= 1
            if suffix_of(path) in SPREADSHEET_SUFFIXES:
                yield path, None
                continue
            try:
                with (root / path).open("rb") as stream:
                    yield path, stream.read(HEAD_BYTES)
            except OSError:
                continue


def _list_candidates(root: Path, folder: str, stems: set[str]) -> list[str]:
    """Return the possible label files of a folder."""
    try:
        with os.scandir(root / folder) as entries:
            names = [
                entry.name
                for entry in entries
                if not entry.name.startswith(".")
                and suffix_of(entry.name) in TEXT_SUFFIXES | SPREADSHEET_SUFFIXES
                and entry.is_file()
            ]
    except OSError:
        return []
    return _drop_per_image_files([posixpath.join(folder, name) for name in sorted(names)], stems)


def _drop_per_image_files(paths: list[str], stems: set[str]) -> list[str]:
    """Drop files with the name of one image each, as YOLO sets have them."""
    if len(paths) <= MAX_TEXTS:
        return paths
    return [path for path in paths if posixpath.splitext(posixpath.basename(path))[0] not in stems]
