"""`resnets folds`: cross-validation, and labels that are likely wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import tyro

from resnets.config import ConfigError
from resnets.utils.printable import echo


def command(
    data: Annotated[str | None, tyro.conf.Positional] = None,
    /,
    k: int = 5,
    group: str | None = None,
    model: str | None = None,
    recipe: str | None = None,
    budget: str | None = None,
    jobs: int | None = None,
    out: Path | None = None,
    resume: Path | None = None,
    fields: Annotated[tuple[str, ...], tyro.conf.UseAppendAction, tyro.conf.arg(name="set")] = (),
    device: str = "auto",
) -> int:
    """Cross-validate: k networks, each predicting the images that it has not seen.

    Gives mean and spread of the error, predictions.csv, and with cleanlab a page of likely label
    errors, corrections.csv and quarantine.txt. The same command resumes what was stopped.

    Args:
        data: Data set: a name or a path; its training part is divided into folds.
        k: Number of folds.
        group: Images that belong together: column:NAME of the table of labels, or regex:PATTERN
            of paths.
        model: Model; default is the recipe's.
        recipe: Recipe of all runs; default scratch, for digits "digits".
        budget: Length of each run as 2000it or 30ep, or of all as 5min.
        jobs: Runs trained at a time.
        out: Folder to write or resume; default runs/study-folds-N.
        resume: Folder of a cross-validation to resume unchanged.
        fields: Any other recipe field, as path=value; repeatable.
        device: auto (all GPUs, else the CPU), cpu, cuda, cuda:1, mps.
    """
    from resnets.study.folds.study import CORRECTIONS, folds_grid, run_folds
    from resnets.study.grid.cells import read_grid
    from resnets.train.guards.interrupt import Interrupted

    if resume is not None:
        if data is not None or out is not None:
            raise ConfigError(
                "--resume continues unchanged what was begun: leave out DATA and --out"
            )
        grid, out = read_grid(resume), resume
    elif data is None:
        raise ConfigError("name a data set, such as: resnets folds photos")
    else:
        grid = folds_grid(
            data, k, group=group, model=model, recipe=recipe, budget=budget, settings=fields
        )
    try:
        found = run_folds(grid, out, jobs=jobs, device=device)
    except Interrupted as stop:
        echo(stop)
        return stop.code
    echo(found.lead)
    if found.issues is None:
        echo("label errors: pip install 'resnets[check]', and the same command again")
    else:
        echo(f"corrections: {found.folder / CORRECTIONS}")
    echo(f"report: {found.report}")
    return 1 if any(cell.status != "done" for cell in found.cells) else 0
