"""Only known formats are opened, no program is started, and the work is bounded beforehand."""

import io
import re
import struct
import subprocess
import time
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import resnets
from resnets.data import jpeg, open_image
from resnets.data.decode import View, centre_box, decode, decode_whole
from resnets.data.errors import DataError
from resnets.data.open_image import CLIENT_FORMATS, count_scans, heif_available

VIEW = View(16, 3, centre_box(16, 16))


def encoded(image: Image.Image, format: str, **options: object) -> bytes:
    image.save(data := io.BytesIO(), format, **options)
    return data.getvalue()


@pytest.fixture(scope="module")
def photo() -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 255, (48, 40, 3), dtype=np.uint8)
    return Image.fromarray(pixels).resize((96, 80))


def segment(marker: int, body: bytes) -> bytes:
    return bytes([0xFF, marker]) + struct.pack(">H", len(body) + 2) + body


def scan_bomb(side: int, scans: int) -> bytes:
    """A grey progressive JPEG of a few bytes a scan, each of which visits all blocks."""
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


BOMBS = {
    "many scans, large": scan_bomb(7000, 200),
    "many scans, small": scan_bomb(500, 20_000),
    "scans in a TIFF": tiff_of_jpeg(scan_bomb(500, 20_000), 500, 500),
    "segments": b"\xff\xd8" + segment(0xE0, b"") * 2_000_000 + scan_bomb(16, 1)[2:],
    "EXIF segments": b"\xff\xd8"
    + segment(0xE1, b"Exif\0\0" + bytes(60_000)) * 1000
    + scan_bomb(16, 1)[2:],
    "fill bytes": b"\xff\xd8" + b"\xff" * 20_000_000 + scan_bomb(16, 1)[2:],
    "chunks": b"\x89PNG\r\n\x1a\n"
    + chunk(b"IHDR", struct.pack(">IIBBBBB", 8, 8, 8, 0, 0, 0, 0))
    + chunk(b"tEXt", b"a\0b") * 1_000_000,
    "comments": b"P6 " + b"#" * 20_000_000 + b"\n1 1 255\n\0\0\0",
}


@pytest.mark.parametrize("kind", BOMBS)
def test_work_is_bounded_before_decoding(kind: str) -> None:
    start = time.perf_counter()
    for read in (decode_whole, lambda data, name: decode(data, VIEW, name)):
        if kind in ("segments", "EXIF segments", "fill bytes") and read is not decode_whole:
            continue  # the C decoder skips them in no time
        with pytest.raises(DataError, match=r"x\.jpg"):
            read(BOMBS[kind], "x.jpg")
    assert time.perf_counter() - start < 5  # each took from ten seconds to minutes


@pytest.mark.skipif(not jpeg.available(), reason="no compiler or libjpeg here")
def test_the_native_decoder_counts_scans_too(photo) -> None:
    data = encoded(photo, "JPEG", progressive=True)
    header, scans = jpeg.read_header(data), count_scans(data)
    assert header is not None
    assert scans > 5

    def seen(max_scans: int) -> bool:
        box, shape = (0, 0, 96, 80), (16, 16, 3)
        found = jpeg.decode_box(data, header, box, 1, shape, "bilinear", max_scans=max_scans)
        return found is not None

    assert seen(scans)
    assert not seen(scans - 1)


def test_scans_are_those_of_the_first_image(photo) -> None:
    small = encoded(photo.resize((16, 16)), "JPEG", progressive=True)
    data = encoded(photo, "JPEG")
    thumbnail = data[:2] + segment(0xE1, b"Exif\0\0" + small) + data[2:]
    assert count_scans(data) == count_scans(thumbnail) == count_scans(data + small) == 1


EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 64 64\n%%EndComments\nshowpage\n%%EOF\n"


@pytest.mark.parametrize(
    "data",
    [EPS, b"\xc5\xd0\xd3\xc6" + struct.pack("<6I", 30, len(EPS), 0, 0, 0, 0) + b"\xff\xff" + EPS],
    ids=["text", "with a preview"],
)
def test_an_image_that_is_a_program_starts_nothing(data: bytes, monkeypatch) -> None:
    Image.init()  # whoever else in the process uses Pillow may have registered all formats

    def started(*_: object, **__: object) -> None:
        raise AssertionError("a program was started")

    for name in ("Popen", "run", "call", "check_call", "check_output"):
        monkeypatch.setattr(subprocess, name, started)
    with pytest.raises(DataError, match="EPS"):
        decode_whole(data, "x.jpg")
    with pytest.raises(DataError, match="EPS"):
        decode(data, VIEW, "x.jpg")


def test_nothing_else_in_the_package_opens_images() -> None:
    root = Path(resnets.__file__).parent
    opens = re.compile(r"\bImage\.open\(|\bimread\(|\bread_image\(|\bdecode_image\(")
    found = [
        path.name for path in root.rglob("*.py") if opens.search(path.read_text(encoding="utf-8"))
    ]
    assert found == ["open_image.py"]


def test_clients_are_offered_fewer_formats(photo) -> None:
    data = encoded(photo, "JPEG2000")
    with open_image.open_image(data) as image:
        assert image.size == photo.size
    with pytest.raises(Image.UnidentifiedImageError):
        open_image.open_image(data, CLIENT_FORMATS)


def test_usual_formats_are_read(photo) -> None:
    for name in CLIENT_FORMATS:
        if name in ("MPO", "DIB"):
            continue
        assert decode_whole(encoded(photo, name), "x").shape == (80, 96, 3), name


@pytest.mark.skipif(not heif_available(), reason="pillow-heif is not installed")
def test_heic_is_read_as_its_own_transforms_say(photo, monkeypatch) -> None:
    smooth, exif = photo.resize((4, 4)).resize((96, 80)), Image.Exif()
    exif[0x112] = 6
    data = encoded(smooth, "HEIF", quality=95, exif=exif)
    seen = decode_whole(data, "IMG_1.HEIC")
    # libheif has applied `irot` and `imir` already; EXIF in HEIC is informative only.
    assert seen.shape == (80, 96, 3)
    assert np.abs(seen - np.asarray(smooth).astype(int)).mean() < 5
    assert decode(data, VIEW, "IMG_1.HEIC").shape == (16, 16, 3)
    monkeypatch.setattr(open_image, "heif_available", lambda: False)
    with pytest.raises(DataError, match="pillow-heif"):
        decode_whole(data, "IMG_1.HEIC")
