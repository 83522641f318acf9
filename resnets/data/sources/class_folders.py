"""Class-folder trees: the images of a folder or archive as a set with splits and classes.

`layout` says which file belongs to which split and class. With a validation but no test split
(ImageNet's layout) validation is the test set. A flat split takes its labels from a file
(`flat_split`); a flat test split without one has no labels, and is left out.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np

from resnets.data.dataset.source import FilePart, Source, by_role
from resnets.data.errors import DataError
from resnets.data.files.folder import Listing
from resnets.data.files.unsupported_file import archives_within
from resnets.data.files.walk import LeftOut
from resnets.data.layout.class_spelling import (
    check_distinct,
    label_in_name,
    match_names,
)
from resnets.data.layout.folder_layout import MASKS, Layout, SplitRows, read_layout
from resnets.data.layout.folder_names import Role
from resnets.data.layout.mask_files import masks_beside
from resnets.data.sources.flat_folder import (
    describe_labels,
    flat_split_labels,
    labeled_part,
    numbered_part,
)
from resnets.data.tables.flat_labels import (
    UNNAMED,
    UNREAD_TABLES,
    FlatLabels,
    flat_labels,
    is_table,
)
from resnets.data.tables.ground_truth_file import imagenet_names
from resnets.data.tables.label_sets import LabelForm
from resnets.data.tables.labels import class_names
from resnets.data.tables.unread_labels import label_file_notes, label_files, named_files

log = logging.getLogger("resnets")

ROLES: tuple[Role, ...] = ("train", "val", "test")


@dataclass(frozen=True)
class Tree:
    """A set of a folder or archive: its parts by role, and the layout that they came from."""

    source: Source
    layout: Layout
    parts: Mapping[str, FilePart]


def open_tree(
    listing: Listing,
    name: str,
    where: str,
    truth: str | None = None,
    labels_from: str = "auto",
    group: str | None = None,
    labels: LabelForm = "auto",
) -> Source:
    """The set of a folder or archive; see `read_tree`."""
    return read_tree(listing, name, where, truth, labels_from, group=group, labels=labels).source


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
    """Sort the images of a folder or archive `where` into splits and classes, sorted by name.

    `truth`: file with the labels of a flat split, where it is not found beside it. `labels_from`:
    see `layout.read_layout`. `quarantine`: the list in use. `group`: the column of groups of a
    table of labels. `labels`: see `label_sets.read_label_sets`. DataError: no images, no class
    folders, a class without images, a class in validation or test that training lacks, or a layout
    that may mean two things.
    """
    if len(listing.paths) == len(listing.others):
        said = listing.left_out.said() + archives_within(listing.left_out)
        raise DataError(f"{where}: no images found; expected a folder of them for each class{said}")
    everything, listing = listing, listing.images()
    layout = tree_layout(listing, where, labels_from)
    if labels_from == "name":
        several = len(layout.splits) > 1
        named = [_named(split, listing, where, several) for split in layout.splits]
        layout = replace(layout, splits=named)
    elif labels_from == "auto":
        for split in layout.splits:
            check_distinct(split.class_folders, where)

    def flat(split: SplitRows, form: LabelForm = labels) -> FlatLabels | None:
        return flat_split_labels(split, layout, everything, where, truth, group, form)

    training = _training(layout, where)
    if labels_from == "auto":
        alone = _in_one_folder(layout, everything, where, labels)
        layout, training = alone or (layout, training)
    if training.flat:
        return _all_flat(layout, training, listing, name, where, flat)
    tree = _by_folders(layout, training, listing, name, where, flat)
    return _with_label_files(tree, everything, where, quarantine)


def _with_label_files(tree: Tree, everything: Listing, where: str, quarantine: str | None) -> Tree:
    """The set with a word on each file beside its class folders that names the same images."""
    source = tree.source
    found = label_files(everything, where, source.classes, quarantine)
    if len(source.classes) == 1:
        unread = [file for file in found if not is_table(file.path)]
        if not unread or any(note.startswith(UNREAD_TABLES) for note in source.notes):
            return tree
        note = (
            f"{UNREAD_TABLES}: {named_files(unread)}; labels are read from CSV"
            " (path,label): convert it, and give it by --data, or call it labels.csv"
        )
        return replace(tree, source=replace(source, notes=(*source.notes, note)))
    read = " ".join(source.notes)  # which name the files that labels are from
    notes, warnings = label_file_notes(
        [file for file in found if file.path not in read],
        source.classes,
        split=len(tree.layout.splits) > 1,
    )
    source = replace(source, notes=(*source.notes, *notes), warnings=(*source.warnings, *warnings))
    return replace(tree, source=source)


def _in_one_folder(
    layout: Layout, everything: Listing, where: str, labels: LabelForm
) -> tuple[Layout, SplitRows] | None:
    """The layout of images that lie all in one folder, which is no class where a table labels them;
    with a note where there are tables but none does."""
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
        found = flat_labels(flat, chosen, everything, where, None, form=labels)
    except DataError as error:
        found, why = None, f" ({error})"
    if found is not None:
        return replace(layout, splits=[flat]), flat
    more = f" and {len(tables) - 3} more" if len(tables) > 3 else ""
    note = (
        f"{UNREAD_TABLES}: {', '.join(tables[:3])}{more}{why}; to take labels from one, give it by"
        " --data, or call it labels.csv"
    )
    return replace(layout, notes=(*layout.notes, note)), split


def tree_layout(listing: Listing, where: str, labels_from: str = "auto") -> Layout:
    """The layout of a listing, without masks beside their images."""
    layout = read_layout(listing.paths, listing.folders, where, labels_from)
    splits, out = [], dict(layout.left_out)
    warnings = layout.warnings if labels_from == "auto" else ()  # else the user said what they are
    for split in layout.splits:
        beside = masks_beside(listing.paths, split.rows, listing.files)
        out.update(dict.fromkeys(sorted(beside.masks), MASKS))
        splits.append(_without(split, beside.masks))
        warnings = (*warnings, *beside.warnings(listing.paths))
    return replace(layout, splits=splits, left_out=out, warnings=warnings)


def left_out_of(layout: Layout, listing: Listing) -> LeftOut:
    """All that a listing has and the layout's splits have not, counted."""
    found = LeftOut()
    found.add_all(listing.left_out)
    for row, reason in sorted(layout.left_out.items()):
        found.add(reason, listing.paths[row])
    return found


