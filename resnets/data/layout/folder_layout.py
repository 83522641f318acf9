"""Where a folder of images keeps its splits and classes; training and `data check` both ask here.

Read without regard to case, under any number of single folders:

    cat/..., dog/...                          class folders, nested below at will
    train/cat/..., val/cat/..., test/cat/...  and Training/, test_set/, seg_train/seg_train/, ...
    cat/train/..., cat/test/..., dog/...      splits within each class
    train/ and test/ of images alone          their labels are in a file beside them

What may mean two things is refused by name: folders of images and of masks side by side, folds,
split folders beside class folders, folders that each hold the same class folders.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain

from resnets.data.errors import DataError
from resnets.data.layout.ambiguous import folders_listed, odd_classes, why_no_classes
from resnets.data.layout.class_spelling import class_key, clean_name
from resnets.data.layout.folder_names import (
    GENERIC,
    Role,
    folder_role,
    folder_roles,
    is_mask_folder,
    name_words,
)

AS_CLASSES = "take every folder as a class by --set data.labels_from=folder"

STRAY = "image in no class folder"
MASKS = "mask, map or copy of an image"
NO_LABELS = "unlabelled image"
REPEATED = "image in a folder that repeats its parent"


@dataclass(frozen=True)
class SplitRows:
    """The images of one split.

    role: "" for a set without splits. title: what its folder is called. folder: path of what holds
    its class folders, ending in "/", or "". rows: places in the listing, sorted; names: the class
    of each, none where the split is `flat`, a folder of images alone. class_folders: name of each
    class folder, empty ones too, with its path.
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
    """The splits of a set, and rows that are in none of them, each with the reason.

    warnings: where what was understood may be wrong, a line each.
    """

    splits: Sequence[SplitRows]
    left_out: dict[int, str] = field(default_factory=dict)
    notes: Sequence[str] = ()
    warnings: Sequence[str] = ()


@dataclass(eq=False)
class _Folder:
    """A folder: its own images by row, its folders, and how many images are below it."""

    name: str
    path: str
    rows: list[int] = field(default_factory=list)
    folders: dict[str, _Folder] = field(default_factory=dict)
    count: int = 0

    @property
    def filled(self) -> list[_Folder]:
        """Its folders that have images in or below them."""
        return [each for each in self.folders.values() if each.count]

    @property
    def prefix(self) -> str:
        """How paths below it start."""
        return f"{self.path}/" if self.path else ""

    def below(self) -> Iterator[int]:
        """All rows in and below it."""
        return chain(self.rows, *(each.below() for each in self.folders.values()))


def read_layout(
    paths: Sequence[str], folders: Sequence[str], where: str, labels_from: str = "auto"
) -> Layout:
    """The layout of images `paths`, sorted, and of all `folders`. DataError: none that is clear.

    labels_from: "auto"; "folder" takes every folder as a class, whatever it is called; "name" takes
    what comes before the number of a file's name.
    """
    top = _top(_grow(paths, folders))
    if labels_from == "folder":
        return _finish([_classes_in(top, None, "", as_written=True)], top, paths)
    roles = folder_roles([each.name for each in top.filled])
    inner = {each.name: _inside(each) for each in top.filled if each.name in roles}
    if not top.filled:
        return Layout([SplitRows(None, "", top.prefix, sorted(top.rows), flat=True)])
    if not roles:
        _refuse_odd(top, where)
        if (by_class := _splits_in_classes(top, where)) is not None:
            return _finish(by_class[0], top, paths, by_class[1])
        repeated, notes = _leave_out_repeats(top, where, paths)
        return _finish([_classes_in(top, None, "")], top, paths, repeated, notes)
    others = [each.name for each in top.filled if each.name not in roles]
    labeled = [name for name, folder in inner.items() if folder.filled]
    if not labeled and others and len(set(roles.values())) == 1:
        return _one_like_a_split(top, next(iter(roles)), roles, where, paths)
    if others:
        split = min(roles, key=lambda name: (roles[name] != "train", name))
        raise DataError(
            f"{where}: {top.prefix}{others[0]}/ beside {split}/, which is called like a"
            f" split; only training, validation and test folders have a place there; move it away,"
            f" or {AS_CLASSES}"
        )
    return _splits(top, roles, inner, where, paths)


