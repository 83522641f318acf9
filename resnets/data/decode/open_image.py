"""The only place that opens encoded images with Pillow: known formats only, with bounded work.

A file claims its format by its first bytes. Pillow knows formats that start a program (EPS starts
Ghostscript); only those of `FORMATS` are tried. The work that a file can cause is bounded before
decoding: pixels, scans of a progressive JPEG times pixels, and the numbers of segments and chunks,
which Pillow reads one by one in Python.
"""

from __future__ import annotations

import ctypes
import importlib
import io
import logging
import re
import threading
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

from PIL import Image, UnidentifiedImageError

from resnets.data.file_kinds import NOT_THE_FILE, Group, describe_kind

# An image of more pixels is refused by its header: a few bytes can claim any size, and decoding it
# would fill the memory. A quarter of a gigabyte of RGB, as Pillow's warning.
MAX_PIXELS = (1 << 30) // 4 // 3

# Each scan of a progressive JPEG visits all its pixels again, at about 0.2 ns for each even where
# it contains nothing. Encoders write 10 scans, and few write more than 20.
MAX_SCANS = 500
MAX_PIXEL_SCANS = 2_000_000_000

# Pillow reads segments, fill bytes and chunks in a loop of Python, before it is known how many.
MAX_SEGMENTS = 10_000
MAX_EXIF_SEGMENTS = 16  # Pillow concatenates them one by one
MAX_FILL = 1 << 20
MAX_CHUNKS = 100_000
MAX_PNM_HEADER = 1 << 16

PLUGINS = {
    "JPEG": "JpegImagePlugin",
    "MPO": "MpoImagePlugin",
    "PNG": "PngImagePlugin",
    "WEBP": "WebPImagePlugin",
    "AVIF": "AvifImagePlugin",
    "GIF": "GifImagePlugin",
    "BMP": "BmpImagePlugin",
    "DIB": "BmpImagePlugin",
    "TIFF": "TiffImagePlugin",
    "PPM": "PpmImagePlugin",
    "JPEG2000": "Jpeg2KImagePlugin",
}
LOCAL_FORMATS = ("DIB", "JPEG2000", "HEIF")

