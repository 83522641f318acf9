"""`resnets.predict_data`: predict a data set of any size into shards."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from os import PathLike, fspath
from pathlib import Path
from typing import Literal

import torch

from resnets.bulk.plan import lock_output
from resnets.bulk.pool import ShardFailed, WorkerError, warm_up
from resnets.bulk.run import BulkOptions, prepare_run
from resnets.bulk.write import Format, Summary
from resnets.runtime.base import Runtime
from resnets.utils.api_function import api_function
from resnets.utils.errors import refuse_options
from resnets.utils.files.local_paths import output_path
from resnets.utils.machine.processes import without_main_module
from resnets.utils.printable import echo
from resnets.weights.checkpoint.find import read_task
from resnets.weights.load import LoadOptions

_log = logging.getLogger("resnets")


@dataclass(frozen=True)
class BulkPredictions:
    """The predictions that `resnets.predict_data` has written into `folder`.

    shards: their files, in the order of the images. images: number of rows. unreadable: number of
    rows that have an `error` instead of a prediction, errors: the first of these. counts: number of
    images by most likely class; of a detector, number of objects by class. warnings: lines about
    images that may be misinterpreted, or are missing; they are also logged.
    """

    folder: Path
    shards: Sequence[Path]
    images: int
    unreadable: int
    errors: Sequence[str]
    counts: Mapping[str, int]
    warnings: Sequence[str] = ()


@api_function
def predict_data(
    weights: str | PathLike[str],
    data: str | PathLike[str],
    out: str | PathLike[str],
    *,
    top_k: int = 5,
    threshold: float = 0.5,
    format: Format = "parquet",
    shard_size: int | None = None,
    batch_size: int | None = None,
    processes: int = 1,
    engine: Literal["local", "ray"] = "local",
    model: str | None = None,
    classes: str | Sequence[str] | None = None,
    device: str = "auto",
    precision: str = "auto",
    backend: Runtime = "auto",
    calibrate: str | PathLike[str] | None = None,
    quiet: bool = True,
) -> BulkPredictions:
    """Predict all images of a data set into files of `out`, one row per image.

        found = resnets.predict_data(run, "photos", out="predictions", processes=0)
        pandas.read_parquet(found.folder), found.counts

    Images are streamed, so the data set may be larger than memory. Each shard is written
    atomically: the same call in a new process resumes where a crash ended the previous one. See
    docs/predict.md for the columns.

    Args:
        weights: A run, checkpoint, artifact or published weights. Worker processes load it, so a
            loaded model is not accepted.
        data: Folder of any nesting, CSV or text file of paths, tar, Parquet, WebDataset,
            hub:ORG/NAME.
        out: Folder for part-00000.parquet, ..., _manifest.json and _summary.json.
        top_k: Classifiers: number of classes per image, most probable first.
        threshold: Detectors: minimum score of a detection.
        format: Format of the shards: "parquet" or "csv".
        shard_size: Images per shard; by default 1/64 of the data set, from 256 to 10,000.
        batch_size: Batch size; chosen for the model by default.
        processes: Number of processes, or actors of Ray, each with a model; 0: one per core; on a
            GPU without Ray 1.
        engine: "local", or "ray": the Ray cluster of RAY_ADDRESS (or one started here).
        model: Network of weights that do not specify it (a state dict).
        classes: Names of the outputs if the weights have none.
        device: auto, cpu, cuda, cuda:1, mps.
        precision: auto, float32, tf32, float16, bfloat16, int8.
        backend: auto, torch, onnx, openvino; see docs/predict.md.
        calibrate: Data set for the calibration of precision "int8".
        quiet: Do not print how the data set was interpreted, nor slow steps.

    Unreadable images get a row with their `error`. Raises ConfigError, also if `out` was started
    with other arguments; DataError; CheckpointError; WeightsError; and WorkerError if shards fail
    repeatedly.
    """
    source, folder = fspath(weights), output_path(out)
    if read_task(source) == "classify":
        refuse_options("only for detectors; omit it", threshold=threshold != 0.5)
    else:
        refuse_options("only for classifiers; omit it for a detector", top_k=top_k != 5)
    options = BulkOptions(
        source,
        fspath(data),
        folder,
        format=format,
        top=top_k,
        threshold=threshold,
        shard_size=shard_size,
        batch=batch_size,
        processes=processes,
        engine=engine,
        backend=backend,
        device=device,
        precision=precision,
        calibrate=None if calibrate is None else fspath(calibrate),
        loading=LoadOptions(model, classes),
    )
    if engine == "local":
        warm_up()
    threads = torch.get_num_threads()
    try:
        with lock_output(folder.absolute()):
            return _predict(options, quiet=quiet)
    finally:
        torch.set_num_threads(threads)  # of which `prepare_run` leaves one


def _predict(options: BulkOptions, *, quiet: bool) -> BulkPredictions:
    def log(text: str) -> None:
        if not quiet:
            echo(text, error=True)

    run = prepare_run(options, log, quiet=quiet)
    for warning in run.warnings if quiet else ():
        _log.warning("%s: %s", options.data, warning)
    with without_main_module(), closing(run.work()) as events:
        failed = [event.shard for event in events if isinstance(event, ShardFailed)]
    if failed:
        names = ", ".join(run.shard_path(shard).name for shard in failed[:3])
        raise WorkerError(
            f"{len(failed):,} of {run.manifest.shards:,} shards failed ({names}): their images "
            "ended every worker that tried them; call again to retry them"
        )
    summary: Summary = run.summarize()
    return BulkPredictions(
        options.out,
        tuple(options.out / run.shard_path(shard).name for shard in range(run.manifest.shards)),
        summary.rows,
        summary.unreadable,
        tuple(summary.errors),
        dict(sorted(summary.classes.items())),
        run.warnings,
    )
