"""`resnets predict --data`: predict a data set of any size into shards."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from resnets.cli.process import Terminated
from resnets.config import ConfigError
from resnets.utils.files.local_paths import output_path
from resnets.utils.printable import echo, format_count

if TYPE_CHECKING:
    from resnets.bulk.pool import Event
    from resnets.bulk.run import BulkRun
    from resnets.weights.load import LoadOptions

PROGRESS_INTERVAL = 10.0  # seconds between lines of progress without a bar
MAX_NAMED_FAILURES = 3  # failures named on the terminal


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
    """Processes, or actors of Ray, each with a model; 0: one per core; on a GPU without Ray 1."""
    engine: Literal["local", "ray"] = "local"
    """This machine, or the Ray cluster of RAY_ADDRESS (or one started here)."""


def predict(
    model: str,
    options: Bulk,
    *,
    top_k: int,
    threshold: float,
    runtime: Mapping[str, Any],
    loading: LoadOptions,
    check: Callable[[], object],
) -> int:
    """Write all missing shards; returns 1 if any failed, 130, 143 or 129 if stopped.

    runtime: device, precision, backend and calibrate, as `export.select_backend.open_backend` takes
    them. check: raises ConfigError for an option that the model does not read.
    """
    if options.data is None or options.out is None:
        raise ConfigError(
            "--data and --out must be given together: the data set and the folder for the "
            "predictions"
        )
    out = output_path(options.out)
    from resnets.bulk import pool

    if options.engine == "local":
        pool.warm_up()
    from resnets.bulk.plan import lock_output

    try:
        with lock_output(out.absolute()):
            from resnets.bulk.run import BulkOptions, prepare_run

            bulk_options = BulkOptions(
                model,
                options.data,
                out,
                format=options.format,
                top=top_k,
                threshold=threshold,
                shard_size=options.shard_size,
                batch=options.batch_size,
                processes=options.processes,
                engine=options.engine,
                loading=loading,
                **runtime,
            )
            check()
            run = prepare_run(bulk_options, _print)
            if run.finished:
                _print(f"already complete: {_format_output(run)}")
                return 0
            return _run_workers(run)
    except (KeyboardInterrupt, Terminated) as stop:
        _print("stopped before any image was computed")
        return _exit_code(stop)


def _exit_code(stop: BaseException) -> int:
    return stop.code if isinstance(stop, Terminated) else 130


def _run_workers(run: BulkRun) -> int:
    from resnets.bulk.pool import WorkerError
    from resnets.train.log.epoch_lines import format_seconds

    _print_plan(run)
    started = time.monotonic()
    failed: list[int] = []
    stopped: BaseException | None = None
    try:
        _collect_failures(run, failed)
    except (KeyboardInterrupt, Terminated, WorkerError) as stop:
        stopped = stop
    if stopped is not None:
        reason = stopped if isinstance(stopped, WorkerError) else "stopped"
        _print(
            f"{reason}; {run.written:,} of {run.manifest.images:,} images are written, in whole"
            " shards; the same command resumes"
        )
        return 1 if isinstance(stopped, WorkerError) else _exit_code(stopped)
    if failed:
        _print_failed_shards(run, failed)
        return 1
    summary, seconds = run.summarize(), time.monotonic() - started
    rate = f"{run.images_left / seconds:,.0f} images/s"
    _print(f"{_format_output(run)}; {rate} in {format_seconds(seconds)}")
    if summary.unreadable:
        errors = "; ".join(summary.errors[:MAX_NAMED_FAILURES])
        unreadable = format_count(summary.unreadable, "unreadable image")
        _print(f"{unreadable} (see column error): {errors}")
    return 0


def _print_plan(run: BulkRun) -> None:
    from resnets.utils.machine.cpu_count import cores

    images, left = run.manifest.images, run.images_left
    shards = format_count(run.manifest.shards, "shard")
    _print(f"{format_count(images, 'image')} in {shards}, with {run.backend}")
    if left < images:
        _print(f"resuming: {images - left:,} done, {left:,} left")
    is_local_cpu = run.engine == "local" and run.manifest.options.device == "cpu"
    if run.processes == 1 and len(run.missing) > 1 and is_local_cpu and cores() > 1:
        _print(f"using one process; --processes 0 uses one per core ({cores()})")


def _collect_failures(run: BulkRun, failed: list[int]) -> None:
    """Run to the end, and add the shards that failed to `failed`."""
    from resnets.bulk.pool import ShardFailed, WorkerDied

    with closing(_with_progress(run)) as events:
        for event in events:
            if isinstance(event, ShardFailed):
                failed.append(event.shard)
            elif isinstance(event, WorkerDied):
                again = "" if event.shard is None else f"; shard {event.shard} is retried"
                _print(f"worker {event.pid} died ({event.reason}){again}")


def _print_failed_shards(run: BulkRun, failed: list[int]) -> None:
    for shard in failed[:MAX_NAMED_FAILURES]:
        start, stop = run.manifest.span(shard)
        name = run.shard_path(shard).name
        _print(
            f"{name} failed: rows {start:,} to {stop - 1:,} of the data set ended every worker "
            "that tried them"
        )
    _print(f"{len(failed):,} shards failed; run the same command again to retry them")


def _with_progress(run: BulkRun) -> Generator[Event, None, None]:
    """Yield the events of a run, with a progress bar on a terminal, else occasional lines."""
    from resnets.bulk.pool import Progress
    from resnets.evaluate.prepare import with_progress
    from resnets.train.log.epoch_lines import format_seconds

    def images(event: Event) -> int:
        return event.images if isinstance(event, Progress) else 0

    total, left = run.manifest.images, run.images_left
    first = last_line = 0.0  # time of the first result, and of the last line
    computed = counted = 0  # images since the first result, and in all
    with closing(run.work()) as events:
        for event in with_progress(events, left, images):
            yield event
            now = time.monotonic()
            counted += images(event)
            if not first:
                first = last_line = now if counted else 0.0
                continue
            computed += images(event)
            if now - last_line >= PROGRESS_INTERVAL and computed > 0 and not sys.stderr.isatty():
                last_line, rate = now, computed / (now - first)
                _print(
                    f"{total - left + counted:,} of {total:,} images, {rate:,.0f} images/s,"
                    f" {format_seconds((left - counted) / rate)} left"
                )


def _format_output(run: BulkRun) -> str:
    manifest = run.manifest
    shards = format_count(manifest.shards, "shard")
    return f"{format_count(manifest.images, 'image')} in {shards} in {run.job.out}"


def _print(text: str) -> None:
    echo(f"resnets predict: {text}", error=True)
