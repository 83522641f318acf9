"""VOC XML: one file of boxes for each image (Everingham et al. 2010, and ImageNet's own).

Accepted: Annotations/, JPEGImages/ and ImageSets/Main/ as VOC has them, for one year or for several
beside each other (VOC2007/, VOC2012/), in upper or lower case; and any folder or tar with XML files
and their images, split by folders called train, val and test where there are any
(`data.layout.folder_names`). Which file belongs to which entry: `image_index`.
"""

from __future__ import annotations

import math
import posixpath
import xml.etree.ElementTree as ElementTree
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import PurePosixPath

from resnets.data.errors import DataError
from resnets.detect.data.documents import parse_xml
from resnets.detect.data.values import read_flag, read_name, read_number, read_side
from resnets.detect.formats.records import (
    Box,
    Flaw,
    Problem,
    RawDataset,
    RawImage,
    RawImageSet,
    RawObject,
    with_matches,
)
from resnets.detect.formats.set_checks import swapped, with_form
from resnets.detect.formats.voc.lists import SET_FOLDER, UNLISTED, image_lists, is_training
from resnets.detect.images.entries import Stated
from resnets.detect.images.index import ImageIndex
from resnets.detect.images.store import Store, has_image_suffix

_WITHOUT_OBJECTS = ", but its image is listed; one without objects needs an XML without <object>"
CLASSES = (
    *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa"),
    *("train", "tvmonitor"),
)
_Parse = Callable[[str], "ElementTree.Element | str"]
CORNERS = ("xmin", "ymin", "xmax", "ymax")


def open_voc(
    store: Store, parts: dict[str, list[str]], name: str, *, all_classes: bool = False
) -> RawDataset:
    """The sets of `parts` (from `find_voc`).

    Classes: VOC's twenty where all are among the names, or `all_classes`; else classes.txt, else
    the sorted names in the training sets (in all sets where none is called so).
    """
    index = ImageIndex.of(store)

    def parse(path: str) -> ElementTree.Element | str:
        try:
            return parse_xml(store.read(path), store.called(path))
        except DataError as error:
            return str(error).removeprefix(f"{store.called(path)}: ")

    training = [title for title in parts if is_training(title)]
    paths = dict.fromkeys(path for title in training or parts for path in parts[title])
    classes = CLASSES if all_classes else _classes(store, map(parse, paths))
    if not classes:
        raise DataError(_no_objects(store, list(paths), parse))
    label_of = {each: label for label, each in enumerate(classes)}

    def load(title: str) -> RawImageSet:
        return _part(store, parts[title], title, index, parse, label_of)

    listed = {path for paths in parts.values() for path in paths}
    notes = []
    for title, stems in image_lists(store, store.below("", ".xml")).items():
        if title in parts and (repeated := len(stems) - len(parts[title])) > 0:
            notes.append(f"{title}: {repeated:,} entries listed more than once; each is read once")
        if title not in parts:
            notes.append(f"{title}: none of the {len(stems):,} images it lists has an XML file")
    if UNLISTED in parts:
        notes.append(f"{len(parts[UNLISTED]):,} XML files in no list are the image set {UNLISTED}")
    if unlisted := [path for path in store.below("", ".xml") if path not in listed]:
        notes.append(f"{len(unlisted):,} XML files are in no list of {SET_FOLDER}: {unlisted[0]}")
    numbers = tuple(range(1, len(classes) + 1))
    return RawDataset(name, store, classes, numbers, tuple(parts), load, notes=notes)


def _classes(store: Store, roots: Iterable[ElementTree.Element | str]) -> tuple[str, ...]:
    listed = next((path for path in store.rows if path.lower() == "classes.txt"), None)
    if listed is not None:
        return tuple(dict.fromkeys(read_name(line) for line in store.lines(listed)))
    names = {
        read_name(each.findtext("name"))
        for root in roots
        if not isinstance(root, str)
        for each in root.iter("object")
    }
    names.discard("")
    return CLASSES if names == set(CLASSES) else tuple(sorted(names))


def _no_objects(store: Store, paths: Sequence[str], parse: _Parse) -> str:
    """Why a set has no classes."""
    for path in paths:
        if path in store and isinstance(message := parse(path), str):
            return f"{store.called(path)}: {message}"
    return f"{store.where}: its XML files name no object; are they VOC's?"


