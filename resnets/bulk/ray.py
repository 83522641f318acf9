"""Process shards on a cluster with Ray Data: one model per actor, one block per shard.

Ray Data restarts actors that died and retries their tasks, by default without limit; shards are
written atomically, so doing one twice is harmless. All nodes need `out`, the data set and the model
at the same paths.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Generator, Iterator, Sequence
from typing import Any

import numpy as np

from resnets.bulk.pool import Event, Progress, ShardDone, ShardFailed, WorkerError
from resnets.bulk.worker import Job, ShardWorker
from resnets.config import ConfigError
from resnets.utils.machine.cpu_count import cores

TASKS_PER_ACTOR = 2  # queued at an actor, including the current one


class _Actor:
    """Adapts `ShardWorker` to `map_batches`: each batch is one shard."""

    def __init__(self, job: Job) -> None:
        self.worker: ShardWorker | None = None
        self.failure = ""
        try:
            self.worker = ShardWorker(job)
        except (ValueError, OSError, RuntimeError) as error:
            self.failure = _format_error(error)

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        shard = int(batch["item"][0])
        result: ShardDone | ShardFailed = ShardFailed(shard)
        if self.worker is not None:
            try:
                result = self.worker.process_shard(shard, lambda count: None)
            except (ValueError, OSError, RuntimeError) as error:
                self.failure = _format_error(error)
        done = result if isinstance(result, ShardDone) else ShardDone(shard, 0, 0)
        return {
            "shard": np.array([shard]),
            "images": np.array([done.images]),
            "unreadable": np.array([done.unreadable]),
            "failure": np.array([self.failure]),
        }


def run_shards(job: Job, shards: Sequence[int], actors: int) -> Generator[Event, None, None]:
    """Process `shards` in `actors` of a Ray cluster; see `pool.run_shards`.

    Uses the cluster of RAY_ADDRESS, or a running local one; else starts one. Raises ConfigError if
    Ray is not installed or has too few cores (or GPUs), WorkerError if a worker cannot continue.
    """
    ray = _import_ray()
    gpus = 1 if job.device.startswith("cuda") else 0
    started = not ray.is_initialized()
    if started:
        # By default Ray counts all cores of the machine; a running cluster has its own count.
        limit = {} if "RAY_ADDRESS" in os.environ else {"num_cpus": cores()}
        ray.init(log_to_driver=False, logging_level=logging.ERROR, **limit)
    try:
        for resource, needed in (("CPU", actors), ("GPU", gpus * actors)):
            available = int(ray.cluster_resources().get(resource, 0))
            if available < needed:
                raise ConfigError(
                    f"--processes {actors}: the Ray cluster has only {available} {resource}s"
                )
        yield from _map_shards(ray, job, shards, actors, gpus)
    finally:
        if started:
            ray.shutdown()


def _map_shards(
    ray: Any, job: Job, shards: Sequence[int], actors: int, gpus: int
) -> Iterator[Event]:
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    blocks = ray.data.from_items(list(shards), override_num_blocks=len(shards))
    done = blocks.map_batches(
        _Actor,
        fn_constructor_args=(job,),
        batch_size=1,
        compute=ray.data.ActorPoolStrategy(
            size=actors, max_tasks_in_flight_per_actor=TASKS_PER_ACTOR
        ),
        num_cpus=1,
        num_gpus=gpus,
    )
    for row in done.iter_rows():
        if row["failure"]:
            raise WorkerError(str(row["failure"]))
        if not row["images"]:
            yield ShardFailed(int(row["shard"]))
            continue
        yield Progress(int(row["images"]))
        yield ShardDone(int(row["shard"]), int(row["images"]), int(row["unreadable"]))


def _import_ray() -> Any:
    # Hides a warning on stderr that Ray Data causes itself with each actor.
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    try:
        import ray
        import ray.data
    except ImportError:
        raise ConfigError(
            "--engine ray: Ray is not installed; pip install 'resnets[ray]'"
        ) from None
    return ray


def _format_error(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
