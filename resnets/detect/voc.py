"""VOC XML: one file of boxes for each picture (Everingham et al. 2010, and ImageNet's own).

Accepted: Annotations/, JPEGImages/ and ImageSets/Main/ as VOC has them, for one year or for several
beside each other (VOC2007/, VOC2012/); and any folder or tar with XML files and their pictures,
split by folders called train, val and test where there are any.
"""

from __future__ import annotations

import math
import xml.etree.ElementTree as ElementTree
from collections import defaultdict
from collections.abc import Iterable
from pathlib import PurePosixPath

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
from resnets.detect.store import Store

CLASSES = (
    *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa"),
    *("train", "tvmonitor"),
)
SET_FOLDER = "ImageSets/Main"
PART_FOLDERS = ("train", "val", "valid", "validation", "test")
NAN = float("nan")


def find_voc(store: Store) -> dict[str, list[str]]:
    """Image set -> its XML files; empty where the store has no XML.

    A listed picture without XML keeps its place, so that the check can name it; a list none of
    whose pictures has one (VOC 2012's test set) is left out.
    """
    files = [path for path in store.below("", ".xml") if "/." not in path]
    lists = find_lists(store, SET_FOLDER)
    if lists:
        found = {title: [f"{stem}.xml" for stem in stems] for title, stems in lists.items()}
        return {title: paths for title, paths in found.items() if any(p in store for p in paths)}
    parts = defaultdict(list)
    for path in files:
        folders = PurePosixPath(path).parts[:-1]
        parts[next((name for name in folders if name in PART_FOLDERS), "")].append(path)
    return dict(parts)


def find_lists(store: Store, folder: str) -> dict[str, list[str]]:
    """Image set -> stems of the annotations it lists, from `folder` of each year.

    Titles are "train", or "VOC2007:train" where there are several years. VOC's lists for single
    classes ("cat_train") are left out.
    """
    lists = {}
    for path in store.below("", ".txt"):
        if folder in path:
            year, _, name = path.rpartition(f"{folder}/")
            lists[year.rstrip("/"), name.removesuffix(".txt")] = path
    years = {year for year, _ in lists}
    names = {name for _, name in lists}
    found = {}
    for (year, name), path in lists.items():
        if "_" in name and name.rsplit("_", 1)[1] in names:
            continue
        title = f"{PurePosixPath(year).name}:{name}" if len(years) > 1 else name
        root = f"{year}/" if year else ""
        found[title] = [f"{root}Annotations/{line.split()[0]}" for line in store.lines(path)]
    return found


def open_voc(store: Store, parts: dict[str, list[str]], name: str) -> RawSource:
    """The sets of `parts` (from `find_voc`).

    Classes: VOC's twenty where all are among them, else classes.txt, else the sorted names in the
    training lists (all lists whose name begins with "train", or else the first).
    """
    finder = PictureFinder(store, picture_paths(store))

    def parse(path: str) -> ElementTree.Element | str:
        try:
            return ElementTree.fromstring(store.read(path))
        except (ElementTree.ParseError, DataError) as error:
            return str(error)

    training = [title for title in parts if title.rsplit(":")[-1].startswith("train")]
    paths = [path for title in training or [next(iter(parts))] for path in parts[title]]
    classes = _classes(store, map(parse, paths))
    if not classes:
        raise DataError(f"{store.where}: its XML files name no object; are they VOC's?")
    label_of = {each: label for label, each in enumerate(classes)}

    def load(title: str) -> RawPart:
        pictures, problems = [], []
        for path in parts[title]:
            root = parse(path)
            where = store.called(path)
            if isinstance(root, str):
                said = "no such file" if path not in store else f"is no XML ({root})"
                problems.append(Problem(where, "", "annotations", said))
                continue
            hints = (*PurePosixPath(path).parts[:1], "JPEGImages", title, _folder(path))
            pictures.append(_picture(root, path, where, finder, hints, label_of))
        return RawPart(pictures, problems)

    return RawSource(name, store, classes, tuple(range(1, len(classes) + 1)), tuple(parts), load)


def _classes(store: Store, roots: Iterable[ElementTree.Element | str]) -> tuple[str, ...]:
    if "classes.txt" in store:
        return tuple(store.lines("classes.txt"))
    names = {
        (each.findtext("name") or "").strip()
        for root in roots
        if not isinstance(root, str)
        for each in root.iter("object")
    }
    names.discard("")
    return CLASSES if names and names <= set(CLASSES) else tuple(sorted(names))


def _picture(
    root: ElementTree.Element,
    path: str,
    where: str,
    finder: PictureFinder,
    hints: tuple[str, ...],
    label_of: dict[str, int],
) -> RawPicture:
    """`filename` is often wrong in files that were copied; the XML's own name counts first."""
    stem = PurePosixPath(path).stem
    stated = (root.findtext("filename") or "").strip()
    picture = finder.find(stem, hints) or (finder.find(stated, hints) if stated else None)
    return RawPicture(
        image_id=stem,
        path=picture,
        called=stated or stem,
        where=where,
        width=_whole(root.findtext("size/width")),
        height=_whole(root.findtext("size/height")),
        objects=tuple(
            _object(each, number, label_of) for number, each in enumerate(root.iter("object"), 1)
        ),
    )


def _object(each: ElementTree.Element, number: int, label_of: dict[str, int]) -> RawObject:
    """VOC counts pixels from 1 and includes the last: x in xmin..xmax covers xmin - 1 to xmax."""
    name = (each.findtext("name") or "").strip()
    corners = [_number(each.findtext(f"bndbox/{key}")) for key in ("xmin", "ymin", "xmax", "ymax")]
    left, top, right, bottom = corners
    empty = right <= left or bottom <= top  # one pixel by VOC's rule, but in truth a slip of hand
    return RawObject(
        item=f"object {number}",
        label=label_of.get(name, -1),
        category=name or "(no name)",
        box=(left, top, right, bottom) if empty else (left - 1, top - 1, right, bottom),
        difficult=_whole(each.findtext("difficult")) > 0,
    )


def _folder(path: str) -> str:
    return PurePosixPath(path).parent.name


def _number(text: str | None) -> float:
    try:
        return float(text or "nan")
    except ValueError:
        return NAN


def _whole(text: str | None) -> int:
    value = _number(text)
    return int(value) if math.isfinite(value) and value > 0 else 0
