"""YOLO's text files: a line for each object, its numbers shares of the image's sides.

`class x y width height`, or `class x1 y1 x2 y2 x3 y3 ...` for outlines. Sets are stated by a YAML
file (`path`, `train`, `val`, `test`, `names`, `nc`), or by darknet's obj.data; without either,
folders labels/ beside images/ (either around the other) with classes.txt or obj.names.
"""

from __future__ import annotations

import math
import posixpath
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import PurePosixPath
from typing import Any

import numpy as np

from resnets.data.errors import DataError
from resnets.data.split_names import Role, split_role
from resnets.detect.documents import decode_text
from resnets.detect.image_index import ImageIndex, Stated, image_folder
from resnets.detect.image_sizes import StoredSize, read_sizes
from resnets.detect.records import Flaw, Problem, RawObject, RawPart, RawPicture, RawSource
from resnets.detect.shapes import area_of, box_around, flat
from resnets.detect.store import Store, has_image_suffix, is_text_path
from resnets.detect.values import NAN, Box, read_name, read_number
from resnets.detect.yaml_text import load_yaml

ROLES: Mapping[str, Role] = {"train": "train", "val": "val", "valid": "val", "test": "test"}
KNOWN = frozenset({*ROLES, "path", "names", "nc", "kpt_shape", "flip_idx"})
FOR_PEOPLE = frozenset({"download", "roboflow", "minival", "license", "author", "date", "version"})
NAME_FILES = ("classes.txt", "obj.names", "class.names", "classes.names", "_darknet.labels")
NOT_LABELS = frozenset({*NAME_FILES, "readme.txt", "train.txt", "val.txt", "valid.txt", "test.txt"})
PROBED = 20
FAR_OUTSIDE = 2.0  # a number from which on shares cannot be meant
MAX_CLASS = 100_000
_ROW = re.compile(r"\d+(?:\.0*)?(?:[ \t,]+-?[\d.]+(?:e-?\d+)?){4,}\s*", re.IGNORECASE)


@dataclass(frozen=True, eq=False)
class Layout:
    """A set's images by title, the names of its classes by number, and what was understood.

    points: numbers of key points that follow each box (`kpt_shape`), which are not read.
    """

    images: dict[str, list[str]]
    names: dict[int, str]
    notes: tuple[str, ...] = ()
    points: int = 0


@dataclass(frozen=True, eq=False)
class Stating:
    """The file that states a set, "" where there is none."""

    path: str


def find_yolo(store: Store) -> Stating | None:
    """The YAML or obj.data file of a YOLO set, or that there are label files; None for neither."""
    for path in sorted(store.rows, key=lambda each: (each.count("/"), each)):
        suffix = posixpath.splitext(path)[1].lower()
        if suffix in (".yaml", ".yml") and _states_yolo(store, path):
            return Stating(path)
        if suffix == ".data" and b"names" in store.read(path):
            return Stating(path)
    return Stating("") if _has_labels(store) else None


def open_yolo(store: Store, found: Stating, name: str, masks: bool) -> RawSource:
    """The set that `found` states. DataError: names or folders that are wrong or missing."""
    layout = _Reader(store).layout(found.path)
    numbers = tuple(sorted(layout.names))
    classes = tuple(layout.names[number] for number in numbers)
    label_of = {number: label for label, number in enumerate(numbers)}

    def load(title: str) -> RawPart:
        return _part(store, title, layout, label_of, masks)

    titles = tuple(layout.images)
    return RawSource(
        name, store, classes, numbers, titles, load, has_masks=True, notes=layout.notes
    )


