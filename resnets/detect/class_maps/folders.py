"""Which files of a set are class maps, and of which image set.

Accepted: VOC's SegmentationClass/ with ImageSets/Segmentation/; <set>/ with semantic_<set>/;
images/ with masks/, labels/, annotations/ and their like, sets within either or around both;
CamVid's train/ with trainannot/; Cityscapes' leftImg8bit/ with gtFine/; x.jpg with x_mask.png;
a folder of any name beside images/ whose files match the images one to one.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath

from resnets.data.errors import DataError
from resnets.data.layout.folder_names import role_within
from resnets.detect.class_maps.pairing import (
    BESIDE_SET,
    MAP_FOLDERS,
    OF_IMAGE,
    OTHER_FOLDERS,
    SEMANTIC,
    MapImages,
    alike,
    image_sets,
    images_for,
    match_images,
    pair_by_name,
    set_role,
)
from resnets.detect.class_maps.schemes import CLASS_FILES
from resnets.detect.data.class_maps import read_pixels
from resnets.detect.formats.voc.lists import find_list_files, find_lists
from resnets.detect.images.references import fold_case, is_image_folder_name
from resnets.detect.images.store import Store, has_image_suffix

SET_FOLDER = "ImageSets/Segmentation"
LISTED_FOLDER = "SegmentationClass"
_KINDS = "masks?|labels?|labelids|gts?|ground_?truths?|annot|annotations?|seg|segmentations?"
LIKELY = re.compile(rf"(?:.*[_\- ])?(?:{_KINDS})(?:[_\- ].*)?|semantic", re.IGNORECASE)
# The map of the image of the first group, or one of several maps of it.
BESIDE = re.compile(r"(.+)_(?:masks?|segmentation|seg|labels?|gt)(?:_\d+)?", re.IGNORECASE)
PROBED, FEW_VALUES = 3, 64


@dataclass(frozen=True, eq=False)
class MapFiles:
    """The class maps of a set.

    parts: image set -> paths of its maps. images: image of each map where the folders were matched
    one to one; empty = to be matched by name. rivals: folders of which each could hold the maps of
    the same images, and number of maps; () = there is no doubt. notes: folders that are not read.
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
        """Folder -> number of maps in it that are there."""
        return dict(_count_by_folder(path for path in self.paths if path in store))

    def check(self, where: str) -> None:
        """DataError where several folders may hold the maps of the same images."""
        if not self.rivals:
            return
        parts = [PurePosixPath(folder).parts for folder, _ in self.rivals]
        common = set.intersection(*map(set, parts))
        name = next((each for each in reversed(parts[0]) if each not in common), parts[0][-1])
        raise DataError(
            f"{where}: several folders match the images one to one and may hold their class maps:"
            f" {shown_folders(dict(self.rivals))}; name one with detect.class_map_folder, such as"
            f" --set detect.class_map_folder={name}"
        )


def find_semantic(store: Store, folder: str = "") -> MapFiles | None:
    """The class maps of a store; None where it has none.

    folder: `detect.class_map_folder`, the only folder that is looked at. DataError where it is
    stated and there is none of that name.
    """
    if lists := find_list_files(store, SET_FOLDER):
        found = _listed(store, lists, folder)
        if found or not folder:
            return MapFiles(found, notes=_unread(store, found))
    if folder:
        return _stated(store, folder)
    paths = _map_paths(store)
    if not paths:
        return _unnamed(store)
    parts = _by_title(paths)
    return MapFiles(parts, rivals=_rivals(store, paths), notes=_unread(store, parts))


def shown_folders(folders: Mapping[str, int], most: int = 6) -> str:
    """ "training/mask/ (20), test/mask/ (20)": folders with the number of files in each."""
    shown = [f"{folder or '.'}/ ({count:,})" for folder, count in sorted(folders.items())[:most]]
    more = [f"{len(folders) - most:,} more"] if len(folders) > most else []
    return ", ".join((*shown, *more))


def _listed(
    store: Store, lists: Mapping[str, tuple[str, str]], folder: str
) -> dict[str, list[str]]:
    """The maps that lists name: by a stem, or by two paths, those of an image and of its map."""
    found: dict[str, list[str]] = {}
    by_stem = find_lists(store, SET_FOLDER)
    for title, (root, path) in lists.items():
        pairs = [line.split() for line in store.read_lines(path)]
        if all(len(pair) == 2 and all(map(has_image_suffix, pair)) for pair in pairs):
            for image, own in pairs:
                if fold_case(PurePosixPath(image).stem) != fold_case(PurePosixPath(own).stem):
                    raise DataError(
                        f"{store.display_path(path)}: names {image} with the class map {own};"
                        " both must have the same name"
                    )
            found[title] = [root + own.lstrip("/") for _, own in pairs]
            continue
        found[title] = [_map_path(store, stem, folder or LISTED_FOLDER) for stem in by_stem[title]]
    return found if not folder or any(p in store for ps in found.values() for p in ps) else {}


