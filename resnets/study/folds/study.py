"""`resnets.study.folds`: resumable cross-validation, with a page of likely label errors."""

from __future__ import annotations

import shlex
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from os import PathLike, fspath
from pathlib import Path
from typing import Any

from resnets import recipes
from resnets.config import ConfigError, DataSpec
from resnets.config.ranges import check_range
from resnets.data.dataset.quarantine_list import QUARANTINE, Quarantine, write_quarantine
from resnets.data.decode.decode import decode_whole
from resnets.data.errors import DataError
from resnets.data.splits.corrections import Correction, write_corrections
from resnets.evaluate.metrics.multiclass import balanced_error, macro_f1
from resnets.report.figure_style import Thumbnail
from resnets.report.page import StudyResult, Table, write_page
from resnets.study.convergence_rule import measure_convergence
from resnets.study.folds.predictions import (
    LabelIssue,
    Predictions,
    find_label_issues,
    predict_folds,
)
from resnets.study.grid.cells import Cell, Grid, cell_recipe, read_grid
from resnets.study.run import single_model_grid, to_settings, trained_grid
from resnets.utils.api_function import api_function

PREDICTIONS, CORRECTIONS = "predictions.csv", "corrections.csv"
MAX_ISSUES = 200  # on the page


@dataclass(frozen=True, eq=False, repr=False)
class Folds(StudyResult):
    """A cross-validation.

    errors: top-1 error of each finished fold, in percent. predictions: of images that the network
    was not trained on. issues: likely label errors, the most certain first; None if cleanlab is not
    installed.
    """

    cells: Sequence[Cell]
    errors: Sequence[float]
    predictions: Predictions
    issues: Sequence[LabelIssue] | None

    @property
    def mean(self) -> float:
        """Mean top-1 error of the folds in percent."""
        return statistics.fmean(self.errors)

    @property
    def spread(self) -> float | None:
        """Standard deviation of the folds' errors, in points; None for a single fold."""
        return statistics.stdev(self.errors) if len(self.errors) > 1 else None


def folds_grid(
    data: str,
    k: int = 5,
    *,
    group: str | None = None,
    model: str | None = None,
    recipe: str | None = None,
    budget: str | None = None,
    settings: Sequence[str] = (),
) -> Grid:
    """Return the grid of a cross-validation: one model, one cell per fold; raises ConfigError."""
    check_range("--k", k, "[2, inf)")
    grouped = () if group is None else (f"data.group={group}",)
    if grouped and any(each.partition("=")[0].strip() == "data.group" for each in settings):
        raise ConfigError("--set data.group: also set by --group; omit one of them")
    grid = single_model_grid(
        "folds",
        data,
        k,
        model=model,
        recipe=recipe,
        budget=budget,
        settings=(*grouped, *settings),
    )
    if recipes.recipe(grid.recipe, model).task != "classify":
        raise ConfigError(f"--recipe {grid.recipe}: cross-validation is only for classifiers")
    return grid


@api_function
def folds(
    data: str | PathLike[str],
    k: int = 5,
    *,
    group: str | None = None,
    model: str | None = None,
    recipe: str | None = None,
    budget: str | None = None,
    jobs: int | None = None,
    out: str | PathLike[str] | None = None,
    device: str = "auto",
    **fields: Any,
) -> Folds:
    """Cross-validate: train k networks, each without one part of the images, and predict that part.

        found = resnets.study.folds("photos", k=5)
        found.mean, found.spread, found.issues[:10]

    Args:
        data: Data set: a name or a path. Its training split is divided; a test split is not used.
        k: Number of folds.
        group: Images that belong together, as `data.group`: "column:NAME" or "regex:PATTERN".
        model: Catalog name; default is the recipe's.
        recipe: Recipe of all runs; default "scratch", for digits "digits".
        budget: Length of each run as "2000it" or "30ep", or of all as "5min".
        jobs: Runs trained at a time, each in a process of its own.
        out: Folder; default runs/study-folds-N. The same cross-validation in it is resumed.
        device: auto (all GPUs, else the CPU), cpu, cuda, cuda:1, mps.
        **fields: Other recipe fields, as for `resnets.train`.

    The folder gets predictions.csv (an out-of-sample prediction of every image) and, with cleanlab,
    report.html with likely label errors, corrections.csv and quarantine.txt. Raises ConfigError,
    DataError, and Interrupted after a signal.
    """
    grid = folds_grid(
        fspath(data),
        k,
        group=group,
        model=model,
        recipe=recipe,
        budget=budget,
        settings=to_settings(fields),
    )
    return run_folds(grid, out, jobs=jobs, device=device)


