"""Training steps of CIFAR models, data included: milliseconds by mode, several runs at once, and
lines that make the host wait for the device, from torch's warnings.
"""

from __future__ import annotations

import warnings
from collections import Counter
from functools import partial
from statistics import median

import torch
from timing import format_spread
from training import (
    COMPILED,
    EAGER,
    GRAPH,
    GRAPH_OF_BLOCKS,
    MODES,
    Training,
    random_images,
    with_seed,
)

from gpu_checks.case import Case, Row, Setting, cifar_recipe, rounded, time_rounds

TOTAL = 100_000  # steps of the schedule; only the first few hundred are run
SECONDS = {EAGER: 10, COMPILED: 60, GRAPH: 10, GRAPH_OF_BLOCKS: 40}  # with compilation
AVERAGED = {"ema_decay": "0.998"}


def cases(setting: Setting) -> list[Case]:
    """cifar-resnet20 in each mode, then with averaged weights, then deeper models."""
    model = "cifar-resnet20"
    modes = [mode for mode in MODES if setting.cuda or mode not in (COMPILED, GRAPH_OF_BLOCKS)]
    each = [
        Case(
            f"{model}, {mode}",
            SECONDS[mode],
            partial(_row, setting, model, mode, None, ""),
            late=mode == COMPILED,
        )
        for mode in modes
    ]
    each += [
        Case(
            f"{model}, {mode}, averaged",
            8,
            partial(_row, setting, model, mode, AVERAGED, "averaged"),
        )
        for mode in (EAGER, GRAPH)
    ]
    if not setting.tiny:
        each += [
            Case(f"{deep}, {mode}", 25, partial(_row, setting, deep, mode, NO_HOLD, ""), late=True)
            for deep in ("cifar-resnet56", "cifar-resnet110")
            for mode in (EAGER, GRAPH, GRAPH_OF_BLOCKS)
        ]
    return each


NO_HOLD = {"schedule.hold_until_error": "none"}  # the warm-up of 110 layers reads each loss


def _row(
    setting: Setting, model: str, mode: str, fields: dict[str, str] | None, weights: str
) -> list[Row]:
    recipe = cifar_recipe(setting, model, fields)
    split = random_images(200 if setting.tiny else 50_000, 32)
    training = Training(setting.device, recipe, split, mode, TOTAL)
    rounds, count, warm_up = (1, 1, 1) if setting.tiny else (5, 100, 20)
    seconds = time_rounds(setting, {mode: training.step}, rounds, count, warm_up)[mode]
    step = median(seconds)
    return [
        {
            "model": model,
            "mode": mode,
            "weights": weights,
            "ms per step": format_spread([1000 * value for value in seconds], ".3g"),
            "images/s": rounded(recipe.batch_size / step),
            "64,000 steps in": f"{64_000 * step:.0f} s",
        }
    ]


def seeds_at_once(setting: Setting) -> list[Case]:
    """Several runs of cifar-resnet20 in one process, each on its own CUDA stream."""
    counts = (1, 2) if setting.tiny else (1, 2, 4, 8)
    return [
        Case(f"{mode}, {count} at once", 10 + 4 * count, partial(_at_once, setting, mode, count))
        for mode in ((GRAPH, GRAPH_OF_BLOCKS) if setting.cuda else (GRAPH,))
        for count in counts
    ]


def _at_once(setting: Setting, mode: str, count: int) -> list[Row]:
    recipe = cifar_recipe(setting, "cifar-resnet20")
    split = random_images(200 if setting.tiny else 50_000, 32)
    runs = [
        Training(setting.device, with_seed(recipe, seed), split, mode, TOTAL)
        for seed in range(count)
    ]

    setting.synchronize()  # tensors of the runs were made on another stream than theirs

    def step() -> None:
        for run in runs:
            with run.on_own_stream():
                run.step()

    rounds, steps, warm_up = (1, 1, 1) if setting.tiny else (3, 100, 10)
    seconds = median(time_rounds(setting, {mode: step}, rounds, steps, warm_up)[mode])
    return [
        {
            "mode": mode,
            "runs at once": count,
            "ms per step of all": rounded(1000 * seconds),
            "ms per step and run": rounded(1000 * seconds / count),
            "images/s": rounded(recipe.batch_size * count / seconds),
        }
    ]


WAIT_STEPS = 4
WAIT_SETTINGS: dict[str, tuple[str, dict[str, str]]] = {
    "as in the paper": (EAGER, {}),
    "averaged, clipped": (EAGER, {"ema_decay": "0.998", "optim.clip_norm": "1.0"}),
    "mixup and cutmix": (EAGER, {"data.augment.mixup": "0.2", "data.augment.cutmix": "1.0"}),
    "policy, erasing": (EAGER, {"data.augment.policy": "rand", "data.augment.random_erase": "0.2"}),
    "adamw": (EAGER, {"optim.kind": "adamw"}),
    "lamb": (EAGER, {"optim.kind": "lamb"}),
    "muon": (EAGER, {"optim.kind": "muon"}),
    "quantized": (EAGER, {"finetune.quantize": "true", "precision": "float32"}),
    "one graph": (GRAPH, {"ema_decay": "0.998"}),
}


def waits(setting: Setting) -> list[Case]:
    """Return a case for each recipe and mode."""
    return [
        Case(name, 4, partial(_count_waits, setting, name, mode, fields))
        for name, (mode, fields) in WAIT_SETTINGS.items()
    ]


def _count_waits(setting: Setting, name: str, mode: str, fields: dict[str, str]) -> list[Row]:
    setting.require_cuda()
    recipe = cifar_recipe(setting, "cifar-resnet20", fields)
    training = Training(setting.device, recipe, random_images(2000, 32), mode, 100)
    for _ in range(3):
        training.step()
    setting.synchronize()
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            for _ in range(WAIT_STEPS):
                training.step()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    lines = Counter(_line(each) for each in caught if "synchroniz" in str(each.message))
    where = "; ".join(f"{line} ({count / WAIT_STEPS:g})" for line, count in lines.most_common())
    count = rounded(sum(lines.values()) / WAIT_STEPS)
    return [{"training": name, "mode": mode, "waits per step": count, "where": where or "nowhere"}]


def _line(warning: warnings.WarningMessage) -> str:
    name = warning.filename
    for part in ("/resnets/", "/site-packages/"):
        if part in name:
            name = name.rpartition(part)[2]
            break
    return f"{name}:{warning.lineno}"
