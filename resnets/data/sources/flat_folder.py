"""A split of images without class folders, with labels from a file.

The file is a table, ImageNet's ground truth, or `data.ground_truth`.
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
    find_flat_labels,
)
from resnets.data.tables.labels import encode_labels, label_names
from resnets.data.tables.multilabel import LabelForm
from resnets.data.tables.unread_labels import find_label_files, format_files

log = logging.getLogger("resnets")


def open_flat(
    listing: Listing, title: str, classes: Sequence[str], where: str, truth: str | None
) -> FilePart:
    """Open all images of a listing as one split, with labels from a file next to them."""
    split = SplitRows("val", title, "", range(len(listing.paths)), flat=True)
    found = read_flat_labels(split, Layout([split]), listing, where, truth)
    assert found is not None
    return encode_part(split, found, classes, listing)


def read_flat_labels(
    split: SplitRows,
    layout: Layout,
    listing: Listing,
    where: str,
    truth: str | None,
    group: str | None = None,
    form: LabelForm = "auto",
) -> FlatLabels | None:
    """Read the labels of a split without class folders; None for test images without labels."""
    paths = [path for path in listing.paths if path not in listing.others]
    chosen = [paths[row] for row in split.rows]
    has_flat_val = any(each.flat and each.role == "val" for each in layout.splits)
    is_test = split.role == "test" and len(layout.splits) > 1
    # The file with labels of ImageNet's validation images has none of its test images.
    ground_truth = None if is_test and has_flat_val else truth
    others = [[paths[row] for row in each.rows] for each in layout.splits if each is not split]
    try:
        found = find_flat_labels(split, chosen, listing, where, ground_truth, others, group, form)
    except UnlabeledError as error:
        if not is_test:
            raise
        log.warning("%s: %s/ is skipped as unlabelled: %s", where, split.title, error)
        found = None
    if found is None and not is_test:
        unread = find_label_files(listing, where, ())
        raise DataError(
            _explain_no_labels(where, split.folder, chosen, listing.folders)
            + (f"; {format_files(unread)}: not read, convert to such a table" if unread else "")
        )
    if found is None:
        layout.skipped.update(dict.fromkeys(split.rows, NO_LABELS))
    return found


def _has_known_labels(found: FlatLabels, classes: Sequence[str], split: SplitRows) -> bool:
    """True if the labels of a test split are known classes: Kaggle's tables have other columns."""
    classes_and_indices = {*classes, *map(str, range(len(classes)))}
    names = {name for label in found.labels for name in label_names(label)}
    return split.role != "test" or not classes_and_indices.isdisjoint(names)


def describe_label_file(split: SplitRows, found: FlatLabels) -> str:
    """Return a note on the file, and its columns, from which a split's labels are read."""
    columns = f" ({found.description})" if found.description else ""
    return f"labels of {split.title or 'the images'} from {found.file}{columns}"


def add_flat_part(
    split: SplitRows,
    found: FlatLabels | None,
    classes: tuple[str, ...],
    listing: Listing,
    layout: Layout,
    notes: list[str],
) -> FilePart | None:
    """Create a part of a flat split with the labels `found`; without labels None, and a note."""
    if found is None:
        return None
    if not _has_known_labels(found, classes, split):
        layout.skipped.update(dict.fromkeys(split.rows, NO_LABELS))
        notes.append(f"{found.file} names none of the classes: {split.title}/ has no labels")
        return None
    notes.append(describe_label_file(split, found))
    return encode_part(split, found, classes, listing)


def encode_part(
    split: SplitRows,
    found: FlatLabels,
    classes: Sequence[str],
    listing: Listing,
    *,
    by_index: bool = True,
) -> FilePart:
    """Create a part of a split, with labels as indices of `classes`; see `labels.encode_labels`."""

    def locate(row: int) -> str:
        return f"{found.file}: the label of {listing.paths[split.rows[row]]}"

    labels = encode_labels(found.labels, classes, locate, by_index=by_index)
    files = listing.files.take(np.array(split.rows, np.int64))
    return FilePart(split.title, files, labels, groups=found.groups)


def _explain_no_labels(
    where: str, folder: str, paths: Sequence[str], folders: Sequence[str]
) -> str:
    location = f"{where}/{folder}" if folder else where
    found = labels_in_names(paths)
    if found:
        remedy = (
            f"its file names look like labels ({', '.join(found[:4])}): use them with --set"
            " data.labels_from=name, or sort the images into a folder for each class"
        )
    else:
        remedy = (
            "sort them into a folder for each class, put a labels.csv of path,label there, or name"
            " one by --set data.ground_truth=FILE"
        )
    annotation_names = {"labels", "annotations", "labelme", "bboxes"}
    annotation_folders = [
        path for path in folders if path.lower().split("/")[-1] in annotation_names
    ]
    if annotation_folders:
        remedy += (
            f"; if {annotation_folders[0]}/ has annotations of objects, train a detection recipe"
        )
    kinds = ", ".join(sorted({suffix_of(path) or "no extension" for path in paths})[:4])
    return f"{location}: its {len(paths):,} images ({kinds}) are in no class folders; {remedy}"