def run_folds(
    grid: Grid, out: str | PathLike[str] | None, *, jobs: int | None, device: str
) -> Folds:
    """Train what is left of the folds in `out`, predict, and write the page."""
    with trained_grid(grid, out, jobs=jobs, device=device) as (folder, cells):
        return write_folds(read_grid(folder), folder, cells, device)


def write_folds(grid: Grid, folder: Path, cells: Sequence[Cell], device: str) -> Folds:
    """Predict every image by the finished folds, and write tables, lists and page into `folder`."""
    predictions = predict_folds(cells, device)
    predictions.write(folder / PREDICTIONS)
    try:
        issues, why = find_label_issues(predictions), ""
    except ConfigError as error:
        issues, why = None, str(error)
    spec = cell_recipe(grid, grid.models[0], 0).data
    if issues is not None:
        _write_lists(folder, issues, spec)
    errors = [cell.result["test"]["top1_error"] for cell in cells if cell.result is not None]
    spread = statistics.stdev(errors) if len(errors) > 1 else None
    wrong = predictions.predicted != predictions.labels
    convergence = measure_convergence(cells)
    train = f"resnets train {shlex.quote(grid.recipe)} --data {shlex.quote(grid.data)} --set"
    page = write_page(
        folder,
        "study/folds.html.j2",
        tables=[_folds_table(cells), _class_table(predictions)],
        data=Path(grid.data).name,
        model=grid.models[0],
        k=len(cells),
        errors=errors,
        mean=statistics.fmean(errors),
        spread=spread,
        images=len(predictions.labels),
        out_of_sample=100 * float(wrong.mean()),
        balanced=balanced_error(predictions.confusion),
        macro_f1=macro_f1(predictions.confusion),
        group=spec.group,
        issues=None if issues is None else len(issues),
        shown=[(each, _thumbnail(predictions, each.row)) for each in (issues or [])[:MAX_ISSUES]],
        why=why,
        short="" if convergence is None or convergence.converged else convergence.text,
        corrections=CORRECTIONS,
        quarantine=QUARANTINE,
        predictions=PREDICTIONS,
        train_corrected=f"{train} {shlex.quote(f'data.corrections={folder / CORRECTIONS}')}",
        train_without=f"{train} {shlex.quote(f'data.quarantine={folder / QUARANTINE}')}",
        missing=[cell.folder.name for cell in cells if cell.status != "done"],
    )
    return Folds(**vars(page), cells=cells, errors=errors, predictions=predictions, issues=issues)


def _write_lists(folder: Path, issues: Sequence[LabelIssue], spec: DataSpec) -> None:
    """Write corrections.csv, and quarantine.txt with the entries of the set's own list."""
    write_corrections(
        folder / CORRECTIONS,
        (Correction(each.path, each.label, each.suggested) for each in issues),
    )
    existing = Quarantine.of(spec)
    entries = dict.fromkeys(existing.paths, f"listed before, in {existing.file}")
    for each in issues:
        entries[each.path] = f"label-error: {each.label} is perhaps {each.suggested}"
    write_quarantine(folder / QUARANTINE, sorted(entries.items()))


def _folds_table(cells: Sequence[Cell]) -> Table:
    rows: list[Any] = []
    for cell in cells:
        test = (cell.result or {}).get("test", {})
        values = (test.get(key) for key in ("top1_error", "balanced_error", "macro_f1"))
        rows.append((cell.seed, cell.status, test.get("examples"), *values))
    columns = ("fold", "state", "images", "error (%)", "balanced error (%)", "macro F1 (%)")
    return Table("folds", columns, tuple(rows))


def _class_table(predictions: Predictions) -> Table:
    wrong = predictions.predicted != predictions.labels
    rows = []
    for label, name in enumerate(predictions.classes):
        selected = predictions.labels == label
        error = 100 * float(wrong[selected].mean()) if selected.any() else None
        rows.append((name, int(selected.sum()), error))
    rows.sort(key=lambda row: -(row[2] or 0))
    return Table("classes", ("class", "images", "error (%)"), tuple(rows))


def _thumbnail(predictions: Predictions, row: int) -> Thumbnail:
    """Return the thumbnail of an image by its row; empty if it cannot be decoded to gray or RGB."""
    part, index = predictions.part, int(predictions.rows[row])
    try:
        if part.files is None:
            pixels = part.images[index]  # type: ignore[attr-defined]  # of an ArrayPart
            return Thumbnail.of(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels)
        return Thumbnail.of(decode_whole(part.files.read(index), part.files.name(index)))
    except DataError:
        return Thumbnail()
