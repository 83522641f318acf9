"""Pictures for people to look at: text, heat, and whole PNG files."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import matplotlib
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

INK, SOFT, RED, GREEN = "#1f2933", "#616e7c", "#b8321f", "#2b7a3d"
GAP = 12
SIZE = 14  # of text, in px


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


def save(page: Image.Image, path: Path) -> None:
    """Write the PNG whole or not at all."""
    temporary = path.with_name(f".{path.name}.tmp")
    page.save(temporary, format="PNG")
    temporary.replace(path)
