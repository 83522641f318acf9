"""What was understood of a data set: the block that every command prints before it works.

The same goes into result.json and report.html. It is counted from listings and labels alone: no
image is decoded for it, and no test image is read.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from resnets.data.dataset.labels import Labels, class_counts
from resnets.data.dataset.source import Part, Rows, Source
from resnets.data.files.walk import LeftOut
from resnets.utils.printable import echo, printable

ROLES = {"train": "training", "val": "validation", "test": "test"}
WIDTH = 80
SHOWN_CLASSES, SHOWN_REASONS, SHOWN_NOTES = 5, 3, 2
LONGEST_NAME = 24  # characters of a class name that are shown
MOST_LINES = 2  # of one entry


@dataclass(frozen=True)
class SplitSummary:
    """A split: how many images it has, None where they are not counted before they are read."""

    role: str
    images: int | None
    origin: str

    def said(self) -> str:
        """For example "training 72 (Training)"."""
        count = "" if self.images is None else f" {self.images:,}"
        origin = f" ({self.origin})" if self.origin else ""
        role = "" if self.role == "images" else ROLES.get(self.role, self.role)
        return f"{role}{count}{origin}".strip()


@dataclass(frozen=True)
class DataSummary:
    """What was understood of the set `name`.

    rarest: the class with the fewest training images, and how many; of what is `counted` where that
    is something else. left_out: texts with counts,
    by reason and suffix. links: links to folders that were followed. warnings: where what was
    understood may be wrong; they are printed whole. grouped_by: what tells which images belong
    together (`data.group`); groups: by role how many groups it has. unit: what splits count.
    described: what the set is, in place of its classes.
    """

    name: str
    classes: Sequence[str]
    splits: Sequence[SplitSummary]
    rarest: tuple[str, int] | None = None
    left_out: Sequence[str] = ()
    links: int = 0
    notes: Sequence[str] = ()
    counted: str = "image"
    warnings: Sequence[str] = ()
    grouped_by: str | None = None
    groups: Mapping[str, int] = field(default_factory=dict)
    unit: str = "images"
    described: str = ""

    def lines(self, width: int = WIDTH) -> list[str]:
        """The block as plain lines: classes, images, what was left out, links, notes, warnings."""
        entries = [("data", self._classes()), (self.unit, self._images())]
        if self.grouped_by is not None:
            entries.append(("groups", self._groups()))
        left_out = _some(self.left_out, SHOWN_REASONS, "reasons")
        entries += [("left out", left_out)] if left_out else []
        notes = _some(self.notes, SHOWN_NOTES, "notes", "; ")
        if self.links:
            links = f"{self.links:,} link{'s' * (self.links > 1)} to folders followed"
            notes = f"{links}; {notes}" if notes else links
        entries += [("note", notes)] if notes else []
        lines = [line for name, text in entries for line in _entry(name, text, width)]
        return lines + [line for text in self.warnings for line in wrapped("warning", text, width)]

    def to_json(self) -> dict[str, Any]:
        """For result.json: the fields, and `text`, the block as lines."""
        rarest = None
        if self.rarest is not None:
            rarest = {"class": self.rarest[0], f"{self.counted}s": self.rarest[1]}
        return {
            "name": self.name,
            "unit": self.unit,
            "classes": len(self.classes),
            "first_classes": list(self.classes[:SHOWN_CLASSES]),
            "rarest": rarest,
            "splits": {
                each.role: {"images": each.images, "origin": each.origin} for each in self.splits
            },
            "grouped_by": self.grouped_by,
            "groups": dict(self.groups),
            "left_out": list(self.left_out),
            "links_followed": self.links,
            "notes": list(self.notes),
            "warnings": list(self.warnings),
            "text": self.lines(),
        }

    def _classes(self) -> str:
        if self.described:
            return f"{printable(self.name)}: {self.described}"
        if not self.classes:
            return f"{printable(self.name)}, classes not read"
        shown = [_short(name) for name in self.classes[:SHOWN_CLASSES]]
        more = ", ..." if len(self.classes) > SHOWN_CLASSES else ""
        plural = "es" * (len(self.classes) != 1)
        text = f"{printable(self.name)}: {len(self.classes):,} class{plural}"
        text += f" ({', '.join(shown)}{more})"
        if self.rarest is not None:
            name, count = self.rarest
            counted = f"training {self.counted}{'s' * (count != 1)}"
            text += f", rarest {_short(name)} with {count:,} {counted}"
        return text

    def _groups(self) -> str:
        counts = ", ".join(f"{ROLES[role]} {count:,}" for role, count in self.groups.items())
        return f"by {printable(self.grouped_by or '')}: {counts}"

    def _images(self) -> str:
        return ", ".join(printable(each.said()) for each in self.splits) or "none"


def summarize(
    source: Source,
    shares: Mapping[str, tuple[Rows | None, str]],
    left_out: LeftOut | None = None,
) -> DataSummary:
    """The summary of a set that is split.

    shares: for each role the rows of the training part, or None where the source brings the split
    itself, and what its origin is called. left_out: counted besides what the source left out.
    """
    counted = LeftOut()
    counted.add_all(source.left_out)
    if left_out is not None:
        counted.add_all(left_out)
    splits = []
    for role, (rows, origin) in shares.items():
        own = {"train": source.train, "val": source.val}.get(role)
        count = source.test_images if role == "test" else None if own is None else len(own.labels)
        splits.append(SplitSummary(role, count if rows is None else len(rows), origin))
    rows, labels = shares["train"][0], source.train.labels
    return DataSummary(
        source.name,
        source.classes,
        splits,
        rarest_class(source.classes, labels if rows is None else labels[rows]),
        counted.parts(),
        counted.links,
        source.notes,
        warnings=source.warnings,
    )


def rarest_class(classes: Sequence[str], labels: Labels) -> tuple[str, int]:
    """The class with the fewest of the training images, and how many."""
    counts = class_counts(labels, len(classes))[: len(classes)]
    least = int(counts.argmin())
    return classes[least], int(counts[least])


def rarest_object(classes: Sequence[str], counts: Mapping[int, int]) -> tuple[str, int] | None:
    """The class of the fewest objects, by their `counts`, and how many; None without objects."""
    if not counts:
        return None
    rarest = min(range(len(classes)), key=lambda label: counts.get(label, 0))
    return classes[rarest], counts.get(rarest, 0)


def summarize_source(source: Source) -> DataSummary:
    """The summary of a set by the parts it brings, nothing held out."""
    shares: dict[str, tuple[Rows | None, str]] = {"train": (None, origin_of(source.train))}
    if source.val is not None:
        shares["val"] = None, origin_of(source.val)
    if source.test is not None:
        shares["test"] = None, source.test_title
    return summarize(source, shares)


def summarize_images(name: str, count: int, left_out: LeftOut, origin: str = "") -> DataSummary:
    """The summary of images without classes."""
    split = SplitSummary("images", count, origin)
    return DataSummary(name, (), [split], None, left_out.parts(), left_out.links)


def origin_of(part: Part) -> str:
    """What a part's own origin is called."""
    return part.title


