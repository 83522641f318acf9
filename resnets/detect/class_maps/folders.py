"""Find the class maps of a data set, and the image set of each.

Accepted: VOC's SegmentationClass/ with ImageSets/Segmentation/; <set>/ with semantic_<set>/;
images/ with masks/, labels/, annotations/ and the like, with sets inside or around both; CamVid's
train/ with trainannot/; Cityscapes' leftImg8bit/ with gtFine/; x.jpg with x_mask.png; a folder of
any name beside images/ whose files match the images one to one.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from posixpath import dirname

from resnets.data.errors import DataError
from resnets.data.layout.folder_names import role_within
from resnets.detect.class_maps.pairing import (
    IMAGE_SUFFIX,
    MAP_FOLDERS,
    MAPS_OF_SPLIT,
    OTHER_FOLDERS,
    SEMANTIC_PREFIX,
    ImagesByName,
    differ_in_one_folder,
    enclosing_sets,
    index_images,
    match_images,
    pair_by_name,
    role_of_folder,
)
from resnets.detect.class_maps.schemes import CLASS_FILES
from resnets.detect.data.class_maps import read_class_map
from resnets.detect.formats.voc.lists import find_list_files, find_lists
from resnets.detect.images.path_matching import fold_case, is_image_folder_name
from resnets.detect.images.store import Store, has_image_suffix
from resnets.utils.printable import join_names

SET_FOLDER = "ImageSets/Segmentation"
LISTED_FOLDER = "SegmentationClass"
_KINDS = "masks?|labels?|labelids|gts?|ground_?truths?|annot|annotations?|seg|segmentations?"
LIKELY_FOLDER = re.compile(rf"(?:.*[_\- ])?(?:{_KINDS})(?:[_\- ].*)?|semantic", re.IGNORECASE)
# A map of the image in the first group, or one of several.
MAP_OF_IMAGE = re.compile(r"(.+)_(?:masks?|segmentation|seg|labels?|gt)(?:_\d+)?", re.IGNORECASE)
MAX_PROBED, MAX_VALUES = 3, 64


@dataclass(frozen=True, eq=False)
class MapFiles:
    """The class maps of a set.

    parts: image set -> paths of its maps. images: image of each map if folders were matched one to
    one; empty = to be matched by name. rivals: folders that may each contain the maps of the same
    images, with their number of maps; () = no ambiguity. notes: folders that are not read.
    """

    parts: Mapping[str, Sequence[str]]
    images: Mapping[str, str] = field(default_factory=dict)
    rivals: tuple[tuple[str, int], ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def paths(self) -> set[str]:
        """Paths of all maps."""
        return {path for paths in self.parts.values() for path in paths}

    def folders(self, store: Store) -> dict[str, int]:
        """Return the number of existing maps by folder."""
        return dict(_count_by_folder(path for path in self.paths if path in store))

    def check(self, where: str) -> None:
        """Raise DataError if several folders may contain the maps of the same images."""
        if not self.rivals:
            return
        parts = [PurePosixPath(folder).parts for folder, _ in self.rivals]
        common = set.intersection(*map(set, parts))
        name = next((each for each in reversed(parts[0]) if each not in common), parts[0][-1])
        raise DataError(
            f"{where}: several folders match the images one to one and may have their class maps:"
            f" {format_folders(dict(self.rivals))}; name one with detect.class_map_folder, such as"
            f" --set detect.class_map_folder={name}"
        )


def find_class_maps(store: Store, folder: str = "") -> MapFiles | None:
    """Return the class maps of a store; None if it has none.

    folder: `detect.class_map_folder`, the only folder that is searched. DataError if it is given
    and does not exist.
    """
    if lists := find_list_files(store, SET_FOLDER):
        listed_maps = _find_listed_maps(store, lists, folder)
        if listed_maps or not folder:
            return MapFiles(listed_maps, notes=_note_unread_folders(store, listed_maps))
    if folder:
        return _find_in_named_folders(store, folder)
    paths = _find_map_folders(store)
    if not paths:
        return _find_beside_images(store)
    parts = _group_by_title(paths)
    return MapFiles(
        parts, rivals=_find_rivals(store, paths), notes=_note_unread_folders(store, parts)
    )


def format_folders(folders: Mapping[str, int], limit: int = 6) -> str:
    """Format folders with their number of files: "training/mask/ (20), test/mask/ (20)"."""
    parts = [f"{folder or '.'}/ ({count:,})" for folder, count in sorted(folders.items())]
    return join_names(parts, limit)


def _find_listed_maps(
    store: Store, lists: Mapping[str, tuple[str, str]], folder: str
) -> dict[str, list[str]]:
    """Return the maps in lists of stems, or of pairs of paths (image, map)."""
    maps_of_set: dict[str, list[str]] = {}
    stems_of = find_lists(store, SET_FOLDER)
    for title, (root, path) in lists.items():
        pairs = [line.split() for line in store.read_lines(path)]
        if all(len(pair) == 2 and all(map(has_image_suffix, pair)) for pair in pairs):
            for image, class_map in pairs:
                if fold_case(PurePosixPath(image).stem) != fold_case(PurePosixPath(class_map).stem):
                    raise DataError(
                        f"{store.display_path(path)}: names {image} with the class map {class_map};"
                        " both must have the same name"
                    )
            maps_of_set[title] = [root + class_map.lstrip("/") for _, class_map in pairs]
            continue
        maps_of_set[title] = [
            _find_listed_map(store, stem, folder or LISTED_FOLDER) for stem in stems_of[title]
        ]
    return (
        maps_of_set
        if not folder or any(p in store for ps in maps_of_set.values() for p in ps)
        else {}
    )


def _note_unread_folders(store: Store, maps_of_set: Mapping[str, Sequence[str]]) -> tuple[str, ...]:
    """Return a note on other folders of maps: SegmentationClassAug, semantic_rgb, instance."""
    read_folders = {dirname(path) for paths in maps_of_set.values() for path in paths}
    counts = _count_by_folder(path for path in store.rows if has_image_suffix(path))
    unread = {
        folder: count
        for folder, count in counts.items()
        if (name := PurePosixPath(folder).name.lower()) in OTHER_FOLDERS
        or name.startswith((LISTED_FOLDER.lower(), SEMANTIC_PREFIX))
        if folder not in read_folders
    }
    if not unread:
        return ()
    return (
        f"class maps not read: {format_folders(unread)}; detect.class_map_folder specifies another",
    )


def _find_listed_map(store: Store, stem: str, folder: str) -> str:
    """Return the path of the map for a stem in VOC's lists ("Annotations/NAME")."""
    base = stem.replace("Annotations/", f"{folder}/")
    suffixes = (".png", ".PNG", ".gif", ".tif")
    return next((base + end for end in suffixes if base + end in store), f"{base}.png")


