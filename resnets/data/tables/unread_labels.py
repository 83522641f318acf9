"""Label files beside class folders that name their images or folders, and are not read.

Classes come from folders there. A table, list or JSON that names the same images may say other
labels, official splits or which images belong together, and a table of folders that those are
patients and no classes, so it is named. Only the first bytes of few files are read, and none of a
spreadsheet.
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

from resnets.data.dataset.quarantine import HEAD as QUARANTINE_HEAD
from resnets.data.dataset.quarantine import QUARANTINE
from resnets.data.files.folder import Listing
from resnets.data.files.walk import IMAGE_SUFFIXES, suffix_of
from resnets.data.layout.folder_names import name_words, role_within, split_role
from resnets.data.tables.columns import is_suspicious, shown_names
from resnets.utils.printable import printable

TEXTS = frozenset((".csv", ".tsv", ".tab", ".txt", ".lst", ".json", ".jsonl"))
SPREADSHEETS = frozenset((".xlsx", ".xls", ".xlsm", ".ods"))
HEAD = 1 << 16  # bytes that are read of a file
MOST_FILES = 40  # that are looked at
MOST_FOLDERS = 100  # whose files are looked at
LEAST = 2  # images that a file names
LONG_NUMBER = 4  # digits of a number that may be the name of an image
MANY_TEXTS = 10  # in a folder, from which those that are called like images are not looked at
# How tables begin that data check, predict and bulk prediction write.
WRITTEN = re.compile(
    r"path,finding,weight,|path,class1,(id1,)?probability1|path,class,(score,left,|pixels\r?\n)"
    r"|file,item,(kind,problem|outcome,reason)\r?\n"
)
DELIMITED = re.compile(r"[,;\t|]")
CELL = re.compile(r"""[,;|\t\n\r"'{}\[\]]+|:\s|\s+""")


@dataclass(frozen=True)
class LabelFile:
    """A file that names images of the set, or its folders. images: how many in its first bytes,
    None where it is not text. classes: whether it names the class folders too. groups: columns that
    may say which images belong together. splits: whether it is called like a list of a split.
    folders: what it says of the folders, "" where it names none."""

    path: str
    images: int | None
    classes: bool = False
    groups: tuple[str, ...] = ()
    splits: bool = False
    folders: str = ""


def label_files(
    listing: Listing, where: str, classes: Sequence[str], quarantine: str | None = None
) -> list[LabelFile]:
    """The files in the folders of `listing` that name its images or folders, and spreadsheets.

    Quarantine lists, such as the file `quarantine`, and what this package writes are none.
    """
    known, ids = _known(listing, classes)
    numbered = {str(int(name)) for name in classes if name.isdecimal()}
    below = _folder_names(listing)
    found = []
    for path, head in _heads(listing, Path(where).expanduser()):
        if head is None:
            found.append(LabelFile(path, None))
            continue
        text = head.decode("utf-8-sig", "replace").replace("\\", "/")
        if _is_quarantine(path, text, where, quarantine) or WRITTEN.match(text):
            continue
        cells = set(CELL.split(text))
        named = [cell for cell in cells if _names(cell, known)] or _leading(text, ids)
        splits = _called_split(path)
        if len(named) < LEAST:
            of_folders = _of_folders(text, below)
            if of_folders or splits == "both":
                found.append(LabelFile(path, 0, splits=not of_folders, folders=of_folders))
            continue
        said = cells
        if not _other_words(text, cells, known):  # a list of paths, or paths and numbers
            folders = {posixpath.basename(posixpath.dirname(cell)) for cell in named}
            said = cells | folders | set(path.split("/")[:-1])
        classed = not said.isdisjoint({*classes, *numbered})
        groups = _groups(path, text, known)
        found.append(LabelFile(path, len(named), classed, groups, bool(splits)))
    return found


def _is_quarantine(path: str, text: str, where: str, quarantine: str | None) -> bool:
    if path == QUARANTINE or text.startswith(QUARANTINE_HEAD.rstrip("\n")):
        return True
    if quarantine is None:
        return False
    file = Path(where).expanduser() / path
    return file.resolve() == Path(quarantine).expanduser().resolve()


