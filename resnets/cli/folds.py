"""`resnets folds`: cross-validation, and labels that are likely wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import tyro

from resnets.cli.options import Fields, read_resumed
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
    fields: Fields = (),
    device: str = "auto",
) -> int:
    """Cross-validate: train k models, each of them tested on its held-out fold.

    Gives mean and spread of the error, predictions.csv, and with cleanlab a page of likely label
    errors, corrections.csv and quarantine.txt. The same command resumes a stopped run.

    Args:
        data: Data set: a name or a path; its training part is divided into folds.
        k: Number of folds.
        group: Images that belong together: column:NAME of the table of labels, or regex:PATTERN
            of paths.
        model: Model; default is the recipe's.
        recipe: Recipe of all runs; default scratch, for digits "digits".
        budget: Length of each run as 2000it or 30ep, or of all as 5min.
        jobs: Number of runs trained in parallel.
        out: Folder to write or resume; default runs/study-folds-N.
        resume: Folder of a cross-validation to resume unchanged.
        fields: Any other recipe field, as path=value; repeatable.
        device: auto (all GPUs, else the CPU), cpu, cuda, cuda:1, mps.
    """
    given = dict(locals())
    from resnets.study.folds.study import CORRECTIONS, folds_grid, run_folds

    grid = read_resumed(command, given)
    if grid is None:
        if data is None:
            raise ConfigError("give a data set, such as: resnets folds photos")
        grid = folds_grid(
            data, k, group=group, model=model, recipe=recipe, budget=budget, settings=fields
        )
    study = run_folds(grid, resume or out, jobs=jobs, device=device)
    echo(study.lead)
    if study.issues is None:
        echo(
            "label errors: not searched; pip install 'resnets[check]', then run the same "
            "command again"
        )
    else:
        echo(f"corrections: {study.folder / CORRECTIONS}")
    echo(f"report: {study.report}")
    return 1 if any(cell.status != "done" for cell in study.cells) else 0
