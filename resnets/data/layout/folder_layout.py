"""Find the splits and classes in a folder of images; used by training and `data check`.

Case and enclosing single folders are ignored:

    cat/..., dog/...                          class folders, with any folders in them
    train/cat/..., val/cat/..., test/cat/...  also Training/, test_set/, seg_train/seg_train/, ...
    cat/train/..., cat/test/..., dog/...      splits within each class
    train/ and test/ of images alone          their labels are in a file next to them

Ambiguous layouts are refused with the names of the folders: folders of images and of masks, folds,
split folders next to class folders, folders that each contain the same class folders.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain

from resnets.data.errors import DataError
from resnets.data.layout.ambiguous_folders import (
    class_name_warnings,
    explain_not_classes,
    format_folders,
)
from resnets.data.layout.class_spelling import class_key, clean_name
from resnets.data.layout.folder_names import (
    GENERIC,
    Role,
    find_folder_roles,
    folder_role,
    is_mask_folder,
    name_words,
)

USE_AS_CLASSES = "use every folder as a class with --set data.labels_from=folder"

NO_CLASS_FOLDER = "image in no class folder"
MASKS = "mask, map or copy of an image"
NO_LABELS = "unlabelled image"
REPEATED = "image in a folder that repeats its parent"


@dataclass(frozen=True)
class SplitRows:
    """The images of one split.

    role: None for a set without splits. title: the name of its folder. folder: path of the parent
    of its class folders, ending in "/", or "". rows: sorted indices into the listing. names: the
    class of each image, empty if the split is `flat`, a folder of images alone. class_folders: name
    and path of each class folder, including empty ones.
    """

    role: Role | None
    title: str
    folder: str
    rows: Sequence[int]
    names: Sequence[str] = ()
    class_folders: Sequence[tuple[str, str]] = ()
    flat: bool = False


@dataclass(frozen=True)
class Layout:
    """The splits of a data set, and the rows that are in none of them, each with the reason.

    warnings: one line for each uncertain interpretation.
    """

    splits: Sequence[SplitRows]
    skipped: dict[int, str] = field(default_factory=dict)
    notes: Sequence[str] = ()
    warnings: Sequence[str] = ()


@dataclass(eq=False)
class _Folder:
    """A folder: rows of its own images, its subfolders, and the number of all images in it."""

    name: str
    path: str
    rows: list[int] = field(default_factory=list)
    folders: dict[str, _Folder] = field(default_factory=dict)
    count: int = 0

    @property
    def non_empty(self) -> list[_Folder]:
        """Its subfolders with images."""
        return [each for each in self.folders.values() if each.count]

    @property
    def prefix(self) -> str:
        """The beginning of the paths in it."""
        return f"{self.path}/" if self.path else ""

    def iter_rows(self) -> Iterator[int]:
        """Iterate over all rows in the folder and its subfolders."""
        return chain(self.rows, *(each.iter_rows() for each in self.folders.values()))


def read_layout(
    paths: Sequence[str], folders: Sequence[str], where: str, labels_from: str = "auto"
) -> Layout:
    """Return the layout of the sorted image `paths` and of all `folders`.

    labels_from: "auto"; "folder" uses every folder as a class, regardless of its name; "name" uses
    the text before the number in file names. Raises DataError if the layout is ambiguous.
    """
    top = _find_top(_build_tree(paths, folders))
    if labels_from == "folder":
        return _make_layout([_read_classes(top, None, "", as_written=True)], paths)
    roles = find_folder_roles([each.name for each in top.non_empty])
    inner = {each.name: _find_class_parent(each) for each in top.non_empty if each.name in roles}
    if not top.non_empty:
        return Layout([SplitRows(None, "", top.prefix, sorted(top.rows), flat=True)])
    if not roles:
        _check_classes(top, where)
        if (by_class := _read_splits_in_classes(top, where)) is not None:
            return _make_layout(by_class[0], paths, by_class[1])
        repeated, notes = _remove_repeats(top, where, paths)
        return _make_layout([_read_classes(top, None, "")], paths, repeated, notes)
    others = [each.name for each in top.non_empty if each.name not in roles]
    labeled = [name for name, folder in inner.items() if folder.non_empty]
    if not labeled and others and len(set(roles.values())) == 1:
        return _read_class_named_train(top, next(iter(roles)), roles, where, paths)
    if others:
        split = min(roles, key=lambda name: (roles[name] != "train", name))
        raise DataError(
            f"{where}: {top.prefix}{others[0]}/ is next to {split}/, which has the name of a"
            f" split; only training, validation and test folders may be there; move it away, or"
            f" {USE_AS_CLASSES}"
        )
    return _read_splits(top, roles, inner, where, paths)


def _build_tree(paths: Sequence[str], folders: Sequence[str]) -> _Folder:
    root = _Folder("", "")
    known = {"": root}

    def find(path: str) -> _Folder:
        if path not in known:
            parent, _, name = path.rpartition("/")
            known[path] = find(parent).folders.setdefault(name, _Folder(name, path))
        return known[path]

    for path in sorted(folders):
        find(path)
    for row, path in enumerate(paths):
        find(path.rpartition("/")[0]).rows.append(row)
    for path in sorted(known, key=lambda each: -each.count("/") - bool(each)):
        folder = known[path]
        folder.count = len(folder.rows) + sum(each.count for each in folder.folders.values())
    return root


def _find_top(folder: _Folder) -> _Folder:
    """Return the parent of the class or split folders, below folders without siblings."""
    while len(folder.non_empty) == 1:
        (only,) = folder.non_empty
        nested = sum(each.count for each in only.non_empty)
        if folder_role(only.name) or not only.non_empty or len(only.rows) >= max(nested, 1):
            break
        folder = only
    return folder


def _find_class_parent(split: _Folder) -> _Folder:
    """Return the parent of a split's class folders: seg_train/seg_train/, train/images/."""
    while len(split.non_empty) == 1 and not split.rows:
        (only,) = split.non_empty
        is_same_name = (
            class_key(only.name) == class_key(split.name) or folder_role(only.name) is not None
        )
        if not is_same_name and not set(name_words(only.name)) <= GENERIC:
            break
        split = only
    return split


