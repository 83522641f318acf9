"""What there is to check in a stored set: its pictures by part, and what its folders say."""

from __future__ import annotations

import posixpath
import tarfile
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from resnets.config import DataSpec
from resnets.data.archives import is_zip, list_archive
from resnets.data.check_findings import (
    EMPTY_CLASS,
    LAYOUT,
    NO_PICTURE,
    ODD_FOLDER,
    STRAY,
    UNREADABLE,
    Finding,
)
from resnets.data.errors import DataError
from resnets.data.files import (
    Files,
    Listing,
    is_picture,
    list_folder,
)
from resnets.data.pack import is_pack
from resnets.data.parts import PART_NAMES, VAL_NAMES
from resnets.data.quarantine import QUARANTINE, path_within, prefixes
from resnets.data.shards import is_label, is_sharded
from resnets.data.sources import find_source
from resnets.data.tree import open_tree
from resnets.data.walk import HIDDEN, IMAGE_SUFFIXES, LeftOut


@dataclass(frozen=True, eq=False)
class Section:
    """Pictures of one part ("" where there are no parts) with the number of each one's class."""

    part: str
    files: Files
    labels: NDArray[np.int64]
    classes: Sequence[str]

    def label(self, row: int) -> str:
        """The class of a picture, "" where it has none."""
        number = int(self.labels[row])
        return self.classes[number] if number >= 0 else ""


@dataclass(frozen=True, eq=False)
class Contents:
    """All pictures of `source`, numbered section by section, and what needed no look at them.

    Sections that are kept apart come first: test, val, then the rest.
    """

    source: str
    sections: Sequence[Section]
    findings: Sequence[Finding]

    @cached_property
    def starts(self) -> list[int]:
        """Number of each section's first picture."""
        return list(accumulate((len(each.files) for each in self.sections), initial=0))

    @cached_property
    def prefixes(self) -> tuple[str, str]:
        """How the names of its files start."""
        return prefixes(self.source)

    def __len__(self) -> int:
        return self.starts[-1]

    def where(self, number: int) -> tuple[int, int]:
        """Which section a picture is in, and its row there."""
        section = bisect_right(self.starts, number) - 1
        return section, number - self.starts[section]

    def name(self, number: int) -> str:
        """What messages call a picture."""
        section, row = self.where(number)
        return self.sections[section].files.name(row)

    def path(self, number: int) -> str:
        """What lists call a picture."""
        return path_within(self.name(number), self.prefixes)

    def part_and_label(self, number: int) -> tuple[str, str]:
        """Part and class of a picture, "" where it has none."""
        section, row = self.where(number)
        return self.sections[section].part, self.sections[section].label(row)

    def read(self, number: int) -> bytes | memoryview:
        """The encoded bytes; DataError when they cannot be had."""
        section, row = self.where(number)
        return self.sections[section].files.read(row)


def open_contents(spec: DataSpec) -> Contents:
    """All pictures of `spec.source`, whatever it is. DataError where it holds pixels, not files."""
    closed: list[OSError] = []
    listing = _pictures(Path(spec.source).expanduser(), closed)
    if listing is not None:
        return _tree(listing, spec, closed)
    source = find_source(spec)
    parts = {"test": source.test and source.test(), "val": source.val, "train": source.train}
    sections = []
    for role, part in parts.items():
        if part is None:
            continue
        if part.files is None:
            raise DataError(
                f"{spec.source}: holds pixels, not picture files; there is nothing to check"
            )
        alone = source.val is None and source.test is None
        title = "" if alone else role
        sections.append(Section(title, part.files, part.labels, source.classes))
    return Contents(spec.source, sections, ())


def _pictures(path: Path, closed: list[OSError]) -> Listing | None:
    """Everything in a folder or tar that has pictures in it; None for other sources."""
    if path.is_dir():
        listing = list_folder(path, None, closed.append)
    elif path.is_file() and not is_pack(path) and (is_zip(path) or tarfile.is_tarfile(path)):
        listing = list_archive(path, is_label)
    else:
        return None
    if listing.others and not is_zip(path) and is_sharded(listing):
        return None
    images = listing.images()
    return images if images.paths else None


