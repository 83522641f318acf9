"""Lets a worker of a test's run meet the fault that FAULT names, in the real program.

"kill|hang|nan|read|term|rows rank R at step N [once]", or "wait at step N" (until asked to stop).
"read" is a disk that fails under a thread that reads images ahead, those of about step N. "term"
is SIGTERM to that process alone, "rows" a full disk under metrics.jsonl.
"""

import errno
import itertools
import os
import re
import signal
import sys
import time
from pathlib import Path

FAULT = re.fullmatch(
    r"(kill|hang|nan|read|term|rows|wait)(?: rank (\d+))? at step (\d+)( once)?",
    os.environ.get("FAULT", ""),
)

IMAGES = 32  # of a step, in each of two processes


def hang() -> None:
    time.sleep(1000)


def meet(kind: str) -> None:
    if kind == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    elif kind == "hang":
        hang()
    elif kind == "term":
        signal.raise_signal(signal.SIGTERM)
    elif kind == "rows":
        fill_disk_of_rows()
    elif kind == "wait":
        asked = signal.getsignal(signal.SIGTERM).__self__
        while asked.received is None:
            time.sleep(0.02)


def fill_disk_of_rows() -> None:
    """Put the device that is always full behind the log that is open."""
    import gc

    from resnets.train.log.run_log import RunLog

    (log,) = (each for each in gc.get_objects() if isinstance(each, RunLog))
    log._file = open("/dev/full", "a", buffering=1)  # noqa: SIM115


def break_disk(step: int) -> None:
    """Let the threads' reading fail from there on."""
    from resnets.data.dataset import read_ahead

    real, images = read_ahead._try_read, itertools.count()

    def read(split, row, view):
        if next(images) >= step * IMAGES:
            raise OSError(errno.EIO, os.strerror(errno.EIO), f"images/{row}.png")
        return real(split, row, view)

    read_ahead._try_read = read


def install() -> None:
    """Put the fault into the training step."""
    from resnets.train.step import TrainStep

    kind, rank, step, once = FAULT.groups()
    if kind == "read":
        if os.environ["RANK"] == rank:
            break_disk(int(step))
        return
    real = TrainStep.__call__

    def train_step(self, batch):
        state = self.state
        mine = rank is None or int(rank) == self.model.group.rank
        if kind == "nan" and mine and state.step + 1 == int(step):
            batch.images.fill_(float("nan"))
        real(self, batch)
        if mine and state.step == int(step):
            mark = Path(os.environ["MARK"]) / "met" if once else None
            if mark is None or not mark.exists():
                if mark is not None:
                    mark.touch()
                meet(kind)

    TrainStep.__call__ = train_step


class Finder:
    """Installs the fault when `resnets.train.run` is imported."""

    def find_spec(self, name, path=None, target=None):
        if name != "resnets.train.run":
            return
        sys.meta_path.remove(self)
        install()
        return


if FAULT and "WORLD_SIZE" in os.environ:
    if "resnets.train.run" in sys.modules:  # forked from a process that has imported it
        install()
    else:
        sys.meta_path.insert(0, Finder())
