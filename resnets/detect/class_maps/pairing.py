"""Match class maps to images by the names of files and folders."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath

from resnets.data.layout.folder_names import role_within
from resnets.detect.images.path_matching import fold_case
from resnets.detect.images.store import Store, is_text_path

MAP_FOLDERS = frozenset(
    {"masks", "segmentationclass", "segmentationclasspng", "segmentationclassraw", "gtfine"}
    | {"stuffthingmaps", "gtcoarse"}
)
OTHER_FOLDERS = frozenset({"segmentationobject", "masks_instances", "instance", "instances"})
SEMANTIC_PREFIX = "semantic_"  # before the name of an image set
SPLIT_NAMES = "train|training|val|valid|validation|test|testing|trainval"
MAPS_OF_SPLIT = re.compile(
    rf"({SPLIT_NAMES})_?(?:annot|labels?|masks?|annotations?|gt)", re.IGNORECASE
)
# Suffixes of the names of maps, and of Cityscapes' maps and images.
MAP_SUFFIX = re.compile(
    r"(?:(?:_gt(?:fine|coarse))?_(?:labelids|labeltrainids|color|instanceids)"
    r"|_(?:masks?|labels?|seg|segmentation|gt)(?:_\d+)?|_[lp])\Z"
)
# Suffixes of the names of images (Cityscapes, DeepGlobe).
IMAGE_SUFFIX = re.compile(r"_(?:leftimg8bit|sat|images?|img|rgb)\Z", re.IGNORECASE)
_WORD_END = re.compile(r"[_\-. ]")


@dataclass(frozen=True, eq=False)
class ImagesByName:
    """The images that maps may belong to, by the case-folded stems of their names."""

    by_key: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))

    def partners(self, path: str) -> list[str]:
        """Return the images with the same name as a map, or else with its name less a suffix."""
        return self.namesakes(path) or self.by_key.get(strip_map_suffix(path), [])

    def namesakes(self, path: str) -> list[str]:
        """Return the images with the same name as a map."""
        return self.by_key.get(fold_case(PurePosixPath(path).stem), [])


def index_images(store: Store, maps: set[str]) -> ImagesByName:
    """Return the images of a store that `maps` may belong to: neither maps nor drawings."""
    images = ImagesByName()
    for path in store.rows:
        folders = [folder.lower() for folder in PurePosixPath(path).parts[:-1]]
        is_excluded = any(
            folder in OTHER_FOLDERS
            or folder in MAP_FOLDERS
            or folder.startswith(("segmentation", SEMANTIC_PREFIX))
            for folder in folders
        )
        if is_text_path(path) or path in maps or is_excluded:
            continue
        stem = fold_case(PurePosixPath(path).stem)
        images.by_key[stem].append(path)
    for stem in [stem for stem in images.by_key if IMAGE_SUFFIX.search(stem)]:
        if (short_stem := IMAGE_SUFFIX.sub("", stem)) not in images.by_key:
            images.by_key[short_stem] = list(images.by_key[stem])
    return images


def match_images(images: ImagesByName, paths: Sequence[str]) -> dict[str, list[str]]:
    """Return the images that each map may belong to; none if its image is missing.

    If most maps have the same name as an image, the others do not get one of a shorter name. If
    folders of maps and images mirror each other ("masks/a" and "images/a"), no map gets an image of
    another folder.
    """
    num_same_name = sum(bool(images.namesakes(path)) for path in paths)
    partners = images.namesakes if num_same_name > 0.5 * len(paths) else images.partners
    found = {path: _closest(partners(path), path) for path in paths}
    if any(differ_in_one_folder(image, path) for path, best in found.items() for image in best):
        found = {
            path: [image for image in best if differ_in_one_folder(image, path)]
            for path, best in found.items()
        }
    return found


def pair_by_name(maps: Sequence[str], images: Sequence[str]) -> dict[str, str]:
    """Return map -> image by the first rule that gives each map an image of its own, or {}.

    Rules: the same stem; the map's stem begins with the image's ("01L_expert" and "01L"); both
    begin with the same word, which no other image has ("21_manual1" and "21_training").
    """
    by_stem = {fold_case(PurePosixPath(path).stem): path for path in images}
    images_by_word: dict[str, list[str]] = defaultdict(list)
    for path in images:
        images_by_word[_first_word(path)].append(path)
    image_of_word = {word: paths[0] for word, paths in images_by_word.items() if len(paths) == 1}

    def by_same_stem(path: str) -> str | None:
        return by_stem.get(fold_case(PurePosixPath(path).stem))

    def by_prefix(path: str) -> str | None:
        stem = fold_case(PurePosixPath(path).stem)
        ends = [match.start() for match in _WORD_END.finditer(stem)]
        return next((by_stem[stem[:end]] for end in reversed(ends) if stem[:end] in by_stem), None)

    rules: tuple[Callable[[str], str | None], ...] = (
        by_same_stem,
        by_prefix,
        lambda path: image_of_word.get(_first_word(path)),
    )
    for rule in rules:
        found = {path: image for path in maps if (image := rule(path)) is not None}
        if len(found) == len(set(found.values())) == len(maps) > 0:
            return found
    return {}


def _first_word(path: str) -> str:
    return _WORD_END.split(fold_case(PurePosixPath(path).stem))[0]


def _closest(paths: Sequence[str], map_path: str) -> list[str]:
    """Return the `paths` of the map's image set, and of these the ones that share most folders."""
    folders_of_map = PurePosixPath(map_path).parts[:-1]
    in_set = [path for path in paths if enclosing_sets(path) == enclosing_sets(map_path)]
    paths = in_set or [
        path for path in paths if not enclosing_sets(path) or not enclosing_sets(map_path)
    ]

    def rank(path: str) -> tuple[bool, int]:
        folders = PurePosixPath(path).parts[:-1]
        return differ_in_one_folder(path, map_path), (
            Counter(folders) & Counter(folders_of_map)
        ).total()

    best = max(map(rank, paths), default=None)
    return [path for path in paths if rank(path) == best]


