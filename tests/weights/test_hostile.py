"""Weight files that lie, in every format: read, or one line that names the file."""

import os
import resource
import signal
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from caffe_model import caffemodel, random_blobs
from weights_state import SMALL

import resnets
from resnets.config import ConfigError
from resnets.models import build
from resnets.weights.errors import CheckpointError, WeightsError
from resnets.weights.name_maps.maps import build_name_map
from resnets.weights.readers.caffe import read_caffemodel
from resnets.weights.readers.keras import read_fields

h5py = pytest.importorskip("h5py")
KNOWN = (ConfigError, WeightsError, CheckpointError)


def refused(path: Path, words: str = "") -> str:
    with pytest.raises(KNOWN) as caught:
        resnets.create_model(SMALL, weights=str(path))
    message = str(caught.value)
    assert path.name in message
    assert words in message
    assert message.isprintable()
    return message


@pytest.fixture
def kernel(tmp_path: Path) -> Callable[..., Path]:
    """A Keras file whose first kernel is made as its options say."""

    def make(**options: object) -> Path:
        path = tmp_path / "net.h5"
        with h5py.File(path, "w") as file:
            group = file.create_group("conv1_conv/conv1_conv")
            group.create_dataset("kernel:0", **options)
        return path

    return make


def test_values_of_other_files_are_not_read(tmp_path: Path, kernel) -> None:
    secret = tmp_path / "secret.bin"
    secret.write_bytes(np.arange(1000, dtype="<f4").tobytes())
    path = kernel(shape=(1000,), dtype="<f4", external=[(str(secret), 0, 4000)])
    refused(path, "is stored in other files")
    layout = h5py.VirtualLayout((3,), "<f4")
    layout[:] = h5py.VirtualSource(str(tmp_path / "other.h5"), "x", (3,))
    with h5py.File(path, "w") as file:
        file.create_group("conv1_conv/conv1_conv").create_virtual_dataset("kernel:0", layout)
    refused(path, "is stored in other files")
    with h5py.File(path, "w") as file:
        group = file.create_group("conv1_conv/conv1_conv")
        group["kernel:0"] = h5py.ExternalLink(str(tmp_path / "other.h5"), "/x")
        group["bias:0"] = np.zeros(4, np.float32)
    refused(path, "missing")


def test_sizes_are_compared_with_the_network_before_reading(kernel) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    shape = (1 << 34,)
    refused(
        kernel(shape=shape, dtype="<f4", chunks=(1 << 20,)), "far larger than any tensor of small"
    )
    shape = (1 << 30,)
    path = kernel(shape=shape, dtype="<f4", chunks=(1 << 20,), compression="gzip")
    refused(path, "far larger than any tensor of small")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # KiB


def test_a_deflated_storage_is_not_a_bomb(tmp_path: Path) -> None:
    """A megabyte of archive for a gigabyte of zeros, under a name of the network."""
    torch.save({"stem.conv.weight": torch.zeros(1)}, tmp_path / "one.pth")
    bomb = tmp_path / "bomb.pth"
    with (
        zipfile.ZipFile(tmp_path / "one.pth") as source,
        zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as archive,
    ):
        for name in source.namelist():
            with archive.open(name, "w", force_zip64=True) as file:
                if name.endswith("data/0"):
                    for _ in range(256):
                        file.write(bytes(1 << 20))
                else:
                    file.write(source.read(name))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    refused(bomb)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # KiB


def test_an_archive_of_zeros_is_not_a_keras_file(tmp_path: Path) -> None:
    path = tmp_path / "bomb.keras"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("config.json", '{"config": {"layers": []}}')
        with archive.open("model.weights.h5", "w") as file:
            for _ in range(128):
                file.write(bytes(1 << 20))
    refused(path, "far longer than the archive")


def test_a_caffemodel_of_countless_layers(tmp_path: Path) -> None:
    path = tmp_path / "many.caffemodel"
    path.write_bytes(caffemodel({f"l{k}": [np.zeros(1, np.float32)] for k in range(20_001)}))
    with pytest.raises(WeightsError, match="20,000"):
        read_caffemodel(path)


