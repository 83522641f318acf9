"""Images of a few kB that take minutes or gigabytes to decode."""

import io
import struct
import zlib
from collections.abc import Callable

from PIL import Image


def avif(width: int, height: int, frames: int = 1) -> bytes:
    """An AVIF image of one color: a few kB for any size."""
    out = io.BytesIO()
    image = Image.new("RGB", (width, height), (90, 120, 30))
    more = {"save_all": True, "append_images": [image] * (frames - 1)} if frames > 1 else {}
    image.save(out, "AVIF", speed=10, **more)
    return out.getvalue()


def segment(marker: int, body: bytes) -> bytes:
    return bytes([0xFF, marker]) + struct.pack(">H", len(body) + 2) + body


def scan_bomb(side: int, scans: int) -> bytes:
    """A gray progressive JPEG of a few bytes a scan, each of which visits all blocks."""
    blocks, zeros = (-(-side // 8)) ** 2, bytes([1, *[0] * 15])
    out = b"\xff\xd8" + segment(0xDB, b"\0" + bytes([16] * 64))
    out += segment(0xC2, struct.pack(">BHHB", 8, side, side, 1) + bytes([1, 0x11, 0]))
    out += segment(0xC4, b"\x00" + zeros + b"\x00") + segment(0xC4, b"\x10" + zeros + b"\xe0")
    out += segment(0xDA, bytes([1, 1, 0, 0, 0, 0])) + bytes(-(-blocks // 8))
    scan = segment(0xDA, bytes([1, 1, 0, 1, 63, 0])) + bytes(-(-blocks // 16384) * 15 // 8 + 1)
    return out + scan * scans + b"\xff\xd9"


def chunk(kind: bytes, body: bytes) -> bytes:
    sum_ = struct.pack(">I", zlib.crc32(kind + body))
    return struct.pack(">I", len(body)) + kind + body + sum_


def tiff_of_jpeg(data: bytes, width: int, height: int) -> bytes:
    """A TIFF of one strip that is a JPEG."""
    tags = [(256, width), (257, height), (258, 8), (259, 7), (262, 1), (273, 126), (277, 1)]
    tags += [(278, height), (279, len(data))]
    body = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    head = b"II*\0" + struct.pack("<IH", 8, len(tags)) + body + bytes(4)
    return head.ljust(126, b"\0") + data


BOMBS: dict[str, Callable[[], bytes]] = {
    "many scans, large": lambda: scan_bomb(7000, 200),
    "many scans, small": lambda: scan_bomb(500, 20_000),
    "scans in a TIFF": lambda: tiff_of_jpeg(scan_bomb(500, 20_000), 500, 500),
    "segments": lambda: b"\xff\xd8" + segment(0xE0, b"") * 2_000_000 + scan_bomb(16, 1)[2:],
    "EXIF segments": lambda: (
        b"\xff\xd8" + segment(0xE1, b"Exif\0\0" + bytes(60_000)) * 1000 + scan_bomb(16, 1)[2:]
    ),
    "fill bytes": lambda: b"\xff\xd8" + b"\xff" * 20_000_000 + scan_bomb(16, 1)[2:],
    "chunks": lambda: (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">IIBBBBB", 8, 8, 8, 0, 0, 0, 0))
        + chunk(b"tEXt", b"a\0b") * 1_000_000
    ),
    "comments": lambda: b"P6 " + b"#" * 20_000_000 + b"\n1 1 255\n\0\0\0",
}
