"""Workers for the tests of the pool: they die, fail, or record which shards they start."""

import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from resnets.bulk.pool import ShardDone, ShardFailed

IMAGES = 7


@dataclass(frozen=True)
class Plan:
    """When the workers that `make` returns die (shard, number of attempts), or fail.

    slow: seconds that shard 0 takes; shard 1 takes twice that, and so on.
    """

    folder: Path
    deaths: tuple[tuple[int, int], ...] = ()
    fail_at: int | None = None
    slow: float = 0.0

    def make(self) -> "RecordingWorker":
        return RecordingWorker(self)


class RecordingWorker:
    def __init__(self, plan: Plan) -> None:
        self.plan = plan

    def process_shard(self, shard: int, report: Callable[[int], None]) -> ShardDone | ShardFailed:
        note = self.plan.folder / f"begun-{shard}"
        with open(note, "a", encoding="ascii") as file:
            file.write(f"{os.getpid()}\n")
        begun = len(note.read_text("ascii").splitlines())
        if begun > 3:
            return ShardFailed(shard)
        report(IMAGES - 2)
        time.sleep(self.plan.slow * (1 + shard))
        if begun <= dict(self.plan.deaths).get(shard, 0):
            os.kill(os.getpid(), signal.SIGKILL)
        if shard == self.plan.fail_at:
            raise OSError(28, "No space left on device")
        report(2)
        return ShardDone(shard, IMAGES, 0)


def exit_at_start() -> RecordingWorker:
    os._exit(3)
