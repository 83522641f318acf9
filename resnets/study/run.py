"""`resnets.study.depth`, `.shortcuts` and `.forms`: train a grid of models and write its report."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from os import PathLike, fspath
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

from resnets import recipes
from resnets.config import ConfigError, flatten_fields
from resnets.report.page import StudyResult
from resnets.study.depth.identity_mappings import MODELS, forms_grid
from resnets.study.depth.page import write_grid_page
from resnets.study.depth.presets import depth_grid, resolve_data, shortcut_grid
from resnets.study.grid.budget import Blocks
from resnets.study.grid.cells import STUDY, Cell, Grid, read_cells, read_grid
from resnets.study.grid.grid import train_grid
from resnets.train.guards.interrupt import Interrupted
from resnets.utils.api_function import api_function
from resnets.utils.files.local_paths import output_path
from resnets.utils.files.locks import RUNS, is_locked, page_folder


@dataclass(frozen=True, eq=False, repr=False)
class Study(StudyResult):
    """A study that trained models: `cells` are the runs of its grid."""

    cells: list[Cell]


@api_function
def depth(
    models: Sequence[str] | None = None,
    *,
    preset: str | None = None,
    data: str | PathLike[str] | None = None,
    seeds: int | Sequence[int] | None = None,
    budget: str | None = None,
    recipe: str | None = None,
    sweep: Mapping[str, Sequence[Any]] = MappingProxyType({}),
    blocks: Blocks = MappingProxyType({}),
    jobs: int | None = None,
    out: str | PathLike[str] | None = None,
    device: str = "auto",
    **fields: Any,
) -> Study:
    """Train models of several depths, plain and residual, to measure degradation (Fig. 1, 6).

        study = resnets.study.depth(["cifar-plain20", "cifar-resnet20"], data="cifar10")

    Args:
        models: Catalog names; NAME:OPTION for another shortcut option, NAME:FIELD=VALUE for another
            field of the model or of the recipe (optim.lr, batch_size).
        preset: "quick" (minutes, embedded digits), "sweep" (each depth at several learning rates),
            "text" (transformers), "paper-cifar10" or "paper-imagenet".
        data: Data set: a name or a path.
        seeds: Runs of each model, or one number per model; two or more give an uncertainty.
        budget: Length of each run as "2000it" or "30ep", or of the whole study as "5min".
        recipe: Recipe of all runs.
        sweep: Values of fields, such as {"optim.lr": [0.01, 0.1]}: each model is trained with each.
        blocks: Blocks of your own by name, each a callable that takes a `BlockConfig`, defined in a
            module that can be imported; a model has one as NAME:block=BLOCK. Given again to resume.
        jobs: Runs trained at a time, each in a process of its own; on a GPU with `cuda_graph` in
            one process.
        out: Folder; default runs/study-depth-N. A study of the same grid in it is resumed, and by
            default the latest one that was stopped.
        device: auto (all GPUs, else the CPU), cpu, cuda, cuda:1, mps.
        **fields: Other recipe fields, as for `resnets.train`.

    Works in scripts without `if __name__ == "__main__"`. Ctrl-C lets every run save and raises
    `Interrupted`. Raises ConfigError and DataError.
    """
    for path, values in sweep.items():
        if isinstance(values, str) or not isinstance(values, Sequence):
            raise ConfigError(f"sweep: {path}: {values!r} is not a list of values")
    grid = depth_grid(
        preset,
        models=_to_tuple(models),
        data=_to_path(data),
        seeds=_to_counts(seeds),
        budget=budget,
        recipe=recipe,
        settings=to_settings(fields),
        sweep=[f"{path}={','.join(map(_format_value, values))}" for path, values in sweep.items()],
        blocks=tuple(blocks),
    )
    return run_study(grid, out, jobs=jobs, device=device, blocks=blocks)


@api_function
def shortcuts(
    models: Sequence[str] = ("cifar-resnet20",),
    *,
    data: str | PathLike[str] | None = None,
    seeds: int | Sequence[int] | None = None,
    budget: str | None = None,
    recipe: str | None = None,
    jobs: int | None = None,
    out: str | PathLike[str] | None = None,
    device: str = "auto",
    **fields: Any,
) -> Study:
    """Compare the shortcut options A, B and C (Table 3): each model trained with each of them.

    The arguments are those of `depth`.
    """
    grid = shortcut_grid(
        models=_to_tuple(models),
        data=_to_path(data),
        seeds=_to_counts(seeds),
        budget=budget,
        recipe=recipe,
        settings=to_settings(fields),
    )
    return run_study(grid, out, jobs=jobs, device=device)


@api_function
def forms(
    models: Sequence[str] = MODELS,
    *,
    data: str | PathLike[str] | None = None,
    seeds: int | Sequence[int] | None = None,
    budget: str | None = None,
    recipe: str | None = None,
    jobs: int | None = None,
    out: str | PathLike[str] | None = None,
    device: str = "auto",
    **fields: Any,
) -> Study:
    """Tables 1 to 3 of He et al., "Identity Mappings" (ECCV 2016): shortcuts and orders of layers.

    The first of `models` is trained in each form of Tables 1 and 2, and each of them as original
    and as pre-activation network (Table 3). The other arguments are those of `depth`.
    """
    grid = forms_grid(
        models=_to_tuple(models),
        data=_to_path(data),
        seeds=_to_counts(seeds),
        budget=budget,
        recipe=recipe,
        settings=to_settings(fields),
    )
    return run_study(grid, out, jobs=jobs, device=device)


def run_study(
    grid: Grid,
    out: str | PathLike[str] | None,
    *,
    jobs: int | None,
    device: str,
    blocks: Blocks = MappingProxyType({}),
) -> Study:
    """Train the unfinished cells of the grid in `out`, and write its report."""
    with trained_grid(grid, out, jobs=jobs, device=device, blocks=blocks) as (folder, cells):
        page = write_grid_page(folder, blocks)
    return Study(**vars(page), cells=cells)


def single_model_grid(
    study: Literal["folds", "data"],
    data: str,
    parts: int,
    *,
    model: str | None,
    recipe: str | None,
    budget: str | None,
    settings: Sequence[str],
) -> Grid:
    """Return the grid of one model on `parts` parts of `data`.

    The default recipe is "scratch", for digits "digits"; model and budget are the recipe's by
    default. Raises ConfigError.
    """
    recipe = recipe or ("digits" if data == "digits" else "scratch")
    base = recipes.recipe(recipe, model)
    return Grid(
        study=study,
        models=(model or base.model.name,),
        seeds=(parts,),
        data=resolve_data(data),
        recipe=recipe,
        budget=budget or base.duration,
        settings=tuple(settings),
    )


@contextmanager
def trained_grid(
    grid: Grid,
    out: str | PathLike[str] | None,
    *,
    jobs: int | None,
    device: str,
    blocks: Blocks = MappingProxyType({}),
) -> Iterator[tuple[Path, list[Cell]]]:
    """Train the unfinished cells of a grid; yields its folder, locked, and all cells.

    The folder is `out`, else that of a stopped study of the same grid, else a new one in runs/. If
    a signal stops the training, Interrupted contains the command that resumes it.
    """
    chosen = _find_unfinished(grid) if out is None else output_path(out)
    with page_folder(chosen, f"study-{grid.study}") as folder:
        try:
            cells = train_grid(grid, folder, jobs=jobs, device=device, blocks=blocks)
        except Interrupted as stop:
            command = grid.study if grid.study == "folds" else f"study {grid.study}"
            raise Interrupted(
                f"{stop}; resume with: resnets {command} --resume {folder} (in Python: the same"
                f" call with out={str(folder)!r})",
                stop.code,
            ) from None
        yield folder, cells


def _find_unfinished(grid: Grid) -> Path | None:
    """Return the latest stopped or killed study of the same grid in runs/, if any.

    Studies that another process is training are excluded.
    """
    paths = RUNS.glob(f"study-{grid.study}-*/{STUDY}")
    for path in sorted(paths, key=lambda path: path.stat().st_mtime, reverse=True):
        folder = path.parent
        if is_locked(folder):
            continue
        if read_grid(folder).requested == grid and any(
            cell.status in ("running", "missing") for cell in read_cells(folder)
        ):
            return folder
    return None


def _to_tuple(models: str | Sequence[str] | None) -> tuple[str, ...]:
    return (models,) if isinstance(models, str) else tuple(models or ())


def _to_path(data: str | PathLike[str] | None) -> str | None:
    return None if data is None else fspath(data)


def _to_counts(seeds: int | Sequence[int] | None) -> int | list[int] | None:
    return seeds if seeds is None or isinstance(seeds, int) else list(seeds)


def to_settings(fields: Mapping[str, Any]) -> tuple[str, ...]:
    """Return recipe fields as path=value, as in `Grid.settings`."""
    return tuple(f"{name}={_format_value(value)}" for name, value in flatten_fields(fields))


def _format_value(value: Any) -> str:
    """Format a field's value, as in `Grid.settings`."""
    if value is None:
        return "none"
    return value if isinstance(value, str) else json.dumps(value)
