"""Corrected labels: a CSV file of path, label and correction (`data.corrections`).

`resnets folds` writes one with the labels that are likely wrong; the user removes the lines whose
labels are right. Paths are relative to the source, as in quarantine lists.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from resnets.config import ConfigError, DataSpec
from resnets.data.dataset.quarantine_list import path_within, prefixes
from resnets.data.dataset.source import Part, Source, image_name
from resnets.data.errors import DataError
from resnets.utils.files.csv import read_rows, write_csv
from resnets.utils.printable import valid_text

COLUMNS = ("path", "label", "correction")


class Correction(NamedTuple):
    """An image by its path within the source, its label there, and the correct label."""

    path: str
    label: str
    correction: str


def write_corrections(path: Path, corrections: Iterable[Correction]) -> None:
    """Write a file for `read_corrections`, atomically."""
    write_csv(path, COLUMNS, corrections)


def read_corrections(path: Path) -> dict[str, tuple[int, Correction]]:
    """Read the corrections by path, each with its line; other columns are ignored.

    Raises ConfigError if the file cannot be read, lacks a column, or has an image twice.
    """
    found: dict[str, tuple[int, Correction]] = {}
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            rows = list(enumerate(read_rows(file), 1))
    except (OSError, UnicodeError, csv.Error) as error:
        reason = getattr(error, "strerror", None) or error
        raise ConfigError(f"data.corrections: {path} cannot be read ({reason})") from error
    header = list(rows[0][1]) if rows else []
    if missing := [name for name in COLUMNS if name not in header]:
        raise ConfigError(f"data.corrections: {path}: line 1: no column {', '.join(missing)}")
    columns = [header.index(name) for name in COLUMNS]
    for line, cells in rows[1:]:
        if not any(cells):
            continue
        if len(cells) != len(header):
            raise ConfigError(f"data.corrections: {path}: line {line}: {len(cells)} cells")
        entry = Correction(*(cells[column] for column in columns))
        if entry.path in found:
            raise ConfigError(
                f"data.corrections: {path}: line {line}: {entry.path} is in line"
                f" {found[entry.path][0]} already"
            )
        found[entry.path] = line, entry
    return found


def apply_corrections(source: Source, spec: DataSpec, *, other: bool = False) -> Source:
    """Return the data set with the labels of `spec.corrections`, if given, unless `other`.

    other: the set is not the one that the run names. Raises DataError if an image is not in the
    set, has a label other than in the file, or if a correction is not one of the classes.
    """
    if spec.corrections is None or other:
        return source
    if source.multilabel:
        raise DataError(
            "data.corrections: only for single-label data; these images have several labels"
        )
    file = Path(spec.corrections).expanduser()
    entries = read_corrections(file)
    used: set[str] = set()
    train = _correct_part(source.train, source, spec, entries, used)
    val = None if source.val is None else _correct_part(source.val, source, spec, entries, used)
    test = None
    if (open_test := source.test) is not None:
        part = open_test()
        fixed = _correct_part(part, source, spec, entries, used) if entries else part
        test = lambda: fixed  # noqa: E731
    if missing := [entry for path, entry in entries.items() if path not in used]:
        line, entry = missing[0]
        raise DataError(
            f"data.corrections: {file}: line {line}: {entry.path} is not in {spec.source}"
            f" ({len(missing):,} of {len(entries):,} images of the file are not)"
        )
    note = f"{len(used):,} label{'s' * (len(used) != 1)} corrected by {file.name}"
    return replace(source, train=train, val=val, test=test, notes=(note, *source.notes))


def image_path_within(part: Part, row: int, source: str) -> str:
    """Return the path of an image within the source, as in lists; title and number for arrays."""
    name = image_name(part, row)
    return name if part.files is None else path_within(name, prefixes(source))


def _correct_part(
    part: Part,
    source: Source,
    spec: DataSpec,
    entries: Mapping[str, tuple[int, Correction]],
    used: set[str],
) -> Part:
    """Return the part with its corrections; adds their paths to `used`."""
    labels, classes = np.array(part.labels), list(source.classes)
    for row in range(len(labels)):
        # As the file spells it, where bytes that are not UTF-8 are escaped.
        found = entries.get(valid_text(image_path_within(part, row, spec.source)))
        if found is None:
            continue
        line, entry = found
        location = f"data.corrections: {spec.corrections}: line {line}: {entry.path}"
        if entry.correction not in classes:
            raise DataError(
                f"{location}: {entry.correction!r} is not one of the {len(classes):,} classes"
            )
        current = classes[labels[row]]
        if current not in (entry.label, entry.correction):
            raise DataError(f"{location} has the label {current!r}, not {entry.label!r}")
        labels[row] = classes.index(entry.correction)
        used.add(entry.path)
    changed: Any = replace(part, labels=labels)  # type: ignore[type-var]
    return changed
