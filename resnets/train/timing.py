"""Where the seconds of training go: waiting for data, to the device, augmenting, computing."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass
from typing import Any

from resnets.data.timings import Stopwatch, Timings
from resnets.train.state import Meter

# A row of metrics.jsonl of this kind has the shares of an epoch's seconds, named as in STAGES.
TIME = "time"
STAGES = {
    "waiting": "waiting for data",
    "to_device": "to device",
    "augmenting": "augmenting",
    "computing": "computing",
}
WORTH = 0.1  # share of waiting above which data holds the net up
FULL = 0.85  # share of their time above which decode threads have no more to give
STALLED = 0.6  # share of a busy thread's time on the CPU below which something else is slow


@dataclass(frozen=True)
class StepTimes:
    """`steps` steps and their seconds: in all, by stage, and of the decode threads."""

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
        """Seconds in which the device had nothing to do."""
        return max(0.0, self.seconds - self.computing - self.to_device - self.augmenting)


class StepTimer:
    """Seconds of training, evaluation and checkpoints not counted, and where they went.

    `before`: those of the run before it was resumed; only `total` counts them.
    """

    def __init__(self, timings: Timings, before: float) -> None:
        self._timings, self._before = timings, before
        self.computing = Stopwatch(timings.device)
        self._steps, self._seconds = 0, 0.0
        self._laps: dict[str, StepTimes] = {}
        self.next()

    def next(self) -> None:
        """Evaluation and checkpoints are over; the next step begins."""
        self._mark = time.perf_counter()

    def stepped(self, wait_for: Meter | None) -> None:
        """A step is over; with `wait_for`, the device is too (reading a sum waits for it)."""
        if wait_for is not None:
            wait_for.means()
        self._seconds += time.perf_counter() - self._mark
        self._steps += 1

    def lap(self, name: str) -> StepTimes:
        """What was spent since the last lap of this name, or the start. Waits for the device."""
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
        spent = now - self._laps.get(name, StepTimes())
        self._laps[name] = now
        return spent

    def epoch_row(self) -> dict[str, Any]:
        """Figures of the row of an epoch: seconds, the share of each stage, the decode threads'."""
        spent, threads = self.lap("epoch"), self._timings.decoding.threads
        seconds = max(1e-9, spent.seconds)
        row: dict[str, Any] = {"seconds": spent.seconds}
        row |= {stage: getattr(spent, stage) / seconds for stage in STAGES}
        row["decode_threads"] = threads
        if threads:
            row["decode_busy"] = min(1.0, spent.decoding / (threads * seconds))
            row["decode_cpu"] = spent.decoding_cpu / max(1e-9, spent.decoding)
        row["packed"] = self._timings.packed
        return row

    def total(self) -> float:
        """Training seconds of the whole run."""
        return self._before + self._seconds


def whole_run(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """One such row for all epochs among `rows` of metrics.jsonl; None without any."""
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


def stages_line(row: Mapping[str, Any]) -> str:
    """An epoch's stages and what to do about the slowest, as one line."""
    parts = [f"{row[stage]:.0%} {title}" for stage, title in STAGES.items()]
    if row["decode_threads"]:
        count = row["decode_threads"]
        threads = "1 decode thread" if count == 1 else f"{count} decode threads"
        parts[0] += f" ({threads} {row['decode_busy']:.0%} busy)"
    return f"{', '.join(parts)} -> {bottleneck(row)}"


def bottleneck(row: Mapping[str, Any]) -> str:
    """Which stage holds the others up, and what helps."""
    if row["waiting"] < WORTH or not row["decode_threads"]:
        slowest = max(("to_device", "augmenting", "computing"), key=lambda stage: row[stage])
        return {
            "computing": "computing is the bottleneck",
            "to_device": "copying to the device is the bottleneck",
            "augmenting": "augmenting is the bottleneck",
        }[slowest]
    if row["decode_busy"] < FULL:
        return "data came late, though its threads had time: the steps or epochs are very short"
    if row["decode_cpu"] < STALLED:
        return (
            f"reading is the bottleneck: busy threads had the CPU {row['decode_cpu']:.0%} of the"
            " time (slow storage, or other programs on these cores)"
        )
    if row["packed"]:
        return "decoding is the bottleneck: more threads (data.workers), if there are cores left"
    return (
        "decoding is the bottleneck: pack the set (resnets data pack), or more threads"
        " (data.workers) if there are cores left"
    )
