"""A thread pool that replaces stuck threads.

A thread cannot be killed. Input sizes are limited before decoding (`data.decode.open_image`), but
no library guarantees an upper bound of the time. A thread that is busy with one job for longer than
its client waits is replaced, up to a number of spare threads, and ends with its job. Beyond that
`is_complete` is false, and `/readyz` fails.
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


class WorkerPool(Executor):
    """An executor of `count` daemon threads.

    patience: seconds after which a job counts as stuck. spare: threads that may replace stuck ones.
    """

    def __init__(self, name: str, count: int, patience: float, spare: int) -> None:
        self.name, self.count, self.patience, self.spare = name, count, patience, spare
        self._jobs: SimpleQueue[Job | None] = SimpleQueue()
        self._lock = threading.Lock()
        self._started: dict[
            threading.Thread, float | None
        ] = {}  # start of its job; None while idle
        self._known_stuck = 0  # at the last check
        self._closed = False
        self.replace_stuck()

    @property
    def stuck(self) -> int:
        """Number of threads busy with one job for longer than `patience`."""
        with self._lock:
            return self._stuck()

    @property
    def is_complete(self) -> bool:
        """Whether at least `count` threads are not stuck."""
        self.replace_stuck()
        with self._lock:
            return len(self._started) - self._stuck() >= self.count

    @property
    def is_blocked(self) -> bool:
        """Whether all threads are stuck, so that jobs would wait forever."""
        self.replace_stuck()
        with self._lock:
            return len(self._started) == self._stuck()

    def submit(self, function: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:
        """See `concurrent.futures.Executor`; RuntimeError after shutdown."""
        if self._closed:
            raise RuntimeError("cannot schedule new futures after shutdown")
        future: Future[T] = Future()

        def job() -> None:
            if not future.set_running_or_notify_cancel():
                return
            try:
                result = function(*args, **kwargs)
            except BaseException as error:
                future.set_exception(error)
            else:
                future.set_result(result)

        self._jobs.put(job)
        self.replace_stuck()
        return future

    def replace_stuck(self) -> None:
        """Start replacements for stuck threads, up to `spare`."""
        with self._lock:
            stuck = self._stuck()
            if stuck != self._known_stuck:
                fields = {"workers": self.name, "stuck": stuck, "of": len(self._started)}
                log.warning("stuck", extra={"fields": fields})
                self._known_stuck = stuck
            missing = min(self.count + stuck, self.count + self.spare) - len(self._started)
            for _ in range(0 if self._closed else missing):
                thread = threading.Thread(target=self._run_jobs, name=self.name, daemon=True)
                self._started[thread] = None
                thread.start()

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Accept no more jobs; threads end after the queued jobs. Does not wait."""
        with self._lock:
            self._closed = True
            threads = len(self._started)
        for _ in range(threads):
            self._jobs.put(None)

    def _stuck(self) -> int:
        since = time.monotonic() - self.patience
        return sum(started is not None and started < since for started in self._started.values())

    def _run_jobs(self) -> None:
        thread = threading.current_thread()
        while (job := self._jobs.get()) is not None:
            with self._lock:
                self._started[thread] = time.monotonic()
            job()
            del job  # and with it the bytes of an image
            with self._lock:
                self._started[thread] = None
                if len(self._started) - self._stuck() > self.count:  # it has been replaced
                    del self._started[thread]
                    return
        with self._lock:
            del self._started[thread]
