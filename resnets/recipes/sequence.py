"""Sequences: character-level text, and time series with one class each."""

from __future__ import annotations

import dataclasses

from resnets.config import DataSpec, EvalSpec, OptimSpec, Recipe, ScheduleSpec
from resnets.models import catalog


def text(net: str = "transformer4") -> Recipe:
    """Predict the next character of a text: Shakespeare's sonnets (embedded), or a UTF-8 file.

    Command: resnets train text. Hardware and time: minutes on one CPU core, see docs/text.md.
    Expected: about 2.5 bits per character on the end of the text; character frequencies alone give
    4.5. Reached here: see docs/text.md.
    """
    return Recipe(
        name="text",
        task="text",
        transformer=catalog.transformer_spec(net),
        data=DataSpec(source="sonnets", val_fraction=0.1, test_fraction=0.1),
        optim=OptimSpec(kind="adamw", lr=0.003, weight_decay=0.1, clip_norm=1.0),
        schedule=ScheduleSpec(kind="one-cycle", warmup=0.1),
        duration="20ep",
        batch_size=16,
        log_every="1ep",
        eval=EvalSpec(every="2ep"),
        checkpoint_every="5ep",
        precision="float32",
    )


def signals(net: str = "cifar-resnet8") -> Recipe:
    """Classification of signals by a 1-D residual network (after Wang et al. 2017).

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
