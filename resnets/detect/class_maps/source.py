"""`open_class_maps`: semantic segmentation sets, images with one class map each.

Which files are maps: `folders`; which image each belongs to: `pairing`; what values mean:
`schemes`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import PurePosixPath

from resnets.config import DetectSpec
from resnets.data.errors import DataError
from resnets.data.order import evenly_spaced
from resnets.data.prefetch import prefetch
from resnets.detect.class_maps.folders import SET_FOLDER, MapFiles, format_folders
from resnets.detect.class_maps.pairing import (
    ImagesByName,
    index_images,
    match_images,
    role_of_folder,
)
from resnets.detect.class_maps.scan import MapScan
from resnets.detect.class_maps.schemes import open_scheme
from resnets.detect.data.class_maps import Coding, MapPixels, read_class_map
from resnets.detect.formats.records import Problem, RawDataset, RawImage, RawImageSet
from resnets.detect.formats.unread import list_unread_split_lists
from resnets.detect.formats.voc.lists import find_lists
from resnets.detect.images.sizes import read_sizes
from resnets.detect.images.store import Store
from resnets.utils.machine.cpu_count import cores

CITYSCAPES_KINDS = ("_labelids", "_labeltrainids", "_color", "_instanceids")
OBJECT_MASKS_HINT = (
    "Where each is the mask of one object, draw those of an image into one map, or write COCO JSON"
    " for the recipe `instances`"
)
MIN_SHARED = 0.5  # of images with several maps, from which maps are taken to be of objects
NUM_PROBED = 20  # maps examined if nothing defines their values
NUM_SCANNED = 300  # maps examined before training


def open_class_maps(store: Store, maps: MapFiles, name: str, detect: DetectSpec) -> RawDataset:
    """Open the image sets of `maps` (from `find_class_maps`), encoded as in `detect.class_map`.

    Raises DataError for several folders of maps, several kinds in one, and values without names.
    """
    maps.check(store.where)
    _refuse_sequence_lists(store)
    map_paths = maps.paths
    parts = {
        title: _choose_kind(paths, detect.class_map, store) for title, paths in maps.parts.items()
    }
    scheme = open_scheme(store, detect.class_map, bool(find_lists(store, SET_FOLDER)))
    if scheme is None:
        sample = sorted(map_paths & set(store.rows))[:NUM_PROBED]
        scan = _scan_files(store, sample, Coding("", {}))
        if scan.lossy:
            raise DataError(next(iter(scan.lossy.values())))
        shares = scan.format_shares()
        raise DataError(
            f"{store.where}: class maps without names (pixels of {len(sample)}: {shares}); add"
            " classes.txt next to them, one name per line from value 0 on, or set detect.class_map"
            " (binary, voc, cityscapes)"
        )
    images = index_images(store, map_paths)

    def match(paths: Sequence[str]) -> dict[str, list[str]]:
        if maps.images:
            return {path: [maps.images[path]] if path in maps.images else [] for path in paths}
        return match_images(images, paths)

    def load(title: str) -> RawImageSet:
        return _read_image_set(store, parts[title], match, images, title)

    chosen_maps = replace(maps, parts=parts)
    notes = [f"class maps: {format_folders(chosen_maps.folders(store))}", *maps.notes]
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


def _refuse_sequence_lists(store: Store) -> None:
    """Raise DataError for lists of splits that name folders of images (DAVIS's sequences)."""
    folders = {name for path in store.rows for name in PurePosixPath(path).parts[:-1]}
    for path in store.find_files("", ".txt"):
        named = store.read_lines(path) if role_of_folder(PurePosixPath(path).stem) else []
        if named and folders.issuperset(named):
            raise DataError(
                f"{store.display_path(path)}: names folders of images ({', '.join(named[:3])}), and"
                " such lists are not read: move what it names, images and maps, into folders"
                " named train, val and test"
            )


def scan_maps(source: RawDataset, paths: Sequence[str], limit: int | None = NUM_SCANNED) -> MapScan:
    """Scan the values in class maps of `source`: of all, or `limit` of them, evenly spread.

    Files that cannot be read as class maps are in `unreadable`.
    """
    assert source.coding is not None
    if limit is None or len(paths) <= limit:
        return _scan_files(source.store, paths, source.coding)
    rows = evenly_spaced(len(paths), limit).tolist()
    scan = _scan_files(source.store, [paths[row] for row in rows], source.coding)
    scan.total = len(paths)
    return scan


def _scan_files(store: Store, paths: Sequence[str], coding: Coding) -> MapScan:
    scan = MapScan(coding, len(paths))

    def read(path: str) -> tuple[str, MapPixels | str]:
        name = store.display_path(path)
        try:
            return name, read_class_map(store.read(path), name)
        except DataError as error:
            return name, str(error)

    for result in prefetch(read, paths, workers=cores(), ahead=2 * cores()):
        name, pixels = result[1]
        if isinstance(pixels, str):
            scan.unreadable[name] = pixels
        else:
            scan.add(name, pixels)
    return scan


def _read_image_set(
    store: Store,
    paths: Sequence[str],
    match: Callable[[Sequence[str]], dict[str, list[str]]],
    images: ImagesByName,
    title: str,
) -> RawImageSet:
    records, problems = [], []
    map_of: dict[str, str] = {}
    matched = match([path for path in paths if path in store])
    if paths and not any(matched.values()):
        raise DataError(
            f"{store.where}: none of its {len(paths):,} class maps, such as {paths[0]}, has an"
            " image of its name; name each map like its image."
            f" {OBJECT_MASKS_HINT}"
        )
    both = [each for path, candidates in matched.items() for each in (path, *candidates)]
    sizes = read_sizes(store, both)
    counts = Counter(candidates[0] for candidates in matched.values() if len(candidates) == 1)
    num_shared = sum(count > 1 for count in counts.values())
    num_shared = num_shared if num_shared > MIN_SHARED * len(counts) else 0
    for path in dict.fromkeys(paths):
        where = store.display_path(path)
        if path not in store:
            problems.append(Problem(where, "", "annotations", "no such file"))
            continue
        candidates = matched[path]
        if len(candidates) != 1:
            kind = "several images" if candidates else "missing image"
            message = (
                f"its image may be {' or '.join(candidates[:3])}"
                if candidates
                else "its image is missing"
            )
            problems.append(Problem(where, "", kind, message))
            continue
        image = candidates[0]
        if image in map_of and num_shared:
            raise DataError(
                f"{where}: its image {image} has the map {map_of[image]} too, and so have"
                f" {num_shared:,} of {len(counts):,} images: one map for each image is read."
                f" {OBJECT_MASKS_HINT}"
            )
        if image in map_of:
            message = f"its image {image} is that of {map_of[image]} too"
            problems.append(Problem(where, "", "one image for two", message))
            continue
        map_of[image] = path
        size, map_size = sizes[image], sizes[path]
        if isinstance(map_size, str):
            problems.append(Problem(where, "", "mask", map_size))
            continue
        width, height = map_size.width, map_size.height
        if not isinstance(size, str) and size.upright != (width, height):
            image_width, image_height = size.upright
            message = (
                f"is {width}x{height}, its image {image} is {image_width}x{image_height}; both must"
                " be equal"
            )
            problems.append(Problem(where, "", "mask size", message))
            continue
        stem = PurePosixPath(image).stem
        records.append(RawImage(stem, image, stem, where, width, height, (), path))
    notes = _note_images_without_maps(images, map_of, title)
    if num_repeated := len(paths) - len(set(paths)):
        notes.append(f"{title}: {num_repeated:,} entries listed more than once; each is read once")
    return RawImageSet(records, problems, notes=notes)


def _note_images_without_maps(
    images: ImagesByName, map_of: dict[str, str], title: str
) -> list[str]:
    """Return a note that counts images without a map in the folders of the others."""
    folders = {str(PurePosixPath(path).parent) for path in map_of}
    unmapped = {
        path
        for paths in images.by_key.values()
        for path in paths
        if path not in map_of and str(PurePosixPath(path).parent) in folders
    }
    if not unmapped or (title and not any(role_of_folder(folder) for folder in folders)):
        return []  # lists choose from one folder
    return [f"{len(unmapped):,} images without a class map excluded, such as {min(unmapped)}"]


def _choose_kind(paths: Sequence[str], class_map: str, store: Store) -> Sequence[str]:
    """Return the maps of the kind that the coding is for, if there are several (Cityscapes)."""
    kinds: Counter[str] = Counter()
    for path in paths:
        stem = PurePosixPath(path).stem.lower()
        kinds.update(kind for kind in CITYSCAPES_KINDS if stem.endswith(kind))
    if len(kinds) < 2:
        return paths
    preferred = {
        "cityscapes": ("_labelids", "_color"),
        "cityscapes-trainids": ("_labeltrainids", "_color"),
        "ids": ("_labelids",),
    }.get(class_map)
    if preferred is None:
        choices = ", ".join(f"*{kind}" for kind in kinds)
        raise DataError(
            f"{store.where}: several class maps of each image ({choices}); choose with"
            " detect.class_map=cityscapes or cityscapes-trainids"
        )
    kind = next((kind for kind in preferred if kinds[kind]), preferred[0])
    return [path for path in paths if PurePosixPath(path).stem.lower().endswith(kind)]
