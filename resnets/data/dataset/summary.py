"""The summary of a data set, which every command prints before it starts.

It is also stored in result.json and report.html. It is computed from listings and labels alone: no
image is decoded, and no test image is read.
"""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from resnets.data.dataset.labels import Labels, class_counts
from resnets.data.dataset.source import Rows, Source
from resnets.data.files.walk import SkippedFiles
from resnets.utils.argument_names import options_to_arguments
from resnets.utils.printable import echo, format_count, printable

ROLES = {"train": "training", "val": "validation", "test": "test"}
WIDTH = 80
MAX_CLASSES, MAX_REASONS, MAX_NOTES = 5, 3, 2
MAX_NAME = 24  # characters of a class name
MAX_LINES = 2  # of one entry


@dataclass(frozen=True)
class SplitSummary:
    """A split and its number of images; None if they are counted only while they are read."""

    role: str
    images: int | None
    origin: str

    def describe(self) -> str:
        """Format as "training 72 (Training)"."""
        count = "" if self.images is None else f" {self.images:,}"
        origin = f" ({self.origin})" if self.origin else ""
        role = "" if self.role == "images" else ROLES.get(self.role, self.role)
        return f"{role}{count}{origin}".strip()


@dataclass(frozen=True)
class Rarest:
    """The class with the fewest training images (or signals, objects), and their number.

    tied: whether all classes have as many.
    """

    name: str
    count: int
    tied: bool


@dataclass(frozen=True)
class DataSummary:
    """How the data set `name` was interpreted.

    Attributes:
        rarest: Class with the fewest training images, or what `counted` says.
        skipped: Texts with counts of skipped files, by reason and suffix.
        links: Number of links to folders that were followed.
        warnings: Lines about possible misinterpretations; they are printed in full.
        grouped_by: Setting of groups of related images (`data.group`).
        groups: Number of groups by role.
        unit: What splits count.
        described: Description of the data set that replaces its classes.
    """

    name: str
    classes: Sequence[str]
    splits: Sequence[SplitSummary]
    rarest: Rarest | None = None
    skipped: Sequence[str] = ()
    links: int = 0
    notes: Sequence[str] = ()
    counted: str = "image"
    warnings: Sequence[str] = ()
    grouped_by: str | None = None
    groups: Mapping[str, int] = field(default_factory=dict)
    unit: str = "images"
    described: str = ""

    def lines(self, width: int = WIDTH) -> list[str]:
        """Return plain lines: classes, images, skipped files, links, notes, warnings."""
        entries = [("data", self._format_classes()), (self.unit, self._format_splits())]
        if self.grouped_by is not None:
            entries.append(("groups", self._format_groups()))
        skipped = _join_some(self.skipped, MAX_REASONS, "reasons")
        entries += [("skipped", skipped)] if skipped else []
        notes = _join_some(self.notes, MAX_NOTES, "notes", "; ")
        if self.links:
            links = f"{self.links:,} link{'s' * (self.links > 1)} to folders followed"
            notes = f"{links}; {notes}" if notes else links
        entries += [("note", notes)] if notes else []
        lines = [line for name, text in entries for line in _wrap_entry(name, text, width)]
        return lines + [
            line for text in self.warnings for line in wrap_entry("warning", text, width)
        ]

    def to_json(self) -> dict[str, Any]:
        """Return the entry of result.json: the fields, and the lines as `text`."""
        rarest = None
        if self.rarest is not None:
            rarest = {"class": self.rarest.name, f"{self.counted}s": self.rarest.count}
        return {
            "name": self.name,
            "unit": self.unit,
            "classes": len(self.classes),
            "first_classes": list(self.classes[:MAX_CLASSES]),
            "rarest": rarest,
            "splits": {
                each.role: {"images": each.images, "origin": each.origin} for each in self.splits
            },
            "grouped_by": self.grouped_by,
            "groups": dict(self.groups),
            "left_out": list(self.skipped),
            "links_followed": self.links,
            "notes": list(self.notes),
            "warnings": list(self.warnings),
            "text": self.lines(),
        }

    def _format_classes(self) -> str:
        if self.described:
            return f"{printable(self.name)}: {self.described}"
        if not self.classes:
            return f"{printable(self.name)}, classes not read"
        names = [_shorten(name) for name in self.classes[:MAX_CLASSES]]
        more = ", ..." if len(self.classes) > MAX_CLASSES else ""
        plural = "es" * (len(self.classes) != 1)
        text = f"{printable(self.name)}: {len(self.classes):,} class{plural}"
        text += f" ({', '.join(names)}{more})"
        if self.rarest is not None:
            name = f"fewest in class {_shorten(self.rarest.name)}"
            count = format_count(self.rarest.count, f"training {self.counted}")
            text += f"; {'each class' if self.rarest.tied else name}: {count}"
        return text

    def _format_groups(self) -> str:
        counts = ", ".join(f"{ROLES[role]} {count:,}" for role, count in self.groups.items())
        return f"by {printable(self.grouped_by or '')}: {counts}"

    def _format_splits(self) -> str:
        return ", ".join(printable(each.describe()) for each in self.splits) or "none"


