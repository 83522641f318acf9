"""Bulk prediction: a set of any size in, shards of rows out, gone on with after any kill.

found = find(...)            the set's pictures, in order          bulk_find, bulk_pictures
manifest, missing shards     what decides the rows, what is left   bulk_plan
workers do shards            read, decode, compute, write          bulk_work, bulk_write
shared out                   among processes, or by Ray            bulk_pool, bulk_ray
summary                      counted from the shards               bulk_write
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal, cast

import torch

from resnets.bulk import pool
from resnets.bulk.index import find
from resnets.bulk.plan import SUMMARY, WORK, Checksums, Manifest, Options, Tries, shard_size
from resnets.bulk.pool import Event
from resnets.bulk.worker import Job, ShardWorker, device_type, model_digest
from resnets.bulk.write import Format, Summary
from resnets.config import ConfigError, dump_json
from resnets.data.dataset.summary import DataSummary, SplitSummary, announce
from resnets.data.errors import DataError
from resnets.evaluate.predict import MOST
from resnets.export.select import open_backend
from resnets.runtime.base import Backend, Runtime, describe_backend
from resnets.utils.cpu_count import cores
from resnets.weights.load import NOTHING_SAID, LoadOptions


@dataclass(frozen=True)
class BulkOptions:
    """What the user asked for; None is up to us.

    data, out, model: paths or names. processes: 0 is one a core.
    """

    model: str
    data: str
    out: Path
    format: Format = "parquet"
    top: int = 5
    shard_size: int | None = None
    batch: int | None = None
    processes: int = 1
    engine: Literal["local", "ray"] = "local"
    backend: Runtime = "auto"
    device: str = "auto"
    precision: str = "auto"
    calibrate: str | None = None
    loading: LoadOptions = NOTHING_SAID

    def __post_init__(self) -> None:
        for name, least in (("top", 1), ("shard_size", 1), ("batch", 1), ("processes", 0)):
            value = getattr(self, name)
            if value is not None and value < least:
                option = {"top": "top-k", "batch": "batch-size"}.get(name, name.replace("_", "-"))
                raise ConfigError(f"--{option} {value}: must be at least {least}")


@dataclass(frozen=True)
class Run:
    """A prediction that can be worked at: `out` is held, its manifest written.

    computing: with what, for people.
    """

    manifest: Manifest
    computing: str
    job: Job
    missing: tuple[int, ...]
    processes: int
    engine: Literal["local", "ray"]

    @property
    def pictures_left(self) -> int:
        """Pictures of the shards that are not there."""
        spans = map(self.manifest.span, self.missing)
        return sum(stop - start for start, stop in spans)

    @property
    def written(self) -> int:
        """Pictures of the shards that are there by now, which are whole."""
        manifest, out = self.manifest, self.job.out
        there = (n for n in range(manifest.shards) if manifest.path(out, n).exists())
        return sum(stop - start for start, stop in map(manifest.span, there))

    @property
    def finished(self) -> bool:
        """Whether nothing is left to do."""
        return not self.missing and (self.job.out / SUMMARY).is_file()

    def work(self) -> Generator[Event, None, None]:
        """Do what is missing, and tell of it."""
        if self.engine == "ray" and self.missing:
            from resnets.bulk import ray

            return ray.share_out(self.job, self.missing, self.processes)
        return pool.share_out(partial(ShardWorker, self.job), self.missing, self.processes)

    def summarise(self) -> Summary:
        """Count what the shards hold, and leave it in `out`, which makes the run finished.

        DataError where they do not hold each picture once.
        """
        summary, manifest = Summary(), self.manifest
        for shard in range(manifest.shards):
            summary.add(manifest.path(self.job.out, shard), manifest.options.format)
        if summary.rows != manifest.pictures:
            raise DataError(
                f"{self.job.out}: {summary.rows:,} rows of {manifest.pictures:,} pictures; a shard"
                " was changed meanwhile, start the same command again"
            )
        sums = {"sha256": dict(sorted(Checksums(self.job.out).known().items()))}
        dump_json(summary.as_json() | sums, self.job.out / SUMMARY)
        return summary


def begin(wanted: BulkOptions, say: Callable[[str], None]) -> Run:
    """Find the set, open the net, and see what `out` (see `bulk_plan.held`) lacks.

    `say` hears of what takes long. Raises ConfigError where `out` was begun otherwise, DataError
    for a set without pictures.
    """
    torch.set_num_threads(1)  # as the workers have it: it decides what is worth computing at once
    out = wanted.out.absolute()
    _apart(wanted.data, out)
    begun = Manifest.read(out)
    found = find(wanted.data, out / WORK)
    images = (SplitSummary("images", found.count, ""),)
    announce(DataSummary(wanted.data, (), images, None, found.left_out, found.links))
    model = str(Path(wanted.model).absolute()) if Path(wanted.model).exists() else wanted.model
    told = (
        wanted.data,
        found.count,
        found.sha256,
        wanted.model,
        model_digest(model, wanted.loading),
    )
    if begun is not None:
        begun.check_inputs(out, Manifest(*told, begun.options))
    backend = _open(wanted, model, begun, found.count, say)
    options = _options(wanted, backend, found.count, begun.options if begun else None)
    manifest = Manifest(*told, options)
    if begun is None:
        manifest.save(out)
    else:
        begun.check_options(out, options)
    Tries(out).clear()
    checksums = Checksums(out)
    known = checksums.known()
    missing = manifest.missing(out, known)
    if begun is not None and (changed := _present(manifest, out, missing)):
        without = "damaged or changed" if known else "without a checksum"
        say(f"{out}: {changed:,} of {manifest.shards:,} shards are {without}; computing them again")
    if missing:
        checksums.reopen()
    processes = min(wanted.processes or cores(), max(1, len(missing)))
    # Ray shows each of its workers one GPU, whatever number that has here.
    any_of_them = wanted.device == "auto" or wanted.engine == "ray"
    device = options.device if any_of_them else wanted.device
    job = Job(out, model, device, wanted.calibrate, max(1, cores() // processes), wanted.loading)
    return Run(manifest, describe_backend(backend), job, missing, processes, wanted.engine)


def _present(manifest: Manifest, out: Path, missing: Sequence[int]) -> int:
    """How many of the `missing` shards have a file all the same."""
    return sum(manifest.path(out, shard).exists() for shard in missing)


def _open(
    wanted: BulkOptions, model: str, begun: Manifest | None, count: int, say: Callable[[str], None]
) -> Backend:
    """What computes; where that is left to us, what the run was begun with."""
    backend, precision = wanted.backend, wanted.precision
    if begun is not None:
        backend = cast(Runtime, begun.options.backend) if backend == "auto" else backend
        precision = begun.options.precision if precision == "auto" else precision
    return open_backend(
        model,
        backend=backend,
        device=wanted.device,
        precision=precision,
        images=count,
        calibrate=wanted.calibrate,
        loading=wanted.loading,
        log=say,
    )


def _options(wanted: BulkOptions, backend: Backend, count: int, begun: Options | None) -> Options:
    runtime, precision = backend.name.replace(",", "").split()[:2]
    return Options(
        wanted.format,
        wanted.shard_size or (begun.shard_size if begun else shard_size(count)),
        min(wanted.top, len(backend.classes)),
        wanted.batch or (begun.batch if begun else min(MOST, backend.batch)),
        runtime,
        precision,
        device_type(backend),
    )


def _apart(data: str, out: Path) -> None:
    root = Path(data).expanduser().absolute()
    if root.is_dir() and (out == root or root in out.parents):
        raise ConfigError(f"--out {out}: lies in --data; choose a folder elsewhere")
