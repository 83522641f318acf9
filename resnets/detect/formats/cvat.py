"""CVAT's XML for images, version 1.1: boxes, polygons, ellipses and masks of many images.

Objects are in the order of their `z_order`. Turned boxes get the box around them. Shapes that
enclose nothing, tags and attributes are counted; "CVAT for video" (tracks) is refused by name.
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
from resnets.data.layout.folder_names import role_within, split_role
from resnets.detect.data.documents import parse_xml
from resnets.detect.data.values import read_id, read_name, read_number, read_side
from resnets.detect.formats.records import (
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
    turned,
)
from resnets.detect.images.entries import Stated
from resnets.detect.images.index import ImageIndex
from resnets.detect.images.store import Store

HEAD = 1 << 12
MANY = 200  # XML files from which on only those called annotations are looked at
NO_SHAPE = frozenset({"tag"})
Entry = tuple[str, ElementTree.Element]  # an image and the file that it is in


def find_cvat(store: Store) -> list[str]:
    """CVAT's files; empty where the store has none."""
    files = store.below("", ".xml")
    if len(files) > MANY:
        files = [path for path in files if "annotations" in PurePosixPath(path).stem.lower()]
    return [path for path in files if _looks_like_cvat(store.head(path, HEAD))]


def open_cvat(store: Store, paths: Sequence[str], name: str, masks: bool) -> RawDataset:
    """The images of all `paths`, by their subsets, or by folders called like splits.

    Classes are the labels that the files declare, in their order, else the sorted names. DataError:
    a file with tracks, or one that is damaged.
    """
    parts: dict[str, list[Entry]] = {}
    declared: dict[str, None] = {}
    for path in paths:
        root = parse_xml(store.read(path), store.called(path))
        if root.tag != "annotations" or root.find("track") is not None:
            raise DataError(
                f"{store.called(path)}: is 'CVAT for video' (tracks); export it as 'CVAT for images"
                " 1.1'"
            )
        for label in root.iterfind("meta//labels/label"):
            if label.find("parent") is None and read_name(label.findtext("name")):
                declared[read_name(label.findtext("name"))] = None
        folders = PurePosixPath(path).parts[:-1]
        home = next((folder for folder in folders if split_role(folder)), "")
        for image in root.iterfind("image"):
            subset = read_name(image.get("subset"))
            title = home if subset.lower() in ("", "default") else subset.replace("+", "_")
            parts.setdefault(title, []).append((path, image))
    if not parts:
        raise DataError(f"{store.where}: its CVAT files hold no images")
    classes = _classes(parts, declared)
    if not classes:
        raise DataError(f"{store.where}: its CVAT files name no labels")
    label_of = {each: label for label, each in enumerate(classes)}
    index = ImageIndex.of(store)

    def load(title: str) -> RawImageSet:
        return _part(store, parts[title], title, index, label_of, masks)

    numbers = tuple(range(1, len(classes) + 1))
    return RawDataset(name, store, classes, numbers, tuple(parts), load)


def _part(
    store: Store,
    entries: Sequence[Entry],
    title: str,
    index: ImageIndex,
    label_of: dict[str, int],
    masks: bool,
) -> RawImageSet:
    unread: Counter[str] = Counter()
    images, stated = [], []
    ids = Counter((read_id(image.get("id")) for _, image in entries))
    for path, image in entries:
        name = read_name(image.get("name"))
        stated.append(Stated((name or "?",), path, title))
        size = read_side(image.get("height")), read_side(image.get("width"))
        objects: list[RawObject] = []
        for number, shape in sorted(enumerate(image), key=lambda each: _z_order(each[1])):
            if shape.tag not in READ:
                unread[shape.tag if shape.tag in NO_SHAPE else f"{shape.tag} shapes"] += 1
                continue
            unread["attributes"] += sum(child.tag == "attribute" for child in shape)
            read = partial(READ[shape.tag], shape, size)
            each = shape_object(shape.tag, read, shape.get("label"), number, label_of)
            objects.append(each if masks else replace(each, segmentation=None))
        image_id = read_id(image.get("id"))
        usable = image_id is not None and ids[image_id] == 1
        images.append(
            RawImage(
                image_id if usable and image_id is not None else name,
                None,
                name or f"image {image.get('id')!r}",
                store.called(path),
                size[1],
                size[0],
                tuple(objects),
            )
        )
    found = with_matches(images, index.match(stated))
    notes = []
    if unread.total():
        listed = ", ".join(f"{count:,} {kind}" for kind, count in unread.most_common() if count)
        notes.append(f"{title or 'all'}: not read: {listed}")
    return RawImageSet(found, (), (), sum(len(each.objects) for each in found), notes)


