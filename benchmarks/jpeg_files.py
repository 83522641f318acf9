"""JPEG files for benchmarks: noise with the sizes in pixels and bytes of real data sets."""

from __future__ import annotations

import io
import statistics
import tarfile
from pathlib import Path

import numpy as np
from PIL import Image

LARGE = (500, 375)  # px; the median of ImageNet, which has 105 KB
SMALL = (224, 224)
CLASSES = 10


def random_image(width: int, height: int, seed: int = 0, grain: float = 0.0) -> Image.Image:
    """Return smooth noise, plus pixel noise of standard deviation `grain`."""
    rng = np.random.default_rng(seed)
    cells = rng.integers(0, 256, (-(-height // 16), -(-width // 16), 3), dtype=np.uint8)
    image = Image.fromarray(cells).resize((width, height), Image.Resampling.BICUBIC)
    return add_grain(image, grain, rng) if grain else image


def add_grain(image: Image.Image, deviation: float, rng: np.random.Generator) -> Image.Image:
    """Add gray pixel noise, as photographs have it."""
    noise = rng.normal(0, deviation, (image.height, image.width, 1)).round()
    return Image.fromarray((np.asarray(image) + noise).clip(0, 255).astype(np.uint8))


def encode(image: Image.Image, quality: int = 92) -> bytes:
    """Return `image` as JPEG."""
    out = io.BytesIO()
    image.save(out, "JPEG", quality=quality)
    return out.getvalue()


def write_images(folder: Path, count: int, *, large: bool) -> None:
    """Write `count` images as a folder of class folders: 500 x 375 px with 110 KB, or 224 x 224 px
    with 12 KB."""
    width, height = LARGE if large else SMALL
    for number in range(count):
        image = random_image(width, height, number, grain=9 if large else 0)
        path = folder / f"class{number % CLASSES}" / f"{number:05}.jpg"
        path.parent.mkdir(exist_ok=True, parents=True)
        path.write_bytes(encode(image, quality=95 if large else 92))


def extract_images(archive: Path, folder: Path, count: int, *, large: bool) -> None:
    """Write `count` training images of a tar (SET/train/CLASS/NAME) as a folder of class folders.

    large: scaled to 500 x 375 px, with grain in place of the detail that scaling cannot add.
    """
    rng = np.random.default_rng(0)
    with tarfile.open(archive) as tar:
        members = [each for each in tar if each.isreg() and "/train/" in each.name]
        for number in np.linspace(0, len(members) - 1, count).astype(int):
            member = members[number]
            data = tar.extractfile(member).read()
            if large:
                image = Image.open(io.BytesIO(data)).convert("RGB")
                image = image.resize((500, 500), Image.Resampling.BICUBIC).crop((0, 62, 500, 437))
                data = encode(add_grain(image, 9, rng), quality=95)
            path = folder / Path(member.name).parent.name / Path(member.name).name
            path.parent.mkdir(exist_ok=True, parents=True)
            path.write_bytes(data)


def describe(folder: Path) -> str:
    """Return the median size of the images of a folder, in px and KB."""
    paths = [path for path in folder.rglob("*") if path.is_file()][:1000]
    sizes = [Image.open(path).size for path in paths]
    width, height = (statistics.median(side) for side in zip(*sizes, strict=True))
    kilobytes = statistics.median(path.stat().st_size for path in paths) / 1000
    return f"median {width:.0f} x {height:.0f}, {kilobytes:.0f} KB"
