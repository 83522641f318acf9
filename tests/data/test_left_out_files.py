"""Files of a folder that its set does not read are counted, and named by an example."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from resnets.config import DataSpec
from resnets.data.errors import DataError
from resnets.data.sources.open import find_source


def left_out(folder: Path) -> str:
    return ", ".join(find_source(DataSpec(source=str(folder))).left_out.parts())


def write_idx(folder: Path, split: str, count: int = 4) -> None:
    labels = np.arange(count, dtype=np.uint8) % 2
    for kind, values in (
        ("images-idx3", np.zeros((count, 8, 8), np.uint8)),
        ("labels-idx1", labels),
    ):
        header = bytes((0, 0, 8, values.ndim)) + np.array(values.shape, ">u4").tobytes()
        (folder / f"{split}-{kind}-ubyte").write_bytes(header + values.tobytes())


def write_cifar(folder: Path) -> None:
    folder.mkdir(parents=True)
    batch = np.zeros((2, 3073), np.uint8)
    batch[1, 0] = 1
    for name in (*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"):
        (folder / f"{name}.bin").write_bytes(batch.tobytes())
    (folder / "batches.meta.txt").write_text("cat\ndog\n")


def test_idx_files(tmp_path: Path) -> None:
    write_idx(tmp_path, "train")
    write_idx(tmp_path, "t10k")
    assert left_out(tmp_path) == ""
    write_idx(tmp_path, "test")  # a second test set
    (tmp_path / "photos").mkdir()
    Image.new("L", (8, 8)).save(tmp_path / "photos" / "a.png")
    assert left_out(tmp_path) == "2 without suffix, 1 .png (not a file of the set)"


def test_cifar_batches(tmp_path: Path) -> None:
    write_cifar(tmp_path / "cifar-10-batches-bin")
    assert left_out(tmp_path) == left_out(tmp_path / "cifar-10-batches-bin") == ""
    (tmp_path / "data_batch_6.bin").write_bytes(b"more")
    assert left_out(tmp_path) == "1 .bin (not a file of the set)"
    hundred = tmp_path / "cifar-100-binary"
    hundred.mkdir()
    for name in ("train.bin", "fine_label_names.txt"):
        (hundred / name).write_bytes(b"")
    with pytest.raises(DataError, match=r"several sets .*cifar-10-batches-bin, cifar-100-binary"):
        left_out(tmp_path)


def test_images_that_coco_json_does_not_name(tmp_path: Path) -> None:
    document = {
        "images": [{"id": 0, "file_name": "0.png"}, {"id": 1, "file_name": "1.png"}],
        "annotations": [{"image_id": 0, "category_id": 5}],
        "categories": [{"id": 5, "name": "cat"}],
    }
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations" / "instances_train.json").write_text(json.dumps(document))
    (tmp_path / "train").mkdir()
    for number in range(2):
        Image.new("L", (8, 8)).save(tmp_path / "train" / f"{number}.png")
    assert left_out(tmp_path) == ""
    Image.new("L", (8, 8)).save(tmp_path / "train" / "2.png")
    assert left_out(tmp_path) == "1 .png (image that no annotation file names)"
