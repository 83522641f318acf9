"""Which label file of a YOLO set belongs to which image, and which to none."""

from __future__ import annotations

import posixpath
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from resnets.data.errors import DataError
from resnets.data.layout.folder_names import split_role
from resnets.detect.images.store import Store

NAME_FILES = ("classes.txt", "obj.names", "class.names", "classes.names", "_darknet.labels")
NOT_LABELS = frozenset({*NAME_FILES, "readme.txt", "train.txt", "val.txt", "valid.txt", "test.txt"})
_ROW = re.compile(r"\d+(?:\.0*)?(?:[ \t,]+-?[\d.]+(?:e-?\d+)?){4,}\s*", re.IGNORECASE)
_LABEL_FOLDERS = ("labels", "label")
CASE_PENALTY = 0.5  # added to the rank of a name in another case


def label_paths(image: str) -> Iterator[str]:
    """Yield the possible paths of an image's label file, the most likely first."""
    stem = posixpath.splitext(image)[0]
    parts = stem.split("/")
    for index in range(len(parts) - 2, -1, -1):
        name = parts[index].lower()
        if name in ("images", "image", "imgs", "img", "jpegimages"):
            for folder in ("labels", "label", "Labels"):
                yield "/".join([*parts[:index], folder, *parts[index + 1 :]]) + ".txt"
    yield f"{stem}.txt"
    folder, name = posixpath.split(stem)
    yield (
        posixpath.join(posixpath.dirname(folder), "labels", posixpath.basename(folder), name)
        + ".txt"
    )
    yield posixpath.join(folder, "labels", f"{name}.txt")


@dataclass(frozen=True, eq=False)
class TextFiles:
    """The .txt files of a store, found regardless of case."""

    store: Store
    by_folded_path: Mapping[str, list[str]]

    @classmethod
    def of(cls, store: Store) -> TextFiles:
        """Index all text files of the store."""
        folded: dict[str, list[str]] = defaultdict(list)
        for path in sorted(store.rows):
            if path.lower().endswith(".txt"):
                folded[path.casefold()].append(path)
        return cls(store, folded)

    def candidates(self, image: str) -> dict[str, float]:
        """Return the possible label files of an image with their rank, most likely first."""
        found: dict[str, float] = {}
        for rank, path in enumerate(label_paths(image)):
            if path in self.store:
                found.setdefault(path, rank)
            else:
                for other in self.by_folded_path.get(path.casefold(), ()):
                    found.setdefault(other, rank + CASE_PENALTY)
        return found


@dataclass(frozen=True, eq=False)
class LabelFiles:
    """The label files of all image sets of a source.

    by_image: label file of each image, None without one. shared: label file -> the images, two or
    more, that it may belong to. conflicting: image -> label files that disagree. copies: images
    that are excluded, since they equal another with the same label file. orphans: by image set,
    label files whose image is missing. unpaired_folders: folder named like a split -> number of
    label files in it, if none has an image.
    """

    by_image: Mapping[str, str | None]
    shared: Mapping[str, list[str]] = field(default_factory=dict)
    conflicting: Mapping[str, list[str]] = field(default_factory=dict)
    copies: frozenset[str] = frozenset()
    orphans: Mapping[str, list[str]] = field(default_factory=dict)
    unpaired_folders: Mapping[str, int] = field(default_factory=dict)


def match_labels(store: Store, parts: Mapping[str, Iterable[str]]) -> LabelFiles:
    """Match the images of `parts` (image set -> images) with their label files.

    A label file belongs to the image for which it is the most likely path. If there are several, it
    belongs to none, unless their bytes are equal.
    """
    files = TextFiles.of(store)
    candidates = {image: files.candidates(image) for images in parts.values() for image in images}
    claims: dict[str, list[str]] = defaultdict(list)
    for image, labels in candidates.items():
        if labels:
            claims[next(iter(labels))].append(image)
    by_image: dict[str, str | None] = dict.fromkeys(candidates)
    shared: dict[str, list[str]] = {}
    copies: set[str] = set()
    for label, images in claims.items():
        best_rank = min(candidates[image][label] for image in images)
        first, *others = (image for image in images if candidates[image][label] == best_rank)
        by_image[first] = label
        if others and _are_copies(store, first, others):
            copies.update(others)
        elif others:
            shared[label] = [first, *others]
    conflicting = {}
    for image, own in by_image.items():
        others = [each for each in candidates[image] if each != own and each not in claims]
        if own is not None and any(_have_different_objects(store, own, each) for each in others):
            conflicting[image] = [own, *others]
    orphans, unpaired_folders = _find_orphans(store, files, parts, by_image)
    return LabelFiles(by_image, shared, conflicting, frozenset(copies), orphans, unpaired_folders)


def _are_copies(store: Store, first: str, others: Iterable[str]) -> bool:
    data = store.read(first)
    return all(store.read(other) == data for other in others)


def _have_different_objects(store: Store, path: str, other: str) -> bool:
    """Return whether another label file has objects, and not those of the first."""
    if not is_label_file(store, other):
        return False
    try:
        return _read_rows(store, path) != _read_rows(store, other)
    except DataError:
        return True


def _read_rows(store: Store, path: str) -> set[tuple[str, ...]]:
    return {tuple(line.replace(",", " ").split()) for line in store.read_lines(path)}


def _find_orphans(
    store: Store,
    files: TextFiles,
    parts: Mapping[str, Iterable[str]],
    by_image: Mapping[str, str | None],
) -> tuple[dict[str, list[str]], dict[str, int]]:
    """Find label files in the folders that are read which cannot belong to any image."""
    title_of = {
        posixpath.dirname(label): title
        for title, images in reversed(list(parts.items()))
        for image in images
        if (label := by_image.get(image)) is not None
    }
    roots = {root for folder in title_of if (root := _labels_root(folder)) is not None}
    candidates = {label for path in store.image_paths for label in files.candidates(path)}
    orphans: dict[str, list[str]] = defaultdict(list)
    unpaired_folders: dict[str, int] = defaultdict(int)
    for path in sorted(path for paths in files.by_folded_path.values() for path in paths):
        folder = posixpath.dirname(path)
        is_label_folder = folder in title_of or _labels_root(folder) in roots
        if (
            path in candidates
            or not is_label_folder
            or posixpath.basename(path).lower() in NOT_LABELS
        ):
            continue
        if not is_label_file(store, path):
            continue
        known_parent = _nearest_known_parent(folder, title_of)
        if known_parent is None and any(map(split_role, folder.split("/"))):
            unpaired_folders[folder] += 1
        else:
            title = next(iter(parts)) if known_parent is None else title_of[known_parent]
            orphans[title].append(path)
    return orphans, unpaired_folders


def _nearest_known_parent(folder: str, known: Mapping[str, str]) -> str | None:
    """Return the folder itself or its nearest parent that is in `known`, or None."""
    while folder not in known:
        if not folder:
            return None
        folder = posixpath.dirname(folder)
    return folder


def _labels_root(folder: str) -> str | None:
    """Return the folder called labels/ that is, or contains, `folder`, or None."""
    parts = folder.split("/")
    index = next((n for n, part in enumerate(parts) if part.lower() in _LABEL_FOLDERS), None)
    return None if index is None else "/".join(parts[: index + 1])


def is_label_file(store: Store, path: str) -> bool:
    """Return whether the first line of a text file describes an object."""
    try:
        lines: Iterable[str] = store.read_lines(path)
    except DataError:
        return False
    return any(_ROW.fullmatch(line) for line in list(lines)[:1])
