"""VOC XML: one file of boxes for each image (Everingham et al. 2010, and ImageNet's own).

Accepted: Annotations/, JPEGImages/ and ImageSets/Main/ as VOC has them, for one year or for several
beside each other (VOC2007/, VOC2012/), in upper or lower case; and any folder or tar with XML files
and their images, split by folders called train, val and test where there are any
(`data.layout.split_names`). Which file belongs to which entry: `image_index`.
"""

from __future__ import annotations

import math
import posixpath
import re
import xml.etree.ElementTree as ElementTree
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import PurePosixPath

from resnets.data.errors import DataError
from resnets.data.layout.split_names import role_within, split_role
from resnets.detect.data.documents import parse_xml
from resnets.detect.data.image_index import ImageIndex, Stated, common_end
from resnets.detect.data.records import (
    Box,
    Flaw,
    Problem,
    RawObject,
    RawPart,
    RawPicture,
    RawSource,
)
from resnets.detect.data.store import Store, has_image_suffix
from resnets.detect.data.values import read_flag, read_name, read_number, read_side
from resnets.detect.formats.box_form import swapped, with_form

CLASSES = (
    *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa"),
    *("train", "tvmonitor"),
)
SET_FOLDER = "ImageSets/Main"
IMAGENET_FOLDER = "ImageSets/CLS-LOC"
UNLISTED = "unlisted"  # title of XML files in no list, where no list is for training
_Parse = Callable[[str], "ElementTree.Element | str"]
_FLAG = re.compile(r"\s+-?\d+\Z")
CORNERS = ("xmin", "ymin", "xmax", "ymax")


def find_voc(store: Store) -> dict[str, list[str]]:
    """Image set -> its XML files; empty where the store has no XML.

    A listed image without XML keeps its place, so that the check can name it; a list none of
    whose images has one (VOC 2012's test set) is left out. Where lists are for validation and test
    only, the other XML files are a set of their own.
    """
    files = store.below("", ".xml")
    if not files:
        return {}
    if lists := _lists(store, files):
        by_stem = _by_stem(files)
        known = frozenset(part for path in files for part in path.casefold().split("/")[:-1])
        found = {
            title: [_listed(stem, by_stem, known, store) for stem in dict.fromkeys(stems)]
            for title, stems in lists.items()
        }
        found = {title: paths for title, paths in found.items() if any(p in store for p in paths)}
        listed = {path for paths in found.values() for path in paths}
        others = [path for path in files if path not in listed]
        if found and others and not any(map(_is_training, found)):
            found[UNLISTED] = others  # not to be trained on unless it is named
        return found
    parts = defaultdict(list)
    for path in files:
        folders = PurePosixPath(path).parts[:-1]
        parts[next((name for name in folders if split_role(name)), "")].append(path)
    return dict(parts)


def _lists(store: Store, files: Sequence[str]) -> dict[str, list[str]]:
    """Image set -> stems, from the lists where VOC has them, or from any called like splits."""
    return (
        find_lists(store, SET_FOLDER)
        or _imagenet_lists(store, files)
        or find_lists(store, "ImageSets", nested=False)
        or _loose_lists(store, files)
    )


def _imagenet_lists(store: Store, files: Sequence[str]) -> dict[str, list[str]]:
    """ImageNet's: train_loc names the training images with boxes, train_cls all of them."""
    lists = find_lists(store, IMAGENET_FOLDER)
    loc, cls = lists.pop("train_loc", None), lists.pop("train_cls", None)
    if "train" in lists or not (loc or cls):
        return lists
    stems = frozenset(map(_stem, files))
    own = loc or [path for path in cls or () if _stem(path) in stems]
    return {"train": own, **lists}


def find_lists(store: Store, folder: str, *, nested: bool = True) -> dict[str, list[str]]:
    """Image set -> stems of the annotations it lists, from `folder` of each year, `nested` or not.

    Titles are "train", or "VOC2007:train" where there are several years. VOC's lists for single
    classes ("cat_train") are left out. Lines may hold spaces and suffixes, of images or of XML.
    """
    lists = {}
    for path in store.below("", ".txt"):
        year, found, name = _around(path, folder)
        if found and (nested or "/" not in name):
            lists[year.rstrip("/"), name[: -len(".txt")]] = path
    years = {year for year, _ in lists}
    names = {name for _, name in lists}
    found_lists = {}
    stems = frozenset(map(_stem, store.rows)) if lists else frozenset()
    for (year, name), path in lists.items():
        if "_" in name and name.rsplit("_", 1)[1] in names:
            continue
        title = f"{year}:{name}" if len(years) > 1 else name
        if len({PurePosixPath(each).name for each in years}) == len(years) > 1:
            title = f"{PurePosixPath(year).name}:{name}"
        root = f"{year}/" if year else ""
        title = title.replace("+", "_")  # it joins titles
        found_lists[title] = [f"{root}Annotations/{stem}" for stem in _stems(store, path, stems)]
    return found_lists


