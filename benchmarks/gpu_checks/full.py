"""Complete recipes on CIFAR-10: seconds and test error."""

from __future__ import annotations

import time
import traceback
from dataclasses import replace
from functools import lru_cache, partial
from pathlib import Path

from training import (
    GRAPH,
    GRAPH_OF_BLOCKS,
    Training,
    random_images,
    with_seed,
)

from gpu_checks.case import Case, Row, Setting, Skipped, cifar_recipe, is_fatal, rounded
from resnets import recipes
from resnets.config import Recipe, replace_fields
from resnets.data import open_data
from resnets.data.dataset.labeled_images import Split

CIFAR10 = "cifar10.tar.xz"
CHECK_INTERVAL = 1000  # steps after which runs that would exceed the limit are stopped
FIRST = "resnet20, five seeds"
FIRST_SECONDS = 180  # of a first run of ten minutes; the other sections need the rest
RESERVE = 5  # seconds for the test errors
RESIDUAL, PLAIN = "cifar-resnet", "cifar-plain"
# Cases that fail if graphs of compiled blocks do not work on this machine.
USE_BLOCKS = (f"ladder/{RESIDUAL}20, {GRAPH_OF_BLOCKS}", f"first/{FIRST}")

Member = tuple[Recipe, str, int]  # recipe, model, seed


def first(setting: Setting) -> list[Case]:
    """Return the most valuable case: five seeds of cifar-resnet20 at once.

    And again without compiled blocks, which runs only if the first one failed.
    """
    runs = [(f"{RESIDUAL}20", seed) for seed in range(5)]
    case = _case(setting, FIRST, runs, 150)

    def run_again() -> list[Row]:
        if f"first/{FIRST}" not in setting.failed:
            raise Skipped("the case before has not failed")
        return case.run()

    return [case, replace(case, name=f"{FIRST}, {GRAPH}", run=run_again)]


def others(setting: Setting) -> list[Case]:
    """Return the cases of Table 6 of the paper, plain networks, and the speedrun.

    If `setting.tiny`, only the speedrun: `first` tests the others.
    """
    speedrun = Case("cifar10-speedrun, ten seeds", 90, partial(_speedrun, setting), any_commit=True)
    if setting.tiny:
        return [speedrun]
    return [
        _case(setting, "32 and 44 layers", [(f"{RESIDUAL}{n}", 0) for n in (32, 44)], 150),
        _case(setting, "56 layers", [(f"{RESIDUAL}56", 0)], 130),
        _case(setting, "110 layers", [(f"{RESIDUAL}110", 0)], 260),
        _case(
            setting, "plain 20 and 56", [(f"{PLAIN}{n}", s) for n in (20, 56) for s in (0, 1)], 300
        ),
        _case(setting, "resnet56, seed 1", [(f"{RESIDUAL}56", 1)], 130),
        _case(setting, "110 layers, seed 1", [(f"{RESIDUAL}110", 1)], 260),
        speedrun,
    ]


def _case(setting: Setting, name: str, runs: list[tuple[str, int]], seconds: float) -> Case:
    def run() -> list[Row]:
        members = [
            (with_seed(cifar_recipe(setting, model), seed), model, seed) for model, seed in runs
        ]
        limit = FIRST_SECONDS if name == FIRST else 3 * seconds
        return _train(setting, members[:1] if setting.tiny else members, limit)

    return Case(name, seconds, run, any_commit=True)


def _speedrun(setting: Setting) -> list[Row]:
    """Train ten seeds of the recipe for minutes on a CPU, wider and at full size throughout."""
    fields = {"model.widths": "[128,256,512]", "data.grow_from": "none"}
    if setting.tiny:
        fields |= {"model.widths": "[8,8,8]", "batch_size": "16"}
    recipe = replace_fields(recipes.recipe("cifar10-speedrun"), fields)
    seeds = 2 if setting.tiny else 10
    runs = [(with_seed(recipe, seed), "cifar-speedrun, 2x wide", seed) for seed in range(seeds)]
    return _train(setting, runs, 270)


def _train(setting: Setting, members: list[Member], limit: float) -> list[Row]:
    """Train all `members` at once, each on its own CUDA stream; returns the rows of those that end.

    If the first steps predict that they would take longer than `limit` seconds, as many continue as
    fit into it; later, only if they would not end before the deadline. Raises RuntimeError if none
    would.
    """
    train, test = _splits(setting)
    total = 4 if setting.tiny else members[0][0].steps(members[0][0].duration, len(train))
    last_epoch = min(total, -(-len(train) // members[0][0].batch_size))
    created = time.perf_counter()
    mode, runs = _make_runs(setting, [recipe for recipe, _, _ in members], train, total)
    setting.synchronize()
    start = checked = time.perf_counter()
    at_once = [str(len(runs))]
    for done in range(1, total + 1):
        for run in runs:
            with run.on_own_stream():
                if done == total - last_epoch + 1:
                    run.state.interval.reset()
                run.step()
        if done % CHECK_INTERVAL == 0 and done < total:
            setting.synchronize()
            now = time.perf_counter()
            needed = (now - checked) / CHECK_INTERVAL * (total - done)
            left, checked = setting.seconds_left - RESERVE, now
            if done == CHECK_INTERVAL:
                left = min(left, limit - (now - created))
            fitting = _count_fitting(needed, left, len(runs))
            if fitting == 0:
                raise RuntimeError(f"needs another {needed:.0f} s; {left:.0f} s are left")
            if fitting < len(runs):
                print(f"step {done}: time for {fitting} of {len(runs)} runs", flush=True)
                at_once.append(f"{fitting} from step {done} on")
                del runs[fitting:], run
    setting.synchronize()
    seconds = time.perf_counter() - start
    return [
        {
            "model": model,
            "mode": mode,
            "seed": seed,
            "steps": total,
            "at once": "; ".join(at_once),
            "seconds of all": rounded(seconds, 3),
            "start-up, s": rounded(start - created, 3),
            "training error, %": rounded(run.state.interval.means()["top1_error"], 3),
            "test error, %": rounded(run.test_error(test), 3),
        }
        for run, (_, model, seed) in zip(runs, members, strict=False)  # those that remain
    ]


def _count_fitting(needed: float, left: float, count: int) -> int:
    """Return how many of `count` runs that need `needed` seconds together end in `left` seconds.

    Without their overlap, which is smaller for fewer runs.
    """
    return count if needed <= left else max(0, int(count * left / needed))


def _make_runs(
    setting: Setting, members: list[Recipe], train: Split, total: int
) -> tuple[str, list[Training]]:
    """Return the runs and their mode: graphs of compiled blocks if those work, else graphs."""

    def make(mode: str) -> list[Training]:
        return [Training(setting.device, recipe, train, mode, total) for recipe in members]

    if setting.cuda and setting.failed.isdisjoint(USE_BLOCKS):
        try:
            return GRAPH_OF_BLOCKS, make(GRAPH_OF_BLOCKS)
        except Exception as error:
            if is_fatal(error):
                raise
            traceback.print_exc()
    return GRAPH, make(GRAPH)


def _splits(setting: Setting) -> tuple[Split, Split]:
    """Return training and test images of CIFAR-10."""
    if setting.tiny:
        return random_images(64, 32), random_images(64, 32)
    return _read(setting.file(CIFAR10))


@lru_cache(maxsize=1)
def _read(path: Path) -> tuple[Split, Split]:
    recipe = recipes.recipe("cifar10-paper")
    splits = open_data(replace(recipe.data, source=str(path), val_fraction=0.0))
    test = splits.test()
    assert test is not None
    return splits.train, test
