"""Threads for work on what clients send, of which one that is stuck is replaced.

A thread cannot be ended from outside. What is decoded is bounded beforehand
(`data.decode.open_image`), but no bound is proved for every library. A thread that has been at one
job for longer than its client waits is given up: another takes its place, up to a number of spare
ones, and the old one ends when its job does. Beyond that `is_complete` is false, and `/readyz` says
so.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import Executor, Future
from queue import SimpleQueue
from typing import Any, TypeVar

T = TypeVar("T")
Job = Callable[[], None]
log = logging.getLogger("resnets.serve")


class Workers(Executor):
    """`count` threads, which do not keep the process from ending.

    patience: seconds after which a job counts as stuck. spare: threads that may replace stuck ones.
    """

    def __init__(self, name: str, count: int, patience: float, spare: int) -> None:
        self.name, self.count, self.patience, self.spare = name, count, patience, spare
        self._jobs: SimpleQueue[Job | None] = SimpleQueue()
        self._lock = threading.Lock()
        self._began: dict[threading.Thread, float | None] = {}  # its job; None while it waits
        self._known = 0  # stuck ones at the last look
        self._closed = False
        self.replace_stuck()

    @property
    def stuck(self) -> int:
        """Threads that have been at one job for longer than `patience`."""
        with self._lock:
            return self._stuck()

    @property
    def is_complete(self) -> bool:
        """Whether as many threads as there should be can take a job."""
        self.replace_stuck()
        with self._lock:
            return len(self._began) - self._stuck() >= self.count

    @property
    def is_blocked(self) -> bool:
        """Whether all threads are stuck, and a job would wait for ever."""
        self.replace_stuck()
        with self._lock:
            return len(self._began) == self._stuck()

    def submit(self, function: Callable[..., T], /, *given: Any, **named: Any) -> Future[T]:
        """As of `concurrent.futures.Executor`; RuntimeError once it is shut down."""
        if self._closed:
            raise RuntimeError("cannot schedule new futures after shutdown")
        future: Future[T] = Future()

        def job() -> None:
            if not future.set_running_or_notify_cancel():
                return
            try:
                result = function(*given, **named)
            except BaseException as error:
                future.set_exception(error)
            else:
                future.set_result(result)

        self._jobs.put(job)
        self.replace_stuck()
        return future

    def replace_stuck(self) -> None:
        """Start threads in the place of stuck ones, as far as there are spare ones."""
        with self._lock:
            stuck = self._stuck()
            if stuck != self._known:
                fields = {"workers": self.name, "stuck": stuck, "of": len(self._began)}
                log.warning("stuck", extra={"fields": fields})
                self._known = stuck
            wanted = min(self.count + stuck, self.count + self.spare) - len(self._began)
            for _ in range(0 if self._closed else wanted):
                thread = threading.Thread(target=self._work, name=self.name, daemon=True)
                self._began[thread] = None
                thread.start()

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more jobs; threads end when those before are done. Nobody waits for them."""
        with self._lock:
            self._closed = True
            threads = len(self._began)
        for _ in range(threads):
            self._jobs.put(None)

    def _stuck(self) -> int:
        since = time.monotonic() - self.patience
        return sum(began is not None and began < since for began in self._began.values())

    def _work(self) -> None:
        thread = threading.current_thread()
        while (job := self._jobs.get()) is not None:
            with self._lock:
                self._began[thread] = time.monotonic()
            job()
            del job  # and with it the bytes of an image
            with self._lock:
                self._began[thread] = None
                if len(self._began) - self._stuck() > self.count:  # it has been replaced
                    del self._began[thread]
                    return
        with self._lock:
            del self._began[thread]
