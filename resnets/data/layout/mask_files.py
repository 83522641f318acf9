"""Files beside an image that show the same scene: masks, depth maps, copies in another format.

A set with `x.jpg` and `x.png`, or `x.png` and `x_mask.png`, side by side would be trained half on
masks. The image is kept, the file beside it left out. Two different images of one name and size are
both kept, with a warning.
"""

from __future__ import annotations

import posixpath
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from resnets.data.decode.open_image import open_image
from resnets.data.decode.pixel_values import FULL, as_bytes
from resnets.data.errors import DataError
from resnets.data.files.folder import Files
from resnets.data.files.walk import HEIC_SUFFIXES, IMAGE_SUFFIXES, suffix_of

MASK_NAME = re.compile(
    r"(.+?)[\s._-]+(?:mask|masks|depth|disp|disparity|seg|segm|segmentation|label|labels|labelids"
    r"|gt|groundtruth|ground[_-]truth|annotation|annotated|matte|alpha|trimap|normal|normals)"
    r"(?:[\s._-]*\d+)?",
    re.IGNORECASE,
)
JPEGS = frozenset({".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".heic", ".heif", ".webp"})
PROBES = 64  # pairs that are looked at first
SYSTEMATIC = 0.5  # share of the files of one format that have a twin of the same name
GRID = 64  # pixels of each side whose colours are counted
SMALL = 32  # pixels of each side of what is compared
ALIKE = 0.97  # correlation of the brightness of copies; other scenes of one kind reach 0.9
FLAT = 2.0  # spread of the brightness of an image without content
COLORS = 48  # of a mask, at most; photographs have hundreds
COVERED = 0.9  # share of a lossy mask that has one of two colours
APART = 4  # sixteenths of the range between these
Relation = Literal["second", "first", "different", "unlike"]  # what is left out, or why nothing
GRAY = frozenset({"1", "L", "P", "I", "F", "I;16", "I;16L", "I;16B", "LA"})


@dataclass(frozen=True)
class Beside:
    """`masks`: rows of masks, maps and copies beside the image they belong to. `different`: pairs
    of rows of different images that have one name and one size."""

    masks: set[int]
    different: Sequence[tuple[int, int]] = ()

    def warnings(self, paths: Sequence[str]) -> tuple[str, ...]:
        """What to say of different images of one name."""
        if not self.different:
            return ()
        first, second = (paths[row] for row in self.different[0])
        count = len(self.different)
        return (
            f"{count:,} pair{'s' * (count > 1)} of images share a name and a size, but not their"
            f" content, such as {first} and {second}: both are taken as images; if one of them is a"
            " map of the other, move it away",
        )


def masks_beside(paths: Sequence[str], rows: Sequence[int], files: Files) -> Beside:
    """Which of `rows` are masks, maps or copies of others."""
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
    twins = _twins(paths, rows, pairs, files)
    return Beside(found | twins.masks, twins.different)


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
) -> Beside:
    """Of each pair what is a map or copy of the other, which has the same size then.

    A grey image beside one in colour is a map. Others are compared by their pixels: where most
    files of a format have a twin, and where the second has a palette.
    """
    if not pairs:
        return Beside(set())
    suffixes = Counter(posixpath.splitext(paths[row])[1].lower() for row in rows)
    twins = Counter(posixpath.splitext(paths[other])[1].lower() for _, other in pairs)
    systematic = {each for each in twins if twins[each] >= max(2, SYSTEMATIC * suffixes[each])}

    def relation(pair: tuple[int, int]) -> Relation:
        try:
            return _relation(
                files, pair, posixpath.splitext(paths[pair[1]])[1].lower() in systematic
            )
        except DataError:  # named when its turn comes
            return "unlike"

    places = np.unique(np.linspace(0, len(pairs) - 1, PROBES).astype(int)).tolist()
    seen = {pairs[place]: relation(pairs[place]) for place in places}
    if len(set(seen.values())) > 1 or len(systematic) < len(twins):
        seen = {pair: seen[pair] if pair in seen else relation(pair) for pair in pairs}
    usual = next(iter(seen.values()))
    found = {pair: seen.get(pair, usual) for pair in pairs}
    masks = {pair[1] for pair, each in found.items() if each == "second"}
    masks |= {pair[0] for pair, each in found.items() if each == "first"}
    return Beside(masks, [pair for pair, each in found.items() if each == "different"])


def _relation(files: Files, pair: tuple[int, int], systematic: bool) -> Relation:
    """Which of a pair is a map or copy of the other."""
    (size, mode), (other, other_mode) = (_header(files, row) for row in pair)
    if size != other:
        return "unlike"
    if mode not in GRAY and other_mode in GRAY and other_mode != "P":
        return "second"
    if not systematic and (mode in GRAY or other_mode != "P"):
        return "unlike"
    (first, small), (second, other_small) = (_pixels(files, row) for row in pair)
    if _is_copy(small, other_small) or _is_map(second):
        return "second"
    return "first" if _is_map(first) or _is_lossy_map(first) else "different"


def _header(files: Files, row: int) -> tuple[tuple[int, int], str]:
    try:
        with open_image(files.read(row)) as image:
            return image.size, image.mode
    except Exception as error:  # whatever a damaged header makes Pillow raise
        raise DataError(f"{files.name(row)}: cannot be read ({error})") from error


def _pixels(files: Files, row: int) -> tuple[NDArray[np.uint8], NDArray[np.float64]]:
    """Colors (N, 3) of an image at up to GRID x GRID places, and its brightness (SMALL, SMALL)."""
    try:
        with open_image(files.read(row)) as image:
            image.load()
            rgb = as_bytes(image, FULL).convert("RGB")
            small = rgb.convert("L").resize((SMALL, SMALL), Image.Resampling.BOX)
    except Exception as error:
        raise DataError(f"{files.name(row)}: cannot be read ({error})") from error
    pixels = np.asarray(rgb)
    rows, columns = (
        np.linspace(0, length - 1, min(GRID, length)).astype(int) for length in pixels.shape[:2]
    )
    return pixels[np.ix_(rows, columns)].reshape(-1, 3), np.asarray(small, np.float64)


def _is_copy(first: NDArray[np.float64], second: NDArray[np.float64]) -> bool:
    """Whether the brightness of two images goes up and down together."""
    spread = float(first.std()), float(second.std())
    if min(spread) < FLAT:
        return max(spread) < FLAT and abs(float(first.mean() - second.mean())) < 8
    return float(np.corrcoef(first.ravel(), second.ravel())[0, 1]) > ALIKE


def _is_map(colors: NDArray[np.uint8]) -> bool:
    """Whether an image has few colours, as masks have."""
    return len(np.unique(colors, axis=0)) <= max(2, min(COLORS, len(colors) // 8))


def _is_lossy_map(colors: NDArray[np.uint8]) -> bool:
    """Whether nearly all pixels have two colours that are far apart, about, as of a JPEG mask."""
    coarse, counts = np.unique(colors >> 4, axis=0, return_counts=True)
    two = np.argsort(counts)[-2:]
    apart = int(np.ptp(coarse[two].astype(np.int64), axis=0).max())
    return apart >= APART and float(counts[two].sum()) >= COVERED * len(colors)
