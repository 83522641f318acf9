"""The child processes of a study: each trains one cell, and ends with its parent."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
import threading
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerContext
from pathlib import Path

import torch

from resnets.config import BusyError, ConfigError, Recipe, dump_json, lock_file
from resnets.study.grid.cells import FAILED, RESULT
from resnets.train.guards.divergence import Diverged
from resnets.train.guards.interrupt import Interrupted
from resnets.train.run import run as run_training
from resnets.train.tasks.custom_parts import CustomParts
from resnets.utils.errors import OutOfMemory
from resnets.weights.checkpoint.format import RECIPE
from resnets.weights.checkpoint.manager import CheckpointManager


def worker_context() -> ForkServerContext:
    """Starts worker processes, forked from one that has imported what they need (seconds each)."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    return context


def train_cell(
    recipe: Recipe,
    folder: Path,
    device: str,
    parts: CustomParts = CustomParts(),  # noqa: B008 (frozen)
) -> None:
    """Train the cell in `folder` to its end, resuming it if it was started; no-op if it has ended.

    A run that cannot be trained (it diverged, it does not fit into memory) leaves failed.json with
    the reason in one line. Raises Interrupted, and errors that do not belong to the cell: BusyError
    (a process that is ending still holds the folder), OSError and CheckpointError (a full disk, a
    URL that does not answer), DataError (a disk that is not mounted).
    """
    if (folder / RESULT).exists() or (folder / FAILED).exists():
        return
    try:
        if (folder / RECIPE).exists() and CheckpointManager(folder, recipe).exists():
            run_training(None, folder, device=device, quiet=True, parts=parts)
        else:
            shutil.rmtree(folder, ignore_errors=True)  # started, but without a checkpoint
            run_training(recipe, folder, device=device, quiet=True, parts=parts)
    except BusyError:  # another process is ending; the cell is sound
        raise
    except (Diverged, OutOfMemory, ConfigError) as error:
        folder.mkdir(parents=True, exist_ok=True)
        reason = " ".join(str(error).split())
        dump_json({"error": reason}, folder / FAILED)


def work(
    recipe: Recipe,
    folder: Path,
    device: str,
    threads: int,
    reason: Connection,
    parts: CustomParts,
) -> None:
    """Body of a worker process: `train_cell` with `threads` threads, ending with its parent.

    Sends its parent the reason and exits with 1 where the disk or the like failed: the cell is
    resumed with the study.
    """
    become_worker(threads)
    # A worker of a killed study may still be saving this cell.
    with lock_file(folder.with_name(f".{folder.name}.lock"), None):
        try:
            train_cell(recipe, folder, device, parts)
        except Interrupted:
            return  # saved; the parent requested it
        except (OSError, ValueError) as error:
            reason.send(str(error))
            raise SystemExit(1) from None


def become_worker(threads: int) -> None:
    """Make this process a study's child: `threads` threads, and an end with its parent's.

    Ctrl-C reaches the whole process group: the training loop handles it and saves, and outside the
    loop the parent decides. A killed parent cannot, so a thread waits for its end and stops this
    process.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(threads)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True).start()
