"""Images of any number of channels and of 16 bits: NumPy arrays and TIFF stacks."""

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from digit_folders import recipe
from sklearn.datasets import load_digits

import resnets
from resnets.api.features import open_features
from resnets.config import AugmentSpec, ConfigError, DataSpec, ModelSpec
from resnets.data import DataError, fit_preprocess, open_data
from resnets.data.decode.decode import Crop, center_box, decode
from resnets.models import build
from resnets.utils.machine import precision
from resnets.weights.adapt import adapt_input
from resnets.weights.checkpoint.find import find_checkpoint

CHANNELS = 5
VIEW = Crop(8, CHANNELS, center_box(8, 8), keep_bits=True)


def npy(values: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.save(stream, values)
    return stream.getvalue()


@pytest.fixture(scope="module")
def stack() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 65536, (8, 8, CHANNELS)).astype(np.uint16)


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Class folders of .npy stacks of 5 channels, of 12 bits in 16, of digits."""
    root = tmp_path_factory.mktemp("stacks")
    digits, rng = load_digits(), np.random.default_rng(0)
    for row in np.flatnonzero(digits.target < 3)[:60].tolist():
        folder = root / f"digit{digits.target[row]}"
        folder.mkdir(exist_ok=True)
        plane = np.kron(digits.images[row], np.ones((2, 2))) * 250
        planes = [plane * (1 + channel) / 5 for channel in range(CHANNELS)]
        noise = rng.integers(0, 20, (16, 16, CHANNELS))
        np.save(folder / f"{row:03}.npy", (np.stack(planes, 2) + noise).astype(np.uint16))
    (root / "digit0" / "notes.txt").write_text("not an image")
    return root


def test_bits_are_kept(stack: np.ndarray) -> None:
    seen = decode(npy(stack), VIEW, "x")
    assert seen.dtype == np.float32
    np.testing.assert_allclose(seen * (65535 / 255), stack, rtol=1e-6, atol=0.01)
    first = decode(npy(np.moveaxis(stack, 2, 0)), VIEW, "x")
    np.testing.assert_array_equal(first, seen)
    rounded = decode(npy(stack), replace(VIEW, keep_bits=False), "x")
    assert rounded.dtype == np.uint8
    np.testing.assert_array_equal(rounded, np.rint(seen))
    scaled = decode(npy(stack), replace(VIEW, levels=(1000.0, 3000.0)), "x")
    wanted = np.clip((stack.astype(float) - 1000) / 2000, 0, 1) * 255
    np.testing.assert_allclose(scaled, wanted, rtol=1e-5, atol=1e-3)


def test_bytes_and_fractions_are_what_they_say() -> None:
    values = np.random.default_rng(1).integers(0, 256, (8, 8, CHANNELS)).astype(np.uint8)
    np.testing.assert_array_equal(decode(npy(values), VIEW, "x"), values)
    np.testing.assert_allclose(decode(npy(values / 255), VIEW, "x"), values, atol=1e-4)


def test_tiff_stacks(stack: np.ndarray) -> None:
    tifffile = pytest.importorskip("tifffile")
    for planes in (np.moveaxis(stack, 2, 0), stack):  # pages, and samples of a pixel
        stream = io.BytesIO()
        config = "contig" if planes is stack else None
        tifffile.imwrite(stream, planes, photometric="minisblack", planarconfig=config)
        seen = decode(stream.getvalue(), VIEW, "x")
        np.testing.assert_allclose(seen * (65535 / 255), stack, rtol=1e-6, atol=0.01)


@pytest.mark.parametrize(
    "values",
    [
        np.zeros((8, 8, 4), np.uint8),
        np.zeros((8, 8), np.uint8),
        np.full((8, 8, CHANNELS), np.nan),
        np.full((8, 8, CHANNELS), 7.5),
        np.zeros((8, 8, CHANNELS), np.int32) - 1,
        np.array([{}], dtype=object),
    ],
)
def test_what_is_no_such_stack_is_refused(values: np.ndarray) -> None:
    with pytest.raises(DataError, match="broken"):
        decode(npy(values), VIEW, "broken")


def test_each_channel_is_normalized(tree: Path) -> None:
    spec = DataSpec(source=str(tree), size=16, channels=CHANNELS, keep_bits=True)
    splits = open_data(spec, training=True)
    spec = replace(spec, value_range=splits.value_range)
    seen = fit_preprocess(splits.train, spec, CHANNELS)
    images = [
        np.load(splits.train.files.root / splits.train.files.paths[row]).astype(float) / 65535
        for row in range(len(splits.train))
    ]
    np.testing.assert_allclose(seen.spec.mean, np.mean(images, (0, 1, 2)), rtol=1e-4)
    assert len(seen.spec.std) == CHANNELS


def test_pretrained_weights_train_on_stacks(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(precision, "_cpu_has_bf16", lambda: True)
    known = build(ModelSpec(depths=(1,), widths=(4,), stem="cifar", stem_width=4, num_classes=7))
    first = next(each.detach() for each in known.parameters() if each.ndim == 4)
    torch.save(known.state_dict(), tmp_path / "rgb.pt")
    chosen = recipe(tree, "4it", channels=CHANNELS, keep_bits=True)
    assert adapt_input(first, CHANNELS).shape[1] == CHANNELS
    chosen = replace(chosen, weights=str(tmp_path / "rgb.pt"), weights_size="any", precision="auto")
    run = resnets.train(chosen, out=tmp_path / "run", quiet=True)
    measured = resnets.evaluate(run, quiet=True).evaluation
    assert measured.top1_error == run.result["test"]["top1_error"]
    for protocol in (measured.protocol, run.result["test"]["protocol"]):
        assert "float32" in protocol  # bfloat16 would round 16 bits to 8
    options = {"split": "all", "model": None, "device": "cpu", "precision": "auto", "quiet": True}
    assert open_features(run, str(tree), **options).precision == "float32"
    model = resnets.load(find_checkpoint(tmp_path / "run"))
    assert (model.spec.in_channels, model.preprocess.spec.channels) == (CHANNELS, CHANNELS)
    assert model.preprocess.spec.keep_bits
    assert 0 <= run.result["test"]["top1_error"] <= 100
    (found,) = resnets.predict(model, next(tree.rglob("*.npy")), quiet=True)
    assert found.error is None
    assert sum(found.probabilities) == pytest.approx(1)
    with pytest.raises(ConfigError, match="stacks"):
        resnets.export(model, "onnx", out=tmp_path / "model.onnx", quiet=True)


def test_settings_that_exclude_each_other(tree: Path) -> None:
    for changes in (
        {"channels": 0},
        {"keep_bits": True},
        {"channels": 5, "in_memory": "always"},
        {"channels": 5, "streaming": True},
    ):
        with pytest.raises(ConfigError, match=r"data\."):
            DataSpec(**changes)
    spec = recipe(tree, channels=CHANNELS, augment=AugmentSpec(policy="rand"))
    with pytest.raises(ConfigError, match="policy"):
        resnets.train(spec, out=tree.parent / "refused", quiet=True)
