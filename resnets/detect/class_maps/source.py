"""Semantic segmentation: images, each with a class map, an image of one class a pixel.

Which files are maps: `folders`; which image each belongs to: `pairing`; what their values mean:
`schemes`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import PurePosixPath

import numpy as np

from resnets.config import DetectSpec
from resnets.data.dataset.in_memory import cores
from resnets.data.errors import DataError
from resnets.data.prefetch import prefetch
from resnets.detect.class_maps.folders import SET_FOLDER, MapFiles, shown_folders
from resnets.detect.class_maps.pairing import MapImages, images_for, match_images, set_role
from resnets.detect.class_maps.scan import MapScan
from resnets.detect.class_maps.schemes import open_scheme
from resnets.detect.data.class_maps import Coding, MapPixels, read_pixels
from resnets.detect.formats.records import Problem, RawDataset, RawImage, RawImageSet
from resnets.detect.formats.unread import list_unread_split_lists
from resnets.detect.formats.voc.lists import find_lists
from resnets.detect.images.sizes import read_sizes
from resnets.detect.images.store import Store

CITYSCAPES_KINDS = ("_labelids", "_labeltrainids", "_color", "_instanceids")
OF_OBJECTS = (
    "Where each is the mask of one object, draw those of an image into one map, or write COCO JSON"
    " for the recipe `instances`"
)
MANY = 0.5  # share of the images with several maps, from which all maps are of single objects
FEW_MAPS = 20  # looked at where nothing names their values
SCANNED = 300  # maps looked at before training


def open_semantic(store: Store, maps: MapFiles, name: str, detect: DetectSpec) -> RawDataset:
    """The image sets of `maps` (from `find_semantic`), encoded as `detect.class_map` says.

    DataError: several folders of maps or several kinds in one, or values without names.
    """
    maps.check(store.where)
    _check_lists(store)
    taken = maps.paths
    parts = {title: _of_kind(paths, detect.class_map, store) for title, paths in maps.parts.items()}
    scheme = open_scheme(store, detect.class_map, bool(find_lists(store, SET_FOLDER)))
    if scheme is None:
        some = sorted(taken & set(store.rows))[:FEW_MAPS]
        scan = _scan(store, some, Coding("", {}))
        if scan.lossy:
            raise DataError(next(iter(scan.lossy.values())))
        shares = scan.shares()
        raise DataError(
            f"{store.where}: class maps without names (pixels of {len(some)}: {shares}); add"
            " classes.txt beside them, one name a line from value 0 on, or set detect.class_map"
            " (binary, voc, cityscapes)"
        )
    images = images_for(store, taken)

    def match(paths: Sequence[str]) -> dict[str, list[str]]:
        if maps.images:
            return {path: [maps.images[path]] if path in maps.images else [] for path in paths}
        return match_images(images, paths)

    def load(title: str) -> RawImageSet:
        return _part(store, parts[title], match, images, title)

    chosen = replace(maps, parts=parts)
    notes = [f"class maps: {shown_folders(chosen.folders(store))}", *maps.notes]
    notes += list_unread_split_lists(store, tuple(parts))
    return RawDataset(
        name,
        store,
        scheme.classes,
        scheme.numbers,
        tuple(parts),
        load,
        coding=scheme.coding,
        notes=notes,
    )


def _check_lists(store: Store) -> None:
    """DataError for lists of splits that name folders of images, such as DAVIS's sequences."""
    folders = {name for path in store.rows for name in PurePosixPath(path).parts[:-1]}
    for path in store.find_files("", ".txt"):
        named = store.read_lines(path) if set_role(PurePosixPath(path).stem) else []
        if named and folders.issuperset(named):
            raise DataError(
                f"{store.display_path(path)}: names folders of images ({', '.join(named[:3])}), and"
                " such lists are not read: move what it names, images and maps, into folders"
                " called train, val and test"
            )


def scan_maps(source: RawDataset, paths: Sequence[str], limit: int | None = SCANNED) -> MapScan:
    """The values in class maps of `source`: in all, or in `limit` of them, evenly spread.

    Those that cannot be read as class maps are in `unreadable`.
    """
    assert source.coding is not None
    if limit is None or len(paths) <= limit:
        return _scan(source.store, paths, source.coding)
    rows = evenly_spread(len(paths), limit)
    scan = _scan(source.store, [paths[row] for row in rows], source.coding)
    scan.total = len(paths)
    return scan


def evenly_spread(count: int, limit: int) -> list[int]:
    """At most `limit` of `count` rows."""
    return np.unique(np.linspace(0, count - 1, min(count, limit)).astype(int)).tolist()


