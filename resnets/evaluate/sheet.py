"""The most confident mistakes on one page."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageOps

from resnets.data import Split
from resnets.evaluate.cuts import stored
from resnets.evaluate.measure import Mistake
from resnets.evaluate.panels import GAP, GREEN, RED, SOFT, canvas, caption, save, wrapped

COLUMNS, TILE, LINE = 6, 192, 19


def save_sheet(split: Split, mistakes: Sequence[Mistake], protocol: str, path: Path) -> None:
    """Write the PNG: each whole picture, its class, what it was taken for and how surely."""
    columns = min(COLUMNS, max(3, len(mistakes)))
    rows = max(1, -(-len(mistakes) // columns))
    width = columns * (TILE + GAP) + GAP
    notes = wrapped(protocol, width - 2 * GAP)
    head = GAP + (1 + len(notes)) * LINE
    page = canvas(width, head + rows * (TILE + 3 * LINE + GAP) + GAP)
    title = f"The {len(mistakes)} most confident errors" if mistakes else "No errors"
    caption(page, (GAP, GAP), title, width - 2 * GAP, strong=True)
    for number, note in enumerate(notes, start=1):
        caption(page, (GAP, GAP + number * LINE), note, width - 2 * GAP, colour=SOFT)
    for place, mistake in enumerate(mistakes):
        left = GAP + place % columns * (TILE + GAP)
        top = head + GAP + place // columns * (TILE + 3 * LINE + GAP)
        picture = _fitted(stored(split, mistake.row))
        page.paste(picture, (left, top))
        lines = (
            (f"is {mistake.true}", GREEN, False),
            (f"{mistake.probability:.1%} said {mistake.predicted}", RED, True),
            (mistake.path.replace(":", "/").rsplit("/", 1)[-1], SOFT, False),
        )
        for number, (text, colour, strong) in enumerate(lines):
            where = (left, top + TILE + 3 + number * LINE)
            caption(page, where, text, TILE, colour=colour, strong=strong)
    save(page, path)


def _fitted(picture: Image.Image) -> Image.Image:
    """All of the picture in a square tile."""
    inside = ImageOps.contain(picture.convert("RGB"), (TILE, TILE), Image.Resampling.BICUBIC)
    return ImageOps.pad(inside, (TILE, TILE), color="#eef1f4")