@dataclass(frozen=True, eq=False)
class _Reader:
    """Reads what a set's own file states."""

    store: Store
    notes: list[str] = field(default_factory=list)

    @cached_property
    def _images(self) -> list[str]:
        return [path for path in self.store.rows if not is_text_path(path)]

    @cached_property
    def _folders(self) -> set[str]:
        found = {""}
        for path in self._images:
            folder = posixpath.dirname(path)
            while folder not in found:
                found.add(folder)
                folder = posixpath.dirname(folder)
        return found

    def layout(self, path: str) -> Layout:
        """Images and names; `path`: the file that states them, or ""."""
        if not path:
            images: dict[str, list[str]] = {}
            for each in filter(image_folder, self._images):
                folders = PurePosixPath(each).parts[:-1]
                images.setdefault(next(filter(split_role, folders), ""), []).append(each)
            return Layout(images, self._names_beside(""), tuple(self.notes))
        where = self.store.called(path)
        document = self._document(path, where)
        points = _key_points(document.get("kpt_shape"), where)
        if points:
            self.notes.append(f"{where}: kpt_shape: key points are not read, only boxes")
        if unread := sorted(set(document) - KNOWN - FOR_PEOPLE):
            self.notes.append(f"{where}: not read: {', '.join(unread[:8])}")
        images = {}
        for key, role in ROLES.items():
            if document.get(key) in (None, "", []):
                continue
            found = self._images_of(document[key], document.get("path"), path, key)
            if found is None and role == "train":
                raise DataError(f"{where}: {key}: {document[key]}: no such folder or list in it")
            if found is None:
                self.notes.append(f"{where}: {key}: {document[key]} is not there; left out")
                continue
            title = "val" if role == "val" else key
            images[title] = list(dict.fromkeys([*images.get(title, ()), *found]))
        if not images:
            raise DataError(f"{where}: states no images; it needs train: with a folder")
        names = self._names(document, path, where)
        return Layout(images, names, tuple(self.notes), points)

    def _document(self, path: str, where: str) -> dict[str, Any]:
        if not path.lower().endswith(".data"):
            document = load_yaml(self.store.read(path), where)
            assert isinstance(document, dict)
            return {str(key): value for key, value in document.items()}
        found: dict[str, Any] = {}
        for line in self.store.lines(path):  # darknet: "names = data/obj.names"
            key, _, value = line.partition("=")
            found[key.strip()] = value.strip()
        found.pop("backup", None)
        if "classes" in found:
            found["nc"] = found.pop("classes")
        return found

    def _names(self, document: dict[str, Any], path: str, where: str) -> dict[int, str]:
        stated = document.get("names")
        if isinstance(stated, str):
            listed = self._resolved(stated, None, path, set(self.store.rows))
            if listed is None:
                raise DataError(f"{where}: names: {stated}: no such file in the set")
            stated = self.store.lines(listed)
        if stated is None:
            return self._names_beside(posixpath.dirname(path), document.get("nc"))
        if not isinstance(stated, dict | list):
            raise DataError(f"{where}: names: {stated!r} is neither a list nor numbers with names")
        pairs = stated.items() if isinstance(stated, dict) else enumerate(stated)
        names: dict[int, str] = {}
        for key, value in pairs:
            number = read_number(key)
            if not (number.is_integer() and 0 <= number < MAX_CLASS) or not read_name(value):
                raise DataError(f"{where}: names: {key}: {value!r} is no number with a name")
            names[int(number)] = read_name(value)
        return self._checked(names, document.get("nc"), where)

    def _names_beside(self, folder: str, count: Any = None) -> dict[int, str]:
        """Names by line of a file beside the set's own."""
        found = [p for p in self.store.rows if posixpath.basename(p).lower() in NAME_FILES]
        near = [path for path in found if posixpath.dirname(path) == folder]
        listed = {tuple(self.store.lines(path)) for path in near or found}
        if len(listed) > 1:
            files = ", ".join(sorted(near or found)[:3])
            raise DataError(f"{self.store.where}: {files} name different classes; keep one")
        if not listed:
            raise DataError(
                f"{self.store.where}: YOLO labels without names of their classes; add classes.txt,"
                " one name a line from class 0 on, or data.yaml with names:"
            )
        path = (near or found)[0]
        names = dict(enumerate(map(read_name, listed.pop())))
        return self._checked(names, count, self.store.called(path))

    def _checked(self, names: dict[int, str], count: Any, where: str) -> dict[int, str]:
        if not names:
            raise DataError(f"{where}: names no class")
        twice = [name for name, times in Counter(names.values()).items() if times > 1]
        if twice:
            raise DataError(f"{where}: names: {twice[0]} occurs twice; rename one")
        stated = read_number(count)
        if count is not None and stated != len(names):
            raise DataError(
                f"{where}: nc is {count}, but there are names of {len(names)} classes; correct one"
            )
        return names

    def _images_of(self, stated: Any, root: Any, path: str, key: str) -> list[str] | None:
        """Images of a folder, a list file, or several of them; None where one is not there."""
        if isinstance(stated, list):
            parts = [self._images_of(each, root, path, key) for each in stated]
            if any(part is None for part in parts):
                return None
            return [image for part in parts if part is not None for image in part]
        if not isinstance(stated, str):
            raise DataError(f"{self.store.called(path)}: {key}: {stated!r} is no path")
        base = root if isinstance(root, str) else None
        if stated.lower().endswith(".txt"):
            listed = self._resolved(stated, base, path, set(self.store.rows))
            return None if listed is None else self._listed(listed)
        folder = self._resolved(stated, base, path, self._folders)
        if folder is None:
            return None
        inside = [p for p in self._images if not folder or p.startswith(f"{folder}/")]
        return [image for image in inside if image_folder(image) or not image_folder(f"{folder}/x")]

    def _resolved(self, stated: str, root: str | None, path: str, known: set[str]) -> str | None:
        """The one of `known` that a path in the file `path` means, None where there is none.

        It is relative to `root`, to the file, or to nothing that came along: then the longest end
        of it that is there counts ("../train/images", as Roboflow writes it; absolute paths).
        """
        here = posixpath.dirname(path)
        plain = stated.strip().replace("\\", "/")
        root = (root or "").replace("\\", "/")
        bases = [posixpath.join(here, root)] if root else []
        if not plain.startswith("/"):
            for base in (*bases, here):
                whole = posixpath.normpath(posixpath.join(base, plain))
                whole = "" if whole == "." else whole
                if whole in known:
                    return whole
        full = plain if plain.startswith("/") else f"{root}/{plain}"
        parts = [part for part in full.split("/") if part not in ("", ".", "..")]
        for start in range(len(parts)):
            for base in (here, ""):
                whole = posixpath.join(base, *parts[start:])
                if whole in known:
                    return whole
        return "" if not parts and "" in known else None

    def _listed(self, path: str) -> list[str]:
        """Images that a list names; what is not there is noted."""
        index = ImageIndex.of(self.store)
        lines = list(dict.fromkeys(self.store.lines(path)))
        matches = index.match([Stated((line,), path) for line in lines])
        missing = [line for line, match in zip(lines, matches, strict=True) if match.path is None]
        if missing:
            raise DataError(
                f"{self.store.called(path)}: {len(missing):,} of its {len(lines):,} images are not"
                f" there, such as {missing[0]}; restore them, or correct the list"
            )
        return [match.path for match in matches if match.path is not None]


