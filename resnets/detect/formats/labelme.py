"""labelme's JSON (and AnyLabeling's): one file for each image, beside it or in a folder of its own.

Polygons, rectangles, circles, turned rectangles and masks are read; shapes that enclose nothing
(points, lines) are counted by type. The copy of the image that a file may hold is not looked at.
"""

from __future__ import annotations

import base64
import posixpath
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import PurePosixPath
from typing import Any

import numpy as np

from resnets.data.decode.decode import naming
from resnets.data.decode.open_image import open_image
from resnets.data.errors import DataError
from resnets.data.layout.folder_names import role_within, split_role
from resnets.detect.data.documents import parse_json
from resnets.detect.data.values import read_flag, read_name, read_number, read_side
from resnets.detect.formats.records import (
    Flaw,
    Problem,
    RawDataset,
    RawImage,
    RawImageSet,
    RawObject,
    with_matches,
)
from resnets.detect.formats.shapes import (
    Read,
    area_of,
    box_around,
    ellipse,
    flat,
    mask_box,
    mask_outline,
    rectangle,
    shape_object,
)
from resnets.detect.images.entries import Stated
from resnets.detect.images.index import ImageIndex
from resnets.detect.images.store import Store

HEAD = 1 << 14
NO_CLASS = frozenset({"__ignore__", "_background_"})
CLASS_FILES = ("labels.txt", "classes.txt", "class_names.txt")
GROUPED = {
    "polygon": "polygons, taken as parts of one object",
    "other": "no polygons, each an object of its own",
}
Shape = dict[str, Any]


def find_labelme(store: Store) -> dict[str, list[str]]:
    """Image set -> labelme's files, by folders called like splits; empty without any."""
    found: dict[str, list[str]] = {}
    for path in store.below("", ".json"):
        if _looks_like_labelme(store, path):
            folders = PurePosixPath(path).parts[:-1]
            title = next((name for name in folders if split_role(name)), "")
            found.setdefault(title, []).append(path)
    return found


def open_labelme(store: Store, parts: dict[str, list[str]], name: str, masks: bool) -> RawDataset:
    """The sets of `parts` (from `find_labelme`).

    Classes: those of labels.txt or classes.txt at the top, else the sorted labels of the shapes
    that are read in the training sets.
    """
    index = ImageIndex.of(store)

    def parse(path: str) -> dict[str, Any] | DataError:
        try:
            return _document(store, path)
        except DataError as error:
            return error

    training = [title for title in parts if role_within(title) in ("train", "trainval")]
    classes = _classes(store, [parse(p) for title in training or parts for p in parts[title]])
    if not classes:
        raise DataError(f"{store.where}: its labelme files have no shape that encloses anything")
    label_of = {each: label for label, each in enumerate(classes)}

    def load(title: str) -> RawImageSet:
        return _part(store, parts[title], title, index, parse, label_of, masks)

    listed = {path for paths in parts.values() for path in paths}
    images = {posixpath.splitext(path)[0] for path in listed}
    bare = [
        path
        for path in index.paths
        if posixpath.splitext(path)[0] not in images
        and any(posixpath.dirname(path) == posixpath.dirname(each) for each in images)
    ]
    notes = []
    if bare:
        notes.append(f"{len(bare):,} images without a labelme file left out, such as {bare[0]}")
    numbers = tuple(range(1, len(classes) + 1))
    return RawDataset(name, store, classes, numbers, tuple(parts), load, notes=tuple(notes))


