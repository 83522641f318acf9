"""CVAT's XML for images, version 1.1: boxes, polygons, ellipses and masks of many images.

Objects are sorted by `z_order`. Rotated boxes are read as polygons. Shapes without an area, tags
and attributes are not read, but counted. "CVAT for video" (tracks) is refused.
"""

from __future__ import annotations

import math
import xml.etree.ElementTree as ElementTree
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import PurePosixPath

import numpy as np

from resnets.data.decode.open_image import MAX_PIXELS
from resnets.data.errors import DataError
from resnets.data.layout.folder_names import split_role
from resnets.detect.data.documents import parse_xml
from resnets.detect.data.values import read_id, read_name, read_number, read_side
from resnets.detect.formats.records import (
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
    rotate_corners,
    to_coco_polygons,
)
from resnets.detect.images.index import ImageIndex
from resnets.detect.images.path_matching import ImageReference
from resnets.detect.images.store import Store

HEAD = 1 << 12
MANY_FILES = 200  # XML files from which on only those called annotations are looked at
NOT_SHAPES = frozenset({"tag"})
Entry = tuple[str, ElementTree.Element]  # an image and the file that it is in


def find_cvat(store: Store) -> list[str]:
    """Return the paths of CVAT's files; empty if there are none."""
    files = store.find_files("", ".xml")
    if len(files) > MANY_FILES:
        files = [path for path in files if "annotations" in PurePosixPath(path).stem.lower()]
    return [path for path in files if _looks_like_cvat(store.head(path, HEAD))]


def open_cvat(store: Store, paths: Sequence[str], name: str, masks: bool) -> RawDataset:
    """Open the images of all `paths`; image sets are their subsets, or folders named like splits.

    Classes are the labels that the files declare, in their order, or else the sorted names.
    DataError for a file with tracks, or a damaged one.
    """
    image_sets: dict[str, list[Entry]] = {}
    labels: dict[str, None] = {}
    for path in paths:
        root = parse_xml(store.read(path), store.display_path(path))
        if root.tag != "annotations" or root.find("track") is not None:
            raise DataError(
                f"{store.display_path(path)}: is 'CVAT for video' (tracks); export it as 'CVAT for"
                " images 1.1'"
            )
        for label in root.iterfind("meta//labels/label"):
            if label.find("parent") is None and read_name(label.findtext("name")):
                labels[read_name(label.findtext("name"))] = None
        folders = PurePosixPath(path).parts[:-1]
        split_folder = next((folder for folder in folders if split_role(folder)), "")
        for image in root.iterfind("image"):
            subset = read_name(image.get("subset"))
            title = split_folder if subset.lower() in ("", "default") else subset.replace("+", "_")
            image_sets.setdefault(title, []).append((path, image))
    if not image_sets:
        raise DataError(f"{store.where}: its CVAT files contain no images")
    classes = _collect_classes(image_sets, labels)
    if not classes:
        raise DataError(f"{store.where}: its CVAT files name no labels")
    label_of = {each: label for label, each in enumerate(classes)}
    index = ImageIndex.of(store)

    def load(title: str) -> RawImageSet:
        return _read_image_set(store, image_sets[title], title, index, label_of, masks)

    numbers = tuple(range(1, len(classes) + 1))
    return RawDataset(name, store, classes, numbers, tuple(image_sets), load)


def _read_image_set(
    store: Store,
    entries: Sequence[Entry],
    title: str,
    index: ImageIndex,
    label_of: dict[str, int],
    masks: bool,
) -> RawImageSet:
    unread: Counter[str] = Counter()
    images, references = [], []
    ids = Counter((read_id(image.get("id")) for _, image in entries))
    for path, image in entries:
        name = read_name(image.get("name"))
        references.append(ImageReference((name or "?",), path, title))
        size = read_side(image.get("height")), read_side(image.get("width"))
        objects: list[RawObject] = []
        for number, shape in sorted(enumerate(image), key=lambda pair: _z_order(pair[1])):
            if shape.tag not in PARSERS:
                unread[shape.tag if shape.tag in NOT_SHAPES else f"{shape.tag} shapes"] += 1
                continue
            unread["attributes"] += sum(child.tag == "attribute" for child in shape)
            parse = partial(PARSERS[shape.tag], shape, size)
            raw_object = parse_shape(shape.tag, parse, shape.get("label"), number, label_of)
            objects.append(raw_object if masks else replace(raw_object, segmentation=None))
        image_id = read_id(image.get("id"))
        is_unique = image_id is not None and ids[image_id] == 1
        images.append(
            RawImage(
                image_id if is_unique and image_id is not None else name,
                None,
                name or f"image {image.get('id')!r}",
                store.display_path(path),
                size[1],
                size[0],
                tuple(objects),
            )
        )
    matched = set_image_paths(images, index.match(references))
    notes = []
    if unread.total():
        counts = ", ".join(f"{count:,} {kind}" for kind, count in unread.most_common() if count)
        notes.append(f"{title or 'all'}: not read: {counts}")
    return RawImageSet(matched, (), (), sum(len(each.objects) for each in matched), notes)