def differ_in_one_folder(path: str, other: str) -> bool:
    """Return whether the folders of two files differ in at most one."""
    folders, other_folders = PurePosixPath(path).parts[:-1], PurePosixPath(other).parts[:-1]
    return folders == other_folders or bool(
        _drop_one_folder(folders) & _drop_one_folder(other_folders)
    )


def _drop_one_folder(folders: Sequence[str]) -> set[tuple[str, ...]]:
    """Return the folders without each one of them, to compare "images/a" and "masks/a"."""
    return {(*folders[:place], *folders[place + 1 :]) for place in range(len(folders))}


def enclosing_sets(path: str) -> tuple[str, ...]:
    """Return the image sets that folders of a path are named like."""
    names = []
    for folder in PurePosixPath(path).parts[:-1]:
        match = MAPS_OF_SPLIT.fullmatch(folder)
        if (name := role_of_folder(match[1] if match else folder)) is not None:
            names.append(name)
        elif folder.lower().startswith(SEMANTIC_PREFIX) and role_of_folder(
            folder[len(SEMANTIC_PREFIX) :]
        ):
            names.append(str(role_of_folder(folder[len(SEMANTIC_PREFIX) :])))
    return tuple(names)


def role_of_folder(folder: str) -> str | None:
    """Return the split that the last folder of a path is named like, or None."""
    return role_within(PurePosixPath(folder).name)


def strip_map_suffix(path: str) -> str:
    """Return the case-folded stem of a map without the suffix that tools append."""
    stem = fold_case(PurePosixPath(path).stem)
    suffix = MAP_SUFFIX.search(stem)
    return stem[: suffix.start()] if suffix and suffix.start() else stem
