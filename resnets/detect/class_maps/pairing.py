"""Which image each class map belongs to, by the names of files and folders."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath

from resnets.data.layout.folder_names import role_within
from resnets.detect.images.references import fold_case
from resnets.detect.images.store import Store, is_text_path

MAP_FOLDERS = frozenset(
    {"masks", "segmentationclass", "segmentationclasspng", "segmentationclassraw", "gtfine"}
    | {"stuffthingmaps", "gtcoarse"}
)
OTHER_FOLDERS = frozenset({"segmentationobject", "masks_instances", "instance", "instances"})
SEMANTIC = "semantic_"  # before the name of an image set
SET_NAMES = "train|training|val|valid|validation|test|testing|trainval"
BESIDE_SET = re.compile(rf"({SET_NAMES})_?(?:annot|labels?|masks?|annotations?|gt)", re.IGNORECASE)
# What tools append to the name of an image for that of its map, and Cityscapes to both.
ENDING = re.compile(
    r"(?:(?:_gt(?:fine|coarse))?_(?:labelids|labeltrainids|color|instanceids)"
    r"|_(?:masks?|labels?|seg|segmentation|gt)(?:_\d+)?|_[lp])\Z"
)
# What they append to the name of the image too: Cityscapes' and DeepGlobe's.
OF_IMAGE = re.compile(r"_(?:leftimg8bit|sat|images?|img|rgb)\Z", re.IGNORECASE)
_WORD_END = re.compile(r"[_\-. ]")


@dataclass(frozen=True, eq=False)
class MapImages:
    """The images that maps may belong to, by the key of their names."""

    by_key: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))

    def partners(self, path: str) -> list[str]:
        """Images of the map at `path`: of its own name, else of the name less an ending."""
        return self.namesakes(path) or self.by_key.get(map_key(path), [])

    def namesakes(self, path: str) -> list[str]:
        """Images of the very name of the map at `path`."""
        return self.by_key.get(fold_case(PurePosixPath(path).stem), [])


def images_for(store: Store, maps: set[str]) -> MapImages:
    """The images of a store that `maps` may belong to: neither maps nor drawings of objects."""
    images = MapImages()
    for path in store.rows:
        folders = [folder.lower() for folder in PurePosixPath(path).parts[:-1]]
        other = any(
            folder in OTHER_FOLDERS
            or folder in MAP_FOLDERS
            or folder.startswith(("segmentation", SEMANTIC))
            for folder in folders
        )
        if is_text_path(path) or path in maps or other:
            continue
        stem = fold_case(PurePosixPath(path).stem)
        images.by_key[stem].append(path)
    for stem in [stem for stem in images.by_key if OF_IMAGE.search(stem)]:
        if (bare := OF_IMAGE.sub("", stem)) not in images.by_key:
            images.by_key[bare] = list(images.by_key[stem])
    return images


def match_images(images: MapImages, paths: Sequence[str]) -> dict[str, list[str]]:
    """The images that each map may belong to; none where the one it belongs to is missing.

    Where most maps have the very name of an image, the others do not get one of a shorter name.
    Where folders of maps and images mirror each other ("masks/a" and "images/a"), no map gets an
    image of another folder.
    """
    named = sum(bool(images.namesakes(path)) for path in paths)
    partners = images.namesakes if named > 0.5 * len(paths) else images.partners
    found = {path: _closest(partners(path), path) for path in paths}
    if any(alike(image, path) for path, best in found.items() for image in best):
        found = {
            path: [image for image in best if alike(image, path)] for path, best in found.items()
        }
    return found


def pair_by_name(maps: Sequence[str], images: Sequence[str]) -> dict[str, str]:
    """Map -> image, by the first rule that gives each of `maps` an image of its own; else empty.

    The rules: the same stem; the map's stem begins with the image's ("01L_expert" and "01L"); both
    begin with the same word, which no other image has ("21_manual1" and "21_training").
    """
    by_stem = {fold_case(PurePosixPath(path).stem): path for path in images}
    by_word: dict[str, list[str]] = defaultdict(list)
    for path in images:
        by_word[_first_word(path)].append(path)
    unique = {word: paths[0] for word, paths in by_word.items() if len(paths) == 1}

    def same(path: str) -> str | None:
        return by_stem.get(fold_case(PurePosixPath(path).stem))

    def prefix(path: str) -> str | None:
        stem = fold_case(PurePosixPath(path).stem)
        ends = [match.start() for match in _WORD_END.finditer(stem)]
        return next((by_stem[stem[:end]] for end in reversed(ends) if stem[:end] in by_stem), None)

    rules: tuple[Callable[[str], str | None], ...] = (
        same,
        prefix,
        lambda path: unique.get(_first_word(path)),
    )
    for rule in rules:
        found = {path: image for path in maps if (image := rule(path)) is not None}
        if len(found) == len(set(found.values())) == len(maps) > 0:
            return found
    return {}


def _first_word(path: str) -> str:
    return _WORD_END.split(fold_case(PurePosixPath(path).stem))[0]


def _closest(paths: Sequence[str], of: str) -> list[str]:
    """Those of `paths` of the same image set, and of these the ones that share most folders."""
    wanted = PurePosixPath(of).parts[:-1]
    in_set = [path for path in paths if image_sets(path) == image_sets(of)]
    paths = in_set or [path for path in paths if not image_sets(path) or not image_sets(of)]

    def rank(path: str) -> tuple[bool, int]:
        folders = PurePosixPath(path).parts[:-1]
        return alike(path, of), (Counter(folders) & Counter(wanted)).total()

    best = max(map(rank, paths), default=None)
    return [path for path in paths if rank(path) == best]


def alike(path: str, other: str) -> bool:
    """Whether the folders of two files differ in one of them at most."""
    one, two = PurePosixPath(path).parts[:-1], PurePosixPath(other).parts[:-1]
    return one == two or bool(_less_one(one) & _less_one(two))


def _less_one(folders: Sequence[str]) -> set[tuple[str, ...]]:
    """Folders without one of them: what "images/a" and "masks/a" have in common."""
    return {(*folders[:place], *folders[place + 1 :]) for place in range(len(folders))}


def image_sets(path: str) -> tuple[str, ...]:
    """The image sets that the folders of a path are called like."""
    found = []
    for folder in PurePosixPath(path).parts[:-1]:
        beside = BESIDE_SET.fullmatch(folder)
        if (name := set_role(beside[1] if beside else folder)) is not None:
            found.append(name)
        elif folder.lower().startswith(SEMANTIC) and set_role(folder[len(SEMANTIC) :]):
            found.append(str(set_role(folder[len(SEMANTIC) :])))
    return tuple(found)


def set_role(folder: str) -> str | None:
    """The role of an image set that the last folder of a path is called like."""
    return role_within(PurePosixPath(folder).name)


def map_key(path: str) -> str:
    """The folded stem of a map without what tools append to it."""
    stem = fold_case(PurePosixPath(path).stem)
    ending = ENDING.search(stem)
    return stem[: ending.start()] if ending and ending.start() else stem