def label_file_notes(
    files: Sequence[LabelFile], classes: Sequence[str], *, split: bool
) -> tuple[list[str], list[str]]:
    """Notes and warnings on files that name the images of class folders, or the folders.

    split: whether the set is split already, by its folders or a table.
    """
    read = [file for file in files if file.images is not None]
    notes, warnings = [], []
    for file in [file for file in read if file.folders]:
        warnings.append(
            f"{printable(file.path)} says of folders what may be their class ({file.folders}) and"
            " is not read; the classes are called like folders. If those are patients or the like,"
            " write a table of path,label of the images and give it by --data"
        )
    listed = [
        file
        for file in read
        if file.splits and not split and not file.groups and (file.classes or not file.images)
    ]
    if listed:
        warnings.append(
            f"{named_files(listed)}: called like lists of splits and not read; which images are"
            " held out is drawn at random. To use the lists, write a table of path,label,split and"
            " give it by --data"
        )
    read = [file for file in read if file.images and file not in listed]
    grouped = [file for file in read if file.groups]
    other = [file for file in read if not file.groups and not file.classes]
    rest = [file for file in read if not file.groups and file.classes]
    if grouped:
        columns = list(dict.fromkeys(name for file in grouped for name in file.groups))
        warnings.append(
            f"{_unread(grouped)}: {shown_names(columns)} may say which images belong together; to"
            " take splits from a table, give it by --data, with a column split"
        )
    if other:
        shown = ", ".join(map(printable, classes[:3])) + (", ..." if len(classes) > 3 else "")
        warnings.append(
            f"{_unread(other)}, and none of the classes ({shown}), which are folders' names, is in"
            f" {'it' if len(other) == 1 else 'them'}; to take labels from a table, give it by"
            " --data"
        )
    if rest:
        notes.append(f"{_unread(rest)}; classes are the folders")
    return notes, warnings


def named_files(files: Sequence[LabelFile], most: int = 3) -> str:
    """The first of the files, for a message."""
    more = f" and {len(files) - most} more" if len(files) > most else ""
    return ", ".join(printable(file.path) for file in files[:most]) + more


def _unread(files: Sequence[LabelFile]) -> str:
    one = len(files) == 1
    return (
        f"{named_files(files)} {'names' if one else 'name'} images of the class folders and"
        f" {'is' if one else 'are'} not read"
    )


def may_label(path: str) -> bool:
    """Whether a file of a listing is text that may say labels."""
    return suffix_of(path) in TEXTS


def _known(listing: Listing, classes: Sequence[str]) -> tuple[set[str], set[str]]:
    """What a file may call the images, and names that are numbers: those may mean anything."""
    known: set[str] = set()
    ids: set[str] = set()
    for path in listing.paths:
        if path in listing.others:
            continue
        tail = "/".join(path.split("/")[-2:])
        known |= {path, tail, posixpath.basename(path)}
        for name in (posixpath.splitext(each)[0] for each in (path, tail)):
            known |= {name} if "/" in name else set()
        stem = posixpath.splitext(posixpath.basename(path))[0]
        if re.search(r"[^\W\d_]", stem) and stem not in classes:
            known.add(stem)
        elif stem.isdecimal() and len(stem) >= LONG_NUMBER:
            ids.add(stem)
    return known, ids


def _folder_names(listing: Listing) -> set[str]:
    """What a table may call the folders that hold images: their paths from any folder above."""
    paths = {posixpath.dirname(path) for path in listing.images().paths}
    parts = [path.split("/") for path in paths]
    above = {tuple(each[:end]) for each in parts for end in range(1, len(each) + 1)}
    return {"/".join(each[start:]) for each in above for start in range(len(each))} - {""}


