"""Images that by their names were made of one source.

Roboflow exports several augmented copies of a photograph (NAME.rf.HASH.jpg), mirrored, turned or
cut; WordPress stores each upload in several sizes (NAME.jpg, NAME-300x225.jpg, NAME-scaled.jpg),
some of them cut; scripts add words for what they did (NAME_hflip.jpg, NAME_rot15.jpg). Pixels do
not tell any. A scene that is cut into tiles (NAME_0_0.png, NAME_0_256.png, ...) shows the same
objects in those that overlap, and frames of one video (clip07_frame0012.png) show the same scene.
Where versions, tiles or frames lie in two splits, one split knows what the other is measured on.
"""

from __future__ import annotations

import math
import posixpath
import re
from collections import Counter
from collections.abc import Collection, Hashable, Mapping, Sequence
from itertools import pairwise

from resnets.data.dataset.labels import label_text
from resnets.data.layout.folder_names import split_role
from resnets.data.splits.image_record import TEST, TRAIN, VAL
from resnets.data.splits.roles import Roles
from resnets.utils.printable import format_count

HASHED = re.compile(r"(.+)\.rf\.[0-9A-Za-z]{8,}")
TILED = re.compile(r"(.+?)[-_ ][xr]?(\d{1,6})[-_ x][yc]?(\d{1,6})")
LEAST_STEP = 16  # px between tiles; smaller numbers count something else
LEAST_TILES = 4  # of a scene
NUMBERED = re.compile(r"(.*?)(\d{1,9})")
LEAST_FRAMES = 4  # of a series
PREFIX = r"(.*\D)\d+\."  # a path without the number at its end
MOST_TAILS = 8  # that a pattern lists
FRAME = re.compile(r".*\d.*?[\d_. -](?:frame|frm|fr?|slice|slc|t|z)[_. -]*", re.I)
SIZED = re.compile(r"(.+)-(?:[1-9]\d{1,4}x[1-9]\d{1,4}|scaled)")
CHANGE = (  # what augmentation does, as file names say it
    r"(?:(?:hv?|v|lr|ud|horizontal|vertical)[_ -]?)?(?:flip(?:ped|lr|ud)?|mirror(?:ed)?)"
    r"|rot(?:ate|ated|ation)?|aug(?:ment(?:ed|ation)?)?|zoom(?:ed)?|crop(?:ped)?|blur(?:red)?"
    r"|nois[ey]|bright(?:ness|er)?|dark(?:er)?|contrast|gamma|hue|saturation|jitter|shear(?:ed)?"
    r"|shift(?:ed)?|translat(?:e|ed|ion)|warp(?:ed)?|cutout|gr[ae]y(?:scale)?|copy|orig(?:inal)?"
)
AMOUNT = r"(?:[_ -]?[mn+-]?\d+(?:\.\d+)?)?(?:deg)?"
ENDED = re.compile(rf"(.*?)((?:[_. -]+(?:{CHANGE}){AMOUNT})+)", re.I)
BEGUN = re.compile(rf"(?:(?:{CHANGE}){AMOUNT}[_. -]+)+(.*)", re.I)
COPIED = re.compile(r"(.+?)(?: - Copy(?: \(\d+\))?| ?\([1-9]\))")
AUGMENTOR = re.compile(r".+_original_(.+)\.[A-Za-z]{3,4}_[0-9a-f]{8}(?:-[0-9a-f]{4,12}){4}")


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
    a size, or words for an augmentation. Both follow common names, so such versions are of one
    class.
    """
    found: dict[int, Hashable] = {}
    keys = set()
    stems = [_stem(path) for path in paths]
    known = set(zip(labels, stems, strict=True))
    for place, (stem, label) in enumerate(zip(stems, labels, strict=True)):
        dashed = "-" in stem or ".rf." in stem  # quick, for sets of a million images
        if dashed and (name := source_name(paths[place])) is not None:
            found[place] = name if HASHED.fullmatch(stem) else (label, name)
            keys.add((label, name))
        elif (name := _augmented_from(stem, label, known)) is not None:
            found[place] = label, name
            keys.add((label, name))
    shared = _told_twice(found, stems)
    found = {place: key for place, key in found.items() if key not in shared}
    for place, key in enumerate(zip(labels, stems, strict=True)) if keys else ():
        if place not in found and key in keys - shared:
            found[place] = key
    return found | {place: key for place, key in _scenes(paths).items() if place not in found}


def _augmented_from(stem: str, label: Hashable, known: Collection[Hashable]) -> str | None:
    """The name of what an image was made of by augmentation; None where its name tells none.

    Names without a number are of several images: "cat_crop_1" may be any cat.
    """
    if (ended := ENDED.fullmatch(stem)) is not None and any(map(str.isdigit, ended[1])):
        return ended[1]
    if (made := AUGMENTOR.fullmatch(stem)) is not None:
        return made[1]
    for pattern in (BEGUN, COPIED):
        if (other := pattern.fullmatch(stem)) is not None and (label, other[1]) in known:
            numbered = any(map(str.isdigit, other[1])) or " - Copy" in stem
            return other[1] if numbered else None
    return None


def _told_twice(found: Mapping[int, Hashable], stems: Sequence[str]) -> set[Hashable]:
    """Sources of which two images have one name: those are of several sources of that name."""
    names: dict[Hashable, set[str]] = {}
    twice: set[Hashable] = set()
    for place, key in found.items():
        if isinstance(key, tuple):  # others have a hash
            if stems[place] in names.setdefault(key, set()):
                twice.add(key)
            names[key].add(stems[place])
    return twice


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
    return [*_versions_warning(names, labels, sides), *series_warnings(names, labels, sides)]


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
        f" {_group_of_versions([_stem(names[place]) for place in sources])}, or run `resnets data"
        " check` with --leave-out same-source for a list of them"
    ]


def _group_of_versions(stems: Sequence[str]) -> str:
    """The setting that keeps augmented images together, where words at the end tell them."""
    tails = {re.sub(r"\d+", "0", found[2]) for stem in stems if (found := ENDED.fullmatch(stem))}
    if not 0 < len(tails) <= MOST_TAILS:
        return "data.group=regex:PATTERN"
    choice = "|".join(re.escape(tail).replace("0", r"\d+") for tail in sorted(tails))
    return f"'data.group=regex:(.+?)(?:{choice})?\\.[^./]+$'"


def series_warnings(
    names: Sequence[str], labels: Sequence[str], sides: Sequence[Hashable]
) -> list[str]:
    """A warning where numbered series lie in two splits (`sides`), and how to keep them together.

    Frames of one video and slices of one scan are such series: each in a folder below a class
    folder (UCF101), or several in one folder, told by a number before that of the frame.
    """
    folders: dict[str, list[tuple[int, str, str]]] = {}
    without_role = {
        folder: "/".join(part for part in folder.split("/") if not split_role(part))
        for folder in {posixpath.dirname(path) for path in names}
    }
    for place, path in enumerate(names):
        if (found := NUMBERED.fullmatch(_stem(path))) is not None:
            folder = without_role[posixpath.dirname(path)]
            folders.setdefault(folder, []).append((place, found[1], found[2]))
    series: dict[bool, dict[Hashable, list[list[int]]]] = {True: {}, False: {}}
    for folder, members in folders.items():
        words: dict[str, list[tuple[int, str]]] = {}
        for place, word, number in members:
            words.setdefault(word, []).append((place, number))
        for word, of_word in words.items():
            places = [place for place, _ in of_word]
            classes = {labels[place] for place in places}
            is_frames = FRAME.fullmatch(word) is not None
            is_folder = len(words) == len(classes) == 1 and {posixpath.basename(folder)} != classes
            if not is_folder and not (is_frames or (len(classes) == 1 and re.search(r"\d", word))):
                continue
            if _is_series([int(number) for _, number in of_word], is_frames and not is_folder):
                beside = posixpath.dirname(folder) if is_folder else (folder, *sorted(classes))
                series[is_folder].setdefault(beside, []).append(places)
    warnings = []
    for is_folder, found_in in series.items():
        cut = [
            places
            for beside in found_in.values()
            for places in beside
            if len(beside) > 1 and len({sides[place] for place in places}) > 1
        ]
        if cut:
            one, many = ("folder", "folders") if is_folder else ("series", "series")
            first = names[cut[0][0]]
            warnings.append(
                f"{format_count(len(cut), one, many)} of numbered images in both training and"
                " held-out splits, such as"
                f" {posixpath.dirname(first) if is_folder else first}; if each is one video or"
                " scan, the error is too low: keep them together with --set"
                f" 'data.group=regex:{'(.+)/' if is_folder else PREFIX}'"
            )
    return warnings


def _is_series(numbers: Sequence[int], any_step: bool) -> bool:
    """Whether numbers follow each other in even steps, each once; of frames, in any."""
    found = sorted(numbers)
    steps = {later - one for one, later in pairwise(found)}
    return len(found) >= LEAST_FRAMES and 0 not in steps and (any_step or len(steps) == 1)


def _stem(path: str) -> str:
    return posixpath.splitext(posixpath.basename(path.replace("\\", "/")))[0]
