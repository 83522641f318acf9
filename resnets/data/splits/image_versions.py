"""Find images that were made from one source, by their names.

Roboflow exports several augmented copies of a photograph (NAME.rf.HASH.jpg), flipped, rotated or
cropped; WordPress stores each upload in several sizes (NAME.jpg, NAME-300x225.jpg,
NAME-scaled.jpg), some of them cropped; scripts append words for an augmentation (NAME_hflip.jpg,
NAME_rot15.jpg). Pixels do not show this. Tiles of a scene (NAME_0_0.png, NAME_0_256.png, ...) show
the same objects where they overlap, and frames of a video (clip07_frame0012.png) show the same
scene. If versions, tiles or frames are in two splits, training has seen what the other split
measures.
"""

from __future__ import annotations

import math
import posixpath
import re
from collections import Counter
from collections.abc import Collection, Hashable, Mapping, Sequence
from itertools import pairwise

from resnets.data.dataset.labels import format_label
from resnets.data.layout.folder_names import split_role
from resnets.data.splits.image_record import TEST, TRAIN, VAL
from resnets.data.splits.roles import Roles
from resnets.utils.printable import format_count

HASHED = re.compile(r"(.+)\.rf\.[0-9A-Za-z]{8,}")
TILED = re.compile(r"(.+?)[-_ ][xr]?(\d{1,6})[-_ x][yc]?(\d{1,6})")
MIN_STEP = 16  # px between tiles; smaller steps are other numbers
MIN_TILES = 4  # of a scene
NUMBERED = re.compile(r"(.*?)(\d{1,9})")
MIN_FRAMES = 4  # of a series
SERIES_PREFIX = r"(.*\D)\d+\."  # a path without the number at its end
NAME_PREFIX = r"([^/]*\D)\d+\.[^/]*$"  # the same of a file name, for a series in several folders
MAX_TAILS = 8  # alternatives in a pattern
FRAME = re.compile(r".*\d.*?[\d_. -](?:frame|frm|fr?|slice|slc|t|z)[_. -]*", re.I)
SIZED = re.compile(r"(.+)-(?:[1-9]\d{1,4}x[1-9]\d{1,4}|scaled)")
AUGMENTATION = (  # words for augmentations in file names
    r"(?:(?:hv?|v|lr|ud|horizontal|vertical)[_ -]?)?(?:flip(?:ped|lr|ud)?|mirror(?:ed)?)"
    r"|rot(?:ate|ated|ation)?|aug(?:ment(?:ed|ation)?)?|zoom(?:ed)?|crop(?:ped)?|blur(?:red)?"
    r"|nois[ey]|bright(?:ness|er)?|dark(?:er)?|contrast|gamma|hue|saturation|jitter|shear(?:ed)?"
    r"|shift(?:ed)?|translat(?:e|ed|ion)|warp(?:ed)?|cutout|gr[ae]y(?:scale)?|copy|orig(?:inal)?"
)
AMOUNT = r"(?:[_ -]?[mn+-]?\d+(?:\.\d+)?)?(?:deg)?"
AUGMENTED_SUFFIX = re.compile(rf"(.*?)((?:[_. -]+(?:{AUGMENTATION}){AMOUNT})+)", re.I)
AUGMENTED_PREFIX = re.compile(rf"(?:(?:{AUGMENTATION}){AMOUNT}[_. -]+)+(.*)", re.I)
COPIED = re.compile(r"(.+?)(?: - Copy(?: \(\d+\))?| ?\([1-9]\))")
AUGMENTOR = re.compile(r".+_original_(.+)\.[A-Za-z]{3,4}_[0-9a-f]{8}(?:-[0-9a-f]{4,12}){4}")


def source_name(path: str) -> str | None:
    """Return the name of the image that a version was made from; None if its name does not show it.

    >>> source_name("train/cat_jpg.rf.0a1b2c3d4e5f.jpg"), source_name("train/cat.jpg")
    ('cat_jpg', None)
    >>> source_name("train/cat-300x225.jpg")
    'cat'
    """
    stem = _stem(path)
    found = HASHED.fullmatch(stem) or SIZED.fullmatch(stem)
    return found[1] if found else None


