"""Class maps: what the values, or colors, of their pixels mean, and how many there are of each.

Maps come as one byte a pixel, with or without a palette, of 1 or 16 bits, or in color. `Coding`
says which class each value or color is; what it does not know is an error and never a class.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from resnets.data.decode import naming
from resnets.data.errors import DataError
from resnets.data.files import Files
from resnets.data.open_image import open_image
from resnets.detect.color_tables import CITYSCAPES_COLORS, IGNORE, VOC_COLORS

UNKNOWN = -1
SHOWN = 5  # values, files or classes in a message
COLORS = 1 << 24
GREYS = np.arange(256) * 0x010101  # the color that each grey is

Values = NDArray[np.int64]
Pixels = NDArray[np.uint8]


class UnknownValueError(DataError):
    """A class map has pixels of a value that no class has; no other image may take its place."""


@dataclass(frozen=True, eq=False)
class MapPixels:
    """A class map as stored.

    values: (H, W) numbers, or colors as 0xRRGGBB where `in_color`. kind: "8-bit", "palette", ...
    palette: the color of each number, of a palette or of greys.
    """

    values: NDArray[np.int64]
    in_color: bool
    kind: str
    palette: Values | None = None


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
    def _number_table(self) -> NDArray[np.int16]:
        return _table(self.numbers, 256)

    @cached_property
    def _color_table(self) -> NDArray[np.int16]:
        return _table(self.colors, COLORS)

    def classes(self, pixels: MapPixels) -> NDArray[np.int16]:
        """The class of each pixel (H, W), `UNKNOWN` where its value is that of none."""
        if pixels.in_color:
            if not self.colors:
                return np.full(pixels.values.shape, UNKNOWN, np.int16)
            return self._color_table[pixels.values]
        small = np.clip(pixels.values, 0, 255)
        table = self._by_palette(pixels) if pixels.palette is not None else None
        found = (self._number_table if table is None else table)[small]
        return np.where(small == pixels.values, found, np.int16(UNKNOWN))

    def _by_palette(self, pixels: MapPixels) -> NDArray[np.int16] | None:
        """Classes by the palette's colors, where all that are used are known ones.

        Programs sort palettes anew when they save: the colors stay, the numbers do not.
        """
        assert pixels.palette is not None
        if not self.colors:
            return None
        used = np.flatnonzero(np.bincount(pixels.values.ravel(), minlength=256))
        if not all(int(pixels.palette[number]) in self.colors for number in used):
            return None
        table = np.full(256, UNKNOWN, np.int16)
        table[used] = [self.colors[int(pixels.palette[number])] for number in used]
        return table

    def relabelled(self, labels: Sequence[int]) -> Coding:
        """The coding with class `labels[k]` in the place of class k; IGNORE for those without."""

        def moved(given: Mapping[int, int]) -> dict[int, int]:
            return {v: k if k == IGNORE else int(labels[k]) for v, k in given.items()}

        return replace(self, numbers=moved(self.numbers), colors=moved(self.colors))

    def called(self, value: int, in_color: bool) -> str:
        """A value as messages show it: "7", "#804020", with its class's name where known."""
        shown = f"#{value:06x}" if in_color else f"{value}"
        label = (self.colors if in_color else self.numbers).get(value)
        if label is None:
            return f"{shown} (no class)" if self.names else shown
        name = "ignored" if label == IGNORE else self.names.get(label, "")
        return f"{shown} {name}".strip()


def _table(given: Mapping[int, int], count: int) -> NDArray[np.int16]:
    table = np.full(count, UNKNOWN, np.int16)
    inside = {value: label for value, label in given.items() if 0 <= value < count}
    table[list(inside)] = list(inside.values())
    return table


@dataclass(frozen=True, eq=False)
class ClassMap:
    """A stored image of one class a pixel."""

    files: Files
    index: int
    coding: Coding

    def read(self) -> Pixels:
        """(H, W) uint8 classes, 255 = counts for nothing.

        DataError names an unreadable file, UnknownValueError one with values of no class.
        """
        name = self.files.name(self.index)
        pixels = read_pixels(self.files.read(self.index), name)
        classes = self.coding.classes(pixels)
        unknown = classes == UNKNOWN
        if unknown.any():
            raise UnknownValueError(_said(name, pixels, unknown, self.coding))
        return classes.astype(np.uint8)

    def relabelled(self, labels: Sequence[int]) -> ClassMap:
        """The same map with class `labels[k]` in the place of class k."""
        return replace(self, coding=self.coding.relabelled(labels))


def read_pixels(data: bytes | memoryview, name: str) -> MapPixels:
    """The pixels of an encoded class map; DataError where it cannot be read as one."""
    with naming(name), open_image(data) as image:
        return _pixels(image)


