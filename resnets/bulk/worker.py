"""A worker of a bulk prediction: a net, a set, and one shard after the other."""

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

from resnets.bulk.data_set import Item
from resnets.bulk.images import open_pictures
from resnets.bulk.plan import WORK, Checksums, Manifest, Tries
from resnets.bulk.pool import Done, GivenUp
from resnets.bulk.write import Row, ShardWriter
from resnets.config import ConfigError
from resnets.data.decode.decode import decode
from resnets.evaluate.batched_inference import compute_in_groups
from resnets.export.select import open_backend
from resnets.runtime.artifact import artifact_files, file_sha256, is_artifact, model_sha256
from resnets.runtime.base import Backend, Runtime
from resnets.utils.terminal import valid_text
from resnets.weights.load import NOTHING_SAID, LoadOptions, load_model


@dataclass(frozen=True)
class Job:
    """What a worker has to know beside the manifest: where things are now.

    out: the folder of the manifest. model: artifact, checkpoint, run or published net. device: such
    as "cuda:1", never "auto": all workers compute on what the manifest says. calibrate: see
    `open_backend`. decoders: threads that read and decode. loading: as of `load_model`.
    """

    out: Path
    model: str
    device: str
    calibrate: str | None
    decoders: int
    loading: LoadOptions = NOTHING_SAID


class ShardWorker:
    """See `bulk_pool.Worker`. One thread computes, so that the rows never depend on the cores."""

    def __init__(self, job: Job) -> None:
        torch.set_num_threads(1)
        manifest = Manifest.read(job.out)
        assert manifest is not None
        self.job, self.manifest, self.tries = job, manifest, Tries(job.out)
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
            raise ConfigError(f"{job.out}: begun on {options.device}, and this worker has {device}")
        if model_digest(job.model, job.loading) != manifest.model_sha256:
            raise ConfigError(f"{job.model}: its weights have changed since this run began")
        self.pictures = open_pictures(job.out / WORK)
        self.view = self.backend.preprocess.view

    def do(self, shard: int, report: Callable[[int], None]) -> Done | GivenUp:
        """Write a shard, unless it has cost too many workers already.

        Raises DataError where the whole set has gone, OSError where the disk is full.
        """
        if not self.tries.begin(shard):
            return GivenUp(shard)
        options = self.manifest.options
        start, stop = self.manifest.span(shard)
        bad = 0
        path = self.manifest.path(self.job.out, shard)
        shard_file = ShardWriter(path, options.format, options.top)
        with shard_file as writer:
            for group in compute_in_groups(
                self._read,
                self._best,
                self.pictures.items(start, stop),
                group=options.batch,
                workers=self.job.decoders,
                at_once=self.backend.at_once,
            ):
                rows = [self._row(item, found) for item, found in group]
                bad += sum(row.error is not None for row in rows)
                writer.add(rows)
                report(len(rows))
            if bad:
                self.pictures.check()
        Checksums(self.job.out).note(path, shard_file.sha256)
        self.tries.end(shard)
        return Done(shard, stop - start, bad)

    def _read(self, item: Item) -> NDArray[np.uint8]:
        return decode(item.read(), self.view, item.name)

    def _best(self, pictures: Sequence[NDArray[np.uint8]]) -> Tensor:
        """(B, 2, top) float64: numbers of the likeliest classes, and their probabilities."""
        shares = self.backend.probabilities(np.stack(pictures))
        best = np.argsort(-shares, axis=1, kind="stable")[:, : self.manifest.options.top]
        return torch.from_numpy(np.stack([best, np.take_along_axis(shares, best, 1)], 1))

    def _row(self, item: Item, found: Tensor | str) -> Row:
        name = valid_text(item.name)
        if isinstance(found, str):
            error = found.removeprefix(f"{item.where}: ").removeprefix(f"{item.name}: ")
            return Row(name, error=valid_text(error))
        ids, shares = found[0].int().tolist(), found[1].tolist()
        return Row(name, [self.backend.classes[each] for each in ids], ids, shares)


def device_type(backend: Backend) -> str:
    """Such as "cuda"; artifacts compute on the CPU."""
    return str(getattr(backend, "device", torch.device("cpu")).type)


def model_digest(model: str, loading: LoadOptions) -> str:
    """SHA-256 of an artifact's files, or of what the net of anything else computes."""
    if not is_artifact(model):
        return model_sha256(load_model(model, loading))
    sums = [file_sha256(file) for file in artifact_files(Path(model))]
    return hashlib.sha256("".join(sums).encode()).hexdigest()
