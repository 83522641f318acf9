"""Files beside an image that show the same scene: masks, depth maps, copies in another format.

A set with `x.jpg` and `x.png`, or `x.png` and `x_mask.png`, side by side would be trained half on
masks. The image is kept, the file beside it left out.
"""

from __future__ import annotations

import posixpath
import re
from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np

from resnets.data.errors import DataError
from resnets.data.files import Files
from resnets.data.open_image import open_image
from resnets.data.walk import HEIC_SUFFIXES, IMAGE_SUFFIXES, suffix_of

MASK_NAME = re.compile(
    r"(.+?)[\s._-]+(?:mask|masks|depth|disp|disparity|seg|segm|segmentation|label|labels|labelids"
    r"|gt|groundtruth|ground[_-]truth|annotation|annotated|matte|alpha|trimap|normal|normals)"
    r"(?:[\s._-]*\d+)?",
    re.IGNORECASE,
)
JPEGS = frozenset({".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".heic", ".heif", ".webp"})
PROBES = 64  # pairs that are looked at first
SYSTEMATIC = 0.5  # share of the files of one format that have a twin of the same name
GREY = frozenset({"1", "L", "P", "I", "F", "I;16", "I;16L", "I;16B", "LA"})


def masks_beside(paths: Sequence[str], rows: Sequence[int], files: Files) -> set[int]:
    """Those of `rows` that are masks, maps or copies beside the image they belong to."""
    folders: dict[str, list[int]] = {}
    for row in rows:
        folders.setdefault(posixpath.dirname(paths[row]), []).append(row)
    found: set[int] = set()
    pairs: list[tuple[int, int]] = []
    for inside in folders.values():
        stems: dict[str, list[int]] = {}
        for row in inside:
            stems.setdefault(_stem(paths[row]), []).append(row)
        for stem, same in stems.items():
            mask = MASK_NAME.fullmatch(stem)
            if mask is not None and mask[1].casefold() in stems:
                found.update(same)
        pairs += [pair for same in stems.values() if len(same) > 1 for pair in _pairs(paths, same)]
    pairs = [pair for pair in pairs if not found & set(pair)]
    return found | _twins(paths, rows, pairs, files)


def _stem(path: str) -> str:
    """The name without the suffix of an image; one that says nothing (2024.01.07) belongs to it."""
    name = posixpath.basename(path)
    suffix = suffix_of(name)
    return (name[: -len(suffix)] if suffix in IMAGE_SUFFIXES | HEIC_SUFFIXES else name).casefold()


def _pairs(paths: Sequence[str], same: Sequence[int]) -> Iterator[tuple[int, int]]:
    """(image, file beside it) among files that differ by their suffix alone: JPEG comes first."""
    first, *others = sorted(
        same, key=lambda row: (posixpath.splitext(paths[row])[1].lower() not in JPEGS, row)
    )
    for other in others:
        yield first, other


def _twins(
    paths: Sequence[str], rows: Sequence[int], pairs: Sequence[tuple[int, int]], files: Files
) -> set[int]:
    """The second of each pair that shows the same scene as the first.

    Where most files of a format have a twin, equal sizes tell; else the second must be grey or of
    a palette too, which a mask or map is and another photograph is not.
    """
    if not pairs:
        return set()
    suffixes = Counter(posixpath.splitext(paths[row])[1].lower() for row in rows)
    twins = Counter(posixpath.splitext(paths[other])[1].lower() for _, other in pairs)
    systematic = {each for each in twins if twins[each] >= max(2, SYSTEMATIC * suffixes[each])}
    places = np.unique(np.linspace(0, len(pairs) - 1, PROBES).astype(int)).tolist()
    seen = {pairs[place]: _alike(files, pairs[place]) for place in places}
    if len(set(seen.values())) > 1 or len(systematic) < len(twins):
        seen = {pair: _alike(files, pair) for pair in pairs}
    usual = next(iter(seen.values()))
    out = set()
    for pair in pairs:
        same_size, mask = seen.get(pair, usual)
        if same_size and (mask or posixpath.splitext(paths[pair[1]])[1].lower() in systematic):
            out.add(pair[1])
    return out


def _alike(files: Files, pair: tuple[int, int]) -> tuple[bool, bool]:
    """Whether both are of one size, and whether the second is grey beside a first in colour."""
    try:
        (size, colour), (other, other_colour) = (_header(files, row) for row in pair)
    except DataError:
        return False, False
    return size == other, colour and not other_colour


def _header(files: Files, row: int) -> tuple[tuple[int, int], bool]:
    try:
        with open_image(files.read(row)) as image:
            return image.size, image.mode not in GREY
    except Exception as error:  # whatever a damaged header makes Pillow raise
        raise DataError(f"{files.name(row)}: cannot be read ({error})") from error