@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        ("LeakyReLU", {"negative_slope": 0.1}),
        ("GlobalMaxPooling2D", {}),
        ("Rescaling", {"scale": 0.5}),
        ("Activation", {"activation": "gelu"}),
        ("ReLU", {"max_value": 6.0, "negative_slope": 0.0, "threshold": 0.0}),
        ("Conv2D", {"dilation_rate": [2, 2]}),
        ("Conv2D", {"unheard_of": 3}),
        ("BatchNormalization", {"scale": False}),
    ],
)
def test_a_different_keras_network_is_refused_by_layer(kind: str, fields) -> None:
    layer = {"class_name": kind, "config": {"name": "odd", **fields}}
    with pytest.raises(WeightsError, match="odd"):
        read_fields({"config": {"layers": [layer]}}, Path("net.keras"))


def whole_files(folder: Path) -> dict[str, bytes]:
    """One small network in each format."""
    torch.manual_seed(0)
    net = build(SMALL)
    state = net.state_dict()
    torch.save({"state_dict": state, "epoch": 3}, folder / "zip.pth")
    torch.save(state, folder / "old.pth", _use_new_zipfile_serialization=False)
    safetensors.torch.save_file(state, folder / "net.safetensors")
    blobs = random_blobs(SMALL, seed=1, bias=False, factor=1.0)
    (folder / "net.caffemodel").write_bytes(caffemodel(blobs))
    keras = build_name_map("keras", net).to_foreign(state)
    with h5py.File(folder / "net.h5", "w") as file:
        for name, tensor in keras.items():
            layer, _, leaf = name.partition("/")
            file[f"{layer}/{layer}/{leaf}:0"] = tensor.numpy()
    with zipfile.ZipFile(folder / "net.keras", "w") as archive:
        archive.writestr("config.json", '{"config": {"layers": []}}')
        archive.write(folder / "net.h5", "model.weights.h5")
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def outcome(path: Path) -> int:
    """0 where a file is read or refused in one line, in its own process; else what ended it."""
    pid = os.fork()
    if pid == 0:
        code = 3
        try:
            signal.alarm(60)
            resnets.create_model(SMALL, weights=str(path))
            code = 0
        except KNOWN as error:
            said = str(error)
            code = 0 if path.name in said and said.isprintable() else 4
        except BaseException:
            code = 5
        finally:
            os._exit(code)
    return os.waitpid(pid, 0)[1]


def mutated(data: bytes, draw: np.random.Generator) -> bytes:
    """A few bytes changed, most of them at the start, where formats keep what they say; or cut."""
    found = bytearray(data)
    if draw.random() < 0.2:
        return bytes(found[: draw.integers(0, len(found))])
    for _ in range(draw.integers(1, 9)):
        end = len(found) if draw.random() < 0.5 else min(len(found), 4096)
        place = int(draw.integers(0, end))
        found[place] = draw.integers(0, 256) if draw.random() < 0.7 else (0, 255, 127)[place % 3]
    return bytes(found)


def fuzz(tmp_path: Path, name: str, count: int) -> list[int]:
    folder = tmp_path / "whole"
    folder.mkdir()
    data = whole_files(folder)[name]
    draw = np.random.default_rng(len(name))
    path = tmp_path / name
    bad = []
    for number in range(count):
        path.write_bytes(mutated(data, draw))
        if outcome(path) != 0:
            bad.append(number)
    return bad


FILES = ("zip.pth", "old.pth", "net.safetensors", "net.caffemodel", "net.h5", "net.keras")


@pytest.mark.parametrize("name", FILES)
def test_mutated_files_are_read_or_refused(tmp_path: Path, name: str) -> None:
    assert fuzz(tmp_path, name, 12) == []


@pytest.mark.slow
@pytest.mark.parametrize("name", FILES)
def test_many_mutated_files_are_read_or_refused(tmp_path: Path, name: str) -> None:
    assert fuzz(tmp_path, name, 400) == []
