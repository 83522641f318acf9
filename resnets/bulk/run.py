"""Run a bulk prediction: a data set of any size to shards of rows, resumable after a crash.

index_dataset(...)           list the images, in a fixed order     index, images
manifest, missing shards     inputs and options; what is left      plan
workers process shards       read, decode, compute, write          worker, write
schedule                     local processes, or Ray               pool, ray
summary                      counted from the shards               write
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal, cast

import numpy as np
import torch

from resnets.bulk import pool
from resnets.bulk.dataset_index import ImageSet
from resnets.bulk.image_index import index_dataset
from resnets.bulk.images import open_dataset
from resnets.bulk.model import BulkModel, open_bulk_model, weights_sha256
from resnets.bulk.plan import (
    SUMMARY,
    WORK,
    AttemptCounter,
    Checksums,
    Manifest,
    RowOptions,
    shard_size,
)
from resnets.bulk.pool import Event
from resnets.bulk.worker import Job, ShardWorker
from resnets.bulk.write import Format, Layout, Summary
from resnets.config import ConfigError, dump_json
from resnets.config.ranges import check_range
from resnets.data.dataset.probe_split import probe_images
from resnets.data.dataset.summary import DataSummary, SplitSummary, announce
from resnets.data.decode.pixel_values import RANGE_16_BIT
from resnets.data.errors import DataError
from resnets.runtime.base import Runtime
from resnets.utils.machine.cpu_count import cores
from resnets.weights.load import DEFAULT_LOAD_OPTIONS, LoadOptions

RANDOM_ACCESS = ("files", "spans")  # kinds of data sets of which single images are read quickly


@dataclass(frozen=True)
class BulkOptions:
    """Options of the user; None selects a default.

    data, out, model: paths or names. top: classes per image. threshold: lowest score of an object.
    processes: 0 means one per core; on a GPU without Ray, one.
    """

    model: str
    data: str
    out: Path
    format: Format = "parquet"
    top: int = 5
    threshold: float = 0.5
    shard_size: int | None = None
    batch: int | None = None
    processes: int = 1
    engine: Literal["local", "ray"] = "local"
    backend: Runtime = "auto"
    device: str = "auto"
    precision: str = "auto"
    calibrate: str | None = None
    loading: LoadOptions = DEFAULT_LOAD_OPTIONS

    def __post_init__(self) -> None:
        check_range("--top-k", self.top, "[1, inf)")
        check_range("--shard-size", self.shard_size, "[1, inf)")
        check_range("--batch-size", self.batch, "[1, inf)")
        check_range("--processes", self.processes, "[0, inf)")
        check_range("--threshold", self.threshold, "[0, 1]")


@dataclass(frozen=True)
class BulkRun:
    """A prepared bulk prediction: `out` is locked and its manifest written.

    backend: its description, for the log. counted: the column that the summary counts. warnings:
    lines about images that may be misinterpreted, or are missing.
    """

    manifest: Manifest
    backend: str
    job: Job
    missing: tuple[int, ...]
    processes: int
    engine: Literal["local", "ray"]
    counted: str
    warnings: tuple[str, ...] = ()

    @property
    def images_left(self) -> int:
        """Number of images in missing shards."""
        spans = map(self.manifest.span, self.missing)
        return sum(stop - start for start, stop in spans)

    @property
    def written(self) -> int:
        """Number of images in shards written so far."""
        manifest = self.manifest
        written = (n for n in range(manifest.shards) if self.shard_path(n).exists())
        return sum(stop - start for start, stop in map(manifest.span, written))

    def shard_path(self, shard: int) -> Path:
        """Return the file of a shard."""
        return self.manifest.path(self.job.out, shard)

    @property
    def finished(self) -> bool:
        """Whether all shards and the summary exist."""
        return not self.missing and (self.job.out / SUMMARY).is_file()

    def work(self) -> Generator[Event, None, None]:
        """Process the missing shards and yield events."""
        if self.engine == "ray" and self.missing:
            from resnets.bulk import ray

            return ray.run_shards(self.job, self.missing, self.processes)
        return pool.run_shards(partial(ShardWorker, self.job), self.missing, self.processes)

    def summarize(self) -> Summary:
        """Count the rows of all shards and write _summary.json, which marks the run as finished.

        DataError if the shards do not contain each image once.
        """
        summary, manifest = Summary(self.counted), self.manifest
        for shard in range(manifest.shards):
            summary.add(self.shard_path(shard), manifest.options.format)
        if summary.rows != manifest.images:
            raise DataError(
                f"{self.job.out}: has {summary.rows:,} rows for {manifest.images:,} images, so a "
                "shard was modified; run the same command again"
            )
        sums = {"sha256": dict(sorted(Checksums(self.job.out).known().items()))}
        dump_json(summary.to_json() | sums, self.job.out / SUMMARY)
        return summary


def prepare_run(
    request: BulkOptions, log: Callable[[str], None], *, quiet: bool = False
) -> BulkRun:
    """Index the data set, open the model, and find the shards that `out` lacks.

    `out` must be locked (`plan.lock_output`). log: called before slow steps. quiet: do not print
    the summary of the data set. Raises ConfigError if
    `out` was started with other inputs or options, DataError for a data set without images.
    """
    torch.set_num_threads(1)  # as in the workers, since it decides the batch size
    out = request.out.absolute()
    _check_out_folder(request.data, out)
    previous = Manifest.read(out)
    index = index_dataset(request.data, out / WORK)
    images = (SplitSummary("images", index.count, ""),)
    skipped, links = index.skipped, index.links
    if not quiet:
        announce(
            DataSummary(request.data, (), images, None, skipped, links, warnings=index.warnings)
        )
    model = str(Path(request.model).absolute()) if Path(request.model).exists() else request.model
    inputs = (
        request.data,
        index.count,
        index.sha256,
        request.model,
        weights_sha256(model, request.loading),
    )
    if previous is not None:
        previous.check_inputs(out, Manifest(*inputs, previous.options))
    opened = _open_model(request, model, previous, index.count, log)
    warnings = list(index.warnings)
    if index.kind in RANDOM_ACCESS:
        sample = _RandomAccess(open_dataset(out / WORK))
        levels = opened.preprocess.spec.value_range or RANGE_16_BIT
        for warning in probe_images(sample, np.arange(index.count), levels).warnings:
            log(f"warning: {warning}")
            warnings.append(warning)
    options, layout = _resolve_options(
        request, opened, index.count, previous.options if previous else None
    )
    manifest = Manifest(*inputs, options)
    if previous is None:
        manifest.save(out)
    else:
        previous.check_options(out, options)
    AttemptCounter(out).clear()
    checksums = Checksums(out)
    known = checksums.known()
    missing = manifest.missing(out, known)
    if previous is not None and (changed := _count_existing(manifest, out, missing)):
        state = "damaged or changed" if known else "without a checksum"
        log(f"{out}: {changed:,} of {manifest.shards:,} shards are {state}; computing them again")
    if missing:
        checksums.reopen()
    default = cores() if options.device == "cpu" or request.engine == "ray" else 1
    processes = min(request.processes or default, max(1, len(missing)))
    # Ray shows each worker one GPU only, whose index may differ from the one here.
    any_device = request.device == "auto" or request.engine == "ray"
    device = options.device if any_device else request.device
    job = Job(out, model, device, request.calibrate, max(1, cores() // processes), request.loading)
    return BulkRun(
        manifest,
        opened.description,
        job,
        missing,
        processes,
        request.engine,
        layout.counted,
        tuple(warnings),
    )


@dataclass(frozen=True)
class _RandomAccess:
    """Single images of a data set by index, to probe some before work begins."""

    images: ImageSet

    def name(self, index: int, /) -> str:
        """Return the name of an image."""
        return next(iter(self.images.items(index, index + 1))).name

    def read(self, index: int, /) -> bytes | memoryview:
        """Return the encoded bytes of an image."""
        return next(iter(self.images.items(index, index + 1))).read()


def _count_existing(manifest: Manifest, out: Path, missing: Sequence[int]) -> int:
    """How many of the `missing` shards have a file."""
    return sum(manifest.path(out, shard).exists() for shard in missing)


def _open_model(
    request: BulkOptions,
    model: str,
    previous: Manifest | None,
    count: int,
    log: Callable[[str], None],
) -> BulkModel:
    """Open the model; "auto" means the backend of the previous run, if any."""
    backend, precision = request.backend, request.precision
    if previous is not None:
        backend = cast(Runtime, previous.options.backend) if backend == "auto" else backend
        precision = previous.options.precision if precision == "auto" else precision
    return open_bulk_model(
        model,
        backend=backend,
        device=request.device,
        precision=precision,
        images=count,
        calibrate=request.calibrate,
        loading=request.loading,
        log=log,
    )


def _resolve_options(
    request: BulkOptions, model: BulkModel, count: int, previous: RowOptions | None
) -> tuple[RowOptions, Layout]:
    runtime, precision = model.engine.replace(",", "").split()[:2]
    top, layout = model.columns(request.top)
    options = RowOptions(
        request.format,
        request.shard_size or (previous.shard_size if previous else shard_size(count)),
        top,
        request.batch or (previous.batch if previous else model.batch),
        runtime,
        precision,
        model.device,
        request.threshold if layout.counted == "objects" else None,
    )
    return options, layout


def _check_out_folder(data: str, out: Path) -> None:
    root = Path(data).expanduser().absolute()
    if root.is_dir() and (out == root or root in out.parents):
        raise ConfigError(f"--out {out}: is inside --data; choose another folder")
