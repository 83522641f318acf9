"""Find files that show the same scene as an image: masks, depth maps, copies in another format.

A set with `x.jpg` and `x.png`, or `x.png` and `x_mask.png`, would be trained half on masks. The
image is used and the other file is skipped. Two different images with one name and size are both
used, with a warning.
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
from resnets.data.decode.pixel_values import RANGE_16_BIT, to_8_bit
from resnets.data.errors import DataError
from resnets.data.files.folder import Files
from resnets.data.files.walk import HEIC_SUFFIXES, IMAGE_SUFFIXES, suffix_of
from resnets.data.order import evenly_spaced

MASK_NAME = re.compile(
    r"(.+?)[\s._-]+(?:mask|masks|depth|disp|disparity|seg|segm|segmentation|label|labels|labelids"
    r"|gt|groundtruth|ground[_-]truth|annotation|annotated|matte|alpha|trimap|normal|normals)"
    r"(?:[\s._-]*\d+)?",
    re.IGNORECASE,
)
JPEGS = frozenset({".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".heic", ".heif", ".webp"})
NUM_PROBES = 64  # pairs that are compared first
MIN_PAIRED = 0.5  # share of a format's files that are paired from which all are compared
GRID_SIZE = 64  # px; grid of pixels whose colors are counted
SMALL_SIZE = 32  # px; sides of the images that are correlated
MIN_CORRELATION = 0.97  # of the brightness of copies; similar scenes reach 0.9
MIN_SPREAD = 2.0  # standard deviation of the brightness; below, an image has no content
MAX_COLORS = 48  # of a mask; photographs have hundreds
MIN_COVERED = 0.9  # share of a lossy mask with one of two colors
MIN_DISTANCE = 4  # between these two, in sixteenths of the range
Relation = Literal["second", "first", "different", "unlike"]  # which is skipped, or why none is
GRAY = frozenset({"1", "L", "P", "I", "F", "I;16", "I;16L", "I;16B", "LA"})


@dataclass(frozen=True)
class MaskFiles:
    """Masks next to images.

    masks: rows of masks, maps and copies of other images. different: pairs of rows of different
    images with the same name and size.
    """

    masks: set[int]
    different: Sequence[tuple[int, int]] = ()

    def warnings(self, paths: Sequence[str]) -> tuple[str, ...]:
        """Return the warning about different images with one name."""
        if not self.different:
            return ()
        first, second = (paths[row] for row in self.different[0])
        count = len(self.different)
        return (
            f"{count:,} pair{'s' * (count > 1)} of images share a name and a size, but not their"
            f" content, such as {first} and {second}: both are used as images; if one of them is a"
            " map of the other, move it away",
        )


def find_masks(paths: Sequence[str], rows: Sequence[int], files: Files) -> MaskFiles:
    """Find which of `rows` are masks, maps or copies of others."""
    folders: dict[str, list[int]] = {}
    for row in rows:
        folders.setdefault(posixpath.dirname(paths[row]), []).append(row)
    masks: set[int] = set()
    pairs: list[tuple[int, int]] = []
    for folder_rows in folders.values():
        stems: dict[str, list[int]] = {}
        for row in folder_rows:
            stems.setdefault(_stem(paths[row]), []).append(row)
        for stem, same_stem in stems.items():
            mask = MASK_NAME.fullmatch(stem)
            if mask is not None and mask[1].casefold() in stems:
                masks.update(same_stem)
        pairs += [
            pair
            for same_stem in stems.values()
            if len(same_stem) > 1
            for pair in _iter_pairs(paths, same_stem)
        ]
    pairs = [pair for pair in pairs if not masks & set(pair)]
    compared = _compare_pairs(paths, rows, pairs, files)
    return MaskFiles(masks | compared.masks, compared.different)


def _stem(path: str) -> str:
    """Return the file name without an image suffix; others (2024.01.07) are part of the name."""
    name = posixpath.basename(path)
    suffix = suffix_of(name)
    return (name[: -len(suffix)] if suffix in IMAGE_SUFFIXES | HEIC_SUFFIXES else name).casefold()


def _iter_pairs(paths: Sequence[str], same: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Yield (image, other file) of files that differ only in their suffix; JPEGs are images."""
    first, *others = sorted(
        same, key=lambda row: (posixpath.splitext(paths[row])[1].lower() not in JPEGS, row)
    )
    for other in others:
        yield first, other


