"""`resnets predict --data`: predict a data set of any size into shards."""

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
from resnets.utils.printable import counted, echo

if TYPE_CHECKING:
    from resnets.bulk.pool import Event
    from resnets.bulk.run import Run
    from resnets.weights.load import LoadOptions

HEAVY = ("resnets.bulk.worker", "resnets.export.select_backend")  # imported by workers
EVERY = 10.0  # seconds between lines of progress without a bar
SHOWN = 3  # failures named on the terminal


@dataclass(frozen=True)
class Bulk:
    """Predict millions of images: streamed, written in shards, resumable after a crash.

    The same command resumes a stopped run. See docs/predict.md.
    """

    data: str | None = None
    """Folder of any nesting, CSV or text file of paths, tar, Parquet, WebDataset, hub:ORG/NAME."""
    out: Path | None = None
    """Folder for part-00000.parquet, ..., _manifest.json and _summary.json."""
    format: Literal["parquet", "csv"] = "parquet"
    """Format of the shards."""
    shard_size: int | None = None
    """Images per shard; by default 1/64 of the data set, from 256 to 10,000."""
    batch_size: int | None = None
    """Batch size; chosen for the model by default."""
    processes: int = 1
    """Processes, or actors of Ray, each with its own model; 0 is one per core."""
    engine: Literal["local", "ray"] = "local"
    """This machine, or the Ray cluster of RAY_ADDRESS (or one started here)."""


@dataclass(frozen=True)
class Computing:
    """Options of the computation, as `export.select_backend.open_backend` takes them."""

    device: str
    precision: str
    backend: Literal["auto", "torch", "onnx", "openvino"]
    calibrate: str | None


def predict(
    model: str, options: Bulk, *, top_k: int, computing: Computing, loading: LoadOptions
) -> int:
    """Write all missing shards; returns 1 if any failed, 130, 143 or 129 if stopped."""
    from resnets.weights.checkpoint.find import read_task

    if options.data is None or options.out is None:
        raise ConfigError(
            "--data and --out go together: the data set, and the folder for its shards"
        )
    if read_task(model) != "classify":
        raise ConfigError("--data is for classifiers; give detectors their folders as IMAGES")
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
                _say(f"already complete: {_whole(run)}")
                return 0
            return _work(run)
    except (KeyboardInterrupt, Ended) as stop:
        _say("stopped before any image was computed")
        return _code(stop)


def _code(stop: BaseException) -> int:
    return stop.code if isinstance(stop, Ended) else 130


def _work(run: Run) -> int:
    from resnets.bulk.pool import WorkerError

    _introduce(run)
    started = time.monotonic()
    failed: list[int] = []
    stopped: BaseException | None = None
    try:
        _follow(run, failed)
    except (KeyboardInterrupt, Ended, WorkerError) as stop:
        stopped = stop
    if stopped is not None:
        why = stopped if isinstance(stopped, WorkerError) else "stopped"
        _say(
            f"{why}; {run.written:,} of {run.manifest.images:,} images are written, in whole"
            " shards; the same command resumes"
        )
        return 1 if isinstance(stopped, WorkerError) else _code(stopped)
    if failed:
        _name(run, failed)
        return 1
    summary, seconds = run.summarize(), time.monotonic() - started
    _say(f"{_whole(run)}; {run.images_left / seconds:,.0f} images/s in {_clock(seconds)}")
    if summary.unreadable:
        shown = "; ".join(summary.errors[:SHOWN])
        unreadable = counted(summary.unreadable, "unreadable image")
        _say(f"{unreadable} (see column error): {shown}")
    return 0


def _introduce(run: Run) -> None:
    from resnets.utils.cpu_count import cores

    images, left = run.manifest.images, run.images_left
    shards = counted(run.manifest.shards, "shard")
    _say(f"{counted(images, 'image')} in {shards}, with {run.computing}")
    if left < images:
        _say(f"resuming: {images - left:,} done, {left:,} left")
    if run.processes == 1 and len(run.missing) > 1 and run.engine == "local" and cores() > 1:
        _say(f"using one process; --processes 0 uses one per core ({cores()})")


def _follow(run: Run, failed: list[int]) -> None:
    """Follow the run to its end, and collect the shards that failed."""
    from resnets.bulk.pool import ShardFailed, WorkerDied

    with closing(_shown(run)) as events:
        for event in events:
            if isinstance(event, ShardFailed):
                failed.append(event.shard)
            elif isinstance(event, WorkerDied):
                again = "" if event.shard is None else f"; shard {event.shard} is retried"
                _say(f"worker {event.pid} died ({event.reason}){again}")


def _name(run: Run, failed: list[int]) -> None:
    for shard in failed[:SHOWN]:
        start, stop = run.manifest.span(shard)
        name = run.manifest.path(run.job.out, shard).name
        _say(
            f"{name} failed: every worker that tried it (rows {start:,} to {stop - 1:,} of the"
            " data set) died"
        )
    _say(f"{len(failed):,} shards failed; the same command retries them")


def _shown(run: Run) -> Generator[Event, None, None]:
    """The events, with a progress bar if stderr is a terminal, else with a line now and then."""
    from resnets.bulk.pool import Progress
    from resnets.evaluate.prepare import with_progress

    def images(event: Event) -> int:
        return event.images if isinstance(event, Progress) else 0

    total, left = run.manifest.images, run.images_left
    first = told = 0.0  # time of the first result, and of the last line
    computed = counted = 0  # images since the first result, and in all
    with closing(run.work()) as events:
        for event in with_progress(events, left, images):
            yield event
            now = time.monotonic()
            counted += images(event)
            if not first:
                first = told = now if counted else 0.0
                continue
            computed += images(event)
            if now - told >= EVERY and computed > 0 and not sys.stderr.isatty():
                told, rate = now, computed / (now - first)
                _say(
                    f"{total - left + counted:,} of {total:,} images, {rate:,.0f} images/s,"
                    f" {_clock((left - counted) / rate)} left"
                )


def _whole(run: Run) -> str:
    manifest = run.manifest
    shards = counted(manifest.shards, "shard")
    return f"{counted(manifest.images, 'image')} in {shards} in {run.job.out}"


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def _say(text: str) -> None:
    echo(f"resnets predict: {text}", error=True)