def _find_in_named_folders(store: Store, folder: str) -> MapFiles:
    """Return the maps in the folders called `folder` (names joined by +), and their images."""
    names = [PurePosixPath(name).parts for name in folder.split("+")]
    all_paths = store.image_paths

    def is_map(path: str) -> bool:
        parts = PurePosixPath(path).parts[:-1]
        return any(
            parts[start : start + len(name)] == name
            for name in names
            for start in range(len(parts) - len(name) + 1)
        )

    maps = [path for path in all_paths if is_map(path)]
    if not maps:
        raise DataError(
            f"{store.where}: detect.class_map_folder: no folder {folder} with images in it"
        )
    by_folder = _group_by_folder(path for path in all_paths if not is_map(path))
    image_folders = {each for each in by_folder if is_image_folder_name(PurePosixPath(each).name)}
    image_of: dict[str, str] = {}
    for map_folder, paths in _group_by_folder(maps).items():
        candidates = [
            each
            for each in image_folders or by_folder
            if differ_in_one_folder(f"{each}/x", f"{map_folder}/x")
        ]
        pairs = [pair_by_name(paths, by_folder[each]) for each in candidates]
        pairs = [pair for pair in pairs if pair]
        if len(pairs) != 1:  # matched one by one, so that messages name the maps without an image
            return MapFiles(_group_by_title({path: _enclosing_split(path) for path in maps}))
        image_of |= pairs[0]
    return MapFiles(_group_by_title({path: _enclosing_split(path) for path in maps}), image_of)


