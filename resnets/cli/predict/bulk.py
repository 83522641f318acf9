"""`resnets predict --data`: a set of any size, into shards."""

from __future__ import annotations

import sys
import time
from collections.abc import Generator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from resnets.cli.process import Ended
from resnets.config import ConfigError
from resnets.utils.terminal import counted, say

if TYPE_CHECKING:
    from resnets.bulk.pool import Event
    from resnets.bulk.run import Run
    from resnets.weights.load import LoadOptions

HEAVY = ("resnets.bulk.worker", "resnets.export.select")  # what workers import
EVERY = 10.0  # seconds between lines of progress where no terminal shows a bar
SHOWN = 3  # names of what went wrong, on the terminal


@dataclass(frozen=True)
class Bulk:
    """Millions of pictures: streamed, written in shards, gone on with after a kill.

    The same command goes on where it was stopped. See docs/predict.md.
    """

    data: str | None = None
    """Folder of any nesting, CSV or text file of paths, tar, Parquet, WebDataset, hub:ORG/NAME."""
    out: Path | None = None
    """Folder for part-00000.parquet, ..., manifest.json and summary.json."""
    format: Literal["parquet", "csv"] = "parquet"
    """Of the shards."""
    shard_size: int | None = None
    """Pictures of a shard; by default a 64th of the set, from 256 to 10,000."""
    batch_size: int | None = None
    """Pictures computed at once; by default what suits the net."""
    processes: int = 1
    """Processes, or actors of Ray, each with its own net; 0 is one for each core."""
    engine: Literal["local", "ray"] = "local"
    """This machine, or the Ray cluster of RAY_ADDRESS (or one started here)."""


@dataclass(frozen=True)
class Computing:
    """What the user says of it, as `runtime.base.open_backend` takes it."""

    device: str
    precision: str
    backend: Literal["auto", "torch", "onnx", "openvino"]
    calibrate: str | None


def predict(
    model: str, options: Bulk, *, top_k: int, computing: Computing, loading: LoadOptions
) -> int:
    """Do all shards that are missing; 1 if any was given up, 130, 143 or 129 when stopped."""
    from resnets.weights.checkpoint.format import task_of

    if options.data is None or options.out is None:
        raise ConfigError("--data and --out go together: a set in, a folder of shards out")
    if task_of(model) != "classify":
        raise ConfigError("--data is for classifiers; give a detector its folders as PICTURES")
    from resnets.bulk import pool

    if options.engine == "local":
        pool.warm_up(*HEAVY)
    from resnets.bulk.plan import lock_output

    try:
        with lock_output(options.out.absolute()):
            from resnets.bulk.run import BulkOptions, prepare_run

            wanted = BulkOptions(
                model,
                options.data,
                options.out,
                format=options.format,
                top=top_k,
                shard_size=options.shard_size,
                batch=options.batch_size,
                processes=options.processes,
                engine=options.engine,
                backend=computing.backend,
                device=computing.device,
                precision=computing.precision,
                calibrate=computing.calibrate,
                loading=loading,
            )
            run = prepare_run(wanted, _say)
            if run.finished:
                _say(f"finished before: {_whole(run)}")
                return 0
            return _work(run)
    except (KeyboardInterrupt, Ended) as stop:
        _say("stopped before any picture was computed")
        return _code(stop)


def _code(stop: BaseException) -> int:
    return stop.code if isinstance(stop, Ended) else 130


def _work(run: Run) -> int:
    from resnets.bulk.pool import WorkerError

    _introduce(run)
    started = time.monotonic()
    given_up: list[int] = []
    stopped: BaseException | None = None
    try:
        _follow(run, given_up)
    except (KeyboardInterrupt, Ended, WorkerError) as stop:
        stopped = stop
    if stopped is not None:
        why = stopped if isinstance(stopped, WorkerError) else "stopped"
        _say(
            f"{why}; {run.written:,} of {run.manifest.images:,} pictures are written, in whole"
            " shards, and the same command goes on from there"
        )
        return 1 if isinstance(stopped, WorkerError) else _code(stopped)
    if given_up:
        _name(run, given_up)
        return 1
    summary, seconds = run.summarize(), time.monotonic() - started
    _say(f"{_whole(run)}; {run.images_left / seconds:,.0f} images/s in {_clock(seconds)}")
    if summary.unreadable:
        shown = "; ".join(summary.errors[:SHOWN])
        unreadable = counted(summary.unreadable, "picture")
        _say(f"{unreadable} could not be read (column error): {shown}")
    return 0


def _introduce(run: Run) -> None:
    from resnets.utils.cpu_count import cores

    pictures, left = run.manifest.images, run.images_left
    shards = counted(run.manifest.shards, "shard")
    _say(f"{counted(pictures, 'picture')} in {shards}, with {run.computing}")
    if left < pictures:
        _say(f"going on: {pictures - left:,} are done, {left:,} are left")
    if run.processes == 1 and len(run.missing) > 1 and run.engine == "local" and cores() > 1:
        _say(f"one process; --processes 0 takes one for each of the {cores()} cores")


def _follow(run: Run, given_up: list[int]) -> None:
    """See the work through, and note the shards that are not to be."""
    from resnets.bulk.pool import ShardFailed, WorkerDied

    with closing(_shown(run)) as events:
        for event in events:
            if isinstance(event, ShardFailed):
                given_up.append(event.shard)
            elif isinstance(event, WorkerDied):
                again = "" if event.shard is None else f"; shard {event.shard} is done again"
                _say(f"worker {event.pid} died ({event.reason}){again}")


def _name(run: Run, given_up: list[int]) -> None:
    for shard in given_up[:SHOWN]:
        start, stop = run.manifest.span(shard)
        name = run.manifest.path(run.job.out, shard).name
        _say(
            f"{name} is not there: each worker that took it (rows {start:,} to {stop - 1:,} of the"
            " set) died"
        )
    _say(f"{len(given_up):,} of the shards given up; the same command tries them again")


def _shown(run: Run) -> Generator[Event, None, None]:
    """What happens, under a bar where stderr is a terminal, else with a line now and then."""
    from resnets.bulk.pool import Progress
    from resnets.evaluate.prepare import with_progress

    def pictures(event: Event) -> int:
        return event.images if isinstance(event, Progress) else 0

    total, left = run.manifest.images, run.images_left
    first = told = 0.0  # when the workers had begun, and when a line was printed
    computed = counted = 0  # since then, and in all
    with closing(run.work()) as events:
        for event in with_progress(events, left, pictures):
            yield event
            now = time.monotonic()
            counted += pictures(event)
            if not first:
                first = told = now if counted else 0.0
                continue
            computed += pictures(event)
            if now - told >= EVERY and computed > 0 and not sys.stderr.isatty():
                told, rate = now, computed / (now - first)
                _say(
                    f"{total - left + counted:,} of {total:,} pictures, {rate:,.0f} images/s,"
                    f" {_clock((left - counted) / rate)} left"
                )


def _whole(run: Run) -> str:
    manifest = run.manifest
    shards = counted(manifest.shards, "shard")
    return f"{counted(manifest.images, 'picture')} in {shards} in {run.job.out}"


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def _say(text: str) -> None:
    say(f"resnets predict: {text}", error=True)
