"""Values of images: deep grey by the set's own range, bands by the file's own tags."""

import io
import json
import logging
import struct
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from resnets import load
from resnets.cli.main import main
from resnets.config import ConfigError, DataSpec
from resnets.data import DataError, open_data
from resnets.data.check.image import decode_for_comparison
from resnets.data.dataset.pack import open_pack
from resnets.data.decode import pixel_values
from resnets.data.decode.decode import decode_whole
from resnets.data.transforms.preprocess import fit_preprocess

WHOLE = DataSpec(val_fraction=0, test_fraction=0)


def save(pixels: np.ndarray, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def faint_set(root: Path, kind: type = np.uint16, suffix: str = "png", offset: int = 2000) -> Path:
    """Two classes that differ by 70 of 65,536 grey levels: left half or right half brighter."""
    rng = np.random.default_rng(0)
    for side, name in enumerate(("left", "right")):
        for number in range(16):
            pixels = rng.integers(offset, offset + 20, (32, 32)).astype(np.int64)
            pixels[:, 16 * side : 16 * (side + 1)] += 70
            save(pixels.astype(kind), root / name / f"{number}.{suffix}")
    return root


@pytest.fixture(autouse=True)
def nothing_said(monkeypatch):
    monkeypatch.setattr(pixel_values, "WARNED", set())


@pytest.mark.parametrize(
    ("kind", "suffix", "offset"),
    [
        (np.uint16, "png", 2000),
        (np.uint16, "tif", 2000),
        (np.int32, "tif", 100_000),
        (np.int32, "tif", -500),
        (np.float32, "tif", 0),
    ],
)
@pytest.mark.parametrize("in_memory", ["always", "never"])
def test_levels_are_those_of_the_set(tmp_path, kind, suffix, offset, in_memory) -> None:
    spec = replace(WHOLE, source=str(faint_set(tmp_path, kind, suffix, offset)))
    splits = open_data(replace(spec, in_memory=in_memory, size=32))
    low, high = splits.value_range
    assert offset <= low < offset + 5
    assert offset + 80 < high <= offset + 90
    data = replace(spec, size=32, value_range=splits.value_range)
    view = fit_preprocess(splits.train, data, 1).view
    pixels = np.stack([splits.train.read(row, view) for row in range(32)])
    assert len(np.unique(pixels)) > 30  # at the scale of 16 bits there was one
    assert pixels.min() == 0
    assert pixels.max() == 255


def test_it_learns_and_the_range_travels_with_the_weights(tmp_path) -> None:
    """At the scale of 16 bits such a set trains at chance."""
    root, run = faint_set(tmp_path / "set"), str(tmp_path / "run")
    settings = [word for each in ("data.size=32", "batch_size=16") for word in ("--set", each)]
    command = ["train", "digits", "--model", "cifar-resnet8", "--data", str(root), "--out", run]
    assert main([*command, "--iterations", "24", "--device", "cpu", *settings]) == 0
    result = json.loads(Path(run, "result.json").read_text())
    assert "data.value_range" in str(result["data_summary"])
    net = load(run)
    low, high = net.preprocess.spec.value_range
    assert 2000 <= low < high <= 2090
    found = [
        net.classes[int(net(net.preprocess(path)[None]).argmax())] == path.parent.name
        for path in sorted(root.rglob("*.png"))
    ]
    assert sum(found) == len(found) == 32
    # Another set, darker throughout, is seen at the range that was trained on.
    other = faint_set(tmp_path / "other", offset=2040)
    assert main(["evaluate", run, "--data", str(other), "--device", "cpu", "--json"]) == 0
    pixels = net.preprocess.to_tensor(other / "left" / "0.png")
    assert int(pixels.min()) > 100
    as_array = net.preprocess.to_tensor(np.asarray(Image.open(other / "left" / "0.png")))
    assert torch.equal(as_array, pixels)


def test_a_pack_keeps_levels_and_range(tmp_path, capsys) -> None:
    root = faint_set(tmp_path / "set")
    out = tmp_path / "x.pack"
    assert main(["data", "pack", str(root), "--size", "32", "--out", str(out)]) == 0
    source = open_pack(out)
    low, high = source.value_range
    assert 2000 <= low < high <= 2090
    assert len(np.unique(decode_whole(source.train.files.read(0), "x"))) > 30
    assert open_data(replace(WHOLE, source=str(out))).value_range == (low, high)
    assert f"{low:g} to {high:g} become 0 to 255" in capsys.readouterr().out


def test_what_fills_16_bits_is_scaled_as_before(tmp_path) -> None:
    pixels = (np.arange(1024, dtype=np.uint32) * 64).astype(np.uint16).reshape(32, 32)
    for name in ("a", "b"):
        save(pixels, tmp_path / name / "0.png")
    assert open_data(replace(WHOLE, source=str(tmp_path))).value_range is None
    seen = decode_whole((tmp_path / "a" / "0.png").read_bytes(), "x")[:, :, 0]
    assert np.array_equal(seen, (pixels.astype(int) + 128) // 257)


def test_a_range_may_be_given_and_is_checked(tmp_path) -> None:
    root = faint_set(tmp_path)
    splits = open_data(replace(WHOLE, source=str(root), value_range=(0, 4095)))
    assert splits.value_range == (0, 4095)
    with pytest.raises(ConfigError, match=r"data\.value_range"):
        DataSpec(value_range=(5, 5))


def encoded(pixels: np.ndarray, format: str) -> bytes:
    Image.fromarray(pixels).save(data := io.BytesIO(), format)
    return data.getvalue()


def test_values_without_a_scale_are_refused_or_warned_about(caplog) -> None:
    for pixels in (np.full((4, 4), 70_000, np.int32), np.full((4, 4), -1, np.int32)):
        with pytest.raises(DataError, match=r"data\.value_range"):
            decode_whole(encoded(pixels, "TIFF"), "x")
    with pytest.raises(DataError, match="floating-point"):
        decode_whole(encoded(np.ones((4, 4), np.float32), "TIFF"), "x")
    with caplog.at_level(logging.WARNING, "resnets"):
        for _ in range(2):
            decode_whole(encoded(np.full((4, 4), 3000, np.uint16), "PNG"), "x")
    assert len([each for each in caplog.messages if "levels" in each]) == 1


def test_color_of_16_bits_that_keeps_few_levels_is_warned_about(tmp_path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        pixels = np.full((8, 8, 3), 4000)
        (tmp_path / name / "0.tif").write_bytes(tiff(pixels, extra=None, bits=16))
    (warning,) = open_data(replace(WHOLE, source=str(tmp_path))).summary.warnings
    assert "3,855" in warning  # what 8 bits keep of 4,000


def tiff(pixels: np.ndarray, extra: int | None, bits: int = 8, photometric: int = 2) -> bytes:
    """An uncompressed TIFF of one strip, with ExtraSamples where `extra` is given."""
    height, width, bands = pixels.shape
    body = pixels.astype(f"<u{bits // 8}").tobytes()
    depth = bits if bands == 1 else 8  # the value, or where the values are
    tags = [(256, 4, 1, width), (257, 4, 1, height), (258, 3, bands, depth), (259, 3, 1, 1)]
    tags += [(262, 3, 1, photometric), (273, 4, 1, 500), (277, 3, 1, bands)]
    tags += [(278, 4, 1, height), (279, 4, 1, len(body)), (284, 3, 1, 1)]
    tags += [(338, 3, 1, extra)] if extra is not None else []
    head = b"II*\0" + struct.pack("<I", 8 + 2 * bands) + struct.pack(f"<{bands}H", *[bits] * bands)
    head += struct.pack("<H", len(tags))
    head += b"".join(struct.pack("<HHII", *tag) for tag in tags) + bytes(4)
    assert len(head) <= 500
    return head.ljust(500, b"\0") + body


@pytest.mark.parametrize("levels", [None, (1000.0, 41_000.0)])
@pytest.mark.parametrize("bits", [8, 16])
def test_zero_is_white_where_a_tiff_says_so(bits, levels) -> None:
    """The same scene stored either way is the same image, at any depth."""
    pixels = np.linspace(1000, 41_000, 64).reshape(8, 8, 1).astype(np.uint16)
    other = (65_535 if levels is None else 42_000) - pixels
    if bits == 8:
        pixels, other = pixels >> 8, 255 - (pixels >> 8)
    black = decode_whole(tiff(pixels, None, bits, 1), "x", levels)
    white = decode_whole(tiff(other, None, bits, 0), "x", levels)
    assert int(black[-1, -1, 0]) > int(black[0, 0, 0]) + 100
    assert np.abs(black.astype(int) - white).max() <= 1


def test_floating_point_tiffs_with_white_as_zero_are_inverted(tmp_path) -> None:
    pixels = np.linspace(0, 1, 64, dtype=np.float32).reshape(8, 8)
    pixels[0, 0] = np.nan
    file = tmp_path / "x.tif"
    Image.fromarray(pixels).save(file, tiffinfo={262: 0})
    with Image.open(file) as image:
        assert image.tag_v2[262] == 0
    seen = decode_whole(file.read_bytes(), "x", (0.0, 1.0))[..., 0]
    assert seen[0, 1] > 240
    assert seen[-1, -1] == 0
    assert seen[0, 0] == 0  # no value: black


@pytest.mark.parametrize("gap", [-9999.0, None])
def test_values_that_mean_no_data_are_warned_about(tmp_path, gap) -> None:
    """They would set the range, and leave the image no contrast."""
    rng = np.random.default_rng(0)
    for name in ("a", "b"):
        for number in range(4):
            pixels = rng.random((64, 64), np.float32)
            pixels[:8, :8] = 0 if gap is None else gap
            save(pixels, tmp_path / name / f"{number}.tif")
    warnings = open_data(replace(WHOLE, source=str(tmp_path))).summary.warnings
    assert any("-9999" in each for each in warnings) == (gap is not None)
    assert len(warnings) == (gap is not None)


def test_pixels_that_are_not_numbers_are_warned_about(tmp_path) -> None:
    rng = np.random.default_rng(0)
    for name in ("a", "b"):
        for number in range(4):
            pixels = rng.random((64, 64), np.float32)
            pixels[:8] = np.nan if number else 0
            save(pixels, tmp_path / name / f"{number}.tif")
    (warning,) = open_data(replace(WHOLE, source=str(tmp_path))).summary.warnings
    assert "12.5%" in warning
    assert "6 of 8" in warning


def scaled_set(root: Path, kind: type, factor: int, offset: int = 0) -> Path:
    """Two classes of noise whose 8-bit values are scaled."""
    rng = np.random.default_rng(factor)
    for name in ("a", "b"):
        for number in range(8):
            pixels = rng.integers(0, 256, (16, 16)) * factor + offset
            save(pixels.astype(kind), root / name / f"{number}.png")
    return root


def small_run(root: Path, run: Path) -> dict:
    settings = [word for each in ("data.size=32", "batch_size=8") for word in ("--set", each)]
    command = ["train", "digits", "--model", "cifar-resnet8", "--data", str(root), *settings]
    assert main([*command, "--out", str(run), "--iterations", "1", "--device", "cpu"]) == 0
    return json.loads((run / "result.json").read_text())


@pytest.mark.parametrize(
    ("trained", "tested", "warned"),
    [
        ((np.uint8, 1), (np.uint16, 16), True),  # 12 bits in 16: nearly black
        ((np.uint16, 16), (np.uint16, 257), True),  # nearly white
        ((np.uint8, 1), (np.uint16, 257), False),
        ((np.uint16, 16), (np.uint16, 15), False),
    ],
)
def test_images_at_another_scale_than_the_training_images_are_named_everywhere(
    tmp_path, capsys, trained, tested, warned
) -> None:
    """In training's summary, result and report; in what evaluate prints, as text and as JSON."""
    scaled_set(tmp_path / "set" / "train", *trained)
    test = scaled_set(tmp_path / "set" / "test", *tested)
    capsys.readouterr()
    result = small_run(tmp_path / "set", tmp_path / "run")
    said = capsys.readouterr().err
    assert bool(result["data_summary"]["warnings"]) == warned
    assert ("warning: test images" in " ".join(said.split())) == warned  # lines are wrapped
    assert ("at the scale of" in result["test"]["protocol"]) == warned
    page = (tmp_path / "run" / "report.html").read_text()
    assert ("at the scale of" in page) == warned
    for extra in ([], ["--data", str(test)]):
        assert main(["evaluate", str(tmp_path / "run"), "--json", "--device", "cpu", *extra]) == 0
        found = json.loads(capsys.readouterr().out)
        warnings = [each for each in found["warnings"] if "no better than" not in each]
        assert bool(warnings) == warned
        assert ("at the scale of" in found["protocol"]) == warned
    assert main(["data", "check", str(tmp_path / "set"), "--out", str(tmp_path / "check")]) == 0
    assert ("WARNING" in capsys.readouterr().out) == warned


@pytest.mark.filterwarnings("error")
def test_nan_in_a_checked_image_is_no_warning_of_numpy() -> None:
    pixels = np.linspace(0, 1, 64, dtype=np.float32).reshape(8, 8)
    pixels[0, 0] = np.nan
    assert decode_for_comparison(encoded(pixels, "TIFF"), "x", (0.0, 1.0)).max() == 255
    pixels[:] = np.nan
    assert decode_for_comparison(encoded(pixels, "TIFF"), "x", (0.0, 1.0)).max() == 0


@pytest.mark.parametrize(
    ("extra", "transparent"), [(None, False), (0, False), (1, True), (2, True)]
)
def test_a_fourth_band_is_transparency_only_where_the_file_says_so(
    extra: int | None, transparent: bool, caplog
) -> None:
    pixels = np.full((8, 8, 4), 100, np.uint8)
    pixels[..., 3] = 0
    with caplog.at_level(logging.WARNING, "resnets"):
        seen = decode_whole(tiff(pixels, extra), "x")
    assert (seen == (255 if transparent else 100)).all()
    if extra is None:
        assert any("fourth band" in each for each in caplog.messages)
