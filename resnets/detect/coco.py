"""COCO JSON: objects with boxes and outlines (cocodataset.org/#format-data).

Accepted: annotations/instances_<set>.json with the pictures of a set in <set>/, as COCO has it, and
any other JSON of the same form in a folder or tar with its pictures.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import Any

import numpy as np

from resnets.data.errors import DataError
from resnets.detect.records import (
    PictureFinder,
    Problem,
    RawObject,
    RawPart,
    RawPicture,
    RawSource,
    picture_paths,
)
from resnets.detect.store import Store, open_store

KEYS = ("images", "annotations", "categories")
PLAIN_NAMES = ("_annotations.coco", "annotations", "instances", "coco", "labels", "result")
NAN = float("nan")


def find_coco(store: Store) -> dict[str, str]:
    """Image set -> JSON file that describes it; empty where the store has no COCO JSON.

    Where there are instances_*.json, other files (captions, key points) are not looked at.
    """
    files = store.below("", ".json")
    instances = [path for path in files if PurePosixPath(path).name.startswith("instances_")]
    found = {}
    for path in instances or files:
        if instances or _looks_like_coco(store.read(path)):
            found[_title(path)] = path
    return found


def open_coco(store: Store, files: dict[str, str], name: str, *, masks: bool) -> RawSource:
    """The sets of `files` (from `find_coco`); classes are those of the training set's file.

    DataError: a file that is no COCO JSON. `masks` keeps the outlines, which take memory.
    """
    first = next((title for title in files if title.startswith("train")), next(iter(files)))
    read: dict[str, dict[str, Any]] = {}

    def document(title: str) -> dict[str, Any]:
        if title not in read:
            read.clear()  # one at a time: COCO's training set takes gigabytes
            read[title] = _document(store, files[title])
        return read[title]

    whole = document(first)
    categories = _categories(whole, store.called(files[first]))
    pictures = _pictures_of(whole, store, files[first])
    finder = PictureFinder(pictures, picture_paths(pictures))

    def load(title: str) -> RawPart:
        path = files[title]
        where = store.called(path)
        found = _part(document(title), categories, finder, where, (title, _folder(path)), masks)
        read.clear()
        return found

    numbers = tuple(sorted(categories))
    classes = tuple(categories[number] for number in numbers)
    return RawSource(name, pictures, classes, numbers, tuple(files), load, has_masks=True)


def _pictures_of(document: dict[str, Any], store: Store, path: str) -> Store:
    """Where the pictures are: in the store, or where a repaired file says (`info.pictures`)."""
    info = document.get("info")
    elsewhere = info.get("pictures") if isinstance(info, dict) else None
    if not isinstance(elsewhere, str):
        return store
    try:
        return open_store(elsewhere)
    except DataError as error:
        raise DataError(f"{store.called(path)}: info.pictures: {error}") from error


def _looks_like_coco(data: bytes) -> bool:
    try:
        document = json.loads(data)
    except ValueError:
        return False
    return isinstance(document, dict) and all(key in document for key in KEYS)


def _title(path: str) -> str:
    """ "train2017" of annotations/instances_train2017.json, "train" of train/annotations.json."""
    stem = PurePosixPath(path).stem
    folder = _folder(path)
    if stem.lower() in PLAIN_NAMES:
        return "" if folder in ("annotations", "") else folder
    return stem.removeprefix("instances_").removesuffix("_annotations").removeprefix("annotations_")


def _folder(path: str) -> str:
    return PurePosixPath(path).parent.name


def _document(store: Store, path: str) -> dict[str, Any]:
    where = store.called(path)
    try:
        document = json.loads(store.read(path))
    except ValueError as error:
        raise DataError(f"{where}: no JSON ({error}); restore it") from error
    lists = isinstance(document, dict) and all(isinstance(document.get(k), list) for k in KEYS)
    if not lists:
        raise DataError(f"{where}: no COCO JSON; it needs lists called {', '.join(KEYS)}")
    for key in KEYS:
        for number, entry in enumerate(document[key]):
            if not isinstance(entry, dict):
                raise DataError(f"{where}: {key}[{number}]: is no object of COCO's form")
    return document


def _categories(document: dict[str, Any], where: str) -> dict[int, str]:
    names: dict[int, str] = {}
    for entry in document["categories"]:
        number, name = entry.get("id"), entry.get("name")
        if not isinstance(number, int) or not isinstance(name, str):
            raise DataError(f"{where}: categories: {entry} lacks a whole number as id, or a name")
        if number in names or name in names.values():
            raise DataError(f"{where}: categories: {number} ({name}) occurs twice; rename one")
        names[number] = name
    if not names:
        raise DataError(f"{where}: categories: is empty; name at least one")
    return names


def _part(
    document: dict[str, Any],
    categories: dict[int, str],
    finder: PictureFinder,
    where: str,
    hints: Sequence[str],
    masks: bool,
) -> RawPart:
    label_of = {number: label for label, number in enumerate(sorted(categories))}
    stated = _categories(document, where)
    names = {**stated, **categories}
    if unlike := [number for number in stated if stated[number] != categories.get(number)]:
        raise DataError(
            f"{where}: category {unlike[0]} ({stated[unlike[0]]}) is not what it is in the"
            f" training set ({categories.get(unlike[0], 'missing')}); use one list for both"
        )
    objects: dict[Any, list[RawObject]] = defaultdict(list)
    seen: set[Any] = set()
    problems = []
    known = {_key(entry.get("id")) for entry in document["images"]}
    for number, entry in enumerate(document["annotations"]):
        found = _object(entry, number, label_of, names, masks)
        image = _key(entry.get("image_id"))
        if image not in known:
            said = f"image_id {image!r}: no such image in the file"
            problems.append(Problem(where, found.item, "no image", said))
            continue
        if found.item in seen:
            said = "id occurs twice"
            problems.append(Problem(where, found.item, "id twice", said))
            continue
        seen.add(found.item)
        objects[image].append(found)
    pictures = []
    for entry in document["images"]:
        image = _key(entry.get("id"))
        if image not in known:
            problems.append(Problem(where, f"image {image!r}", "id twice", "id occurs twice"))
            continue
        known.discard(image)
        pictures.append(_picture(entry, image, tuple(objects[image]), finder, where, hints))
    return RawPart(pictures, problems)


def _picture(
    entry: dict[str, Any],
    image: Any,
    objects: tuple[RawObject, ...],
    finder: PictureFinder,
    where: str,
    hints: Sequence[str],
) -> RawPicture:
    called = str(entry.get("file_name", ""))
    path = finder.find(called, hints) if called else None
    width, height = _whole(entry.get("width")), _whole(entry.get("height"))
    return RawPicture(image, path, called or f"image {image}", where, width, height, objects)


def _object(
    entry: dict[str, Any],
    number: int,
    label_of: dict[int, int],
    names: dict[int, str],
    masks: bool,
) -> RawObject:
    """Values that are missing or of a wrong type become NaN or -1, which the check then names."""
    stated = entry.get("category_id")
    category = stated if isinstance(stated, int) else -1
    box = entry.get("bbox")
    values = [_number(value) for value in box] if isinstance(box, list) else []
    left, top, width, height = values if len(values) == 4 else (NAN,) * 4
    area = _number(entry.get("area"))
    return RawObject(
        item=f"annotation {entry.get('id', f'number {number}')}",
        label=label_of.get(category, -1),
        category=str(names.get(category, stated)),
        box=(left, top, left + width, top + height),
        area=area if area > 0 else None,
        crowd=bool(entry.get("iscrowd", 0)),
        difficult=bool(entry.get("difficult", 0)),  # as our repaired VOC sets have it
        segmentation=_outline(entry.get("segmentation")) if masks else None,
    )


def _outline(value: Any) -> Any:
    """A segmentation with its polygons as arrays, a third of the memory; bad ones as they are."""
    if not isinstance(value, list):
        return value or None
    arrays = [np.asarray(p) if _is_flat(p) else p for p in value]
    return [p.astype(np.float64) if _is_numeric(p) else p for p in arrays] or None


def _is_flat(points: Any) -> bool:
    return isinstance(points, list) and not any(isinstance(each, list | dict) for each in points)


def _is_numeric(points: Any) -> bool:
    return isinstance(points, np.ndarray) and points.dtype.kind in "iuf"


def _key(value: Any) -> int | str | None:
    return value if isinstance(value, int | str) else None


def _number(value: Any) -> float:
    return float(value) if isinstance(value, int | float) else NAN


def _whole(value: Any) -> int:
    return int(value) if isinstance(value, int | float) and 0 <= value < 1 << 31 else 0