def _unread(store: Store, found: Mapping[str, Sequence[str]]) -> tuple[str, ...]:
    """A note on other folders called like maps: SegmentationClassAug, semantic_rgb, instance."""
    read = {_folder(path) for paths in found.values() for path in paths}
    counts = _count_by_folder(path for path in store.rows if has_image_suffix(path))
    others = {
        folder: count
        for folder, count in counts.items()
        if (name := PurePosixPath(folder).name.lower()) in OTHER_FOLDERS
        or name.startswith((LISTED_FOLDER.lower(), SEMANTIC))
        if folder not in read
    }
    if not others:
        return ()
    return (f"class maps not read: {shown_folders(others)}; detect.class_map_folder names another",)


def _map_path(store: Store, stem: str, folder: str) -> str:
    """The map that a list of VOC's names, by the path of its annotations' XML."""
    base = stem.replace("Annotations/", f"{folder}/")
    suffixes = (".png", ".PNG", ".gif", ".tif")
    return next((base + end for end in suffixes if base + end in store), f"{base}.png")


def _stated(store: Store, folder: str) -> MapFiles:
    """The maps in the folders called `folder` (names joined by +), and their images."""
    wanted = [PurePosixPath(name).parts for name in folder.split("+")]
    files = store.image_paths

    def is_map(path: str) -> bool:
        parts = PurePosixPath(path).parts[:-1]
        return any(
            parts[start : start + len(name)] == name
            for name in wanted
            for start in range(len(parts) - len(name) + 1)
        )

    maps = [path for path in files if is_map(path)]
    if not maps:
        raise DataError(
            f"{store.where}: detect.class_map_folder: no folder {folder} with images in it"
        )
    others = [path for path in files if not is_map(path)]
    by_folder = _by_folder(others)
    named = {each for each in by_folder if is_image_folder_name(PurePosixPath(each).name)}
    images: dict[str, str] = {}
    for own, paths in _by_folder(maps).items():
        near = [each for each in named or by_folder if alike(f"{each}/x", f"{own}/x")]
        pairs = [pair_by_name(paths, by_folder[each]) for each in near]
        pairs = [pair for pair in pairs if pair]
        if len(pairs) != 1:  # matched one by one, so that messages name the maps without an image
            return MapFiles(_by_title({path: _role_around(path) for path in maps}))
        images |= pairs[0]
    return MapFiles(_by_title({path: _role_around(path) for path in maps}), images)


def _unnamed(store: Store) -> MapFiles | None:
    """The maps in a folder whose name does not tell, beside images/ and one to one with them."""
    by_folder = _by_folder(store.image_paths)
    images: dict[str, str] = {}
    rivals: dict[str, int] = {}
    for folder in by_folder:
        if is_image_folder_name(PurePosixPath(folder).name):
            beside = _matching(store, folder, by_folder)
            if len(beside) > 1:
                rivals |= {name: len(pairs) for name, pairs in beside.items()}
            for pairs in beside.values():
                images |= pairs
    if not images:
        return None
    titles = {path: _role_around(path) for path in images}
    return MapFiles(_by_title(titles), images, tuple(rivals.items()))


def _rivals(store: Store, maps: Mapping[str, str]) -> tuple[tuple[str, int], ...]:
    """Folders of `maps`, and others that match the same images one to one, where there are several.

    Cityscapes' and others' several kinds in one folder are no rivals.
    """
    images = images_for(store, set(maps))
    matched = match_images(images, list(maps))
    own: dict[str, set[str]] = defaultdict(set)  # folder of images -> those of their maps
    for path, found in matched.items():
        if len(found) == 1:
            own[_folder(found[0])].add(_folder(path))
    by_folder = _by_folder(store.image_paths)
    rivals: dict[str, int] = {}
    for folder, chosen in own.items():
        others = {} if folder in chosen else _matching(store, folder, by_folder)
        others = {name: pairs for name, pairs in others.items() if name not in own}
        if others.keys() - chosen or (len(chosen) > 1 and _same_images(matched, folder)):
            rivals |= {name: len(by_folder[name]) for name in {*chosen, *others}}
    return tuple(sorted(rivals.items()))


