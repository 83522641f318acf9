"""Names in figures: no markup in them, and a font for every letter that this machine can draw.

matplotlib reads `$...$` as mathematics and leaves labels that begin with `_` out of legends; its
own font has the letters of European scripts, Arabic and Hebrew, but no CJK. `label` and
`figure_fonts` are for matplotlib's figures, `Letters` for drawings by Pillow.
"""

from __future__ import annotations

import logging
import re
import unicodedata
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from itertools import groupby
from pathlib import Path

import matplotlib
from matplotlib import font_manager, rc_context
from matplotlib.ft2font import FT2Font
from PIL import ImageDraw, ImageFont

from resnets.utils.terminal import printable

log = logging.getLogger("resnets")

OWN = "DejaVu Sans"
FOLDER = Path(matplotlib.get_data_path(), "fonts", "ttf")
# Fonts of a system are tried in this order: those that are made for many scripts first.
LIKELY = re.compile(
    r"cjk|droidsansfallback|wqy|han|unifont|unicode|noto|gothic|yahei|hei|ming", re.I
)
UNDRAWABLE = re.compile(r"color|lastresort", re.I)  # bitmaps; boxes that stand for letters
INVISIBLE = frozenset({"Cf", "Mn", "Me", "Zs"})  # joiners, variation selectors, spaces
PACKAGES = (  # the script's name in Unicode's names of letters, and Debian's package
    (("CJK", "HIRAGANA", "KATAKANA", "HANGUL", "BOPOMOFO", "FULLWIDTH"), "fonts-noto-cjk"),
    (("ARABIC", "HEBREW"), "fonts-noto-core"),
)
SYMBOLS = "fonts-symbola"
OTHERS = "fonts-noto-core"
MISSING: set[str] = set()  # packages that were named already: one line for each, not each letter


def label(name: object) -> str:
    """A name as matplotlib has to be given it to draw it as it is, on one line."""
    text = printable(name).replace("$", r"\$")
    return f" {text}" if text.startswith("_") else text


@contextmanager
def figure_fonts(names: Iterable[str]) -> Iterator[None]:
    """Make, draw and save figures inside: fonts that have the letters of `names` are found.

    One line on the log says what to install where a letter is in no font.
    """
    families = [OWN]
    for path in dict.fromkeys(path for path in map(_font_of, _letters("".join(names))) if path):
        font_manager.fontManager.addfont(path)
        families.append(FT2Font(path).family_name)
    with rc_context({"font.family": families}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from")  # said already
        yield


class Letters:
    """Text of `size` px in Pillow's drawings, each part of it in a font that has its letters."""

    def __init__(self, size: int, *, strong: bool = False) -> None:
        self.size, self.strong = size, strong

    def width(self, text: str) -> float:
        """Length in px of one line."""
        return sum(font.getlength(part) for font, part in self._parts(text))

    def draw(
        self,
        pen: ImageDraw.ImageDraw,
        place: tuple[float, float],
        text: str,
        fill: str,
        anchor: str = "la",
    ) -> None:
        """Write one line at `place`: `anchor` "la" is its left top, "lm" its left middle."""
        x, y = place
        own = _pillow_font(None, self.size, self.strong)
        # All parts stand on the base line of the first font, whatever the heights of theirs.
        ascent, descent = own.getmetrics()
        base = y + ascent if anchor == "la" else y + (ascent - descent) / 2
        for font, part in self._parts(text):
            pen.text((x, base), part, fill=fill, font=font, anchor="ls")
            x += font.getlength(part)

    def _parts(self, text: str) -> list[tuple[ImageFont.FreeTypeFont, str]]:
        missing = {letter: _font_of(letter) for letter in _letters(text)}
        runs = groupby(text, key=missing.get)
        return [(_pillow_font(path, self.size, self.strong), "".join(run)) for path, run in runs]


@cache
def _pillow_font(path: str | None, size: int, strong: bool) -> ImageFont.FreeTypeFont:
    own = FOLDER / ("DejaVuSans-Bold.ttf" if strong else "DejaVuSans.ttf")
    return ImageFont.truetype(path or own, size)


def _letters(text: str) -> list[str]:
    """The letters of a text that matplotlib's own font lacks, each once."""
    own = _letters_in(str(FOLDER / "DejaVuSans.ttf"))
    return sorted(
        letter
        for letter in set(printable(text))
        if ord(letter) not in own and unicodedata.category(letter) not in INVISIBLE
    )


@cache
def _font_of(letter: str) -> str | None:
    """Path of a system's font that has `letter`; None, and a line on the log, without one."""
    for path in _system_fonts():
        if ord(letter) in _letters_in(path):
            return path
    package = _package(letter)
    if package not in MISSING:
        MISSING.add(package)
        log.warning(
            "figures: no font on this machine has the letter %s (U+%04X), which is drawn as a box;"
            " install one (Debian, Ubuntu: apt-get install %s)",
            *(letter, ord(letter), package),
        )
    return None


def _package(letter: str) -> str:
    name = unicodedata.name(letter, "")
    for scripts, package in PACKAGES:
        if name.startswith(scripts):
            return package
    return SYMBOLS if unicodedata.category(letter).startswith("S") else OTHERS


@cache
def _system_fonts() -> Sequence[str]:
    """Paths of the fonts that can be drawn with, the likeliest to have many letters first."""
    found = (path for path in font_manager.findSystemFonts() if not UNDRAWABLE.search(path))

    def unlikely(path: str) -> tuple[bool, bool, str]:
        name = Path(path).name
        plain = re.search(r"bold|italic|oblique|black|light|thin|serif|mono", name, re.I) is None
        return LIKELY.search(name) is None, not plain, name

    return sorted(found, key=unlikely)


@cache
def _letters_in(path: str) -> frozenset[int]:
    """Code points that a font has; none where it cannot be read."""
    try:
        return frozenset(FT2Font(path).get_charmap())
    except Exception:  # a damaged or unusual font is no reason to fail
        return frozenset()