def _of_folders(text: str, folders: set[str]) -> str:
    """What a table says of folders, one a row: a column of few values; "" where there is none."""
    rows = [
        [cell.strip().rstrip("/") for cell in row]
        for row in csv.reader(text.splitlines(), delimiter=_delimiter(text))
        if any(row)
    ]
    columns = list(zip_longest(*rows, fillvalue=""))
    keys = next((each for each in columns if sum(map(folders.__contains__, each)) >= LEAST), ())
    named = [row for row, key in enumerate(keys) if key in folders]
    if 2 * len(named) < len(keys) or len({keys[row] for row in named}) < len(named):
        return ""  # several rows of a folder: it is a class there
    for place, column in enumerate(columns):
        values = sorted({column[row] for row in named})
        if column is not keys and 1 < len(values) <= len(named) / 2:
            name = column[0] if named[0] else f"column {place + 1}"
            return f"{printable(name)}: {shown_names(values)}"
    return ""


def _delimiter(text: str) -> str:
    found = DELIMITED.search(text)
    return "," if found is None else found[0]


def _called_split(path: str) -> str:
    """ "one" for a file that is called like a split, "both" for one of several, else ""."""
    stem = posixpath.splitext(posixpath.basename(path))[0]
    roles = {split_role(word) for word in name_words(stem)} - {None}
    return "both" if len(roles) > 1 else "one" if role_within(stem) is not None else ""


def _leading(text: str, ids: set[str]) -> list[str]:
    """The numbers that most lines begin with, where these are names of images."""
    lines = text.splitlines()[:-1] if len(text) >= HEAD else text.splitlines()
    first = [cells[0] for line in lines if (cells := CELL.split(line.strip(), maxsplit=1))[0]]
    found = [cell for cell in first if cell in ids]
    return found if 2 * len(found) > len(first) else []


def _other_words(text: str, cells: set[str], known: set[str]) -> bool:
    """Whether a file says more of the images than numbers: below its header, words."""
    header = set(CELL.split(text.partition("\n")[0]))
    if any(_names(cell, known) for cell in header):
        header = set()
    return any(re.search(r"[^\W\d_]", cell) and not _names(cell, known) for cell in cells - header)


def _groups(path: str, text: str, known: set[str]) -> tuple[str, ...]:
    """Columns of a header that may say which images belong together, or their splits."""
    header = DELIMITED.split(text.partition("\n")[0].strip())
    if len(header) < 2 or suffix_of(path) in (".json", ".jsonl"):
        return ()
    names = [name.strip().strip('"') for name in header]
    if any(_names(name, known) for name in names):
        return ()
    return tuple(name for name in names if is_suspicious(name))


def _names(cell: str, known: set[str]) -> bool:
    if cell in known:
        return True
    base = cell.rpartition("/")[2]
    return base in known and posixpath.splitext(base)[1].lower() in IMAGE_SUFFIXES


def _heads(listing: Listing, root: Path) -> Iterator[tuple[str, bytes | None]]:
    """Paths of what may be label files with their first bytes, None for a spreadsheet."""
    stems = {posixpath.splitext(posixpath.basename(path))[0] for path in listing.images().paths}
    if not root.is_dir():
        row_of = {path: row for row, path in enumerate(listing.paths) if path in listing.others}
        texts = list(filter(may_label, row_of))
        for path in _without_own(texts, stems)[:MOST_FILES]:
            yield path, bytes(listing.files.read(row_of[path])[:HEAD])
        return
    left = MOST_FILES
    for folder in ("", *listing.folders[: MOST_FOLDERS - 1]):
        for path in _candidates(root, folder, stems):
            if not left:
                return
            left -= 1
            if suffix_of(path) in SPREADSHEETS:
                yield path, None
                continue
            try:
                with (root / path).open("rb") as stream:
                    yield path, stream.read(HEAD)
            except OSError:
                continue


def _candidates(root: Path, folder: str, stems: set[str]) -> list[str]:
    """What may be label files of a folder."""
    try:
        with os.scandir(root / folder) as entries:
            names = [
                entry.name
                for entry in entries
                if not entry.name.startswith(".")
                and suffix_of(entry.name) in TEXTS | SPREADSHEETS
                and entry.is_file()
            ]
    except OSError:
        return []
    return _without_own([posixpath.join(folder, name) for name in sorted(names)], stems)


def _without_own(paths: list[str], stems: set[str]) -> list[str]:
    """The files without those of one image each, as YOLO sets have them."""
    if len(paths) <= MANY_TEXTS:
        return paths
    return [path for path in paths if posixpath.splitext(posixpath.basename(path))[0] not in stems]
