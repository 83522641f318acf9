"""Measure how training time is spent: waiting for data, copying, augmenting, computing."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass
from typing import Any

from resnets.data.timings import Stopwatch, Timings
from resnets.train.state import Meter

# Rows of this kind in metrics.jsonl contain the fraction of an epoch's time spent in each stage.
TIME = "time"
STAGES = {
    "waiting": "waiting for data",
    "to_device": "to device",
    "augmenting": "augmenting",
    "computing": "computing",
}
MIN_WAITING = 0.1  # fraction of time spent waiting above which data loading is the bottleneck
MIN_BUSY = 0.85  # fraction of time above which decode threads count as saturated
MIN_CPU = 0.6  # CPU use of busy decode threads below which reading is the bottleneck


@dataclass(frozen=True)
class StepTimes:
    """Times of `steps` steps in seconds: in total, per stage, and of the decode threads."""

    steps: int = 0
    seconds: float = 0.0
    computing: float = 0.0
    to_device: float = 0.0
    augmenting: float = 0.0
    decoding: float = 0.0
    decoding_cpu: float = 0.0

    def __sub__(self, earlier: StepTimes) -> StepTimes:
        pairs = zip(astuple(self), astuple(earlier), strict=True)
        return StepTimes(*(later - before for later, before in pairs))

    @property
    def waiting(self) -> float:
        """Seconds in which the device was idle."""
        return max(0.0, self.seconds - self.computing - self.to_device - self.augmenting)


class StepTimer:
    """Measures training time per stage; evaluation and checkpoints are not included.

    `before`: training time in s before the run was resumed; only `total` includes it.
    """

    def __init__(self, timings: Timings, before: float) -> None:
        self._timings, self._before = timings, before
        self.computing = Stopwatch(timings.device)
        self._steps, self._seconds = 0, 0.0
        self._laps: dict[str, StepTimes] = {}
        self.start_step()

    def start_step(self) -> None:
        """Start timing the next step."""
        self._start = time.perf_counter()

    def end_step(self, wait_for: Meter | None) -> None:
        """Stop timing a step; reading the sums of `wait_for` synchronizes with the device."""
        if wait_for is not None:
            wait_for.means()
        self._seconds += time.perf_counter() - self._start
        self._steps += 1

    def lap(self, name: str) -> StepTimes:
        """Return the times since the last lap of this name, or the start; waits for the device."""
        timings = self._timings
        now = StepTimes(
            self._steps,
            self._seconds,
            self.computing.seconds(),
            timings.to_device.seconds(),
            timings.augmenting.seconds(),
            timings.decoding.busy,
            timings.decoding.cpu,
        )
        times = now - self._laps.get(name, StepTimes())
        self._laps[name] = now
        return times

    def epoch_row(self) -> dict[str, Any]:
        """Return the row of an epoch: seconds, fraction of each stage, decode thread use."""
        times, threads = self.lap("epoch"), self._timings.decoding.threads
        seconds = max(1e-9, times.seconds)
        row: dict[str, Any] = {"seconds": times.seconds}
        row |= {stage: getattr(times, stage) / seconds for stage in STAGES}
        row["decode_threads"] = threads
        if threads:
            row["decode_busy"] = min(1.0, times.decoding / (threads * seconds))
            row["decode_cpu"] = times.decoding_cpu / max(1e-9, times.decoding)
        row["packed"] = self._timings.packed
        return row

    def total(self) -> float:
        """Return the training time of the whole run in seconds."""
        return self._before + self._seconds


def summarize(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """Combine the time rows of all epochs in metrics.jsonl into one; None if there are none."""
    epochs = [row for row in rows if row["kind"] == TIME]
    seconds = sum(row["seconds"] for row in epochs)
    if not seconds:
        return None
    shares = {*STAGES, "decode_busy", "decode_cpu"} & epochs[-1].keys()
    means = {
        name: sum(row["seconds"] * row.get(name, 0.0) for row in epochs) / seconds
        for name in shares
    }
    return {**epochs[-1], "seconds": seconds, **means}


def stage_summary(rows: Sequence[Mapping[str, Any]]) -> str | None:
    """Format stages and bottleneck over all epochs as one line; None if there are no time rows."""
    row = summarize(rows)
    return None if row is None else format_stages(row)


def format_stages(row: Mapping[str, Any]) -> str:
    """Format an epoch's stages and its bottleneck as one line."""
    parts = [f"{row[stage]:.0%} {title}" for stage, title in STAGES.items()]
    if row["decode_threads"]:
        count = row["decode_threads"]
        threads = "1 decode thread" if count == 1 else f"{count} decode threads"
        parts[0] += f" ({threads} {row['decode_busy']:.0%} busy)"
    return f"{', '.join(parts)}: {bottleneck(row)}"


def data_bottleneck(row: Mapping[str, Any]) -> str | None:
    """Return how to speed up an epoch that waited for images; None if it did not wait."""
    if row["waiting"] < MIN_WAITING or not row["decode_threads"] or row["decode_busy"] < MIN_BUSY:
        return None  # idle threads: the steps or epochs are very short
    return f"{row['waiting']:.0%} of the time was spent waiting for images; {bottleneck(row)}"


def bottleneck(row: Mapping[str, Any]) -> str:
    """Return which stage limits the throughput, and how to speed it up."""
    if row["waiting"] < MIN_WAITING or not row["decode_threads"]:
        slowest = max(("to_device", "augmenting", "computing"), key=lambda stage: row[stage])
        return {
            "computing": "computing is the bottleneck",
            "to_device": "copying to the device is the bottleneck",
            "augmenting": "augmenting is the bottleneck",
        }[slowest]
    if row["decode_busy"] < MIN_BUSY:
        return "data arrived late although decode threads were idle: steps or epochs are very short"
    if row["decode_cpu"] < MIN_CPU:
        return (
            f"reading is the bottleneck: busy threads used the CPU {row['decode_cpu']:.0%} of the"
            " time (slow storage, or other programs on these cores)"
        )
    if row["packed"]:
        return "decoding is the bottleneck: use more threads (data.workers) if cores are free"
    return (
        "decoding is the bottleneck: pack the data set (resnets data pack), or use more threads"
        " (data.workers) if cores are free"
    )
