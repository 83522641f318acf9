"""What there is to check in a stored set: its images by part, and what its folders say."""

from __future__ import annotations

import posixpath
import tarfile
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import accumulate, pairwise
from pathlib import Path

import numpy as np

from resnets.config import DataSpec
from resnets.data.dataset.image_probe import probe_images
from resnets.data.dataset.labels import Labels, label_text
from resnets.data.dataset.pack import is_pack
from resnets.data.dataset.quarantine import QUARANTINE, path_within, prefixes
from resnets.data.dataset.source import Source
from resnets.data.dataset.summary import DataSummary, SplitSummary, summarize_source
from resnets.data.decode.pixel_values import FULL, Levels, describe_levels
from resnets.data.errors import DataError
from resnets.data.files.archives import is_zip, list_archive
from resnets.data.files.folder import Files, Listing, list_folder
from resnets.data.files.walk import (
    BROKEN_LINK,
    HIDDEN,
    IMAGE_SUFFIXES,
    LOOP,
    NOT_IMAGE,
    SPECIAL,
    LeftOut,
)
from resnets.data.finding_kinds import (
    EMPTY_CLASS,
    LAYOUT,
    MASK,
    NOT_AN_IMAGE,
    ODD_FOLDER,
    STRAY,
    UNLABELED,
    UNREAD,
    UNREADABLE,
    Finding,
)
from resnets.data.layout.folder_layout import MASKS, NO_LABELS, Layout, SplitRows
from resnets.data.sources.class_folders import Tree, read_tree, tree_layout
from resnets.data.sources.huggingface import is_tabular
from resnets.data.sources.open import find_source, read_folder
from resnets.data.sources.webdataset import find_shards, is_label, is_sharded
from resnets.data.splits.open import check_classes
from resnets.data.tables.flat_labels import is_table
from resnets.data.tables.unread_labels import may_label


@dataclass(frozen=True, eq=False)
class Section:
    """Images of one part ("" where there are no parts) with their labels (`dataset.labels`)."""

    part: str
    files: Files
    labels: Labels
    classes: Sequence[str]

    def label(self, row: int) -> str:
        """The class or classes of an image, "" where it has none."""
        return label_text(self.labels[row], self.classes)


@dataclass(frozen=True, eq=False)
class Contents:
    """All images of `source`, numbered section by section, and what needed no look at them.

    Sections that are kept apart come first: test, val, then the rest. understood: what was
    understood of the set, where training would take it.
    """

    source: str
    sections: Sequence[Section]
    findings: Sequence[Finding]
    understood: DataSummary | None = None

    @property
    def summary(self) -> DataSummary:
        """What was understood, or what there is where that is not clear."""
        if self.understood is not None:
            notes = (*self.understood.notes, *describe_levels(self.levels))
            return replace(self.understood, notes=tuple(dict.fromkeys(notes)))
        parts = {each.part for each in self.sections}
        splits = [
            SplitSummary("test", len(each.files), "val")  # as training takes it
            if each.part == "val" and "test" not in parts
            else SplitSummary(each.part or "images", len(each.files), "")
            for each in self.sections
        ]
        classes = {name for each in self.sections for name in each.classes if name}
        name = Path(self.source).expanduser().resolve().name
        return DataSummary(name, sorted(classes), splits)

    @cached_property
    def starts(self) -> list[int]:
        """Number of each section's first image."""
        return list(accumulate((len(each.files) for each in self.sections), initial=0))

    @cached_property
    def prefixes(self) -> tuple[str, str]:
        """How the names of its files start."""
        return prefixes(self.source)

    def __len__(self) -> int:
        return self.starts[-1]

    @property
    def levels(self) -> Levels | None:
        """Values of images with more than 8 bits that become 0 and 255, as training scales them."""
        return self._probed[0]

    @property
    def warnings(self) -> tuple[str, ...]:
        """Where the set, or the values of its images, may not be what they seem."""
        return tuple(dict.fromkeys((*self.summary.warnings, *self._probed[1])))

    @cached_property
    def _probed(self) -> tuple[Levels | None, tuple[str, ...]]:
        """The levels of the training images, and warnings on those and on images kept apart."""
        rows = {
            each.part: np.arange(start, end)
            for each, (start, end) in zip(self.sections, pairwise(self.starts), strict=True)
        }
        apart = [part for part in rows if part in ("test", "val") and len(rows) > 1]
        training = [rows[part] for part in rows if part not in apart]
        every = np.concatenate(training) if training else np.arange(len(self))
        probe = probe_images(self, every)
        warnings = [*probe.warnings]
        for part in apart:
            found = probe_images(self, rows[part], probe.levels or FULL).warnings
            warnings += [f"{part} images: {each}" for each in found]
        return probe.levels, tuple(warnings)

    def where(self, number: int) -> tuple[int, int]:
        """Which section an image is in, and its row there."""
        section = bisect_right(self.starts, number) - 1
        return section, number - self.starts[section]

    def name(self, number: int) -> str:
        """What messages call an image."""
        section, row = self.where(number)
        return self.sections[section].files.name(row)

    def path(self, number: int) -> str:
        """What lists call an image."""
        return path_within(self.name(number), self.prefixes)

    def part_and_label(self, number: int) -> tuple[str, str]:
        """Part and class of an image, "" where it has none."""
        section, row = self.where(number)
        return self.sections[section].part, self.sections[section].label(row)

    def read(self, number: int) -> bytes | memoryview:
        """The encoded bytes; DataError when they cannot be had."""
        section, row = self.where(number)
        return self.sections[section].files.read(row)


