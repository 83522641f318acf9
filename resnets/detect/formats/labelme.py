"""labelme's JSON (and AnyLabeling's): one file per image, next to it or in a separate folder.

Polygons, rectangles, circles, rotated rectangles and masks are read. Shapes without an area
(points, lines) are counted by type. The copy of the image that a file may contain is not read.
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

from resnets.data.decode.decode import reading_image
from resnets.data.decode.open_image import open_image
from resnets.data.errors import DataError
from resnets.data.layout.folder_names import split_role
from resnets.detect.data.documents import parse_json
from resnets.detect.data.values import read_flag, read_name, read_number, read_side
from resnets.detect.formats.records import (
    Flaw,
    Problem,
    RawDataset,
    RawImage,
    RawImageSet,
    RawObject,
    is_training_set,
    set_image_paths,
)
from resnets.detect.formats.shapes import (
    Geometry,
    bounding_box,
    ellipse_corners,
    encode_placed_mask,
    parse_shape,
    placed_mask_box,
    polygon_area,
    rectangle_corners,
    to_coco_polygons,
)
from resnets.detect.images.index import ImageIndex
from resnets.detect.images.path_matching import ImageReference
from resnets.detect.images.store import Store

HEAD = 1 << 14
IGNORED_LABELS = frozenset({"__ignore__", "_background_"})
CLASS_FILES = ("labels.txt", "classes.txt", "class_names.txt")
GROUP_NOTES = {
    "polygon": "polygons, read as parts of one object",
    "other": "other shapes, each an object of its own",
}
Shape = dict[str, Any]


def find_labelme(store: Store) -> dict[str, list[str]]:
    """Return labelme's files by image set (folders named like splits); empty if there are none."""
    found: dict[str, list[str]] = {}
    for path in store.find_files("", ".json"):
        if _looks_like_labelme(store, path):
            folders = PurePosixPath(path).parts[:-1]
            title = next((name for name in folders if split_role(name)), "")
            found.setdefault(title, []).append(path)
    return found


def open_labelme(store: Store, parts: dict[str, list[str]], name: str, masks: bool) -> RawDataset:
    """Open the image sets of `parts` (from `find_labelme`).

    Classes are those of labels.txt or classes.txt in the top folder, or else the sorted labels of
    the shapes of the training sets that are read.
    """
    index = ImageIndex.of(store)

    def parse(path: str) -> dict[str, Any] | DataError:
        try:
            return _read_document(store, path)
        except DataError as error:
            return error

    training = [title for title in parts if is_training_set(title)]
    classes = _collect_classes(
        store, [parse(p) for title in training or parts for p in parts[title]]
    )
    if not classes:
        raise DataError(f"{store.where}: its labelme files have no shape with an area")
    label_of = {each: label for label, each in enumerate(classes)}

    def load(title: str) -> RawImageSet:
        return _read_image_set(store, parts[title], title, index, parse, label_of, masks)

    annotation_files = {path for paths in parts.values() for path in paths}
    images = {posixpath.splitext(path)[0] for path in annotation_files}
    unannotated = [
        path
        for path in index.paths
        if posixpath.splitext(path)[0] not in images
        and any(posixpath.dirname(path) == posixpath.dirname(each) for each in images)
    ]
    notes = []
    if unannotated:
        notes.append(
            f"{len(unannotated):,} images without a labelme file excluded, such as {unannotated[0]}"
        )
    numbers = tuple(range(1, len(classes) + 1))
    return RawDataset(name, store, classes, numbers, tuple(parts), load, notes=tuple(notes))


