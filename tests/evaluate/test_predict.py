"""Prediction over files: order, bounded read-ahead, folders."""

import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from resnets.config import Postprocess
from resnets.data import DataError
from resnets.evaluate.predict import find_images, predict


class Counting:
    """Preprocessing that reads a number from a file, as an image of one pixel; counts them.

    The first file is ready only once another thread has read the second.
    """

    def __init__(self) -> None:
        self.lock, self.read, self.threads = threading.Lock(), 0, set()
        self.second = threading.Event()

    def to_tensor(self, path: Path) -> Tensor:
        with self.lock:
            self.read += 1
            self.threads.add(threading.current_thread())
        number = int(path.stem)
        if number == 2:
            self.second.set()
        if number == 1:
            assert self.second.wait(60)
        if number % 10 == 7:
            raise DataError(f"{path}: broken")
        return torch.full((1, 1, 1), number, dtype=torch.uint8)


class Parity:
    """Even numbers are of class 0; the bigger the number, the surer."""

    classes = ("even", "odd")

    def __init__(self, batch: int = 8, at_once: int = 1) -> None:
        self.preprocess, self.batch, self.at_once = Counting(), batch, at_once
        self.batches: list[int] = []

    postprocess = Postprocess()

    def logits(self, images: np.ndarray) -> np.ndarray:
        assert images.dtype == np.uint8
        assert images.shape[1:] == (1, 1, 1)
        self.batches.append(len(images))
        numbers = images[:, 0, 0, 0].astype(np.float32)
        return np.stack([np.zeros_like(numbers), numbers * (2 * (numbers % 2) - 1)], 1)


def run(model: Parity, count: int, top_k: int = 5):
    paths = [Path(f"{number}.png") for number in range(1, count + 1)]
    return predict(model, paths, top_k=top_k, workers=3)


@pytest.mark.parametrize("at_once", [1, 2])
def test_order_is_the_files_and_errors_stay_in_their_place(at_once):
    model = Parity(at_once=at_once)
    found = list(run(model, 40))
    assert [int(each.path.stem) for each in found] == list(range(1, 41))
    for each in found:
        number = int(each.path.stem)
        if number % 10 == 7:
            assert each.error == f"{number}.png: broken"
            assert each.classes == ()
        else:
            assert each.classes[0] == Parity.classes[number % 2]
            assert len(each.classes) == 2  # top_k of fewer classes gives all
            assert sum(each.probabilities) == pytest.approx(1.0)
    assert sum(model.batches) == 36
    assert len(model.preprocess.threads) > 1


def test_a_batch_of_broken_files_alone_does_not_reach_the_network():
    model = Parity()
    paths = [Path("7.png"), Path("17.png")]
    found = list(predict(model, paths, workers=1))
    assert [each.error for each in found] == ["7.png: broken", "17.png: broken"]
    assert model.batches == []


@pytest.mark.parametrize("at_once", [1, 2])
def test_one_batch_more_is_held_than_computed_and_stopping_early_stops_reading(at_once):
    model = Parity(batch=4, at_once=at_once)
    most = 4 * (1 + at_once)
    stream = run(model, 100)
    next(stream)
    deadline = time.monotonic() + 60
    while model.preprocess.read < most - 1:  # as far as the threads are let
        assert time.monotonic() < deadline
        time.sleep(0.001)
    time.sleep(0.05)  # and no farther, given the time
    assert model.preprocess.read <= most
    stream.close()
    time.sleep(0.05)
    assert model.preprocess.read <= most


def test_folders_are_walked_in_sorted_order_and_only_for_images(tmp_path: Path):
    for name in ("b/2.JPG", "b/1.png", "a.webp", "b/notes.txt", ".hidden/3.png", "b/.4.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "b" / "loop").symlink_to(tmp_path)
    (tmp_path / "c.png").mkdir()  # a folder that is called like an image
    (tmp_path / "c.png" / "5.png").touch()
    named = tmp_path / "b" / "notes.txt"
    found = find_images([named, tmp_path])
    assert [path.relative_to(tmp_path).as_posix() for path in found] == [
        "b/notes.txt", "a.webp", "b/1.png", "b/2.JPG", "c.png/5.png",
    ]  # fmt: skip


def test_folder_without_images_is_named(tmp_path: Path):
    (tmp_path / "notes.txt").touch()
    with pytest.raises(DataError, match=f"{tmp_path}: no images.*1 .txt"):
        find_images([tmp_path])