def label_paths(image: str) -> Iterator[str]:
    """Where the label file of an image may lie, the likeliest first."""
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


def _part(
    store: Store, title: str, layout: Layout, label_of: dict[int, int], masks: bool
) -> RawPart:
    images = layout.images[title]
    labels = {image: next(filter(store.__contains__, label_paths(image)), None) for image in images}
    bare = [image for image, label in labels.items() if label is None]
    notes, problems = [], []
    called = title or "all"
    if images and len(bare) == len(images):
        raise DataError(
            f"{store.where}: {called}: none of its {len(images):,} images has a label file, such as"
            f" {next(label_paths(images[0]))}"
        )
    if bare:
        notes.append(
            f"{called}: {len(bare):,} images without a label file, such as {bare[0]}; taken as"
            " images without objects"
        )
    for path in _unused(store, labels):
        said = "its image is not in the set"
        problems.append(Problem(store.called(path), "", "no image", said))
    sizes = read_sizes(store, images)
    stems = Counter(PurePosixPath(image).stem for image in images)
    counts: Counter[str] = Counter()
    pictures = []
    for image, label in labels.items():
        stem = PurePosixPath(image).stem
        size = sizes[image]
        width, height = size.upright if isinstance(size, StoredSize) else (0, 0)
        where = store.called(label) if label is not None else store.called(image)
        objects: tuple[RawObject, ...] = ()
        if label is not None:
            try:
                text = decode_text(store.read(label), where)
            except DataError as error:
                said = str(error).removeprefix(f"{where}: ")
                problems.append(Problem(where, "", "annotations", said))
                continue
            rows = _Rows(label_of, width, height, layout.points, masks, counts)
            objects = tuple(rows.read(text))
        counts["empty"] += label is not None and not objects
        whole = str(PurePosixPath(image).with_suffix(""))
        pictures.append(
            RawPicture(
                stem if stems[stem] == 1 else whole,
                image,
                image,
                where,
                width,
                height,
                objects,
                sized=False,
            )
        )
    texts = {
        "empty": "empty label files: images without objects",
        "repeated": "lines that occur twice in their file, read once",
        "confidence": "lines with a sixth value (a confidence or track), which is not read",
    }
    notes += [f"{called}: {counts[kind]:,} {text}" for kind, text in texts.items() if counts[kind]]
    return RawPart(pictures, problems, (), sum(len(each.objects) for each in pictures), notes)


def _unused(store: Store, labels: Mapping[str, str | None]) -> list[str]:
    """Label files in the folders of those that are read whose image is missing."""
    used = {path for path in labels.values() if path is not None}
    folders = {posixpath.dirname(path) for path in used}
    images = {posixpath.splitext(path)[0] for path in store.rows if not is_text_path(path)}
    return [
        path
        for path in sorted(store.rows)
        if posixpath.dirname(path) in folders
        and path not in used
        and path.lower().endswith(".txt")
        and posixpath.basename(path).lower() not in NOT_LABELS
        and posixpath.splitext(path)[0] not in images
        and _first_row(store, path)
        and not _has_image(path, images)
    ]