def _read_image_set(
    store: Store,
    paths: Sequence[str],
    title: str,
    index: ImageIndex,
    parse: Callable[[str], dict[str, Any] | DataError],
    label_of: dict[str, int],
    masks: bool,
) -> RawImageSet:
    problems, images, references = [], [], []
    unread: Counter[str] = Counter()
    grouped: Counter[str] = Counter()
    stems = Counter(PurePosixPath(path).stem for path in paths)
    for path in paths:
        document, where = parse(path), store.display_path(path)
        if isinstance(document, DataError):
            message = str(document).removeprefix(f"{where}: ")
            problems.append(Problem(where, "", "annotations", message))
            continue
        stem, image_path = PurePosixPath(path).stem, read_name(document.get("imagePath"))
        own_name = posixpath.join(posixpath.dirname(path), stem)
        references.append(
            ImageReference(
                tuple(filter(None, (image_path, own_name))), path, title, own_name=own_name
            )
        )
        height, width = (read_side(document.get(f"image{side}")) for side in ("Height", "Width"))
        size = height, width
        objects = _merge_groups(
            [
                _parse_object(each, number, label_of, size)
                for number, each in _closed_shapes(document, unread)
            ],
            document["shapes"],
            grouped,
        )
        objects_kept = objects if masks else [replace(each, segmentation=None) for each in objects]
        unread["marks of the whole image (flags)"] += _count_flags(document.get("flags"))
        long_id = str(PurePosixPath(path).with_suffix(""))
        images.append(
            RawImage(
                stem if stems[stem] == 1 else long_id,
                None,
                image_path or stem,
                where,
                width,
                height,
                tuple(objects_kept),
            )
        )
    matched = set_image_paths(images, index.match(references))
    notes = []
    if unread.total():
        counts = ", ".join(f"{count:,} {kind}" for kind, count in unread.most_common() if count)
        notes.append(f"{title or 'all'}: shapes that are not read: {counts}")
    notes += [
        f"{title or 'all'}: {count:,} shapes with a group_id that others of their label have too:"
        f" {GROUP_NOTES[kind]}"
        for kind, count in grouped.items()
    ]
    return RawImageSet(matched, problems, (), sum(len(each.objects) for each in matched), notes)


def _closed_shapes(document: dict[str, Any], unread: Counter[str]) -> list[tuple[int, Shape]]:
    """Return the shapes that have an area, with their indices; count the others in `unread`."""
    closed = []
    for number, shape in enumerate(document["shapes"]):
        kind = _kind(shape)
        if kind not in PARSERS:
            unread[kind] += 1
        elif read_name(shape.get("label")) in IGNORED_LABELS:
            unread[f"labelled {read_name(shape.get('label'))}"] += 1
        else:
            closed.append((number, shape))
    return closed


def _parse_object(
    shape: Shape, number: int, label_of: dict[str, int], size: tuple[int, int]
) -> RawObject:
    kind = _kind(shape)
    parse = partial(PARSERS[kind], shape, size)
    raw_object = parse_shape(kind, parse, shape.get("label"), number, label_of)
    difficult = read_flag(shape.get("difficult"))
    if difficult is None:
        flaw = Flaw("value", f"its difficult {shape['difficult']!r} is neither yes nor no")
        return replace(raw_object, flaws=(*raw_object.flaws, flaw))
    return replace(raw_object, difficult=difficult)


def _merge_groups(
    objects: list[RawObject], shapes: Sequence[Shape], grouped: Counter[str]
) -> list[RawObject]:
    """Merge polygons of one label and group_id into one object; other shapes stay single objects.

    `grouped` counts both.
    """
    merged: list[RawObject] = []
    index_of_group: dict[tuple[str, Any], int] = {}
    groups = {each.number: read_number(shapes[each.number].get("group_id")) for each in objects}
    group_sizes = Counter((each.category, groups[each.number]) for each in objects)
    for each in objects:
        group = groups[each.number]
        polygons = each.segmentation
        is_polygon = _kind(shapes[each.number]) == "polygon" and isinstance(polygons, list)
        if group == group and group_sizes[each.category, group] > 1:
            grouped["polygon" if is_polygon else "other"] += 1
        if group != group or not is_polygon or each.flaws:
            merged.append(each)
            continue
        key = each.category, group
        if key not in index_of_group:
            index_of_group[key] = len(merged)
            merged.append(each)
            continue
        first = merged[index_of_group[key]]
        assert isinstance(first.segmentation, list)
        assert isinstance(polygons, list)
        left, top, right, bottom = zip(each.box, first.box, strict=True)
        merged[index_of_group[key]] = replace(
            first,
            box=(min(left), min(top), max(right), max(bottom)),
            area=(each.area or 0) + (first.area or 0) or None,
            segmentation=[*first.segmentation, *polygons],
        )
    return merged


