"""`resnets.study.tune`: a range test, then a small seeded search with Optuna, resumable."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from os import PathLike
from pathlib import Path
from typing import Any

from resnets.config import (
    ConfigError,
    Recipe,
    atomic_write,
    dump_json,
    from_toml,
    replace_fields,
    to_toml,
)
from resnets.report.page import Figure, Numbers, Table, write_page
from resnets.study.tune.range_test import RangeTest, range_test
from resnets.train.fit_memory import OutOfMemory
from resnets.train.guards.divergence import Diverged
from resnets.train.results import RESULT
from resnets.train.run import run as run_training
from resnets.utils.errors import read_object, reading
from resnets.utils.files import page_folder
from resnets.utils.imports import require_package

BASE, BEST, RANGE, STORE, TRIALS = "base.toml", "recipe.toml", "range.json", "trials.db", "trials"
WORST = 100.0  # percent; the error of a trial that diverged
DECAYS = (1e-5, 1e-2)
AROUND = (1 / 8, 4.0)  # factors of the range test's rate within which rates are drawn
MAGNITUDES = ("recipe", "3", "5", "7", "9")  # of data.augment.policy "rand"; "recipe" leaves it


@dataclass(frozen=True)
class Trial:
    """One point of the search: the fields that it sets, and its validation error in percent."""

    number: int
    fields: Mapping[str, Any]
    error: float
    folder: Path


@dataclass(frozen=True)
class Tuned:
    """A search in `folder`; `recipe` is the base with the fields of the best trial."""

    folder: Path
    recipe: Recipe
    best: Trial
    trials: tuple[Trial, ...]
    lead: str
    report: Path


def tune(
    recipe: Recipe,
    *,
    trials: int = 12,
    budget: str = "3ep",
    seed: int = 0,
    out: str | PathLike[str] | None = None,
    device: str = "auto",
) -> Tuned:
    """Search learning rate, weight decay and augmentation strength on validation images.

    A learning-rate range test (Smith 2017) gives the rate to search around; trials are then drawn
    by Optuna's TPE (Bergstra et al. 2011), each from (seed, number) and the trials before it, so a
    search that was stopped goes on as it would have. Test images are not read.

    Args:
        recipe: What is tuned; it keeps its own duration in the recipe that is written.
        trials: Runs in all, finished ones included.
        budget: Length of each, such as "3ep".
        seed: Seed of the search; the recipe has its own.
        out: Folder, new or of the same search; default runs/tune-N.
        device: auto, cpu, cuda, cuda:1, mps.

    Raises ConfigError where Optuna is not installed, there are no validation images, or the folder
    is of another search.
    """
    require_package("optuna", "tuning", "tune")
    if trials < 1:
        raise ConfigError(f"--trials {trials}: must be at least 1")
    if recipe.task != "classify":
        raise ConfigError(f"task {recipe.task!r}: only classifiers are tuned")
    trial_recipe = replace(
        recipe, duration=budget, eval=replace(recipe.eval, test=False), checkpoint_every=budget
    )
    with page_folder(None if out is None else Path(out), "tune") as folder:
        _check_same(folder, to_toml(trial_recipe))
        found = _range_test(folder, trial_recipe, device)
        done = _search(folder, trial_recipe, found, trials, seed, device)
        best = min(done, key=lambda each: (each.error, each.number))
        if best.error >= WORST:
            raise ConfigError("all trials diverged or had no validation images; see their folders")
        tuned = replace_fields(recipe, dict(best.fields))
        with atomic_write(folder / BEST) as temporary:
            temporary.write_text(to_toml(tuned), encoding="utf-8")
        page = _write(folder, recipe, found, done, best, budget)
        return Tuned(folder, tuned, best, tuple(done), page.lead, page.path)


def _check_same(folder: Path, text: str) -> None:
    """Keep what is tuned; ConfigError where the folder has another search."""
    if not (folder / BASE).is_file():
        with atomic_write(folder / BASE) as temporary:
            temporary.write_text(text, encoding="utf-8")
    elif to_toml(from_toml(folder / BASE, stored=True)) != text:
        raise ConfigError(
            f"{folder}: holds a search of another recipe or budget; give another --out"
        )


def _range_test(folder: Path, recipe: Recipe, device: str) -> RangeTest:
    if (folder / RANGE).is_file():
        stored = read_object(folder / RANGE)
        with reading(folder / RANGE, remedy="delete it"):
            return RangeTest(tuple(stored["rates"]), tuple(stored["losses"]))
    found = range_test(recipe, device)
    dump_json({"rates": found.rates, "losses": found.losses}, folder / RANGE)
    return found


def _search(
    folder: Path, recipe: Recipe, found: RangeTest, trials: int, seed: int, device: str
) -> list[Trial]:
    """All trials, those done before included."""
    import optuna
    from optuna.trial import TrialState
    from sqlalchemy import URL

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    store = (folder / STORE).resolve()

    def storing() -> AbstractContextManager[None]:
        return reading(folder / STORE, what="as a search", remedy="give another --out")

    with storing():
        url = URL.create("sqlite", database=str(store)).render_as_string()  # a "?" is quoted
        study = optuna.create_study(storage=url, study_name="tune", load_if_exists=True)
        for each in study.get_trials(states=(TrialState.RUNNING,)):
            study.tell(each.number, state=TrialState.FAIL)  # was stopped; the same is drawn again
    while True:
        with storing():
            finished = study.get_trials(states=(TrialState.COMPLETE,))
            if len(finished) >= trials:
                break
            study.sampler = optuna.samplers.TPESampler(seed=1000 * seed + len(finished))
            trial = study.ask()
            fields = _fields(trial, recipe, found)
        error = _error(folder, recipe, fields, device)
        with storing():
            study.tell(trial, error)
    with storing():
        return [
            Trial(place, fields, float(each.value), _folder(folder, fields))
            for place, each in enumerate(finished)
            if each.value is not None
            for fields in [_fields(optuna.trial.FixedTrial(each.params), recipe, found)]
        ]


def _fields(trial: Any, recipe: Recipe, found: RangeTest) -> dict[str, Any]:
    """The fields of a point of the search."""
    low, high = (factor * found.suggested for factor in AROUND)
    fields: dict[str, Any] = {
        "optim.lr": trial.suggest_float("lr", low, high, log=True),
        "optim.weight_decay": trial.suggest_float("weight_decay", *DECAYS, log=True),
    }
    if not recipe.data.has_stacks:
        magnitude = trial.suggest_categorical("augment", MAGNITUDES)
        if magnitude != "recipe":
            fields["data.augment.policy"] = "rand"
            fields["data.augment.policy_magnitude"] = float(magnitude)
    return fields


def _folder(folder: Path, fields: Mapping[str, Any]) -> Path:
    """The folder of a trial, which is found again by its fields."""
    text = json.dumps(fields, sort_keys=True)
    return folder / TRIALS / hashlib.sha256(text.encode()).hexdigest()[:10]


def _error(folder: Path, recipe: Recipe, fields: Mapping[str, Any], device: str) -> float:
    """Train a trial, resuming it where it was stopped: its validation error in percent."""
    run = _folder(folder, fields)
    if (run / RESULT).is_file():
        result = read_object(run / RESULT)
    else:
        chosen = None if (run / "recipe.toml").is_file() else replace_fields(recipe, dict(fields))
        try:
            result = run_training(chosen, run, device=device, quiet=True)
        except (Diverged, OutOfMemory):
            return WORST
    if "val" not in result:
        raise ConfigError("tuning needs validation images; set data.val_fraction")
    with reading(run / RESULT, remedy="delete the trial's folder"):
        error = float(result["val"]["top1_error"])
        if not 0 <= error <= WORST:
            raise ConfigError(f"val.top1_error is {error}")
    return error


def _write(
    folder: Path,
    recipe: Recipe,
    found: RangeTest,
    trials: list[Trial],
    best: Trial,
    budget: str,
) -> Any:
    """The page of the search."""
    names = list(dict.fromkeys(name for each in trials for name in each.fields))
    rows = [
        (each.number, each.error, *(_shown(each.fields.get(name)) for name in names))
        for each in sorted(trials, key=lambda each: (each.error, each.number))
    ]
    return write_page(
        folder,
        "study/tune.html.j2",
        figures=[_range_figure(found)],
        tables=[Table("trials", ("trial", "val error %", *names), tuple(rows))],
        name=recipe.name,
        data=Path(recipe.data.source).name,
        best=best,
        fields={name: _shown(value) for name, value in best.fields.items()},
        suggested=found.suggested,
        trials=len(trials),
        budget=budget,
        command=f"resnets train {folder / BEST}",
    )


def _shown(value: Any) -> str | None:
    return f"{value:.3g}" if isinstance(value, float) else value


def _range_figure(found: RangeTest) -> Figure:
    from matplotlib.figure import Figure as Plot

    plot = Plot(figsize=(6, 3.2))
    axes = plot.subplots()
    axes.plot(found.rates, found.losses)
    axes.axvline(found.suggested, linestyle="--")
    axes.set(xscale="log", xlabel="learning rate", ylabel="training loss")
    numbers = Numbers(("lr", "loss"), tuple(zip(found.rates, found.losses, strict=True)))
    return Figure("range-test", plot, numbers)