def _pixels(image: Image.Image) -> MapPixels:
    mode = image.mode
    if mode == "1":
        return MapPixels(np.asarray(image).astype(np.int64), False, "1-bit")
    if mode == "P":
        return MapPixels(np.asarray(image).astype(np.int64), False, "palette", _palette(image))
    if mode == "L":
        return MapPixels(np.asarray(image).astype(np.int64), False, "8-bit", GREYS)
    if mode == "I" or mode.startswith("I;"):
        return MapPixels(np.asarray(image).astype(np.int64), False, "16-bit")
    if mode in ("LA", "PA", "La"):
        image = image.convert("RGBA")
    if image.mode not in ("RGB", "RGBA"):
        raise ValueError(f"its pixels are {mode}; a class map has numbers or RGB colors")
    planes = np.asarray(image).astype(np.int64)
    kind = mode
    if planes.shape[2] == 4:
        if (planes[..., 3] != planes[0, 0, 3]).any():
            raise ValueError(
                "parts of it are transparent; a class map has one opaque value a pixel"
            )
        planes = planes[..., :3]
    red, green, blue = np.moveaxis(planes, -1, 0)
    if np.array_equal(red, green) and np.array_equal(red, blue):
        return MapPixels(red, False, f"grey {kind}", GREYS)
    return MapPixels((red << 16) | (green << 8) | blue, True, kind)


def _palette(image: Image.Image) -> Values:
    flat = image.getpalette("RGB") or []
    colors = np.zeros((256, 3), np.int64)
    given = np.array(flat, np.int64)[:768].reshape(-1, 3)
    colors[: len(given)] = given
    return colors @ np.array([1 << 16, 1 << 8, 1])


def _said(name: str, pixels: MapPixels, unknown: NDArray[np.bool_], coding: Coding) -> str:
    values, counts = np.unique(pixels.values[unknown], return_counts=True)
    found = Counter(dict(zip(values.tolist(), counts.tolist(), strict=True)))
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


@dataclass(eq=False)
class MapScan:
    """What the class maps of a set hold: pixels by value, of `maps` maps of `total`."""

    coding: Coding
    total: int
    maps: int = 0
    pixels: Counter[tuple[bool, int]] = field(default_factory=Counter)
    by_class: Counter[int] = field(default_factory=Counter)
    kinds: Counter[str] = field(default_factory=Counter)
    unknown: dict[str, str] = field(default_factory=dict)

    def add(self, name: str, pixels: MapPixels) -> None:
        """Count the pixels of one map."""
        self.maps += 1
        self.kinds[pixels.kind] += 1
        values, counts = np.unique(pixels.values, return_counts=True)
        for value, count in zip(values.tolist(), counts.tolist(), strict=True):
            self.pixels[pixels.in_color, value] += count
        classes = self.coding.classes(pixels)
        unknown = classes == UNKNOWN
        for label, count in enumerate(np.bincount(classes[~unknown], minlength=256).tolist()):
            if count:
                self.by_class[label] += count
        if unknown.any():
            self.unknown[name] = _said(name, pixels, unknown, self.coding)

    def missing(self) -> list[str]:
        """Names of the classes that no map has a pixel of."""
        return [name for label, name in self.coding.names.items() if not self.by_class[label]]

    def suspicious(self) -> str | None:
        """Why maps whose values are all known cannot be what they seem, or None.

        Of 0 and 255 alone, with 255 ignored, every object would be ignored without a word.
        """
        numbers = {value for (in_color, value) in self.pixels if not in_color}
        counted = [label for label in self.by_class if label != IGNORE]
        if not self.coding.scheme and numbers == {0, 255} and len(self.coding.names) > 1:
            share = 100 * self.pixels[False, 255] / self.pixels.total()
            return (
                f"all pixels are 0 or 255 ({share:.1f}%), and 255 counts for nothing unless told"
                " otherwise; set detect.class_map=binary where 255 is a class, =ids where it is not"
            )
        if self.maps and not counted and not self.unknown:
            return "no pixel of them counts for any class; see detect.class_map"
        return None

    def shares(self, most: int = 8) -> str:
        """Values with their shares of the pixels, those with the most first."""
        whole = max(1, self.pixels.total())
        shown = [
            f"{self.coding.called(value, in_color)} {100 * count / whole:.1f}%"
            for (in_color, value), count in self.pixels.most_common(most)
        ]
        if len(self.pixels) > most:
            shown.append(f"{len(self.pixels) - most:,} more values")
        return ", ".join(shown)

    def lines(self, most: int = 8) -> list[str]:
        """For people: shares of pixels by value, and classes that are in no map."""
        if not self.maps:
            return ["class maps: none that could be read"]
        of = "" if self.maps == self.total else f" of {self.total:,}"
        kinds = ", ".join(kind for kind, _ in self.kinds.most_common())
        found = [f"class maps ({self.maps:,}{of}, {kinds}), pixels: {self.shares(most)}"]
        if missing := self.missing():
            more = f" and {len(missing) - most:,} more" if len(missing) > most else ""
            where = "no map" if self.maps == self.total else "none of those maps"
            found.append(f"classes in {where}: {', '.join(missing[:most])}{more}")
        return found

    def to_json(self) -> dict[str, object]:
        """Plain values: pixels by value, classes in no map."""
        return {
            "maps": self.maps,
            "of": self.total,
            "pixels": {self.coding.called(v, c): n for (c, v), n in self.pixels.most_common()},
            "classes in no map": self.missing(),
        }
