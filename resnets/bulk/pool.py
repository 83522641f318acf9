"""Shards shared out among processes of this machine; one that dies is replaced, its shard redone.

Nothing here is heavy to import: the processes fork from a server that has imported torch once,
while the first process looks through the set.
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

FAILED_STARTS = 3  # workers that may die one after the other before any of them is ready


@dataclass(frozen=True)
class Computed:
    """So many more pictures are computed; fewer, where a worker took them with it."""

    pictures: int


@dataclass(frozen=True)
class Done:
    """A shard is written, with this many pictures that could not be read."""

    shard: int
    pictures: int
    unreadable: int


@dataclass(frozen=True)
class GivenUp:
    """A shard has cost too many workers."""

    shard: int


@dataclass(frozen=True)
class Died:
    """A worker ended by itself, and why; another takes its place."""

    pid: int
    why: str
    shard: int | None


@dataclass(frozen=True)
class Failed:
    """A worker cannot go on, nor could another: the disk is full, the net not what it was."""

    message: str


Event = Computed | Done | GivenUp | Died | Failed


class Worker(Protocol):
    """What does shards; made in the process that uses it."""

    def do(self, shard: int, report: Callable[[int], None]) -> Done | GivenUp:
        """Write one; `report` is told of each few pictures."""


class WorkError(ValueError):
    """Workers that cannot work; the message is one line."""


def warm_up(*modules: str) -> None:
    """Have a server import `modules` already, for the processes that will fork from it."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(modules))
    from multiprocessing.forkserver import ensure_running

    ensure_running()


def share_out(
    make: Callable[[], Worker], shards: Iterable[int], processes: int
) -> Generator[Event, None, None]:
    """Have `processes` do `shards`, in about their order; `make` is pickled and called in each.

    Ends when all are done or given up. Closing it early, or an error, ends the workers at once.
    Raises WorkError with what a worker says it failed of.
    """
    pool = _Pool(make, deque(shards), processes)
    try:
        yield from pool.run()
    finally:
        pool.end()


@dataclass
class _Hand:
    """A process at work, our end of its pipe, and what it is at."""

    process: BaseProcess
    pipe: connection.Connection
    ready: bool = False
    shard: int | None = None
    computed: int = 0


class _Pool:
    def __init__(self, make: Callable[[], Worker], waiting: deque[int], processes: int) -> None:
        self.make, self.waiting, self.processes = make, waiting, processes
        self.context = multiprocessing.get_context("forkserver")
        self.hands: list[_Hand] = []
        self.failed_starts = 0

    def run(self) -> Iterator[Event]:
        while self.waiting or any(hand.shard is not None for hand in self.hands):
            self._give()
            busy = sum(hand.shard is not None for hand in self.hands)
            while len(self.hands) < min(self.processes, busy + len(self.waiting)):
                self._hire()
            for pipe in connection.wait([hand.pipe for hand in self.hands]):
                hand = next(hand for hand in self.hands if hand.pipe is pipe)
                try:
                    told = hand.pipe.recv()
                except (EOFError, OSError):
                    yield from self._lost(hand)
                    continue
                yield from self._hear(hand, told)

    def _give(self) -> None:
        """Shards for those that have none: new ones, and others when a shard comes back."""
        for hand in self.hands:
            if self.waiting and hand.ready and hand.shard is None:
                hand.shard = self.waiting.popleft()
                with suppress(OSError):  # it has just died, which a look at its pipe finds out
                    hand.pipe.send(hand.shard)

    def _hire(self) -> None:
        ours, theirs = self.context.Pipe()
        process = self.context.Process(target=_serve, args=(self.make, theirs), daemon=True)
        process.start()
        theirs.close()
        self.hands.append(_Hand(process, ours))

    def _hear(self, hand: _Hand, told: Any) -> Iterator[Event]:
        if isinstance(told, Failed):
            raise WorkError(told.message)
        if isinstance(told, Computed):
            hand.computed += told.pictures
            yield told
            return
        hand.ready, hand.shard, hand.computed, self.failed_starts = True, None, 0, 0
        if isinstance(told, Done | GivenUp):
            yield told

    def _lost(self, hand: _Hand) -> Iterator[Event]:
        hand.process.join()
        self.hands.remove(hand)
        hand.pipe.close()
        why = _why(hand.process.exitcode)
        if hand.shard is not None:
            self.waiting.appendleft(hand.shard)
        if not hand.ready:
            self.failed_starts += 1
            if self.failed_starts == FAILED_STARTS:
                raise WorkError(f"workers die before they can begin ({why}); is memory short?")
        yield Computed(-hand.computed)
        yield Died(hand.process.pid or 0, why, hand.shard)

    def end(self) -> None:
        for hand in self.hands:
            hand.process.kill()
            hand.process.join()
            hand.pipe.close()


def _why(code: int | None) -> str:
    if code is not None and code < 0:
        try:
            return signal.Signals(-code).name
        except ValueError:
            return f"signal {-code}"
    return f"exit code {code}"


def _serve(make: Callable[[], Worker], pipe: connection.Connection) -> None:
    """A worker process: do what the pipe says until it closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the first process to answer
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        worker = make()
        pipe.send("ready")
        while True:
            shard = pipe.recv()
            pipe.send(worker.do(shard, lambda count: pipe.send(Computed(count))))
    except (EOFError, BrokenPipeError):  # the first process has gone, or needs us no longer
        return
    except (ValueError, OSError, RuntimeError, MemoryError) as error:
        text = " ".join(str(error).split()) or type(error).__name__
        pipe.send(Failed(text))


def _end_with_parent() -> None:
    """Nobody would read what we do once the first process has gone, however it went."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        connection.wait([parent.sentinel])
        os._exit(1)
