"""Cells of a grid in threads of one process, each on a CUDA stream of its own.

Processes on one GPU take turns on it, streams of one process overlap. Threads of one process take
turns in Python, so this is for cells whose steps are CUDA graphs: one call of Python each
(`worker.can_share`). State that a process has only once is protected by `process_lock`, so a cell
gives the same results as in its own process.
"""

from __future__ import annotations

import contextlib
import gc
import signal
import threading
import time
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

import torch

from resnets.config import Recipe
from resnets.study.grid.worker import Slot, init_worker, train_locked, worker_context
from resnets.train.cuda_graph import capture
from resnets.train.guards.interrupt import StopSignals
from resnets.train.tasks.custom_parts import CustomParts
from resnets.utils.machine.environment import release_cached_memory
from resnets.utils.machine.processes import process_lock, without_main_module

POLL_SECONDS = 0.2


@dataclass(frozen=True)
class CellJob:
    """A cell to train: arguments of `worker.train_cell`."""

    recipe: Recipe
    folder: Path
    parts: CustomParts


@dataclass(frozen=True)
class CellEnd:
    """The end of a cell: trained, failed or stopped; reason: another error that ended it."""

    folder: Path
    reason: str | None


class SharedProcess:
    """A process that trains the cells it is given, all at once, until `kill` or `terminate`.

    ends: of cells, by folder. After an unexpected error in one cell, or a CUDA graph that could not
    be captured, the others save and the process ends, with exit code 1 and without the end of the
    cells that it was training: an error of CUDA makes a process unusable. They can be trained
    again, each in a process of its own.
    """

    def __init__(self, slot: Slot) -> None:
        context = worker_context()
        self.connection, theirs = context.Pipe()
        self.process = context.Process(
            target=run_cells, args=(theirs, slot.device, slot.threads), name=f"cells {slot.device}"
        )
        with without_main_module():
            self.process.start()
        theirs.close()
        self.ends: dict[Path, CellEnd] = {}

    def start(self, job: CellJob) -> None:
        """Start a cell; if the process ends before it starts the cell, the cell ends, too."""
        with contextlib.suppress(BrokenPipeError):
            self.connection.send(job)

    def poll(self) -> bool:
        """Read the ends of cells; returns whether the process has ended."""
        ended = self.process.exitcode is not None  # before reading what it sent
        with contextlib.suppress(EOFError, ConnectionResetError):
            while self.connection.poll():
                end = self.connection.recv()
                self.ends[end.folder] = end
        return ended


def run_cells(connection: Connection, device: str, threads: int) -> None:
    """Train the `CellJob`s that arrive, each in a thread; send a `CellEnd` for each.

    Ends when `connection` is closed, after SIGTERM, an unexpected error or a CUDA graph that could
    not be captured, once all have saved.
    """
    init_worker(threads)
    cells: list[_CellThread] = []
    with StopSignals() as signals:
        is_open = True
        while is_open or any(cell.is_alive() for cell in cells):
            if is_open and capture.failed:
                # The process's allocators and generators may be left capturing.
                signals.request(signal.SIGTERM)
            is_open = is_open and signals.received is None
            if not is_open:
                time.sleep(POLL_SECONDS)
            elif connection.poll(POLL_SECONDS):
                try:
                    cells.append(_CellThread(connection.recv(), connection, device, signals))
                except EOFError:
                    is_open = False
                else:
                    cells[-1].start()
    if capture.failed or any(cell.is_broken for cell in cells):
        raise SystemExit(1)


class _CellThread(threading.Thread):
    """The training of one cell."""

    _sending = threading.Lock()

    def __init__(
        self, job: CellJob, connection: Connection, device: str, signals: StopSignals
    ) -> None:
        super().__init__(name=job.folder.name, daemon=True)
        self.job, self.connection, self.device, self.signals = job, connection, device, signals
        self.is_broken = False

    def run(self) -> None:
        """Train the cell and send its end; after an unexpected error, stop the other cells."""
        try:
            with own_stream(self.device):
                reason = train_locked(self.job.recipe, self.job.folder, self.device, self.job.parts)
            with process_lock:  # no graph is being captured
                gc.collect()
                release_cached_memory()  # fails after an error of CUDA
        except BaseException:
            traceback.print_exc()
            self.is_broken = True
            self.signals.request(signal.SIGTERM)
            return
        with self._sending, contextlib.suppress(BrokenPipeError):  # the parent has ended
            self.connection.send(CellEnd(self.job.folder, reason))


_unused_streams: list[torch.cuda.Stream] = []  # of cells that have ended


@contextlib.contextmanager
def own_stream(device: str) -> Iterator[None]:
    """Context in which this thread's work runs on a CUDA stream of its own; nothing on a CPU.

    `device` is the same in all threads. Streams of ended cells are used again: torch has only 32,
    in turn, and a step captured on the stream of another thread would contain what that one starts.
    """
    if not device.startswith("cuda"):
        yield
        return
    torch.cuda.set_device(device)
    try:
        stream = _unused_streams.pop()
    except IndexError:
        stream = torch.cuda.Stream(device)
    try:
        with torch.cuda.stream(stream):
            yield
    finally:
        _unused_streams.append(stream)
