"""Text in figures: no accidental markup, and a font for every character, where there is one.

matplotlib reads `$...$` as mathematics and leaves labels that begin with `_` out of legends; its
own font covers European scripts, Arabic and Hebrew, but not CJK. `escape_label` and `figure_fonts`
are for matplotlib, `TextRenderer` is for Pillow.
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

from resnets.utils.printable import printable

log = logging.getLogger("resnets")

OWN = "DejaVu Sans"
FOLDER = Path(matplotlib.get_data_path(), "fonts", "ttf")
# System fonts made for many scripts are tried first.
LIKELY = re.compile(
    r"cjk|droidsansfallback|wqy|han|unifont|unicode|noto|gothic|yahei|hei|ming", re.I
)
UNUSABLE = re.compile(r"color|lastresort", re.I)  # bitmaps; placeholder boxes
INVISIBLE = frozenset({"Cf", "Mn", "Me", "Zs"})  # joiners, variation selectors, spaces
PACKAGES = (  # the script's name in Unicode's names of letters, and Debian's package
    (("CJK", "HIRAGANA", "KATAKANA", "HANGUL", "BOPOMOFO", "FULLWIDTH"), "fonts-noto-cjk"),
    (("ARABIC", "HEBREW"), "fonts-noto-core"),
)
SYMBOLS = "fonts-symbola"
OTHERS = "fonts-noto-core"
REPORTED: set[str] = set()  # packages named already: one line for each, not each character


def escape_label(name: object) -> str:
    """`name` on one line, escaped so that matplotlib draws it literally."""
    text = printable(name).replace("$", r"\$")
    return f" {text}" if text.startswith("_") else text


@contextmanager
def figure_fonts(names: Iterable[str]) -> Iterator[None]:
    """Context for creating and saving figures, with fonts that have the characters of `names`.

    Logs what to install for characters that no font has.
    """
    families = [OWN]
    for path in dict.fromkeys(path for path in map(_font_of, _letters("".join(names))) if path):
        font_manager.fontManager.addfont(path)
        families.append(FT2Font(path).family_name)
    with rc_context({"font.family": families}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from")  # logged already
        yield


class TextRenderer:
    """Draws text of `size` px with Pillow, each part of it in a font that has its characters."""

    def __init__(self, size: int, *, strong: bool = False) -> None:
        self.size, self.strong = size, strong

    def width(self, text: str) -> float:
        """Width in px of one line."""
        return sum(font.getlength(part) for font, part in self._parts(text))

    def draw(
        self,
        pen: ImageDraw.ImageDraw,
        place: tuple[float, float],
        text: str,
        fill: str,
        anchor: str = "la",
    ) -> None:
        """Draw one line at `place`: `anchor` "la" is its left top, "lm" its left middle."""
        x, y = place
        own = _pillow_font(None, self.size, self.strong)
        # All parts share the baseline of the first font.
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
    """The distinct characters of a text that matplotlib's own font lacks."""
    own = _letters_in(str(FOLDER / "DejaVuSans.ttf"))
    return sorted(
        letter
        for letter in set(printable(text))
        if ord(letter) not in own and unicodedata.category(letter) not in INVISIBLE
    )


@cache
def _font_of(letter: str) -> str | None:
    """Path of a system font that has `letter`; None, with a warning, if there is none."""
    for path in _system_fonts():
        if ord(letter) in _letters_in(path):
            return path
    package = _package(letter)
    if package not in REPORTED:
        REPORTED.add(package)
        log.warning(
            "figures: no font on this machine has %s (U+%04X), which is drawn as a box;"
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
    """Paths of the usable fonts, those likely to have many characters first."""
    found = (path for path in font_manager.findSystemFonts() if not UNUSABLE.search(path))

    def unlikely(path: str) -> tuple[bool, bool, str]:
        name = Path(path).name
        plain = re.search(r"bold|italic|oblique|black|light|thin|serif|mono", name, re.I) is None
        return LIKELY.search(name) is None, not plain, name

    return sorted(found, key=unlikely)


@cache
def _letters_in(path: str) -> frozenset[int]:
    """Code points of a font; none if it cannot be read."""
    try:
        return frozenset(FT2Font(path).get_charmap())
    except Exception:  # a damaged font is not a reason to fail
        return frozenset()