def _scan(store: Store, paths: Sequence[str], coding: Coding) -> MapScan:
    scan = MapScan(coding, len(paths))

    def read(path: str) -> tuple[str, MapPixels | str]:
        name = store.display_path(path)
        try:
            return name, read_pixels(store.read(path), name)
        except DataError as error:
            return name, str(error)

    for found in prefetch(read, paths, workers=cores(), ahead=2 * cores()):
        name, pixels = found[1]
        if isinstance(pixels, str):
            scan.unreadable[name] = pixels
        else:
            scan.add(name, pixels)
    return scan


def _part(
    store: Store,
    paths: Sequence[str],
    match: Callable[[Sequence[str]], dict[str, list[str]]],
    images: MapImages,
    title: str,
) -> RawImageSet:
    records, problems = [], []
    users: dict[str, str] = {}
    matched = match([path for path in paths if path in store])
    if paths and not any(matched.values()):
        raise DataError(
            f"{store.where}: none of its {len(paths):,} class maps, such as {paths[0]}, has an"
            " image of its name; name each map like its image."
            f" {OF_OBJECTS}"
        )
    both = [each for path, found in matched.items() for each in (path, *found)]
    sizes = read_sizes(store, both)
    images_of = Counter(found[0] for found in matched.values() if len(found) == 1)
    several = sum(count > 1 for count in images_of.values())
    several = several if several > MANY * len(images_of) else 0
    for path in dict.fromkeys(paths):
        where = store.display_path(path)
        if path not in store:
            problems.append(Problem(where, "", "annotations", "no such file"))
            continue
        found = matched[path]
        if len(found) != 1:
            kind = "several images" if found else "missing image"
            message = (
                f"its image may be {' or '.join(found[:3])}" if found else "its image is missing"
            )
            problems.append(Problem(where, "", kind, message))
            continue
        image = found[0]
        if image in users and several:
            raise DataError(
                f"{where}: its image {image} has the map {users[image]} too, and so have"
                f" {several:,} of {len(images_of):,} images: one map for each image is read."
                f" {OF_OBJECTS}"
            )
        if image in users:
            message = f"its image {image} is that of {users[image]} too"
            problems.append(Problem(where, "", "one image for two", message))
            continue
        users[image] = path
        size, own = sizes[image], sizes[path]
        if isinstance(own, str):
            problems.append(Problem(where, "", "mask", own))
            continue
        width, height = own.width, own.height
        if not isinstance(size, str) and size.upright != (width, height):
            across, down = size.upright
            message = (
                f"is {width}x{height}, its image {image} is {across}x{down}; both must be equal"
            )
            problems.append(Problem(where, "", "mask size", message))
            continue
        stem = PurePosixPath(image).stem
        records.append(RawImage(stem, image, stem, where, width, height, (), path))
    notes = _without_maps(images, users, title)
    if repeated := len(paths) - len(set(paths)):
        notes.append(f"{title}: {repeated:,} entries listed more than once; each is read once")
    return RawImageSet(records, problems, notes=notes)


def _without_maps(images: MapImages, users: dict[str, str], title: str) -> list[str]:
    """A line that counts the images beside those of maps that have none."""
    folders = {str(PurePosixPath(path).parent) for path in users}
    bare = {
        path
        for paths in images.by_key.values()
        for path in paths
        if path not in users and str(PurePosixPath(path).parent) in folders
    }
    if not bare or (title and not any(set_role(folder) for folder in folders)):
        return []  # lists choose from one folder
    return [f"{len(bare):,} images without a class map left out, such as {min(bare)}"]


def _of_kind(paths: Sequence[str], class_map: str, store: Store) -> Sequence[str]:
    """Of Cityscapes' several maps of each image, the one that the coding is for."""
    kinds: Counter[str] = Counter()
    for path in paths:
        stem = PurePosixPath(path).stem.lower()
        kinds.update(kind for kind in CITYSCAPES_KINDS if stem.endswith(kind))
    if len(kinds) < 2:
        return paths
    wanted = {
        "cityscapes": ("_labelids", "_color"),
        "cityscapes-trainids": ("_labeltrainids", "_color"),
        "ids": ("_labelids",),
    }.get(class_map)
    if wanted is None:
        listed = ", ".join(f"*{kind}" for kind in kinds)
        raise DataError(
            f"{store.where}: several class maps of each image ({listed}); choose with"
            " detect.class_map=cityscapes or cityscapes-trainids"
        )
    kind = next((kind for kind in wanted if kinds[kind]), wanted[0])
    return [path for path in paths if PurePosixPath(path).stem.lower().endswith(kind)]