def _grow(paths: Sequence[str], folders: Sequence[str]) -> _Folder:
    root = _Folder("", "")
    known = {"": root}

    def find(path: str) -> _Folder:
        if path not in known:
            above, _, name = path.rpartition("/")
            known[path] = find(above).folders.setdefault(name, _Folder(name, path))
        return known[path]

    for path in sorted(folders):
        find(path)
    for row, path in enumerate(paths):
        find(path.rpartition("/")[0]).rows.append(row)
    for path in sorted(known, key=lambda each: -each.count("/") - bool(each)):
        folder = known[path]
        folder.count = len(folder.rows) + sum(each.count for each in folder.folders.values())
    return root


def _top(folder: _Folder) -> _Folder:
    """The folder that holds the class or split folders, under folders that are there alone."""
    while len(folder.filled) == 1:
        (only,) = folder.filled
        nested = sum(each.count for each in only.filled)
        if folder_role(only.name) or not only.filled or len(only.rows) >= max(nested, 1):
            break
        folder = only
    return folder


def _inside(split: _Folder) -> _Folder:
    """The folder that holds a split's class folders: seg_train/seg_train/, train/images/."""
    while len(split.filled) == 1 and not split.rows:
        (only,) = split.filled
        alike = class_key(only.name) == class_key(split.name) or folder_role(only.name) is not None
        if not alike and not set(name_words(only.name)) <= GENERIC:
            break
        split = only
    return split


def _splits(
    top: _Folder,
    roles: dict[str, Role],
    inner: dict[str, _Folder],
    where: str,
    paths: Sequence[str],
) -> Layout:
    """Split folders, with class folders in them or without."""
    chosen: dict[Role, str] = {}
    left_out: dict[int, str] = {}
    notes = []
    for name in sorted(roles, key=lambda name: (not inner[name].filled, name)):
        role = "train" if roles[name] == "trainval" else roles[name]
        if role not in chosen:
            chosen[role] = name
        elif inner[name].filled or role != "test":
            raise DataError(
                f"{where}: {top.prefix}{chosen[role]}/ and {name}/ are both called like the {role}"
                " split; keep one, or put all images into one"
            )
        else:
            left_out.update(dict.fromkeys(inner[name].below(), NO_LABELS))
    found = []
    for role, name in chosen.items():
        inside = inner[name]
        if inside.filled:
            found.append(_classes_in(inside, role, name))
        else:
            rows = sorted(inside.below())
            found.append(SplitRows(role, name, inside.prefix, rows, flat=True))
    known = {name for each in found if each.role == "train" for name in each.names}
    for each in found:
        if each.role != "train" and known and not each.flat and not known & set(each.names):
            notes.append(f"{each.title}/ has none of the classes of the training split")
    return _finish(found, top, paths, left_out, notes)


def _one_like_a_split(
    top: _Folder, name: str, roles: dict[str, Role], where: str, paths: Sequence[str]
) -> Layout:
    """Class folders of which one is called like a split: a train may be a vehicle."""
    if roles[name] != "train":
        others = [each.name for each in top.filled if each.name not in roles]
        raise DataError(
            f"{where}: {top.prefix}{name}/ is called like a split, but lies beside the folders"
            f" {folders_listed(others)}; move those into train/, or {AS_CLASSES}"
        )
    note = f"{name}/ has no class folders and lies beside others: taken as a class"
    return _finish([_classes_in(top, None, "")], top, paths, notes=[note])


def _classes_in(
    folder: _Folder, role: Role | None, title: str, *, as_written: bool = False
) -> SplitRows:
    """The images of a split by the class folders in `folder`."""
    named = [
        (each.name if as_written else clean_name(each.name), each)
        for each in folder.folders.values()
    ]
    pairs = sorted((row, name) for name, each in named for row in each.below())
    return SplitRows(
        role,
        title,
        folder.prefix,
        [row for row, _ in pairs],
        [name for _, name in pairs],
        sorted((name, each.path) for name, each in named),
    )


