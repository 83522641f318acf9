"""Ground truth of an evaluation: the classes of the data set, or a file of labels.

Files: JSON with a list of class numbers (or names) for each image, in the order of their file
names (ReaL: Beyer et al. 2020); CSV with path,label, a row for each label; or text with one label
per line, in the order of the file names. Numbers are indices (from 0) into the model's outputs.
Where file names sort differently by number (1.jpg .. 12.jpg), only a table is unambiguous.
"""

from __future__ import annotations

import re
from collections.abc import Container, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from resnets.data import DataError
from resnets.data.dataset.labels import is_multilabel, label_numbers
from resnets.data.tables.labels import ambiguous_number, argsort_by_name, format_first_pair
from resnets.data.tables.multilabel import single_label
from resnets.data.tables.reader import TABLE_SUFFIXES, open_table_file
from resnets.utils.errors import reading
from resnets.utils.files.json import parse_json

Labels = tuple[int, ...]


@dataclass(frozen=True)
class GroundTruth:
    """The correct classes of each image, as indices into the model's outputs.

    note: their source, for the protocol; empty for the data's own classes. paired: how labels
    without file names were paired with images; empty for labels with names. multilabel: whether an
    image has several labels, or none. chosen: rows of a multilabel set to use; None for
    all.
    """

    labels: Sequence[Labels]
    note: str = ""
    paired: str = ""
    multilabel: bool = False
    chosen: Sequence[int] | None = None

    @property
    def rows(self) -> list[int]:
        """Rows of the images that have a label and are evaluated."""
        if self.multilabel:
            return list(range(len(self.labels)) if self.chosen is None else self.chosen)
        return [row for row, labels in enumerate(self.labels) if labels]

    def select(self, rows: Container[int]) -> GroundTruth:
        """Return the ground truth of some rows only."""
        if self.multilabel:
            return replace(self, chosen=[row for row in self.rows if row in rows])
        labels = [each if row in rows else () for row, each in enumerate(self.labels)]
        return replace(self, labels=labels)

    def targets(self, rows: Tensor, logits: Tensor) -> Tensor:
        """Return one class (B,) for each image of `rows`: the most probable of its correct classes.

        So a prediction is correct if it is any of them, in the top five if any of them is, and its
        loss is that of the most probable one. For multi-label data, targets are (B, K), 0 or 1.
        """
        if self.multilabel:
            targets = torch.zeros_like(logits, dtype=torch.uint8)
            for index, row in enumerate(rows.tolist()):
                targets[index, list(self.labels[row])] = 1
            return targets
        allowed = torch.full_like(logits, float("-inf"))
        for index, row in enumerate(rows.tolist()):
            allowed[index, list(self.labels[row])] = 0
        return (allowed + logits.nan_to_num()).argmax(1)


def split_truth(labels: Tensor, outputs: Tensor, known: int = 0) -> GroundTruth:
    """Return the data's own labels (N,) or (N, K) as ground truth.

    Class t of the data is the model's `outputs[t]`. If the data have fewer classes than the model's
    `known` outputs, the note says so.
    """
    few = len(outputs) < known
    note = f"{len(outputs):,} of {known:,} classes, all of which compete" if few else ""
    if is_multilabel(labels):
        columns = outputs.tolist()
        sets = [tuple(columns[each] for each in label_numbers(row)) for row in labels.numpy()]
        return GroundTruth(sets, note, multilabel=True)
    return GroundTruth([(target,) for target in outputs[labels].tolist()], note)


def read_labels(
    path: Path, names: Sequence[str], classes: Sequence[str], *, stored_order: bool = False
) -> GroundTruth:
    """Read the file's labels for images with the paths `names`, as indices into `classes`.

    stored_order: whether labels without names are in the order of `names`, not in sorted order.
    Labels are either all names of classes or all indices from 0, which the note then says. Raises
    DataError with the wrong line or entry.
    """
    if path.suffix.lower() in TABLE_SUFFIXES and path.suffix.lower() != ".txt":
        given, first_row = _read_table(path, names), None
    else:
        text = _read_text(path)
        is_json = path.suffix.lower() == ".json"
        entries = _parse_json(path, text) if is_json else _parse_lines(text)
        given, first_row = _assign_by_position(path, entries, names, stored_order)
    number, are_indices = _number_labels(path, given, classes)
    labels = [tuple(dict.fromkeys(number[str(value)] for value, _ in values)) for values in given]
    with_label = sum(map(bool, labels))
    if not with_label:
        raise DataError(f"{path}: contains none of the {len(names):,} images, such as {names[0]}")
    note = f"labels {path.name}"
    if (total := sum(map(len, labels))) > with_label:
        note += f" ({total:,} for {with_label:,} images, any of them is correct)"
    if with_label < len(labels):
        note += f", {len(labels) - with_label:,} images without a label excluded"
    if are_indices:
        first = next(value for values in given for value, _ in values)
        note += f", numbers taken as class indices ({first} is {classes[int(first)]})"
    paired = ""
    if first_row is not None:
        pair = format_first_pair(names[first_row], "/".join(classes[k] for k in labels[first_row]))
        paired, note = f"labels by position: {pair}, ...", f"{note}, by position ({pair})"
    return GroundTruth(labels, note, paired)