def open_contents(spec: DataSpec) -> Contents:
    """All images of `spec.source`, whatever it is. DataError where it holds pixels, not files."""
    closed: list[OSError] = []
    listing = _images(Path(spec.source).expanduser(), closed)
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
                f"{spec.source}: holds pixels, not image files; there is nothing to check"
            )
        alone = source.val is None and source.test is None
        title = "" if alone else role
        sections.append(Section(title, part.files, part.labels, source.classes))
    refusal = _too_few(source)
    findings = [Finding(LAYOUT, "", refusal)] if refusal else []
    return Contents(spec.source, sections, findings, summarize_source(source))


def _images(path: Path, closed: list[OSError]) -> Listing | None:
    """Everything in a folder or archive that has images in it; None for other sources."""
    if path.is_dir():
        if is_tabular(path) or find_shards(path):
            return None
        listing = list_folder(path, is_table, closed.append)
    elif path.is_file() and not is_pack(path) and (is_zip(path) or tarfile.is_tarfile(path)):
        listing = list_archive(path, lambda path: is_label(path) or may_label(path))
    else:
        return None
    if listing.others and not is_zip(path) and is_sharded(listing):
        return None
    return listing if len(listing.paths) > len(listing.others) else None


def _tree(everything: Listing, spec: DataSpec, closed: Sequence[OSError]) -> Contents:
    """The images by split and class as training takes them, and what it leaves out."""
    listing = everything.images()
    understood = None
    try:
        tree = _read(everything, spec)
        refusal, layout = _too_few(tree.source), tree.layout
        understood = summarize_source(tree.source)
        alone = len(tree.parts) == 1
        sections = [
            Section("" if alone else role, part.files, part.labels, tree.source.classes)
            for role, part in tree.parts.items()
        ]
    except DataError as error:
        refusal = str(error).removeprefix(spec.source).lstrip(":/ ")
        layout = _by_parent(listing, spec)
        sections = [_section(split, listing) for split in layout.splits if split.rows]
    findings = [
        *_closed(closed, spec.source),
        *([Finding(LAYOUT, "", refusal)] if refusal else []),
        *_folders(listing, layout),
        *_left_out(listing, layout),
        *_others(listing.left_out),
    ]
    sections.sort(key=lambda each: _apart(each.part))
    return Contents(spec.source, sections, findings, understood)


def _read(everything: Listing, spec: DataSpec) -> Tree:
    """The set as training reads it."""
    path = Path(spec.source).expanduser()
    if path.is_dir():
        return read_folder(path, everything, spec)
    return read_tree(everything, path.name, spec.source, None, spec.labels_from, labels=spec.labels)


def _by_parent(listing: Listing, spec: DataSpec) -> Layout:
    """The layout where there is one, else all images by the folder they lie in."""
    try:
        return tree_layout(listing, spec.source, spec.labels_from)
    except DataError:
        names = [posixpath.basename(posixpath.dirname(path)) for path in listing.paths]
        return Layout([SplitRows(None, "", "", range(len(names)), names)])


def _section(split: SplitRows, listing: Listing) -> Section:
    names = split.names or [""] * len(split.rows)
    classes = sorted(set(names))
    number = {name: place for place, name in enumerate(classes)}
    labels = np.array([number[name] for name in names], np.int64)
    files = listing.files.take(np.array(split.rows, np.int64))
    return Section(split.role or "", files, labels, classes)


def _apart(part: str) -> tuple[int, str]:
    return ({"test": 0, "val": 1}.get(part, 2)), part


def _closed(errors: Sequence[OSError], source: str) -> Iterator[Finding]:
    for error in errors:
        path = Path(error.filename).relative_to(Path(source).expanduser()).as_posix()
        yield Finding(UNREADABLE, path, f"a folder that cannot be listed ({error.strerror})")


def _too_few(source: Source) -> str:
    """What training would say of the classes."""
    try:
        check_classes(source, 2)
    except DataError as error:
        return str(error).removeprefix(source.name).lstrip(":/ ")
    return ""


def _folders(listing: Listing, layout: Layout) -> Iterator[Finding]:
    for split in layout.splits:
        filled = set(split.names)
        for name, path in split.class_folders:
            if name not in filled:
                yield Finding(EMPTY_CLASS, path, "no image in it", split.role or "", name)
    for folder in listing.folders:
        if posixpath.splitext(folder)[1].lower() in IMAGE_SUFFIXES:
            yield Finding(ODD_FOLDER, folder, "a folder")


def _left_out(listing: Listing, layout: Layout) -> Iterator[Finding]:
    """Images that training does not see."""
    for row, reason in sorted(layout.left_out.items()):
        kind = {MASKS: MASK, NO_LABELS: UNLABELED}.get(reason, STRAY)
        yield Finding(kind, listing.paths[row], reason)


def _others(left_out: LeftOut) -> Iterator[Finding]:
    """Files that training does not see, those of one reason and suffix together."""
    for (reason, suffix), count in sorted(left_out.counts.items()):
        path = left_out.examples[reason, suffix]
        if reason == HIDDEN or path == QUARANTINE:
            continue
        more = f"and {count - 1:,} more " if count > 1 else ""
        called = f"called {suffix}" if suffix else "no suffix"
        kind = NOT_AN_IMAGE if reason in (NOT_IMAGE, BROKEN_LINK, SPECIAL, LOOP) else UNREAD
        yield Finding(kind, path, f"{more}{called}, {reason}", count=count)
