"""Many requests, one net: which pictures are let in, and how they become batches."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Callable, Sequence
from typing import Any

from resnets.serve.http.lag import Lag
from resnets.serve.http.limits import Limits, RefusalError
from resnets.serve.workers import Workers

log = logging.getLogger("resnets.serve")

# How fast a measured pace and its spread are followed (RFC 6298, which times round trips).
FOLLOW_PACE, FOLLOW_SPREAD = 1 / 8, 1 / 4
TURNS = 6  # of the event loop, between acceptance and answer


class Admission:
    """Counts the pictures that are accepted and not answered yet, and bounds them.

    By Little's law they wait `count * pace` seconds on average: so many are let in that this stays
    within `max_latency`, less what an event loop that is late takes, at a pace that is rarely
    passed, its mean and twice its mean deviation. They are never more than `queue`. One request is
    let in whatever its size while there is none.
    """

    def __init__(self, limits: Limits, lag: Lag | None = None) -> None:
        self.limits, self.lag, self.count = limits, lag or Lag(), 0
        self.pace: float | None = None  # seconds for each picture; None before the first batch
        self._spread = 0.0
        self._since = 0.0  # when the present busy time, or its latest batch, began

    @property
    def room(self) -> int:
        """Pictures that may be in at a time."""
        if self.pace is None:
            return self.limits.queue
        left = max(0.0, self.limits.max_latency - TURNS * self.lag.seconds)
        fits = left / (self.pace + 2 * self._spread)
        return max(1, min(self.limits.queue, int(fits)))

    def check(self, pictures: int = 1) -> None:
        """Raise RefusalError (503) where so many more would wait too long."""
        if self.count and self.count + pictures > self.room:
            wait = self.limits.max_latency if self.pace is None else self.count * self.pace
            raise RefusalError(
                503,
                f"too busy: {self.count} pictures are waiting; try again later",
                retry_after=max(1, math.ceil(wait)),
            )

    def enter(self, pictures: int) -> None:
        """Count them in, or raise as `check`."""
        self.check(pictures)
        if not self.count:
            self._since = time.monotonic()
        self.count += pictures

    def leave(self, pictures: int) -> None:
        """They are answered, or their client has gone."""
        self.count -= pictures
        assert self.count >= 0

    def computed(self, pictures: int, seconds: float) -> None:
        """Note a batch that took so long to compute.

        Where others wait, its pace is that of the whole road, decoders included: the time since the
        batch before. Where none does, pictures come no faster than clients send them.
        """
        now = time.monotonic()
        pace = (now - self._since if self.count > pictures else seconds) / pictures
        self._since = now
        if self.pace is None:
            self.pace, self._spread = pace, pace / 2
            return
        self._spread += FOLLOW_SPREAD * (abs(pace - self.pace) - self._spread)
        self.pace += FOLLOW_PACE * (pace - self.pace)


class Batcher:
    """Gathers prepared pictures and has them computed, one batch at a time, in a thread.

    A batch is closed when it is full, when its first picture has waited `max_delay`, or as soon as
    no other accepted picture is on its way: a lone client waits for nobody. While one batch is
    computed the next one gathers.
    """

    def __init__(
        self,
        compute: Callable[[Sequence[Any]], Sequence[Any]],
        admission: Admission,
        limits: Limits,
        noted: Callable[[int, float], None] = lambda pictures, seconds: None,
    ) -> None:
        self.compute, self.admission, self.limits, self.noted = compute, admission, limits, noted
        self.thread = Workers("compute", 1, limits.answer, spare=0)
        self._waiting: asyncio.Queue[tuple[Any, asyncio.Future[Any]]] = asyncio.Queue()
        self._task: asyncio.Task[None] | None = None

    async def answer(self, prepared: Any) -> Any:
        """What `compute` says of one picture; cancelling this takes the picture out again."""
        if self._task is None:
            self._task = asyncio.create_task(self._run())
        future = asyncio.get_running_loop().create_future()
        self._waiting.put_nowait((prepared, future))
        return await future

    async def close(self) -> None:
        """Stop, once everything let in has been answered."""
        while self.admission.count:
            await asyncio.sleep(0.01)
        if self._task is not None:
            self._task.cancel()
        self.thread.shutdown(wait=False)

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            batch = [(item, future) for item, future in await self._gather() if not future.done()]
            if not batch:
                continue
            start = time.monotonic()
            try:
                items = [item for item, _ in batch]
                answers = await loop.run_in_executor(self.thread, self.compute, items)
            except Exception as error:
                for _, future in batch:
                    if not future.done():
                        future.set_exception(error)
                continue
            finally:
                spent = time.monotonic() - start
                self.admission.computed(len(batch), spent)
                self.noted(len(batch), spent)
            for (_, future), answer in zip(batch, answers, strict=True):
                if not future.done():
                    future.set_result(answer)

    async def _gather(self) -> list[tuple[Any, asyncio.Future[Any]]]:
        batch = [await self._waiting.get()]
        deadline = time.monotonic() + self.limits.max_delay
        while len(batch) < self.limits.max_batch:
            if not self._waiting.empty():
                batch.append(self._waiting.get_nowait())
                continue
            left = deadline - time.monotonic()
            if left <= 0 or self.admission.count <= len(batch):
                break
            try:
                batch.append(await asyncio.wait_for(self._waiting.get(), left))
            except TimeoutError:
                break
        return batch
