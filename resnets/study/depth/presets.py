"""The grids of the depth and shortcut studies: presets, modified presets, or custom ones."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from resnets import recipes
from resnets.config import ConfigError
from resnets.models.catalog import is_transformer
from resnets.study.grid.cells import Grid
from resnets.study.grid.model_names import model_spec, split_names
from resnets.utils.suggest import suggest

PAPER_DEPTHS = (20, 32, 44, 56, 110)
SEEDS = 3
DIGITS = "digits"  # the embedded set, and its recipe


def quick() -> Grid:
    """Embedded digits: degradation in minutes on two CPU cores.

    Command: resnets study depth --preset quick. Time: 2 min 47 s on two idle cores with AMX.
    Final training error over three seeds: plain 20 layers 0.1%, 56 layers 34 to 48%; residual 20
    layers 0.0%, 56 layers 0.1%. The deep residual network catches up within 200 steps because of
    the recipe's one-cycle schedule (warm-up over a fifth of the run, then down to zero); a constant
    rate leaves it at 16% test error.
    """
    return Grid(
        models=("cifar-plain20", "cifar-plain56", "cifar-resnet20", "cifar-resnet56"),
        seeds=(3, 3, 3, 3),
        data=DIGITS,
        recipe=DIGITS,
        budget="200it",
        settings=(
            "batch_size=128",
            "optim.nesterov=false",
            "eval.every=2ep",
            "checkpoint_every=2ep",
        ),
    )


def learning_rates() -> Grid:
    """Embedded digits: is degradation due to a learning rate that is unsuitable for the depth?

    Command: resnets study depth --preset sweep. Time and result: docs/study/depth.md.
    """
    swept = "optim.lr=0.01,0.03,0.1,0.3"
    models = ("cifar-plain20", "cifar-plain44", "cifar-resnet20", "cifar-resnet44")
    names, seeds = _expand_sweep(models, (2,) * len(models), (swept,))
    base = quick()
    settings = (*base.settings, "model.widths=[8,16,32]", "model.stem_width=8")
    return dataclasses.replace(base, models=names, seeds=seeds, settings=settings, sweep=(swept,))


def paper_cifar10() -> Grid:
    """Table 6 and Fig. 6: plain and residual networks of 20 to 110 layers, and residual 1202.

    One seed each, five for the 110-layer residual model, as in Table 6.
    """
    models = [f"cifar-plain{depth}" for depth in PAPER_DEPTHS]
    models += [f"cifar-resnet{depth}" for depth in (*PAPER_DEPTHS, 1202)]
    return Grid(
        models=tuple(models),
        seeds=tuple(5 if model == "cifar-resnet110" else 1 for model in models),
        data="cifar10",
        recipe="cifar10-paper",
        budget="64000it",
    )


def paper_imagenet() -> Grid:
    """Table 2 and Fig. 4: plain and residual networks of 18 and 34 layers, option A."""
    return Grid(
        models=("plain18", "plain34", "resnet18-a", "resnet34-a"),
        seeds=(1, 1, 1, 1),
        data="imagenet",
        recipe="imagenet-paper",
        budget="600000it",
    )


def text() -> Grid:
    """Embedded text: do deep transformers without shortcuts train worse than shallow ones?

    Command: resnets study depth --preset text. Time and result: docs/text.md.
    """
    depths = (1, 4, 16)
    models = [f"{kind}transformer{depth}" for kind in ("plain-", "") for depth in depths]
    return Grid(
        models=tuple(models),
        seeds=(3,) * len(models),
        data="sonnets",
        recipe="text",
        budget="400it",
        settings=(
            "transformer.width=32",
            "transformer.heads=2",
            "transformer.context=32",
            "optim.lr=0.005",
            "eval.every=200it",
            "checkpoint_every=200it",
        ),
    )


PRESETS: Mapping[str, Callable[[], Grid]] = MappingProxyType(
    {
        "quick": quick,
        "sweep": learning_rates,
        "text": text,
        "paper-cifar10": paper_cifar10,
        "paper-imagenet": paper_imagenet,
    }
)


def depth_grid(
    preset: str | None = None,
    *,
    models: Sequence[str] = (),
    data: str | None = None,
    seeds: int | Sequence[int] | None = None,
    budget: str | None = None,
    recipe: str | None = None,
    settings: Sequence[str] = (),
    sweep: Sequence[str] = (),
    blocks: Sequence[str] = (),
) -> Grid:
    """Return the grid of a depth study; each argument replaces the preset's value.

    seeds: runs of each model, or one number per model. sweep: fields as FIELD=VALUE,VALUE,...; each
    model is trained with each value of each field. blocks: names of blocks from outside the
    package. Without a preset `models` is required, the data are the embedded digits, the recipe is
    the paper's for the family of models (for digits the recipe "digits", since the paper's mirrors
    images), the budget is the recipe's own, and there are three seeds. Raises ConfigError.
    """
    data = data and resolve_data(data)  # unlike a default, which is never a folder of that name
    if preset is not None:
        grid = _load_preset(preset)
        counts = dict(zip(grid.models, grid.seeds, strict=True))
        models = tuple(models) or grid.models
        data, recipe, budget = data or grid.data, recipe or grid.recipe, budget or grid.budget
        settings, sweep = (*grid.settings, *settings), sweep or grid.sweep
        models = tuple(dict.fromkeys(grid.split_swept(model)[0] for model in models))
        counts |= {grid.split_swept(model)[0]: count for model, count in counts.items()}
    else:
        if not models:
            raise ConfigError(
                "name the models (--models cifar-plain20,cifar-resnet20,...) or a --preset"
            )
        counts = dict.fromkeys(models, SEEDS)
        is_text = is_transformer(models[0])
        data = data or ("sonnets" if is_text else DIGITS)
        recipe = recipe or ("text" if is_text else _default_recipe(models[0], data))
    if seeds is None:
        seeds = [counts.get(model, 1) for model in models]
    elif isinstance(seeds, int):
        seeds = [seeds] * len(models)
    names, counts_by_name = _expand_sweep(models, seeds, sweep)
    return Grid(
        models=names,
        seeds=counts_by_name,
        data=data,
        recipe=recipe,
        budget=budget or recipes.recipe(recipe).duration,
        settings=tuple(settings),
        sweep=tuple(sweep),
        blocks=tuple(blocks),
    )


def _expand_sweep(
    models: Sequence[str], seeds: Sequence[int], sweep: Sequence[str]
) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """Return each model with each value of the swept fields, and the number of seeds of each."""
    names = list(models)
    if len(seeds) != len(names):
        return tuple(names), tuple(seeds)  # which a grid refuses
    counts = list(seeds)
    for axis in sweep:
        path, _, values = axis.partition("=")
        listed = split_names(values)
        if len(listed) < 2:
            raise ConfigError(f"--sweep {axis}: give two or more values, as FIELD=VALUE,VALUE,...")
        counts = [count for count in counts for _ in listed]
        names = [f"{model}:{path}={value}" for model in names for value in listed]
    return tuple(names), tuple(counts)


def shortcut_grid(
    *,
    models: Sequence[str],
    data: str | None = None,
    seeds: int | Sequence[int] | None = None,
    budget: str | None = None,
    recipe: str | None = None,
    settings: Sequence[str] = (),
) -> Grid:
    """Return the grid that compares shortcut options (Table 3): each model with A, B and C.

    A model given as NAME:OPTION, and a plain one, is not changed.
    """
    options = [
        name
        for model in models
        for name in (
            (f"{model}:A", f"{model}:B", f"{model}:C")
            if ":" not in model and model_spec(model).residual
            else (model,)
        )
    ]
    grid = depth_grid(
        models=options, data=data, seeds=seeds, budget=budget, recipe=recipe, settings=settings
    )
    return dataclasses.replace(grid, study="shortcuts")


def _load_preset(name: str) -> Grid:
    if name not in PRESETS:
        raise ConfigError(f"unknown preset {name!r}; {suggest(name, PRESETS)}")
    return PRESETS[name]()


def _default_recipe(model: str, data: str) -> str:
    if data == DIGITS:
        return DIGITS
    return "cifar10-paper" if model_spec(model).stem == "cifar" else "imagenet-paper"


def resolve_data(data: str) -> str:
    """Make a path absolute, so that the study can be resumed from anywhere; keep other names."""
    return str(Path(data).resolve()) if Path(data).exists() else data
