"""The most confident mistakes on one page."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageOps

from resnets.data import Split
from resnets.evaluate.figures.overlays import GREEN, RED, Said, Tile, file_of, save_tiles
from resnets.evaluate.measure import Mistake
from resnets.evaluate.views.crops import stored

TILE = 192  # px of a tile's side


def save_sheet(split: Split, mistakes: Sequence[Mistake], protocol: str, path: Path) -> None:
    """Write the PNG: each whole picture, its class, what it was taken for and how surely."""
    title = f"The {len(mistakes)} most confident errors" if mistakes else "No errors"
    save_tiles(title, protocol, [_tile(split, each) for each in mistakes], TILE, path)


def _tile(split: Split, mistake: Mistake) -> Tile:
    lines = (
        Said(f"is {mistake.true}", GREEN),
        Said(f"{mistake.probability:.1%} said {mistake.predicted}", RED, strong=True),
        file_of(mistake.path),
    )
    return Tile(_fitted(stored(split, mistake.row)), lines)


def _fitted(picture: Image.Image) -> Image.Image:
    """All of the picture in a square tile."""
    inside = ImageOps.contain(picture.convert("RGB"), (TILE, TILE), Image.Resampling.BICUBIC)
    return ImageOps.pad(inside, (TILE, TILE), color="#eef1f4")
