"""Text in figures: no accidental markup, and system fonts for characters that need them.

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

DEFAULT_FONT = "DejaVu Sans"
FOLDER = Path(matplotlib.get_data_path(), "fonts", "ttf")
# System fonts made for many scripts are tried first.
PREFERRED = re.compile(
    r"cjk|droidsansfallback|wqy|han|unifont|unicode|noto|gothic|yahei|hei|ming", re.I
)
UNUSABLE = re.compile(r"color|lastresort", re.I)  # bitmaps; placeholder boxes
INVISIBLE = frozenset({"Cf", "Mn", "Me", "Zs"})  # joiners, variation selectors, spaces
PACKAGES = (  # scripts in Unicode names of characters, and the Debian package of a font
    (("CJK", "HIRAGANA", "KATAKANA", "HANGUL", "BOPOMOFO", "FULLWIDTH"), "fonts-noto-cjk"),
    (("ARABIC", "HEBREW"), "fonts-noto-core"),
)
SYMBOL_PACKAGE = "fonts-symbola"
OTHER_PACKAGE = "fonts-noto-core"
REPORTED: set[str] = set()  # packages that were already logged


def escape_label(name: object) -> str:
    """Return `name` on one line, escaped so that matplotlib draws it literally."""
    text = printable(name).replace("$", r"\$")
    return f" {text}" if text.startswith("_") else text


@contextmanager
def figure_fonts(names: Iterable[str]) -> Iterator[None]:
    """Context for creating and saving figures, with fonts that have the characters of `names`.

    Logs what to install for characters that no font has.
    """
    families = [DEFAULT_FONT]
    for path in dict.fromkeys(
        path for path in map(_find_font, _missing_letters("".join(names))) if path
    ):
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
        """Return the width in px of one line."""
        return sum(font.getlength(part) for font, part in self._split_by_font(text))

    def draw(
        self,
        pen: ImageDraw.ImageDraw,
        position: tuple[float, float],
        text: str,
        fill: str,
        anchor: str = "la",
    ) -> None:
        """Draw one line at `position`: `anchor` "la" is its left top, "lm" its left middle."""
        x, y = position
        own = _pillow_font(None, self.size, self.strong)
        # All parts share the baseline of the first font.
        ascent, descent = own.getmetrics()
        base = y + ascent if anchor == "la" else y + (ascent - descent) / 2
        for font, part in self._split_by_font(text):
            pen.text((x, base), part, fill=fill, font=font, anchor="ls")
            x += font.getlength(part)

    def _split_by_font(self, text: str) -> list[tuple[ImageFont.FreeTypeFont, str]]:
        missing = {letter: _find_font(letter) for letter in _missing_letters(text)}
        runs = groupby(text, key=missing.get)
        return [(_pillow_font(path, self.size, self.strong), "".join(run)) for path, run in runs]


@cache
def _pillow_font(path: str | None, size: int, strong: bool) -> ImageFont.FreeTypeFont:
    own = FOLDER / ("DejaVuSans-Bold.ttf" if strong else "DejaVuSans.ttf")
    return ImageFont.truetype(path or own, size)


def _missing_letters(text: str) -> list[str]:
    """Return the distinct characters of a text that matplotlib's own font lacks."""
    own = _font_letters(str(FOLDER / "DejaVuSans.ttf"))
    return sorted(
        letter
        for letter in set(printable(text))
        if ord(letter) not in own and unicodedata.category(letter) not in INVISIBLE
    )


@cache
def _find_font(letter: str) -> str | None:
    """Return the path of a system font that has `letter`; None, with a warning, if none has."""
    for path in _system_fonts():
        if ord(letter) in _font_letters(path):
            return path
    package = _suggest_package(letter)
    if package not in REPORTED:
        REPORTED.add(package)
        log.warning(
            "figures: no font on this machine has %s (U+%04X), which is drawn as a box;"
            " install one (Debian, Ubuntu: apt-get install %s)",
            letter,
            ord(letter),
            package,
        )
    return None


def _suggest_package(letter: str) -> str:
    name = unicodedata.name(letter, "")
    for scripts, package in PACKAGES:
        if name.startswith(scripts):
            return package
    return SYMBOL_PACKAGE if unicodedata.category(letter).startswith("S") else OTHER_PACKAGE


@cache
def _system_fonts() -> Sequence[str]:
    """Return the paths of the usable fonts, those likely to have many characters first."""
    paths = (path for path in font_manager.findSystemFonts() if not UNUSABLE.search(path))

    def sort_key(path: str) -> tuple[bool, bool, str]:
        name = Path(path).name
        plain = re.search(r"bold|italic|oblique|black|light|thin|serif|mono", name, re.I) is None
        return PREFERRED.search(name) is None, not plain, name

    return sorted(paths, key=sort_key)


@cache
def _font_letters(path: str) -> frozenset[int]:
    """Return the code points of a font; none if it cannot be read."""
    try:
        return frozenset(FT2Font(path).get_charmap())
    except Exception:  # a damaged font is not a reason to fail
        return frozenset()
