"""What the class maps of a set hold: pixels by value, and what may be wrong with all of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

from resnets.detect.class_maps.schemes import NO_CLASS
from resnets.detect.data.class_maps import (
    GRAYS,
    IGNORE,
    Coding,
    MapPixels,
    lossy_message,
    unknown_message,
)

BACKGROUND = frozenset({"background", "bg", "other", "others", "none", "clutter", "empty", "rest"})
MOST_OF_IT = 0.5  # share of the pixels of value 0 that it seems to be no class with
BETWEEN = 0.8  # share of the pixels of a rim that lie between a lower and a higher value


@dataclass(eq=False)
class MapScan:
    """What the class maps of a set hold: pixels by value, of `maps` maps of `total`.

    unknown, unreadable, lossy, contradicting: what is wrong, by map: values of no class, a file
    that is no class map, a format that changes values, a palette of the stated colors for other
    numbers. palettes: the colors that palettes
    give each number, of maps that are read by number. other_colors: maps read so although colors
    are stated.
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
        counts = pixels.counts()
        by_color = self.coding.by_color(pixels, counts)
        if not by_color and pixels.kind == "palette":
            self._note_palette(name, pixels, counts)
        for value, count in counts.items():
            if by_color and pixels.palette is not None:
                value = int(pixels.palette[value])
            self.pixels[by_color, value] += count
        if not by_color and not pixels.in_color:
            self._note_rims(pixels)
        classes, unknown = self.coding.classes(pixels)
        self.by_class.update(MapPixels(classes, False, "").counts(~unknown))
        if pixels.lossy:  # says why its values are of no class, too
            self.lossy[name] = lossy_message(name, pixels.lossy)
        elif unknown.any():
            self.unknown[name] = unknown_message(name, pixels, unknown, self.coding)

    def _note_palette(self, name: str, pixels: MapPixels, used: Iterable[int]) -> None:
        """Keep the colors of a palette whose numbers are read, unless it is one of greys."""
        assert pixels.palette is not None
        colors = {number: int(pixels.palette[number]) for number in used}
        if all(color == GRAYS[number] for number, color in colors.items()):
            return
        for number, color in colors.items():
            self.palettes.setdefault(number, set()).add(color)
        if self.coding.colors:
            self.other_colors.append(name)
            if message := self.coding.contradiction(pixels.palette, colors):
                self.contradicting[name] = message

    def _note_rims(self, pixels: MapPixels) -> None:
        """Count pixels by what lies around them: smooth resizing leaves numbers in between."""
        values = pixels.values
        if min(values.shape) < 3 or values.max() >= 256:
            return
        low = high = values
        for axis in (0, 1):
            cuts = [
                (slice(None),) * axis + (slice(k, n),) for k, n in ((0, -2), (1, -1), (2, None))
            ]
            low = np.minimum.reduce([low[cut] for cut in cuts])
            high = np.maximum.reduce([high[cut] for cut in cuts])
        inner = values[1:-1, 1:-1]
        masks = (np.ones_like(inner, bool), low == high, (low < inner) & (inner < high))
        for counter, mask in zip((self.inner, self.solid, self.between), masks, strict=True):
            counter.update(MapPixels(inner, False, "").counts(mask))

    def warnings(self) -> list[str]:
        """What may be wrong although every value is known."""
        found = [*self._first_class(), *self._rims()]
        several = {number: each for number, each in self.palettes.items() if len(each) > 1}
        if several:
            number, colors = min(several.items())
            shown = " and ".join(f"#{color:06x}" for color in sorted(colors)[:2])
            found.append(
                f"the palettes of class maps differ: {len(several):,} of {len(self.palettes):,}"
                f" numbers have other colors in other maps ({number} is {shown}). Maps are read by"
                " number; where the colors tell the classes, state them in class_dict.csv"
                " (name,r,g,b)"
            )
        if self.other_colors:
            found.append(
                f"{len(self.other_colors):,} class maps, such as {self.other_colors[0]}, have"
                " palettes of other colors than those stated for the classes; they are read by"
                " number"
            )
        return found

    def _first_class(self) -> list[str]:
        """A warning where 0, which most maps have for no class, is a class and covers most."""
        name = self.coding.names.get(self.coding.numbers.get(0, IGNORE), "")
        share = self.pixels[False, 0] / max(1, self.pixels.total())
        known = {each.strip("_ ").casefold() for each in self.coding.names.values()}
        if self.coding.scheme or not name or share < MOST_OF_IT or known & (BACKGROUND | NO_CLASS):
            return []
        return [
            f"0 is {name}, and {share:.0%} of the pixels, and no class is called background: where"
            " 0 means no class and the names count from 1, every class is off by one; begin the"
            " file of names with a line `unlabeled` (ignored) or `background` then"
        ]

    def _rims(self) -> list[str]:
        """A warning of classes that lie only between two others, nowhere two pixels wide."""
        rims = [
            value
            for value, count in sorted(self.inner.items())
            if not self.solid[value] and self.between[value] >= BETWEEN * count
        ]
        if not rims:
            return []
        shown = ", ".join(self.coding.format_value(value, False) for value in rims[:3])
        more = f" and {len(rims) - 3:,} more" if len(rims) > 3 else ""
        return [
            f"{len(rims):,} values ({shown}{more}) are in the maps only as thin rims between a"
            " lower and a higher one, as resizing with interpolation leaves them; make the maps"
            " again, or resize them by nearest neighbor"
        ]

    def missing(self) -> list[str]:
        """Names of the classes that no map has a pixel of."""
        return [name for label, name in self.coding.names.items() if not self.by_class[label]]

    def suspicious(self) -> str | None:
        """Why maps whose values are all known cannot be what they seem, or None.

        Of 0 and 255 alone, with 255 ignored, every object would be ignored without a word.
        """
        if self.contradicting:
            name, message = next(iter(self.contradicting.items()))
            return (
                f"{len(self.contradicting):,} have palettes that contradict the colors stated for"
                f" the classes, such as {name}: {message}; correct the file that states them, and"
                " let it state all colors"
            )
        numbers = {value for (in_color, value) in self.pixels if not in_color}
        counted = [label for label in self.by_class if label != IGNORE]
        if not self.coding.scheme and numbers == {0, 255} and len(self.coding.names) > 1:
            share = 100 * self.pixels[False, 255] / self.pixels.total()
            return (
                f"all pixels are 0 or 255 ({share:.1f}%), and 255 is ignored by default;"
                " set detect.class_map=binary where 255 is a class, =ids where it is not"
            )
        if self.maps and not counted and not (self.unreadable or self.unknown or self.lossy):
            return "no pixel of them counts for any class; see detect.class_map"
        return None

    def shares(self, most: int = 8) -> str:
        """Values with their shares of the pixels, those with the most first."""
        whole = max(1, self.pixels.total())
        shown = [
            f"{self.coding.format_value(value, in_color)} {100 * count / whole:.1f}%"
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
            "pixels": {
                self.coding.format_value(v, c): n for (c, v), n in self.pixels.most_common()
            },
            "classes in no map": self.missing(),
        }
