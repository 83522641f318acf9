"""Only known formats are opened, no program is started, and the work is bounded beforehand."""

import io
import re
import struct
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
from image_bombs import BOMBS, segment
from PIL import Image, UnidentifiedImageError

import resnets
from resnets.data.decode import jpeg, open_image
from resnets.data.decode.decode import Crop, center_box, decode, decode_whole
from resnets.data.decode.open_image import CLIENT_FORMATS, count_scans, heif_available
from resnets.data.errors import DataError
from resnets.data.file_kinds import KINDS

VIEW = Crop(16, 3, center_box(16, 16))


def encoded(image: Image.Image, format: str, **options: object) -> bytes:
    image.save(data := io.BytesIO(), format, **options)
    return data.getvalue()


@pytest.fixture(scope="module")
def photo() -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 255, (48, 40, 3), dtype=np.uint8)
    return Image.fromarray(pixels).resize((96, 80))


@pytest.mark.parametrize("kind", BOMBS)
def test_work_is_bounded_before_decoding(kind: str) -> None:
    data = BOMBS[kind]()
    start = time.perf_counter()
    for read in (decode_whole, lambda data, name: decode(data, VIEW, name)):
        if kind in ("segments", "EXIF segments", "fill bytes") and jpeg.available():
            assert read(data, "x.jpg").shape[2] == 3  # the C decoder skips them in no time
            continue
        with pytest.raises(DataError, match=r"x\.jpg"):
            read(data, "x.jpg")
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
def test_an_image_that_is_a_program_is_not_executed(data: bytes, monkeypatch) -> None:
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


@pytest.mark.parametrize("group", ["program", "document", "drawing", "pointer", "page", "xml"])
def test_other_files_named_like_images_are_named_by_kind(group: str) -> None:
    for start, name, found in KINDS:
        if found == group:
            with pytest.raises(UnidentifiedImageError, match=re.escape(name)):
                open_image.open_image(start + b" \n" + bytes(99))