def _without(split: SplitRows, rows: set[int]) -> SplitRows:
    if not rows:
        return split
    kept = [place for place, row in enumerate(split.rows) if row not in rows]
    names = [split.names[place] for place in kept] if split.names else ()
    return replace(split, rows=[split.rows[place] for place in kept], names=names)


def _named(split: SplitRows, listing: Listing, where: str, several: bool) -> SplitRows:
    """The split with labels from the names of its files; as it is where it is a test split among
    `several` that has none."""
    found = [label_in_name(listing.paths[row]) for row in split.rows]
    if split.role == "test" and several and not any(found):
        return replace(split, names=(), class_folders=(), flat=True)
    if None in found:
        raise DataError(
            f"{where}: {listing.paths[split.rows[found.index(None)]]}: no label before the number"
            " of its name, as data.labels_from=name needs it"
        )
    names = [name for name in found if name is not None]
    folders = sorted({(name, f"{split.folder}{name}*") for name in names})
    return replace(split, names=names, class_folders=folders, flat=False)


def _training(layout: Layout, where: str) -> SplitRows:
    """The split that classes come from: training, or the only one."""
    found = next((split for split in layout.splits if split.role in ("train", None)), None)
    if found is not None:
        return found
    if len(layout.splits) == 1:
        return layout.splits[0]
    titles = ", ".join(f"{split.title}/" for split in layout.splits)
    raise DataError(f"{where}: has the splits {titles}, but none to train on")


