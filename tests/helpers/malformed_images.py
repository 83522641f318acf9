"""Malformed image files of many kinds, the same for the same seed."""

import io
import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

FORMATS = {
    "PNG": ".png",
    "JPEG": ".jpg",
    "GIF": ".gif",
    "BMP": ".bmp",
    "WEBP": ".webp",
    "PPM": ".ppm",
    "TIFF": ".tif",
}
Random = np.random.Generator


def sound(kind: str, random: Random) -> bytes:
    """A whole image of 40x30 noise; a JPEG of one of the ways there are to write them."""
    pixels = random.integers(0, 256, (30, 40, 3), dtype=np.uint8)
    data = io.BytesIO()
    image, options = Image.fromarray(pixels), {}
    if kind == "JPEG":
        exif = Image.Exif()
        exif[0x0112] = int(random.integers(1, 9))
        image = image.convert(str(random.choice(["L", "RGB", "RGB", "RGB", "CMYK"])))
        options = {
            "progressive": bool(random.integers(2)),
            "subsampling": int(random.integers(3)),
            "quality": int(random.integers(5, 100)),
            "restart_marker_blocks": int(random.integers(3)),
            "exif": exif if random.integers(2) else b"",
        }
    image.save(data, kind, **options)
    return data.getvalue()


def png_of(width: int, height: int) -> bytes:
    """A PNG that says it has so many pixels and has none of them."""

    def chunk(name: bytes, content: bytes) -> bytes:
        check = struct.pack(">I", zlib.crc32(name + content))
        return struct.pack(">I", len(content)) + name + content + check

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    empty = chunk(b"IDAT", zlib.compress(b"\0" * 1000))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + empty + chunk(b"IEND", b"")


def cut_short(data: bytes, random: Random) -> bytes:
    return data[: random.integers(0, len(data) - len(data) // 10)]


def flip_bits(data: bytes, random: Random) -> bytes:
    """Some bytes anywhere, the header more often than chance would have it."""
    spoilt = bytearray(data)
    for place in random.integers(0, len(data), random.integers(1, 30)):
        spoilt[int(place)] ^= 1 << int(random.integers(8))
    spoilt[int(random.integers(0, 24))] ^= 0xFF
    return bytes(spoilt)


def spoil_body(data: bytes, random: Random) -> bytes:
    """Bytes behind the header overwritten, here and there and in runs."""
    spoilt = bytearray(data)
    for place in random.integers(len(data) // 3, len(data), random.integers(1, 12)).tolist():
        run = int(random.integers(1, 40))
        spoilt[place : place + run] = random.bytes(len(spoilt[place : place + run]))
    return bytes(spoilt)


def spoil_sizes(data: bytes, random: Random) -> bytes:
    """Whole 16-bit numbers in the header overwritten, as sizes and lengths are."""
    spoilt = bytearray(data)
    for place in random.integers(2, min(700, len(data) - 2), random.integers(1, 4)).tolist():
        spoilt[place : place + 2] = random.choice([b"\0\0", b"\xff\xff", b"\x7f\xff", b"\0\1"])
    return bytes(spoilt)


def misnamed(data: bytes, random: Random) -> bytes:
    """A whole image of any format under the name of another."""
    return sound(str(random.choice(list(FORMATS))), random)


def drop_middle(data: bytes, random: Random) -> bytes:
    start = int(random.integers(1, len(data) // 2))
    return data[:start] + data[start + int(random.integers(1, len(data) // 3)) :]


def noise(data: bytes, random: Random) -> bytes:
    return random.bytes(int(random.integers(1, 4000)))


def text(data: bytes, random: Random) -> bytes:
    return b"<html><body>404 not found</body></html>\n" * int(random.integers(1, 40))


def zeros(data: bytes, random: Random) -> bytes:
    return bytes(int(random.integers(0, 3000)))


def headless(data: bytes, random: Random) -> bytes:
    return data[int(random.integers(1, 30)) :]


def bomb(data: bytes, random: Random) -> bytes:
    return png_of(*(int(side) for side in random.integers(10_000, 60_000, 2)))


WAYS: tuple[Callable[[bytes, Random], bytes], ...] = (
    cut_short, flip_bits, spoil_body, spoil_sizes, drop_middle, noise, text, zeros, headless, bomb,
    misnamed,
)  # fmt: skip


def write_malformed(folder: Path, count: int, seed: int = 0) -> list[Path]:
    """`count` files that are malformed in turn in every way; some may still be readable."""
    random = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    kinds = list(FORMATS)
    paths = []
    for number in range(count):
        way, kind = WAYS[number % len(WAYS)], kinds[number // len(WAYS) % len(kinds)]
        path = folder / f"{number:05}-{way.__name__}{FORMATS[kind]}"
        path.write_bytes(way(sound(kind, random), random))
        paths.append(path)
    return paths


def write_oddities(folder: Path) -> list[Path]:
    """Links called like images that lead in a circle or nowhere; beside them a pipe, a folder."""
    (folder / "loop.png").symlink_to("loop.png")
    (folder / "a.png").symlink_to("b.png")
    (folder / "b.png").symlink_to("a.png")
    (folder / "nowhere.png").symlink_to("gone.png")
    os.mkfifo(folder / "pipe.png")
    (folder / "folder.png").mkdir()
    (folder / "folder.png" / "up").symlink_to(folder)  # a loop of folders
    return [folder / name for name in ("a.png", "b.png", "loop.png", "nowhere.png")]