def _find_beside_images(store: Store) -> MapFiles | None:
    """Return maps in a folder of any name next to images/ that matches them one to one."""
    by_folder = _group_by_folder(store.image_paths)
    image_of: dict[str, str] = {}
    rivals: dict[str, int] = {}
    for folder in by_folder:
        if is_image_folder_name(PurePosixPath(folder).name):
            matching = _find_matching_folders(store, folder, by_folder)
            if len(matching) > 1:
                rivals |= {name: len(pairs) for name, pairs in matching.items()}
            for pairs in matching.values():
                image_of |= pairs
    if not image_of:
        return None
    titles = {path: _enclosing_split(path) for path in image_of}
    return MapFiles(_group_by_title(titles), image_of, tuple(rivals.items()))


def _find_rivals(store: Store, maps: Mapping[str, str]) -> tuple[tuple[str, int], ...]:
    """Return folders of `maps` and others that match the same images one to one, if several.

    Several kinds in one folder (Cityscapes) are not rivals.
    """
    images = index_images(store, set(maps))
    matches = match_images(images, list(maps))
    map_folders_of: dict[str, set[str]] = defaultdict(set)  # by folder of images
    for path, found in matches.items():
        if len(found) == 1:
            map_folders_of[dirname(found[0])].add(dirname(path))
    by_folder = _group_by_folder(store.image_paths)
    rivals: dict[str, int] = {}
    for folder, map_folders in map_folders_of.items():
        others = {} if folder in map_folders else _find_matching_folders(store, folder, by_folder)
        others = {name: pairs for name, pairs in others.items() if name not in map_folders_of}
        if others.keys() - map_folders or (len(map_folders) > 1 and _share_images(matches, folder)):
            rivals |= {name: len(by_folder[name]) for name in {*map_folders, *others}}
    return tuple(sorted(rivals.items()))


def _share_images(matches: Mapping[str, Sequence[str]], folder: str) -> bool:
    """Return whether most images of a folder have maps in several folders."""
    map_folders: dict[str, set[str]] = defaultdict(set)
    for path, images in matches.items():
        if len(images) == 1 and dirname(images[0]) == folder:
            map_folders[images[0]].add(dirname(path))
    return sum(len(each) > 1 for each in map_folders.values()) > 0.5 * len(map_folders)


def _find_matching_folders(
    store: Store, folder: str, by_folder: Mapping[str, Sequence[str]]
) -> dict[str, dict[str, str]]:
    """Return folders next to the image folder that match it one to one and have few values.

    A folder with fewer files than half of the images does not match. The values are pairs of map
    and image.
    """
    pairs_of = {}
    for other, paths in by_folder.items():
        name = PurePosixPath(other).name.lower()
        if other == folder or name in OTHER_FOLDERS or is_image_folder_name(name):
            continue
        sets = enclosing_sets(f"{other}/x"), enclosing_sets(f"{folder}/x")
        if all(sets) and sets[0] != sets[1]:
            continue
        if not differ_in_one_folder(f"{other}/x", f"{folder}/x") or 2 * len(paths) < len(
            by_folder[folder]
        ):
            continue
        pairs = pair_by_name(paths, by_folder[folder])
        if pairs and _have_few_values(store, sorted(paths)):
            pairs_of[other] = pairs
    return pairs_of


def _enclosing_split(path: str) -> str:
    """Return the innermost folder around a file that is named like a split, or ""."""
    return next(filter(role_of_folder, reversed(PurePosixPath(path).parts[:-1])), "")


