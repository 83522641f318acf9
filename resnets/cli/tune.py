"""`resnets tune`: search learning rate, weight decay and augmentation of a recipe."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import tyro

from resnets.cli.options import Fields, parse_settings
from resnets.utils.printable import echo


def command(
    recipe: Annotated[str, tyro.conf.Positional] = "scratch",
    /,
    data: str | None = None,
    model: str | None = None,
    trials: int = 12,
    budget: str = "3ep",
    seed: int = 0,
    out: Path | None = None,
    fields: Fields = (),
    device: str = "auto",
) -> int:
    """Search learning rate, weight decay and augmentation strength on validation images.

    Runs a learning-rate range test, then trials that Optuna samples. Writes recipe.toml, which
    `resnets train` takes, and report.html. With --out, the same command resumes a stopped search,
    and a larger --trials extends it.

    Args:
        recipe: Recipe, or a .toml file.
        data: Data set: a name or a path.
        model: Model; default is the recipe's.
        trials: Number of trials in all, including those of a search that is resumed.
        budget: Length of each run, as 3ep or 500it.
        seed: Seed of the search.
        out: Folder to write or resume; default runs/tune-N.
        fields: Any other recipe field, as path=value; repeatable.
        device: auto, cpu, cuda, cuda:1, mps.
    """
    from resnets.api.recipe import choose_recipe
    from resnets.api.tune import tune
    from resnets.study.tune import BEST

    search = tune(
        choose_recipe(recipe, data=data, model=model, fields=parse_settings(fields)),
        trials=trials,
        budget=budget,
        seed=seed,
        out=out,
        device=device,
    )
    echo(search.lead)
    echo(f"report: {search.report}")
    echo(f"next: {shlex.join(('resnets', 'train', str(search.folder / BEST)))}")
    return 0