def _read_splits(
    top: _Folder,
    roles: dict[str, Role],
    inner: dict[str, _Folder],
    where: str,
    paths: Sequence[str],
) -> Layout:
    """Read split folders, with or without class folders in them."""
    chosen: dict[Role, str] = {}
    skipped: dict[int, str] = {}
    notes = []
    for name in sorted(roles, key=lambda name: (not inner[name].non_empty, name)):
        role = "train" if roles[name] == "trainval" else roles[name]
        if role not in chosen:
            chosen[role] = name
        elif inner[name].non_empty or role != "test":
            raise DataError(
                f"{where}: {top.prefix}{chosen[role]}/ and {name}/ both have the name of the {role}"
                " split; keep one, or put all images into one"
            )
        else:
            skipped.update(dict.fromkeys(inner[name].iter_rows(), NO_LABELS))
    splits = []
    for role, name in chosen.items():
        split_folder = inner[name]
        if split_folder.non_empty:
            splits.append(_read_classes(split_folder, role, name))
        else:
            rows = sorted(split_folder.iter_rows())
            splits.append(SplitRows(role, name, split_folder.prefix, rows, flat=True))
    train_classes = {name for each in splits if each.role == "train" for name in each.names}
    for each in splits:
        if (
            each.role != "train"
            and train_classes
            and not each.flat
            and not train_classes & set(each.names)
        ):
            notes.append(f"{each.title}/ has none of the classes of the training split")
    layout = _make_layout(splits, paths, skipped, notes)
    empty = find_folder_roles([each.name for each in top.folders.values() if not each.count])
    absent = [f"{top.prefix}{name}/" for name, role in empty.items() if role not in chosen]
    warnings = [f"{path} has the name of a split, but no images" for path in absent]
    return replace(layout, warnings=(*layout.warnings, *warnings))


def _read_class_named_train(
    top: _Folder, name: str, roles: dict[str, Role], where: str, paths: Sequence[str]
) -> Layout:
    """Read class folders of which one has the name of a split: "train" may be a vehicle."""
    if roles[name] != "train":
        others = [each.name for each in top.non_empty if each.name not in roles]
        raise DataError(
            f"{where}: {top.prefix}{name}/ has the name of a split, but is next to the folders"
            f" {format_folders(others)}; move those into train/, or {USE_AS_CLASSES}"
        )
    note = f"{name}/ has no class folders and is next to others: used as a class"
    return _make_layout([_read_classes(top, None, "")], paths, notes=[note])


def _read_classes(
    folder: _Folder, role: Role | None, title: str, *, as_written: bool = False
) -> SplitRows:
    """Return the images of a split by the class folders in `folder`."""
    named = [
        (each.name if as_written else clean_name(each.name), each)
        for each in folder.folders.values()
    ]
    pairs = sorted((row, name) for name, each in named for row in each.iter_rows())
    return SplitRows(
        role,
        title,
        folder.prefix,
        [row for row, _ in pairs],
        [name for _, name in pairs],
        sorted((name, each.path) for name, each in named),
    )


