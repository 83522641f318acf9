"""`resnets study data`: would more images help?"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from resnets.config import ConfigError
from resnets.utils.printable import echo


@dataclass(frozen=True)
class Data:
    """Would more images help? Train on halves of halves of them, and extrapolate the error.

    The same command resumes what was stopped.

    Args:
        data: Data set: a name or a path.
        subsets: Subsets, the whole included: 4 are 1/8, 1/4, 1/2 and all.
        model: Model; default is the recipe's.
        recipe: Recipe of all runs; default scratch, for digits "digits".
        budget: Length of each run as 2000it or 30ep (of all images), or of the study as 5min.
        jobs: Runs trained at a time.
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
    set: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    device: str = "auto"

    def run(self) -> int:
        """Train what is left and write the page; returns the exit code."""
        from resnets.study.data_curve.study import data_grid, run_data_study
        from resnets.study.grid.cells import read_grid
        from resnets.train.guards.interrupt import Interrupted

        folder: Path | None
        if self.resume is not None:
            grid, folder = read_grid(self.resume), self.resume
        elif self.data is None:
            raise ConfigError("name a data set: --data photos")
        else:
            folder = self.out
            grid = data_grid(
                self.data,
                self.subsets,
                model=self.model,
                recipe=self.recipe,
                budget=self.budget,
                settings=self.set,
            )
        try:
            found = run_data_study(grid, folder, jobs=self.jobs, device=self.device)
        except Interrupted as stop:
            echo(stop)
            return stop.code
        echo(found.lead)
        echo(f"report: {found.report}")
        return 1 if any(cell.status != "done" for cell in found.cells) else 0
