"""Process shards in a pool of local processes; a worker that dies is replaced.

This module imports nothing heavy: workers are forked from a server that has imported torch once,
while the main process indexes the data set.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import connection
from multiprocessing.process import BaseProcess
from typing import Any, Protocol

from resnets.utils.errors import ResnetsError

WORKER_MODULES = ("resnets.bulk.worker", "resnets.bulk.model")
MAX_FAILED_STARTS = 3  # consecutive workers that may die before they are ready


@dataclass(frozen=True)
class Progress:
    """Number of images computed since the last event; negative if a worker died with its shard."""

    images: int


@dataclass(frozen=True)
class ShardDone:
    """A shard is written; unreadable: images that could not be read."""

    shard: int
    images: int
    unreadable: int


@dataclass(frozen=True)
class ShardFailed:
    """A shard failed: too many of its workers died."""

    shard: int


@dataclass(frozen=True)
class WorkerDied:
    """A worker died and is replaced; reason: signal or exit code."""

    pid: int
    reason: str
    shard: int | None


@dataclass(frozen=True)
class Aborted:
    """An error that would stop any worker, such as a full disk or changed weights."""

    message: str


Event = Progress | ShardDone | ShardFailed | WorkerDied | Aborted


class Worker(Protocol):
    """Processes shards; created in the process that uses it."""

    def process_shard(self, shard: int, report: Callable[[int], None]) -> ShardDone | ShardFailed:
        """Write one shard; `report` is called with the number of images computed."""


class WorkerError(ResnetsError):
    """Workers that cannot continue; the message is one line."""


def warm_up() -> None:
    """Start the fork server and have it import the modules of the workers in advance."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(WORKER_MODULES))
    from multiprocessing.forkserver import ensure_running

    ensure_running()


def run_shards(
    make: Callable[[], Worker], shards: Iterable[int], processes: int
) -> Generator[Event, None, None]:
    """Process `shards` in `processes`, roughly in order; `make` is pickled and called in each.

    Ends when all shards are done or failed. Closing it early, or an error, kills the workers.
    Raises WorkerError with the message of a worker that cannot continue.
    """
    pool = _Pool(make, deque(shards), processes)
    try:
        yield from pool.run()
    finally:
        pool.stop()


@dataclass
class _WorkerProcess:
    """A worker process, the main end of its pipe, and its current shard."""

    process: BaseProcess
    pipe: connection.Connection
    ready: bool = False
    shard: int | None = None
    computed: int = 0


class _Pool:
    def __init__(self, make: Callable[[], Worker], pending: deque[int], processes: int) -> None:
        self.make, self.pending, self.processes = make, pending, processes
        self.context = multiprocessing.get_context("forkserver")
        self.workers: list[_WorkerProcess] = []
        self.failed_starts = 0

    def run(self) -> Iterator[Event]:
        while self.pending or any(worker.shard is not None for worker in self.workers):
            self._assign()
            busy = sum(worker.shard is not None for worker in self.workers)
            while len(self.workers) < min(self.processes, busy + len(self.pending)):
                self._start_worker()
            for pipe in connection.wait([worker.pipe for worker in self.workers]):
                worker = next(worker for worker in self.workers if worker.pipe is pipe)
                try:
                    message = worker.pipe.recv()
                except (EOFError, OSError):
                    yield from self._on_exit(worker)
                    continue
                yield from self._handle(worker, message)

    def _assign(self) -> None:
        """Assign shards to idle workers."""
        for worker in self.workers:
            if self.pending and worker.ready and worker.shard is None:
                worker.shard = self.pending.popleft()
                with suppress(OSError):  # it has just died; its pipe will report that
                    worker.pipe.send(worker.shard)

    def _start_worker(self) -> None:
        own_end, worker_end = self.context.Pipe()
        process = self.context.Process(
            target=_worker_main, args=(self.make, worker_end), daemon=True
        )
        process.start()
        worker_end.close()
        self.workers.append(_WorkerProcess(process, own_end))

    def _handle(self, worker: _WorkerProcess, message: Any) -> Iterator[Event]:
        if isinstance(message, Aborted):
            raise WorkerError(message.message)
        if isinstance(message, Progress):
            worker.computed += message.images
            yield message
            return
        worker.ready, worker.shard, worker.computed, self.failed_starts = True, None, 0, 0
        if isinstance(message, ShardDone | ShardFailed):
            yield message

    def _on_exit(self, worker: _WorkerProcess) -> Iterator[Event]:
        worker.process.join()
        self.workers.remove(worker)
        worker.pipe.close()
        reason = _exit_reason(worker.process.exitcode)
        if worker.shard is not None:
            self.pending.appendleft(worker.shard)
        if not worker.ready:
            self.failed_starts += 1
            if self.failed_starts == MAX_FAILED_STARTS:
                raise WorkerError(
                    f"worker processes die during start-up ({reason}); the machine may be out of "
                    "memory, try fewer --processes"
                )
        yield Progress(-worker.computed)
        yield WorkerDied(worker.process.pid or 0, reason, worker.shard)

    def stop(self) -> None:
        for worker in self.workers:
            worker.process.kill()
            worker.process.join()
            worker.pipe.close()


def _exit_reason(code: int | None) -> str:
    if code is not None and code < 0:
        try:
            return signal.Signals(-code).name
        except ValueError:
            return f"signal {-code}"
    return f"exit code {code}"


def _worker_main(make: Callable[[], Worker], pipe: connection.Connection) -> None:
    """Main function of a worker process: process shards from the pipe until it closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is handled by the main process
    threading.Thread(target=_exit_with_parent, daemon=True).start()
    try:
        worker = make()
        pipe.send("ready")
        while True:
            shard = pipe.recv()
            pipe.send(worker.process_shard(shard, lambda count: pipe.send(Progress(count))))
    except (EOFError, BrokenPipeError):  # the main process has ended, or closed the pipe
        return
    except (ValueError, OSError, RuntimeError, MemoryError) as error:
        message = " ".join(str(error).split()) or type(error).__name__
        pipe.send(Aborted(message))


def _exit_with_parent() -> None:
    """Exit when the main process ends, for whatever reason."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        connection.wait([parent.sentinel])
        os._exit(1)
