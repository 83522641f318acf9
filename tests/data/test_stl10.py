"""STL-10's binary files are read; its images without labels are counted."""

import numpy as np
import pytest

from resnets.config import DataSpec
from resnets.data import open_data
from resnets.data.errors import DataError

CLASSES = ["airplane", "bird", "car", "cat", "deer", "dog", "horse", "monkey", "ship", "truck"]


@pytest.fixture
def stl10(tmp_path):
    """Twenty training and ten test images; the first has a red mark on the left of its top row."""
    rng = np.random.default_rng(0)
    for title, count in (("train", 20), ("test", 10)):
        images = rng.integers(0, 200, (count, 96, 96, 3)).astype(np.uint8)
        images[0, 0, 3] = (255, 1, 2)
        images.transpose(0, 3, 2, 1).tofile(tmp_path / f"{title}_X.bin")
        (np.arange(count, dtype=np.uint8) % 10 + 1).tofile(tmp_path / f"{title}_y.bin")
    (tmp_path / "class_names.txt").write_text("\n".join(CLASSES) + "\n")
    np.zeros(2 * 96 * 96 * 3, np.uint8).tofile(tmp_path / "unlabeled_X.bin")
    return tmp_path


@pytest.mark.parametrize("inside", [True, False])
def test_the_files_are_read(stl10, inside, tmp_path):
    if not inside:
        (tmp_path / "set").mkdir()
        files = [path for path in stl10.iterdir() if path.is_file()]
        (tmp_path / "set/stl10_binary").mkdir()
        for path in files:
            path.rename(tmp_path / "set/stl10_binary" / path.name)
    where = stl10 if inside else tmp_path / "set"
    splits = open_data(DataSpec(source=str(where), val_fraction=0))
    assert list(splits.classes) == CLASSES
    test = splits.test()
    assert (len(splits.train), len(test)) == (20, 10)
    assert test.labels.tolist() == list(range(10))
    assert any("unlabeled_X.bin: 2 images" in line for line in splits.summary.lines())
    image = np.asarray(test.images[0])
    assert image[0, 3].tolist() == [255, 1, 2]


def test_files_that_do_not_fit_are_named(stl10):
    for name, content in (("train_y.bin", b"\1" * 19), ("train_y.bin", b"\0" * 20)):
        (stl10 / name).write_bytes(content)
        with pytest.raises(DataError, match=r"train_[Xy]\.bin"):
            open_data(DataSpec(source=str(stl10)))
    (stl10 / "train_y.bin").unlink()
    with pytest.raises(DataError, match=r"train_y\.bin"):
        open_data(DataSpec(source=str(stl10)))
