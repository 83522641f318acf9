"""Semantic segmentation: pictures, each with a PNG of one class a pixel.

Accepted: VOC's SegmentationClass/ with ImageSets/Segmentation/, and <set>/ with semantic_<set>/, or
images/<set>/ with masks/<set>/, beside a file that names the values: semantic_classes.yaml,
classes.yaml (`classes:` or `names:` with `value: name`) or classes.txt (names from value 0 on).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import PurePosixPath

import yaml

from resnets.data.decode import picture_header
from resnets.data.errors import DataError
from resnets.detect.records import (
    PictureFinder,
    Problem,
    RawPart,
    RawPicture,
    RawSource,
    picture_paths,
)
from resnets.detect.store import Store
from resnets.detect.voc import CLASSES, find_lists

SET_FOLDER = "ImageSets/Segmentation"
CLASS_FILES = ("semantic_classes.yaml", "classes.yaml", "classes.yml", "classes.txt")
NO_CLASS = frozenset({"unlabeled", "unlabelled", "void", "ignore"})


def find_semantic(store: Store) -> dict[str, list[str]]:
    """Image set -> paths of its class maps; empty where the store has none."""
    found: dict[str, list[str]] = {}
    for title, stems in find_lists(store, SET_FOLDER).items():
        found[title] = [f"{s.replace('Annotations/', 'SegmentationClass/')}.png" for s in stems]
    if found:
        return found
    for path in store.below("", ".png"):
        folders = PurePosixPath(path).parts[:-1]
        for place, folder in enumerate(folders):
            if folder.startswith("semantic_"):
                found.setdefault(folder.removeprefix("semantic_"), []).append(path)
            elif folder == "masks":
                title = folders[place + 1] if len(folders) > place + 1 else ""
                found.setdefault(title, []).append(path)
    return found


def open_semantic(store: Store, parts: dict[str, list[str]], name: str) -> RawSource:
    """The sets of `parts` (from `find_semantic`). DataError: values without names."""
    values = _names(store)
    numbers = sorted(value for value, each in values.items() if each.lower() not in NO_CLASS)
    classes = tuple(values[number] for number in numbers)
    finder = PictureFinder(store, picture_paths(store))

    def load(title: str) -> RawPart:
        return _part(store, parts[title], finder, title)

    return RawSource(
        name,
        store,
        classes,
        tuple(numbers),
        tuple(parts),
        load,
        values={number: label for label, number in enumerate(numbers)},
        void=frozenset(values) - frozenset(numbers),
    )


def _part(store: Store, paths: Sequence[str], finder: PictureFinder, title: str) -> RawPart:
    pictures, problems = [], []
    for path in paths:
        where = store.called(path)
        if path not in store:
            problems.append(Problem(where, "", "annotations", "no such file"))
            continue
        stem = PurePosixPath(path).stem
        picture = finder.find(stem, (*PurePosixPath(path).parts[:1], "JPEGImages", title))
        if picture is None:
            problems.append(Problem(where, "", "no picture", "its picture is missing"))
            continue
        # The map's size stands for the picture's until both are read; PNG headers are quick.
        try:
            width, height, _ = picture_header(store.read(path), where)
        except DataError as error:
            problems.append(Problem(where, "", "mask", str(error).removeprefix(f"{where}: ")))
            continue
        pictures.append(RawPicture(stem, picture, stem, where, width, height, (), path))
    return RawPart(pictures, problems)


def _names(store: Store) -> dict[int, str]:
    """Name of each value of a class map: VOC's, or what a file beside the maps says."""
    found = next((name for name in CLASS_FILES if name in store), None)
    if found is None:
        if store.below("", ".txt") and find_lists(store, SET_FOLDER):
            return dict(enumerate(("background", *CLASSES)))
        raise DataError(f"{store.where}: class maps without names; add {CLASS_FILES[0]}")
    if found.endswith(".txt"):
        return dict(enumerate(store.lines(found)))
    where = store.called(found)
    try:
        document = yaml.safe_load(store.read(found))
    except yaml.YAMLError as error:
        raise DataError(f"{where}: is no YAML ({' '.join(str(error).split())})") from error
    named = document.get("classes", document.get("names")) if isinstance(document, dict) else None
    named = dict(enumerate(named)) if isinstance(named, list) else named
    if not isinstance(named, dict) or not all(value in range(255) for value in named):
        raise DataError(f"{where}: needs `classes:` with a line `value: name` for each, 0 to 254")
    return {value: str(each) for value, each in named.items()}
