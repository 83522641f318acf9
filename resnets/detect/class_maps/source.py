"""Semantic segmentation: images, each with a class map, an image of one class a pixel.

Accepted: VOC's SegmentationClass/ with ImageSets/Segmentation/; <set>/ with semantic_<set>/;
images/ with masks/, labels/, annotations/ and their like, sets within either or around both;
CamVid's train/ with trainannot/; Cityscapes' leftImg8bit/ with gtFine/; x.jpg with x_mask.png.
What the values mean is `class_schemes`' part.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath

import numpy as np

from resnets.data.dataset.in_memory import cores
from resnets.data.errors import DataError
from resnets.data.layout.split_names import role_within
from resnets.data.prefetch import in_order
from resnets.detect.class_maps.schemes import CLASS_FILES, open_scheme
from resnets.detect.data.class_maps import Coding, MapPixels, MapScan, read_pixels
from resnets.detect.data.image_sizes import read_sizes
from resnets.detect.data.records import Problem, RawPart, RawPicture, RawSource
from resnets.detect.data.store import Store, is_text_path
from resnets.detect.formats.voc import find_lists

SET_FOLDER = "ImageSets/Segmentation"
# Folders that hold nothing but class maps, and those that do where what is in them looks like it.
SURE_FOLDERS = frozenset(
    {"masks", "segmentationclass", "segmentationclasspng", "segmentationclassraw", "gtfine"}
    | {"stuffthingmaps", "gtcoarse"}
)
OTHER_FOLDERS = frozenset({"segmentationobject", "masks_instances"})
SET_NAMES = "train|training|val|valid|validation|test|testing|trainval"
BESIDE_SET = re.compile(rf"({SET_NAMES})_?(?:annot|labels?|masks?|annotations?|gt)", re.IGNORECASE)
_KINDS = "masks?|labels?|labelids|gts?|ground_?truths?|annot|annotations?|seg|segmentations?"
LIKELY = re.compile(rf"(?:.*[_\- ])?(?:{_KINDS})(?:[_\- ].*)?|semantic", re.IGNORECASE)
CITYSCAPES_KINDS = ("_labelids", "_labeltrainids", "_color", "_instanceids")
# What tools append to the name of an image for that of its map, and Cityscapes to both.
ENDING = re.compile(
    r"(?:(?:_gt(?:fine|coarse))?_(?:labelids|labeltrainids|color|instanceids)"
    r"|_(?:masks?|labels?|seg|segmentation|gt)(?:_\d+)?|_[lp])\Z"
)
# What they append to the name of the image too: Cityscapes' and DeepGlobe's.
OF_IMAGE = re.compile(r"_(?:leftimg8bit|sat|images?|img|rgb)\Z", re.IGNORECASE)
# The map of the image of the first group, or one of several maps of it.
BESIDE = re.compile(r"(.+)_(?:masks?|segmentation|seg|labels?|gt)(?:_\d+)?", re.IGNORECASE)
PROBED, FEW_VALUES = 3, 64
FEW_MAPS = 20  # looked at where nothing names their values
SCANNED = 300  # maps looked at before training


@dataclass(frozen=True, eq=False)
class _Images:
    """The images that maps may belong to, by the key of their names."""

    by_key: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))

    def partners(self, path: str) -> list[str]:
        """Images of the map at `path`: of its own name, else of the name less an ending."""
        return self.namesakes(path) or self.by_key.get(_key(path), [])

    def namesakes(self, path: str) -> list[str]:
        """Images of the very name of the map at `path`."""
        return self.by_key.get(_folded(PurePosixPath(path).stem), [])


def find_semantic(store: Store) -> dict[str, list[str]]:
    """Image set -> paths of its class maps; empty where the store has none."""
    found: dict[str, list[str]] = {}
    for title, stems in find_lists(store, SET_FOLDER).items():
        found[title] = [_map_path(store, stem) for stem in stems]
    if found:
        return found
    for path, title in sorted(_map_paths(store).items()):
        found.setdefault(title, []).append(path)
    return found


def open_semantic(
    store: Store, parts: Mapping[str, Sequence[str]], name: str, class_map: str = ""
) -> RawSource:
    """The sets of `parts` (from `find_semantic`), their values as `class_map` codes them.

    DataError: values without names, which it lists, or maps of several kinds for one image.
    """
    taken = {path for paths in parts.values() for path in paths}
    parts = {title: _of_kind(paths, class_map, store) for title, paths in parts.items()}
    scheme = open_scheme(store, class_map, bool(find_lists(store, SET_FOLDER)))
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
    images = _images(store, taken)

    def load(title: str) -> RawPart:
        return _part(store, parts[title], images, title)

    return RawSource(
        name, store, scheme.classes, scheme.numbers, tuple(parts), load, coding=scheme.coding
    )


def scan_maps(source: RawSource, paths: Sequence[str], limit: int | None = SCANNED) -> MapScan:
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
        name = store.called(path)
        try:
            return name, read_pixels(store.read(path), name)
        except DataError as error:
            return name, str(error)

    for found in in_order(read, paths, workers=cores(), ahead=2 * cores()):
        name, pixels = found[1]
        if isinstance(pixels, str):
            scan.unreadable[name] = pixels
        else:
            scan.add(name, pixels)
    return scan


def _part(store: Store, paths: Sequence[str], images: _Images, title: str) -> RawPart:
    pictures, problems = [], []
    users: dict[str, str] = {}
    matched = _matches(images, [path for path in paths if path in store])
    both = [each for path, found in matched.items() for each in (path, *found)]
    sizes = read_sizes(store, both)
    for path in paths:
        where = store.called(path)
        if path not in store:
            problems.append(Problem(where, "", "annotations", "no such file"))
            continue
        found = matched[path]
        if len(found) != 1:
            kind = "several images" if found else "missing image"
            said = f"its image may be {' or '.join(found[:3])}" if found else "its image is missing"
            problems.append(Problem(where, "", kind, said))
            continue
        image = found[0]
        if image in users:
            said = f"its image {image} is that of {users[image]} too"
            problems.append(Problem(where, "", "one image for two", said))
            continue
        users[image] = path
        size, own = sizes[image], sizes[path]
        if isinstance(own, str):
            problems.append(Problem(where, "", "mask", own))
            continue
        width, height = own.width, own.height
        if not isinstance(size, str) and size.upright != (width, height):
            across, down = size.upright
            said = f"is {width}x{height}, its image {image} is {across}x{down}; both must be equal"
            problems.append(Problem(where, "", "mask size", said))
            continue
        stem = PurePosixPath(image).stem
        pictures.append(RawPicture(stem, image, stem, where, width, height, (), path))
    notes = _without_maps(images, users, title)
    return RawPart(pictures, problems, notes=notes)


def _without_maps(images: _Images, users: dict[str, str], title: str) -> list[str]:
    """A line that counts the images beside those of maps that have none."""
    folders = {str(PurePosixPath(path).parent) for path in users}
    bare = {
        path
        for paths in images.by_key.values()
        for path in paths
        if path not in users and str(PurePosixPath(path).parent) in folders
    }
    if not bare or (title and not any(_set_of(folder) for folder in folders)):
        return []  # lists choose from one folder
    return [f"{len(bare):,} images without a class map left out, such as {min(bare)}"]


def _map_paths(store: Store) -> dict[str, str]:
    """Path of each class map -> its image set."""
    pictures = [path for path in store.rows if not is_text_path(path)]
    groups: dict[str, dict[str, str]] = defaultdict(dict)
    sure: set[str] = set()
    for path in pictures:
        folders = PurePosixPath(path).parts[:-1]
        for place, folder in enumerate(folders):
            title = _title(folders, place)
            if title is None:
                continue
            group = "/".join(folders[: place + 1])
            groups[group][path] = title
            if _is_sure(folder):
                sure.add(group)
            break
    taken = {path for group in groups.values() for path in group}
    images = _images(store, taken)
    found: dict[str, str] = {}
    for group, paths in groups.items():
        if group in sure or _looks_like_maps(store, list(paths), images):
            found |= paths
    if not found and any(PurePosixPath(p).name.lower() in CLASS_FILES for p in store.rows):
        found = _maps_beside(pictures)
    return found


def _title(folders: Sequence[str], place: int) -> str | None:
    """The image set of maps below `folders[place]`; None where that is no folder of maps."""
    name = folders[place].lower()
    if name.startswith("semantic_"):
        return folders[place][len("semantic_") :]
    if beside := BESIDE_SET.fullmatch(name):
        return beside[1].lower()
    if name not in SURE_FOLDERS and not LIKELY.fullmatch(name):
        return None
    if (own := role_within(name)) is not None:
        return own
    below, above = folders[place + 1 :], folders[:place]
    return next(filter(_set_of, (*below, *reversed(above))), "")


def _is_sure(folder: str) -> bool:
    return folder.lower() in SURE_FOLDERS or folder.lower().startswith("semantic_")


def _looks_like_maps(store: Store, paths: list[str], images: _Images) -> bool:
    """Whether files of a folder that may hold maps each have an image, and few values."""
    paired = sum(bool(images.partners(path)) for path in paths)
    if paired < 0.5 * len(paths):
        return False
    for path in paths[:PROBED]:
        try:
            values = read_pixels(store.read(path), path).counts()
        except DataError:
            return False
        if len(values) > FEW_VALUES and not path.lower().endswith((".jpg", ".jpeg")):
            return False
    return True


def _maps_beside(pictures: Sequence[str]) -> dict[str, str]:
    """Maps called like an image of the same folder, and "_mask" or the like.

    The image's own name may end in "_sat" or the like, and a map's in the number of one of several.
    """
    stems = {_folded(str(PurePosixPath(path).with_suffix(""))) for path in pictures}
    there = stems | {OF_IMAGE.sub("", stem) for stem in stems}
    found = {}
    for path in pictures:
        whole = PurePosixPath(path)
        if beside := BESIDE.fullmatch(whole.stem):
            bare = _folded(str(whole.parent / beside[1]))
            if bare in there:
                found[path] = next(filter(_set_of, reversed(whole.parts[:-1])), "")
    return found


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


def _map_path(store: Store, stem: str) -> str:
    """The map that a list of VOC's names, by the path of its annotations' XML."""
    base = stem.replace("Annotations/", "SegmentationClass/")
    suffixes = (".png", ".PNG", ".gif", ".tif")
    return next((base + end for end in suffixes if base + end in store), f"{base}.png")


def _images(store: Store, maps: set[str]) -> _Images:
    images = _Images()
    for path in store.rows:
        folders = [folder.lower() for folder in PurePosixPath(path).parts[:-1]]
        other = any(folder in OTHER_FOLDERS or folder in SURE_FOLDERS for folder in folders)
        if is_text_path(path) or path in maps or other:
            continue
        stem = _folded(PurePosixPath(path).stem)
        images.by_key[stem].append(path)
    for stem in [stem for stem in images.by_key if OF_IMAGE.search(stem)]:
        if (bare := OF_IMAGE.sub("", stem)) not in images.by_key:
            images.by_key[bare] = list(images.by_key[stem])
    return images


def _matches(images: _Images, paths: Sequence[str]) -> dict[str, list[str]]:
    """The images that each map may belong to; none where the one it belongs to is missing.

    Where most maps have the very name of an image, the others do not get one of a shorter name.
    Where folders of maps and images mirror each other ("masks/a" and "images/a"), no map gets an
    image of another folder.
    """
    named = sum(bool(images.namesakes(path)) for path in paths)
    partners = images.namesakes if named > 0.5 * len(paths) else images.partners
    found = {path: _closest(partners(path), path) for path in paths}
    if any(_alike(image, path) for path, best in found.items() for image in best):
        found = {
            path: [image for image in best if _alike(image, path)] for path, best in found.items()
        }
    return found


def _closest(paths: Sequence[str], of: str) -> list[str]:
    """Those of `paths` of the same image set, and of these the ones that share most folders."""
    wanted = PurePosixPath(of).parts[:-1]
    in_set = [path for path in paths if _sets(path) == _sets(of)]
    paths = in_set or [path for path in paths if not _sets(path) or not _sets(of)]

    def rank(path: str) -> tuple[bool, int]:
        folders = PurePosixPath(path).parts[:-1]
        return _alike(path, of), (Counter(folders) & Counter(wanted)).total()

    best = max(map(rank, paths), default=None)
    return [path for path in paths if rank(path) == best]


def _alike(path: str, other: str) -> bool:
    """Whether the folders of two files differ in one of them at most."""
    one, two = PurePosixPath(path).parts[:-1], PurePosixPath(other).parts[:-1]
    return one == two or bool(_less_one(one) & _less_one(two))


def _less_one(folders: Sequence[str]) -> set[tuple[str, ...]]:
    """Folders without one of them: what "images/a" and "masks/a" have in common."""
    return {(*folders[:place], *folders[place + 1 :]) for place in range(len(folders))}


def _sets(path: str) -> tuple[str, ...]:
    """The image sets that the folders of a path are called like."""
    found = []
    for folder in PurePosixPath(path).parts[:-1]:
        beside = BESIDE_SET.fullmatch(folder)
        if (name := _set_of(beside[1] if beside else folder)) is not None:
            found.append(name)
        elif folder.lower().startswith("semantic_") and _set_of(folder[9:]):
            found.append(str(_set_of(folder[9:])))
    return tuple(found)


def _set_of(folder: str) -> str | None:
    """The role of an image set that the last folder of a path is called like."""
    return role_within(PurePosixPath(folder).name)


def _key(path: str) -> str:
    stem = _folded(PurePosixPath(path).stem)
    ending = ENDING.search(stem)
    return stem[: ending.start()] if ending and ending.start() else stem


def _folded(text: str) -> str:
    return unicodedata.normalize("NFC", text).casefold()
