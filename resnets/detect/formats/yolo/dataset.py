"""YOLO's text files: a line for each object, its numbers shares of the image's sides.

`class x y width height`, or `class x1 y1 x2 y2 x3 y3 ...` for outlines. Sets are stated by a YAML
file (`path`, `train`, `val`, `test`, `names`, `nc`), or by darknet's obj.data; without either,
folders labels/ beside images/ (either around the other) with classes.txt or obj.names.
"""

from __future__ import annotations

import math
import posixpath
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import PurePosixPath
from typing import Any

from resnets.data.errors import DataError
from resnets.data.layout.folder_names import Role, split_role
from resnets.detect.data.values import read_name, read_number
from resnets.detect.formats.class_names import load_yaml, numbered_names
from resnets.detect.formats.records import RawDataset, RawImageSet
from resnets.detect.formats.yolo.files import (
    NAME_FILES,
    NOT_LABELS,
    LabelFiles,
    TextFiles,
    is_label_file,
    match_labels,
)
from resnets.detect.formats.yolo.labels import Layout, read_part
from resnets.detect.images.entries import Stated
from resnets.detect.images.index import ImageIndex
from resnets.detect.images.names import image_folder
from resnets.detect.images.store import Store, has_image_suffix, is_text_path

ROLES: Mapping[str, Role] = {"train": "train", "val": "val", "valid": "val", "test": "test"}
KNOWN = frozenset({*ROLES, "path", "names", "nc", "kpt_shape", "flip_idx"})
FOR_PEOPLE = frozenset({"download", "roboflow", "minival", "license", "author", "date", "version"})
PROBED = 20
MAX_CLASS = 100_000


@dataclass(frozen=True, eq=False)
class Stating:
    """The file that states a set, "" where there is none; and others that state one."""

    path: str
    others: tuple[str, ...] = ()


def find_yolo(store: Store) -> Stating | None:
    """The YAML or obj.data file of a YOLO set, or that there are label files; None for neither."""
    stating = [
        path
        for path in sorted(store.rows, key=lambda each: (each.count("/"), each))
        if _states_yolo(store, path)
    ]
    if stating:
        return Stating(stating[0], tuple(stating[1:]))
    return Stating("") if _has_labels(store) else None


def open_yolo(store: Store, found: Stating, name: str, masks: bool) -> RawDataset:
    """The set that `found` states. DataError: names or folders that are wrong or missing."""
    layout = _Reader(store).layout(found.path)
    for other in found.others:
        if not _same(layout, _Reader(store).layout(other)):
            raise DataError(
                f"{store.called(other)}: states other images or classes than"
                f" {store.called(found.path)}; keep one, or give the folder of one set"
            )
    numbers = tuple(sorted(layout.names))
    classes = tuple(layout.names[number] for number in numbers)
    label_of = {number: label for label, number in enumerate(numbers)}

    @cache
    def files() -> LabelFiles:
        return match_labels(store, layout.images)

    def load(title: str) -> RawImageSet:
        return read_part(store, title, layout, files(), label_of, masks)

    titles = tuple(layout.images)
    return RawDataset(name, store, classes, numbers, titles, load, notes=layout.notes)


def _same(one: Layout, other: Layout) -> bool:
    """Whether two files state the same classes, and the same images in each image set."""
    images, others = (
        {title: set(paths) for title, paths in each.images.items()} for each in (one, other)
    )
    return one.names == other.names and images == others and one.points == other.points


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
            listed = [*images.get(title, ()), *found]
            images[title] = list(dict.fromkeys(listed))
            if repeated := len(listed) - len(images[title]):
                self.notes.append(
                    f"{title}: {repeated:,} entries listed more than once; each is read once"
                )
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
            stated = numbered_names(self.store, listed)
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
        for other in self._name_files():
            for number, name in enumerate(numbered_names(self.store, other)):
                if not _agree(names, {number: name}):
                    raise DataError(
                        f"{where}: class {number} is {names[number]}, but {name} in"
                        f" {self.store.called(other)}; correct one, or remove it"
                    )
        return self._checked(names, document.get("nc"), where)

    def _name_files(self) -> list[str]:
        return [p for p in self.store.rows if posixpath.basename(p).lower() in NAME_FILES]

    def _names_beside(self, folder: str, count: Any = None) -> dict[int, str]:
        """Names by line of a file, the one in `folder` where there is one; all have to agree."""
        found = sorted(self._name_files(), key=lambda path: posixpath.dirname(path) != folder)
        if not found:
            raise DataError(
                f"{self.store.where}: YOLO labels without names of their classes; add classes.txt,"
                " one name a line from class 0 on, or data.yaml with names:"
            )
        listed = {path: dict(enumerate(numbered_names(self.store, path))) for path in found}
        longest = max(found, key=lambda path: len(listed[path]))
        for path in found:
            if not _agree(listed[longest], listed[path]):
                files = ", ".join(found[:3])
                raise DataError(f"{self.store.where}: {files} name different classes; keep one")
        if len({len(names) for names in listed.values()}) > 1:
            self.notes.append(f"{longest} names the most classes of {len(found)} files; it is read")
        return self._checked(listed[longest], count, self.store.called(longest))

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
        listed = self.store.lines(path)
        lines = list(dict.fromkeys(listed))
        matches = dict(
            zip(lines, index.match([Stated((line,), path) for line in lines]), strict=True)
        )
        missing = [line for line, match in matches.items() if match.path is None]
        if missing:
            raise DataError(
                f"{self.store.called(path)}: {len(missing):,} of its {len(lines):,} images are not"
                f" there, such as {missing[0]}; restore them, or correct the list"
            )
        paths = (matches[line].path for line in listed)
        return [path for path in paths if path is not None]


def _agree(names: Mapping[int, str], others: Mapping[int, str]) -> bool:
    """Whether no number that both have is another class in one than in the other."""
    return all(names.get(n, name).casefold() == name.casefold() for n, name in others.items())


def _key_points(stated: Any, where: str) -> int | None:
    if stated is None:
        return None
    numbers = [read_number(each) for each in stated] if isinstance(stated, list) else []
    if len(numbers) != 2 or not all(math.isfinite(n) and 0 <= n < 1000 for n in numbers):
        raise DataError(f"{where}: kpt_shape: {stated!r} is not [points, values of each]")
    return int(numbers[0] * numbers[1])


def _states_yolo(store: Store, path: str) -> bool:
    """Whether a YAML file, or darknet's .data, has the keys of a YOLO set."""
    suffix = posixpath.splitext(path)[1].lower()
    if suffix not in (".yaml", ".yml", ".data"):
        return False
    data = store.read(path)
    if suffix == ".data":
        return b"names" in data
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
    files = TextFiles.of(store)
    for image in images:
        label = next(iter(files.of_image(image)), None)
        if label is None or posixpath.basename(label).lower() in NOT_LABELS:
            continue
        looked += 1
        if is_label_file(store, label):
            return True
        if looked >= PROBED:
            break
    return False
