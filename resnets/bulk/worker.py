"""A worker of a bulk prediction: processes one shard after the other."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch

from resnets.bulk.dataset_index import Item
from resnets.bulk.images import open_dataset
from resnets.bulk.model import open_bulk_model, weights_sha256
from resnets.bulk.plan import WORK, AttemptCounter, Checksums, Manifest
from resnets.bulk.pool import ShardDone, ShardFailed
from resnets.bulk.write import Row, ShardWriter
from resnets.config import ConfigError
from resnets.evaluate.batched_inference import batched_inference
from resnets.runtime.base import Runtime
from resnets.utils.printable import valid_text, without_log
from resnets.weights.load import DEFAULT_LOAD_OPTIONS, LoadOptions


@dataclass(frozen=True)
class Job:
    """What a worker needs besides the manifest.

    out: the folder of the manifest. model: artifact, checkpoint, run or published model. device:
    such as "cuda:1", never "auto", since all workers use the device of the manifest. calibrate: see
    `open_backend`. decoders: threads that read and decode. loading: see `load_classifier`.
    """

    out: Path
    model: str
    device: str
    calibrate: str | None
    decoders: int
    loading: LoadOptions = DEFAULT_LOAD_OPTIONS


class ShardWorker:
    """See `pool.Worker`. torch uses one thread, so that rows do not depend on the cores."""

    def __init__(self, job: Job) -> None:
        torch.set_num_threads(1)
        manifest = Manifest.read(job.out)
        assert manifest is not None
        self.job, self.manifest, self.attempts = job, manifest, AttemptCounter(job.out)
        options = manifest.options
        with without_log():  # the main process has described it
            self.model = open_bulk_model(
                job.model,
                backend=cast(Runtime, options.backend),
                device=job.device,
                precision=options.precision,
                calibrate=job.calibrate,
                loading=job.loading,
            )
        if self.model.device != options.device:
            raise ConfigError(
                f"{job.out}: was started on {options.device}, but this worker uses "
                f"{self.model.device}"
            )
        if weights_sha256(job.model, job.loading) != manifest.model_sha256:
            raise ConfigError(f"{job.model}: the weights have changed since this run was started")
        self.images = open_dataset(job.out / WORK)
        _, self.layout = self.model.columns(options.top)

    def process_shard(self, shard: int, report: Callable[[int], None]) -> ShardDone | ShardFailed:
        """Write a shard, unless it has no attempts left.

        Raises DataError if the whole data set is gone, OSError if the disk is full.
        """
        if not self.attempts.begin(shard):
            return ShardFailed(shard)
        options = self.manifest.options
        start, stop = self.manifest.span(shard)
        unreadable = 0
        path = self.manifest.path(self.job.out, shard)
        shard_file = ShardWriter(path, options.format, self.layout)
        with shard_file as writer:
            for group in batched_inference(
                self.model.read,
                self.model.compute,
                self.images.items(start, stop),
                group=options.batch,
                workers=self.job.decoders,
                at_once=self.model.at_once,
                finite=self.model.finite,
            ):
                rows = [self._row(item, output) for item, output in group]
                unreadable += sum(row.error is not None for row in rows)
                writer.add(rows)
                report(len(rows))
            if unreadable:
                self.images.check()
        Checksums(self.job.out).save(path, shard_file.sha256)
        self.attempts.end(shard)
        return ShardDone(shard, stop - start, unreadable)

    def _row(self, item: Item, output: Any) -> Row:
        name = valid_text(item.name)
        if isinstance(output, str):
            error = output.removeprefix(f"{item.where}: ").removeprefix(f"{item.name}: ")
            return Row(name, error=valid_text(error))
        options = self.manifest.options
        return Row(name, self.model.cells(output, options.top, options.threshold))
