"""The resize kernel against Pillow's resize of the same box."""

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from resnets.data.decode.decode import RESAMPLE, Crop, render, render_pixels
from resnets.ops import resize
from resnets.ops.resize import resize_box

Boxed = Callable[[int, int], tuple[float, float, float, float]]

WHOLE = (0, 0, 200, 150)
BOXES = (
    WHOLE,
    (3, 5, 67, 149),
    (10.25, 20.5, 190.75, 77.125),
    (199, 0, 200, 150),
    (90, 70, 97, 77),
)


@pytest.fixture(scope="module")
def images() -> list[NDArray[np.uint8]]:
    """Noise, hard edges and a smooth image, each 150 x 200 in colour and in grey."""
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (150, 200, 3))
    edges = 255 * (rng.random((15, 20, 3)).repeat(10, 0).repeat(10, 1) > 0.5)
    rows, columns = np.mgrid[0:150, 0:200]
    smooth = np.stack([rows + columns, columns, 255 - rows], -1) % 256
    color = [each.astype(np.uint8) for each in (noise, edges, smooth)]
    return [*color, *(np.ascontiguousarray(each[:, :, :1]) for each in color)]


def by_pillow(pixels: NDArray[np.uint8], box: tuple, size: int, filter: str) -> NDArray[np.uint8]:
    image = Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels)
    small = image.resize((size, size), RESAMPLE[filter], box)
    return np.asarray(small).reshape(size, size, -1)


@pytest.mark.skipif(resize.kernel() is None, reason="no compiler here")
@pytest.mark.parametrize("filter", ["bilinear", "bicubic"])
@pytest.mark.parametrize("size", [9, 16, 32, 224])
def test_kernel_agrees_with_pillow(images, size: int, filter: str) -> None:
    differences = []
    for pixels in images:
        for box in BOXES:
            ours = resize_box(pixels, box, size, filter)
            if ours is None:  # what is left to Pillow; see the test below
                continue
            wanted = by_pillow(pixels, box, size, filter)
            assert ours.shape == wanted.shape
            differences.append(np.abs(ours.astype(int) - wanted))
            assert differences[-1].max() <= 2
    assert np.mean([each.mean() for each in differences]) < 0.1
    assert len(differences) >= 6


@pytest.mark.parametrize("planes", [1, 3])
def test_a_flat_image_stays_flat(planes: int) -> None:
    """No bias, whatever the level and the number of pixels that make one."""
    for level in (0, 1, 127, 128, 254, 255):
        pixels = np.full((90, 120, planes), level, np.uint8)
        for box in ((0, 0, 120, 90), (7.5, 3.25, 61, 89)):
            for filter in ("bilinear", "bicubic"):
                for size in (9, 50, 224):
                    out = render_pixels(pixels, Crop(size, planes, lambda *_, box=box: box, filter))
                    assert (out == level).all(), (level, box, filter, size)


def test_rows_of_a_larger_array_are_enough(images) -> None:
    large = images[0]
    part = large[20:120, 30:130]  # rows lie apart
    ours = resize_box(part, (0, 0, 100, 100), 40)
    alone = resize_box(part.copy(), (0, 0, 100, 100), 40)
    np.testing.assert_array_equal(ours, alone)


@pytest.mark.parametrize("box", [WHOLE, (0.5, 0.5, 199.5, 149.5), (40, 40, 41, 41), (0, 0, 3, 2)])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [1, 2, 30])
def test_arrays_and_images_give_the_same(images, box, channels: int, size: int) -> None:
    """Whatever the kernel leaves to Pillow: far smaller, narrow, other planes."""
    view = Crop(size, channels, lambda *_: box)
    for pixels in (images[0], images[3]):
        image = Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels)
        wanted = by_pillow(pixels, box, size, "bilinear")
        if channels == 1 and pixels.shape[2] == 3:
            wanted = np.asarray(Image.fromarray(wanted).convert("L"))[..., None]
        for ours in (render_pixels(pixels, view), render(image, view)):
            assert ours.shape == (size, size, channels)
            assert np.abs(ours.astype(int) - wanted).max() <= 2


def test_without_a_compiler(images, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resize, "kernel", lambda: None)
    for pixels in images:
        for box in BOXES:
            view = Crop(32, pixels.shape[2], lambda *_, box=box: box)
            out = render_pixels(pixels, view)
            assert out.shape == (32, 32, pixels.shape[2])
            if box == WHOLE:  # others may be cut out first, as torchvision does
                wanted = by_pillow(pixels, box, 32, "bilinear")
                assert np.abs(out.astype(int) - wanted).max() <= 2