def _z_order(shape: ElementTree.Element) -> float:
    """Shapes of a higher one lie on top; those of one lie in the order of the file."""
    given = read_number(shape.get("z_order", "0"))
    return given if math.isfinite(given) else 0.0


def _number(shape: ElementTree.Element, key: str) -> float:
    if shape.get(key) is None:
        raise ValueError(f"has no {key}")
    return read_number(shape.get(key))


def _box(shape: ElementTree.Element, size: tuple[int, int]) -> Read:
    left, top, right, bottom = (_number(shape, key) for key in ("xtl", "ytl", "xbr", "ybr"))
    rotation = read_number(shape.get("rotation", "0"))
    if not rotation:
        return (left, top, right, bottom), None, None
    corners = rectangle(left, top, right, bottom)
    parts = [turned(corners, (left + right) / 2, (top + bottom) / 2, rotation)]
    return box_around(parts), flat(parts), area_of(parts)


def _polygon(shape: ElementTree.Element, size: tuple[int, int]) -> Read:
    pairs = [pair.split(",") for pair in (shape.get("points") or "").split(";")]
    if len(pairs) < 3 or any(len(pair) != 2 for pair in pairs):
        raise ValueError("has fewer than three corners of x and y")
    parts = [np.array([[read_number(x), read_number(y)] for x, y in pairs])]
    return box_around(parts), flat(parts), area_of(parts)


def _ellipse(shape: ElementTree.Element, size: tuple[int, int]) -> Read:
    x, y, rx, ry = (_number(shape, key) for key in ("cx", "cy", "rx", "ry"))
    parts = [ellipse(x, y, rx, ry, read_number(shape.get("rotation", "0")))]
    return box_around(parts), flat(parts), area_of(parts)


def _mask(shape: ElementTree.Element, size: tuple[int, int]) -> Read:
    sides = [_number(shape, key) for key in ("left", "top", "width", "height")]
    sane = all(side.is_integer() and 0 <= side <= 1 << 16 for side in sides)
    if not sane or sides[2] * sides[3] > MAX_PIXELS:
        raise ValueError("has a side that is no whole number of pixels")
    left, top, width, height = map(int, sides)
    words = [read_number(each) for each in (shape.get("rle") or "").split(",")]
    whole = all(each.is_integer() and each >= 0 for each in words)
    if not whole or sum(words) != width * height or left + width > size[1]:
        raise ValueError(f"has runs that do not add up to {width} x {height} pixels in the image")
    runs = np.array(words, np.int64)
    mask = np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape(height, width)
    return (
        mask_box(mask, left, top),
        mask_outline(mask, left, top, *size),
        float(mask.sum()) or None,
    )


READ: dict[str, Callable[[ElementTree.Element, tuple[int, int]], Read]] = {
    "box": _box,
    "polygon": _polygon,
    "ellipse": _ellipse,
    "mask": _mask,
}


def _classes(parts: dict[str, list[Entry]], declared: dict[str, None]) -> tuple[str, ...]:
    if declared:
        return tuple(declared)
    training = [title for title in parts if role_within(title) in ("train", "trainval")]
    names = {
        read_name(shape.get("label"))
        for title in training or parts
        for _, image in parts[title]
        for shape in image
        if shape.tag in READ
    }
    return tuple(sorted(names - {""}))


def _looks_like_cvat(head: bytes) -> bool:
    text = head.replace(b"\0", b"")  # UTF-16
    start = text.find(b"<annotations")
    return start >= 0 and text[start + 12 : start + 13] in (b">", b" ", b"\n", b"\r", b"\t")