_said: set[tuple[str, ...]] = set()


def announce(found: object) -> None:
    """Print a `DataSummary`, or the `summary` of splits, to stderr, each once in a process."""
    summary = getattr(found, "summary", found)
    if not isinstance(summary, DataSummary):
        return
    lines = summary.lines()
    if tuple(lines) not in _said:
        _said.add(tuple(lines))
        for line in lines:
            echo(line, error=True)


def announce_folders(paths: Sequence[str | Path], images: int, left_out: LeftOut) -> None:
    """The same of images that were found in folders; nothing where only files were named."""
    folders = [str(path) for path in paths if Path(path).is_dir()]
    if folders:
        name = folders[0] if len(folders) == 1 else f"{len(folders):,} folders"
        announce(summarize_images(name, images, left_out))


def _entry(name: str, text: str, width: int) -> list[str]:
    lines = wrapped(name, text, width)
    if len(lines) > MOST_LINES:
        lines = [*lines[: MOST_LINES - 1], f"{lines[MOST_LINES - 1][: width - 4].rstrip()} ..."]
    return lines


def wrapped(name: str, text: str, width: int = WIDTH) -> list[str]:
    """`text` in lines of `width`, the first of which begins with the name."""
    indent = f"{name + ':':10}"
    return textwrap.wrap(
        printable(text), width, initial_indent=indent, subsequent_indent=" " * len(indent)
    )


def _some(texts: Sequence[str], most: int, what: str, between: str = ", ") -> str:
    more = [f"and {len(texts) - most:,} more {what}"] if len(texts) > most else []
    return between.join([*texts[:most], *more])


def _short(name: str) -> str:
    shown = printable(name)
    return shown if len(shown) <= LONGEST_NAME else f"{shown[: LONGEST_NAME - 3]}..."
