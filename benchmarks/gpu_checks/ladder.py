"""Milliseconds a step of CIFAR networks, data included: each way to step, and several at once."""

from __future__ import annotations

from functools import partial

from gpu_checks.case import Case, Row, Setting, median, rounded, spread, time_rounds
from gpu_checks.training import (
    COMPILED,
    EAGER,
    GRAPH,
    GRAPH_OF_BLOCKS,
    WAYS,
    Training,
    cifar_recipe,
    random_images,
    with_seed,
)

TOTAL = 100_000  # steps of the schedule; only the first few hundred are taken
SECONDS = {EAGER: 10, COMPILED: 60, GRAPH: 10, GRAPH_OF_BLOCKS: 40}  # with compilation
AVERAGED = {"ema_decay": "0.998"}


def cases(setting: Setting) -> list[Case]:
    """cifar-resnet20 in every way, then with averaged weights, then deeper networks."""
    net = "cifar-resnet20"
    ways = [way for way in WAYS if setting.cuda or way not in (COMPILED, GRAPH_OF_BLOCKS)]
    each = [
        Case(f"{net}, {way}", SECONDS[way], partial(_row, setting, net, way, None, ""))
        for way in ways
    ]
    each += [
        Case(f"{net}, {way}, averaged", 8, partial(_row, setting, net, way, AVERAGED, "averaged"))
        for way in (EAGER, GRAPH)
    ]
    if not setting.tiny:
        each += [
            Case(f"{deep}, {way}", 25, partial(_row, setting, deep, way, HELD_OFF, ""))
            for deep in ("cifar-resnet56", "cifar-resnet110")
            for way in (EAGER, GRAPH, GRAPH_OF_BLOCKS)
        ]
    return each


HELD_OFF = {"schedule.hold_until_error": "none"}  # the warm-up of 110 layers reads each loss


def _row(
    setting: Setting, net: str, way: str, fields: dict[str, str] | None, weights: str
) -> list[Row]:
    recipe = cifar_recipe(setting, net, fields)
    split = random_images(200 if setting.tiny else 50_000, 32)
    training = Training(setting, recipe, split, way, TOTAL)
    rounds, count, warm_up = (1, 1, 1) if setting.tiny else (5, 100, 20)
    seconds = time_rounds(setting, {way: training.step}, rounds, count, warm_up)[way]
    step = median(seconds)
    return [
        {
            "network": net,
            "way": way,
            "weights": weights,
            "ms per step": spread([1000 * value for value in seconds]),
            "images/s": rounded(recipe.batch_size / step),
            "64,000 steps in": f"{64_000 * step:.0f} s",
        }
    ]


def seeds_at_once(setting: Setting) -> list[Case]:
    """Several runs of cifar-resnet20 in one process, each on a CUDA stream of its own."""
    counts = (1, 2) if setting.tiny else (1, 2, 4, 8)
    return [
        Case(f"{way}, {count} at once", 10 + 4 * count, partial(_at_once, setting, way, count))
        for way in ((GRAPH, GRAPH_OF_BLOCKS) if setting.cuda else (GRAPH,))
        for count in counts
    ]


def _at_once(setting: Setting, way: str, count: int) -> list[Row]:
    recipe = cifar_recipe(setting, "cifar-resnet20")
    split = random_images(200 if setting.tiny else 50_000, 32)
    runs = [Training(setting, with_seed(recipe, seed), split, way, TOTAL) for seed in range(count)]

    setting.synchronize()  # what the runs hold was made on another stream than theirs

    def step() -> None:
        for run in runs:
            with run.on_own_stream():
                run.step()

    rounds, steps, warm_up = (1, 1, 1) if setting.tiny else (3, 100, 10)
    seconds = median(time_rounds(setting, {way: step}, rounds, steps, warm_up)[way])
    return [
        {
            "way": way,
            "runs at once": count,
            "ms per step of all": rounded(1000 * seconds),
            "ms per step and run": rounded(1000 * seconds / count),
            "images/s": rounded(recipe.batch_size * count / seconds),
        }
    ]
