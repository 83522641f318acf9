"""Class maps: reading them, and the class that each value or color represents.

Maps have one byte per pixel, with or without a palette, 1 or 16 bits, or colors. `Coding` maps
values and colors to classes; unknown values are errors and never mapped to a class.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from resnets.data.decode.decode import reading_image
from resnets.data.decode.open_image import open_image
from resnets.data.errors import DataError
from resnets.data.files.folder import Files

IGNORE = 255  # class of ignored pixels
VOC_CLASSES = 21
VOC_VOID = 0xE0E0C0
# https://github.com/mcordts/cityscapesScripts: labelId, color and name of each trainId.
CITYSCAPES = (
    (7, 0x804080, "road"),
    (8, 0xF423E8, "sidewalk"),
    (11, 0x464646, "building"),
    (12, 0x66669C, "wall"),
    (13, 0xBE9999, "fence"),
    (17, 0x999999, "pole"),
    (19, 0xFAAA1E, "traffic light"),
    (20, 0xDCDC00, "traffic sign"),
    (21, 0x6B8E23, "vegetation"),
    (22, 0x98FB98, "terrain"),
    (23, 0x4682B4, "sky"),
    (24, 0xDC143C, "person"),
    (25, 0xFF0000, "rider"),
    (26, 0x00008E, "car"),
    (27, 0x000046, "truck"),
    (28, 0x003C64, "bus"),
    (31, 0x005064, "train"),
    (32, 0x0000E6, "motorcycle"),
    (33, 0x770B20, "bicycle"),
)
CITYSCAPES_VOID = (
    0x000000,
    0x6F4A00,
    0x510051,
    0xFAAAA0,
    0xE6968C,
    0xB4A5B4,
    0x966464,
    0x96785A,
    0x00005A,
    0x00006E,
)


def voc_color(number: int) -> int:
    """Return the color, 0xRRGGBB, of a class in VOC's palette."""
    red = green = blue = 0
    for bit in range(8):
        red |= (number >> (3 * bit) & 1) << (7 - bit)
        green |= (number >> (3 * bit + 1) & 1) << (7 - bit)
        blue |= (number >> (3 * bit + 2) & 1) << (7 - bit)
    return red << 16 | green << 8 | blue


VOC_COLORS = {voc_color(number): number for number in range(VOC_CLASSES)} | {VOC_VOID: IGNORE}
CITYSCAPES_COLORS = {color: label for label, (_, color, _) in enumerate(CITYSCAPES)}
CITYSCAPES_COLORS |= dict.fromkeys(CITYSCAPES_VOID, IGNORE)


MAX_SHOWN = 5  # values, files or classes in a message
COLORS = 1 << 24
GRAYS = np.arange(256) * 0x010101  # color of each gray value

BLOCK = 1 << 20  # pixels that are counted at a time

Pixels = NDArray[np.uint8]
_LookupTable = tuple[Pixels, NDArray[np.bool_]]  # class of each value, and whether it has none


class UnknownValueError(DataError):
    """A class map has pixels whose value has no class; the image is not replaced by another."""


