"""Class maps: what the values, or colors, of their pixels mean, and how many there are of each.

Maps come as one byte a pixel, with or without a palette, of 1 or 16 bits, or in color. `Coding`
says which class each value or color is; what it does not know is an error and never a class.
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

from resnets.data.decode.decode import naming
from resnets.data.decode.open_image import open_image
from resnets.data.errors import DataError
from resnets.data.files.folder import Files

IGNORE = 255  # class of pixels that count for nothing
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
    *(0x000000, 0x6F4A00, 0x510051, 0xFAAAA0, 0xE6968C, 0xB4A5B4, 0x966464, 0x96785A),
    *(0x00005A, 0x00006E),
)


def voc_color(number: int) -> int:
    """The color, 0xRRGGBB, of class `number` in VOC's palette: bits of the number, dealt out."""
    red = green = blue = 0
    for place in range(8):
        red |= (number >> (3 * place) & 1) << (7 - place)
        green |= (number >> (3 * place + 1) & 1) << (7 - place)
        blue |= (number >> (3 * place + 2) & 1) << (7 - place)
    return red << 16 | green << 8 | blue


VOC_COLORS = {voc_color(number): number for number in range(VOC_CLASSES)} | {VOC_VOID: IGNORE}
CITYSCAPES_COLORS = {color: label for label, (_, color, _) in enumerate(CITYSCAPES)}
CITYSCAPES_COLORS |= dict.fromkeys(CITYSCAPES_VOID, IGNORE)


SHOWN = 5  # values, files or classes in a message
COLORS = 1 << 24
GRAYS = np.arange(256) * 0x010101  # the color that each grey is

BLOCK = 1 << 20  # pixels that are counted at a time

Pixels = NDArray[np.uint8]
_Table = tuple[Pixels, NDArray[np.bool_]]  # class of each value, and whether no class has it


class UnknownValueError(DataError):
    """A class map has pixels of a value that no class has; no other image may take its place."""