def find_sources(paths: Sequence[str], labels: Sequence[Hashable]) -> dict[int, Hashable]:
    """Return a key of the source of each image, by its index in `paths`, for names that state one.

    An image is the source of those of its class that have its name and in addition a size, or words
    for an augmentation. Since both also follow common names, such versions must be of one class.
    """
    found: dict[int, Hashable] = {}
    keys = set()
    stems = [_stem(path) for path in paths]
    known = set(zip(labels, stems, strict=True))
    for index, (stem, label) in enumerate(zip(stems, labels, strict=True)):
        dashed = "-" in stem or ".rf." in stem  # a fast test, for sets of a million images
        if dashed and (name := source_name(paths[index])) is not None:
            found[index] = name if HASHED.fullmatch(stem) else (label, name)
            keys.add((label, name))
        elif (name := _augmentation_source(stem, label, known)) is not None:
            found[index] = label, name
            keys.add((label, name))
    shared = _ambiguous_sources(found, stems)
    found = {index: key for index, key in found.items() if key not in shared}
    for index, key in enumerate(zip(labels, stems, strict=True)) if keys else ():
        if index not in found and key in keys - shared:
            found[index] = key
    return found | {index: key for index, key in _find_scenes(paths).items() if index not in found}


def _augmentation_source(stem: str, label: Hashable, known: Collection[Hashable]) -> str | None:
    """Return the name of the image that was augmented; None if the name does not show it.

    Names without a number are ambiguous: "cat_crop_1" may be of any cat.
    """
    if (match := AUGMENTED_SUFFIX.fullmatch(stem)) is not None and any(map(str.isdigit, match[1])):
        return match[1]
    if (match := AUGMENTOR.fullmatch(stem)) is not None:
        return match[1]
    for pattern in (AUGMENTED_PREFIX, COPIED):
        if (match := pattern.fullmatch(stem)) is not None and (label, match[1]) in known:
            numbered = any(map(str.isdigit, match[1])) or " - Copy" in stem
            return match[1] if numbered else None
    return None


def _ambiguous_sources(found: Mapping[int, Hashable], stems: Sequence[str]) -> set[Hashable]:
    """Return the sources of which two images have the same name: these are several sources."""
    names: dict[Hashable, set[str]] = {}
    ambiguous: set[Hashable] = set()
    for index, key in found.items():
        if isinstance(key, tuple):  # others have a hash
            if stems[index] in names.setdefault(key, set()):
                ambiguous.add(key)
            names[key].add(stems[index])
    return ambiguous


def _find_scenes(paths: Sequence[str]) -> dict[int, Hashable]:
    """Return a key of the scene of each tile, by index. Tiles are at positions of a grid in pixels.

    Names that end with two other numbers (dates, counts) form no such grid, and two images at one
    position belong to two scenes.
    """
    tiles: dict[str, dict[int, tuple[int, int]]] = {}
    for index, path in enumerate(paths):
        stem = _stem(path)
        if stem[-1:].isdecimal() and (found := TILED.fullmatch(stem)) is not None:
            tiles.setdefault(found[1], {})[index] = int(found[2]), int(found[3])
    scenes: dict[int, Hashable] = {}
    for name, positions in tiles.items():
        if len(set(positions.values())) < len(positions):  # names that several scenes share
            continue
        columns, rows = (set(numbers) for numbers in zip(*positions.values(), strict=True))
        grid = len(positions) >= MIN_TILES and min(len(columns), len(rows)) > 1
        if grid and all(_is_axis(numbers) for numbers in (columns, rows)):
            scenes.update(dict.fromkeys(positions, ("scene", name)))
    return scenes


def _is_axis(numbers: set[int]) -> bool:
    """Return whether numbers are positions of tiles in pixels: 0, and multiples of a step.

    The last tile may be shifted back to the edge of its scene.
    """
    inner = sorted(numbers)[1:-1] or [max(numbers)]
    return min(numbers) == 0 and math.gcd(*inner) >= MIN_STEP


def version_warnings(roles: Roles) -> list[str]:
    """Return warnings if held-out images are versions of training images, or of the same series."""
    names: list[str] = []
    labels: list[str] = []
    image_roles: list[int] = []
    for role in (TRAIN, VAL, TEST):
        if (share := roles.share(role)) is None:
            continue
        if (files := share.part.files) is None:
            return []
        names += [files.name(row) for row in share.rows.tolist()]
        labels += [
            format_label(each, roles.source.classes) for each in share.part.labels[share.rows]
        ]
        image_roles += [role] * len(share.rows)
    if not any(image_roles):  # TRAIN is 0: nothing is held out
        return []
    return [
        *_versions_warning(names, labels, image_roles),
        *series_warnings(names, labels, image_roles),
    ]


def _versions_warning(
    names: Sequence[str], labels: Sequence[Hashable], roles: Sequence[int]
) -> list[str]:
    sources = find_sources(names, labels)
    counts = Counter(sources.values())
    trained = {key for index, key in sources.items() if roles[index] == TRAIN}
    leaking = [index for index, key in sources.items() if roles[index] != TRAIN and key in trained]
    if not leaking:
        return []
    held = f"{len(leaking):,} held-out image{'s are' if len(leaking) > 1 else ' is'}"
    return [
        f"{len(sources) - len(counts):,} of {len(names):,} images are named as versions of"
        " another, or as tiles of one scene;"
        f" these fall into training and held-out splits: {held} of the same source as a training"
        f" image, such as {posixpath.basename(names[leaking[0]])}; keep them together with --set"
        f" {_format_group_setting([_stem(names[index]) for index in sources])}, or run `resnets"
        " data check` with --exclude same-source for a list of them"
    ]