def _group_by_title(paths: Mapping[str, str]) -> dict[str, list[str]]:
    groups: dict[str, list[str]] = {}
    for path, title in sorted(paths.items()):
        groups.setdefault(title, []).append(path)
    return groups


def _group_by_folder(paths: Iterable[str]) -> dict[str, list[str]]:
    groups: dict[str, list[str]] = defaultdict(list)
    for path in paths:
        groups[dirname(path)].append(path)
    return groups


def _count_by_folder(paths: Iterable[str]) -> Counter[str]:
    return Counter(map(dirname, paths))


def _find_map_folders(store: Store) -> dict[str, str]:
    """Return the image set of each class map in a folder of maps."""
    paths = store.image_paths
    groups: dict[str, dict[str, str]] = defaultdict(dict)
    certain: set[str] = set()
    for path in paths:
        folders = PurePosixPath(path).parts[:-1]
        for index, folder in enumerate(folders):
            title = _title(folders, index)
            if title is None:
                continue
            group = "/".join(folders[: index + 1])
            groups[group][path] = title
            if _is_map_folder(folder):
                certain.add(group)
            break
    candidates = {path for group in groups.values() for path in group}
    images = index_images(store, candidates)
    titles: dict[str, str] = {}
    for group, maps in groups.items():
        if group in certain or _looks_like_maps(store, list(maps), images):
            titles |= maps
    if not titles and any(PurePosixPath(p).name.lower() in CLASS_FILES for p in store.rows):
        titles = _find_suffixed_maps(paths)
    return titles


def _title(folders: Sequence[str], index: int) -> str | None:
    """Return the image set of maps below `folders[index]`; None if it is not a folder of maps."""
    name = folders[index].lower()
    if name.startswith(SEMANTIC_PREFIX) and role_of_folder(name[len(SEMANTIC_PREFIX) :]):
        return folders[index][len(SEMANTIC_PREFIX) :]
    if match := MAPS_OF_SPLIT.fullmatch(name):
        return match[1].lower()
    if name not in MAP_FOLDERS and not LIKELY_FOLDER.fullmatch(name):
        return None
    if (role := role_within(name)) is not None:
        return role
    below, above = folders[index + 1 :], folders[:index]
    return next(filter(role_of_folder, (*below, *reversed(above))), "")


def _is_map_folder(folder: str) -> bool:
    return folder.lower() in MAP_FOLDERS or folder.lower().startswith(SEMANTIC_PREFIX)


def _looks_like_maps(store: Store, paths: list[str], images: ImagesByName) -> bool:
    """Return whether most files have an image, and the first of them few values."""
    num_paired = sum(bool(images.partners(path)) for path in paths)
    if num_paired < 0.5 * len(paths):
        return False
    return _have_few_values(store, paths)


def _have_few_values(store: Store, paths: Sequence[str]) -> bool:
    """Return whether the first of `paths` can be class maps; values of JPEG are not exact."""
    for path in paths[:MAX_PROBED]:
        try:
            values = read_class_map(store.read(path), path).count_values()
        except DataError:
            return False
        if len(values) > MAX_VALUES and not path.lower().endswith((".jpg", ".jpeg")):
            return False
    return True


def _find_suffixed_maps(paths: Sequence[str]) -> dict[str, str]:
    """Return maps named like an image of the same folder plus "_mask" or the like.

    The name of the image may end in "_sat" or the like, and that of a map in a number.
    """
    stems = {fold_case(str(PurePosixPath(path).with_suffix(""))) for path in paths}
    image_stems = stems | {IMAGE_SUFFIX.sub("", stem) for stem in stems}
    titles = {}
    for path in paths:
        pure = PurePosixPath(path)
        if match := MAP_OF_IMAGE.fullmatch(pure.stem):
            image_stem = fold_case(str(pure.parent / match[1]))
            if image_stem in image_stems:
                titles[path] = next(filter(role_of_folder, reversed(pure.parts[:-1])), "")
    return titles