JPEG_START, TIFF_STARTS, PNG_START = b"\xff\xd8", (b"II*\0", b"MM\0*"), b"\x89PNG\r\n\x1a\n"
HEIF_BRANDS = frozenset((b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"))
HEIF_REMEDY = "HEIC is read where pillow-heif is installed: pip install 'resnets[heic]'"
AS_PNG = "convert it to PNG"
REMEDIES: Mapping[Group, str] = {  # other files with suffixes of images
    **NOT_THE_FILE,
    "program": AS_PNG,
    "document": "convert its pages to PNG",
    "drawing": AS_PNG,
    "xml": "",
}

SOI, EOI, SOS, TEM = 0xD8, 0xD9, 0xDA, 0x01
FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
# Within entropy-coded data 0xFF is followed by 0, a restart (0xD0..0xD7) or a fill byte (0xFF).
MARKER = re.compile(rb"\xff+[^\x00\xd0-\xd7\xff]")
PNM_START = re.compile(rb"P[1-6Ff]\s")
PNM_HEADER = re.compile(rb"P[1-6Ff](?:(?:\s|#[^\r\n]*[\r\n])+\d+){2}\s")

HEIF_LOCK = threading.Lock()

# Pillow warns of odd metadata in images that it reads well, and of large images, which are
# refused here. Unreadable images are reported by the caller.
warnings.filterwarnings("ignore", category=UserWarning, module="PIL")
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
logging.getLogger("PIL").setLevel(logging.CRITICAL)


def _find_formats() -> tuple[str, ...]:
    """Return those of PLUGINS that this Pillow has."""
    for plugin in dict.fromkeys(PLUGINS.values()):
        try:
            importlib.import_module(f"PIL.{plugin}")
        except ImportError:  # an older Pillow without AVIF
            continue
    return tuple(name for name in PLUGINS if name in Image.OPEN)


def _silence_libtiff() -> None:
    """Silence libtiff's messages on stderr, which name no file; Pillow raises errors as well.

    Pillow has no function for this, so the library that it has loaded is called (on Linux).
    """
    with suppress(OSError, AttributeError):
        maps = Path("/proc/self/maps").read_text("utf-8", "replace").splitlines()
        for library in {line.split(maxsplit=5)[-1] for line in maps if "libtiff" in line}:
            ctypes.CDLL(library).TIFFSetErrorHandler(None)


FORMATS = _find_formats()
_silence_libtiff()
CLIENT_FORMATS = tuple(name for name in FORMATS if name not in LOCAL_FORMATS)


def open_image(
    data: bytes | memoryview,
    formats: tuple[str, ...] = FORMATS,
    max_pixels: int | None = MAX_PIXELS,
) -> Image.Image:
    """Open an encoded image of one of `formats`, reading only its header.

    Use it as a context manager, or close it. HEIC is supported if pillow-heif is installed and
    `formats` is the default. Raises UnidentifiedImageError for another format, ValueError if
    decoding would be too expensive (`max_pixels`: None leaves that limit to the caller), and any
    error of Pillow for a damaged header; `decode.reading_image` turns all of them into a DataError.
    """
    start = bytes(data[:64])
    if start.startswith(JPEG_START):
        _check_segments(data)
    elif start.startswith(PNG_START):
        _check_chunks(data)
    elif PNM_START.match(start) and not PNM_HEADER.match(data[:MAX_PNM_HEADER]):
        raise ValueError("its header is damaged, or has too many comments")
    if is_heif(start) and formats is FORMATS and heif_available():
        formats = (*FORMATS, "HEIF")
    try:
        image = Image.open(io.BytesIO(data), formats=formats)
    except UnidentifiedImageError:
        raise UnidentifiedImageError(_describe_unknown(start)) from None
    try:
        _check_work(image, data, max_pixels)
    except BaseException:
        image.close()
        raise
    return image


def is_heif(start: bytes) -> bool:
    """Return whether a file that begins with `start` (64 bytes) is HEIC or another kind of HEIF."""
    if start[4:8] != b"ftyp":
        return False
    brands = {start[8:12], *(start[at : at + 4] for at in range(16, len(start), 4))}
    return b"avif" not in brands and b"avis" not in brands and not brands.isdisjoint(HEIF_BRANDS)


def heif_available() -> bool:
    """Return whether HEIC can be read here: pillow-heif is installed."""
    with HEIF_LOCK:
        return _register_heif()


@cache
def _register_heif() -> bool:
    try:
        import pillow_heif
    except (ImportError, OSError):
        return False
    pillow_heif.register_heif_opener(thumbnails=False)
    return "HEIF" in Image.OPEN


def max_scans(width: int, height: int) -> int:
    """Return how many scans a JPEG of `width` x `height` px may have."""
    return min(MAX_SCANS, MAX_PIXEL_SCANS // max(1, width * height))


def count_scans(data: bytes | memoryview) -> int:
    """Count the scans of a JPEG up to its end marker; a second image after it is ignored."""
    scans, offset = 0, 2
    while found := MARKER.search(data, offset):
        marker, offset = data[found.end() - 1], found.end()
        if marker == EOI:
            break
        scans += marker == SOS
        if marker not in (SOI, TEM):
            offset += int.from_bytes(data[offset : offset + 2], "big")
    return scans


def _check_work(image: Image.Image, data: bytes | memoryview, max_pixels: int | None) -> None:
    pixels = image.width * image.height
    if max_pixels is not None and pixels > max_pixels:
        raise ValueError(f"Image size ({pixels} pixels) exceeds limit of {max_pixels} pixels")
    if bytes(data[:2]) == JPEG_START:
        scans = count_scans(data)
    elif bytes(data[:4]) in TIFF_STARTS and "jpeg" in str(image.info.get("compression")):
        # Strips and tiles are separate JPEGs; the one with the most scans counts for all.
        scans = max(part.count(b"\xff\xda") for part in bytes(data).split(b"\xff\xd8"))
    else:
        return
    if scans > max_scans(*image.size):
        raise ValueError(
            f"a JPEG of {scans:,} scans and {pixels:,} pixels: decoding it would exceed the limit"
            f" of {MAX_SCANS} scans or {MAX_PIXEL_SCANS:,} pixels times scans; save it as a"
            " baseline JPEG"
        )


def _check_segments(data: bytes | memoryview) -> None:
    """Raise ValueError if a JPEG has too many segments before its frame to read them in Python."""
    offset, fill, exif = 2, 0, 0
    for _ in range(MAX_SEGMENTS):
        found = MARKER.search(data, offset)
        if found is None or data[found.end() - 1] in FRAMES or data[found.end() - 1] == SOS:
            return
        fill += found.end() - offset - 2
        exif += bytes(data[found.end() + 2 : found.end() + 6]) == b"Exif"
        if fill > MAX_FILL or exif > MAX_EXIF_SEGMENTS:
            break
        offset = found.end() + int.from_bytes(data[found.end() : found.end() + 2], "big")
    raise ValueError("a JPEG with too many segments before its frame; save it again")


def _check_chunks(data: bytes | memoryview) -> None:
    """Raise ValueError if a PNG has too many chunks to read them in Python."""
    offset = len(PNG_START)
    for _ in range(MAX_CHUNKS):
        if offset + 8 > len(data):
            return
        offset += 12 + int.from_bytes(data[offset : offset + 4], "big")
    raise ValueError(f"a PNG of more than {MAX_CHUNKS:,} chunks; save it again")


def _describe_unknown(start: bytes) -> str:
    """Return why a file that begins with `start` is not opened."""
    if is_heif(start):
        return HEIF_REMEDY
    if kind := describe_kind(start, REMEDIES):
        return kind
    if start.startswith(TIFF_STARTS):
        return "a TIFF that is damaged, or not of 1, 3 or 4 bands of 1, 8 or 16 bits"
    starts = (JPEG_START, PNG_START, b"GIF8", b"BM", b"RIFF")
    return "its header is damaged" if start.startswith(starts) else "not a known image format"


# Pillow uses four bytes per pixel, and as many for a copy: at most half a gigabyte.
DECODED_PIXELS = 1 << 26


class PixelBudget:
    """Limits the pixels that threads decode at the same time; a single image may have any size."""

    def __init__(self, limit: int = DECODED_PIXELS) -> None:
        self.limit = limit
        self._used = 0
        self._changed = threading.Condition()

    @contextmanager
    def reserve(self, pixels: int) -> Iterator[None]:
        """Reserve `pixels` when enough are free, or no other thread has reserved any."""
        with self._changed:
            while self._used and self._used + pixels > self.limit:
                self._changed.wait()
            self._used += pixels
        try:
            yield
        finally:
            with self._changed:
                self._used -= pixels
                self._changed.notify_all()


BUDGET = PixelBudget()