def _number_labels(
    path: Path, given: Sequence[Given], classes: Sequence[str]
) -> tuple[dict[str, int], bool]:
    """Return the output of each label, and whether labels are indices rather than names.

    Raises DataError for a label that is not a class, and for numbers that may be either.
    """
    locations = {str(value): location for values in given for value, location in values}
    numbers = {name: number for number, name in enumerate(classes)}
    other = next((label for label in locations if label not in numbers), None)
    if other is None:
        labels = list(locations)
        if (row := ambiguous_number(labels, classes)) is not None:
            raise DataError(
                f"{path}: {locations[labels[row]]}: {labels[row]!r} may be the class of that name"
                f" or, counted from 0, {classes[int(labels[row])]!r}, and so may the other labels;"
                " use names of classes that are not numbers"
            )
        return numbers, False
    indices = {
        label: int(label)
        for label in locations
        if re.fullmatch(r"\d{1,9}", label) and int(label) < len(classes)
    }
    if wrong := next((label for label in locations if label not in indices | numbers), None):
        raise DataError(
            f"{path}: {locations[wrong]}: {wrong!r} is not a class of the model, by name or as a"
            f" number in 0..{len(classes) - 1}"
        )
    if named := next((label for label in locations if label in numbers), None):
        raise DataError(
            f"{path}: {locations[named]}: {named!r} is the name of a class, but {other!r}"
            f" ({locations[other]}) is not; write all labels by name, or all as numbers"
        )
    return indices, True


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise DataError(f"{path}: cannot be read as labels ({reason})") from None


Given = Sequence[tuple[Any, str]]  # labels as written, each with its location in the file


def _parse_json(path: Path, text: str) -> list[Given]:
    with reading(path, DataError, "as JSON"):
        entries = parse_json(text)
    if not isinstance(entries, list):
        raise DataError(f"{path}: expected a list with one list of labels for each image")
    given: list[Given] = []
    for number, entry in enumerate(entries):
        values = entry if isinstance(entry, list) else [entry]
        given.append([(value, f"entry {number}") for value in values])
    return given


def _parse_lines(text: str) -> list[Given]:
    lines = text.splitlines()
    return [
        [(line.strip(), f"line {number}")] if line.strip() else []
        for number, line in enumerate(lines, start=1)
    ]


def _assign_by_position(
    path: Path, entries: list[Given], names: Sequence[str], stored: bool
) -> tuple[list[Given], int]:
    """Return the entry of each image, and the row of the image of the first entry."""
    if len(entries) != len(names):
        raise DataError(
            f"{path}: labels {len(entries):,} images, the split has {len(names):,};"
            " only files with path,label may have others"
        )
    order = list(range(len(names)))
    if not stored:
        order = argsort_by_name(path, [(_split_path(name)[-1], name) for name in names])
    given: list[Given] = [()] * len(names)
    for row, entry in zip(order, entries, strict=True):
        given[row] = entry
    return given, order[0]


def _read_table(path: Path, names: Sequence[str]) -> list[Given]:
    given: list[list[tuple[Any, str]]] = [[] for _ in names]
    by_length: dict[int, dict[tuple[str, ...], list[int]]] = {}  # by the number of a path's parts

    def find_rows(cell: str) -> list[int]:
        parts = _split_path(cell)
        if len(parts) not in by_length:
            by_length[len(parts)] = _rows_by_suffix(names, len(parts))
        return by_length[len(parts)].get(parts, [])

    table = open_table_file(path, lambda cell: bool(find_rows(cell)))
    for row in () if table is None else table.rows():
        rows = find_rows(row.path)
        if len(rows) > 1:
            raise DataError(
                f"{path}: line {row.line}: {row.path} may be {names[rows[0]]} or {names[rows[1]]};"
                " name its folder too"
            )
        label = single_label(row.label, f"{path}: line {row.line}")
        for each in rows:  # none if the file belongs to a larger set
            given[each].append((label, f"line {row.line}"))
    return list(given)


def _rows_by_suffix(names: Sequence[str], count: int) -> dict[tuple[str, ...], list[int]]:
    """Return the rows of the images by the last `count` parts of their paths."""
    rows: dict[tuple[str, ...], list[int]] = {}
    for row, name in enumerate(names):
        rows.setdefault(_split_path(name)[-count:], []).append(row)
    return rows


def _split_path(name: str) -> tuple[str, ...]:
    """Split a path, or a name such as "set.tar:cat/1.jpg", into parts."""
    return tuple(part for part in re.split(r"[/\\:]", name) if part not in ("", "."))
