"""`resnets study`: the paper's argument measured, each study a folder with its report.html."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from resnets.cli.study.analyses import Gradients, Identity, Landscape, Responses, split_names
from resnets.config import ConfigError, is_held
from resnets.utils.run_folders import page_folder
from resnets.utils.terminal import say

if TYPE_CHECKING:
    from resnets.study.grid.cells import Grid

Settings = Annotated[tuple[str, ...], tyro.conf.UseAppendAction]


@dataclass(frozen=True)
class Depth:
    """Train nets of several depths, plain and residual, and judge whether deeper ones train worse.

    Killed or stopped, it goes on where it was: the same command, or --resume.

    Args:
        nets: Nets, separated by commas; NAME:OPTION for another shortcut option.
        data: Data set: a name, a folder of class folders, a tar of one, IDX or CIFAR files.
        seeds: Runs of each net (seeds 0, 1, ...), or one number per net as in 3,3,1; two or more
            give an uncertainty. Default 3.
        budget: Length of each run as 2000it or 30ep, or of the whole study as 5min.
        preset: quick (minutes, embedded digits), paper-cifar10, paper-imagenet.
        recipe: Recipe of all runs (see `resnets train --list`); the paper's by default, for digits
            "digits".
        jobs: Runs trained at a time.
        out: Folder to write or go on with; default runs/study-depth-N.
        resume: Folder of a study to go on with as it is; a finished one gets a new report.
        set: Any other recipe field, as path=value; may be given again.
        device: auto (all GPUs, else the CPU), cpu, cuda, cuda:1, mps.
    """

    nets: str | None = None
    data: str | None = None
    seeds: str | None = None
    budget: str | None = None
    preset: str | None = None
    recipe: str | None = None
    jobs: int | None = None
    out: Path | None = None
    resume: Path | None = None
    set: Settings = ()
    device: str = "auto"

    def run(self) -> int:
        """Do the study; returns the exit code."""
        from resnets.study.depth.presets import depth_grid

        if self.resume is not None:
            _refuse_with_resume(self, "nets", "data", "seeds", "budget", "preset", "recipe", "out")
            return _resume(self.resume, self.jobs, self.device)
        grid = depth_grid(
            self.preset,
            nets=split_names(self.nets),
            data=self.data,
            seeds=_counts(self.seeds),
            budget=self.budget,
            recipe=self.recipe,
            settings=self.set,
        )
        return _train(grid, self.out, self.jobs, self.device)


@dataclass(frozen=True)
class Shortcuts:
    """Compare the shortcut options A, B and C (Table 3): each net trained with each of them.

    Args:
        nets: Nets, separated by commas; NAME:OPTION for one option alone.
        data: Data set: a name, a folder of class folders, a tar of one, IDX or CIFAR files.
        seeds: Runs of each net (seeds 0, 1, ...), or one number per net as in 3,3,1. Default 3.
        budget: Length of each run as 2000it or 30ep, or of the whole study as 5min.
        recipe: Recipe of all runs (see `resnets train --list`); the paper's by default, for digits
            "digits".
        jobs: Runs trained at a time.
        out: Folder to write or go on with; default runs/study-shortcuts-N.
        resume: Folder of a study to go on with as it is; a finished one gets a new report.
        set: Any other recipe field, as path=value; may be given again.
        device: auto (all GPUs, else the CPU), cpu, cuda, cuda:1, mps.
    """

    nets: str = "cifar-resnet20"
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
        """Do the study; returns the exit code."""
        from resnets.study.depth.presets import shortcut_grid

        if self.resume is not None:
            _refuse_with_resume(self, "data", "seeds", "budget", "recipe", "out")
            return _resume(self.resume, self.jobs, self.device)
        grid = shortcut_grid(
            nets=split_names(self.nets),
            data=self.data,
            seeds=_counts(self.seeds),
            budget=self.budget,
            recipe=self.recipe,
            settings=self.set,
        )
        return _train(grid, self.out, self.jobs, self.device)


def command(
    study: tyro.conf.OmitSubcommandPrefixes[
        tyro.conf.OmitArgPrefixes[
            Annotated[Depth, tyro.conf.subcommand("depth")]
            | Annotated[Shortcuts, tyro.conf.subcommand("shortcuts")]
            | Annotated[Responses, tyro.conf.subcommand("responses")]
            | Annotated[Gradients, tyro.conf.subcommand("gradients")]
            | Annotated[Identity, tyro.conf.subcommand("identity")]
            | Annotated[Landscape, tyro.conf.subcommand("landscape")]
        ]
    ],
) -> int:
    """Measure the paper's argument; each study writes a folder with its report.html."""
    return study.run()


def _counts(text: str | None) -> int | list[int] | None:
    """The number in "3", the numbers in "3,3,1"."""
    if text is None:
        return None
    try:
        numbers = [int(word) for word in text.split(",")]
    except ValueError:
        raise ConfigError(f"--seeds {text}: give a number, or one per net as in 3,3,1") from None
    return numbers if len(numbers) > 1 else numbers[0]


def _refuse_with_resume(study: Depth | Shortcuts, *flags: str) -> None:
    if any(getattr(study, flag) is not None for flag in flags) or study.set:
        raise ConfigError("--resume goes on with the study as it is: only --jobs and --device fit")


def _resume(folder: Path, jobs: int | None, device: str) -> int:
    from resnets.study.grid.cells import read_grid

    return _train(read_grid(folder), folder, jobs, device)


def _train(grid: Grid, out: Path | None, jobs: int | None, device: str) -> int:
    """Train what is left of the grid, and write its report whatever came of it."""
    from resnets.study.depth.page import depth_page
    from resnets.study.grid.grid import train_grid
    from resnets.study.page import write_page
    from resnets.train.guards.interrupt import Interrupted

    with page_folder(out or _unfinished(grid), f"study-{grid.study}") as folder:
        try:
            cells = train_grid(grid, folder, jobs=jobs, device=device)
        except Interrupted as stop:
            say(f"{stop}; go on with: resnets study {grid.study} --resume {folder}")
            return stop.code
        page = depth_page(folder)
        path = write_page(page, folder)
    say(page.lead.replace("\n\n", "\n"))
    unfinished = [cell.folder.name for cell in cells if cell.status not in ("done", "failed")]
    failed = [cell.folder.name for cell in cells if cell.status == "failed"]
    if failed:
        say(f"failed: {', '.join(failed)} (why: failed.json in each; remove it to try again)")
    if unfinished:
        say(f"not finished: {', '.join(unfinished)}; go on with --resume {folder}")
    say(f"report: {path}")
    return 1 if unfinished or len(failed) == len(cells) else 0


def _unfinished(grid: Grid) -> Path | None:
    """The latest study of this very grid under runs/ that was stopped or killed on its way.

    One that another process trains now is none of them.
    """
    from resnets.study.grid.cells import STUDY, read_cells, read_grid

    plans = Path("runs").glob(f"study-{grid.study}-*/{STUDY}")
    for plan in sorted(plans, key=lambda path: path.stat().st_mtime, reverse=True):
        if is_held(plan.parent):
            continue
        if read_grid(plan.parent).asked == grid and any(
            cell.status in ("running", "missing") for cell in read_cells(plan.parent)
        ):
            return plan.parent
    return None
