"""One process and several give the same run: samples, losses, metrics (real torchrun, gloo)."""

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import forked
import numpy as np
import pytest
import torch
from paths import HELPERS
from PIL import Image

from resnets.config import DataSpec, Recipe, from_toml, replace_fields, to_toml
from resnets.data import open_data
from resnets.recipes import recipe
from resnets.train.log.run_log import read_rows
from resnets.train.run import run_training
from resnets.weights.checkpoint.find import find_checkpoint
from resnets.weights.checkpoint.format import LAST, read_checkpoint

STEPS = 8


def plan(**changes: object) -> Recipe:
    """A short run at a small rate: rounding errors must not grow into differences."""
    chosen = recipe("digits", "cifar-resnet8")
    fields = {
        "duration": f"{STEPS}it",
        "precision": "float32",
        "log_every": "1it",
        "eval.every": "4it",
        "checkpoint_every": "4it",
        "optim.lr": 0.01,
        "schedule.warmup": 0.0,
        "eval.watch_test": True,
        "ema_decay": 0.9,
    }
    return replace_fields(chosen, fields | changes)


PLANS = {
    "sync": plan(batch_size=66, sync_norm=True, **{"loss.class_weights": "auto"}),
    # 5 units of 16: two processes get 48 and 32 images.
    "ghost": plan(
        batch_size=80,
        norm_batch=16,
        micro_batch=16,
        **{
            "data.augment.mixup": 0.2,
            "data.augment.repeats": 2,
            "data.augment.policy": "rand",
            "data.balance": "sqrt",
            "optim.clip_norm": 1.0,
        },
    ),
}


def spoilt(root: Path) -> Recipe:
    """A run on images of which one of each split cannot be read."""
    rng = np.random.default_rng(0)
    for name in ("dark", "bright"):
        (root / name).mkdir(parents=True)
        for number in range(24):
            pixels = rng.integers(0, 99, (20, 20, 3), np.uint8) + 150 * (name == "bright")
            Image.fromarray(pixels.astype(np.uint8)).save(root / name / f"{number:02}.png")
    whole = open_data(DataSpec(source=str(root), in_memory="never"))
    for split in (whole.train, whole.val, whole.test()):
        path = split.files.name(0)  # in each, since copies would stay on one side
        Path(path).write_text(f"<html>404 {path}</html>")
    data = {"source": str(root), "size": 16, "max_unreadable": 0.1}
    fields = {f"data.{name}": value for name, value in data.items()}
    return plan(batch_size=16, norm_batch=4, **fields)


def torchrun(count: int, *words: str, timeout: float = 400) -> subprocess.CompletedProcess[str]:
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(count))
    return forked.run(
        [sys.executable, *launcher, *words],
        capture_output=True,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        timeout=timeout,
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scale")
    for name, chosen in PLANS.items():
        (folder / f"{name}.toml").write_text(to_toml(chosen))
    # A pretrained net whose head learns alone for half of the run.
    start = folder / "start"
    run_training(
        dataclasses.replace(PLANS["ghost"], duration="2it"), start, device="cpu", quiet=True
    )
    tuned = plan(norm_batch=16, batch_size=64, weights=str(find_checkpoint(start)))
    tuned = replace_fields(tuned, {"finetune.head_first": 0.5, "optim.shard": True})
    (folder / "tuned.toml").write_text(to_toml(tuned))
    (folder / "spoilt.toml").write_text(to_toml(spoilt(folder / "images")))
    for path in folder.glob("*.toml"):
        run_training(from_toml(path), folder / f"{path.stem}-1", device="cpu", quiet=True)
    return folder


@pytest.fixture(scope="module", params=[2, pytest.param(4, marks=pytest.mark.slow)])
def ran(request: pytest.FixtureRequest, folder: Path) -> tuple[Path, int]:
    done = torchrun(request.param, str(HELPERS / "scale_worker.py"), str(folder))
    assert done.returncode == 0, done.stderr[-3000:]
    return folder, request.param


@pytest.mark.ci
@pytest.mark.parametrize("name", [*PLANS, "tuned"])
def test_the_loss_curve_does_not_depend_on_the_number_of_processes(ran, name):
    folder, count = ran
    alone, together = (read_rows(folder / f"{name}-{number}") for number in (1, count))
    figures = ("loss", "top1_error", "lr")
    kinds = [(row["kind"], row["step"]) for row in alone]
    assert kinds == [(row["kind"], row["step"]) for row in together]
    assert ("test", 4) in kinds
    for one, other in zip(alone, together, strict=True):
        for figure in set(figures) & one.keys():
            assert other[figure] == pytest.approx(one[figure], rel=2e-3, abs=0.6), (
                one["kind"], one["step"], figure,
            )  # fmt: skip
        if "loss" in one:
            assert other["loss"] == pytest.approx(one["loss"], rel=2e-4)


@pytest.mark.parametrize("name", [*PLANS, "tuned"])
def test_weights_and_running_statistics_agree(ran, name):
    folder, count = ran
    alone, together = (
        read_checkpoint(folder / f"{name}-{number}" / "checkpoints" / LAST) for number in (1, count)
    )
    assert alone.tensors.keys() == together.tensors.keys()
    for path, tensor in alone.tensors.items():  # momentum is of the gradients' own size
        close = 1e-2 if path.startswith("optim/") else 1e-3
        assert torch.allclose(tensor.double(), together.tensors[path].double(), 0.02, close), path
    assert alone.meta["state"]["epoch"]["count"] == together.meta["state"]["epoch"]["count"]


def test_an_unreadable_image_is_counted_once(ran):
    folder, count = ran
    alone, together = (folder / f"spoilt-{number}" for number in (1, count))
    one, other = (json.loads((run / "result.json").read_text()) for run in (alone, together))
    for name in ("train", "val", "test"):
        assert len(one[name]["unreadable"]) == 1
        assert other[name]["unreadable"] == one[name]["unreadable"]
    assert other["test"]["protocol"].endswith(", 1 unreadable skipped")
    counts = {row["unreadable"] for row in read_rows(together) if row["kind"] in ("train", "val")}
    assert counts == {1}


def test_every_image_is_counted_once(ran):
    folder, count = ran
    result = json.loads((folder / f"ghost-{count}" / "result.json").read_text())
    assert result["test"]["examples"] == 359
    assert result["val"]["examples"] == 169
    environment = json.loads((folder / f"ghost-{count}" / "environment.json").read_text())
    assert environment["processes"] == count
