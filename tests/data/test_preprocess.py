"""From images of every kind to the net's input."""

import io
import json
import tarfile
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from torch.testing import assert_close
from torchvision.transforms import functional as reference

from resnets.config import AugmentSpec, ConfigError, DataSpec, Preprocess
from resnets.data import (
    DataError,
    FileSplit,
    Preprocessor,
    TensorSplit,
    fit_preprocess,
    open_data,
    prepare,
)
from resnets.data.decode.decode import Crop, decode

STORED = Preprocess(size=48, resize=56)


@pytest.fixture(scope="module")
def photo() -> Image.Image:
    """A 200x150 image with smooth and sharp parts."""
    rows, columns = np.mgrid[0:150, 0:200]
    planes = (rows + columns) % 256, (rows * columns // 40) % 256, 255 * (columns // 25 % 2)
    return Image.fromarray(np.stack(planes, -1).astype(np.uint8))


def test_image_is_resize_and_center_crop(photo: Image.Image) -> None:
    for spec in (STORED, replace(STORED, interpolation="bicubic", size=49)):
        mode = reference.InterpolationMode(spec.interpolation)
        for image in (photo, photo.rotate(90, expand=True), photo.resize((20, 31))):
            wanted = reference.pil_to_tensor(
                reference.center_crop(reference.resize(image, spec.resize, mode), spec.size)
            )
            ours = Preprocessor(spec).to_tensor(image)
            assert ours.dtype == torch.uint8
            difference = (ours.int() - wanted.int()).abs().float()
            assert difference.max() <= 2  # the stated tolerance of ops/resize.py
            assert difference.mean() < 0.1


def test_path_image_and_array_agree(photo: Image.Image, tmp_path: Path) -> None:
    photo.save(path := tmp_path / "a.png")
    preprocessor = Preprocessor(STORED)
    one = preprocessor(path)
    assert one.shape == (3, 48, 48)
    assert one.dtype == torch.float32
    batch = preprocessor([str(path), photo, np.asarray(photo)])
    assert batch.shape == (3, 3, 48, 48)
    for each in batch:
        assert_close(each, one, rtol=0, atol=0)
    pixels = preprocessor.to_tensor(path).float() / 255
    mean, std = (torch.tensor(each)[:, None, None] for each in (STORED.mean, STORED.std))
    assert_close(one, (pixels - mean) / std, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_honored(photo: Image.Image, tmp_path: Path, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    photo.save(path := tmp_path / "turned.jpg", exif=exif, quality=95)
    with Image.open(path) as stored:
        upright = ImageOps.exif_transpose(stored)
    preprocessor = Preprocessor(STORED)
    turned = 1 if orientation >= 5 else 0  # of an image on its side columns are summed before rows
    assert_close(preprocessor.to_tensor(path), preprocessor.to_tensor(upright), rtol=0, atol=turned)
    assert upright.size == (photo.size if orientation < 5 else photo.size[::-1])
    photo.save(tagged := tmp_path / "turned.tif", exif=exif)
    photo.save(plain := tmp_path / "turned.png", exif=exif)
    assert_close(preprocessor.to_tensor(tagged), preprocessor.to_tensor(plain), rtol=0, atol=0)


def test_damaged_exif_does_not_condemn_an_image(photo: Image.Image, tmp_path: Path) -> None:
    preprocessor = Preprocessor(STORED)
    for suffix in ("jpg", "png"):
        photo.save(path := tmp_path / f"odd.{suffix}", exif=b"Exif\x00\x00XX garbage")
        photo.save(clean := tmp_path / f"clean.{suffix}")
        assert_close(preprocessor.to_tensor(path), preprocessor.to_tensor(clean), rtol=0, atol=0)


def test_unusual_modes_become_8_bit_rgb_or_gray(photo: Image.Image, tmp_path: Path) -> None:
    gray = photo.convert("L")
    deep = Image.fromarray(np.asarray(gray).astype(np.uint16) * 257)
    clear = photo.convert("RGBA")
    clear.putalpha(0)
    opaque = photo.convert("RGBA")
    white = Image.new("RGB", photo.size, "white")
    cases = {
        "deep.png": (deep, gray, 0),
        "deep.tif": (deep, gray, 0),
        "grey.png": (gray, gray, 0),
        "bits.png": (gray.convert("1"), gray.convert("1").convert("L"), 0),
        "clear.png": (clear, white, 0),
        "opaque.png": (opaque, photo, 0),
        "grey-alpha.png": (gray.convert("LA"), gray, 0),
        "palette.png": (photo.quantize(32), photo.quantize(32).convert("RGB"), 0),
        "palette.gif": (photo.quantize(32), photo.quantize(32).convert("RGB"), 0),
        "print.jpg": (photo.convert("CMYK"), photo, 40),
    }
    for channels in (1, 3):
        spec = replace(STORED, channels=channels, mean=(0.5,) * channels, std=(0.5,) * channels)
        preprocessor = Preprocessor(spec)
        for name, (stored, wanted, tolerance) in cases.items():
            stored.save(tmp_path / name)
            ours = preprocessor.to_tensor(tmp_path / name)
            assert ours.shape == (channels, 48, 48), name
            difference = (ours.int() - preprocessor.to_tensor(wanted).int()).abs()
            assert difference.float().mean() <= tolerance / 4, name
            assert difference.max() <= tolerance, name


def test_reduced_jpeg_decoding_keeps_quality(shared_data: Path) -> None:
    """Photographs of 640 px read at 1/2 or 1/4 in the DCT domain, against a full decode."""
    preprocessor = Preprocessor(replace(STORED, size=56))
    means = []
    with tarfile.open(shared_data / "coco-tiny.tar") as tar:
        for member in [each for each in tar if each.name.endswith(".jpg")][:30]:
            data = tar.extractfile(member).read()
            reduced = decode(data, preprocessor.view, member.name)
            full = preprocessor.to_tensor(Image.open(io.BytesIO(data)))  # copied, so decoded whole
            means.append(np.abs(reduced.astype(int) - full.permute(1, 2, 0).numpy()).mean())
    assert 0 < np.mean(means) < 1.0
    assert max(means) < 2.0


def test_reduced_decoding_keeps_the_place(tmp_path: Path) -> None:
    """An image whose values are its coordinates, turned, seen through boxes off the centre."""
    ramp = np.linspace(0, 255, 1600)
    pixels = np.stack(np.broadcast_arrays(ramp[:1200, None], ramp[None], 128), -1)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(pixels.astype(np.uint8)).save(path := tmp_path / "ramp.jpg", exif=exif)
    with Image.open(path) as stored:
        upright = np.asarray(ImageOps.exif_transpose(stored))
    for box in ((0, 0, 800, 800), (300, 640, 1100, 1440), (0, 0, 1200, 1600)):
        ours = decode(path.read_bytes(), Crop(40, 3, lambda *_, box=box: box), "ramp")
        wanted = Image.fromarray(upright).resize((40, 40), Image.Resampling.BILINEAR, box)
        assert np.abs(ours.astype(int) - np.asarray(wanted)).max() <= 2


@pytest.mark.parametrize("damage", ["cut", "empty", "text", "middle"])
def test_damaged_images_are_named(photo: Image.Image, tmp_path: Path, damage: str) -> None:
    for suffix in ("jpg", "png"):
        photo.save(path := tmp_path / f"bad.{suffix}")
        data = path.read_bytes()
        half = len(data) // 2
        broken = {
            "cut": data[:half],
            "empty": b"",
            "text": b"<html>404</html>",
            "middle": data[:10],
        }
        path.write_bytes(broken[damage])
        with pytest.raises(DataError, match=rf"bad\.{suffix}: cannot be read .*; repair or remove"):
            Preprocessor(STORED).to_tensor(path)


def test_missing_files_and_odd_arrays_are_refused(tmp_path: Path) -> None:
    preprocessor = Preprocessor(STORED)
    with pytest.raises(DataError, match=r"no\.png"):
        preprocessor.to_tensor(tmp_path / "no.png")
    for odd in (np.full((5, 5), 7.0), np.zeros((5, 5, 2), np.uint8), np.zeros(5, np.uint8)):
        with pytest.raises(DataError, match="floats from 0 to 1|an image is"):
            preprocessor.to_tensor(odd)
    Image.fromarray(np.zeros((9, 9), np.float32)).save(path := tmp_path / "f.tif")
    with pytest.raises(DataError, match="floating-point"):
        preprocessor.to_tensor(path)


def test_bgr_order_swaps_planes_before_the_mean(photo: Image.Image) -> None:
    mean, std = (0.1, 0.2, 0.3), (0.4, 0.5, 0.6)
    rgb = Preprocessor(replace(STORED, mean=mean, std=std))(photo)
    bgr = Preprocessor(replace(STORED, mean=mean[::-1], std=std[::-1], channel_order="bgr"))(photo)
    assert_close(bgr, rgb.flip(0), rtol=0, atol=0)


def split_of(images: np.ndarray) -> TensorSplit:
    labels = torch.arange(len(images)) % 2
    return TensorSplit(torch.from_numpy(images), labels, ("a", "b"), "test set")


@pytest.mark.parametrize("channels", [1, 3])
def test_channel_statistics_are_exact(channels: int) -> None:
    images = np.random.default_rng(1).integers(0, 90, (1234, 6, 6, channels), np.uint8)
    fitted = fit_preprocess(split_of(images), DataSpec(), channels)
    assert (fitted.spec.size, fitted.spec.resize, fitted.spec.channels) == (6, 6, channels)
    assert fitted.spec.mean == pytest.approx((images / 255).mean((0, 1, 2)), rel=1e-9)
    assert fitted.spec.std == pytest.approx((images / 255).std((0, 1, 2)), rel=1e-9)
    assert json.loads(json.dumps(asdict(fitted.spec)))["mean"] == list(fitted.spec.mean)
    inputs = fitted.normalize(torch.from_numpy(images).permute(0, 3, 1, 2))
    assert_close(inputs.mean((0, 2, 3)), torch.zeros(channels), rtol=0, atol=1e-5)
    assert_close(inputs.std((0, 2, 3)), torch.ones(channels), rtol=1e-4, atol=0)


def test_per_pixel_mean_is_the_mean_image() -> None:
    images = np.random.default_rng(2).integers(0, 256, (700, 5, 5, 3), np.uint8)
    fitted = fit_preprocess(split_of(images), DataSpec(normalize="per-pixel-mean"), 3)
    wanted = torch.from_numpy((images / 255).mean(0)).permute(2, 0, 1).float()
    assert fitted.spec.mean_image
    assert_close(fitted.mean_image, wanted, rtol=1e-6, atol=1e-7)
    assert fitted.spec.std == (1.0, 1.0, 1.0)
    inputs = fitted.normalize(torch.from_numpy(images).permute(0, 3, 1, 2))
    assert_close(inputs.mean(0), torch.zeros(3, 5, 5), rtol=0, atol=1e-5)


def test_constant_images_do_not_divide_by_zero() -> None:
    fitted = fit_preprocess(split_of(np.full((4, 3, 3, 1), 7, np.uint8)), DataSpec(), 1)
    assert torch.isfinite(fitted(np.full((3, 3), 7, np.uint8))).all()


def test_gray_set_feeds_an_rgb_net_and_the_reverse() -> None:
    gray = np.random.default_rng(3).integers(0, 256, (9, 8, 8, 1), np.uint8)
    split = split_of(gray)
    fitted = fit_preprocess(split, DataSpec(), 3)
    ready = prepare(split, fitted)
    assert_close(ready.images, torch.from_numpy(gray.repeat(3, 3)), rtol=0, atol=0)
    assert len(set(fitted.spec.mean)) == 1
    back = prepare(
        ready, Preprocessor(Preprocess(size=8, resize=8, channels=1, mean=(0.0,), std=(1.0,)))
    )
    assert_close(back.images, torch.from_numpy(gray), rtol=0, atol=0)
    imagenet = fit_preprocess(split, DataSpec(normalize="imagenet"), 1)
    assert len(imagenet.spec.mean) == 1


def test_prepare_resizes_once_as_prediction_does() -> None:
    images = np.random.default_rng(4).integers(0, 256, (5, 20, 30, 3), np.uint8)
    split = split_of(images)
    preprocessor = fit_preprocess(split, DataSpec(size=16, resize=18), 3)
    ready = prepare(split, preprocessor)
    wanted = torch.stack([preprocessor.to_tensor(image) for image in images])
    assert_close(ready.images.permute(0, 3, 1, 2), wanted, rtol=0, atol=0)
    assert prepare(ready, preprocessor) is ready
    with pytest.raises(ConfigError, match=r"data\.size"):
        prepare(ready, Preprocessor(Preprocess(size=12, resize=12)))
    assert fit_preprocess(split, DataSpec(), 3).spec.size == 20


def test_files_are_measured_as_the_set_in_memory(photo: Image.Image, tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for turn in range(4):
            photo.rotate(90 * turn, expand=True).save(tmp_path / name / f"{turn}.png")
    spec = DataSpec(source=str(tmp_path), size=24, resize=30, val_fraction=0, test_fraction=0)
    memory = open_data(spec).train
    files = open_data(replace(spec, in_memory="never")).train
    assert isinstance(memory, TensorSplit)
    assert isinstance(files, FileSplit)
    for kind in ("channel", "per-pixel-mean"):
        one, two = (
            fit_preprocess(each, replace(spec, normalize=kind), 3) for each in (memory, files)
        )
        assert one.spec == two.spec
        assert one.mean_image is None or torch.equal(one.mean_image, two.mean_image)


def test_unusable_settings_are_refused(photo: Image.Image, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"data\.resize"):
        Preprocessor(Preprocess(size=224, resize=200))
    with pytest.raises(ConfigError, match="4 channels"):
        Preprocessor(Preprocess(channels=4))
    with pytest.raises(DataError, match="mean image"):
        Preprocessor(Preprocess(mean_image=True))
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        photo.save(tmp_path / name / "1.png")
        photo.resize((90, 90)).save(tmp_path / name / "2.png")
    spec = DataSpec(
        source=str(tmp_path), val_fraction=0, test_fraction=0, augment=AugmentSpec(crop="pad")
    )
    with pytest.raises(ConfigError, match=r"data\.size"):
        fit_preprocess(open_data(spec).train, spec, 3)
