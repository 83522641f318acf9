"""What makes the host wait for the device in a training step: torch names each line."""

from __future__ import annotations

import warnings
from collections import Counter
from functools import partial

import torch

from gpu_checks.case import Case, Row, Setting, rounded
from gpu_checks.training import EAGER, GRAPH, Training, cifar_recipe, random_images

STEPS = 4
SETTINGS: dict[str, tuple[str, dict[str, str]]] = {
    "as in the paper": (EAGER, {}),
    "averaged, clipped": (EAGER, {"ema_decay": "0.998", "optim.clip_norm": "1.0"}),
    "mixup and cutmix": (EAGER, {"data.augment.mixup": "0.2", "data.augment.cutmix": "1.0"}),
    "policy, erasing": (EAGER, {"data.augment.policy": "rand", "data.augment.random_erase": "0.2"}),
    "adamw": (EAGER, {"optim.kind": "adamw"}),
    "lamb": (EAGER, {"optim.kind": "lamb"}),
    "one graph": (GRAPH, {"ema_decay": "0.998"}),
}


def cases(setting: Setting) -> list[Case]:
    """A case for each way to train."""
    return [
        Case(name, 4, partial(_waits, setting, name, way, fields))
        for name, (way, fields) in SETTINGS.items()
    ]


def _waits(setting: Setting, name: str, way: str, fields: dict[str, str]) -> list[Row]:
    setting.require_cuda()
    recipe = cifar_recipe(setting, "cifar-resnet20", fields)
    training = Training(setting, recipe, random_images(2000, 32), way, 100)
    for _ in range(3):
        training.step()
    setting.synchronize()
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always")
            for _ in range(STEPS):
                training.step()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    places = Counter(_place(each) for each in seen if "synchroniz" in str(each.message))
    where = "; ".join(f"{place} ({count / STEPS:g})" for place, count in places.most_common())
    waits = rounded(sum(places.values()) / STEPS)
    return [{"training": name, "step": way, "waits per step": waits, "where": where or "nowhere"}]


def _place(warning: warnings.WarningMessage) -> str:
    name = warning.filename
    for part in ("/resnets/", "/site-packages/"):
        if part in name:
            name = name.rpartition(part)[2]
            break
    return f"{name}:{warning.lineno}"
