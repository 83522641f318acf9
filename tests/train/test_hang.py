"""Data sets without a readable image, and signals: a run ends with one line, or at once."""

import os
import signal
import threading
import time
from itertools import islice

import numpy as np
import pytest
from detect_batches import stream
from detect_sets import write_coco
from PIL import Image
from test_early_stop import plan

from resnets.cli.main import main
from resnets.config import DataSpec
from resnets.data import open_data, order
from resnets.data.dataset.read_ahead import BatchPlan, read_ahead
from resnets.data.decode.decode import Crop, center_box
from resnets.data.errors import DataError
from resnets.data.loading.batches import TrainStream
from resnets.train.guards.interrupt import Interrupted
from resnets.train.run import run_training
from resnets.weights.checkpoint.format import LAST, read_checkpoint

pytestmark = pytest.mark.timeout(60)


def spoil(folder):
    for path in folder.iterdir():
        path.write_bytes(b"\xff\xd8 cut short")


def test_every_row_is_tried_once_and_then_the_search_ends():
    tried = list(order.rows_to_try(7, seed=3, epoch=1, row=2))
    assert tried[0] == 2
    assert set(tried) == set(range(7))
    assert len(tried) == 1 + order.RANDOM_TRIES + 6
    assert tried == list(order.rows_to_try(7, seed=3, epoch=1, row=2))


@pytest.mark.parametrize("count", [1, 2, 5])
@pytest.mark.parametrize("workers", [1, 4])
def test_a_detection_set_without_a_readable_image_ends(tmp_path, count, workers):
    write_coco(tmp_path, "train", [(40, 30)] * count)
    spoil(tmp_path / "train")
    with pytest.raises(DataError) as caught:
        next(stream(tmp_path, workers=workers, batch_size=4).batches())
    assert str(tmp_path) in str(caught.value) or tmp_path.name in str(caught.value)


def test_the_one_readable_image_of_a_set_takes_the_place_of_all(tmp_path):
    write_coco(tmp_path, "train", [(40, 30)] * 4)
    good = (tmp_path / "train/train0003.png").read_bytes()
    spoil(tmp_path / "train")
    (tmp_path / "train/train0003.png").write_bytes(good)
    training = stream(tmp_path, batch_size=4)
    training.ledger.max_unreadable = 1.0
    ids = [batch.ids.tolist() for batch in islice(training.batches(), 3)]
    assert ids == [[2] * 4] * 3


def test_the_command_says_one_line_and_fails(tmp_path, capsys):
    write_coco(tmp_path / "set", "train", [(40, 30)] * 2)
    spoil(tmp_path / "set/train")
    words = ["train", "detect-small", "--data", str(tmp_path / "set"), "--out", str(tmp_path / "r")]
    sizes = ["detect.train_sizes=[32]", "detect.max_size=64", "batch_size=2", "data.val_fraction=0"]
    for field in (*sizes, "data.test_fraction=0", "duration=2it", "weights=none"):
        words += ["--set", field]
    assert main(words) == 1
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert last.startswith("resnets train: ")
    assert "train0001.png" in last or "train0002.png" in last


def test_classification_without_a_readable_image_ends(tmp_path):
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        for number in range(3):
            Image.new("RGB", (20, 20)).save(tmp_path / name / f"{number}.png")
        spoil(tmp_path / name)
    data = DataSpec(source=str(tmp_path), val_fraction=0, test_fraction=0, in_memory="never")
    split = open_data(data).train
    split.unreadable.max_unreadable = None
    view = Crop(16, 3, center_box(16, 16))
    plans = [BatchPlan(np.arange(4), np.zeros(4, np.int64), [view] * 4)] * 9
    with pytest.raises(DataError):
        list(read_ahead(split, plans, 2, seed=0))


@pytest.fixture
def stuck(monkeypatch):
    """Batches that stop coming after the third, as from a disk that hangs."""
    real, never = TrainStream.batches, threading.Event()

    def batches(self, start_step=0, total=None):
        yield from islice(real(self, start_step, total), 3)
        timer = threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGTERM))
        timer.start()
        never.wait()

    monkeypatch.setattr(TrainStream, "batches", batches)


def test_sigterm_ends_a_wait_for_data_and_saves(tmp_path, stuck):
    started = time.monotonic()
    with pytest.raises(Interrupted) as caught:
        run_training(plan(checkpoint_every="30it"), tmp_path / "run", device="cpu", quiet=True)
    assert caught.value.code == 0
    assert read_checkpoint(tmp_path / "run/checkpoints" / LAST).meta["step"] == 3
    assert time.monotonic() - started < 30
