"""Count the values in the class maps of a data set, and find likely encoding errors."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

from resnets.detect.class_maps.schemes import IGNORED_NAMES
from resnets.detect.data.class_maps import (
    GRAYS,
    IGNORE,
    Coding,
    MapPixels,
    explain_lossy,
    explain_unknown,
)
from resnets.utils.printable import join_names

BACKGROUND = frozenset({"background", "bg", "other", "others", "none", "clutter", "empty", "rest"})
MIN_BACKGROUND_SHARE = 0.5  # of pixels, from which 0 is likely to mean no class
MIN_BETWEEN_SHARE = 0.8  # of the pixels of a rim that are between a lower and a higher value


@dataclass(eq=False)
class MapScan:
    """Pixels by value in the class maps of a set: `maps` maps of `total`.

    unknown, unreadable, lossy, contradicting: errors by map: values without a class, a file that is
    not a class map, a format that changes values, a palette with known colors for other numbers.
    palettes: colors that palettes give each number, of maps that are read by number. other_colors:
    maps that are read by number although colors are known. inner, solid, between: by value, pixels
    not at the edge, in areas of one value, and between a lower and a higher value.
    """

    coding: Coding
    total: int
    maps: int = 0
    pixels: Counter[tuple[bool, int]] = field(default_factory=Counter)
    by_class: Counter[int] = field(default_factory=Counter)
    kinds: Counter[str] = field(default_factory=Counter)
    unknown: dict[str, str] = field(default_factory=dict)
    unreadable: dict[str, str] = field(default_factory=dict)
    lossy: dict[str, str] = field(default_factory=dict)
    contradicting: dict[str, str] = field(default_factory=dict)
    palettes: dict[int, set[int]] = field(default_factory=dict)
    other_colors: list[str] = field(default_factory=list)
    inner: Counter[int] = field(default_factory=Counter)
    solid: Counter[int] = field(default_factory=Counter)
    between: Counter[int] = field(default_factory=Counter)

    def add(self, name: str, pixels: MapPixels) -> None:
        """Count the pixels of one map."""
        self.maps += 1
        self.kinds[pixels.kind] += 1
        counts = pixels.count_values()
        by_color = self.coding.is_color_coded(pixels, counts)
        if not by_color and pixels.kind == "palette":
            self._note_palette(name, pixels, counts)
        for value, count in counts.items():
            if by_color and pixels.palette is not None:
                value = int(pixels.palette[value])
            self.pixels[by_color, value] += count
        if not by_color and not pixels.in_color:
            self._count_rims(pixels)
        classes, unknown = self.coding.decode(pixels)
        self.by_class.update(MapPixels(classes, False, "").count_values(~unknown))
        if pixels.lossy:  # also explains its unknown values
            self.lossy[name] = explain_lossy(name, pixels.lossy)
        elif unknown.any():
            self.unknown[name] = explain_unknown(name, pixels, unknown, self.coding)

    def _note_palette(self, name: str, pixels: MapPixels, used: Iterable[int]) -> None:
        """Record the colors of a palette whose numbers are read, unless it is one of grays."""
        assert pixels.palette is not None
        colors = {number: int(pixels.palette[number]) for number in used}
        if all(color == GRAYS[number] for number, color in colors.items()):
            return
        for number, color in colors.items():
            self.palettes.setdefault(number, set()).add(color)
        if self.coding.colors:
            self.other_colors.append(name)
            if message := self.coding.find_contradiction(pixels.palette, colors):
                self.contradicting[name] = message

    def _count_rims(self, pixels: MapPixels) -> None:
        """Count pixels by their neighbors: interpolation leaves values between two others."""
        values = pixels.values
        if min(values.shape) < 3 or values.max() >= 256:
            return
        low = high = values
        for axis in (0, 1):
            slices = [
                (slice(None),) * axis + (slice(k, n),) for k, n in ((0, -2), (1, -1), (2, None))
            ]
            low = np.minimum.reduce([low[part] for part in slices])
            high = np.maximum.reduce([high[part] for part in slices])
        inner = values[1:-1, 1:-1]
        masks = (np.ones_like(inner, bool), low == high, (low < inner) & (inner < high))
        for counter, mask in zip((self.inner, self.solid, self.between), masks, strict=True):
            counter.update(MapPixels(inner, False, "").count_values(mask))

    def warnings(self) -> list[str]:
        """Return warnings about maps in which every value is known."""
        warnings = [*self._warn_of_first_class(), *self._warn_of_rims()]
        ambiguous = {number: colors for number, colors in self.palettes.items() if len(colors) > 1}
        if ambiguous:
            number, colors = min(ambiguous.items())
            examples = " and ".join(f"#{color:06x}" for color in sorted(colors)[:2])
            warnings.append(
                f"the palettes of class maps differ: {len(ambiguous):,} of {len(self.palettes):,}"
                f" numbers have other colors in other maps ({number} is {examples}). Maps are read"
                " by number; if colors denote classes, list them in class_dict.csv"
                " (name,r,g,b)"
            )
        if self.other_colors:
            warnings.append(
                f"{len(self.other_colors):,} class maps, such as {self.other_colors[0]}, have"
                " palettes of other colors than those stated for the classes; they are read by"
                " number"
            )
        return warnings

    def _warn_of_first_class(self) -> list[str]:
        """Return a warning if 0, usually no class, is a class and covers most pixels."""
        name = self.coding.names.get(self.coding.numbers.get(0, IGNORE), "")
        share = self.pixels[False, 0] / max(1, self.pixels.total())
        names = {each.strip("_ ").casefold() for each in self.coding.names.values()}
        if (
            self.coding.scheme
            or not name
            or share < MIN_BACKGROUND_SHARE
            or names & (BACKGROUND | IGNORED_NAMES)
        ):
            return []
        return [
            f"0 is {name}, and {share:.0%} of the pixels, and no class is called background: where"
            " 0 means no class and the names count from 1, every class is off by one; begin the"
            " file of names with a line `unlabeled` (ignored) or `background` then"
        ]

    def _warn_of_rims(self) -> list[str]:
        """Return a warning of classes that occur only between two others, never two pixels wide."""
        rims = [
            value
            for value, count in sorted(self.inner.items())
            if not self.solid[value] and self.between[value] >= MIN_BETWEEN_SHARE * count
        ]
        if not rims:
            return []
        examples = join_names(self.coding.format_value(value, False) for value in rims)
        return [
            f"{len(rims):,} values ({examples}) are in the maps only as thin rims between a"
            " lower and a higher one, as resizing with interpolation leaves them; make the maps"
            " again, or resize them by nearest neighbor"
        ]

    def missing(self) -> list[str]:
        """Return the names of classes without a pixel in any map."""
        return [name for label, name in self.coding.names.items() if not self.by_class[label]]

    def find_error(self) -> str | None:
        """Return why maps with known values only cannot be correct, or None.

        If they have only 0 and 255, and 255 is ignored, every object would be ignored silently.
        """
        if self.contradicting:
            name, message = next(iter(self.contradicting.items()))
            return (
                f"{len(self.contradicting):,} have palettes that contradict the colors specified"
                f" for the classes, such as {name}: {message}; correct the file of the colors, and"
                " specify all of them"
            )
        numbers = {value for (in_color, value) in self.pixels if not in_color}
        used = [label for label in self.by_class if label != IGNORE]
        if not self.coding.scheme and numbers == {0, 255} and len(self.coding.names) > 1:
            share = 100 * self.pixels[False, 255] / self.pixels.total()
            return (
                f"all pixels are 0 or 255 ({share:.1f}%), and 255 is ignored by default;"
                " set detect.class_map=binary where 255 is a class, =ids where it is not"
            )
        if self.maps and not used and not (self.unreadable or self.unknown or self.lossy):
            return "no pixel of them counts for any class; see detect.class_map"
        return None

    def format_shares(self, limit: int = 8) -> str:
        """Format the values with their fractions of the pixels, the most frequent first."""
        total = max(1, self.pixels.total())
        parts = [
            f"{self.coding.format_value(value, in_color)} {100 * count / total:.1f}%"
            for (in_color, value), count in self.pixels.most_common(limit)
        ]
        if len(self.pixels) > limit:
            parts.append(f"{len(self.pixels) - limit:,} more values")
        return ", ".join(parts)

    def lines(self, limit: int = 8) -> list[str]:
        """Return text lines: fractions of pixels by value, and classes that occur in no map."""
        if not self.maps:
            return ["class maps: none that could be read"]
        of_total = "" if self.maps == self.total else f" of {self.total:,}"
        kinds = ", ".join(kind for kind, _ in self.kinds.most_common())
        lines = [
            f"class maps ({self.maps:,}{of_total}, {kinds}), pixels: {self.format_shares(limit)}"
        ]
        if missing := self.missing():
            where = "no map" if self.maps == self.total else "none of those maps"
            lines.append(f"classes in {where}: {join_names(missing, limit)}")
        return lines

    def to_json(self) -> dict[str, object]:
        """Return JSON values: pixels by value, classes in no map."""
        return {
            "maps": self.maps,
            "of": self.total,
            "pixels": {
                self.coding.format_value(v, c): n for (c, v), n in self.pixels.most_common()
            },
            "classes in no map": self.missing(),
        }
