"""Lines of a training step that make the host wait for the device, from torch's warnings."""

from __future__ import annotations

import warnings
from collections import Counter
from functools import partial

import torch
from training import EAGER, GRAPH, Training, random_images

from gpu_checks.case import Case, Row, Setting, cifar_recipe, rounded

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
    """Return a case for each recipe and mode."""
    return [
        Case(name, 4, partial(_count_waits, setting, name, mode, fields))
        for name, (mode, fields) in SETTINGS.items()
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
            for _ in range(STEPS):
                training.step()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    lines = Counter(_line(each) for each in caught if "synchroniz" in str(each.message))
    where = "; ".join(f"{line} ({count / STEPS:g})" for line, count in lines.most_common())
    waits = rounded(sum(lines.values()) / STEPS)
    return [{"training": name, "mode": mode, "waits per step": waits, "where": where or "nowhere"}]


def _line(warning: warnings.WarningMessage) -> str:
    name = warning.filename
    for part in ("/resnets/", "/site-packages/"):
        if part in name:
            name = name.rpartition(part)[2]
            break
    return f"{name}:{warning.lineno}"