def _by_folders(
    layout: Layout,
    training: SplitRows,
    listing: Listing,
    name: str,
    where: str,
    flat: Callable[[SplitRows], FlatLabels | None],
) -> Tree:
    """The set whose training split has class folders."""
    classes = tuple(sorted({label for label, _ in training.class_folders}))
    if not classes:
        raise DataError(f"{where}/{training.folder}: no class folders; sort its images into them")
    parts: dict[str, FilePart] = {}
    notes = list(layout.notes)
    for split in layout.splits:
        if not split.flat:
            parts[split.role or "train"] = _part(split, classes, listing, where, notes)
            continue
        if (part := labeled_part(split, flat(split), classes, listing, layout, notes)) is not None:
            parts[split.role or "train"] = part
    source = by_role(name, classes, parts, where)
    source = replace(
        source,
        left_out=left_out_of(layout, listing),
        notes=tuple(notes),
        warnings=tuple(layout.warnings),
    )
    return Tree(source, layout, parts)


def _part(
    split: SplitRows, classes: tuple[str, ...], listing: Listing, where: str, notes: list[str]
) -> FilePart:
    """The images of a split with class folders, labelled by them."""
    number = {name: label for label, name in enumerate(classes)}
    match = match_names([name for name, _ in split.class_folders], classes)
    filled = set(split.names)
    for folder, path in split.class_folders:
        known = match[folder]
        if folder not in filled:
            raise DataError(
                f"{where}/{path}: a class without images; add some or remove the folder"
                f"{listing.left_out.said()}"
            )
        if known is None:
            raise DataError(f"{where}/{path}: a class that the training split does not have")
        if known != folder:
            notes.append(f"{path}/ is taken for the class {known!r}")
    labels = np.array([number[str(match[name])] for name in split.names], np.int64)
    return FilePart(split.title, listing.files.take(np.array(split.rows, np.int64)), labels)


def _all_flat(
    layout: Layout,
    training: SplitRows,
    listing: Listing,
    name: str,
    where: str,
    flat: Callable[..., FlatLabels | None],
) -> Tree:
    """The set whose splits are images alone: labels and classes come from files beside them."""
    own = flat(training)
    assert own is not None
    own = replace(own, labels=imagenet_names(own.labels, [listing.paths[r] for r in training.rows]))
    if own.splits:
        return _by_column(layout, training, own, listing, name, where)
    classes = class_names(own.labels)
    parts: dict[str, FilePart] = {
        training.role or "train": numbered_part(training, own, classes, listing)
    }
    notes = [describe_labels(training, own)]
    for split in layout.splits:
        if split is training:
            continue
        if not split.flat:
            raise DataError(
                f"{where}: {split.title}/ has class folders, but {training.title}/ has none"
            )
        if any(isinstance(label, tuple) for label in own.labels):
            labels = flat(split, "multi")
        else:
            labels = flat(split)
        if (part := labeled_part(split, labels, classes, listing, layout, notes)) is not None:
            parts[split.role or "train"] = part
    source = by_role(name, classes, parts, where)
    left_out = left_out_of(layout, listing)
    notes = [*layout.notes, *notes]
    source = replace(source, left_out=left_out, notes=tuple(notes), warnings=tuple(layout.warnings))
    return Tree(source, layout, parts)


def _by_column(
    layout: Layout, every: SplitRows, own: FlatLabels, listing: Listing, name: str, where: str
) -> Tree:
    """The set of images alone whose table says which split each is in."""
    split_of = dict(zip(every.rows, own.splits, strict=True))
    label_of = dict(zip(every.rows, own.labels, strict=True))
    group_of = dict(zip(every.rows, own.groups or [""] * len(own.labels), strict=True))
    layout.left_out.update({row: UNNAMED for row, split in split_of.items() if not split})
    splits = [
        replace(every, role=role, title=role, rows=rows)
        for role in ROLES
        if (rows := [row for row in every.rows if split_of[row] == role])
    ]
    layout = replace(layout, splits=splits)
    classes = class_names(label_of[row] for row in _training(layout, where).rows)
    parts = {
        str(split.role): numbered_part(
            split,
            replace(
                own,
                labels=[label_of[row] for row in split.rows],
                groups=None if own.groups is None else [group_of[row] for row in split.rows],
            ),
            classes,
            listing,
            by_place=False,
        )
        for split in splits
    }
    source = by_role(name, classes, parts, where)
    left_out, notes = left_out_of(layout, listing), (*layout.notes, describe_labels(every, own))
    return Tree(replace(source, left_out=left_out, notes=notes), layout, parts)