def _read_points(shape: Shape, min_count: int, max_count: int | None = None) -> Any:
    points = shape.get("points")
    values = points if isinstance(points, list) else []
    pairs = [each for each in values if isinstance(each, list | tuple) and len(each) == 2]
    if (
        len(pairs) != len(values)
        or len(pairs) < min_count
        or (max_count is not None and len(pairs) > max_count)
    ):
        needed = f"{min_count}" if max_count == min_count else f"{min_count} or more"
        raise ValueError(f"has {len(values)} corners; it needs {needed}, each x and y")
    return np.array([[read_number(x), read_number(y)] for x, y in pairs]).reshape(-1, 2)


def _parse_polygon(shape: Shape, size: tuple[int, int]) -> Geometry:
    parts = [_read_points(shape, 3)]
    return bounding_box(parts), to_coco_polygons(parts), polygon_area(parts)


def _parse_rectangle(shape: Shape, size: tuple[int, int]) -> Geometry:
    points = shape.get("points")
    if isinstance(points, list) and len(points) == 4:  # AnyLabeling's
        return _parse_polygon(shape, size)
    parts = [rectangle_corners(*bounding_box([_read_points(shape, 2, 2)]))]
    return bounding_box(parts), to_coco_polygons(parts), polygon_area(parts)


def _parse_circle(shape: Shape, size: tuple[int, int]) -> Geometry:
    (x, y), edge = _read_points(shape, 2, 2)
    radius = float(np.hypot(edge[0] - x, edge[1] - y))
    parts = [ellipse_corners(x, y, radius, radius)]
    return (
        (x - radius, y - radius, x + radius, y + radius),
        to_coco_polygons(parts),
        polygon_area(parts),
    )


def _parse_mask(shape: Shape, size: tuple[int, int]) -> Geometry:
    corners = _read_points(shape, 2, 2)
    text = shape.get("mask")
    if not isinstance(text, str):
        raise ValueError("has no pixels")
    try:
        data = base64.b64decode(text, validate=True)
    except ValueError:
        raise ValueError("has pixels that are not base64") from None
    with reading_image("a mask"), open_image(data) as image:
        mask = np.asarray(image.convert("L")) > 0
    if not np.isfinite(corners).all() or np.abs(corners).max() > 1 << 20:
        raise ValueError("has corners out of range")
    left, top = map(round, corners[0].tolist())
    outline = encode_placed_mask(mask, left, top, *size)
    return placed_mask_box(mask, left, top), outline, float(mask.sum()) or None


PARSERS: dict[str, Callable[[Shape, tuple[int, int]], Geometry]] = {
    "polygon": _parse_polygon,
    "rotation": _parse_polygon,
    "quadrilateral": _parse_polygon,
    "rectangle": _parse_rectangle,
    "circle": _parse_circle,
    "mask": _parse_mask,
}


def _kind(shape: Shape) -> str:
    """Return the type of a shape; labelme's first versions drew only polygons and wrote no type."""
    return read_name(shape.get("shape_type")) or "polygon"


def _count_flags(flags: Any) -> int:
    return sum(value is True for value in flags.values()) if isinstance(flags, dict) else 0


def _collect_classes(
    store: Store, documents: Sequence[dict[str, Any] | DataError]
) -> tuple[str, ...]:
    listed = next((path for path in store.rows if path.lower() in CLASS_FILES), None)
    if listed is not None:
        lines = [read_name(line) for line in store.read_lines(listed)]
        return tuple(dict.fromkeys(line for line in lines if line and line not in IGNORED_LABELS))
    names = {
        read_name(shape.get("label"))
        for document in documents
        if not isinstance(document, DataError)
        for shape in document["shapes"]
        if _kind(shape) in PARSERS
    }
    return tuple(sorted(names - IGNORED_LABELS - {""}))


def _read_document(store: Store, path: str) -> dict[str, Any]:
    where = store.display_path(path)
    document = parse_json(store.read(path), where)
    shapes = document.get("shapes") if isinstance(document, dict) else None
    if not isinstance(shapes, list) or not all(isinstance(each, dict) for each in shapes):
        raise DataError(f"{where}: not a labelme file; it needs a list called shapes")
    document.pop("imageData", None)  # megabytes each
    return document


def _looks_like_labelme(store: Store, path: str) -> bool:
    head = store.head(path, HEAD)
    if b'"shapes"' in head:
        return b'"imagePath"' in head or b'"imagePath"' in store.read(path)
    return b'"imagePath"' in head and b'"shapes"' in store.read(path)
