"""YOLO's text files: one line per object, its numbers normalized by the image's sides.

`class x y width height`, or `class x1 y1 x2 y2 x3 y3 ...` for polygons. Sets are defined by a
YAML file (`path`, `train`, `val`, `test`, `names`, `nc`) or darknet's obj.data; without either,
by folders labels/ and images/ (in either order) with classes.txt or obj.names.
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
from resnets.detect.data.documents import parse_yaml
from resnets.detect.data.values import read_number
from resnets.detect.formats.class_names import number_names, read_class_names
from resnets.detect.formats.records import RawDataset, RawImageSet
from resnets.detect.formats.yolo.files import (
    NAME_FILES,
    NOT_LABELS,
    LabelFiles,
    TextFiles,
    is_label_file,
    match_labels,
)
from resnets.detect.formats.yolo.labels import Layout, read_image_set
from resnets.detect.images.index import ImageIndex
from resnets.detect.images.path_matching import ImageReference, is_in_image_folder
from resnets.detect.images.store import Store, has_image_suffix

ROLES: Mapping[str, Role] = {"train": "train", "val": "val", "valid": "val", "test": "test"}
KNOWN_KEYS = frozenset({*ROLES, "path", "names", "nc", "kpt_shape", "flip_idx"})
INFORMATIVE = frozenset({"download", "roboflow", "minival", "license", "author", "date", "version"})
MAX_PROBED = 20
MAX_CLASS = 100_000


@dataclass(frozen=True, eq=False)
class DatasetFile:
    """The file that defines a set, "" without one, and other such files."""

    path: str
    others: tuple[str, ...] = ()


def find_yolo(store: Store) -> DatasetFile | None:
    """Return the YAML or obj.data file of a YOLO set, or "" if there are only label files.

    None if there are neither.
    """
    paths = [
        path
        for path in sorted(store.rows, key=lambda path: (path.count("/"), path))
        if _is_dataset_file(store, path)
    ]
    if paths:
        return DatasetFile(paths[0], tuple(paths[1:]))
    return DatasetFile("") if _has_labels(store) else None


def open_yolo(store: Store, found: DatasetFile, name: str, masks: bool) -> RawDataset:
    """Open the set that `found` defines. DataError: names or folders that are wrong or missing."""
    layout = _LayoutReader(store).layout(found.path)
    for other in found.others:
        if not _is_same_layout(layout, _LayoutReader(store).layout(other)):
            raise DataError(
                f"{store.display_path(other)}: lists other images or classes than"
                f" {store.display_path(found.path)}; keep one, or give the folder of one set"
            )
    numbers = tuple(sorted(layout.names))
    classes = tuple(layout.names[number] for number in numbers)
    label_of = {number: label for label, number in enumerate(numbers)}

    @cache
    def files() -> LabelFiles:
        return match_labels(store, layout.images)

    def load(title: str) -> RawImageSet:
        return read_image_set(store, title, layout, files(), label_of, masks)

    titles = tuple(layout.images)
    return RawDataset(name, store, classes, numbers, titles, load, notes=layout.notes)


def _is_same_layout(one: Layout, other: Layout) -> bool:
    """Return whether two files define the same classes, and the same images in each image set."""
    images, others = (
        {title: set(paths) for title, paths in each.images.items()} for each in (one, other)
    )
    return one.names == other.names and images == others and one.points == other.points


@dataclass(frozen=True, eq=False)
class _LayoutReader:
    """Reads the file that defines a set."""

    store: Store
    notes: list[str] = field(default_factory=list)

    @cached_property
    def _folders(self) -> set[str]:
        found = {""}
        for path in self.store.image_paths:
            folder = posixpath.dirname(path)
            while folder not in found:
                found.add(folder)
                folder = posixpath.dirname(folder)
        return found

    def layout(self, path: str) -> Layout:
        """Return images and names; `path`: the file that specifies them, or ""."""
        if not path:
            images: dict[str, list[str]] = {}
            for each in filter(is_in_image_folder, self.store.image_paths):
                folders = PurePosixPath(each).parts[:-1]
                images.setdefault(next(filter(split_role, folders), ""), []).append(each)
            return Layout(images, self._names_from_files(""), tuple(self.notes))
        where = self.store.display_path(path)
        document = self._document(path, where)
        points = _count_key_point_values(document.get("kpt_shape"), where)
        if points:
            self.notes.append(f"{where}: kpt_shape: key points are not read, only boxes")
        if unread_keys := sorted(set(document) - KNOWN_KEYS - INFORMATIVE):
            self.notes.append(f"{where}: not read: {', '.join(unread_keys[:8])}")
        images = {}
        for key, role in ROLES.items():
            if document.get(key) in (None, "", []):
                continue
            paths = self._find_images(document[key], document.get("path"), path, key)
            if paths is None and role == "train":
                raise DataError(f"{where}: {key}: {document[key]}: no such folder or list in it")
            if paths is None:
                self.notes.append(f"{where}: {key}: {document[key]} does not exist; skipped")
                continue
            title = "val" if role == "val" else key
            all_paths = [*images.get(title, ()), *paths]
            images[title] = list(dict.fromkeys(all_paths))
            if num_repeated := len(all_paths) - len(images[title]):
                self.notes.append(
                    f"{title}: {num_repeated:,} entries listed more than once; each is read once"
                )
        if not images:
            raise DataError(f"{where}: specifies no images; it needs train: with a folder")
        names = self._names(document, path, where)
        return Layout(images, names, tuple(self.notes), points)

    def _document(self, path: str, where: str) -> dict[str, Any]:
        if not path.lower().endswith(".data"):
            document = parse_yaml(self.store.read(path), where)
            assert isinstance(document, dict)
            return {str(key): value for key, value in document.items()}
        found: dict[str, Any] = {}
        for line in self.store.read_lines(path):  # darknet: "names = data/obj.names"
            key, _, value = line.partition("=")
            found[key.strip()] = value.strip()
        found.pop("backup", None)
        if "classes" in found:
            found["nc"] = found.pop("classes")
        return found

    def _names(self, document: dict[str, Any], path: str, where: str) -> dict[int, str]:
        names_value = document.get("names")
        if isinstance(names_value, str):
            names_file = self._resolve_path(names_value, None, path, set(self.store.rows))
            if names_file is None:
                raise DataError(f"{where}: names: {names_value}: no such file in the set")
            names_value = read_class_names(self.store, names_file)
        if names_value is None:
            return self._names_from_files(posixpath.dirname(path), document.get("nc"))
        if not isinstance(names_value, dict | list):
            raise DataError(
                f"{where}: names: {names_value!r} is neither a list nor numbers with names"
            )
        names = number_names(names_value, where, MAX_CLASS)
        for other in self._name_files():
            for number, name in enumerate(read_class_names(self.store, other)):
                if not _names_agree(names, {number: name}):
                    raise DataError(
                        f"{where}: class {number} is {names[number]}, but {name} in"
                        f" {self.store.display_path(other)}; correct one, or remove it"
                    )
        return self._check_names(names, document.get("nc"), where)

    def _name_files(self) -> list[str]:
        return [p for p in self.store.rows if posixpath.basename(p).lower() in NAME_FILES]

    def _names_from_files(self, folder: str, count: Any = None) -> dict[int, str]:
        """Return the names by line of a file, preferably of `folder`; all such files must agree."""
        paths = sorted(self._name_files(), key=lambda path: posixpath.dirname(path) != folder)
        if not paths:
            raise DataError(
                f"{self.store.where}: YOLO labels without names of their classes; add classes.txt,"
                " one name a line from class 0 on, or data.yaml with names:"
            )
        names_of = {path: dict(enumerate(read_class_names(self.store, path))) for path in paths}
        longest = max(paths, key=lambda path: len(names_of[path]))
        for path in paths:
            if not _names_agree(names_of[longest], names_of[path]):
                files = ", ".join(paths[:3])
                raise DataError(f"{self.store.where}: {files} name different classes; keep one")
        if len({len(names) for names in names_of.values()}) > 1:
            self.notes.append(f"{longest} has the most classes of {len(paths)} files; it is read")
        return self._check_names(names_of[longest], count, self.store.display_path(longest))

    def _check_names(self, names: dict[int, str], count: Any, where: str) -> dict[int, str]:
        if not names:
            raise DataError(f"{where}: contains no class name")
        repeated = [name for name, times in Counter(names.values()).items() if times > 1]
        if repeated:
            raise DataError(f"{where}: names: {repeated[0]} occurs twice; rename one")
        number = read_number(count)
        if count is not None and number != len(names):
            raise DataError(
                f"{where}: nc is {count}, but there are names of {len(names)} classes; correct one"
            )
        return names

    def _find_images(self, stated: Any, root: Any, path: str, key: str) -> list[str] | None:
        """Return the images of a folder, a list file, or several; None if one does not exist."""
        if isinstance(stated, list):
            parts = [self._find_images(each, root, path, key) for each in stated]
            if any(part is None for part in parts):
                return None
            return [image for part in parts if part is not None for image in part]
        if not isinstance(stated, str):
            raise DataError(f"{self.store.display_path(path)}: {key}: {stated!r} is not a path")
        base = root if isinstance(root, str) else None
        if stated.lower().endswith(".txt"):
            list_file = self._resolve_path(stated, base, path, set(self.store.rows))
            return None if list_file is None else self._read_image_list(list_file)
        folder = self._resolve_path(stated, base, path, self._folders)
        if folder is None:
            return None
        below = [p for p in self.store.image_paths if not folder or p.startswith(f"{folder}/")]
        return [
            image
            for image in below
            if is_in_image_folder(image) or not is_in_image_folder(f"{folder}/x")
        ]

    def _resolve_path(
        self, stated: str, root: str | None, path: str, existing: set[str]
    ) -> str | None:
        """Return the one of `existing` that is meant by a path in the file `path`, or None.

        It is relative to `root`, to the file, or to something that was not copied: then its longest
        suffix that exists is taken ("../train/images", as Roboflow writes it; absolute paths).
        """
        folder = posixpath.dirname(path)
        relative = stated.strip().replace("\\", "/")
        root = (root or "").replace("\\", "/")
        bases = [posixpath.join(folder, root)] if root else []
        if not relative.startswith("/"):
            for base in (*bases, folder):
                candidate = posixpath.normpath(posixpath.join(base, relative))
                candidate = "" if candidate == "." else candidate
                if candidate in existing:
                    return candidate
        full = relative if relative.startswith("/") else f"{root}/{relative}"
        parts = [part for part in full.split("/") if part not in ("", ".", "..")]
        for start in range(len(parts)):
            for base in (folder, ""):
                candidate = posixpath.join(base, *parts[start:])
                if candidate in existing:
                    return candidate
        return "" if not parts and "" in existing else None

    def _read_image_list(self, path: str) -> list[str]:
        """Return the images in a list file; DataError if some are missing."""
        index = ImageIndex.of(self.store)
        entries = self.store.read_lines(path)
        lines = list(dict.fromkeys(entries))
        matches = dict(
            zip(lines, index.match([ImageReference((line,), path) for line in lines]), strict=True)
        )
        missing = [line for line, match in matches.items() if match.path is None]
        if missing:
            raise DataError(
                f"{self.store.display_path(path)}: {len(missing):,} of its {len(lines):,} images"
                f" are not there, such as {missing[0]}; restore them, or correct the list"
            )
        paths = (matches[line].path for line in entries)
        return [path for path in paths if path is not None]


def _names_agree(names: Mapping[int, str], others: Mapping[int, str]) -> bool:
    """Return whether all numbers that occur in both have the same class name."""
    return all(names.get(n, name).casefold() == name.casefold() for n, name in others.items())


def _count_key_point_values(value: Any, where: str) -> int | None:
    if value is None:
        return None
    numbers = [read_number(each) for each in value] if isinstance(value, list) else []
    if len(numbers) != 2 or not all(math.isfinite(n) and 0 <= n < 1000 for n in numbers):
        raise DataError(f"{where}: kpt_shape: {value!r} is not [points, values of each]")
    return int(numbers[0] * numbers[1])


def _is_dataset_file(store: Store, path: str) -> bool:
    """Return whether a YAML file, or darknet's .data, has the keys of a YOLO set."""
    suffix = posixpath.splitext(path)[1].lower()
    if suffix not in (".yaml", ".yml", ".data"):
        return False
    data = store.read(path)
    if suffix == ".data":
        return b"names" in data
    if b"train" not in data:
        return False
    try:
        document = parse_yaml(data, store.display_path(path))
    except DataError:
        return b"names" in data and b"\ntrain:" in b"\n" + data
    return (
        isinstance(document, dict) and "train" in document and bool({"names", "nc"} & set(document))
    )


def _has_labels(store: Store) -> bool:
    """Return whether there are text files where labels of images are, with lines like labels."""
    if not any(path.lower().endswith(".txt") for path in store.rows):
        return False
    images = [path for path in store.rows if has_image_suffix(path) and is_in_image_folder(path)]
    num_probed = 0
    files = TextFiles.of(store)
    for image in images:
        label = next(iter(files.candidates(image)), None)
        if label is None or posixpath.basename(label).lower() in NOT_LABELS:
            continue
        num_probed += 1
        if is_label_file(store, label):
            return True
        if num_probed >= MAX_PROBED:
            break
    return False
