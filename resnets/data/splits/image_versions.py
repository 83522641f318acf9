"""Images that by their names were made of one source.

Roboflow exports several augmented copies of a photograph (NAME.rf.HASH.jpg), mirrored, turned or
cut; WordPress stores each upload in several sizes (NAME.jpg, NAME-300x225.jpg, NAME-scaled.jpg),
some of them cut. Pixels do not tell either. A scene that is cut into tiles (NAME_0_0.png,
NAME_0_256.png, ...) shows the same objects in those that overlap. Where versions or tiles lie in
two splits, one split knows what the other is measured on.
"""

from __future__ import annotations

import math
import posixpath
import re
from collections import Counter
from collections.abc import Hashable, Sequence

from resnets.data.dataset.labels import label_text
from resnets.data.splits.image_record import TEST, TRAIN, VAL
from resnets.data.splits.roles import Roles

HASHED = re.compile(r"(.+)\.rf\.[0-9A-Za-z]{8,}")
TILED = re.compile(r"(.+?)[-_ ][xr]?(\d{1,6})[-_ x][yc]?(\d{1,6})")
LEAST_STEP = 16  # px between tiles; smaller numbers count something else
LEAST_TILES = 4  # of a scene
NUMBERED = re.compile(r"(.*?)(\d{1,9})")
LEAST_FRAMES = 4  # of a series
SIZED = re.compile(r"(.+)-(?:[1-9]\d{1,4}x[1-9]\d{1,4}|scaled)")


def source_name(path: str) -> str | None:
    """The name of the image that a version was made of, None where its name states none.

    >>> source_name("train/cat_jpg.rf.0a1b2c3d4e5f.jpg"), source_name("train/cat.jpg")
    ('cat_jpg', None)
    >>> source_name("train/cat-300x225.jpg")
    'cat'
    """
    stem = _stem(path)
    found = HASHED.fullmatch(stem) or SIZED.fullmatch(stem)
    return found[1] if found else None


def sources_by_name(paths: Sequence[str], labels: Sequence[Hashable]) -> dict[int, Hashable]:
    """What tells the source of each image, by its place in `paths`, where names state one.

    An image without a size in its name is the source of those of its class that have its name and
    a size. Sizes follow common names, so such versions are of one class.
    """
    found: dict[int, Hashable] = {}
    sized = set()
    for place, path in enumerate(paths):
        base = path.rpartition("/")[2]
        if "-" not in base and ".rf." not in base:  # quick, for sets of a million images
            continue
        if (name := source_name(path)) is None:
            continue
        if HASHED.fullmatch(_stem(path)):
            found[place] = name
        else:
            found[place] = labels[place], name
            sized.add(found[place])
    if sized:
        for place, path in enumerate(paths):
            if place not in found and (key := (labels[place], _stem(path))) in sized:
                found[place] = key
    return found | {place: key for place, key in _scenes(paths).items() if place not in found}


def _scenes(paths: Sequence[str]) -> dict[int, Hashable]:
    """What tells the scene of each tile: places in a grid of pixels that starts at 0, 0.

    Names that end with two other numbers (dates, counts) make no such grid, and two images at one
    place of a scene are of two scenes.
    """
    tiles: dict[str, dict[int, tuple[int, int]]] = {}
    for place, path in enumerate(paths):
        stem = _stem(path)
        if stem[-1:].isdecimal() and (found := TILED.fullmatch(stem)) is not None:
            tiles.setdefault(found[1], {})[place] = int(found[2]), int(found[3])
    scenes: dict[int, Hashable] = {}
    for name, places in tiles.items():
        if len(set(places.values())) < len(places):  # names that several scenes share
            continue
        across, down = (set(numbers) for numbers in zip(*places.values(), strict=True))
        grid = len(places) >= LEAST_TILES and min(len(across), len(down)) > 1
        if grid and all(_is_axis(numbers) for numbers in (across, down)):
            scenes.update(dict.fromkeys(places, ("scene", name)))
    return scenes


def _is_axis(numbers: set[int]) -> bool:
    """Whether numbers are places of tiles in pixels: 0, and multiples of a step of some pixels.

    The last tile may be moved back to the edge of its scene.
    """
    inner = sorted(numbers)[1:-1] or [max(numbers)]
    return min(numbers) == 0 and math.gcd(*inner) >= LEAST_STEP


def versions_apart(roles: Roles) -> list[str]:
    """Warnings where held-out images are versions of training images, or of one series."""
    names: list[str] = []
    labels: list[str] = []
    sides: list[int] = []
    for role in (TRAIN, VAL, TEST):
        if (share := roles.share(role)) is None:
            continue
        if (files := share.part.files) is None:
            return []
        names += [files.name(row) for row in share.rows.tolist()]
        labels += [label_text(each, roles.source.classes) for each in share.part.labels[share.rows]]
        sides += [role] * len(share.rows)
    if not any(sides):  # TRAIN is 0: nothing is held out
        return []
    return [*_versions_warning(names, labels, sides), *_series_warning(names, labels, sides)]


def _versions_warning(
    names: Sequence[str], labels: Sequence[Hashable], sides: Sequence[int]
) -> list[str]:
    sources = sources_by_name(names, labels)
    counts = Counter(sources.values())
    trained = {key for place, key in sources.items() if sides[place] == TRAIN}
    apart = [place for place, key in sources.items() if sides[place] != TRAIN and key in trained]
    if not apart:
        return []
    held = f"{len(apart):,} held-out image{'s are' if len(apart) > 1 else ' is'}"
    return [
        f"{len(sources) - len(counts):,} of {len(names):,} images are named as versions of"
        " another, or as tiles of one scene;"
        f" these fall into training and held-out splits: {held} of the same source as a training"
        f" image, such as {posixpath.basename(names[apart[0]])}; keep them together with --set"
        " data.group=regex:PATTERN, or run `resnets data check` with --leave-out same-source for a"
        " list of them"
    ]


def _series_warning(names: Sequence[str], labels: Sequence[str], sides: Sequence[int]) -> list[str]:
    """A warning where numbered series, each in a folder below a class folder, lie in two splits.

    Frames of one video (UCF101) and slices of one scan are such series.
    """
    series: dict[str, list[int]] = {}
    for place, path in enumerate(names):
        series.setdefault(posixpath.dirname(path), []).append(place)
    numbered = {
        folder: places
        for folder, places in series.items()
        if {posixpath.basename(folder)} != (classes := {labels[place] for place in places})
        and len(classes) == 1
        and _is_series([names[place] for place in places])
    }
    beside = Counter(posixpath.dirname(folder) for folder in numbered)
    cut = [
        folder
        for folder, places in numbered.items()
        if beside[posixpath.dirname(folder)] > 1 and len({sides[place] for place in places}) > 1
    ]
    if not cut:
        return []
    return [
        f"{len(cut):,} folders of numbered images lie in training and held-out splits, such as"
        f" {cut[0]}; if each is one video or scan, the error is too low: keep them together with"
        " --set 'data.group=regex:(.+)/'"
    ]


def _is_series(paths: Sequence[str]) -> bool:
    """Whether names are one word and consecutive numbers: frame_0001, frame_0002, ..."""
    found = [NUMBERED.fullmatch(_stem(path)) for path in paths]
    if len(paths) < LEAST_FRAMES or not all(found):
        return False
    numbers = {int(match[2]) for match in found if match}
    words = {match[1] for match in found if match}
    return len(words) == 1 and len(numbers) == max(numbers) - min(numbers) + 1 == len(paths)


def _stem(path: str) -> str:
    return posixpath.splitext(posixpath.basename(path.replace("\\", "/")))[0]