def _splits_in_classes(top: _Folder, where: str) -> tuple[list[SplitRows], dict[int, str]] | None:
    """cat/train/..., cat/test/..., the same for all classes, and rows of masks beside them; None
    for another layout."""
    inside = {each.name: folder_roles([below.name for below in each.filled]) for each in top.filled}
    with_splits = [name for name, roles in inside.items() if len(set(roles.values())) > 1]
    if not with_splits:
        return None
    for each in top.filled:
        others = [
            below.name
            for below in each.filled
            if below.name not in inside[each.name] and not is_mask_folder(below.name)
        ]
        if others or each.rows or not inside[each.name]:
            said = f"holds {others[0]}/ too" if others else "does not, or other images too"
            raise DataError(
                f"{where}: {top.prefix}{with_splits[0]}/ holds split folders, {each.name}/ {said};"
                f" give every class split folders and nothing else, or {AS_CLASSES}"
            )
    masks = [
        row
        for each in top.filled
        for below in each.filled
        if below.name not in inside[each.name]
        for row in below.below()
    ]
    found: dict[Role, list[tuple[int, str]]] = {}
    for name, roles in inside.items():
        for below, role in roles.items():
            rows = top.folders[name].folders[below].below()
            found.setdefault(role, []).extend((row, clean_name(name)) for row in rows)
    classes = sorted((clean_name(each.name), each.path) for each in top.filled)
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


def _leave_out_repeats(
    top: _Folder, where: str, paths: Sequence[str]
) -> tuple[dict[int, str], list[str]]:
    """Take a folder out of `top` that holds the class folders beside it once more; its rows, notes.

    cell_images/cat/, cell_images/dog/ and cell_images/cell_images/cat/ ..., as an archive that was
    packed with its own folder gives. DataError where the files below are others.
    """
    left_out: dict[int, str] = {}
    notes = []
    known = set(paths)
    for folder in list(top.filled):
        beside = {class_key(each.name) for each in top.filled if each is not folder}
        inside = {class_key(each.name) for each in folder.filled}
        if len(inside) < 2 or folder.rows or not inside <= beside:
            continue
        rows = sorted(folder.below())
        start = len(folder.prefix)
        other = [row for row in rows if f"{top.prefix}{paths[row][start:]}" not in known]
        if other:
            raise DataError(
                f"{where}: {folder.path}/ holds folders called like the classes beside it, with"
                f" other images ({paths[other[0]]} and {len(other) - 1:,} more): put the images of"
                f" each class together, or move it away, or {AS_CLASSES}"
            )
        del top.folders[folder.name]
        left_out.update(dict.fromkeys(rows, REPEATED))
        notes.append(
            f"{folder.path}/ repeats the class folders beside it, file by file: {len(rows):,}"
            " images left out"
        )
    return left_out, notes


def _refuse_odd(top: _Folder, where: str) -> None:
    """DataError where class folders are probably none."""
    below = {each.name: {sub.name: sub.count for sub in each.filled} for each in top.filled}
    own = {each.name: len(each.rows) for each in top.filled}
    if why := why_no_classes(own, below):
        raise DataError(f"{where}: {why}, or {AS_CLASSES}")


def _finish(
    splits: Sequence[SplitRows],
    top: _Folder,
    paths: Sequence[str],
    left_out: dict[int, str] | None = None,
    notes: Sequence[str] = (),
) -> Layout:
    """The layout without masks that lie below class folders; what is in no split is a stray."""
    masks: set[int] = set()
    kept = []
    for split in splits:
        here = set(_masks_below(split, paths))
        masks |= here
        if split.flat or not here:
            kept.append(split)
            continue
        pairs = [pair for pair in zip(split.rows, split.names, strict=True) if pair[0] not in here]
        rows, names = [row for row, _ in pairs], [name for _, name in pairs]
        kept.append(replace(split, rows=rows, names=names))
    out = dict(left_out or {}) | dict.fromkeys(masks, MASKS)
    used = set(chain.from_iterable(split.rows for split in kept)) | out.keys()
    out.update({row: STRAY for row in range(len(paths)) if row not in used})
    classes = {name for split in kept for name, _ in split.class_folders}
    return Layout(kept, out, tuple(notes), odd_classes(sorted(classes)))


def _masks_below(split: SplitRows, paths: Sequence[str]) -> Iterator[int]:
    """Rows of folders of masks within class folders, beside others: COVID/masks, COVID/images."""
    start = len(split.folder)
    found: dict[str, list[int]] = {}
    other: set[str] = set()
    for row, name in zip(split.rows, split.names, strict=False):
        folders = paths[row][start:].split("/")[1:-1]
        if any(map(is_mask_folder, folders)):
            found.setdefault(name, []).append(row)
        else:
            other.add(name)
    for name, rows in found.items():
        if name in other:
            yield from rows
