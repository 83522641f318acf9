"""`resnets.tune`: search learning rate, weight decay and augmentation of a recipe."""

from __future__ import annotations

from os import PathLike
from pathlib import Path
from typing import Any

from resnets.api.recipe import choose_recipe
from resnets.config import ModelSpec, Recipe
from resnets.study.tune import TuneResult
from resnets.study.tune import tune as search
from resnets.utils.api_function import api_function


@api_function
def tune(
    recipe: str | Path | Recipe = "scratch",
    *,
    data: str | PathLike[str] | None = None,
    model: str | ModelSpec | None = None,
    trials: int = 12,
    budget: str = "3ep",
    seed: int = 0,
    out: str | PathLike[str] | None = None,
    device: str = "auto",
    **fields: Any,
) -> TuneResult:
    """Search learning rate, weight decay and augmentation strength on validation images.

        search = resnets.tune("scratch", data="photos")
        run = resnets.train(search.recipe)
        search.best.error, search.tables["trials"]

    Runs a learning-rate range test, then trials sampled by Optuna. Test images are not read.

    Args:
        recipe: Recipe to tune: a name, a .toml file or a `Recipe`; its duration does not change.
        data: Data set: a name or a path.
        model: Catalog name or a `ModelSpec`; default: the recipe's model.
        trials: Total number of trials, including those of a resumed search.
        budget: Length of each trial, such as "3ep" or "500it".
        seed: Random seed of the search; that of training is a field of the recipe.
        out: Folder; default runs/tune-N. If it contains the same search, that is resumed, and
            extended if `trials` is larger.
        device: auto, cpu, cuda, cuda:1, mps.
        **fields: Other recipe fields, as for `resnets.train`.

    Raises ConfigError if Optuna is not installed, the data set has no validation images, or the
    folder contains another search.
    """
    chosen = choose_recipe(recipe, data=data, model=model, fields=fields)
    return search(chosen, trials=trials, budget=budget, seed=seed, out=out, device=device)
