"""A split of images alone, in no class folders: its labels are in a file beside it.

Of a table (`flat_labels`), of ImageNet's own files, or of what `data.ground_truth` names.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np

from resnets.data.dataset.source import FilePart
from resnets.data.errors import DataError
from resnets.data.files.folder import Listing
from resnets.data.files.walk import suffix_of
from resnets.data.layout.class_spelling import (
    labels_in_names,
)
from resnets.data.layout.folder_layout import NO_LABELS, Layout, SplitRows
from resnets.data.tables.flat_labels import (
    FlatLabels,
    UnlabeledError,
    flat_labels,
)
from resnets.data.tables.label_sets import LabelForm
from resnets.data.tables.labels import names_of, number_labels
from resnets.data.tables.unread_labels import label_files, named_files

log = logging.getLogger("resnets")


def open_flat(
    listing: Listing, title: str, classes: Sequence[str], where: str, truth: str | None
) -> FilePart:
    """All images of a listing as one split, whose labels are in a file beside it."""
    split = SplitRows("val", title, "", range(len(listing.paths)), flat=True)
    found = flat_split_labels(split, Layout([split]), listing, where, truth)
    assert found is not None
    return numbered_part(split, found, classes, listing)


def flat_split_labels(
    split: SplitRows,
    layout: Layout,
    listing: Listing,
    where: str,
    truth: str | None,
    group: str | None = None,
    form: LabelForm = "auto",
) -> FlatLabels | None:
    """Labels of a split without class folders; None for test images, which may have none."""
    paths = [path for path in listing.paths if path not in listing.others]
    chosen = [paths[row] for row in split.rows]
    beside_flat_val = any(each.flat and each.role == "val" for each in layout.splits)
    test = split.role == "test" and len(layout.splits) > 1
    # The file that labels ImageNet's validation images does not label its test images.
    named = None if test and beside_flat_val else truth
    others = [[paths[row] for row in each.rows] for each in layout.splits if each is not split]
    try:
        found = flat_labels(split, chosen, listing, where, named, others, group, form)
    except UnlabeledError as error:
        if not test:
            raise
        log.warning("%s: %s/ is left out as unlabelled: %s", where, split.title, error)
        found = None
    if found is None and not test:
        unread = label_files(listing, where, ())
        raise DataError(
            _no_labels(where, split.folder, chosen, listing.folders)
            + (f"; {named_files(unread)}: not read, convert to such a table" if unread else "")
        )
    if found is None:
        layout.left_out.update(dict.fromkeys(split.rows, NO_LABELS))
    return found


def _fits(found: FlatLabels, classes: Sequence[str], split: SplitRows) -> bool:
    """Whether what a table says of a test split are labels: Kaggle's has other columns."""
    known = {*classes, *map(str, range(len(classes)))}
    names = {name for label in found.labels for name in names_of(label)}
    return split.role != "test" or not known.isdisjoint(names)


def describe_labels(split: SplitRows, found: FlatLabels) -> str:
    """A note on which file labels a split, and which of its columns."""
    columns = f" ({found.said})" if found.said else ""
    return f"labels of {split.title or 'the images'} from {found.file}{columns}"


def labeled_part(
    split: SplitRows,
    found: FlatLabels | None,
    classes: tuple[str, ...],
    listing: Listing,
    layout: Layout,
    notes: list[str],
) -> FilePart | None:
    """A flat split with the labels `found` for it; None where there are none, which is noted."""
    if found is None:
        return None
    if not _fits(found, classes, split):
        layout.left_out.update(dict.fromkeys(split.rows, NO_LABELS))
        notes.append(f"{found.file} names none of the classes: {split.title}/ has no labels")
        return None
    notes.append(describe_labels(split, found))
    return numbered_part(split, found, classes, listing)


def numbered_part(
    split: SplitRows,
    found: FlatLabels,
    classes: Sequence[str],
    listing: Listing,
    *,
    by_place: bool = True,
) -> FilePart:
    """A split with its labels numbered in the order of `classes`; see `labels.number_labels`."""

    def place(row: int) -> str:
        return f"{found.file}: the label of {listing.paths[split.rows[row]]}"

    labels = number_labels(found.labels, classes, place, by_place=by_place)
    files = listing.files.take(np.array(split.rows, np.int64))
    return FilePart(split.title, files, labels, groups=found.groups)


def _no_labels(where: str, folder: str, paths: Sequence[str], folders: Sequence[str]) -> str:
    place = f"{where}/{folder}" if folder else where
    found = labels_in_names(paths)
    if found:
        said = f"its file names look like labels ({', '.join(found[:4])}): take them by --set"
        way = f"{said} data.labels_from=name, or sort the images into a folder for each class"
    else:
        way = (
            "sort them into a folder for each class, put a labels.csv of path,label there, or name"
            " one by --set data.ground_truth=FILE"
        )
    annotated = {"labels", "annotations", "labelme", "bboxes"}
    beside = next((each for each in folders if each.lower().split("/")[-1] in annotated), None)
    if beside is not None:
        way += f"; if {beside}/ holds annotations of objects, train a detection recipe"
    kinds = ", ".join(sorted({suffix_of(path) or "no suffix" for path in paths})[:4])
    return f"{place}: its {len(paths):,} images ({kinds}) are in no class folders; {way}"
