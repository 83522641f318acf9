"""Open a stored data set for a check: its images by part, and findings about its folders."""

from __future__ import annotations

import posixpath
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import accumulate, pairwise
from pathlib import Path

import numpy as np

from resnets.config import DataSpec
from resnets.data.dataset.labels import Labels, class_counts, format_label
from resnets.data.dataset.pack import is_pack
from resnets.data.dataset.probe_split import probe_images
from resnets.data.dataset.quarantine_list import QUARANTINE
from resnets.data.dataset.source import Source
from resnets.data.dataset.summary import (
    DataSummary,
    SplitSummary,
    find_rarest_class,
    summarize_source,
)
from resnets.data.decode.pixel_values import RANGE_16_BIT, Levels, describe_levels
from resnets.data.errors import DataError
from resnets.data.files.archives import is_archive, is_zip, list_archive
from resnets.data.files.folder import Files, Listing, list_folder
from resnets.data.files.walk import (
    BROKEN_LINK,
    HIDDEN,
    IMAGE_SUFFIXES,
    LOOP,
    NOT_IMAGE,
    SPECIAL,
    SkippedFiles,
)
from resnets.data.finding_kinds import (
    EMPTY_CLASS,
    LAYOUT,
    MASK,
    NO_CLASS_FOLDER,
    NOT_AN_IMAGE,
    ODD_FOLDER,
    UNLABELED,
    UNREAD,
    UNREADABLE,
    Finding,
)
from resnets.data.layout.folder_layout import MASKS, NO_LABELS, Layout, SplitRows
from resnets.data.sources.class_folders import Tree, read_tree, read_tree_layout
from resnets.data.sources.huggingface import is_tabular
from resnets.data.sources.open import find_source, read_folder
from resnets.data.sources.webdataset import find_shards, is_label_member, is_sharded
from resnets.data.splits.open import check_classes
from resnets.data.splits.share import held_out_rows
from resnets.data.tables.flat_labels import is_table
from resnets.data.tables.unread_labels import may_hold_labels
from resnets.utils.files.source_paths import path_within, prefixes


@dataclass(frozen=True, eq=False)
class Section:
    """Images of one part ("" without parts) with their labels (`dataset.labels`)."""

    part: str
    files: Files
    labels: Labels
    classes: Sequence[str]

    def label(self, row: int) -> str:
        """Return the class or classes of an image, "" if it has none."""
        return format_label(self.labels[row], self.classes)


