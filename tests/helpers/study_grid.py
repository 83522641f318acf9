"""A small, real depth study for the tests of its report: digits, four nets, two seeds."""

import dataclasses
import shutil
from pathlib import Path

import pytest
from shared_folders import make_once

from resnets.config import dump_json
from resnets.study.grid.cells import Grid, cell_recipe, read_grid, write_grid
from resnets.train.run import run_training

ITERATIONS = 20
NETS = ("cifar-plain8", "cifar-plain14", "cifar-resnet8", "cifar-resnet14")
REASON = "the loss is nan at step 12; no checkpoint written yet; try a lower rate"
SETTINGS = ("batch_size=16", "eval.every=10it", "precision=float32")


def trained_grid(factory: pytest.TempPathFactory) -> Path:
    """A finished study, trained once a session, by whoever asks first; for reading only."""
    return make_once(factory, "study-depth-1", _train_grid)


def _train_grid(folder: Path) -> None:
    grid = Grid(
        models=NETS,
        seeds=(2,) * len(NETS),
        data="digits",
        recipe="digits",
        budget=f"{ITERATIONS}it",
        settings=SETTINGS,
        iterations=ITERATIONS,
        epoch=4,
    )
    for net in NETS:
        for seed in range(2):
            run_training(
                cell_recipe(grid, net, seed),
                folder / "cells" / f"{net}-seed{seed}",
                device="cpu",
                quiet=True,
            )
    write_grid(grid, folder)


def with_gaps(whole: Path, folder: Path) -> Path:
    """A copy of the study `whole` in which one run failed, one was stopped, and one is missing."""
    shutil.copytree(whole, folder)
    failed = folder / "cells" / "cifar-plain14-seed1"
    (failed / "result.json").unlink()
    dump_json({"error": REASON}, failed / "failed.json")
    stopped = folder / "cells" / "cifar-resnet14-seed1"
    (stopped / "result.json").unlink()
    rows = (stopped / "metrics.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    (stopped / "metrics.jsonl").write_text("".join(rows[: len(rows) // 2]), encoding="utf-8")
    grid = read_grid(folder)
    wider = dataclasses.replace(
        grid, models=(*grid.models, "cifar-resnet20"), seeds=(*grid.seeds, 1)
    )
    write_grid(wider, folder)
    return folder