def _format_group_setting(stems: Sequence[str]) -> str:
    """Return the setting that keeps augmented images together, if their last words allow it."""
    tails = {
        re.sub(r"\d+", "0", found[2])
        for stem in stems
        if (found := AUGMENTED_SUFFIX.fullmatch(stem))
    }
    if not 0 < len(tails) <= MAX_TAILS:
        return "data.group=regex:PATTERN"
    choice = "|".join(re.escape(tail).replace("0", r"\d+") for tail in sorted(tails))
    return f"'data.group=regex:(.+?)(?:{choice})?\\.[^./]+$'"


def series_warnings(
    names: Sequence[str], labels: Sequence[str], roles: Sequence[Hashable]
) -> list[str]:
    """Return warnings about numbered series in two splits (`roles`), with advice.

    Frames of a video and slices of a scan are such series: each in a folder below a class folder
    (UCF101), or several in one folder, with a number before that of the frame.
    """
    folders: dict[str, list[tuple[int, str, str]]] = {}
    without_role = {
        folder: "/".join(part for part in folder.split("/") if not split_role(part))
        for folder in {posixpath.dirname(path) for path in names}
    }
    for index, path in enumerate(names):
        if (found := NUMBERED.fullmatch(_stem(path))) is not None:
            folder = without_role[posixpath.dirname(path)]
            folders.setdefault(folder, []).append((index, found[1], found[2]))
    series: dict[bool, dict[Hashable, list[list[int]]]] = {True: {}, False: {}}
    for folder, members in folders.items():
        words: dict[str, list[tuple[int, str]]] = {}
        for index, word, number in members:
            words.setdefault(word, []).append((index, number))
        for word, numbered in words.items():
            indices = [index for index, _ in numbered]
            classes = {labels[index] for index in indices}
            is_frames = FRAME.fullmatch(word) is not None
            is_folder = len(words) == len(classes) == 1 and {posixpath.basename(folder)} != classes
            if not is_folder and not (is_frames or (len(classes) == 1 and re.search(r"\d", word))):
                continue
            if _is_series([int(number) for _, number in numbered], is_frames and not is_folder):
                parent = posixpath.dirname(folder) if is_folder else (folder, *sorted(classes))
                series[is_folder].setdefault(parent, []).append(indices)
    warnings = []
    for is_folder, by_parent in series.items():
        split_series = [
            indices
            for parent in by_parent.values()
            for indices in parent
            if len(parent) > 1 and len({roles[index] for index in indices}) > 1
        ]
        if split_series:
            one, many = ("folder", "folders") if is_folder else ("series", "series")
            first = names[split_series[0][0]]
            crosses = not is_folder and _series_crosses_folders(folders)
            pattern = "(.+)/" if is_folder else NAME_PREFIX if crosses else SERIES_PREFIX
            warnings.append(
                f"{format_count(len(split_series), one, many)} of numbered images in both training"
                " and held-out splits, such as"
                f" {posixpath.dirname(first) if is_folder else first}; if each is one video or"
                " scan, the error is too low: keep them together with --set"
                f" 'data.group=regex:{pattern}'"
            )
    return warnings


def _series_crosses_folders(folders: Mapping[str, Sequence[tuple[int, str, str]]]) -> bool:
    """Whether a series lies in several folders, as objects cut out of an image, sorted by class.

    folders: index, name before the number, and number of the images of each folder. Where two
    folders have the same number of a name, they have two series of that name.
    """
    numbers: dict[str, list[set[str]]] = {}
    for members in folders.values():
        by_word: dict[str, set[str]] = {}
        for _, word, number in members:
            by_word.setdefault(word, set()).add(number)
        for word, found in by_word.items():
            if re.search(r"\d", word):
                numbers.setdefault(word, []).append(found)
    shared = [found for found in numbers.values() if len(found) > 1]
    return bool(shared) and all(len(set.union(*found)) == sum(map(len, found)) for found in shared)


def _is_series(numbers: Sequence[int], any_step: bool) -> bool:
    """Return whether numbers are distinct with equal steps between them, or with any steps."""
    found = sorted(numbers)
    steps = {later - one for one, later in pairwise(found)}
    return len(found) >= MIN_FRAMES and 0 not in steps and (any_step or len(steps) == 1)


def _stem(path: str) -> str:
    return posixpath.splitext(posixpath.basename(path.replace("\\", "/")))[0]
