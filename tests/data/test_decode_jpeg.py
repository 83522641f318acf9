"""JPEGs decoded in part, against Pillow's whole decode and resize of the same box."""

import ctypes
import io
import tarfile
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torchvision
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps

from resnets.data.decode import jpeg
from resnets.data.decode.decode import RESAMPLE, Crop, decode, decode_whole
from resnets.data.decode.open_image import MAX_PIXELS
from resnets.data.errors import DataError
from resnets.ops import compiler

Box = tuple[float, float, float, float]
in_part = pytest.mark.skipif(not jpeg.available(), reason="no compiler or libjpeg here")

KINDS = {
    "4:4:4": {"subsampling": 0, "quality": 95},
    "4:2:2": {"subsampling": 1},
    "4:2:0": {"subsampling": 2},
    "progressive": {"progressive": True, "subsampling": 2},
    "restarts": {"restart_marker_blocks": 3},
    "optimised": {"optimize": True, "quality": 30},
}


@pytest.fixture(scope="module")
def photo() -> Image.Image:
    """A 205 x 147 image with smooth and sharp parts, of no whole number of blocks."""
    rows, columns = np.mgrid[0:147, 0:205]
    planes = (rows + columns) % 256, (rows * columns // 40) % 256, 255 * (columns // 25 % 2)
    return Image.fromarray(np.stack(planes, -1).astype(np.uint8))


def encoded(image: Image.Image, **options: object) -> bytes:
    image.save(data := io.BytesIO(), "JPEG", **options)
    return data.getvalue()


def view_of(box: Box, size: int = 40, channels: int = 3, filter: str = "bilinear") -> Crop:
    return Crop(size, channels, lambda *_: box, filter)


def by_pillow(data: bytes, view: Crop) -> NDArray[np.uint8]:
    """The reference: all of the image decoded, turned upright, and resized by Pillow."""
    whole = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    mode = "L" if view.channels == 1 else "RGB"
    box = view.box(*whole.size)
    whole = whole.convert("RGB") if whole.mode != "L" else whole
    small = whole.resize((view.size, view.size), RESAMPLE[view.interpolation], box)
    return np.asarray(small.convert(mode)).reshape(view.size, view.size, -1)


def difference(data: bytes, view: Crop) -> NDArray[np.int64]:
    return np.abs(decode(data, view, "image").astype(int) - by_pillow(data, view))


def random_boxes(width: int, height: int, count: int) -> list[Box]:
    rng = np.random.default_rng(width * height)
    sides = rng.uniform(0.05, 1, (count, 2)) * (width, height)
    places = rng.random((count, 2)) * ((width, height) - sides)
    return [(*place, *(place + side)) for place, side in zip(places, sides, strict=True)]


@in_part
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_any_part_is_as_in_a_whole_decode(photo, kind: str, mode: str) -> None:
    data = encoded(photo.convert(mode), **KINDS[kind])
    assert jpeg.read_header(data) is not None
    for number, box in enumerate(random_boxes(*photo.size, 40)):
        filter, size = ("bilinear", "bicubic")[number % 2], (40, 64, 224)[number % 3]
        view = view_of(box, size, filter=filter)
        found = difference(data, view)
        assert found.max() <= 2, (box, filter, size)
        assert found.mean() < 0.15, (box, filter, size)


@in_part
def test_gray_views_of_color_are_the_stored_brightness(photo) -> None:
    for options in KINDS.values():
        for box in random_boxes(*photo.size, 5):
            found = difference(encoded(photo, **options), view_of(box, channels=1))
            assert found.mean() < 1.5  # Pillow cuts colours off at 0 and 255 first


@in_part
def test_photographs(shared_data: Path) -> None:
    """Real images: bilinear and bicubic within 2 of 255, 0.1 on average."""
    means = []
    with tarfile.open(shared_data / "imagenette160.tar") as tar:
        members = [each for each in islice(tar, 300) if each.name.endswith(".JPEG")]
        for member in members[::20]:
            data = tar.extractfile(member).read()
            header = jpeg.read_header(data)
            for box in random_boxes(header.width, header.height, 4):
                for filter in RESAMPLE:
                    found = difference(data, view_of(box, 96, filter=filter))
                    assert found.max() <= 2, (member.name, box, filter)
                    means.append(found.mean())
    assert len(means) >= 100
    assert np.mean(means) < 0.1


@pytest.mark.parametrize("orientation", range(1, 9))
def test_turned_images(photo, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(photo, exif=exif, quality=95)
    sides = photo.size if orientation < 5 else photo.size[::-1]
    for box in random_boxes(*sides, 8):
        found = difference(data, view_of(box))
        assert found.max() <= 2
        assert found.mean() < 0.2


@pytest.mark.parametrize("shape", [(1, 1), (2, 3), (8, 8), (16, 1), (1, 300), (33, 17)])
def test_tiny_images(shape: tuple[int, int]) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    for options in KINDS.values():
        data = encoded(Image.fromarray(pixels), **options)
        view = Crop(24, 3, lambda width, height: (0, 0, width, height))
        assert difference(data, view).max() <= 2


def test_cmyk_is_left_to_pillow(photo) -> None:
    data = encoded(photo.convert("CMYK"))
    assert jpeg.read_header(data) is None
    assert difference(data, view_of((5, 5, 90, 90))).max() <= 2


@pytest.mark.parametrize("kind", KINDS)
def test_a_missing_end_is_noticed_wherever_the_view_is(photo, kind: str) -> None:
    """Also where the view needs none of what is missing."""
    data = encoded(photo, **KINDS[kind])
    views = view_of((0, 0, 30, 8)), view_of((0, 0, *photo.size)), view_of((100, 139, 205, 147))
    for length in (0, 1, 2, 20, 300, len(data) // 2, len(data) - 40, len(data) - 3):
        for view in views:
            with pytest.raises(DataError, match="cut.jpg"):
                decode(data[:length], view, "cut.jpg")


def test_bytes_after_the_image_do_not_matter(photo) -> None:
    for options in KINDS.values():
        data = encoded(photo, **options)
        for tail in (b"\0" * 50, b"trailer of a camera", data):
            for box in ((0, 0, 30, 8), (100, 139, 205, 147)):
                wanted = decode(data, view_of(box), "a")
                np.testing.assert_array_equal(decode(data + tail, view_of(box), "b"), wanted)


def test_damage_is_an_error_or_what_pillow_makes_of_it(photo) -> None:
    """Bits flipped anywhere: nothing crashes, and where libjpeg warns Pillow's word counts."""
    rng = np.random.default_rng(1)
    errors = 0
    images = [encoded(photo.resize((96, 80)), **options) for options in KINDS.values()]
    view = view_of((20, 10, 70, 60))
    for number in range(600):
        data = bytearray(images[number % len(images)])
        frame = max(data.find(b"\xff\xc0"), data.find(b"\xff\xc2"))
        for place in rng.integers(2, len(data), 3):
            if not frame <= place < frame + 9:  # other sizes would take their time
                data[place] ^= 1 << rng.integers(8)
        try:
            shape = decode(bytes(data), view, "flipped.jpg").shape
        except DataError as error:
            shape, errors = None, errors + ("flipped.jpg" in str(error))
        assert shape in ((40, 40, 3), None)
    assert 20 < errors < 580


@in_part
def test_damage_that_libjpeg_warns_of_gives_pillows_pixels(photo) -> None:
    data = bytearray(encoded(photo))
    middle = len(data) // 2
    del data[middle : middle + 200]  # the end is there, what comes before it is short
    view = view_of((0, 0, *photo.size))
    assert jpeg.read_header(bytes(data)) is not None
    np.testing.assert_array_equal(decode(bytes(data), view, "a"), Pillows(view)(bytes(data)))


class Pillows:
    """`decode` without the partial decoder."""

    def __init__(self, view: Crop) -> None:
        self.view = view

    def __call__(self, data: bytes) -> NDArray[np.uint8]:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(jpeg, "read_header", lambda data: None)
            return decode(data, self.view, "image")


def test_both_decoders_agree(photo) -> None:
    """Machines with and without a compiler see nearly the same images."""
    for options in KINDS.values():
        data = encoded(photo, **options)
        for box in random_boxes(*photo.size, 6):
            ours = decode(data, view_of(box), "image").astype(int)
            assert np.abs(ours - Pillows(view_of(box))(data)).max() <= 2


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("sides", [(60_000, 60_000), (12_000, 9_000)])
def test_absurd_sizes_are_refused_at_the_header(photo, sides: tuple[int, int]) -> None:
    data = bytearray(encoded(photo))
    assert sides[0] * sides[1] > MAX_PIXELS
    start = data.index(b"\xff\xc0") + 5  # height and width in the frame header
    data[start : start + 4] = sides[1].to_bytes(2, "big") + sides[0].to_bytes(2, "big")
    for read in (decode_whole, lambda data, name: decode(data, view_of((0, 0, 9, 9)), name)):
        with pytest.raises(DataError, match=r"bomb\.jpg"):
            read(bytes(data), "bomb.jpg")


@in_part
def test_threads_do_not_disturb_each_other(photo) -> None:
    data = [encoded(photo, **options) for options in KINDS.values()]
    broken = [each[: len(each) // 2] for each in data]
    boxes = random_boxes(*photo.size, 20)

    def work(number: int) -> NDArray[np.uint8] | None:
        source = (data, broken)[number % 3 == 2][number % len(data)]
        try:
            return decode(source, view_of(boxes[number % len(boxes)], 64), "image")
        except DataError:
            return None

    numbers = range(600)
    alone = [work(number) for number in numbers]
    with ThreadPoolExecutor(8) as pool:
        for one, other in zip(alone, pool.map(work, numbers), strict=True):
            np.testing.assert_array_equal(one, other)


@in_part
def test_a_libjpeg_of_another_layout_is_refused(photo) -> None:
    """torchvision brings one with version 8's interface; asking it must not break ours."""
    folder = Path(torchvision.__file__).parent.parent / "torchvision.libs"
    others = list(folder.glob("libjpeg.*.so.8"))
    if not others:
        pytest.skip("torchvision brings no libjpeg 8 here")
    before = decode(encoded(photo), view_of((0, 0, 50, 50)), "a")
    functions = jpeg.find_functions(ctypes.CDLL(str(others[0])))
    assert compiler.load_library("jpeg").jpeg_bind(functions) == 0
    np.testing.assert_array_equal(decode(encoded(photo), view_of((0, 0, 50, 50)), "a"), before)


@in_part
def test_only_what_is_seen_is_decoded(photo, monkeypatch: pytest.MonkeyPatch) -> None:
    """Damage below the view is neither seen nor paid for."""
    large = photo.resize((1600, 1200))
    data = bytearray(encoded(large, quality=90))
    last = len(data) * 9 // 10
    data[last : last + 64] = bytes(64)
    box = (0, 0, 1600, 300)
    found = difference(encoded(large, quality=90), view_of(box, 96))
    assert found.max() <= 2
    wanted = decode(encoded(large, quality=90), view_of(box, 96), "whole")
    np.testing.assert_array_equal(decode(bytes(data), view_of(box, 96), "damaged below"), wanted)


@in_part
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_whole_images_equal_those_of_pillow(photo: Image.Image, kind: str, mode: str) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    data = encoded(photo.convert(mode), exif=exif, **KINDS[kind])
    expected = ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB")
    assert np.array_equal(decode_whole(data, "image"), np.asarray(expected))


@in_part
@pytest.mark.parametrize(("form", "copies"), [("JPEG", 0), ("BMP", 1)])  # Pillow reads a copy
def test_bytes_of_a_memory_map_are_not_copied(photo: Image.Image, form: str, copies: int) -> None:
    """A pack returns views of its memory map; here of an image with 8 MiB after its end."""
    stream = io.BytesIO()
    photo.resize((32, 32)).save(stream, form)
    plain = stream.getvalue()
    data = plain + bytes(8 << 20)
    tracemalloc.start()
    try:
        pixels = decode_whole(memoryview(data), "image")
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert np.array_equal(pixels, decode_whole(plain, "image"))
    assert peak < (copies + 0.5) * len(data)
