"""`resnets study`: measure the paper's argument; each study writes a folder with a report.html."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from resnets.cli.options import Settings, read_resumed
from resnets.cli.study.analyses import (
    Curvature,
    Effective,
    Gradients,
    Identity,
    Inference,
    Landscape,
    Responses,
    Shattered,
    Similarity,
    Unravelled,
)
from resnets.config import ConfigError
from resnets.utils.printable import echo

if TYPE_CHECKING:
    from resnets.study.grid.cells import Grid


@dataclass(frozen=True)
class GridStudy(ABC):
    """A study that trains a grid of models and seeds; started again, it resumes.

    Args:
        models: Models, separated by commas; NAME:OPTION for another shortcut option,
            NAME:FIELD=VALUE for another field of the model or of the recipe (optim.lr, batch_size).
        data: Data set: a name, a folder of class folders, a tar of one, IDX or CIFAR files.
        seeds: Runs of each model (seeds 0, 1, ...), or one number per model as in 3,3,1; two or
            more give an uncertainty. Default 3.
        budget: Length of each run as 2000it or 30ep, or of the whole study as 5min.
        recipe: Recipe of all runs (see `resnets train --list`); the paper's by default, for digits
            "digits".
        jobs: Number of runs trained in parallel; default: by cores, and on GPUs by their memory.
        out: Folder to write or resume; default runs/study-NAME-N.
        resume: Folder of a study to resume unchanged; a finished one gets a new report.
        set: Any other recipe field, as path=value; repeatable.
        device: auto (all GPUs, else the CPU), cpu, cuda, cuda:1, mps.
    """

    models: str | None = None
    data: str | None = None
    seeds: str | None = None
    budget: str | None = None
    recipe: str | None = None
    jobs: int | None = None
    out: Path | None = None
    resume: Path | None = None
    set: Settings = ()
    device: str = "auto"

    def run(self) -> int:
        """Train the unfinished runs of the grid and write its report; returns the exit code."""
        grid = read_resumed(type(self), vars(self)) or self.grid()
        return _run_grid(grid, self.resume or self.out, self.jobs, self.device)

    @abstractmethod
    def grid(self) -> Grid:
        """Return the grid that the options describe."""

    def options(self) -> dict[str, Any]:
        """Return the options of every grid, as arguments of `depth_grid` and `shortcut_grid`."""
        from resnets.study.grid.model_names import split_names

        return {
            "models": split_names(self.models or ""),
            "data": self.data,
            "seeds": _parse_seeds(self.seeds),
            "budget": self.budget,
            "recipe": self.recipe,
            "settings": self.set,
        }


@dataclass(frozen=True)
class Depth(GridStudy):
    """Train models of several depths, plain and residual: do deeper ones train worse?

    A stopped or killed study is resumed by the same command, or with --resume.

    Args:
        preset: quick, sweep (minutes, embedded digits), text (transformers, embedded text),
            paper-cifar10, paper-imagenet.
        sweep: Train each model with each of these values, as optim.lr=0.01,0.03,0.1; repeatable.
    """

    preset: str | None = None
    sweep: Settings = ()

    def grid(self) -> Grid:
        """The grid that the options describe."""
        from resnets.study.depth.presets import depth_grid

        return depth_grid(self.preset, sweep=self.sweep, **self.options())


@dataclass(frozen=True)
class Shortcuts(GridStudy):
    """Compare the shortcut options A, B and C (Table 3): each model trained with each of them."""

    models: str | None = "cifar-resnet20"

    def grid(self) -> Grid:
        """The grid that the options describe."""
        from resnets.study.depth.presets import shortcut_grid

        return shortcut_grid(**self.options())


@dataclass(frozen=True)
class Forms(GridStudy):
    """Tables 1 to 3 of He et al. 2016: shortcuts, orders of layers, pre-activation by depth.

    The first model is trained in each form of Tables 1 and 2, all of them as original and as
    pre-activation network. By default on the embedded digits, 200 iterations, two seeds.
    """

    models: str | None = "cifar-resnet32,cifar-resnet56"

    def grid(self) -> Grid:
        """The grid that the options describe."""
        from resnets.study.depth.identity_mappings import forms_grid

        return forms_grid(**self.options())


@dataclass(frozen=True)
class Data:
    """Would more images help? Train on halves, quarters, ... of them, and extrapolate the error.

    The same command resumes a stopped study.

    Args:
        data: Data set: a name or a path.
        subsets: Number of subsets, including the whole set: with 4, they are 1/8, 1/4, 1/2 and all.
        model: Model; default is the recipe's.
        recipe: Recipe of all runs; default scratch, for digits "digits".
        budget: Length of each run as 2000it or 30ep (of all images), or of the study as 5min.
        jobs: Number of runs trained in parallel.
        out: Folder to write or resume; default runs/study-data-N.
        resume: Folder of a study to resume unchanged.
        set: Any other recipe field, as path=value; repeatable.
        device: auto (all GPUs, else the CPU), cpu, cuda, cuda:1, mps.
    """

    data: str | None = None
    subsets: int = 4
    model: str | None = None
    recipe: str | None = None
    budget: str | None = None
    jobs: int | None = None
    out: Path | None = None
    resume: Path | None = None
    set: Settings = ()
    device: str = "auto"

    def run(self) -> int:
        """Train the unfinished runs and write the page; returns the exit code."""
        from resnets.study.data_curve import data_grid, run_data_study

        grid = read_resumed(type(self), vars(self))
        if grid is None:
            if self.data is None:
                raise ConfigError("give a data set, such as --data photos")
            grid = data_grid(
                self.data,
                self.subsets,
                model=self.model,
                recipe=self.recipe,
                budget=self.budget,
                settings=self.set,
            )
        out = self.resume or self.out
        study = run_data_study(grid, out, jobs=self.jobs, device=self.device)
        echo(study.lead)
        echo(f"report: {study.report}")
        return 1 if any(cell.status != "done" for cell in study.cells) else 0


@dataclass(frozen=True)
class Index:
    """Write the page that links all studies of a folder.

    Args:
        folder: Folder that contains the study folders.
    """

    folder: Annotated[Path, tyro.conf.Positional] = Path("runs")

    def run(self) -> int:
        """Write studies.html; returns the exit code."""
        from resnets.report.page import write_index

        echo(f"studies: {write_index(self.folder)}")
        return 0


def command(
    study: tyro.conf.OmitSubcommandPrefixes[
        tyro.conf.OmitArgPrefixes[
            Annotated[Depth, tyro.conf.subcommand("depth")]
            | Annotated[Shortcuts, tyro.conf.subcommand("shortcuts")]
            | Annotated[Forms, tyro.conf.subcommand("forms")]
            | Annotated[Data, tyro.conf.subcommand("data")]
            | Annotated[Responses, tyro.conf.subcommand("responses")]
            | Annotated[Gradients, tyro.conf.subcommand("gradients")]
            | Annotated[Identity, tyro.conf.subcommand("identity")]
            | Annotated[Landscape, tyro.conf.subcommand("landscape")]
            | Annotated[Unravelled, tyro.conf.subcommand("unravelled")]
            | Annotated[Shattered, tyro.conf.subcommand("shattered")]
            | Annotated[Inference, tyro.conf.subcommand("inference")]
            | Annotated[Similarity, tyro.conf.subcommand("similarity")]
            | Annotated[Effective, tyro.conf.subcommand("effective")]
            | Annotated[Curvature, tyro.conf.subcommand("curvature")]
            | Annotated[Index, tyro.conf.subcommand("index")]
        ]
    ],
) -> int:
    """Measure the paper's argument; each study writes a folder with a report.html."""
    return study.run()


def _parse_seeds(text: str | None) -> int | list[int] | None:
    """Parse "3" as a number, "3,3,1" as a list of numbers."""
    if text is None:
        return None
    try:
        numbers = [int(word) for word in text.split(",")]
    except ValueError:
        raise ConfigError(
            f"--seeds {text}: must be one number, or one per model, such as 3,3,1"
        ) from None
    return numbers if len(numbers) > 1 else numbers[0]


def _run_grid(grid: Grid, out: Path | None, jobs: int | None, device: str) -> int:
    """Train the unfinished runs of a grid, and print the conclusion of its report."""
    from resnets.study.run import run_study

    study = run_study(grid, out, jobs=jobs, device=device)
    echo(study.lead)
    unfinished = [cell.folder.name for cell in study.cells if cell.status not in ("done", "failed")]
    failed = [cell.folder.name for cell in study.cells if cell.status == "failed"]
    if failed:
        echo(
            f"failed: {', '.join(failed)} (the reason is in failed.json in each; remove that "
            "file to train it again)"
        )
    if unfinished:
        echo(f"not finished: {', '.join(unfinished)}; resume with --resume {study.folder}")
    echo(f"report: {study.report}")
    return 1 if unfinished or len(failed) == len(study.cells) else 0
