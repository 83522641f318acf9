"""`resnets.folds`: cross-validation with label errors; resumable as all grids are."""

from __future__ import annotations

import html
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

from resnets import recipes
from resnets.config import ConfigError, DataSpec
from resnets.data.dataset.quarantine import QUARANTINE, Quarantine, write_quarantine
from resnets.data.decode.decode import decode_whole
from resnets.data.errors import DataError
from resnets.data.splits.corrections import Correction, write_corrections
from resnets.report.page import Table, write_page
from resnets.report.thumbnail import Thumbnail
from resnets.study.convergence_rule import measure_convergence
from resnets.study.folds.label_errors import LabelIssue, find_label_issues
from resnets.study.folds.predictions import Predictions, predict_folds
from resnets.study.grid.cells import Cell, Grid, cell_recipe, read_grid
from resnets.study.run import grid_folder, single_model_grid, train_or_stop

PREDICTIONS, CORRECTIONS = "predictions.csv", "corrections.csv"
SHOWN = 200  # label errors on the page


@dataclass(frozen=True)
class Folds:
    """A cross-validation in `folder`.

    errors: top-1 error of each finished fold, in percent. issues: likely label errors, the surest
    first; None where cleanlab is not installed. `predictions` are of images that the network did
    not see.
    """

    folder: Path
    cells: Sequence[Cell]
    errors: Sequence[float]
    predictions: Predictions
    issues: Sequence[LabelIssue] | None
    lead: str
    report: Path

    @property
    def mean(self) -> float:
        """Mean top-1 error of the folds in percent."""
        return statistics.fmean(self.errors)

    @property
    def spread(self) -> float | None:
        """Standard deviation of the folds' errors, in points; None of a single one."""
        return statistics.stdev(self.errors) if len(self.errors) > 1 else None

    def _repr_html_(self) -> str:
        return f"<p>{html.escape(self.lead)}</p><p><code>{html.escape(str(self.report))}</code></p>"


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
    """The grid of a cross-validation: one model, a cell for each fold. Raises ConfigError."""
    if k < 2:
        raise ConfigError(f"--k {k}: must be at least 2")
    grouped = () if group is None else (f"data.group={group}",)
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
        raise ConfigError(f"--recipe {grid.recipe}: folds are of classifiers")
    return grid


def folds(
    data: str,
    k: int = 5,
    *,
    group: str | None = None,
    model: str | None = None,
    recipe: str | None = None,
    budget: str | None = None,
    settings: Sequence[str] = (),
    jobs: int | None = None,
    out: str | PathLike[str] | None = None,
    device: str = "auto",
) -> Folds:
    """Cross-validate: train k networks, each without one part of the images, and predict that part.

        found = resnets.study.folds("photos", k=5)
        found.mean, found.spread, found.issues[:10]

    Args:
        data: Data set: a name or a path. Its training part is divided; a test part is left aside.
        k: Number of folds.
        group: Images that belong together, as `data.group`: "column:NAME" or "regex:PATTERN".
        model: Catalog name; default is the recipe's.
        recipe: Recipe of all runs; default "scratch", for digits "digits".
        budget: Length of each run as "2000it" or "30ep", or of all as "5min".
        settings: Other recipe fields, as "path=value".
        jobs: Runs trained at a time, each in a process of its own.
        out: Folder; default runs/study-folds-N. The same cross-validation in it is resumed.
        device: auto (all GPUs, else the CPU), cpu, cuda, cuda:1, mps.

    The folder gets predictions.csv (an out-of-sample prediction of every image) and, with cleanlab,
    report.html with likely label errors, corrections.csv and quarantine.txt. Raises ConfigError,
    DataError, and Interrupted after a signal.
    """
    grid = folds_grid(
        data, k, group=group, model=model, recipe=recipe, budget=budget, settings=settings
    )
    return run_folds(grid, out, jobs=jobs, device=device)


