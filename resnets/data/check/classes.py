"""Count images per class and part; find imbalanced classes and classes that are not measured."""

from __future__ import annotations

import posixpath
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from resnets.data.check.images_by_split import Contents
from resnets.data.dataset.labels import class_counts, is_multilabel
from resnets.data.dataset.source import VAL_NAMES
from resnets.data.finding_kinds import IMBALANCE, UNMEASURED, Finding

MAX_ROWS, NUM_SMALLEST, NUM_LARGEST = 20, 10, 3  # of classes in a table
MAX_RATIO = 10  # of the largest class to the smallest
TRAIN, VAL, TEST = "training", "validation", "test"


@dataclass(frozen=True)
class ClassRow:
    """A class and its number of images in each part."""

    name: str
    counts: Sequence[int]


@dataclass(frozen=True)
class ClassTable:
    """Images by class and part; `rows` from the smallest class to the largest.

    parts: titles as in the set. train_column: index of the part that is trained on.
    """

    parts: Sequence[str]
    rows: Sequence[ClassRow]
    train_column: int

    @property
    def ratio(self) -> float:
        """Training images of the largest class per image of the smallest."""
        counts = [row.counts[self.train_column] for row in self.rows]
        return max(counts) / max(1, min(counts))


def find_role(part: str, parts: Sequence[str]) -> str:
    """Return the role of a part in training: "training", "validation" or "test"; "" without parts.

    Without a test part the validation part is the test set, as in ImageNet's layout.
    """
    if part in VAL_NAMES:
        return VAL if "test" in parts else TEST
    return TRAIN if part == "train" else part.removesuffix(" share")


def make_class_table(contents: Contents) -> ClassTable | None:
    """Count the images of each class and part; None for a set without classes."""
    sections = [each for each in contents.sections if len(each.classes)]
    names = list(dict.fromkeys(name for each in sections for name in each.classes))
    if not [name for name in names if name]:
        return None
    index_of_class = {name: index for index, name in enumerate(names)}
    parts = list(dict.fromkeys(each.part for each in sections))
    counts = np.zeros((len(names), len(parts)), np.int64)
    for section in sections:
        found = class_counts(section.labels, len(section.classes))
        indices = [index_of_class[name] for name in section.classes]
        np.add.at(counts[:, parts.index(section.part)], indices, found)
    roles = [find_role(part, parts) for part in parts]
    train_column = roles.index(TRAIN) if TRAIN in roles else len(parts) - 1
    rows = [ClassRow(name, counts[index_of_class[name]].tolist()) for name in names]
    rows.sort(key=lambda row: (row.counts[train_column], row.name))
    return ClassTable(parts, rows, train_column)


@dataclass(frozen=True)
class MultilabelSummary:
    """Statistics of multi-label data: numbers of images, labels, and images without a label.

    together: the pairs of labels that most often occur together, with their counts, sorted.
    """

    images: int
    labels: int
    unlabeled: int
    together: Sequence[tuple[str, str, int]]


def summarize_multilabel(contents: Contents, most: int = 3) -> MultilabelSummary | None:
    """Summarize several labels per image; None if images have one label each."""
    sections = [each for each in contents.sections if is_multilabel(each.labels)]
    if not sections:
        return None
    classes = sections[0].classes
    labels = np.concatenate([each.labels for each in sections]).astype(np.int64)
    pairs = np.triu(labels.T @ labels, 1)  # (K, K) images with both labels
    order = np.argsort(-pairs, axis=None, kind="stable")[:most]
    rows, columns = (each.tolist() for each in np.unravel_index(order, pairs.shape))
    together = [
        (classes[one], classes[two], int(pairs[one, two]))
        for one, two in zip(rows, columns, strict=True)
        if pairs[one, two]
    ]
    unlabeled = int((labels.sum(1) == 0).sum())
    return MultilabelSummary(len(labels), int(labels.sum()), unlabeled, together)


def select_rows(table: ClassTable) -> list[ClassRow | None]:
    """Return all rows of a short table, else the smallest and largest; None marks the gap."""
    if len(table.rows) <= MAX_ROWS:
        return [*table.rows]
    return [*table.rows[:NUM_SMALLEST], None, *table.rows[-NUM_LARGEST:]]


def count_suffixes(contents: Contents) -> list[tuple[str, int]]:
    """Return the number of images per suffix ("" without one), sorted."""
    names = (contents.path(number) for number in range(len(contents)))
    counts = Counter(posixpath.splitext(name)[1].lower() for name in names)
    return counts.most_common()


def find_class_problems(contents: Contents) -> Iterator[Finding]:
    """Yield findings on imbalanced classes, and on classes that a held-out part lacks."""
    table = make_class_table(contents)
    if table is None or len(table.rows) < 2:
        return
    least, most = table.rows[0], table.rows[-1]
    if table.ratio >= MAX_RATIO:
        few, many = least.counts[table.train_column], most.counts[table.train_column]
        detail = f"{most.name} {many:,}, {least.name} {few:,} images: {table.ratio:,.0f} to 1"
        yield Finding(IMBALANCE, "", detail, table.parts[table.train_column], least.name)
    for column, part in enumerate(table.parts):
        if column == table.train_column:
            continue
        for row in table.rows:
            if row.counts[table.train_column] and not row.counts[column]:
                role = find_role(part, table.parts)
                yield Finding(UNMEASURED, "", f"{row.name}: no {role} image", part, row.name)
