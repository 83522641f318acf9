"""Pictures for people to look at: text, heat, pages of tiles, and whole PNG files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import matplotlib
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from resnets.config import atomic_write
from resnets.evaluate.figures.fonts import Letters
from resnets.utils.terminal import printable

INK, SOFT, RED, GREEN = "#1f2933", "#616e7c", "#b8321f", "#2b7a3d"
GAP = 12
SIZE, LINE = 14, 19  # of text, and from one line to the next, in px
COLUMNS, FEWEST = 6, 3  # tiles in a row at most, and how many it has room for at least


def canvas(width: int, height: int) -> Image.Image:
    """An empty white page."""
    return Image.new("RGB", (width, height), "white")


def caption(
    page: Image.Image,
    place: tuple[int, int],
    text: str,
    width: int,
    *,
    color: str = INK,
    strong: bool = False,
) -> None:
    """Write one line at `place` (left, top), cut short with an ellipsis where it passes `width`."""
    letters = Letters(SIZE, strong=strong)
    text = printable(text)
    if letters.width(text) > width:
        while text and letters.width(f"{text}…") > width:
            text = text[:-1]
        text += "…"
    letters.draw(ImageDraw.Draw(page), place, text, color)


def wrapped(text: str, width: int, *, strong: bool = False) -> list[str]:
    """`text` in lines of at most `width` px, broken at spaces, and within words that are wider."""
    letters = Letters(SIZE, strong=strong)
    lines = [""]
    for word in printable(text).split():
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and letters.width(longer) > width:
            lines.append(word)
        else:
            lines[-1] = longer
        while letters.width(lines[-1]) > width:
            fits = len(lines[-1]) - 1
            while fits > 1 and letters.width(lines[-1][:fits]) > width:
                fits -= 1
            lines[-1:] = [lines[-1][:fits], lines[-1][fits:]]
    return lines


def heat(picture: Image.Image, activation: NDArray[np.float32]) -> Image.Image:
    """`picture` under a map (H, W) in 0..1: nothing at 0, the more and the redder the higher."""
    level = Image.fromarray(activation).resize(picture.size, Image.Resampling.BICUBIC)
    values = np.clip(np.asarray(level), 0, 1)[..., None]
    colors = matplotlib.colormaps["turbo"](values[..., 0])[..., :3] * 255
    gray = np.asarray(picture.convert("L").convert("RGB"), np.float64)
    mixed = gray * (1 - 0.6 * values**0.5) + colors * 0.6 * values**0.5
    return Image.fromarray(mixed.round().clip(0, 255).astype(np.uint8))


@dataclass(frozen=True)
class Said:
    """One text below a tile."""

    text: str
    color: str = SOFT
    strong: bool = False


@dataclass(frozen=True, eq=False)
class Tile:
    """A square picture and the three texts below it, each on as many lines as it takes."""

    picture: Image.Image
    lines: tuple[Said, Said, Said]


def save_tiles(title: str, protocol: str, tiles: Sequence[Tile], side: int, path: Path) -> None:
    """Write the PNG: title, protocol, then the tiles of `side` px in rows of up to six.

    Nothing is cut short: a row of tiles is as high as the longest names in it need.
    """
    columns = min(COLUMNS, max(FEWEST, len(tiles)))
    rows = [tiles[start : start + columns] for start in range(0, len(tiles), columns)]
    width = columns * (side + GAP) + GAP
    notes = wrapped(protocol, width - 2 * GAP)
    head = GAP + (1 + len(notes)) * LINE
    texts = [[_lines(tile, side) for tile in row] for row in rows]
    heights = [side + LINE * max(3, *map(len, row)) + GAP for row in texts]
    page = canvas(width, head + sum(heights) + GAP)
    caption(page, (GAP, GAP), title, width - 2 * GAP, strong=True)
    for number, note in enumerate(notes, start=1):
        caption(page, (GAP, GAP + number * LINE), note, width - 2 * GAP, color=SOFT)
    top = head + GAP
    for row, said_below, high in zip(rows, texts, heights, strict=True):
        for place, (tile, lines) in enumerate(zip(row, said_below, strict=True)):
            left = GAP + place * (side + GAP)
            page.paste(tile.picture, (left, top))
            for number, said in enumerate(lines):
                where = (left, top + side + 3 + number * LINE)
                caption(page, where, said.text, side, color=said.color, strong=said.strong)
        top += high
    save(page, path)


def _lines(tile: Tile, side: int) -> list[Said]:
    """The texts below a tile, broken to its width."""
    return [
        replace(said, text=line)
        for said in tile.lines
        for line in wrapped(said.text, side, strong=said.strong)
    ]


def file_of(name: str) -> Said:
    """The line that names a picture's file, of what a split calls it."""
    return Said(name.replace(":", "/").rsplit("/", 1)[-1])


def save(page: Image.Image, path: Path) -> None:
    """Write the PNG whole or not at all."""
    with atomic_write(path) as temporary:
        page.save(temporary, format="PNG")