def _part(
    store: Store,
    paths: Sequence[str],
    title: str,
    index: ImageIndex,
    parse: Callable[[str], dict[str, Any] | DataError],
    label_of: dict[str, int],
    masks: bool,
) -> RawImageSet:
    problems, images, entries = [], [], []
    unread: Counter[str] = Counter()
    grouped: Counter[str] = Counter()
    stems = Counter(PurePosixPath(path).stem for path in paths)
    for path in paths:
        document, where = parse(path), store.called(path)
        if isinstance(document, DataError):
            message = str(document).removeprefix(f"{where}: ")
            problems.append(Problem(where, "", "annotations", message))
            continue
        stem, stated = PurePosixPath(path).stem, read_name(document.get("imagePath"))
        beside = posixpath.join(posixpath.dirname(path), stem)
        entries.append(Stated(tuple(filter(None, (stated, beside))), path, title, own=beside))
        height, width = (read_side(document.get(f"image{side}")) for side in ("Height", "Width"))
        size = height, width
        objects = _merged(
            [_object(each, number, label_of, size) for number, each in _read(document, unread)],
            document["shapes"],
            grouped,
        )
        kept = objects if masks else [replace(each, segmentation=None) for each in objects]
        unread["marks of the whole image (flags)"] += _marked(document.get("flags"))
        whole = str(PurePosixPath(path).with_suffix(""))
        images.append(
            RawImage(
                stem if stems[stem] == 1 else whole,
                None,
                stated or stem,
                where,
                width,
                height,
                tuple(kept),
            )
        )
    found = with_matches(images, index.match(entries))
    notes = []
    if unread.total():
        listed = ", ".join(f"{count:,} {kind}" for kind, count in unread.most_common() if count)
        notes.append(f"{title or 'all'}: shapes that are not read: {listed}")
    notes += [
        f"{title or 'all'}: {count:,} shapes with a group_id that others of their label have too:"
        f" {GROUPED[kind]}"
        for kind, count in grouped.items()
    ]
    return RawImageSet(found, problems, (), sum(len(each.objects) for each in found), notes)


def _read(document: dict[str, Any], unread: Counter[str]) -> list[tuple[int, Shape]]:
    """The shapes that enclose something, with their numbers; others are counted."""
    found = []
    for number, shape in enumerate(document["shapes"]):
        kind = _kind(shape)
        if kind not in READ:
            unread[kind] += 1
        elif read_name(shape.get("label")) in NO_CLASS:
            unread[f"labelled {read_name(shape.get('label'))}"] += 1
        else:
            found.append((number, shape))
    return found


def _object(
    shape: Shape, number: int, label_of: dict[str, int], size: tuple[int, int]
) -> RawObject:
    kind = _kind(shape)
    read = partial(READ[kind], shape, size)
    found = shape_object(kind, read, shape.get("label"), number, label_of)
    difficult = read_flag(shape.get("difficult"))
    if difficult is None:
        flaw = Flaw("value", f"its difficult {shape['difficult']!r} is neither yes nor no")
        return replace(found, flaws=(*found.flaws, flaw))
    return replace(found, difficult=difficult)


def _merged(
    objects: list[RawObject], shapes: Sequence[Shape], grouped: Counter[str]
) -> list[RawObject]:
    """Polygons of one label and group_id as one object; other shapes stay objects of their own.

    `grouped` counts both.
    """
    found: list[RawObject] = []
    first: dict[tuple[str, Any], int] = {}
    groups = {each.number: read_number(shapes[each.number].get("group_id")) for each in objects}
    sizes = Counter((each.category, groups[each.number]) for each in objects)
    for each in objects:
        group = groups[each.number]
        parts = each.segmentation
        polygon = _kind(shapes[each.number]) == "polygon" and isinstance(parts, list)
        if group == group and sizes[each.category, group] > 1:
            grouped["polygon" if polygon else "other"] += 1
        if group != group or not polygon or each.flaws:
            found.append(each)
            continue
        key = each.category, group
        if key not in first:
            first[key] = len(found)
            found.append(each)
            continue
        other = found[first[key]]
        assert isinstance(other.segmentation, list)
        assert isinstance(parts, list)
        left, top, right, bottom = zip(each.box, other.box, strict=True)
        found[first[key]] = replace(
            other,
            box=(min(left), min(top), max(right), max(bottom)),
            area=(each.area or 0) + (other.area or 0) or None,
            segmentation=[*other.segmentation, *parts],
        )
    return found


