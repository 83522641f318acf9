"""Admission control and dynamic batching for one model."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Callable, Sequence
from typing import Any

from resnets.serve.http.limits import EventLoopLag, Limits, RequestError
from resnets.serve.timeout_pool import WorkerPool

log = logging.getLogger("resnets.serve")

# Gains of the moving averages of pace and spread (as for round-trip times in RFC 6298).
PACE_GAIN, SPREAD_GAIN = 1 / 8, 1 / 4
LOOP_TURNS = 6  # of the event loop, between acceptance and answer


class Admission:
    """Limits the number of images that are accepted but not answered yet.

    By Little's law an image waits `count * pace` seconds on average. Images are admitted while this
    stays within `max_latency`, minus the delay of the event loop, where pace is the mean plus twice
    the mean deviation; never more than `queue`. An idle server admits a request of any size.
    """

    def __init__(self, limits: Limits, lag: EventLoopLag | None = None) -> None:
        self.limits, self.lag, self.count = limits, lag or EventLoopLag(), 0
        self.pace: float | None = None  # seconds for each image; None before the first batch
        self._spread = 0.0
        self._since = 0.0  # start of the current busy period, or of its latest batch

    @property
    def room(self) -> int:
        """Maximum number of images in flight."""
        if self.pace is None:
            return self.limits.queue
        budget = max(0.0, self.limits.max_latency - LOOP_TURNS * self.lag.seconds)
        capacity = budget / (self.pace + 2 * self._spread)
        return max(1, min(self.limits.queue, int(capacity)))

    def check(self, images: int = 1) -> None:
        """Raise RequestError (503) if that many more images would wait too long."""
        if self.count and self.count + images > self.room:
            wait = self.limits.max_latency if self.pace is None else self.count * self.pace
            raise RequestError(
                503,
                f"too busy: {self.count} images are waiting; try again later",
                retry_after=max(1, math.ceil(wait)),
            )

    def enter(self, images: int) -> None:
        """Admit images, or raise like `check`."""
        self.check(images)
        if not self.count:
            self._since = time.monotonic()
        self.count += images

    def leave(self, images: int) -> None:
        """Remove images that are answered, or whose client has disconnected."""
        self.count -= images
        assert self.count >= 0

    def record_batch(self, images: int, seconds: float) -> None:
        """Update the pace with a batch that took `seconds` to compute.

        With others waiting, the pace is that of the whole pipeline including decoding: the time
        since the previous batch. Otherwise that time would depend on the clients.
        """
        now = time.monotonic()
        pace = (now - self._since if self.count > images else seconds) / images
        self._since = now
        if self.pace is None:
            self.pace, self._spread = pace, pace / 2
            return
        self._spread += SPREAD_GAIN * (abs(pace - self.pace) - self._spread)
        self.pace += PACE_GAIN * (pace - self.pace)


class Batcher:
    """Collects prepared images into batches and computes them, one at a time, in a thread.

    A batch is closed when it is full, when its first image has waited `max_delay`, or when no other
    admitted image is pending, so a single client never waits. The next batch is collected while one
    is computed.
    """

    def __init__(
        self,
        compute: Callable[[Sequence[Any]], Sequence[Any]],
        admission: Admission,
        limits: Limits,
        on_batch: Callable[[int, float], None] = lambda images, seconds: None,
    ) -> None:
        self.compute, self.admission = compute, admission
        self.limits, self.on_batch = limits, on_batch
        self.thread = WorkerPool("compute", 1, limits.answer, spare=0)
        self._waiting: asyncio.Queue[tuple[Any, asyncio.Future[Any]]] = asyncio.Queue()
        self._task: asyncio.Task[None] | None = None

    async def answer(self, prepared: Any) -> Any:
        """The result of `compute` for one image; cancelling removes the image from the queue."""
        if self._task is None:
            self._task = asyncio.create_task(self._run())
        future = asyncio.get_running_loop().create_future()
        self._waiting.put_nowait((prepared, future))
        return await future

    async def close(self) -> None:
        """Stop after everything admitted has been answered."""
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
                outputs = await loop.run_in_executor(self.thread, self.compute, items)
            except Exception as error:
                for _, future in batch:
                    if not future.done():
                        future.set_exception(error)
                continue
            finally:
                elapsed = time.monotonic() - start
                self.admission.record_batch(len(batch), elapsed)
                self.on_batch(len(batch), elapsed)
            for (_, future), output in zip(batch, outputs, strict=True):
                if not future.done():
                    future.set_result(output)

    async def _gather(self) -> list[tuple[Any, asyncio.Future[Any]]]:
        batch = [await self._waiting.get()]
        deadline = time.monotonic() + self.limits.max_delay
        while len(batch) < self.limits.max_batch:
            if not self._waiting.empty():
                batch.append(self._waiting.get_nowait())
                continue
            budget = deadline - time.monotonic()
            if budget <= 0 or self.admission.count <= len(batch):
                break
            try:
                batch.append(await asyncio.wait_for(self._waiting.get(), budget))
            except TimeoutError:
                break
        return batch
