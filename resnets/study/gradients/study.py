"""`resnets study gradients`: measure, then write the page."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from resnets.config import ConfigError, to_toml
from resnets.data import fit_preprocess, open_data
from resnets.data.dataset.summary import announce
from resnets.study.gradients.gradients import SCHEMES, network_specs, short_recipe, trace_gradients
from resnets.study.gradients.page import gradients_page
from resnets.study.page import Report, write_report
from resnets.utils import environment


def gradients_study(
    nets: Sequence[str], *, data: str | None, iterations: int, seed: int, device: str, out: Path
) -> Report:
    """Train each of `nets` by each of `SCHEMES` for `iterations` steps; returns `out`'s report.

    `data` is the embedded digits where None. Raises ConfigError (unknown or repeated nets, VGGs,
    fewer than 10 iterations) and DataError.
    """

    if iterations < 10:
        raise ConfigError(f"--iterations {iterations}: too few to show anything; give 10 or more")
    source = data or "digits"
    specs = network_specs(nets)
    recipe = short_recipe(specs[0], source, iterations, seed)
    splits = open_data(recipe.data)
    measured = replace(recipe.data, value_range=splits.value_range)
    recipe = replace(recipe, data=measured)
    announce(splits)
    preprocessor = fit_preprocess(splits.train, recipe.data, splits.train.channels)
    fitted: dict[str, Any] = {
        "num_classes": len(splits.classes),
        "in_channels": splits.train.channels,
        "input_size": preprocessor.spec.size,
    }
    chosen = environment.pick_device(device)
    traces = []
    for spec in specs:
        for scheme in SCHEMES:
            model = replace(spec, norm=scheme.norm, init=scheme.init, **fitted)
            changed = replace(recipe, model=model)
            traces.append(trace_gradients(changed, splits, preprocessor, chosen))
    words = ["resnets", "study", "gradients", ",".join(nets), "--data", source]
    words += ["--iterations", str(iterations), "--seed", str(seed)]
    page = gradients_page(
        traces,
        data=splits.train.description,
        iterations=iterations,
        seed=seed,
        recipe=to_toml(replace(recipe, model=replace(specs[0], **fitted))),
        commands=(shlex.join(words),),
        environment=environment.describe(chosen),
    )
    return write_report(page, out)