def _points(shape: Shape, least: int, most: int | None = None) -> Any:
    points = shape.get("points")
    listed = points if isinstance(points, list) else []
    pairs = [each for each in listed if isinstance(each, list | tuple) and len(each) == 2]
    if len(pairs) != len(listed) or len(pairs) < least or (most is not None and len(pairs) > most):
        number = f"{least}" if most == least else f"{least} or more"
        raise ValueError(f"has {len(listed)} corners; it needs {number}, each x and y")
    return np.array([[read_number(x), read_number(y)] for x, y in pairs]).reshape(-1, 2)


def _polygon(shape: Shape, size: tuple[int, int]) -> Read:
    parts = [_points(shape, 3)]
    return box_around(parts), flat(parts), area_of(parts)


def _rectangle(shape: Shape, size: tuple[int, int]) -> Read:
    points = shape.get("points")
    if isinstance(points, list) and len(points) == 4:  # AnyLabeling's
        return _polygon(shape, size)
    parts = [rectangle(*box_around([_points(shape, 2, 2)]))]
    return box_around(parts), flat(parts), area_of(parts)


def _circle(shape: Shape, size: tuple[int, int]) -> Read:
    (x, y), edge = _points(shape, 2, 2)
    radius = float(np.hypot(edge[0] - x, edge[1] - y))
    parts = [ellipse(x, y, radius, radius)]
    return (x - radius, y - radius, x + radius, y + radius), flat(parts), area_of(parts)


def _mask(shape: Shape, size: tuple[int, int]) -> Read:
    corners = _points(shape, 2, 2)
    text = shape.get("mask")
    if not isinstance(text, str):
        raise ValueError("has no pixels")
    try:
        data = base64.b64decode(text, validate=True)
    except ValueError:
        raise ValueError("has pixels that are not base64") from None
    with naming("a mask"), open_image(data) as image:
        mask = np.asarray(image.convert("L")) > 0
    if not np.isfinite(corners).all() or np.abs(corners).max() > 1 << 20:
        raise ValueError("lies nowhere")
    left, top = map(round, corners[0].tolist())
    outline = mask_outline(mask, left, top, *size)
    return mask_box(mask, left, top), outline, float(mask.sum()) or None


READ: dict[str, Callable[[Shape, tuple[int, int]], Read]] = {
    "polygon": _polygon,
    "rotation": _polygon,
    "quadrilateral": _polygon,
    "rectangle": _rectangle,
    "circle": _circle,
    "mask": _mask,
}


def _kind(shape: Shape) -> str:
    """labelme's first versions drew polygons only, and wrote no type."""
    return read_name(shape.get("shape_type")) or "polygon"


def _marked(flags: Any) -> int:
    return sum(value is True for value in flags.values()) if isinstance(flags, dict) else 0


def _classes(store: Store, documents: Sequence[dict[str, Any] | DataError]) -> tuple[str, ...]:
    listed = next((path for path in store.rows if path.lower() in CLASS_FILES), None)
    if listed is not None:
        lines = [read_name(line) for line in store.lines(listed)]
        return tuple(dict.fromkeys(line for line in lines if line and line not in NO_CLASS))
    names = {
        read_name(shape.get("label"))
        for document in documents
        if not isinstance(document, DataError)
        for shape in document["shapes"]
        if _kind(shape) in READ
    }
    return tuple(sorted(names - NO_CLASS - {""}))


def _document(store: Store, path: str) -> dict[str, Any]:
    where = store.called(path)
    document = parse_json(store.read(path), where)
    shapes = document.get("shapes") if isinstance(document, dict) else None
    if not isinstance(shapes, list) or not all(isinstance(each, dict) for each in shapes):
        raise DataError(f"{where}: no labelme file; it needs a list called shapes")
    document.pop("imageData", None)  # megabytes each
    return document


def _looks_like_labelme(store: Store, path: str) -> bool:
    head = store.head(path, HEAD)
    if b'"shapes"' in head:
        return b'"imagePath"' in head or b'"imagePath"' in store.read(path)
    return b'"imagePath"' in head and b'"shapes"' in store.read(path)
