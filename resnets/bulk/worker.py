"""A worker of a bulk prediction: processes one shard after the other."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from resnets.bulk.dataset_index import Item
from resnets.bulk.images import open_dataset
from resnets.bulk.plan import WORK, AttemptCounter, Checksums, Manifest
from resnets.bulk.pool import ShardDone, ShardFailed
from resnets.bulk.write import Row, ShardWriter
from resnets.config import ConfigError
from resnets.data.decode.decode import decode
from resnets.evaluate.batched_inference import batched_inference
from resnets.evaluate.postprocess import decide
from resnets.export.select_backend import open_backend
from resnets.runtime.artifact import artifact_files, file_sha256, is_artifact, model_sha256
from resnets.runtime.base import Backend, Runtime
from resnets.utils.printable import valid_text
from resnets.weights.load import DEFAULT_LOAD_OPTIONS, LoadOptions, load_model


@dataclass(frozen=True)
class Job:
    """What a worker needs besides the manifest.

    out: the folder of the manifest. model: artifact, checkpoint, run or published model. device:
    such as "cuda:1", never "auto", since all workers use the device of the manifest. calibrate: see
    `open_backend`. decoders: threads that read and decode. loading: see `load_model`.
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
        self.backend = open_backend(
            job.model,
            backend=cast(Runtime, options.backend),
            device=job.device,
            precision=options.precision,
            calibrate=job.calibrate,
            loading=job.loading,
        )
        if (device := device_type(self.backend)) != options.device:
            raise ConfigError(
                f"{job.out}: started on {options.device}, but this worker has {device}"
            )
        if weights_sha256(job.model, job.loading) != manifest.model_sha256:
            raise ConfigError(f"{job.model}: its weights have changed since this run was started")
        self.images = open_dataset(job.out / WORK)
        self.view = self.backend.preprocess.view

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
        shard_file = ShardWriter(path, options.format, options.top, self.backend.postprocess)
        with shard_file as writer:
            for group in batched_inference(
                self._read,
                self._logits,
                self.images.items(start, stop),
                group=options.batch,
                workers=self.job.decoders,
                at_once=self.backend.at_once,
                finite=True,
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

    def _read(self, item: Item) -> NDArray[np.uint8]:
        return decode(item.read(), self.view, item.name)

    def _logits(self, images: Sequence[NDArray[np.uint8]]) -> Tensor:
        return torch.from_numpy(self.backend.logits(np.stack(images)))

    def _row(self, item: Item, output: Tensor | str) -> Row:
        name = valid_text(item.name)
        if isinstance(output, str):
            error = output.removeprefix(f"{item.where}: ").removeprefix(f"{item.name}: ")
            return Row(name, error=valid_text(error))
        (decision,) = decide(output.numpy()[None], self.backend.postprocess)
        ids = decision.top(self.manifest.options.top)
        classes = self.backend.classes
        return Row(
            name,
            [classes[each] for each in ids],
            ids,
            decision.probabilities[ids].tolist(),
            **decision.to_json(classes),
        )


def device_type(backend: Backend) -> str:
    """Device type, such as "cuda"; artifacts run on the CPU."""
    return str(getattr(backend, "device", torch.device("cpu")).type)


def weights_sha256(model: str, loading: LoadOptions) -> str:
    """SHA-256 of the files of an artifact, or of the weights of any other model."""
    if not is_artifact(model):
        return model_sha256(load_model(model, loading))
    sums = [file_sha256(file) for file in artifact_files(Path(model))]
    return hashlib.sha256("".join(sums).encode()).hexdigest()