@dataclass(frozen=True, eq=False)
class MapPixels:
    """A class map as stored.

    values: (H, W) numbers, or colors as 0xRRGGBB where `in_color`. kind: "8-bit", "palette", ...
    palette: the color of each number, of a palette or of greys. lossy: the format that keeps no
    exact values, or "".
    """

    values: NDArray[Any]
    in_color: bool
    kind: str
    palette: NDArray[np.int64] | None = None
    lossy: str = ""

    def counts(self, where: NDArray[np.bool_] | None = None) -> dict[int, int]:
        """Pixels of each value, of all or of those `where` is set."""
        total: Counter[int] = Counter()
        rows = max(1, BLOCK // max(1, self.values.shape[1]))
        for start in range(0, len(self.values), rows):  # counting copies to 64 bits
            block = self.values[start : start + rows]
            block = block.ravel() if where is None else block[where[start : start + rows]]
            if block.dtype == np.uint8:
                found = np.bincount(block)
                total.update({v: int(found[v]) for v in np.flatnonzero(found).tolist()})
            else:
                values, counts = np.unique(block, return_counts=True)
                total.update(dict(zip(values.tolist(), counts.tolist(), strict=True)))
        return dict(total)


@dataclass(frozen=True, eq=False)
class Coding:
    """Which class a pixel's number or color is; `IGNORE` = counts for nothing.

    scheme: what `detect.class_map` calls it. names: of the numbers, for messages.
    """

    scheme: str
    numbers: Mapping[int, int]
    colors: Mapping[int, int] = field(default_factory=dict)
    names: Mapping[int, str] = field(default_factory=dict)

    @cached_property
    def _number_table(self) -> _Table:
        return _table(self.numbers, 256)

    @cached_property
    def _color_table(self) -> _Table:
        return _table(self.colors, COLORS)

    def classes(self, pixels: MapPixels) -> tuple[Pixels, NDArray[np.bool_]]:
        """The class of each pixel (H, W), and whether its value is that of none."""
        values = pixels.values
        if pixels.in_color:
            if not self.colors:
                return np.full(values.shape, IGNORE, np.uint8), np.ones(values.shape, np.bool_)
            labels, unknown = self._color_table
            return labels[values], unknown[values]
        table = self._by_palette(pixels) if pixels.palette is not None else None
        labels, unknown = table or self._number_table
        if values.dtype == np.uint8:
            return labels[values], unknown[values]
        small = np.clip(values, 0, 255)
        return labels[small], unknown[small] | (small != values)

    def _by_palette(self, pixels: MapPixels) -> _Table | None:
        """Classes by the palette's colors, where all that are used are known ones.

        Programs sort palettes anew when they save: the colors stay, the numbers do not. A grey map
        has no palette of its own: its values are numbers, where all of them are known as such.
        """
        assert pixels.palette is not None
        if not self.colors:
            return None
        if not self.by_color(pixels, used := pixels.counts()):
            return None
        return _table({n: self.colors[int(pixels.palette[n])] for n in used}, 256)

    def by_color(self, pixels: MapPixels, used: Iterable[int]) -> bool:
        """Whether the colors of a map, of which `used` values occur, tell its classes."""
        if pixels.in_color or pixels.palette is None:
            return pixels.in_color
        if pixels.palette is GRAYS and all(number in self.numbers for number in used):
            return False
        return all(int(pixels.palette[number]) in self.colors for number in used)

    def contradiction(self, palette: NDArray[np.int64], used: Iterable[int]) -> str:
        """A number that is one class and whose color in `palette` is stated for another, or ""."""
        for number in used:
            by_number = self.numbers.get(number, IGNORE)
            by_color = self.colors.get(int(palette[number]), IGNORE)
            if IGNORE not in (by_number, by_color) and by_number != by_color:
                own, other = self.names.get(by_number), self.names.get(by_color)
                return f"number {number} is {own}, its color #{palette[number]:06x} is {other}"
        return ""

    def relabeled(self, labels: Sequence[int]) -> Coding:
        """The coding with class `labels[k]` in the place of class k; IGNORE for those without."""

        def moved(given: Mapping[int, int]) -> dict[int, int]:
            return {v: k if k == IGNORE else int(labels[k]) for v, k in given.items()}

        return replace(self, numbers=moved(self.numbers), colors=moved(self.colors))

    def format_value(self, value: int, in_color: bool) -> str:
        """A value as messages show it: "7", "#804020", with its class's name where known."""
        shown = f"#{value:06x}" if in_color else f"{value}"
        label = (self.colors if in_color else self.numbers).get(value)
        if label is None:
            return f"{shown} (no class)" if self.names else shown
        name = "ignored" if label == IGNORE else self.names.get(label, "")
        return f"{shown} {name}".strip()


def _table(given: Mapping[int, int], count: int) -> _Table:
    labels, unknown = np.full(count, IGNORE, np.uint8), np.ones(count, np.bool_)
    inside = {value: label for value, label in given.items() if 0 <= value < count}
    labels[list(inside)], unknown[list(inside)] = list(inside.values()), False
    return labels, unknown


class SemanticMap(Protocol):
    """The class of each pixel of an image."""

    def read(self) -> Pixels:
        """(H, W) uint8 classes, 255 = counts for nothing; DataError names an unreadable file."""

    def relabeled(self, labels: Sequence[int]) -> SemanticMap:
        """The same map with class `labels[k]` in the place of class k."""


@dataclass(frozen=True, eq=False)
class ClassMap:
    """A stored image of one class a pixel."""

    files: Files
    index: int
    coding: Coding

    def read(self) -> Pixels:
        """(H, W) uint8 classes, 255 = counts for nothing.

        DataError names a file that is unreadable or of a format that changes values,
        UnknownValueError one with values of no class.
        """
        name = self.files.name(self.index)
        pixels = read_pixels(self.files.read(self.index), name)
        if pixels.lossy:
            raise DataError(lossy_message(name, pixels.lossy))
        classes, unknown = self.coding.classes(pixels)
        if unknown.any():
            raise UnknownValueError(unknown_message(name, pixels, unknown, self.coding))
        return classes

    def relabeled(self, labels: Sequence[int]) -> ClassMap:
        """The same map with class `labels[k]` in the place of class k."""
        return replace(self, coding=self.coding.relabeled(labels))


def read_pixels(data: bytes | memoryview, name: str) -> MapPixels:
    """The pixels of an encoded class map; DataError where it cannot be read as one."""
    with naming(name), open_image(data) as image:
        return replace(_pixels(image), lossy=_lossy_format(bytes(data[:64])))


def _lossy_format(head: bytes) -> str:
    """The format of an image that keeps no exact values, by its first bytes; "" for others."""
    if head[:2] == b"\xff\xd8":
        return "JPEG"
    return "lossy WebP" if head[8:12] == b"WEBP" and b"VP8 " in head[12:] else ""


def lossy_message(name: str, format: str) -> str:
    """Why a class map in a lossy format is refused."""
    return f"{name}: class map is {format}, which changes pixel values; export PNG"


def _pixels(image: Image.Image) -> MapPixels:
    mode = image.mode
    if mode == "1":
        return MapPixels(np.asarray(image).astype(np.uint8), False, "1-bit")
    if mode == "P":
        return MapPixels(np.asarray(image), False, "palette", _palette(image))
    if mode == "L":
        return MapPixels(np.asarray(image), False, "8-bit", GRAYS)
    if mode == "I" or mode.startswith("I;"):
        return MapPixels(np.asarray(image).astype(np.int32), False, "16-bit")
    if mode in ("LA", "PA", "La"):
        image = image.convert("RGBA")
    if image.mode not in ("RGB", "RGBA"):
        raise ValueError(f"its pixels are {mode}; a class map has numbers or RGB colors")
    planes = np.asarray(image)
    if planes.shape[2] == 4 and (planes[..., 3] != planes[0, 0, 3]).any():
        raise ValueError("parts of it are transparent; a class map has one opaque value a pixel")
    red, green, blue = planes[..., 0], planes[..., 1], planes[..., 2]
    if np.array_equal(red, green) and np.array_equal(red, blue):
        return MapPixels(red.copy(), False, f"grey {mode}", GRAYS)
    codes = red.astype(np.int32)
    for plane in (green, blue):
        codes <<= 8
        codes |= plane
    return MapPixels(codes, True, mode)


def _palette(image: Image.Image) -> NDArray[np.int64]:
    flat = image.getpalette("RGB") or []
    colors = np.zeros((256, 3), np.int64)
    given = np.array(flat, np.int64)[:768].reshape(-1, 3)
    colors[: len(given)] = given
    return colors @ np.array([1 << 16, 1 << 8, 1])


def unknown_message(
    name: str, pixels: MapPixels, unknown: NDArray[np.bool_], coding: Coding
) -> str:
    """Which values of a class map no class has, and what to do."""
    found = Counter(pixels.counts(unknown))
    value, count = found.most_common(1)[0]
    others = f" and {len(found) - 1:,} other values" if len(found) > 1 else ""
    shown = f"#{value:06x}" if pixels.in_color else f"{value}"
    return (
        f"{name}: {count:,} pixels of {'color' if pixels.in_color else 'value'} {shown}{others},"
        f" which no class has; {remedy(found, pixels.in_color, coding)}"
    )


def remedy(found: Iterable[int], in_color: bool, coding: Coding) -> str:
    """What to set, or to do, where class maps have values that `coding` does not know."""
    values = set(found)
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
    if len(values) > 3 * SHOWN:
        return "maps saved as JPEG, or resized smoothly, have lost their values: make them again"
    return (
        "add a line for it to the file that names the classes (one called void is ignored),"
        " or correct the map"
    )