def _z_order(shape: ElementTree.Element) -> float:
    """Sort key: shapes with a larger one are on top."""
    z = read_number(shape.get("z_order", "0"))
    return z if math.isfinite(z) else 0.0


def _read_attribute(shape: ElementTree.Element, key: str) -> float:
    if shape.get(key) is None:
        raise ValueError(f"has no {key}")
    return read_number(shape.get(key))


def _parse_box(shape: ElementTree.Element, size: tuple[int, int]) -> Geometry:
    left, top, right, bottom = (_read_attribute(shape, key) for key in ("xtl", "ytl", "xbr", "ybr"))
    rotation = read_number(shape.get("rotation", "0"))
    if not rotation:
        return (left, top, right, bottom), None, None
    corners = rectangle_corners(left, top, right, bottom)
    polygons = [rotate_corners(corners, (left + right) / 2, (top + bottom) / 2, rotation)]
    return bounding_box(polygons), to_coco_polygons(polygons), polygon_area(polygons)


def _parse_polygon(shape: ElementTree.Element, size: tuple[int, int]) -> Geometry:
    pairs = [pair.split(",") for pair in (shape.get("points") or "").split(";")]
    if len(pairs) < 3 or any(len(pair) != 2 for pair in pairs):
        raise ValueError("has fewer than three corners of x and y")
    polygons = [np.array([[read_number(x), read_number(y)] for x, y in pairs])]
    return bounding_box(polygons), to_coco_polygons(polygons), polygon_area(polygons)


def _parse_ellipse(shape: ElementTree.Element, size: tuple[int, int]) -> Geometry:
    x, y, rx, ry = (_read_attribute(shape, key) for key in ("cx", "cy", "rx", "ry"))
    polygons = [ellipse_corners(x, y, rx, ry, read_number(shape.get("rotation", "0")))]
    return bounding_box(polygons), to_coco_polygons(polygons), polygon_area(polygons)


def _parse_mask(shape: ElementTree.Element, size: tuple[int, int]) -> Geometry:
    sides = [_read_attribute(shape, key) for key in ("left", "top", "width", "height")]
    valid = all(side.is_integer() and 0 <= side <= 1 << 16 for side in sides)
    if not valid or sides[2] * sides[3] > MAX_PIXELS:
        raise ValueError("has a side that is not a whole number of pixels")
    left, top, width, height = map(int, sides)
    lengths = [read_number(each) for each in (shape.get("rle") or "").split(",")]
    valid = all(each.is_integer() and each >= 0 for each in lengths)
    if not valid or sum(lengths) != width * height or left + width > size[1]:
        raise ValueError(f"has runs that do not add up to {width} x {height} pixels in the image")
    runs = np.array(lengths, np.int64)
    mask = np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape(height, width)
    return (
        placed_mask_box(mask, left, top),
        encode_placed_mask(mask, left, top, *size),
        float(mask.sum()) or None,
    )


PARSERS: dict[str, Callable[[ElementTree.Element, tuple[int, int]], Geometry]] = {
    "box": _parse_box,
    "polygon": _parse_polygon,
    "ellipse": _parse_ellipse,
    "mask": _parse_mask,
}


def _collect_classes(
    image_sets: dict[str, list[Entry]], labels: dict[str, None]
) -> tuple[str, ...]:
    if labels:
        return tuple(labels)
    training = [title for title in image_sets if is_training_set(title)]
    names = {
        read_name(shape.get("label"))
        for title in training or image_sets
        for _, image in image_sets[title]
        for shape in image
        if shape.tag in PARSERS
    }
    return tuple(sorted(names - {""}))


def _looks_like_cvat(head: bytes) -> bool:
    text = head.replace(b"\0", b"")  # UTF-16
    start = text.find(b"<annotations")
    return start >= 0 and text[start + 12 : start + 13] in (b">", b" ", b"\n", b"\r", b"\t")
