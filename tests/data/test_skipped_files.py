"""Files of a folder that its set does not read are counted, and named by an example."""

import json
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from resnets.config import DataSpec
from resnets.data.errors import DataError
from resnets.data.sources.open import find_source


def skipped(folder: Path) -> str:
    return ", ".join(find_source(DataSpec(source=str(folder))).skipped.parts())


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
    assert skipped(tmp_path) == ""
    write_idx(tmp_path, "test")  # a second test set
    (tmp_path / "photos").mkdir()
    Image.new("L", (8, 8)).save(tmp_path / "photos" / "a.png")
    assert skipped(tmp_path) == "2 without extension, 1 .png (not a file of the set)"


def test_cifar_batches(tmp_path: Path) -> None:
    write_cifar(tmp_path / "cifar-10-batches-bin")
    assert skipped(tmp_path) == skipped(tmp_path / "cifar-10-batches-bin") == ""
    (tmp_path / "data_batch_6.bin").write_bytes(b"more")
    assert skipped(tmp_path) == "1 .bin (not a file of the set)"
    hundred = tmp_path / "cifar-100-binary"
    hundred.mkdir()
    for name in ("train.bin", "fine_label_names.txt"):
        (hundred / name).write_bytes(b"")
    with pytest.raises(
        DataError, match=r"several data sets .*cifar-10-batches-bin, cifar-100-binary"
    ):
        skipped(tmp_path)


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
    assert skipped(tmp_path) == ""
    Image.new("L", (8, 8)).save(tmp_path / "train" / "2.png")
    assert skipped(tmp_path) == "1 .png (image that no annotation file names)"


def write_classes(root: Path) -> list[str]:
    """Two classes of four images; returns their paths."""
    paths = [f"{name}/{number}.png" for name in ("cat", "dog") for number in range(4)]
    for row, path in enumerate(paths):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (8, 8), row).save(root / path)
    return paths


@pytest.mark.parametrize("form", ["zip", "tar"])
def test_older_members_of_one_name(tmp_path: Path, form: str) -> None:
    paths = write_classes(tmp_path / "set")
    file = tmp_path / f"set.{form}"
    if form == "zip":
        with zipfile.ZipFile(file, "w") as archive:
            for path in paths:
                archive.write(tmp_path / "set" / path, path)
            with pytest.warns(UserWarning, match="Duplicate name"):
                archive.write(tmp_path / "set" / paths[-1], paths[0])
    else:
        with tarfile.open(file, "w") as archive:
            for path in paths:
                archive.add(tmp_path / "set" / path, path)
            archive.add(tmp_path / "set" / paths[-1], paths[0])
    assert skipped(file).startswith("1 .png (older member")
    files = find_source(DataSpec(source=str(file))).train.files
    assert files.read(0) == files.read(len(paths) - 1)  # the newest


def test_names_of_zips_in_an_unknown_encoding_are_reported(tmp_path: Path, caplog) -> None:
    paths = write_classes(tmp_path / "set")
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as archive:
        for path in paths:
            archive.write(tmp_path / "set" / path, path.replace("cat", "ca@"))
    data = (tmp_path / "set.zip").read_bytes().replace(b"ca@/", b"ca\x8c/")
    (tmp_path / "set.zip").write_bytes(data)
    find_source(DataSpec(source=str(tmp_path / "set.zip")))
    assert "(4)" in caplog.text


@pytest.mark.parametrize("empty", ["val", "Test"])
def test_split_folders_without_images(tmp_path: Path, empty: str) -> None:
    write_classes(tmp_path / "train")
    assert not find_source(DataSpec(source=str(tmp_path))).warnings
    (tmp_path / empty / "cat").mkdir(parents=True)
    (warning,) = find_source(DataSpec(source=str(tmp_path))).warnings
    assert warning.startswith(f"{empty}/ ")


@pytest.mark.parametrize("folder", ["", "images"])
def test_second_tables_of_labels_are_named(tmp_path: Path, folder: str) -> None:
    (tmp_path / folder).mkdir(exist_ok=True)
    for number in range(6):
        Image.new("L", (8, 8)).save(tmp_path / folder / f"p{number}.png")
    lines = [f"p{number}.png,{('cat', 'dog')[number % 2]}" for number in range(6)]
    (tmp_path / "labels.csv").write_text("path,label\n" + "\n".join(lines))
    assert not find_source(DataSpec(source=str(tmp_path))).warnings
    (tmp_path / "corrected.csv").write_text("path,label\n" + "\n".join(lines))
    (warning,) = find_source(DataSpec(source=str(tmp_path))).warnings
    assert "corrected.csv" in warning