def _tree(listing: Listing, spec: DataSpec, closed: Sequence[OSError]) -> Contents:
    paths, top = listing.paths, _top(listing.paths)
    places = {row: _place(path, top) for row, path in enumerate(paths)}
    in_classes = {part for part, label in places.values() if label}
    homes = in_classes | ({""} if in_classes else set())
    strays = {row for row, (part, label) in places.items() if not label and part in homes}
    seen = [row for row in places if row not in strays]
    classes = sorted({places[row][1] for row in seen})
    number = {label: index for index, label in enumerate(classes)}
    sections = []
    for part in sorted({places[row][0] for row in seen}, key=_apart):
        rows = np.array([row for row in seen if places[row][0] == part], np.int64)
        labels = np.array([number[places[row][1]] for row in rows.tolist()], np.int64)
        sections.append(Section(part, listing.files.take(rows), labels, classes))
    findings = [
        *_closed(closed, spec.source),
        *_layout(listing, [*places], spec),
        *_folders(listing, {paths[row] for row in seen}, top),
        *(Finding(STRAY, paths[row], "in no class folder", places[row][0]) for row in strays),
        *_others(listing.left_out),
    ]
    return Contents(spec.source, sections, findings)


def _top(paths: Sequence[str]) -> str:
    """The folder that holds train/, or the class folders, as "top/" or ""."""
    for path in paths:
        parts = path.split("/")[:-1]
        if "train" in parts[:4]:
            return "".join(f"{part}/" for part in parts[: parts.index("train")])
    folders = {path.split("/")[0] for path in paths if path.count("/") > 1}
    shallow = any(path.count("/") < 2 and is_picture(path) for path in paths)
    return f"{folders.pop()}/" if len(folders) == 1 and not shallow else ""


def _place(path: str, top: str) -> tuple[str, str]:
    """Part and class of a picture, each "" where it has none."""
    folders = path.removeprefix(top).split("/")[:-1]
    part = folders.pop(0) if folders and folders[0] in PART_NAMES else ""
    return part, folders[0] if folders else ""


def _apart(part: str) -> tuple[int, str]:
    return (0 if part == "test" else 1 if part in VAL_NAMES else 2), part


def _closed(errors: Sequence[OSError], source: str) -> Iterator[Finding]:
    for error in errors:
        path = Path(error.filename).relative_to(Path(source).expanduser()).as_posix()
        yield Finding(UNREADABLE, path, f"a folder that cannot be listed ({error.strerror})")


def _layout(listing: Listing, pictures: Sequence[int], spec: DataSpec) -> Iterator[Finding]:
    """What training would say of the folders."""
    paths = [listing.paths[row] for row in pictures]
    files = listing.files.take(np.array(pictures, np.int64))
    try:
        source = open_tree(Listing(files, paths, listing.folders), "", spec.source, spec.truth)
    except DataError as error:
        said = str(error).removeprefix(spec.source).lstrip(":/ ")
        yield Finding(LAYOUT, "", said)
        return
    if len(source.classes) < 2:
        yield Finding(LAYOUT, "", f"one class only ({source.classes[0]}); a classifier needs two")


def _folders(listing: Listing, pictures: set[str], top: str) -> Iterator[Finding]:
    filled = {folder for path in pictures for folder in _above(path)}
    for folder in listing.folders:
        part, label = _place(f"{folder}/x", top)
        whole = f"{top}{part}/{label}" if part else f"{top}{label}"
        if label and folder == whole and folder not in filled:
            yield Finding(EMPTY_CLASS, folder, "no picture in it", part, label)
        if posixpath.splitext(folder)[1].lower() in IMAGE_SUFFIXES:
            yield Finding(ODD_FOLDER, folder, "a folder", part, label)


def _above(path: str) -> Iterator[str]:
    while path := posixpath.dirname(path):
        yield path


def _others(left_out: LeftOut) -> Iterator[Finding]:
    """Files that training does not see, those of one reason and suffix together."""
    for (reason, suffix), count in sorted(left_out.counts.items()):
        path = left_out.examples[reason, suffix]
        if reason == HIDDEN or path == QUARANTINE:
            continue
        more = f"and {count - 1:,} more " if count > 1 else ""
        called = f"called {suffix}" if suffix else "no suffix"
        yield Finding(NO_PICTURE, path, f"{more}{called}, {reason}")