def summarize(
    source: Source,
    shares: Mapping[str, tuple[Rows | None, str]],
    skipped: SkippedFiles | None = None,
) -> DataSummary:
    """Return the summary of a data set that is split.

    shares: by role the rows of the training part (None for a part of the source), and a description
    of their origin. skipped: counted in addition to the source's.
    """
    all_skipped = SkippedFiles()
    all_skipped.add_all(source.skipped)
    if skipped is not None:
        all_skipped.add_all(skipped)
    splits = []
    for role, (rows, origin) in shares.items():
        part = {"train": source.train, "val": source.val}.get(role)
        count = source.test_images if role == "test" else None if part is None else len(part.labels)
        splits.append(SplitSummary(role, count if rows is None else len(rows), origin))
    rows, labels = shares["train"][0], source.train.labels
    return DataSummary(
        source.name,
        source.classes,
        splits,
        find_rarest_class(source.classes, labels if rows is None else labels[rows]),
        all_skipped.parts(),
        all_skipped.links,
        source.notes,
        warnings=source.warnings,
    )


def find_rarest_class(classes: Sequence[str], labels: Labels) -> Rarest:
    """Return the class with the fewest images of `labels`."""
    counts = class_counts(labels, len(classes))[: len(classes)]
    return find_rarest(classes, [int(count) for count in counts])


def find_rarest_object(classes: Sequence[str], counts: Counter[int]) -> Rarest | None:
    """Return the class with the fewest objects by `counts` of class indices; None if empty."""
    if not counts:
        return None
    return find_rarest(classes, [counts[label] for label in range(len(classes))])


def find_rarest(classes: Sequence[str], counts: Sequence[int]) -> Rarest:
    """Return the class with the fewest of `counts` (K,), which are in the order of `classes`."""
    least = min(range(len(classes)), key=counts.__getitem__)
    return Rarest(classes[least], counts[least], len(classes) > 1 and min(counts) == max(counts))


def summarize_source(source: Source) -> DataSummary:
    """Return the summary of a data set with its own parts, from which nothing is held out."""
    shares: dict[str, tuple[Rows | None, str]] = {"train": (None, source.train.title)}
    if source.val is not None:
        shares["val"] = None, source.val.title
    if source.test is not None:
        shares["test"] = None, source.test_title
    return summarize(source, shares)


def summarize_images(name: str, count: int, skipped: SkippedFiles) -> DataSummary:
    """Return the summary of images without classes."""
    split = SplitSummary("images", count, "")
    return DataSummary(name, (), [split], None, skipped.parts(), skipped.links)


_printed: set[tuple[str, ...]] = set()


def announce(found: object) -> None:
    """Print a `DataSummary`, or the `summary` of splits, to stderr, each once per process."""
    summary = getattr(found, "summary", found)
    if not isinstance(summary, DataSummary):
        return
    lines = summary.lines()
    if tuple(lines) not in _printed:
        _printed.add(tuple(lines))
        for line in lines:
            echo(line, error=True)


def announce_folders(paths: Sequence[str | Path], images: int, skipped: SkippedFiles) -> None:
    """Print the summary of images found in folders; nothing if only files were given."""
    folders = [str(path) for path in paths if Path(path).is_dir()]
    if folders:
        name = folders[0] if len(folders) == 1 else f"{len(folders):,} folders"
        announce(summarize_images(name, images, skipped))


def _wrap_entry(name: str, text: str, width: int) -> list[str]:
    lines = wrap_entry(name, text, width)
    if len(lines) > MAX_LINES:
        lines = [*lines[: MAX_LINES - 1], f"{lines[MAX_LINES - 1][: width - 4].rstrip()} ..."]
    return lines


def wrap_entry(name: str, text: str, width: int = WIDTH) -> list[str]:
    """Wrap `text` into lines of `width`, the first of which begins with the name."""
    indent = f"{name + ':':10}"
    return textwrap.wrap(
        printable(options_to_arguments(text)),
        width,
        initial_indent=indent,
        subsequent_indent=" " * len(indent),
    )


def _join_some(texts: Sequence[str], most: int, what: str, between: str = ", ") -> str:
    more = [f"and {len(texts) - most:,} more {what}"] if len(texts) > most else []
    return between.join([*texts[:most], *more])


def _shorten(name: str) -> str:
    text = printable(name)
    return text if len(text) <= MAX_NAME else f"{text[: MAX_NAME - 3]}..."
