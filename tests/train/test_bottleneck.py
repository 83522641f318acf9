"""Where training time is spent: measured stages, the line of an epoch, the report."""

import time
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from resnets.config import AugmentSpec, DataSpec, replace_fields
from resnets.data import FileSplit, TrainStream, fit_preprocess, open_data
from resnets.data.decode.decode import encode_pnm
from resnets.data.timings import Decoding, Stopwatch
from resnets.recipes import recipe
from resnets.report.figure_style import to_svg
from resnets.report.run import plot_stages
from resnets.train.log.run_log import read_rows
from resnets.train.log.timing import STAGES, StepTimer, data_bottleneck, format_stages, summarize
from resnets.train.run import run_training

CPU = torch.device("cpu")
SPEC = DataSpec(size=16, in_memory="never", workers=1, normalize="imagenet")
ROW = {
    "seconds": 10.0,
    "waiting": 0.41,
    "to_device": 0.02,
    "augmenting": 0.01,
    "computing": 0.56,
    "decode_threads": 2,
    "decode_busy": 0.98,
    "decode_cpu": 0.9,
    "packed": False,
}


@dataclass(frozen=True)
class SlowFiles:
    """Pictures that each take `seconds` to read: sleeping, as on slow storage, or computing."""

    seconds: float
    computing: bool = False

    def __len__(self) -> int:
        return 64

    def name(self, index: int) -> str:
        return str(index)

    def read(self, index: int) -> bytes:
        if not self.computing:
            time.sleep(self.seconds)
        end = time.thread_time() + self.seconds
        while self.computing and time.thread_time() < end:
            pass
        return encode_pnm(np.full((16, 16, 3), index, np.uint8))

    def take(self, rows: NDArray[np.int64]) -> "SlowFiles":
        return self


def trained(files: SlowFiles, step_seconds: float, steps: int = 8) -> dict:
    """The row of an epoch of `steps` steps, each of which sleeps for `step_seconds`."""
    split = FileSplit(files, torch.zeros(len(files), dtype=torch.int64), ("a",), "slow")
    stream = TrainStream(split, SPEC, fit_preprocess(split, SPEC, 3), 8, 0, CPU)
    timer = StepTimer(stream.timings, before=100.0)
    for _ in islice(stream.batches(), steps):
        with timer.computing:
            time.sleep(step_seconds)
        timer.end_step(None)
        timer.start_step()
    row = timer.epoch_row()
    assert timer.total() == pytest.approx(100 + row["seconds"])
    assert sum(row[stage] for stage in STAGES) == pytest.approx(1, abs=1e-6)
    return row


def test_slow_storage_slow_decoding_and_computing_are_distinguished() -> None:
    stored = trained(SlowFiles(0.004), step_seconds=0.001)
    decoded = trained(SlowFiles(0.004, computing=True), step_seconds=0.001)
    computed = trained(SlowFiles(0.0), step_seconds=0.05)
    # Sleeping and computing take at least what they were asked for, however busy the machine is,
    # so only lower bounds are held: 64 images in batches of 8, 4 ms each; 8 steps of 50 ms.
    for row in (stored, decoded):
        assert row["waiting"] * row["seconds"] > 0.03  # the first batch cannot have been ready
        assert row["decode_busy"] * row["seconds"] > 0.25
        assert row["decode_threads"] == 1
    assert computed["computing"] * computed["seconds"] > 0.4
    busy = [row["seconds"] * row["decode_busy"] for row in (stored, decoded)]
    assert busy[0] * (1 - stored["decode_cpu"]) > 0.25  # asleep
    assert busy[1] * decoded["decode_cpu"] > 0.25  # on the CPU


def test_time_outside_steps_is_not_counted() -> None:
    stream = TrainStream(
        open_data(DataSpec()).train,
        DataSpec(),
        fit_preprocess(open_data(DataSpec()).train, DataSpec(), 1),
        8,
        0,
        CPU,
    )
    start, elsewhere = time.perf_counter(), 0.0
    timer = StepTimer(stream.timings, 0.0)
    for _ in islice(stream.batches(), 3):
        with timer.computing:
            time.sleep(0.01)
        timer.end_step(None)
        stopped = time.perf_counter()
        time.sleep(0.02)  # an evaluation
        elsewhere += time.perf_counter() - stopped
        timer.start_step()
    spent = timer.lap("row")
    assert spent.steps == 3
    assert 0.03 <= spent.computing <= spent.seconds
    assert spent.seconds <= time.perf_counter() - start - elsewhere
    assert timer.lap("row").seconds == 0
    row = timer.epoch_row()  # laps of other names go on
    assert row["seconds"] == spent.seconds
    assert row["decode_threads"] == 0
    assert "decode_busy" not in row
    assert "decode threads" not in format_stages(row)


