"""Checkpoints of a small run, and processes that are killed while they save, for tests."""

import multiprocessing
import os
import signal
import sys

import torch

from resnets.config import Recipe
from resnets.weights.checkpoint.format import LAST, EncodedCheckpoint
from resnets.weights.checkpoint.manager import CheckpointManager

# Children fork from a clean process that has imported torch once.
FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["resnets.weights.checkpoint.manager"])


def payload(step, size=1000):
    """A checkpoint whose contents follow from its step."""
    meta = {"step": step, "recipe": {}, "classes": ["a"], "state": {}}
    return EncodedCheckpoint({"model/a": torch.full((size,), float(step))}, meta)


def assert_is(checkpoint, step):
    assert checkpoint.meta["step"] == step
    assert (checkpoint.tensors["model/a"] == step).all()


def saved(out, *steps, recipe=None):
    """Return the checkpoints of a run after those of `steps` were written."""
    kept = CheckpointManager(out, recipe or Recipe())
    for step in steps:
        kept.save(LAST, payload(step), step)
    return kept


def resume_from(out, recipe=None):
    """Return the checkpoints of a run as a process opens them to resume."""
    kept = CheckpointManager(out, recipe or Recipe())
    kept.resume_from(kept.latest())
    return kept


def files(out):
    return sorted(os.listdir(out / "checkpoints"))


def save_until_killed(out, pipe, size):
    """Save steps 1, 2, ... until killed; send each completed step to `pipe`."""
    kept, step = CheckpointManager(out, Recipe()), 0
    if (newest := kept.latest()) is not None:
        kept.resume_from(newest)
        step = newest.meta["step"]
    while True:
        step += 1
        kept.save(LAST, payload(step, size), step)
        pipe.send(step)


def die_at(number, out, links):
    """Resume at step 20 and save step 30; SIGKILL at the `number`-th file operation."""
    kept, count = resume_from(out), 0

    def watch(event, words):
        nonlocal count
        if event in ("open", "os.rename", "os.link", "os.remove") and str(out) in str(words[0]):
            count += 1
            if count == number:
                os.kill(os.getpid(), signal.SIGKILL)

    def refuse(*words):
        raise PermissionError(1, "Operation not permitted")

    if not links:  # as on FAT
        os.link = refuse
    sys.addaudithook(watch)
    kept.save(LAST, payload(30), 30)
