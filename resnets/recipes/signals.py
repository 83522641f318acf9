"""Signals: time series with a class each."""

from __future__ import annotations

import dataclasses

from resnets.config import DataSpec, EvalSpec, OptimSpec, Recipe, ScheduleSpec
from resnets.models import catalog


def signals(net: str = "cifar-resnet8") -> Recipe:
    """Classes of signals, by a residual network of one axis (after Wang et al. 2017).

    Command: resnets train signals, on a generated set (cylinder-bell-funnel), or --data FILE.csv.
    Hardware and time: under a minute on one CPU core. Expected: about 1% test error on the
    generated set. Reached here: see docs/signals.md.
    """
    spec = catalog.spec(net)
    return Recipe(
        name="signals",
        task="signals",
        model=dataclasses.replace(spec, dims=1),
        data=DataSpec(source="cylinder-bell-funnel", val_fraction=0.1, test_fraction=0.2),
        optim=OptimSpec(lr=0.1, nesterov=True, weight_decay=5e-4),
        schedule=ScheduleSpec(kind="one-cycle", warmup=0.2),
        duration="10ep",
        batch_size=32,
        log_every="1ep",
        eval=EvalSpec(every="2ep"),
        checkpoint_every="5ep",
        precision="float32",
    )
