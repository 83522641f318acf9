"""Pictures for people to look at: text, heat, pages of tiles, and whole PNG files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import matplotlib
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from resnets.config import whole_file

INK, SOFT, RED, GREEN = "#1f2933", "#616e7c", "#b8321f", "#2b7a3d"
GAP = 12
SIZE, LINE = 14, 19  # of text, and from one line to the next, in px
COLUMNS, FEWEST = 6, 3  # tiles in a row at most, and how many it has room for at least


@cache
def font(*, strong: bool) -> ImageFont.FreeTypeFont:
    """The font that matplotlib brings, so that names in any European script have their letters."""
    name = "DejaVuSans-Bold.ttf" if strong else "DejaVuSans.ttf"
    return ImageFont.truetype(Path(matplotlib.get_data_path(), "fonts", "ttf", name), SIZE)


def canvas(width: int, height: int) -> Image.Image:
    """An empty white page."""
    return Image.new("RGB", (width, height), "white")


def caption(
    page: Image.Image,
    place: tuple[int, int],
    text: str,
    width: int,
    *,
    colour: str = INK,
    strong: bool = False,
) -> None:
    """Write one line at `place` (left, top), cut short with an ellipsis where it passes `width`."""
    letters = font(strong=strong)
    text = "".join(letter if letter.isprintable() else "�" for letter in text)
    if letters.getlength(text) > width:
        while text and letters.getlength(f"{text}…") > width:
            text = text[:-1]
        text += "…"
    ImageDraw.Draw(page).text(place, text, fill=colour, font=letters)


def wrapped(text: str, width: int) -> list[str]:
    """`text` in lines of at most `width` px, broken at spaces."""
    letters = font(strong=False)
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and letters.getlength(longer) > width:
            lines.append(word)
        else:
            lines[-1] = longer
    return lines


def heat(picture: Image.Image, activation: NDArray[np.float32]) -> Image.Image:
    """`picture` under a map (H, W) in 0..1: nothing at 0, the more and the redder the higher."""
    level = Image.fromarray(activation).resize(picture.size, Image.Resampling.BICUBIC)
    values = np.clip(np.asarray(level), 0, 1)[..., None]
    colours = matplotlib.colormaps["turbo"](values[..., 0])[..., :3] * 255
    grey = np.asarray(picture.convert("L").convert("RGB"), np.float64)
    mixed = grey * (1 - 0.6 * values**0.5) + colours * 0.6 * values**0.5
    return Image.fromarray(mixed.round().clip(0, 255).astype(np.uint8))


@dataclass(frozen=True)
class Said:
    """One line below a tile."""

    text: str
    colour: str = SOFT
    strong: bool = False


@dataclass(frozen=True, eq=False)
class Tile:
    """A square picture and the three lines below it."""

    picture: Image.Image
    lines: tuple[Said, Said, Said]


def save_tiles(title: str, protocol: str, tiles: Sequence[Tile], side: int, path: Path) -> None:
    """Write the PNG: title, protocol, then the tiles of `side` px in rows of up to six."""
    columns = min(COLUMNS, max(FEWEST, len(tiles)))
    rows = max(1, -(-len(tiles) // columns))
    width = columns * (side + GAP) + GAP
    notes = wrapped(protocol, width - 2 * GAP)
    head = GAP + (1 + len(notes)) * LINE
    high = side + 3 * LINE + GAP
    page = canvas(width, head + rows * high + GAP)
    caption(page, (GAP, GAP), title, width - 2 * GAP, strong=True)
    for number, note in enumerate(notes, start=1):
        caption(page, (GAP, GAP + number * LINE), note, width - 2 * GAP, colour=SOFT)
    for place, tile in enumerate(tiles):
        left, top = GAP + place % columns * (side + GAP), head + GAP + place // columns * high
        page.paste(tile.picture, (left, top))
        for number, said in enumerate(tile.lines):
            where = (left, top + side + 3 + number * LINE)
            caption(page, where, said.text, side, colour=said.colour, strong=said.strong)
    save(page, path)


def file_of(name: str) -> Said:
    """The line that names a picture's file, of what a split calls it."""
    return Said(name.replace(":", "/").rsplit("/", 1)[-1])


def save(page: Image.Image, path: Path) -> None:
    """Write the PNG whole or not at all."""
    with whole_file(path) as temporary:
        page.save(temporary, format="PNG")
