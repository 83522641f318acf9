"""Which label file of a YOLO set belongs to which image, and which belong to none."""

from __future__ import annotations

import posixpath
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from resnets.data.errors import DataError
from resnets.data.layout.folder_names import split_role
from resnets.detect.images.store import Store, is_text_path

NAME_FILES = ("classes.txt", "obj.names", "class.names", "classes.names", "_darknet.labels")
NOT_LABELS = frozenset({*NAME_FILES, "readme.txt", "train.txt", "val.txt", "valid.txt", "test.txt"})
_ROW = re.compile(r"\d+(?:\.0*)?(?:[ \t,]+-?[\d.]+(?:e-?\d+)?){4,}\s*", re.IGNORECASE)
_LABEL_FOLDERS = ("labels", "label")
_FOLDED = 0.5  # a name in another case is further away than the same in its own


def label_paths(image: str) -> Iterator[str]:
    """Where the label file of an image may lie, the most likely first."""
    stem = posixpath.splitext(image)[0]
    parts = stem.split("/")
    for place in range(len(parts) - 2, -1, -1):
        name = parts[place].lower()
        if name in ("images", "image", "imgs", "img", "jpegimages"):
            for folder in ("labels", "label", "Labels"):
                yield "/".join([*parts[:place], folder, *parts[place + 1 :]]) + ".txt"
    yield f"{stem}.txt"
    folder, name = posixpath.split(stem)
    yield (
        posixpath.join(posixpath.dirname(folder), "labels", posixpath.basename(folder), name)
        + ".txt"
    )
    yield posixpath.join(folder, "labels", f"{name}.txt")


@dataclass(frozen=True, eq=False)
class TextFiles:
    """The .txt files of a store, in whatever case their names are."""

    store: Store
    folded: Mapping[str, list[str]]

    @classmethod
    def of(cls, store: Store) -> TextFiles:
        """All of the store."""
        folded: dict[str, list[str]] = defaultdict(list)
        for path in sorted(store.rows):
            if path.lower().endswith(".txt"):
                folded[path.casefold()].append(path)
        return cls(store, folded)

    def of_image(self, image: str) -> dict[str, float]:
        """The label files that an image may have -> rank in the list, most likely first."""
        found: dict[str, float] = {}
        for rank, path in enumerate(label_paths(image)):
            if path in self.store:
                found.setdefault(path, rank)
            else:
                for other in self.folded.get(path.casefold(), ()):
                    found.setdefault(other, rank + _FOLDED)
        return found


@dataclass(frozen=True, eq=False)
class LabelFiles:
    """The label files of all image sets of a source.

    of: each image's own, None where it has none. shared: label file -> the images, two or more,
    that it may belong to. several: image -> label files that disagree. copies: images that are
    left out, equal to another with the same label file. orphans: by image set, label files whose
    image is not there. beside: by folder called like a split, how many label files lie there,
    none of which has an image.
    """

    of: Mapping[str, str | None]
    shared: Mapping[str, list[str]] = field(default_factory=dict)
    several: Mapping[str, list[str]] = field(default_factory=dict)
    copies: frozenset[str] = frozenset()
    orphans: Mapping[str, list[str]] = field(default_factory=dict)
    beside: Mapping[str, int] = field(default_factory=dict)


def match_labels(store: Store, parts: Mapping[str, Iterable[str]]) -> LabelFiles:
    """The label file of each image of `parts` (image set -> images).

    A label file is that of the image that it is the most likely place for; where that is more than
    one, of none of them, unless their bytes are equal.
    """
    files = TextFiles.of(store)
    may = {image: files.of_image(image) for images in parts.values() for image in images}
    claims: dict[str, list[str]] = defaultdict(list)
    for image, found in may.items():
        if found:
            claims[next(iter(found))].append(image)
    of: dict[str, str | None] = dict.fromkeys(may)
    shared: dict[str, list[str]] = {}
    copies: set[str] = set()
    for label, images in claims.items():
        nearest = min(may[image][label] for image in images)
        first, *others = (image for image in images if may[image][label] == nearest)
        of[first] = label
        if others and _alike(store, first, others):
            copies.update(others)
        elif others:
            shared[label] = [first, *others]
    several = {}
    for image, own in of.items():
        others = [each for each in may[image] if each != own and each not in claims]
        if own is not None and any(_disagree(store, own, each) for each in others):
            several[image] = [own, *others]
    orphans, beside = _orphans(store, files, parts, of)
    return LabelFiles(of, shared, several, frozenset(copies), orphans, beside)


def _alike(store: Store, first: str, others: Iterable[str]) -> bool:
    data = store.read(first)
    return all(store.read(other) == data for other in others)


def _disagree(store: Store, one: str, other: str) -> bool:
    """Whether another label file has objects, and not those of the first."""
    if not is_label_file(store, other):
        return False
    try:
        return _rows(store, one) != _rows(store, other)
    except DataError:
        return True


def _rows(store: Store, path: str) -> set[tuple[str, ...]]:
    return {tuple(line.replace(",", " ").split()) for line in store.lines(path)}


def _orphans(
    store: Store,
    files: TextFiles,
    parts: Mapping[str, Iterable[str]],
    of: Mapping[str, str | None],
) -> tuple[dict[str, list[str]], dict[str, int]]:
    """Label files below the folders of those that are read that no image of the store may have."""
    title_of = {
        posixpath.dirname(label): title
        for title, images in reversed(list(parts.items()))
        for image in images
        if (label := of.get(image)) is not None
    }
    roots = {root for folder in title_of if (root := _root(folder)) is not None}
    claimed = {
        label for path in store.rows if not is_text_path(path) for label in files.of_image(path)
    }
    orphans: dict[str, list[str]] = defaultdict(list)
    beside: dict[str, int] = defaultdict(int)
    for path in sorted(path for paths in files.folded.values() for path in paths):
        folder = posixpath.dirname(path)
        inside = folder in title_of or _root(folder) in roots
        if path in claimed or not inside or posixpath.basename(path).lower() in NOT_LABELS:
            continue
        if not is_label_file(store, path):
            continue
        around = _up_to_known(folder, title_of)
        if around is None and any(map(split_role, folder.split("/"))):
            beside[folder] += 1
        else:
            title = next(iter(parts)) if around is None else title_of[around]
            orphans[title].append(path)
    return orphans, beside


def _up_to_known(folder: str, known: Mapping[str, str]) -> str | None:
    """The nearest of `known` that a folder is or is in."""
    while folder not in known:
        if not folder:
            return None
        folder = posixpath.dirname(folder)
    return folder


def _root(folder: str) -> str | None:
    """The folder called labels/ that a folder is or is in, None where there is none."""
    parts = folder.split("/")
    place = next((n for n, part in enumerate(parts) if part.lower() in _LABEL_FOLDERS), None)
    return None if place is None else "/".join(parts[: place + 1])


def is_label_file(store: Store, path: str) -> bool:
    """Whether the first line of a text file is that of an object."""
    try:
        lines: Iterable[str] = store.lines(path)
    except DataError:
        return False
    return any(_ROW.fullmatch(line) for line in list(lines)[:1])
