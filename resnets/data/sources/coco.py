"""Image labels from COCO JSON: the categories of an image's annotations; boxes are ignored.

The data set is a file (instances_train2017.json), or found in a folder:
annotations/instances_*.json, or _annotations.coco.json in the folder of each split. An image
without annotations has no labels.
"""

from __future__ import annotations

import os
import posixpath
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from resnets.data.dataset.image_identity import hash_names
from resnets.data.dataset.labels import multi_hot
from resnets.data.dataset.source import FilePart, Source, source_from_parts
from resnets.data.errors import DataError
from resnets.data.files.folder import FolderFiles
from resnets.data.files.walk import SkippedFiles, walk_images
from resnets.data.layout.folder_names import role_within
from resnets.data.tables.paths import TablePaths
from resnets.utils.errors import reading
from resnets.utils.files.json import parse_json

FOLDER, OFFICIAL, ROBOFLOW = "annotations", "instances_*.json", "_annotations.coco.json"
KEYS = ("images", "annotations", "categories")
NOT_NAMED = "image that no annotation file names"
UNUSED = "categories without an annotated training image"


def find_coco(folder: Path) -> list[Path]:
    """Return the COCO JSON files of a folder with official names; [] if there are none."""
    official = sorted((folder / FOLDER).glob(OFFICIAL))
    return official or sorted([*folder.glob(ROBOFLOW), *folder.glob(f"*/{ROBOFLOW}")])


def open_coco(files: Sequence[Path], name: str | None = None, folder: Path | None = None) -> Source:
    """Open the data set of COCO JSON files, one per split; file or folder names give the split.

    Images are found by their file_name, relative to the file's folder or its parent; other images
    in `folder` are counted as skipped. Raises DataError if a file is not COCO JSON, an image is
    missing, or two files belong to the same split.
    """
    documents: dict[str, tuple[Path, Mapping[str, Any]]] = {}
    for file in files:
        title = role_within(file.stem) or role_within(file.parent.name) or ""
        if title in documents:
            other = documents[title][0]
            raise DataError(f"{file}: of the same split as {other}; name train, val or test")
        documents[title] = file, _read_document(file)
    if "" in documents and len(documents) > 1:
        raise DataError(f"{documents[''][0]}: its name says no split; name train, val or test")
    training = documents.get("train", next(iter(documents.values())))
    names = {number: _text(each["name"]) for number, each in _iter_by_id(*training, "categories")}
    used = [each["category_id"] for each in training[1]["annotations"]]
    classes = tuple(sorted({names[number] for number in used if number in names}))
    if not classes:
        raise DataError(f"{training[0]}: none of its annotations has a category")
    skipped = SkippedFiles()
    if unused := len(set(names.values())) - len(classes):
        skipped.add(UNUSED, "", suffix="", count=unused)
    parts = {
        title: _make_part(title, file, document, classes, skipped)
        for title, (file, document) in documents.items()
    }
    if folder is not None:
        named = {
            os.path.normpath(part.files.name(row))
            for part in parts.values()
            for row in range(len(part.labels))
        }
        for path in walk_images(folder, skipped):
            if os.path.normpath(folder / path) not in named:
                skipped.add(NOT_NAMED, path)
        for file in files:
            skipped.discard_label_file(file.relative_to(folder).as_posix())
    source = source_from_parts(name or training[0].name, classes, parts, str(training[0]))
    file_names = ", ".join(str(file.name) for file, _ in documents.values())
    note = f"labels of an image: the categories of its annotations in {file_names}"
    return replace(source, notes=(*source.notes, note), skipped=skipped)


def _make_part(
    title: str,
    file: Path,
    document: Mapping[str, Any],
    classes: Sequence[str],
    skipped: SkippedFiles,
) -> FilePart:
    names = {
        number: _text(each["name"]) for number, each in _iter_by_id(file, document, "categories")
    }
    images = dict(_iter_by_id(file, document, "images"))
    index_of_class = {label: index for index, label in enumerate(classes)}
    sets: dict[Any, set[int]] = {number: set() for number in images}
    for index, each in enumerate(document["annotations"]):
        image, category = each["image_id"], each["category_id"]
        if image not in sets or category not in names:
            what = f"image {image!r}" if image not in sets else f"category {category!r}"
            raise DataError(f"{file}: annotations[{index}]: there is no {what}")
        if names[category] in index_of_class:
            sets[image].add(index_of_class[names[category]])
        else:
            skipped.add("annotations of a category that training does not have", "", suffix="")
    root = file.parent.parent if file.parent.name == FOLDER else file.parent
    paths, found = TablePaths(root), list[tuple[str, set[int]]]()
    for number, each in images.items():
        file_name = posixpath.normpath(_text(each["file_name"]))
        where = f"{file}: image {number!r}"
        path = _find_image(paths, file_name, title, where)
        if path is None:
            raise DataError(f"{where}: no file {root / file_name}")
        found.append((path, sets[number]))
    found.sort(key=lambda each: each[0])  # so that results do not depend on the order in the file
    files = [path for path, _ in found]
    if len(set(files)) < len(files):
        twice = next(path for path in files if files.count(path) > 1)
        raise DataError(f"{file}: {twice} is listed twice")
    labels = multi_hot([numbers for _, numbers in found], len(classes))
    return FilePart(title, FolderFiles(root, files), labels, ids=hash_names(files))


def _find_image(paths: TablePaths, file_name: str, title: str, location: str) -> str | None:
    """Find the image with a name; if several folders have one, prefer the folder of its split."""
    folders = sorted(each.name for each in paths.root.iterdir() if each.is_dir()) if title else []
    for folder in (name for name in folders if role_within(name) == title):
        if paths.is_file(posixpath.join(folder, file_name)):
            return posixpath.join(folder, file_name)
    return paths.find(file_name, location)


def _read_document(file: Path) -> Mapping[str, Any]:
    with reading(file, DataError, "as JSON"):
        document = parse_json(file.read_bytes())
    missing = [key for key in KEYS if not isinstance(document, dict) or key not in document]
    if missing:
        raise DataError(f"{file}: not COCO JSON: it lacks {', '.join(missing)}")
    required = {
        "images": ("id", "file_name"),
        "annotations": ("image_id", "category_id"),
        "categories": ("id", "name"),
    }
    for key, fields in required.items():
        entries = document[key] if isinstance(document[key], list) else [None]
        for index, each in enumerate(entries):
            values = [each.get(name) for name in fields] if isinstance(each, dict) else [None]
            if not all(isinstance(value, int | str) for value in values):
                raise DataError(
                    f"{file}: {key}[{index}]: expected {' and '.join(fields)}, numbers or text"
                )
    return dict(document)


def _iter_by_id(file: Path, document: Mapping[str, Any], key: str) -> Iterator[tuple[Any, Any]]:
    seen = set()
    for index, each in enumerate(document[key]):
        number = each["id"]
        if number in seen:
            raise DataError(f"{file}: {key}[{index}]: the id {number!r} is used twice")
        seen.add(number)
        yield number, each


def _text(value: Any) -> str:
    return str(value).strip()
