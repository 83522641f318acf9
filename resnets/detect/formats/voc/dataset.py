"""VOC XML: one file of boxes per image (Everingham et al. 2010, and ImageNet's own).

Accepted: Annotations/, JPEGImages/ and ImageSets/Main/ as in VOC, for one or several years
(VOC2007/, VOC2012/), in upper or lower case; and any folder or archive with XML files and their
images, split by folders named train, val and test if there are any (`data.layout.folder_names`).
Which file belongs to which entry: `images.index`.
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
from resnets.detect.data.values import Box, read_flag, read_name, read_number, read_side
from resnets.detect.formats.box_format_check import add_form_flaw, explain_swapped_corners
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
from resnets.detect.formats.unread import format_unread
from resnets.detect.formats.voc.lists import SET_FOLDER, UNLISTED, image_lists
from resnets.detect.images.index import ImageIndex
from resnets.detect.images.path_matching import ImageReference
from resnets.detect.images.store import Store, has_image_suffix

_EMPTY_HINT = ", but its image is listed; one without objects needs an XML without <object>"
CLASSES = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow",
    "diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa",
    "train", "tvmonitor",
)  # fmt: skip
_Parse = Callable[[str], "ElementTree.Element | str"]
# `pose`, `truncated` and `occluded` describe an object that is read like all others.
READ_ELEMENTS = frozenset({"name", "bndbox", "difficult", "pose", "truncated", "occluded"})
COORDINATES = "box coordinates are assumed to start at 1, as in VOC, and reduced by 1 px"
CORNERS = ("xmin", "ymin", "xmax", "ymax")


def open_voc(
    store: Store, image_sets: dict[str, list[str]], name: str, *, all_classes: bool = False
) -> RawDataset:
    """Open the image sets of `parts` (from `find_voc`).

    Classes: VOC's twenty if all occur, or with `all_classes`; else those of classes.txt; else the
    sorted names in the training sets (in all sets if none is called so).
    """
    index = ImageIndex.of(store)

    def parse(path: str) -> ElementTree.Element | str:
        try:
            return parse_xml(store.read(path), store.display_path(path))
        except DataError as error:
            return str(error).removeprefix(f"{store.display_path(path)}: ")

    training = [title for title in image_sets if is_training_set(title)]
    paths = dict.fromkeys(path for title in training or image_sets for path in image_sets[title])
    classes = CLASSES if all_classes else _collect_classes(store, map(parse, paths))
    if not classes:
        raise DataError(_explain_no_classes(store, list(paths), parse))
    label_of = {each: label for label, each in enumerate(classes)}

    def load(title: str) -> RawImageSet:
        return _read_image_set(store, image_sets[title], title, index, parse, label_of)

    used = {path for paths in image_sets.values() for path in paths}
    notes = []
    for title, listed in image_lists(store, store.find_files("", ".xml")).items():
        if title in image_sets and (repeated := len(listed) - len(image_sets[title])) > 0:
            notes.append(f"{title}: {repeated:,} entries listed more than once; each is read once")
        if title not in image_sets:
            notes.append(f"{title}: none of the {len(listed):,} images it lists has an XML file")
    if UNLISTED in image_sets:
        notes.append(
            f"{len(image_sets[UNLISTED]):,} XML files in no list are the image set {UNLISTED}"
        )
    if unused := [path for path in store.find_files("", ".xml") if path not in used]:
        notes.append(f"{len(unused):,} XML files are in no list of {SET_FOLDER}: {unused[0]}")
    numbers = tuple(range(1, len(classes) + 1))
    return RawDataset(name, store, classes, numbers, tuple(image_sets), load, notes=notes)


def _collect_classes(store: Store, roots: Iterable[ElementTree.Element | str]) -> tuple[str, ...]:
    class_file = next((path for path in store.rows if path.lower() == "classes.txt"), None)
    if class_file is not None:
        return tuple(dict.fromkeys(read_name(line) for line in store.read_lines(class_file)))
    names = {
        read_name(each.findtext("name"))
        for root in roots
        if not isinstance(root, str)
        for each in root.iter("object")
    }
    names.discard("")
    return CLASSES if names == set(CLASSES) else tuple(sorted(names))


def _explain_no_classes(store: Store, paths: Sequence[str], parse: _Parse) -> str:
    """Return why a set has no classes."""
    for path in paths:
        if path in store and isinstance(message := parse(path), str):
            return f"{store.display_path(path)}: {message}"
    return f"{store.where}: its XML files name no object; are they VOC's?"


def _read_image_set(
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
    num_swapped = 0
    unread: Counter[str] = Counter()
    for path in paths:
        root, where = parse(path), store.display_path(path)
        if isinstance(root, str):
            message = root if path in store else f"no such file{_EMPTY_HINT}"
            problems.append(Problem(where, "", "annotations", message))
            continue
        entries.append(_image_reference(root, path, title))
        stem = PurePosixPath(path).stem
        is_unique = stems[stem] == 1
        objects = [
            _parse_object(each, number, label_of)
            for number, each in enumerate(root.iter("object"), 1)
        ]
        num_swapped += sum(is_swapped for _, is_swapped in objects)
        size = read_side(root.findtext("size/width")), read_side(root.findtext("size/height"))
        corners += [_read_corners(each) for each in root.iter("object")]
        unread.update(tag for each in root.iter("object") for tag in _list_unread(each))
        sizes += [size] * len(objects)
        images.append(
            RawImage(
                image_id=stem if is_unique else str(PurePosixPath(path).with_suffix("")),
                path=None,
                name=_base_filename(root) or stem,
                where=where,
                width=size[0],
                height=size[1],
                objects=tuple(each for each, _ in objects),
            )
        )
    matched = set_image_paths(images, index.match(entries))
    form = explain_swapped_corners(corners, sizes)
    matched = [replace(each, objects=tuple(add_form_flaw(each.objects, form))) for each in matched]
    notes = []
    start = title or "all"
    if num_swapped and not form:
        notes.append(f"{start}: {num_swapped:,} boxes had their corners swapped; reordered")
    if corners:
        zeros = sum(0 in each[:2] for each in corners)
        num_fractional = sum(
            any(math.isfinite(value) and value % 1 for value in each) for each in corners
        )
        notes.append(COORDINATES)
        if zeros or num_fractional:
            notes.append(
                f"{start}: {zeros:,} of {len(corners):,} boxes begin at 0 and {num_fractional:,} "
                "have fractional coordinates, as if coordinates started at 0"
            )
    if unread:
        notes.append(f"{start}: {format_unread('objects', unread)}")
    count = sum(len(image.objects) for image in matched)
    return RawImageSet(matched, problems, (), count, notes)


def _image_reference(root: ElementTree.Element, path: str, title: str) -> ImageReference:
    """Return how an XML file refers to its image.

    `filename` is often wrong in files that were copied: the XML's own name and folder come first,
    and `filename` adds the suffix if the names agree. If it names another image that no other XML
    file is named like, either may be correct.
    """
    folder, stem = posixpath.dirname(path), PurePosixPath(path).stem
    filename = (root.findtext("filename") or "").strip()
    base = _base_filename(root)
    own_name = PurePosixPath(base).stem if has_image_suffix(base) else base
    hints = tuple(filter(None, (filename, (root.findtext("path") or "").strip())))
    if read_name(own_name).casefold() == read_name(stem).casefold() and has_image_suffix(base):
        own_name = posixpath.join(folder, base)
        return ImageReference((own_name,), path, title, hints, own_name=own_name)
    names = (posixpath.join(folder, stem), *filter(None, (filename,)))
    return ImageReference(names, path, title, hints, own_name=names[0], prefer_own_name=True)


def _base_filename(root: ElementTree.Element) -> str:
    """Return `filename` without the folders that some tools write."""
    filename = (root.findtext("filename") or "").strip().replace("\\", "/")
    return posixpath.basename(filename)


def _parse_object(
    each: ElementTree.Element, number: int, label_of: dict[str, int]
) -> tuple[RawObject, bool]:
    """Parse an object; also return whether its corners were swapped.

    VOC counts pixels from 1 and includes the last: x in xmin..xmax covers xmin - 1 to xmax.
    """
    name = read_name(each.findtext("name"))
    box, is_swapped = _to_box(_read_corners(each))
    difficult = read_flag(each.findtext("difficult"))
    flaws = []
    tags = Counter(child.tag for child in each)
    for tag in ("name", "bndbox", "difficult"):
        if tags[tag] > 1:
            message = f"it has {tags[tag]:,} {tag} elements; write an <object> for each"
            flaws.append(Flaw("value", message))
    if difficult is None:
        message = f"its difficult {each.findtext('difficult')!r} is neither yes nor no"
        flaws.append(Flaw("value", message))
    if each.find("bndbox") is None:
        others = ", ".join(sorted(tags.keys() - {"name", "pose", "part"}))
        flaws.append(Flaw("no number", f"it has no bndbox (it has: {others or 'nothing'})"))
    elif not all(map(math.isfinite, box)):
        stated = {key: each.findtext(f"bndbox/{key}") for key in CORNERS}
        values = ", ".join(f"{k} {'missing' if v is None else repr(v)}" for k, v in stated.items())
        flaws.append(Flaw("no number", f"its bndbox is not four numbers: {values}"))
    raw_object = RawObject(
        item=f"object {number}",
        label=label_of.get(name, -1),
        category=name or "(no name)",
        box=box,
        difficult=bool(difficult),
        number=number - 1,
        flaws=tuple(flaws),
    )
    return raw_object, is_swapped


def _list_unread(each: ElementTree.Element) -> set[str]:
    """Return the elements of an object that are not read and not empty."""
    return {
        child.tag
        for child in each
        if (len(child) or read_flag(child.text) is not False) and child.tag not in READ_ELEMENTS
    }


def _read_corners(each: ElementTree.Element) -> Box:
    """Return xmin, ymin, xmax, ymax as stated; NaN if they are not numbers."""
    x1, y1, x2, y2 = (read_number(each.findtext(f"bndbox/{key}") or "") for key in CORNERS)
    return x1, y1, x2, y2


def _to_box(corners: Sequence[float]) -> tuple[Box, bool]:
    """Convert VOC's corners, in any order, to edges in px; also return whether swapped."""
    x1, y1, x2, y2 = corners
    if not all(map(math.isfinite, corners)):
        return (x1, y1, x2, y2), False
    left, right, top, bottom = min(x1, x2), max(x1, x2), min(y1, y2), max(y1, y2)
    is_swapped = x2 < x1 or y2 < y1
    if left == right or top == bottom:  # one pixel by VOC's rule, but rather a mistake
        return (left, top, right, bottom), is_swapped
    return (left - 1, top - 1, right, bottom), is_swapped
