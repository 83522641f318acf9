"""Admission control and batching of requests."""

import asyncio
import time

import pytest

from resnets.serve.batching import Admission, Batcher
from resnets.serve.http.limits import LAG_INTERVAL, EventLoopLag, Limits, RequestError


def test_batches_gather_what_is_on_its_way_and_keep_the_order():
    sizes: list[int] = []

    def compute(items):
        sizes.append(len(items))
        time.sleep(0.05)
        return [item * 2 for item in items]

    async def main() -> list[int]:
        limits = Limits(max_batch=4, max_delay=0.02)
        admission = Admission(limits)
        batcher = Batcher(compute, admission, limits)
        admission.enter(11)
        answers = await asyncio.gather(*(batcher.answer(n) for n in range(11)))
        admission.leave(11)
        await batcher.close()
        return answers

    assert asyncio.run(main()) == [2 * n for n in range(11)]
    assert sizes == [4, 4, 3]


def test_a_lone_image_waits_for_nobody_and_others_not_longer_than_allowed():
    async def main(images: int, max_delay: float) -> float:
        limits = Limits(max_delay=max_delay, max_latency=1000)
        admission = Admission(limits)
        batcher = Batcher(lambda items: items, admission, limits)
        admission.enter(images)
        start = time.monotonic()
        await asyncio.wait_for(batcher.answer(0), 60)
        spent = time.monotonic() - start
        admission.leave(images)
        await batcher.close()
        return spent

    assert asyncio.run(main(1, 600)) < 60
    assert asyncio.run(main(2, 0.2)) >= 0.2  # the second never comes


def test_admission_lets_in_what_the_pace_allows():
    admission = Admission(Limits(queue=50, max_latency=1.0))
    assert admission.room == 50
    for _ in range(60):  # a steady pace is trusted to its mean
        admission.record_batch(10, seconds=1.0)
    assert admission.pace == pytest.approx(0.1)
    assert admission.room == 9
    admission.enter(40)  # alone: it would never fit otherwise
    with pytest.raises(RequestError) as refused:
        admission.check()
    assert (refused.value.status, refused.value.retry_after) == (503, 4)
    admission.leave(40)
    admission.enter(4)
    admission.enter(5)
    with pytest.raises(RequestError):
        admission.enter(1)
    assert admission.count == 9
    for seconds in 30 * (0.5, 1.5):  # the same mean, and nobody knows when it is late
        admission.record_batch(10, seconds)
        admission._since -= seconds  # as if that had passed since the batch before
    assert admission.room < 6


def test_admission_leaves_time_to_an_event_loop_that_is_late():
    async def main() -> tuple[int, int, int]:
        lag = EventLoopLag()
        admission = Admission(Limits(max_latency=1.0), lag)
        for _ in range(60):
            admission.record_batch(100, seconds=1.0)
        lag.start()
        before = admission.room
        await asyncio.sleep(0)
        time.sleep(LAG_INTERVAL + 0.1)  # nothing else gets its turn meanwhile
        late, deadline = admission.room, time.monotonic() + 60
        while admission.room < before and time.monotonic() < deadline:
            await asyncio.sleep(LAG_INTERVAL)
        after = admission.room
        lag.stop()
        return before, late, after

    before, late, after = asyncio.run(main())
    assert late < 0.6 * before
    assert after == before