def _has_image(label: str, images: set[str]) -> bool:
    """Whether an image elsewhere in the set, of another part, has this label file."""
    parts = label.split("/")
    for place, part in enumerate(parts[:-1]):
        if part.lower() in ("labels", "label"):
            for folder in ("images", "image", "imgs"):
                moved = "/".join([*parts[:place], folder, *parts[place + 1 :]])
                if posixpath.splitext(moved)[0] in images:
                    return True
    return False


@dataclass(frozen=True, eq=False)
class _Rows:
    """Turns the lines of label files of one image of width x height px into objects."""

    label_of: Mapping[int, int]
    width: int
    height: int
    points: int
    masks: bool
    counts: Counter[str]

    def read(self, text: str) -> Iterator[RawObject]:
        """An object for each line; what is wrong with one is a flaw of it."""
        seen: set[str] = set()
        for number, line in enumerate(text.splitlines(), start=1):
            if not line.strip():
                continue
            words = line.replace(",", " ").split()
            if " ".join(words) in seen:
                self.counts["repeated"] += 1
                continue
            seen.add(" ".join(words))
            yield self._object(words, number)

    def _object(self, words: Sequence[str], number: int) -> RawObject:
        kind = read_number(words[0])
        label = self.label_of.get(int(kind), -1) if kind.is_integer() else -1
        values = np.array([read_number(word) for word in words[1:]])
        flaws: list[Flaw] = []
        parts: list[Any] = []
        box: Box = (NAN, NAN, NAN, NAN)
        if self.points and len(values) == 4 + self.points:
            values = values[:4]
        if len(values) == 5:
            self.counts["confidence"] += 1
            values = values[:4]
        if len(values) == 4:
            x, y, wide, high = values.tolist()
            across, down = self.width, self.height
            box = (
                (x - wide / 2) * across,
                (y - high / 2) * down,
                (x + wide / 2) * across,
                (y + high / 2) * down,
            )
        elif len(values) >= 6 and len(values) % 2 == 0:
            parts = [values.reshape(-1, 2) * (self.width, self.height)]
            box = box_around(parts)
        else:
            said = f"has {len(words)} values; a box has 5, an outline 7 or more, an odd number"
            flaws.append(Flaw("no number", said))
        finite = values[np.isfinite(values)]
        if not flaws and len(finite) and np.abs(finite).max() > FAR_OUTSIDE:
            said = f"its value {np.abs(finite).max():g} is no share of the image's sides (0..1)"
            flaws.append(Flaw("not normalized", said))
        return RawObject(
            item=f"line {number}",
            label=label,
            category=words[0],
            box=box,
            area=area_of(parts) if parts else None,
            segmentation=flat(parts) if parts and self.masks else None,
            number=number - 1,
            flaws=tuple(flaws),
            bare=not parts,
        )


def _key_points(stated: Any, where: str) -> int:
    if stated is None:
        return 0
    numbers = [read_number(each) for each in stated] if isinstance(stated, list) else []
    if len(numbers) != 2 or not all(math.isfinite(n) and 0 < n < 1000 for n in numbers):
        raise DataError(f"{where}: kpt_shape: {stated!r} is not [points, values of each]")
    return int(numbers[0] * numbers[1])


def _states_yolo(store: Store, path: str) -> bool:
    """Whether a YAML file has the keys of a YOLO set."""
    data = store.read(path)
    if b"train" not in data:
        return False
    try:
        document = load_yaml(data, store.called(path))
    except DataError:
        return b"names" in data and b"\ntrain:" in b"\n" + data
    return (
        isinstance(document, dict) and "train" in document and bool({"names", "nc"} & set(document))
    )


def _has_labels(store: Store) -> bool:
    """Whether text files lie where labels of images do, and begin like them."""
    if not any(path.lower().endswith(".txt") for path in store.rows):
        return False
    images = [path for path in store.rows if has_image_suffix(path) and image_folder(path)]
    looked = 0
    for image in images:
        label = next(filter(store.__contains__, label_paths(image)), None)
        if label is None or posixpath.basename(label).lower() in NOT_LABELS:
            continue
        looked += 1
        if _first_row(store, label):
            return True
        if looked >= PROBED:
            break
    return False


def _first_row(store: Store, path: str) -> bool:
    try:
        lines: Iterable[str] = store.lines(path)
    except DataError:
        return False
    return any(_ROW.fullmatch(line) for line in list(lines)[:1])
