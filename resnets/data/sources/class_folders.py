"""Class folders: the images of a folder or archive as a data set with splits and classes.

`layout` assigns files to splits and classes. If there is a validation but no test split (ImageNet's
layout), validation is the test split. The labels of a flat split are read from a file
(`flat_folder`); a flat test split without such a file has no labels and is skipped.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np

from resnets.data.dataset.source import FilePart, Source, source_from_parts
from resnets.data.errors import DataError
from resnets.data.files.folder import Listing
from resnets.data.files.unsupported_file import describe_inner_archives
from resnets.data.files.walk import SkippedFiles
from resnets.data.layout.class_spelling import (
    check_distinct,
    label_in_name,
    match_names,
)
from resnets.data.layout.folder_layout import MASKS, Layout, SplitRows, read_layout
from resnets.data.layout.folder_names import Role
from resnets.data.layout.mask_files import find_masks
from resnets.data.sources.flat_folder import (
    add_flat_part,
    describe_label_file,
    encode_part,
    read_flat_labels,
)
from resnets.data.tables.flat_labels import (
    NOT_IN_TABLE,
    UNREAD_TABLES,
    FlatLabels,
    find_flat_labels,
    is_table,
)
from resnets.data.tables.ground_truth_file import imagenet_wnids
from resnets.data.tables.labels import class_names
from resnets.data.tables.multilabel import LabelForm
from resnets.data.tables.unread_labels import (
    describe_label_files,
    find_label_files,
    format_files,
    warn_of_other_tables,
)
from resnets.utils.printable import join_names

log = logging.getLogger("resnets")

ROLES: tuple[Role, ...] = ("train", "val", "test")


@dataclass(frozen=True)
class Tree:
    """The source of a folder or archive, its parts by role, and its layout."""

    source: Source
    layout: Layout
    parts: Mapping[str, FilePart]


def read_tree(
    listing: Listing,
    name: str,
    where: str,
    truth: str | None = None,
    labels_from: str = "auto",
    quarantine: str | None = None,
    group: str | None = None,
    labels: LabelForm = "auto",
) -> Tree:
    """Read the splits and classes of the images in a folder or archive `where`.

    Classes are sorted by name.

    Args:
        listing: Files of the folder or archive.
        name: Name of the data set.
        where: Path for error messages.
        truth: File with the labels of a flat split, if it cannot be found automatically.
        labels_from: See `layout.read_layout`.
        quarantine: Quarantine list in use.
        group: Column of groups in a table of labels.
        labels: See `multilabel.parse_labels`.

    Raises DataError if there are no images or class folders, for a class without images, for a
    class in validation or test that training lacks, and for an ambiguous layout.
    """
    if len(listing.paths) == len(listing.others):
        details = listing.skipped.describe() + describe_inner_archives(listing.skipped)
        raise DataError(
            f"{where}: no images found; expected a folder of them for each class{details}"
        )
    everything, listing = listing, listing.images()
    layout = read_tree_layout(listing, where, labels_from)
    if labels_from == "name":
        several = len(layout.splits) > 1
        labeled = [_label_by_name(split, listing, where, several) for split in layout.splits]
        layout = replace(layout, splits=labeled)
    elif labels_from == "auto":
        for split in layout.splits:
            check_distinct(split.class_folders, where)

    read: list[str] = []
    absent: dict[str, None] = {}  # a table may label several splits

    def read_flat(split: SplitRows, form: LabelForm = labels) -> FlatLabels | None:
        found = read_flat_labels(split, layout, everything, where, truth, group, form)
        if found is not None:
            read.append(found.file)
            listing.skipped.discard_label_file(found.file)
            absent.update(dict.fromkeys(filter(None, [found.warning])))
        return found

    training = _find_training_split(layout, where)
    if labels_from == "auto":
        single = _read_single_folder(layout, everything, where, labels)
        layout, training = single or (layout, training)
    if training.flat:
        tree = _make_flat_tree(layout, training, listing, name, where, read_flat)
        warnings = warn_of_other_tables(everything, where, tree.source.classes, read)
        source = replace(tree.source, warnings=(*tree.source.warnings, *absent, *warnings))
        return replace(tree, source=source)
    tree = _make_folder_tree(layout, training, listing, name, where, read_flat)
    warnings = (*tree.source.warnings, *absent)
    tree = replace(tree, source=replace(tree.source, warnings=warnings))
    return _add_label_file_notes(tree, everything, where, quarantine)


def _add_label_file_notes(
    tree: Tree, everything: Listing, where: str, quarantine: str | None
) -> Tree:
    """Return the source with a note on each file near the class folders that names images."""
    source = tree.source
    found = find_label_files(everything, where, source.classes, quarantine)
    if len(source.classes) == 1:
        unread = [file for file in found if not is_table(file.path)]
        if not unread or any(note.startswith(UNREAD_TABLES) for note in source.notes):
            return tree
        note = (
            f"{UNREAD_TABLES}: {format_files(unread)}; labels are read from CSV"
            " (path,label): convert it, and give it by --data, or call it labels.csv"
        )
        return replace(tree, source=replace(source, notes=(*source.notes, note)))
    read = " ".join(source.notes)  # they name the files that labels were read from
    notes, warnings = describe_label_files(
        [file for file in found if file.path not in read],
        source.classes,
        split=len(tree.layout.splits) > 1,
    )
    source = replace(source, notes=(*source.notes, *notes), warnings=(*source.warnings, *warnings))
    return replace(tree, source=source)


def _read_single_folder(
    layout: Layout, everything: Listing, where: str, labels: LabelForm
) -> tuple[Layout, SplitRows] | None:
    """Return the layout of images in a single folder, which is no class if a table has labels.

    If there are tables without labels for them, a note is added. None for other layouts.
    """
    tables = sorted(path for path in everything.others if is_table(path))
    if len(layout.splits) != 1 or layout.splits[0].flat or not tables:
        return None
    (split,) = layout.splits
    if len(split.class_folders) != 1:
        return None
    folder = f"{split.class_folders[0][1]}/"
    flat = replace(split, folder=folder, names=(), class_folders=(), flat=True)
    paths = everything.images().paths
    why = ""
    try:
        chosen = [paths[row] for row in flat.rows]
        found = find_flat_labels(flat, chosen, everything, where, None, form=labels)
    except DataError as error:
        found, why = None, f" ({error})"
    if found is not None:
        return replace(layout, splits=[flat]), flat
    note = (
        f"{UNREAD_TABLES}: {join_names(tables)}{why}; to read labels from one, give it with"
        " --data, or rename it labels.csv"
    )
    return replace(layout, notes=(*layout.notes, note)), split


def read_tree_layout(listing: Listing, where: str, labels_from: str = "auto") -> Layout:
    """Return the layout of a listing, without masks that are stored next to their images."""
    layout = read_layout(listing.paths, listing.folders, where, labels_from)
    splits, skipped = [], dict(layout.skipped)
    warnings = layout.warnings if labels_from == "auto" else ()  # else the user chose
    for split in layout.splits:
        found = find_masks(listing.paths, split.rows, listing.files)
        skipped.update(dict.fromkeys(sorted(found.masks), MASKS))
        splits.append(_drop_rows(split, found.masks))
        warnings = (*warnings, *found.warnings(listing.paths))
    return replace(layout, splits=splits, skipped=skipped, warnings=warnings)


def count_skipped(layout: Layout, listing: Listing) -> SkippedFiles:
    """Count the files of a listing that are in no split of the layout."""
    found = SkippedFiles()
    found.add_all(listing.skipped)
    for row, reason in sorted(layout.skipped.items()):
        found.add(reason, listing.paths[row])
    return found


def _drop_rows(split: SplitRows, rows: set[int]) -> SplitRows:
    if not rows:
        return split
    indices = [index for index, row in enumerate(split.rows) if row not in rows]
    names = [split.names[index] for index in indices] if split.names else ()
    return replace(split, rows=[split.rows[index] for index in indices], names=names)


def _label_by_name(split: SplitRows, listing: Listing, where: str, several: bool) -> SplitRows:
    """Return the split with labels from file names; a test split without labels is unchanged."""
    found = [label_in_name(listing.paths[row]) for row in split.rows]
    if split.role == "test" and several and not any(found):
        return replace(split, names=(), class_folders=(), flat=True)
    if None in found:
        raise DataError(
            f"{where}: {listing.paths[split.rows[found.index(None)]]}: the file name has no label "
            "before its number, which data.labels_from=name needs"
        )
    names = [name for name in found if name is not None]
    folders = sorted({(name, f"{split.folder}{name}*") for name in names})
    return replace(split, names=names, class_folders=folders, flat=False)


def _find_training_split(layout: Layout, where: str) -> SplitRows:
    """Return the split that defines the classes: training, or the only split."""
    found = next((split for split in layout.splits if split.role in ("train", None)), None)
    if found is not None:
        return found
    if len(layout.splits) == 1:
        return layout.splits[0]
    titles = ", ".join(f"{split.title}/" for split in layout.splits)
    raise DataError(f"{where}: contains the splits {titles}, but no training split")


def _make_folder_tree(
    layout: Layout,
    training: SplitRows,
    listing: Listing,
    name: str,
    where: str,
    read_labels: Callable[[SplitRows], FlatLabels | None],
) -> Tree:
    """Create the data set of a training split with class folders."""
    classes = tuple(sorted({label for label, _ in training.class_folders}))
    if not classes:
        raise DataError(f"{where}/{training.folder}: no class folders; sort its images into them")
    parts: dict[str, FilePart] = {}
    notes = list(layout.notes)
    for split in layout.splits:
        if not split.flat:
            parts[split.role or "train"] = _make_folder_part(split, classes, listing, where, notes)
            continue
        if (
            part := add_flat_part(split, read_labels(split), classes, listing, layout, notes)
        ) is not None:
            parts[split.role or "train"] = part
    source = source_from_parts(name, classes, parts, where)
    source = replace(
        source,
        skipped=count_skipped(layout, listing),
        notes=tuple(notes),
        warnings=tuple(layout.warnings),
    )
    return Tree(source, layout, parts)


def _make_folder_part(
    split: SplitRows, classes: tuple[str, ...], listing: Listing, where: str, notes: list[str]
) -> FilePart:
    """Create a part from a split labeled by class folders."""
    class_index = {name: label for label, name in enumerate(classes)}
    match = match_names([name for name, _ in split.class_folders], classes)
    filled = set(split.names)
    for folder, path in split.class_folders:
        class_name = match[folder]
        if folder not in filled:
            raise DataError(
                f"{where}/{path}: a class without images; add some or remove the folder"
                f"{listing.skipped.describe()}"
            )
        if class_name is None:
            raise DataError(
                f"{where}/{path}: this class is not in the training split; add training images of "
                "it or remove the folder"
            )
        if class_name != folder:
            notes.append(f"{path}/ is read as the class {class_name!r}")
    labels = np.array([class_index[str(match[name])] for name in split.names], np.int64)
    return FilePart(split.title, listing.files.take(np.array(split.rows, np.int64)), labels)


def _make_flat_tree(
    layout: Layout,
    training: SplitRows,
    listing: Listing,
    name: str,
    where: str,
    read_labels: Callable[..., FlatLabels | None],
) -> Tree:
    """Create the data set of splits without class folders, with labels from files."""
    train_labels = read_labels(training)
    assert train_labels is not None
    train_paths = [listing.paths[row] for row in training.rows]
    train_labels = replace(train_labels, labels=imagenet_wnids(train_labels.labels, train_paths))
    if train_labels.splits:
        return _make_column_tree(layout, training, train_labels, listing, name, where)
    classes = class_names(train_labels.labels)
    parts: dict[str, FilePart] = {
        training.role or "train": encode_part(training, train_labels, classes, listing)
    }
    notes = [describe_label_file(training, train_labels)]
    for split in layout.splits:
        if split is training:
            continue
        if not split.flat:
            raise DataError(
                f"{where}: {split.title}/ has class folders, but {training.title}/ has none"
            )
        if any(isinstance(label, tuple) for label in train_labels.labels):
            labels = read_labels(split, "multi")
        else:
            labels = read_labels(split)
        if (part := add_flat_part(split, labels, classes, listing, layout, notes)) is not None:
            parts[split.role or "train"] = part
    source = source_from_parts(name, classes, parts, where)
    skipped = count_skipped(layout, listing)
    notes = [*layout.notes, *notes]
    source = replace(source, skipped=skipped, notes=tuple(notes), warnings=tuple(layout.warnings))
    return Tree(source, layout, parts)


def _make_column_tree(
    layout: Layout,
    all_images: SplitRows,
    labels: FlatLabels,
    listing: Listing,
    name: str,
    where: str,
) -> Tree:
    """Create the data set of images in one folder whose table assigns them to splits."""
    split_of = dict(zip(all_images.rows, labels.splits, strict=True))
    label_of = dict(zip(all_images.rows, labels.labels, strict=True))
    group_of = dict(zip(all_images.rows, labels.groups or [""] * len(labels.labels), strict=True))
    layout.skipped.update({row: NOT_IN_TABLE for row, split in split_of.items() if not split})
    splits = [
        replace(all_images, role=role, title=role, rows=rows)
        for role in ROLES
        if (rows := [row for row in all_images.rows if split_of[row] == role])
    ]
    layout = replace(layout, splits=splits)
    classes = class_names(label_of[row] for row in _find_training_split(layout, where).rows)
    parts = {
        str(split.role): encode_part(
            split,
            replace(
                labels,
                labels=[label_of[row] for row in split.rows],
                groups=None if labels.groups is None else [group_of[row] for row in split.rows],
            ),
            classes,
            listing,
            by_index=False,
        )
        for split in splits
    }
    source = source_from_parts(name, classes, parts, where)
    skipped = count_skipped(layout, listing)
    notes = (*layout.notes, describe_label_file(all_images, labels))
    return Tree(replace(source, skipped=skipped, notes=notes), layout, parts)
