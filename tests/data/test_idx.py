"""IDX files (MNIST, EMNIST): where they lie, what they are called, and damage."""

import gzip
import struct
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from resnets.config import DataSpec
from resnets.data import DataError, open_data
from resnets.data.sources.binary.idx import read_idx

WHOLE = DataSpec(val_fraction=0, test_fraction=0)


def write_idx(path: Path, values: np.ndarray) -> None:
    head = bytes((0, 0, 8, values.ndim)) + np.array(values.shape, ">u4").tobytes()
    path.write_bytes(head + values.tobytes())


def test_damaged_idx_files_are_named(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (6, 4, 4), np.uint8)
    write_idx(tmp_path / "train-images-idx3-ubyte", images)
    spec = replace(WHOLE, source=str(tmp_path))
    with pytest.raises(DataError, match="train-labels-idx1-ubyte"):
        open_data(spec)
    write_idx(tmp_path / "train-labels-idx1-ubyte", np.array([0, 3, 1, 0, 1, 2], np.uint8) % 4)
    write_idx(tmp_path / "t10k-images-idx3-ubyte", images)
    write_idx(tmp_path / "t10k-labels-idx1-ubyte", np.array([0, 3, 1, 0, 1, 9], np.uint8))
    with pytest.raises(DataError, match="labels go up to 9, but the training part has 4 classes"):
        open_data(spec).test()
    for name in ("images-idx3", "labels-idx1"):
        (tmp_path / f"t10k-{name}-ubyte").unlink()
    write_idx(tmp_path / "train-labels-idx1-ubyte", np.array([0, 3, 1, 0, 1, 3], np.uint8))
    with pytest.raises(DataError, match="class 2 has no images"):
        open_data(spec)
    labels = tmp_path / "train-labels-idx1-ubyte"
    write_idx(labels, np.array([0, 1, 1, 0, 1], np.uint8))
    with pytest.raises(DataError, match="do not belong together"):
        open_data(spec)
    write_idx(labels, np.array([0, 1, 1, 0, 1, 2], np.uint8))
    splits = open_data(spec)
    assert torch.equal(splits.train.images[..., 0], torch.from_numpy(images))
    assert splits.test() is None
    for damage, word in ((b"PNG", "not an IDX file"), (labels.read_bytes()[:-1], "cut short")):
        labels.write_bytes(damage)
        with pytest.raises(DataError, match=rf"train-labels-idx1-ubyte: {word}"):
            open_data(spec)
    labels.unlink()
    packed = gzip.compress(bytes(100))
    (tmp_path / "train-labels-idx1-ubyte.gz").write_bytes(packed[: len(packed) // 2])
    with pytest.raises(DataError, match=r"idx1-ubyte\.gz"):
        open_data(spec)


def test_idx_files_of_other_types_are_refused_by_name(tmp_path) -> None:
    for code, kind in ((0x0B, "16-bit"), (0x0D, "32-bit floats"), (0x77, "0x77")):
        file = tmp_path / "train-images-idx3-ubyte"
        file.write_bytes(bytes((0, 0, code, 1)) + struct.pack(">I", 2) + bytes(8))
        with pytest.raises(DataError, match=kind):
            read_idx(file)


IMAGES = np.random.default_rng(0).integers(0, 256, (6, 4, 4), np.uint8)
LABELS = np.array([0, 1, 2, 0, 1, 2], np.uint8)


def write_set(folder: Path, prefix: str, split: str, form: str, labels: np.ndarray) -> None:
    """The two files of a split, as those who share such sets call and place them."""
    for kind, values in (("images-idx3", IMAGES), ("labels-idx1", labels)):
        name = f"{prefix}{split}-{kind}-ubyte"
        dotted = name.replace("-idx", ".idx")
        if form in ("dotted", "both"):
            write_idx(folder / dotted, values)
        if form in ("folder", "both"):
            (folder / name).mkdir()
            write_idx(folder / name / name, values)
        if form == "gzipped":
            write_idx(folder / name, values)
            (folder / f"{name}.gz").write_bytes(gzip.compress((folder / name).read_bytes()))
            (folder / name).unlink()


@pytest.mark.parametrize("form", ["dotted", "folder", "both", "gzipped"])
def test_names_and_places_of_idx_files(tmp_path: Path, form: str) -> None:
    """Kaggle's MNIST has both a file and a folder of nearly the same name."""
    for split in ("train", "t10k"):
        write_set(tmp_path, "", split, form, LABELS)
    splits = open_data(replace(WHOLE, source=str(tmp_path)))
    for split in (splits.train, splits.test()):
        assert torch.equal(split.images[..., 0], torch.from_numpy(IMAGES))
        assert split.labels.tolist() == LABELS.tolist()


def test_emnist_has_names_of_its_own(tmp_path: Path) -> None:
    for split in ("train", "test"):
        write_set(tmp_path, "emnist-letters-", split, "gzipped", LABELS + 1)
    (tmp_path / "emnist-letters-mapping.txt").write_text("1 65 97\n2 66 98\n3 67 99\n")
    spec = replace(WHOLE, source=str(tmp_path))
    splits = open_data(spec)
    assert splits.classes == ("A", "B", "C")
    assert splits.train.labels.tolist() == splits.test().labels.tolist() == LABELS.tolist()
    write_set(tmp_path, "emnist-digits-", "train", "gzipped", LABELS)
    with pytest.raises(DataError, match="emnist-digits-, emnist-letters-"):
        open_data(spec)