def _compare_pairs(
    paths: Sequence[str], rows: Sequence[int], pairs: Sequence[tuple[int, int]], files: Files
) -> MaskFiles:
    """Find which image of each pair is a map or copy of the other; these have the same size.

    A gray image next to one in color is a map. Others are compared by their pixels, if most files
    of a format are paired, or if the second image has a palette.
    """
    if not pairs:
        return MaskFiles(set())
    suffixes = Counter(posixpath.splitext(paths[row])[1].lower() for row in rows)
    paired_suffixes = Counter(posixpath.splitext(paths[other])[1].lower() for _, other in pairs)
    systematic = {
        each
        for each in paired_suffixes
        if paired_suffixes[each] >= max(2, MIN_PAIRED * suffixes[each])
    }

    def relation(pair: tuple[int, int]) -> Relation:
        try:
            return _find_relation(
                files, pair, posixpath.splitext(paths[pair[1]])[1].lower() in systematic
            )
        except DataError:  # reported when the image is read
            return "unlike"

    probes = evenly_spaced(len(pairs), NUM_PROBES).tolist()
    relations = {pairs[probe]: relation(pairs[probe]) for probe in probes}
    if len(set(relations.values())) > 1 or len(systematic) < len(paired_suffixes):
        relations = {
            pair: relations[pair] if pair in relations else relation(pair) for pair in pairs
        }
    common = next(iter(relations.values()))
    all_relations = {pair: relations.get(pair, common) for pair in pairs}
    masks = {pair[1] for pair, each in all_relations.items() if each == "second"}
    masks |= {pair[0] for pair, each in all_relations.items() if each == "first"}
    return MaskFiles(masks, [pair for pair, each in all_relations.items() if each == "different"])


def _find_relation(files: Files, pair: tuple[int, int], systematic: bool) -> Relation:
    """Return which image of a pair is a map or copy of the other."""
    (size, mode), (other, other_mode) = (_read_header(files, row) for row in pair)
    if size != other:
        return "unlike"
    if mode not in GRAY and other_mode in GRAY and other_mode != "P":
        return "second"
    if not systematic and (mode in GRAY or other_mode != "P"):
        return "unlike"
    (first, small), (second, other_small) = (_read_pixels(files, row) for row in pair)
    if _is_copy(small, other_small) or _is_map(second):
        return "second"
    return "first" if _is_map(first) or _is_lossy_map(first) else "different"


def _read_header(files: Files, row: int) -> tuple[tuple[int, int], str]:
    try:
        with open_image(files.read(row)) as image:
            return image.size, image.mode
    except Exception as error:  # whatever a damaged header makes Pillow raise
        raise DataError(f"{files.name(row)}: cannot be read ({error})") from error


def _read_pixels(files: Files, row: int) -> tuple[NDArray[np.uint8], NDArray[np.float64]]:
    """Read an image's colors (N, 3) at grid points, and its brightness in low resolution.

    The grid has at most GRID_SIZE x GRID_SIZE points; the brightness is (SMALL_SIZE, SMALL_SIZE).
    """
    try:
        with open_image(files.read(row)) as image:
            image.load()
            rgb = to_8_bit(image, RANGE_16_BIT).convert("RGB")
            small = rgb.convert("L").resize((SMALL_SIZE, SMALL_SIZE), Image.Resampling.BOX)
    except Exception as error:
        raise DataError(f"{files.name(row)}: cannot be read ({error})") from error
    pixels = np.asarray(rgb)
    rows, columns = (evenly_spaced(length, GRID_SIZE) for length in pixels.shape[:2])
    return pixels[np.ix_(rows, columns)].reshape(-1, 3), np.asarray(small, np.float64)


def _is_copy(first: NDArray[np.float64], second: NDArray[np.float64]) -> bool:
    """Return whether the brightness of two images is correlated."""
    spread = float(first.std()), float(second.std())
    if min(spread) < MIN_SPREAD:
        return max(spread) < MIN_SPREAD and abs(float(first.mean() - second.mean())) < 8
    return float(np.corrcoef(first.ravel(), second.ravel())[0, 1]) > MIN_CORRELATION


def _is_map(colors: NDArray[np.uint8]) -> bool:
    """Return whether an image has few colors, as masks have."""
    return len(np.unique(colors, axis=0)) <= max(2, min(MAX_COLORS, len(colors) // 8))


def _is_lossy_map(colors: NDArray[np.uint8]) -> bool:
    """Return whether nearly all pixels have one of two distant colors, as in a JPEG mask."""
    coarse, counts = np.unique(colors >> 4, axis=0, return_counts=True)
    two = np.argsort(counts)[-2:]
    distance = int(np.ptp(coarse[two].astype(np.int64), axis=0).max())
    return distance >= MIN_DISTANCE and float(counts[two].sum()) >= MIN_COVERED * len(colors)