def _read_splits_in_classes(
    top: _Folder, where: str
) -> tuple[list[SplitRows], dict[int, str]] | None:
    """Read cat/train/..., cat/test/..., the same for all classes; return splits and rows of masks.

    Returns None for another layout.
    """
    roles_of_class = {
        each.name: find_folder_roles([subfolder.name for subfolder in each.non_empty])
        for each in top.non_empty
    }
    with_splits = [name for name, roles in roles_of_class.items() if len(set(roles.values())) > 1]
    if not with_splits:
        return None
    for each in top.non_empty:
        others = [
            subfolder.name
            for subfolder in each.non_empty
            if subfolder.name not in roles_of_class[each.name]
            and not is_mask_folder(subfolder.name)
        ]
        if others or each.rows or not roles_of_class[each.name]:
            problem = f"contains {others[0]}/ too" if others else "does not, or other images too"
            raise DataError(
                f"{where}: {top.prefix}{with_splits[0]}/ contains split folders, {each.name}/"
                f" {problem}; give every class split folders and nothing else, or {USE_AS_CLASSES}"
            )
    masks = [
        row
        for each in top.non_empty
        for subfolder in each.non_empty
        if subfolder.name not in roles_of_class[each.name]
        for row in subfolder.iter_rows()
    ]
    found: dict[Role, list[tuple[int, str]]] = {}
    for name, roles in roles_of_class.items():
        for subfolder, role in roles.items():
            rows = top.folders[name].folders[subfolder].iter_rows()
            found.setdefault(role, []).extend((row, clean_name(name)) for row in rows)
    classes = sorted((clean_name(each.name), each.path) for each in top.non_empty)
    splits = [
        SplitRows(
            role,
            f"*/{role}",
            top.prefix,
            [row for row, _ in sorted(pairs)],
            [name for _, name in sorted(pairs)],
            [(name, path) for name, path in classes if name in {name for _, name in pairs}],
        )
        for role, pairs in sorted(found.items())
    ]
    return splits, dict.fromkeys(masks, MASKS)


def _remove_repeats(
    top: _Folder, where: str, paths: Sequence[str]
) -> tuple[dict[int, str], list[str]]:
    """Remove a folder from `top` that repeats the class folders next to it.

    Returns its rows and notes.

    cell_images/cat/, cell_images/dog/ and cell_images/cell_images/cat/ ... result from an archive
    that was packed with its own folder. Raises DataError if the files in it are different.
    """
    skipped: dict[int, str] = {}
    notes = []
    known = set(paths)
    for folder in list(top.non_empty):
        sibling_keys = {class_key(each.name) for each in top.non_empty if each is not folder}
        keys = {class_key(each.name) for each in folder.non_empty}
        if len(keys) < 2 or folder.rows or not keys <= sibling_keys:
            continue
        rows = sorted(folder.iter_rows())
        start = len(folder.prefix)
        other = [row for row in rows if f"{top.prefix}{paths[row][start:]}" not in known]
        if other:
            raise DataError(
                f"{where}: {folder.path}/ contains folders named like the classes next to it, with"
                f" other images ({paths[other[0]]} and {len(other) - 1:,} more): put the images of"
                f" each class together, or move it away, or {USE_AS_CLASSES}"
            )
        del top.folders[folder.name]
        skipped.update(dict.fromkeys(rows, REPEATED))
        notes.append(
            f"{folder.path}/ repeats the class folders next to it, file by file: {len(rows):,}"
            " images skipped"
        )
    return skipped, notes


def _check_classes(top: _Folder, where: str) -> None:
    """Raise DataError if class folders are probably not classes."""
    num_below = {
        each.name: {sub.name: sub.count for sub in each.non_empty} for each in top.non_empty
    }
    num_images = {each.name: len(each.rows) for each in top.non_empty}
    if reason := explain_not_classes(num_images, num_below):
        raise DataError(f"{where}: {reason}, or {USE_AS_CLASSES}")


def _make_layout(
    splits: Sequence[SplitRows],
    paths: Sequence[str],
    skipped: dict[int, str] | None = None,
    notes: Sequence[str] = (),
) -> Layout:
    """Return the layout without masks in class folders; images in no split get a reason."""
    masks: set[int] = set()
    cleaned = []
    for split in splits:
        split_masks = set(_iter_masks(split, paths))
        masks |= split_masks
        if split.flat or not split_masks:
            cleaned.append(split)
            continue
        pairs = [
            pair for pair in zip(split.rows, split.names, strict=True) if pair[0] not in split_masks
        ]
        rows, names = [row for row, _ in pairs], [name for _, name in pairs]
        cleaned.append(replace(split, rows=rows, names=names))
    all_skipped = dict(skipped or {}) | dict.fromkeys(masks, MASKS)
    used = set(chain.from_iterable(split.rows for split in cleaned)) | all_skipped.keys()
    all_skipped.update({row: NO_CLASS_FOLDER for row in range(len(paths)) if row not in used})
    classes = {name for split in cleaned for name, _ in split.class_folders}
    return Layout(cleaned, all_skipped, tuple(notes), class_name_warnings(sorted(classes)))


def _iter_masks(split: SplitRows, paths: Sequence[str]) -> Iterator[int]:
    """Yield rows in mask folders within class folders next to images: COVID/masks, COVID/images."""
    start = len(split.folder)
    masks: dict[str, list[int]] = {}
    with_images: set[str] = set()
    for row, name in zip(split.rows, split.names, strict=False):
        folders = paths[row][start:].split("/")[1:-1]
        if any(map(is_mask_folder, folders)):
            masks.setdefault(name, []).append(row)
        else:
            with_images.add(name)
    for name, rows in masks.items():
        if name in with_images:
            yield from rows
