"""Shards shared out over a cluster by Ray Data: actors that each hold a net, one block a shard.

Ray puts the tasks of an actor that died, or of a node that went, to another; a shard is a file that
appears whole, so one that is done twice is there once. The manifest, the work folder and the shards
are files of `out`: nodes need it, the set and the net at the same paths.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Generator, Iterator, Sequence
from typing import Any

import numpy as np

from resnets.bulk.pool import Computed, Done, Event, GivenUp, WorkError
from resnets.bulk.worker import Job, ShardWorker
from resnets.config import ConfigError
from resnets.utils.cpu_count import cores

WAITING = 2  # shards that an actor has been given, the one it is at among them


class _Actor:
    """A `ShardWorker` as `map_batches` wants it: a batch, which is one shard, in and out."""

    def __init__(self, job: Job) -> None:
        self.worker: ShardWorker | None = None
        self.failure = ""
        try:
            self.worker = ShardWorker(job)
        except (ValueError, OSError, RuntimeError) as error:
            self.failure = _line(error)

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        shard = int(batch["item"][0])
        told: Done | GivenUp = GivenUp(shard)
        if self.worker is not None:
            try:
                told = self.worker.do(shard, lambda count: None)
            except (ValueError, OSError, RuntimeError) as error:
                self.failure = _line(error)
        done = told if isinstance(told, Done) else Done(shard, 0, 0)
        return {
            "shard": np.array([shard]),
            "pictures": np.array([done.pictures]),
            "unreadable": np.array([done.unreadable]),
            "failure": np.array([self.failure]),
        }


def share_out(job: Job, shards: Sequence[int], actors: int) -> Generator[Event, None, None]:
    """Have `actors` of a Ray cluster, or of this machine, do `shards`; see `bulk_pool.share_out`.

    The cluster is that of RAY_ADDRESS, or one that runs here; else one is started. Raises
    ConfigError where Ray is missing or has fewer cores (or GPUs), WorkError with what failed.
    """
    ray = _ray()
    gpus = 1 if job.device.startswith("cuda") else 0
    here = not ray.is_initialized()
    if here:
        # Ray counts the machine's cores; a cluster that is already there has its own count.
        limit = {} if "RAY_ADDRESS" in os.environ else {"num_cpus": cores()}
        ray.init(log_to_driver=False, logging_level=logging.ERROR, **limit)
    try:
        for what, wanted in (("CPU", actors), ("GPU", gpus * actors)):
            held = int(ray.cluster_resources().get(what, 0))
            if held < wanted:
                raise ConfigError(f"--processes {actors}: the Ray cluster has {held} {what}s")
        yield from _map(ray, job, shards, actors, gpus)
    finally:
        if here:
            ray.shutdown()


def _map(ray: Any, job: Job, shards: Sequence[int], actors: int, gpus: int) -> Iterator[Event]:
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    blocks = ray.data.from_items(list(shards), override_num_blocks=len(shards))
    done = blocks.map_batches(
        _Actor,
        fn_constructor_args=(job,),
        batch_size=1,
        compute=ray.data.ActorPoolStrategy(size=actors, max_tasks_in_flight_per_actor=WAITING),
        num_cpus=1,
        num_gpus=gpus,
        max_restarts=-1,
        max_task_retries=-1,
    )
    for row in done.iter_rows():
        if row["failure"]:
            raise WorkError(str(row["failure"]))
        if not row["pictures"]:
            yield GivenUp(int(row["shard"]))
            continue
        yield Computed(int(row["pictures"]))
        yield Done(int(row["shard"]), int(row["pictures"]), int(row["unreadable"]))


def _ray() -> Any:
    # Its core warns on stderr of what Ray Data itself does each time it makes an actor.
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    try:
        import ray
        import ray.data
    except ImportError:
        raise ConfigError("--engine ray: needs Ray; pip install 'resnets[ray]'") from None
    return ray


def _line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