@dataclass(frozen=True, eq=False)
class MapPixels:
    """A class map as stored.

    Attributes:
        values: (H, W) numbers, or colors as 0xRRGGBB if `in_color`.
        kind: "8-bit", "palette", ...
        palette: Color of each number, from a palette or of gray values.
        lossy: Name of a lossy image format, or "".
    """

    values: NDArray[Any]
    in_color: bool
    kind: str
    palette: NDArray[np.int64] | None = None
    lossy: str = ""

    def count_values(self, mask: NDArray[np.bool_] | None = None) -> dict[int, int]:
        """Count the pixels of each value, of all pixels or those in `mask`."""
        counter: Counter[int] = Counter()
        rows = max(1, BLOCK // max(1, self.values.shape[1]))
        for start in range(0, len(self.values), rows):  # counting copies to 64 bits
            block = self.values[start : start + rows]
            block = block.ravel() if mask is None else block[mask[start : start + rows]]
            if block.dtype == np.uint8:
                counts = np.bincount(block)
                counter.update({v: int(counts[v]) for v in np.flatnonzero(counts).tolist()})
            else:
                values, counts = np.unique(block, return_counts=True)
                counter.update(dict(zip(values.tolist(), counts.tolist(), strict=True)))
        return dict(counter)


@dataclass(frozen=True, eq=False)
class Coding:
    """The class of each number or color; `IGNORE` = ignored.

    scheme: its name in `detect.class_map`. names: class names by number, for messages.
    """

    scheme: str
    numbers: Mapping[int, int]
    colors: Mapping[int, int] = field(default_factory=dict)
    names: Mapping[int, str] = field(default_factory=dict)

    @cached_property
    def _number_table(self) -> _LookupTable:
        return _make_table(self.numbers, 256)

    @cached_property
    def _color_table(self) -> _LookupTable:
        return _make_table(self.colors, COLORS)

    def decode(self, pixels: MapPixels) -> tuple[Pixels, NDArray[np.bool_]]:
        """Return the class of each pixel (H, W), and a mask (H, W) of values without a class."""
        values = pixels.values
        if pixels.in_color:
            if not self.colors:
                return np.full(values.shape, IGNORE, np.uint8), np.ones(values.shape, np.bool_)
            labels, unknown = self._color_table
            return labels[values], unknown[values]
        table = self._palette_table(pixels) if pixels.palette is not None else None
        labels, unknown = table or self._number_table
        if values.dtype == np.uint8:
            return labels[values], unknown[values]
        small = np.clip(values, 0, 255)
        return labels[small], unknown[small] | (small != values)

    def _palette_table(self, pixels: MapPixels) -> _LookupTable | None:
        """Return classes by the colors of the palette, if all colors that occur are known.

        Programs reorder palettes when they save images: colors stay the same, numbers do not. A
        gray map has no palette: its values are numbers if all of them are known as numbers.
        """
        assert pixels.palette is not None
        if not self.colors:
            return None
        if not self.is_color_coded(pixels, used := pixels.count_values()):
            return None
        return _make_table({n: self.colors[int(pixels.palette[n])] for n in used}, 256)

    def is_color_coded(self, pixels: MapPixels, used: Iterable[int]) -> bool:
        """True if colors determine the classes of a map in which the values `used` occur."""
        if pixels.in_color or pixels.palette is None:
            return pixels.in_color
        if pixels.palette is GRAYS and all(number in self.numbers for number in used):
            return False
        return all(int(pixels.palette[number]) in self.colors for number in used)

    def find_contradiction(self, palette: NDArray[np.int64], used: Iterable[int]) -> str:
        """Return a number whose class differs from that of its color in `palette`, or ""."""
        for number in used:
            by_number = self.numbers.get(number, IGNORE)
            by_color = self.colors.get(int(palette[number]), IGNORE)
            if IGNORE not in (by_number, by_color) and by_number != by_color:
                own, other = self.names.get(by_number), self.names.get(by_color)
                return f"number {number} is {own}, its color #{palette[number]:06x} is {other}"
        return ""

    def relabel(self, labels: Sequence[int]) -> Coding:
        """Return the coding with class k replaced by `labels[k]` (IGNORE stays)."""

        def relabel_values(labels_of: Mapping[int, int]) -> dict[int, int]:
            return {v: k if k == IGNORE else int(labels[k]) for v, k in labels_of.items()}

        return replace(
            self, numbers=relabel_values(self.numbers), colors=relabel_values(self.colors)
        )

    def format_value(self, value: int, in_color: bool) -> str:
        """Format a value for messages: "7", "#804020", with the name of its class if known."""
        text = f"#{value:06x}" if in_color else f"{value}"
        label = (self.colors if in_color else self.numbers).get(value)
        if label is None:
            return f"{text} (no class)" if self.names else text
        name = "ignored" if label == IGNORE else self.names.get(label, "")
        return f"{text} {name}".strip()


def _make_table(labels_of: Mapping[int, int], count: int) -> _LookupTable:
    labels, unknown = np.full(count, IGNORE, np.uint8), np.ones(count, np.bool_)
    in_range = {value: label for value, label in labels_of.items() if 0 <= value < count}
    labels[list(in_range)], unknown[list(in_range)] = list(in_range.values()), False
    return labels, unknown


class SemanticMap(Protocol):
    """The class of each pixel of an image."""

    def read(self) -> Pixels:
        """Return classes (H, W) uint8, 255 = ignored; DataError names an unreadable file."""

    def relabel(self, labels: Sequence[int]) -> SemanticMap:
        """Return the map with class k replaced by `labels[k]`."""


@dataclass(frozen=True, eq=False)
class ClassMap:
    """A stored image with one class per pixel."""

    files: Files
    index: int
    coding: Coding

    def read(self) -> Pixels:
        """Return classes (H, W) uint8, 255 = ignored.

        Raises DataError for a file that is unreadable or in a lossy format, and UnknownValueError
        for one with values without a class.
        """
        name = self.files.name(self.index)
        pixels = read_class_map(self.files.read(self.index), name)
        if pixels.lossy:
            raise DataError(explain_lossy(name, pixels.lossy))
        classes, unknown = self.coding.decode(pixels)
        if unknown.any():
            raise UnknownValueError(explain_unknown(name, pixels, unknown, self.coding))
        return classes

    def relabel(self, labels: Sequence[int]) -> ClassMap:
        """Return the map with class k replaced by `labels[k]`."""
        return replace(self, coding=self.coding.relabel(labels))


def read_class_map(data: bytes | memoryview, name: str) -> MapPixels:
    """Read the pixels of an encoded class map; raises DataError if it cannot be read as one."""
    with reading_image(name), open_image(data) as image:
        return replace(_to_map_pixels(image), lossy=_lossy_format(bytes(data[:64])))


def _lossy_format(head: bytes) -> str:
    """Return the name of a lossy image format, by its first bytes, or ""."""
    if head[:2] == b"\xff\xd8":
        return "JPEG"
    return "lossy WebP" if head[8:12] == b"WEBP" and b"VP8 " in head[12:] else ""


def explain_lossy(name: str, format: str) -> str:
    """Return why a class map in a lossy format is refused."""
    return f"{name}: class map is {format}, which changes pixel values; export PNG"


def _to_map_pixels(image: Image.Image) -> MapPixels:
    mode = image.mode
    if mode == "1":
        return MapPixels(np.asarray(image).astype(np.uint8), False, "1-bit")
    if mode == "P":
        return MapPixels(np.asarray(image), False, "palette", _read_palette(image))
    if mode == "L":
        return MapPixels(np.asarray(image), False, "8-bit", GRAYS)
    if mode == "I" or mode.startswith("I;"):
        return MapPixels(np.asarray(image).astype(np.int32), False, "16-bit")
    if mode in ("LA", "PA", "La"):
        image = image.convert("RGBA")
    if image.mode not in ("RGB", "RGBA"):
        raise ValueError(f"its pixels are {mode}; a class map has numbers or RGB colors")
    channels = np.asarray(image)
    if channels.shape[2] == 4 and (channels[..., 3] != channels[0, 0, 3]).any():
        raise ValueError("parts of it are transparent; a class map has one opaque value a pixel")
    red, green, blue = channels[..., 0], channels[..., 1], channels[..., 2]
    if np.array_equal(red, green) and np.array_equal(red, blue):
        return MapPixels(red.copy(), False, f"grey {mode}", GRAYS)
    codes = red.astype(np.int32)
    for channel in (green, blue):
        codes <<= 8
        codes |= channel
    return MapPixels(codes, True, mode)


def _read_palette(image: Image.Image) -> NDArray[np.int64]:
    values = image.getpalette("RGB") or []
    colors = np.zeros((256, 3), np.int64)
    listed = np.array(values, np.int64)[:768].reshape(-1, 3)
    colors[: len(listed)] = listed
    return colors @ np.array([1 << 16, 1 << 8, 1])


def explain_unknown(
    name: str, pixels: MapPixels, unknown: NDArray[np.bool_], coding: Coding
) -> str:
    """Return which values of a class map have no class, and the remedy."""
    counts = Counter(pixels.count_values(unknown))
    value, count = counts.most_common(1)[0]
    others = f" and {len(counts) - 1:,} other values" if len(counts) > 1 else ""
    text = f"#{value:06x}" if pixels.in_color else f"{value}"
    return (
        f"{name}: {count:,} pixels of {'color' if pixels.in_color else 'value'} {text}{others},"
        f" which no class has; {suggest_remedy(counts, pixels.in_color, coding)}"
    )


def suggest_remedy(unknown_values: Iterable[int], in_color: bool, coding: Coding) -> str:
    """Return the remedy for class maps with values that are not in `coding`."""
    values = set(unknown_values)
    if in_color:
        if values <= set(VOC_COLORS):
            return "these are VOC's colors: set detect.class_map=voc"
        if values <= set(CITYSCAPES_COLORS):
            return "these are Cityscapes' colors: set detect.class_map=cityscapes"
        return (
            "name the colors: class_dict.csv beside the maps, lines of name,r,g,b;"
            " maps saved as JPEG have lost theirs"
        )
    known = {value for value, label in coding.numbers.items() if label != IGNORE}
    if values | known <= {0, 1, 255} or (values <= {255} and len(known) <= 2):
        return "for maps of 0 and 255 set detect.class_map=binary"
    if len(values) > 3 * MAX_SHOWN:
        return "maps saved as JPEG, or resized smoothly, have lost their values: make them again"
    return (
        "add a line for it to the file that names the classes (one called void is ignored),"
        " or correct the map"
    )
