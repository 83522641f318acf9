"""Grids of captioned images as PNG files, such as the most confident errors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from PIL import Image, ImageDraw, ImageOps

from resnets.data import Split
from resnets.evaluate.figures.fonts import TextRenderer
from resnets.evaluate.measure import Mistake
from resnets.evaluate.views import load_image
from resnets.utils.files.write import atomic_write
from resnets.utils.printable import printable

INK, SOFT, RED, GREEN = "#1f2933", "#616e7c", "#b8321f", "#2b7a3d"
GAP = 12
FONT_SIZE, LINE = 14, 19  # of text, and from one line to the next, in px
MAX_COLUMNS, MIN_COLUMNS = 6, 3  # tiles in a row
TILE = 192  # px of the side of a tile


def new_page(width: int, height: int) -> Image.Image:
    """Return an empty white page."""
    return Image.new("RGB", (width, height), "white")


def draw_caption(
    page: Image.Image,
    position: tuple[int, int],
    text: str,
    width: int,
    *,
    color: str = INK,
    strong: bool = False,
) -> None:
    """Draw one line at `position` (left, top), truncated with an ellipsis at `width` px."""
    font = TextRenderer(FONT_SIZE, strong=strong)
    text = printable(text)
    if font.width(text) > width:
        while text and font.width(f"{text}…") > width:
            text = text[:-1]
        text += "…"
    font.draw(ImageDraw.Draw(page), position, text, color)


def wrap_text(text: str, width: int, *, strong: bool = False) -> list[str]:
    """Wrap `text` into lines of at most `width` px, at spaces, or within words that are wider."""
    font = TextRenderer(FONT_SIZE, strong=strong)
    lines = [""]
    for word in printable(text).split():
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and font.width(longer) > width:
            lines.append(word)
        else:
            lines[-1] = longer
        while font.width(lines[-1]) > width:
            fits = len(lines[-1]) - 1
            while fits > 1 and font.width(lines[-1][:fits]) > width:
                fits -= 1
            lines[-1:] = [lines[-1][:fits], lines[-1][fits:]]
    return lines


@dataclass(frozen=True)
class Caption:
    """A text below a tile."""

    text: str
    color: str = SOFT
    strong: bool = False


@dataclass(frozen=True, eq=False)
class Tile:
    """A square image and the three captions below it, each on as many lines as needed."""

    image: Image.Image
    lines: tuple[Caption, Caption, Caption]


def save_image_grid(
    title: str, protocol: str, tiles: Sequence[Tile], side: int, path: Path
) -> None:
    """Write the PNG: title, protocol, then the tiles of `side` px in rows of up to six.

    No text is truncated: a row of tiles is as high as its longest captions.
    """
    columns = min(MAX_COLUMNS, max(MIN_COLUMNS, len(tiles)))
    rows = [tiles[start : start + columns] for start in range(0, len(tiles), columns)]
    width = columns * (side + GAP) + GAP
    notes = wrap_text(protocol, width - 2 * GAP)
    head = GAP + (1 + len(notes)) * LINE
    texts = [[_wrap_captions(tile, side) for tile in row] for row in rows]
    heights = [side + LINE * max(3, *map(len, row)) + GAP for row in texts]
    page = new_page(width, head + sum(heights) + GAP)
    draw_caption(page, (GAP, GAP), title, width - 2 * GAP, strong=True)
    for number, note in enumerate(notes, start=1):
        draw_caption(page, (GAP, GAP + number * LINE), note, width - 2 * GAP, color=SOFT)
    top = head + GAP
    for row, captions, height in zip(rows, texts, heights, strict=True):
        for column, (tile, lines) in enumerate(zip(row, captions, strict=True)):
            left = GAP + column * (side + GAP)
            page.paste(tile.image, (left, top))
            for number, line in enumerate(lines):
                position = (left, top + side + 3 + number * LINE)
                draw_caption(page, position, line.text, side, color=line.color, strong=line.strong)
        top += height
    save_png(page, path)


def _wrap_captions(tile: Tile, side: int) -> list[Caption]:
    """Wrap the captions of a tile to its width."""
    return [
        replace(each, text=line)
        for each in tile.lines
        for line in wrap_text(each.text, side, strong=each.strong)
    ]


def file_caption(name: str) -> Caption:
    """Return the caption with the file name of an image, given its name in the split."""
    return Caption(name.replace(":", "/").rsplit("/", 1)[-1])


def save_png(page: Image.Image, path: Path) -> None:
    """Write the PNG atomically."""
    with atomic_write(path) as temporary:
        page.save(temporary, format="PNG")


def save_error_grid(split: Split, mistakes: Sequence[Mistake], protocol: str, path: Path) -> None:
    """Write the PNG: each whole image, its class, the predicted class and its probability."""
    title = f"The {len(mistakes)} most confident errors" if mistakes else "No errors"
    save_image_grid(title, protocol, [_make_tile(split, each) for each in mistakes], TILE, path)


def _make_tile(split: Split, mistake: Mistake) -> Tile:
    lines = (
        Caption(f"true: {mistake.true}", GREEN),
        Caption(f"predicted: {mistake.predicted} ({mistake.probability:.1%})", RED, strong=True),
        file_caption(mistake.path),
    )
    return Tile(_fit_tile(load_image(split, mistake.row)), lines)


def _fit_tile(image: Image.Image) -> Image.Image:
    """Fit the whole image into a square tile."""
    inside = ImageOps.contain(image.convert("RGB"), (TILE, TILE), Image.Resampling.BICUBIC)
    return ImageOps.pad(inside, (TILE, TILE), color="#eef1f4")