@dataclass(frozen=True, eq=False)
class Contents:
    """All images of `source`, numbered section by section, and findings that need no decoding.

    Held-out sections come first: test, val, then the rest. trained_summary: the summary of the set
    as training reads it; None if training refuses it.
    """

    source: str
    sections: Sequence[Section]
    findings: Sequence[Finding]
    trained_summary: DataSummary | None = None

    @property
    def summary(self) -> DataSummary:
        """The summary for training, or of what is there if training refuses the set."""
        if self.trained_summary is not None:
            notes = (*self.trained_summary.notes, *describe_levels(self.levels))
            return replace(self.trained_summary, notes=tuple(dict.fromkeys(notes)))
        parts = {each.part for each in self.sections}
        splits = [
            SplitSummary("test", len(each.files), "val")  # as training uses it
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
        """Prefixes of the names of its files."""
        return prefixes(self.source)

    def __len__(self) -> int:
        return self.starts[-1]

    @property
    def levels(self) -> Levels | None:
        """Values of images of more than 8 bits that become 0 and 255, as training scales them."""
        return self._probe[0]

    @property
    def warnings(self) -> tuple[str, ...]:
        """Lines on the set, or the values of its images, that may not be what they seem."""
        return tuple(dict.fromkeys((*self.summary.warnings, *self._probe[1])))

    @cached_property
    def _probe(self) -> tuple[Levels | None, tuple[str, ...]]:
        """The levels of the training images, and warnings about those and held-out images."""
        rows = {
            each.part: np.arange(start, end)
            for each, (start, end) in zip(self.sections, pairwise(self.starts), strict=True)
        }
        held_out = [part for part in rows if part in ("test", "val") and len(rows) > 1]
        training = [rows[part] for part in rows if part not in held_out]
        train_rows = np.concatenate(training) if training else np.arange(len(self))
        probe = probe_images(self, train_rows)
        warnings = [*probe.warnings]
        for part in held_out:
            found = probe_images(self, rows[part], probe.levels or RANGE_16_BIT).warnings
            warnings += [f"{part} images: {each}" for each in found]
        return probe.levels, tuple(warnings)

    def locate(self, number: int) -> tuple[int, int]:
        """Return the section of an image, and its row there."""
        section = bisect_right(self.starts, number) - 1
        return section, number - self.starts[section]

    def name(self, number: int) -> str:
        """Return the name of an image for messages."""
        section, row = self.locate(number)
        return self.sections[section].files.name(row)

    def path(self, number: int) -> str:
        """Return the path of an image in lists."""
        return path_within(self.name(number), self.prefixes)

    def part_and_label(self, number: int) -> tuple[str, str]:
        """Return part and class of an image, "" if it has none."""
        section, row = self.locate(number)
        return self.sections[section].part, self.sections[section].label(row)

    def read(self, number: int) -> bytes | memoryview:
        """Return the encoded bytes; raise DataError if they cannot be read."""
        section, row = self.locate(number)
        return self.sections[section].files.read(row)


def open_contents(spec: DataSpec) -> Contents:
    """Open all images of `spec.source`. Raises DataError if it contains pixels instead of files."""
    unlisted: list[OSError] = []
    listing = _list_source(Path(spec.source).expanduser(), unlisted)
    if listing is not None:
        return _open_tree(listing, spec, unlisted)
    source = find_source(spec)
    parts = {"test": source.test and source.test(), "val": source.val, "train": source.train}
    sections = []
    for role, part in parts.items():
        if part is None:
            continue
        if part.files is None:
            raise DataError(
                f"{spec.source}: contains decoded pixels, not image files; there is nothing to "
                "check"
            )
        is_single = source.val is None and source.test is None
        title = "" if is_single else role
        sections.append(Section(title, part.files, part.labels, source.classes))
    refusal = _explain_refused_classes(source)
    findings = [Finding(LAYOUT, "", refusal)] if refusal else []
    return Contents(spec.source, sections, findings, summarize_source(source))


def _list_source(path: Path, unlisted: list[OSError]) -> Listing | None:
    """List a folder or archive with images in it; None for other sources."""
    if path.is_dir():
        if is_tabular(path) or find_shards(path):
            return None
        listing = list_folder(path, is_table, unlisted.append)
    elif not is_pack(path) and is_archive(path):
        listing = list_archive(path, lambda path: is_label_member(path) or may_hold_labels(path))
    else:
        return None
    if listing.others and not is_zip(path) and is_sharded(listing):
        return None
    return listing if len(listing.paths) > len(listing.others) else None


def _open_tree(everything: Listing, spec: DataSpec, unlisted: Sequence[OSError]) -> Contents:
    """Return the images by split and class as training reads them, and what it excludes."""
    listing = everything.images()
    trained_summary = None
    try:
        tree = _read_tree(everything, spec)
        refusal, layout = _explain_refused_classes(tree.source), tree.layout
        trained_summary = summarize_source(tree.source)
        is_single = len(tree.parts) == 1
        sections = [
            Section("" if is_single else role, part.files, part.labels, tree.source.classes)
            for role, part in tree.parts.items()
        ]
    except DataError as error:
        refusal = str(error).removeprefix(spec.source).lstrip(":/ ")
        layout = _read_any_layout(listing, spec)
        sections = [_make_section(split, listing) for split in layout.splits if split.rows]
    findings = [
        *_unlisted_folder_findings(unlisted, spec.source),
        *([Finding(LAYOUT, "", refusal)] if refusal else []),
        *_folder_findings(listing, layout),
        *_skipped_findings(listing, layout),
        *_other_file_findings(listing.skipped),
    ]
    sections.sort(key=lambda each: _section_order(each.part))
    return Contents(spec.source, sections, findings, trained_summary)


def _read_tree(everything: Listing, spec: DataSpec) -> Tree:
    """Read the set as training does."""
    path = Path(spec.source).expanduser()
    if path.is_dir():
        return read_folder(path, everything, spec)
    return read_tree(everything, path.name, spec.source, None, spec.labels_from, labels=spec.labels)


def _read_any_layout(listing: Listing, spec: DataSpec) -> Layout:
    """Return the layout if it is unambiguous, else all images by their folder."""
    try:
        return read_tree_layout(listing, spec.source, spec.labels_from)
    except DataError:
        names = [posixpath.basename(posixpath.dirname(path)) for path in listing.paths]
        return Layout([SplitRows(None, "", "", range(len(names)), names)])


def _make_section(split: SplitRows, listing: Listing) -> Section:
    names = split.names or [""] * len(split.rows)
    classes = sorted(set(names))
    class_index = {name: index for index, name in enumerate(classes)}
    labels = np.array([class_index[name] for name in names], np.int64)
    files = listing.files.take(np.array(split.rows, np.int64))
    return Section(split.role or "", files, labels, classes)


def _section_order(part: str) -> tuple[int, str]:
    return ({"test": 0, "val": 1}.get(part, 2)), part


def _unlisted_folder_findings(errors: Sequence[OSError], source: str) -> Iterator[Finding]:
    for error in errors:
        path = Path(error.filename).relative_to(Path(source).expanduser()).as_posix()
        yield Finding(UNREADABLE, path, f"a folder that cannot be listed ({error.strerror})")


def _explain_refused_classes(source: Source) -> str:
    """Return why training refuses the classes, or ""."""
    try:
        check_classes(source, 2)
    except DataError as error:
        return str(error).removeprefix(source.name).lstrip(":/ ")
    return ""


def _folder_findings(listing: Listing, layout: Layout) -> Iterator[Finding]:
    for split in layout.splits:
        filled = set(split.names)
        for name, path in split.class_folders:
            if name not in filled:
                yield Finding(EMPTY_CLASS, path, "no image in it", split.role or "", name)
    for folder in listing.folders:
        if posixpath.splitext(folder)[1].lower() in IMAGE_SUFFIXES:
            yield Finding(ODD_FOLDER, folder, "a folder")


def _skipped_findings(listing: Listing, layout: Layout) -> Iterator[Finding]:
    """Yield images that training does not use."""
    for row, reason in sorted(layout.skipped.items()):
        kind = {MASKS: MASK, NO_LABELS: UNLABELED}.get(reason, NO_CLASS_FOLDER)
        yield Finding(kind, listing.paths[row], reason)


def _other_file_findings(skipped: SkippedFiles) -> Iterator[Finding]:
    """Yield files that training does not use, one finding per reason and suffix."""
    for (reason, suffix), count in sorted(skipped.counts.items()):
        path = skipped.examples[reason, suffix]
        if reason == HIDDEN or path == QUARANTINE:
            continue
        more = f"and {count - 1:,} more " if count > 1 else ""
        suffix_text = f"called {suffix}" if suffix else "no extension"
        kind = NOT_AN_IMAGE if reason in (NOT_IMAGE, BROKEN_LINK, SPECIAL, LOOP) else UNREAD
        yield Finding(kind, path, f"{more}{suffix_text}, {reason}", count=count)


SHARES = ("test share", "validation share", "training share")  # held-out ones first


def split_into_shares(contents: Contents, spec: DataSpec) -> Contents:
    """Divide the contents' only part into the shares that training holds out.

    Unchanged if the set has parts of its own, or if training refuses it.
    """
    if len(contents.sections) != 1 or contents.sections[0].part:
        return contents
    section = contents.sections[0]
    if (class_counts(section.labels, len(section.classes)) > 0).sum() < 2:
        return contents
    try:
        shares = _assign_shares(spec)
    except DataError:  # reported by the findings of the layout
        return contents
    share_of_row = np.array(
        [shares.get(contents.path(row), 2) for row in range(len(section.files))]
    )
    rows = [np.flatnonzero(share_of_row == number) for number in range(len(SHARES))]
    parts = [_take_section(section, title, row) for title, row in zip(SHARES, rows, strict=True)]
    trained_summary = contents.trained_summary
    if trained_summary is not None:
        reason = f"held out by image identity, seed {spec.split_seed}"
        origins = (f"{spec.test_fraction:.0%} {reason}", f"{spec.val_fraction:.0%} {reason}", "")
        splits = [
            SplitSummary(title.partition(" ")[0], len(part.labels), origin)
            for title, part, origin in zip(SHARES, parts, origins, strict=True)
            if len(part.labels)
        ]
        rarest = find_rarest_class(section.classes, parts[-1].labels)
        trained_summary = replace(trained_summary, splits=splits[::-1], rarest=rarest)
    non_empty = [part for part in parts if len(part.labels)]
    return replace(contents, sections=non_empty, trained_summary=trained_summary)


def _assign_shares(spec: DataSpec) -> dict[str, int]:
    """Return the index in `SHARES` of each image, by its path within the source."""
    source = find_source(spec)
    files = source.train.files
    if files is None or source.val or source.test:
        return {}
    train, val, test = held_out_rows(source, spec)
    starts = prefixes(spec.source)
    rows_by_share: Sequence[np.ndarray] = (test, val, train)
    return {
        path_within(files.name(row), starts): number
        for number, rows in enumerate(rows_by_share)
        for row in rows.tolist()
    }


def _take_section(section: Section, title: str, rows: np.ndarray) -> Section:
    return Section(title, section.files.take(rows), section.labels[rows], section.classes)