def _same_images(matched: Mapping[str, Sequence[str]], folder: str) -> bool:
    """Whether most images of a folder have maps in several folders."""
    folders: dict[str, set[str]] = defaultdict(set)
    for path, found in matched.items():
        if len(found) == 1 and _folder(found[0]) == folder:
            folders[found[0]].add(_folder(path))
    return sum(len(each) > 1 for each in folders.values()) > 0.5 * len(folders)


def _matching(
    store: Store, folder: str, by_folder: Mapping[str, Sequence[str]]
) -> dict[str, dict[str, str]]:
    """Folders beside `folder` of images that match it one to one and hold few values: their pairs.

    A folder with fewer files than half of the images matches none.
    """
    found = {}
    for other, paths in by_folder.items():
        name = PurePosixPath(other).name.lower()
        if other == folder or name in OTHER_FOLDERS or is_image_folder_name(name):
            continue
        sets = image_sets(f"{other}/x"), image_sets(f"{folder}/x")
        if all(sets) and sets[0] != sets[1]:
            continue
        if not alike(f"{other}/x", f"{folder}/x") or 2 * len(paths) < len(by_folder[folder]):
            continue
        pairs = pair_by_name(paths, by_folder[folder])
        if pairs and _have_few_values(store, sorted(paths)):
            found[other] = pairs
    return found


def _role_around(path: str) -> str:
    """The image set that the innermost folder of a split around a file is called like."""
    return next(filter(set_role, reversed(PurePosixPath(path).parts[:-1])), "")


def _by_title(paths: Mapping[str, str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for path, title in sorted(paths.items()):
        found.setdefault(title, []).append(path)
    return found


def _folder(path: str) -> str:
    return "/".join(PurePosixPath(path).parts[:-1])


def _by_folder(paths: Iterable[str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = defaultdict(list)
    for path in paths:
        found[_folder(path)].append(path)
    return found


def _count_by_folder(paths: Iterable[str]) -> Counter[str]:
    return Counter(map(_folder, paths))


def _map_paths(store: Store) -> dict[str, str]:
    """Path of each class map -> its image set."""
    files = store.image_paths
    groups: dict[str, dict[str, str]] = defaultdict(dict)
    sure: set[str] = set()
    for path in files:
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
    images = images_for(store, taken)
    found: dict[str, str] = {}
    for group, paths in groups.items():
        if group in sure or _looks_like_maps(store, list(paths), images):
            found |= paths
    if not found and any(PurePosixPath(p).name.lower() in CLASS_FILES for p in store.rows):
        found = _maps_beside(files)
    return found


def _title(folders: Sequence[str], place: int) -> str | None:
    """The image set of maps below `folders[place]`; None where that is no folder of maps."""
    name = folders[place].lower()
    if name.startswith(SEMANTIC) and set_role(name[len(SEMANTIC) :]):
        return folders[place][len(SEMANTIC) :]
    if beside := BESIDE_SET.fullmatch(name):
        return beside[1].lower()
    if name not in MAP_FOLDERS and not LIKELY.fullmatch(name):
        return None
    if (own := role_within(name)) is not None:
        return own
    below, above = folders[place + 1 :], folders[:place]
    return next(filter(set_role, (*below, *reversed(above))), "")


def _is_sure(folder: str) -> bool:
    return folder.lower() in MAP_FOLDERS or folder.lower().startswith(SEMANTIC)


def _looks_like_maps(store: Store, paths: list[str], images: MapImages) -> bool:
    """Whether files of a folder that may hold maps each have an image, and few values."""
    paired = sum(bool(images.partners(path)) for path in paths)
    if paired < 0.5 * len(paths):
        return False
    return _have_few_values(store, paths)


def _have_few_values(store: Store, paths: Sequence[str]) -> bool:
    """Whether the first of `paths` can be class maps; JPEG's values are not exact."""
    for path in paths[:PROBED]:
        try:
            values = read_pixels(store.read(path), path).counts()
        except DataError:
            return False
        if len(values) > FEW_VALUES and not path.lower().endswith((".jpg", ".jpeg")):
            return False
    return True


def _maps_beside(images: Sequence[str]) -> dict[str, str]:
    """Maps called like an image of the same folder, and "_mask" or the like.

    The image's own name may end in "_sat" or the like, and a map's in the number of one of several.
    """
    stems = {fold_case(str(PurePosixPath(path).with_suffix(""))) for path in images}
    there = stems | {OF_IMAGE.sub("", stem) for stem in stems}
    found = {}
    for path in images:
        whole = PurePosixPath(path)
        if beside := BESIDE.fullmatch(whole.stem):
            bare = fold_case(str(whole.parent / beside[1]))
            if bare in there:
                found[path] = next(filter(set_role, reversed(whole.parts[:-1])), "")
    return found