def _part(
    store: Store,
    paths: Sequence[str],
    title: str,
    index: ImageIndex,
    parse: _Parse,
    label_of: dict[str, int],
) -> RawImageSet:
    problems, entries, images = [], [], []
    corners: list[Box] = []  # as stated
    sizes: list[tuple[int, int]] = []
    stems = Counter(PurePosixPath(path).stem for path in paths)
    backward = 0
    for path in paths:
        root, where = parse(path), store.called(path)
        if isinstance(root, str):
            message = root if path in store else f"no such file{_WITHOUT_OBJECTS}"
            problems.append(Problem(where, "", "annotations", message))
            continue
        entries.append(_stated(root, path, title))
        stem = PurePosixPath(path).stem
        unique = stems[stem] == 1
        objects = [
            _object(each, number, label_of) for number, each in enumerate(root.iter("object"), 1)
        ]
        backward += sum(turned for _, turned in objects)
        size = read_side(root.findtext("size/width")), read_side(root.findtext("size/height"))
        corners += [_corners(each) for each in root.iter("object")]
        sizes += [size] * len(objects)
        images.append(
            RawImage(
                image_id=stem if unique else str(PurePosixPath(path).with_suffix("")),
                path=None,
                called=_filename(root) or stem,
                where=where,
                width=size[0],
                height=size[1],
                objects=tuple(each for each, _ in objects),
            )
        )
    found = with_matches(images, index.match(entries))
    form = swapped(corners, sizes)
    found = [replace(each, objects=tuple(with_form(each.objects, form))) for each in found]
    notes = []
    if backward and not form:
        notes.append(f"{title}: {backward:,} boxes had their corners swapped; turned round")
    if corners:
        zeros = sum(0 in each[:2] for each in corners)
        parts = sum(any(math.isfinite(value) and value % 1 for value in each) for each in corners)
        notes.append(
            f"{title}: boxes are taken to count pixels from 1, as VOC does, and are read 1 px less"
            f" ({zeros:,} of {len(corners):,} begin at 0, {parts:,} have fractions of pixels; tools"
            " that count from 0 write such boxes)"
        )
    count = sum(len(image.objects) for image in found)
    return RawImageSet(found, problems, (), count, notes)


def _stated(root: ElementTree.Element, path: str, title: str) -> Stated:
    """What an XML file says of its image.

    `filename` is often wrong in files that were copied: the XML's own name and folder count first,
    and `filename` adds the suffix where the names agree. Where it names another image that no other
    XML file is called like, either may be meant.
    """
    folder, stem = posixpath.dirname(path), PurePosixPath(path).stem
    filename = (root.findtext("filename") or "").strip()
    base = _filename(root)
    own = PurePosixPath(base).stem if has_image_suffix(base) else base
    hints = tuple(filter(None, (filename, (root.findtext("path") or "").strip())))
    if read_name(own).casefold() == read_name(stem).casefold() and has_image_suffix(base):
        own = posixpath.join(folder, base)
        return Stated((own,), path, title, hints, own=own)
    names = (posixpath.join(folder, stem), *filter(None, (filename,)))
    return Stated(names, path, title, hints, own=names[0], own_first=True)


def _filename(root: ElementTree.Element) -> str:
    """`filename` without the folders that some tools put before it."""
    stated = (root.findtext("filename") or "").strip().replace("\\", "/")
    return posixpath.basename(stated)


def _object(
    each: ElementTree.Element, number: int, label_of: dict[str, int]
) -> tuple[RawObject, bool]:
    """An object, and whether its corners were swapped.

    VOC counts pixels from 1 and includes the last: x in xmin..xmax covers xmin - 1 to xmax.
    """
    name = read_name(each.findtext("name"))
    box, turned = _box(_corners(each))
    difficult = read_flag(each.findtext("difficult"))
    flaws = []
    if difficult is None:
        message = f"its difficult {each.findtext('difficult')!r} is neither yes nor no"
        flaws.append(Flaw("value", message))
    if each.find("bndbox") is None:
        others = ", ".join(sorted({child.tag for child in each} - {"name", "pose", "part"}))
        flaws.append(Flaw("no number", f"it has no bndbox (it has: {others or 'nothing'})"))
    elif not all(map(math.isfinite, box)):
        stated = {key: each.findtext(f"bndbox/{key}") for key in CORNERS}
        shown = ", ".join(f"{k} {'missing' if v is None else repr(v)}" for k, v in stated.items())
        flaws.append(Flaw("no number", f"its bndbox is not four numbers: {shown}"))
    found = RawObject(
        item=f"object {number}",
        label=label_of.get(name, -1),
        category=name or "(no name)",
        box=box,
        difficult=bool(difficult),
        number=number - 1,
        flaws=tuple(flaws),
    )
    return found, turned


def _corners(each: ElementTree.Element) -> Box:
    """xmin, ymin, xmax, ymax as stated; NaN where they are no numbers."""
    x1, y1, x2, y2 = (read_number(each.findtext(f"bndbox/{key}") or "") for key in CORNERS)
    return x1, y1, x2, y2


def _box(corners: Sequence[float]) -> tuple[Box, bool]:
    """Edges in px of corners as VOC writes them, in any order, and whether they were turned."""
    x1, y1, x2, y2 = corners
    if not all(map(math.isfinite, corners)):
        return (x1, y1, x2, y2), False
    left, right, top, bottom = min(x1, x2), max(x1, x2), min(y1, y2), max(y1, y2)
    turned = x2 < x1 or y2 < y1
    if left == right or top == bottom:  # one pixel by VOC's rule, but in truth a slip of hand
        return (left, top, right, bottom), turned
    return (left - 1, top - 1, right, bottom), turned