def open_voc(
    store: Store, parts: dict[str, list[str]], name: str, *, all_classes: bool = False
) -> RawSource:
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

    training = [title for title in parts if _is_training(title)]
    paths = dict.fromkeys(path for title in training or parts for path in parts[title])
    classes = CLASSES if all_classes else _classes(store, map(parse, paths))
    if not classes:
        raise DataError(_no_objects(store, list(paths), parse))
    label_of = {each: label for label, each in enumerate(classes)}

    def load(title: str) -> RawPart:
        return _part(store, parts[title], title, index, parse, label_of)

    listed = {path for paths in parts.values() for path in paths}
    notes = []
    for title, stems in _lists(store, store.below("", ".xml")).items():
        if title not in parts:
            notes.append(f"{title}: none of the {len(stems):,} images it lists has an XML file")
    if UNLISTED in parts:
        notes.append(f"{len(parts[UNLISTED]):,} XML files in no list are the image set {UNLISTED}")
    if unlisted := [path for path in store.below("", ".xml") if path not in listed]:
        notes.append(f"{len(unlisted):,} XML files are in no list of {SET_FOLDER}: {unlisted[0]}")
    numbers = tuple(range(1, len(classes) + 1))
    return RawSource(name, store, classes, numbers, tuple(parts), load, notes=notes)


def _loose_lists(store: Store, files: Sequence[str]) -> dict[str, list[str]]:
    """Lists elsewhere that are called like splits, and name XML files of the store."""
    stems = frozenset(map(_stem, files))
    lists = {}
    for path in store.below("", ".txt"):
        title = PurePosixPath(path).stem
        if split_role(title):
            names = _stems(store, path, stems)
            if any(_stem(name) in stems for name in names):
                lists[title] = [f"Annotations/{name}" for name in names]
    return lists


def _around(path: str, folder: str) -> tuple[str, bool, str]:
    """What is before and after `folder` in a path, in whatever case, and whether it is in it."""
    place = f"/{path}".lower().rfind(f"/{folder.lower()}/")
    if place < 0:
        return "", False, ""
    return path[:place], True, path[place + len(folder) + 1 :]


def _stems(store: Store, path: str, stems: frozenset[str]) -> list[str]:
    """What the lines of a list name, without suffix and VOC's "1" or "-1" behind it.

    `stems`: those of the store's files, which tell a name that ends in numbers.
    """
    names = []
    for line in store.lines(path):
        name = line.replace("\\", "/").lstrip("/").removeprefix("./")
        while _stem(name) not in stems and _FLAG.search(name):
            name = _FLAG.sub("", name)
        suffix = posixpath.splitext(name)[1]
        is_file = has_image_suffix(name) or suffix.lower() == ".xml"
        names.append(name[: -len(suffix)] if is_file else name)
    return names


def _stem(name: str) -> str:
    """File name without the suffix of an image or XML, in Unicode's composed form."""
    base = posixpath.basename(name)
    stem, suffix = posixpath.splitext(base)
    return read_name(stem if has_image_suffix(base) or suffix.lower() == ".xml" else base)


def _by_stem(files: Iterable[str]) -> dict[str, list[str]]:
    """XML files by their stem, in Unicode's composed form."""
    found: dict[str, list[str]] = defaultdict(list)
    for path in files:
        found[read_name(PurePosixPath(path).stem)].append(path)
    return found


def _listed(stem: str, by_stem: dict[str, list[str]], folders: frozenset[str], store: Store) -> str:
    """The XML file of a listed `stem` ("VOC2007/Annotations/1"): there, or the one in its year.

    In whatever folder of annotations; a path of no file where there is none, or several.
    """
    wanted = f"{stem}.xml"
    if wanted in store:
        return wanted
    root, _, below = stem.partition("Annotations/")
    stated = tuple(read_name(below).casefold().split("/"))[:-1]
    inside = [path for path in by_stem.get(_stem(below), ()) if path.startswith(root)]
    ranks = {path: common_end(stated, tuple(path.casefold().split("/")[:-1])) for path in inside}
    found = [path for path in inside if ranks[path] == max(ranks.values())]
    if len(found) != 1:
        return wanted
    elsewhere = stated and not ranks[found[0]] and stated[-1] in folders
    return wanted if elsewhere else found[0]


def _is_training(title: str) -> bool:
    return role_within(title.rpartition(":")[2]) in ("train", "trainval")


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
        if path in store and isinstance(said := parse(path), str):
            return f"{store.called(path)}: {said}"
    return f"{store.where}: its XML files name no object; are they VOC's?"


def _part(
    store: Store,
    paths: Sequence[str],
    title: str,
    index: ImageIndex,
    parse: _Parse,
    label_of: dict[str, int],
) -> RawPart:
    problems, entries, pictures = [], [], []
    corners: list[Box] = []  # as stated
    sizes: list[tuple[int, int]] = []
    stems = Counter(PurePosixPath(path).stem for path in paths)
    backward = 0
    for path in paths:
        root, where = parse(path), store.called(path)
        if isinstance(root, str):
            said = "no such file" if path not in store else root
            problems.append(Problem(where, "", "annotations", said))
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
        pictures.append(
            RawPicture(
                image_id=stem if unique else str(PurePosixPath(path).with_suffix("")),
                path=None,
                called=_filename(root) or stem,
                where=where,
                width=size[0],
                height=size[1],
                objects=tuple(each for each, _ in objects),
            )
        )
    found = [
        replace(
            picture,
            path=match.path,
            lacking=None if match.path is not None else Flaw(match.kind, match.said),
        )
        for picture, match in zip(pictures, index.match(entries), strict=True)
    ]
    form = swapped(corners, sizes)
    found = [replace(each, objects=tuple(with_form(each.objects, form))) for each in found]
    notes = [f"{title}: {backward:,} boxes had their corners swapped; turned round"]
    count = sum(len(picture.objects) for picture in found)
    return RawPart(found, problems, (), count, notes if backward and not form else ())


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
        said = f"its difficult {each.findtext('difficult')!r} is neither yes nor no"
        flaws.append(Flaw("value", said))
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