def test_decoding_counts_the_threads_that_did_it() -> None:
    decoding, start = Decoding(), time.perf_counter()
    with decoding.working():
        time.sleep(0.02)
    with pytest.raises(ValueError, match="damaged"), decoding.working():
        raise ValueError("damaged")
    assert 0.02 <= decoding.busy <= time.perf_counter() - start
    assert decoding.cpu <= decoding.busy - 0.019  # asleep


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({}, "decoding is the bottleneck: pack the data set (resnets data pack)"),
        ({"packed": True}, "decoding is the bottleneck: use more threads (data.workers)"),
        ({"decode_cpu": 0.2}, "reading is the bottleneck: busy threads used the CPU 20% of"),
        ({"decode_busy": 0.3}, "data arrived late"),
        ({"waiting": 0.05, "computing": 0.92}, "computing is the bottleneck"),
        ({"waiting": 0.05, "to_device": 0.9, "computing": 0.04}, "copying to the device is"),
        ({"waiting": 0.05, "augmenting": 0.9, "computing": 0.04}, "augmenting is the bottleneck"),
    ],
)
def test_the_line_of_an_epoch_names_the_bottleneck(change: dict, expected: str) -> None:
    row = {**ROW, **change}
    line = format_stages(row)
    assert line.rpartition("% computing: ")[2].startswith(expected)
    assert "\n" not in line
    assert "(1 decode thread 98% busy)" in format_stages({**ROW, "decode_threads": 1})
    if not change:
        assert line.startswith(
            "41% waiting for data (2 decode threads 98% busy), 2% to device, 1% augmenting, "
            "56% computing: "
        )


def test_epochs_are_weighted_by_their_seconds() -> None:
    rows = [
        {"kind": "time", **ROW},
        {"kind": "val", "loss": 1.0},
        {"kind": "time", **ROW, "seconds": 30.0, "waiting": 0.01, "computing": 0.96},
    ]
    whole = summarize(rows)
    assert whole["seconds"] == 40
    assert whole["waiting"] == pytest.approx(0.11)
    assert whole["decode_busy"] == pytest.approx(0.98)
    assert sum(whole[stage] for stage in STAGES) == pytest.approx(1)
    assert summarize([{"kind": "val", "loss": 1.0}]) is None


@pytest.mark.ci
def test_a_run_tells_it_each_epoch_and_in_its_report(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    changes = {"duration": "3ep", "batch_size": 423, "data.augment.crop": "random-resized"}
    tiny = replace_fields(recipe("digits", "cifar-resnet8"), changes)
    run_training(tiny, tmp_path / "run", device="cpu")
    rows = [row for row in read_rows(tmp_path / "run") if row["kind"] == "time"]
    assert [round(row["epoch"]) for row in rows] == [1, 2, 3]
    for row in rows:
        assert sum(row[stage] for stage in STAGES) == pytest.approx(1, abs=1e-6)
        assert row["decode_threads"] > 0  # crops of random size are cut by threads
    output = capsys.readouterr().err.splitlines()
    lines = [line.split()[1] for line in output if line.startswith("epoch ")]
    assert lines == ["1/3", "2/3", "3/3"]
    page = (tmp_path / "run" / "report.html").read_text()
    assert "Training time by stage" in page
    assert format_stages(summarize(rows)).replace(">", "&gt;") in page


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"waiting": 0.4, "decode_busy": 0.95, "decode_cpu": 0.9}, "resnets data pack"),
        ({"waiting": 0.4, "decode_busy": 0.95, "decode_cpu": 0.2}, "reading"),
        ({"waiting": 0.4, "decode_busy": 0.5, "decode_cpu": 0.9}, None),  # short epochs
        ({"waiting": 0.02, "decode_busy": 0.95, "decode_cpu": 0.9}, None),
        ({"waiting": 0.4, "decode_threads": 0}, None),
    ],
)
def test_only_a_data_bottleneck_is_printed(changes: dict[str, float], expected: str | None) -> None:
    found = data_bottleneck({**ROW, **changes})
    assert (found is None) if expected is None else (found is not None and expected in found)


def test_stages_are_drawn_for_each_epoch() -> None:
    rows = [{"kind": "time", "epoch": float(end), **ROW} for end in (1, 2, 3)]
    plot = plot_stages(rows, STAGES)
    svg = to_svg(plot, "stages")
    assert svg == to_svg(plot_stages(rows, STAGES), "stages")
    for title in STAGES.values():
        assert title in svg
    assert len(plot.axes[0].patches) == len(rows) * len(STAGES)  # a bar of each


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_cuda_is_timed_by_its_own_clock_without_making_the_host_wait() -> None:
    device = torch.device("cuda", 0)
    a = torch.randn(4096, 4096, device=device)
    (a @ a).sum().item()
    watch = Stopwatch(device)
    start = time.perf_counter()
    for _ in range(50):
        with watch:
            a = a @ a / 4096
    queued = time.perf_counter() - start
    spent = watch.seconds()
    assert spent > 2 * queued
    assert spent <= time.perf_counter() - start


def test_random_crops_of_images_in_memory_are_timed_too() -> None:
    spec = replace(DataSpec(), augment=AugmentSpec(crop="random-resized", scale=(0.5, 1.0)))
    train = open_data(spec).train
    stream = TrainStream(train, spec, fit_preprocess(train, spec, 1), 64, 0, CPU)
    list(islice(stream.batches(), 3))
    timings = stream.timings
    assert timings.decoding.busy > 0
    assert timings.to_device.seconds() > 0
    assert timings.augmenting.seconds() > 0
    assert not timings.packed