def run_folds(
    grid: Grid, out: str | PathLike[str] | None, *, jobs: int | None, device: str
) -> Folds:
    """Train what is left of the folds in `out`, predict, and write the page."""
    with grid_folder(grid, out) as folder:
        cells = train_or_stop(grid, folder, jobs, device, f"folds --resume {folder}")
        return write_folds(read_grid(folder), folder, cells, device)


def write_folds(grid: Grid, folder: Path, cells: Sequence[Cell], device: str) -> Folds:
    """Predict every image by the finished folds, and write tables, lists and page into `folder`."""
    found = predict_folds(cells, device)
    found.write(folder / PREDICTIONS)
    try:
        issues, why = find_label_issues(found), ""
    except ConfigError as error:
        issues, why = None, str(error)
    spec = cell_recipe(grid, grid.models[0], 0).data
    if issues is not None:
        _write_lists(folder, issues, spec)
    errors = [cell.result["test"]["top1_error"] for cell in cells if cell.result is not None]
    spread = statistics.stdev(errors) if len(errors) > 1 else None
    wrong = found.predicted != found.labels
    reached = measure_convergence(cells)
    train = f"resnets train {grid.recipe} --data {grid.data}"
    report = write_page(
        folder,
        "study/folds.html.j2",
        tables=[_folds_table(cells), _class_table(found)],
        data=Path(grid.data).name,
        model=grid.models[0],
        k=len(cells),
        errors=errors,
        mean=statistics.fmean(errors),
        spread=spread,
        images=len(found.labels),
        out_of_sample=100 * float(wrong.mean()),
        group=spec.group,
        issues=None if issues is None else len(issues),
        shown=[(each, _thumbnail(found, each.row)) for each in (issues or [])[:SHOWN]],
        why=why,
        short="" if reached is None or reached.converged else reached.text,
        corrections=CORRECTIONS,
        quarantine=QUARANTINE,
        predictions=PREDICTIONS,
        train_corrected=f"{train} --set data.corrections={folder / CORRECTIONS}",
        train_without=f"{train} --set data.quarantine={folder / QUARANTINE}",
        missing=[cell.folder.name for cell in cells if cell.status != "done"],
    )
    return Folds(folder, cells, errors, found, issues, report.lead, report.path)


def _write_lists(folder: Path, issues: Sequence[LabelIssue], spec: DataSpec) -> None:
    """corrections.csv, and quarantine.txt with what the set's own list has already."""
    write_corrections(
        folder / CORRECTIONS,
        (Correction(each.path, each.label, each.suggested) for each in issues),
    )
    before = Quarantine.of(spec)
    entries = dict.fromkeys(before.paths, f"listed before, in {before.file}")
    for each in issues:
        entries[each.path] = f"label-error: {each.label} is perhaps {each.suggested}"
    write_quarantine(folder / QUARANTINE, sorted(entries.items()))


def _folds_table(cells: Sequence[Cell]) -> Table:
    rows: list[Any] = []
    for cell in cells:
        test = (cell.result or {}).get("test", {})
        rows.append((cell.seed, cell.status, test.get("examples"), test.get("top1_error")))
    return Table("folds", ("fold", "state", "images", "error %"), tuple(rows))


def _class_table(found: Predictions) -> Table:
    wrong = found.predicted != found.labels
    rows = []
    for label, name in enumerate(found.classes):
        own = found.labels == label
        error = 100 * float(wrong[own].mean()) if own.any() else None
        rows.append((name, int(own.sum()), error))
    rows.sort(key=lambda row: -(row[2] or 0))
    return Table("classes", ("class", "images", "error %"), tuple(rows))


def _thumbnail(found: Predictions, row: int) -> Thumbnail:
    """Of an image by its place in the predictions; empty where it is no image of gray or RGB."""
    part, place = found.part, int(found.rows[row])
    try:
        if part.files is None:
            pixels = part.images[place]  # type: ignore[attr-defined]  # of an ArrayPart
            return Thumbnail.of(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels)
        return Thumbnail.of(decode_whole(part.files.read(place), part.files.name(place)))
    except DataError:
        return Thumbnail()
