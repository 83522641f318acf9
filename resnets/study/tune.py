"""`resnets tune`: a learning-rate range test, then a seeded, resumable search with Optuna."""

from __future__ import annotations

import hashlib
import json
import math
import shlex
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from resnets.config import ConfigError, Recipe, dump_json, from_toml, replace_fields, to_toml
from resnets.config.ranges import check_range
from resnets.report.figure_style import SERIES, figure_style, subplots
from resnets.report.page import Figure, Numbers, StudyResult, Table, write_page
from resnets.report.run import METRICS
from resnets.train.guards.divergence import Diverged
from resnets.train.optim.schedule import Schedule
from resnets.train.replay import open_training
from resnets.train.run import run_training
from resnets.train.tasks.label_settings import choose_monitor
from resnets.train.write_results import RESULT
from resnets.utils.errors import OutOfMemory, reading
from resnets.utils.files.json import read_object
from resnets.utils.files.locks import page_folder
from resnets.utils.files.write import atomic_write
from resnets.utils.imports import require_package
from resnets.weights.checkpoint.format import RECIPE

BASE, BEST, RANGE, STORE, TRIALS = "base.toml", "recipe.toml", "range.json", "trials.db", "trials"
SHOWN = ("top1_error", "balanced_error", "mAP", "macro_f1")  # of each trial, on the page
SEED = "seed"  # attribute of the search in STORE
WORST = 100.0  # percent; the error of a trial that diverged
WEIGHT_DECAYS = (1e-5, 1e-2)
LR_FACTORS = (1 / 8, 4.0)  # of the range test's rate, between which rates are drawn
MAGNITUDES = ("recipe", "3", "5", "7", "9")  # of data.augment.policy "rand"; "recipe": unchanged
MIN_LR, MAX_LR, LR_STEPS = 1e-5, 10.0, 100  # of the range test
SMOOTHING = 0.9  # of the running mean of the loss
DIVERGED = 4.0  # times the lowest loss, at which the range test ends


@dataclass(frozen=True)
class Trial:
    """One run of the search.

    fields: that it sets. error: in percent, the metric of validation images that is minimized: the
    one that chooses the best checkpoint of a run (`eval.monitor`), of multi-label data 100 - mAP.
    metrics: all metrics of validation images; empty if it diverged.
    """

    number: int
    fields: Mapping[str, Any]
    error: float
    folder: Path
    metrics: Mapping[str, Any]


@dataclass(frozen=True, eq=False, repr=False)
class TuneResult(StudyResult):
    """A search; `recipe` is the tuned one, with the fields of the best trial."""

    recipe: Recipe
    best: Trial
    trials: tuple[Trial, ...]


def tune(
    recipe: Recipe,
    *,
    trials: int,
    budget: str,
    seed: int,
    out: str | PathLike[str] | None,
    device: str,
) -> TuneResult:
    """Search learning rate, weight decay and augmentation strength on validation images.

    What is minimized is the error that chooses the best checkpoint: the balanced error where
    classes are weighted or balanced, else the top-1 error; 100 - mAP for multi-label data. A
    learning-rate range test (Smith 2017) gives the rate to search around. The first trial has the
    recipe's own settings; others are drawn by Optuna's TPE (Bergstra et al. 2011), each from (seed,
    number) and the trials before it, so a resumed search equals an uninterrupted one. Test images
    are not read. The arguments are those of `resnets.tune`.
    """
    require_package("optuna", "tuning", "tune")
    check_range("--trials", trials, "[1, inf)")
    if recipe.task != "classify":
        raise ConfigError(f"task {recipe.task!r}: only classifiers are tuned")
    trial_recipe = replace(
        recipe, duration=budget, eval=replace(recipe.eval, test=False), checkpoint_every=budget
    )
    with page_folder(out, "tune") as folder:
        _check_same(folder, to_toml(trial_recipe))
        lr_test = _load_or_run_range_test(folder, trial_recipe, device)
        finished = _search(folder, trial_recipe, lr_test, trials, seed, device)
        best = min(finished, key=lambda each: (each.error, each.number))
        if best.error >= WORST:
            raise ConfigError("all trials diverged or had no validation images; see their folders")
        tuned = replace_fields(recipe, dict(best.fields))
        with atomic_write(folder / BEST) as temporary:
            temporary.write_text(to_toml(tuned), encoding="utf-8")
        page = _write_report(folder, recipe, lr_test, finished, best, budget)
        return TuneResult(**vars(page), recipe=tuned, best=best, trials=tuple(finished))


@dataclass(frozen=True)
class RangeTest:
    """Learning rate and smoothed loss of each step; ConfigError if there are none."""

    rates: tuple[float, ...]
    losses: tuple[float, ...]

    def __post_init__(self) -> None:
        if not self.rates or len(self.rates) != len(self.losses):
            raise ConfigError("the range test has no step of finite loss")
        if (
            not all(0 < rate < math.inf for rate in self.rates)
            or not np.isfinite(self.losses).all()
        ):
            raise ConfigError("the range test has invalid rates or losses")

    @property
    def suggested(self) -> float:
        """A tenth of the rate at which the loss was lowest (Howard and Gugger 2020)."""
        return self.rates[int(np.argmin(self.losses))] / 10


class RisingRate(Schedule):
    """The rate rises from `MIN_LR` to `MAX_LR` by the same factor in each step."""

    def lr(self, step: int) -> float:
        """Return the rate of a step."""
        return float(MIN_LR * (MAX_LR / MIN_LR) ** (step / (LR_STEPS - 1)))


def range_test(recipe: Recipe, device: str) -> RangeTest:
    """Train the recipe's model for up to 100 steps of rising rate (Smith 2017)."""
    train_step, stream, _ = open_training(recipe, None, device)
    state, recipe = train_step.state, train_step.recipe
    state.schedule = RisingRate(recipe.schedule, recipe.optim.lr, LR_STEPS)
    rates: list[float] = []
    losses: list[float] = []
    mean = 0.0
    for step, batch in enumerate(stream.batches(0, None)):
        state.interval.reset()
        train_step(batch)
        loss = state.interval.means()["loss"]
        mean = SMOOTHING * mean + (1 - SMOOTHING) * loss
        smooth = mean / (1 - SMOOTHING ** (step + 1))
        if not math.isfinite(smooth) or (losses and smooth > DIVERGED * min(losses)):
            break
        rates.append(state.schedule.lr(step))
        losses.append(smooth)
        if step + 1 == LR_STEPS:
            break
    return RangeTest(tuple(rates), tuple(losses))


def _check_same(folder: Path, text: str) -> None:
    """Store the recipe of the trials; ConfigError if the folder has a search of another one."""
    if not (folder / BASE).is_file():
        with atomic_write(folder / BASE) as temporary:
            temporary.write_text(text, encoding="utf-8")
    elif to_toml(from_toml(folder / BASE, stored=True)) != text:
        raise ConfigError(
            f"{folder}: contains a search of another recipe or budget; give another --out"
        )


def _load_or_run_range_test(folder: Path, recipe: Recipe, device: str) -> RangeTest:
    if (folder / RANGE).is_file():
        stored = read_object(folder / RANGE)
        with reading(folder / RANGE, remedy="delete it"):
            return RangeTest(tuple(stored["rates"]), tuple(stored["losses"]))
    lr_test = range_test(recipe, device)
    dump_json({"rates": lr_test.rates, "losses": lr_test.losses}, folder / RANGE)
    return lr_test


def _search(
    folder: Path, recipe: Recipe, lr_test: RangeTest, trials: int, seed: int, device: str
) -> list[Trial]:
    """Run the missing trials; returns all."""
    import optuna
    from optuna.trial import TrialState
    from sqlalchemy import URL

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    store = (folder / STORE).resolve()

    def accessing_store() -> AbstractContextManager[None]:
        return reading(folder / STORE, what="as a search", remedy="give another --out")

    with accessing_store():
        url = URL.create("sqlite", database=str(store)).render_as_string()  # a "?" is quoted
        study = optuna.create_study(storage=url, study_name="tune", load_if_exists=True)
        for each in study.get_trials(states=(TrialState.RUNNING,)):
            study.tell(each.number, state=TrialState.FAIL)  # was stopped; the same is drawn again
        stored_seed = study.user_attrs.get(SEED)
        if stored_seed is None:
            study.set_user_attr(SEED, seed)
    if stored_seed not in (None, seed):
        raise ConfigError(
            f"{folder}: has a search of seed {stored_seed}, not {seed}; "
            f"give --seed {stored_seed} or another --out"
        )
    with accessing_store():
        if not study.get_trials(states=(TrialState.COMPLETE, TrialState.WAITING)):
            study.enqueue_trial(_own_settings(recipe))
    while True:
        with accessing_store():
            finished = study.get_trials(states=(TrialState.COMPLETE,))
            if len(finished) >= trials:
                break
            study.sampler = optuna.samplers.TPESampler(seed=1000 * seed + len(finished))
            trial = study.ask()
            fields = _suggest_fields(trial, recipe, lr_test)
        error = _run_trial(folder, recipe, fields, device)
        with accessing_store():
            study.tell(trial, error)
    with accessing_store():
        return [
            Trial(
                number,
                fields,
                float(each.value),
                _trial_folder(folder, fields),
                _read_metrics(_trial_folder(folder, fields)),
            )
            for number, each in enumerate(finished)
            if each.value is not None
            for fields in [_suggest_fields(optuna.trial.FixedTrial(each.params), recipe, lr_test)]
        ]


def _suggest_fields(trial: Any, recipe: Recipe, lr_test: RangeTest) -> dict[str, Any]:
    """Draw the fields of a trial; the ranges include the recipe's own values."""
    own = _own_settings(recipe)
    rates = [factor * lr_test.suggested for factor in LR_FACTORS]
    fields: dict[str, Any] = {
        f"optim.{name}": trial.suggest_float(
            name, min(*limits, own[name]), max(*limits, own[name]), log=True
        )
        for name, limits in (("lr", rates), ("weight_decay", WEIGHT_DECAYS))
    }
    if not recipe.data.has_stacks:
        magnitude = trial.suggest_categorical("augment", MAGNITUDES)
        if magnitude != "recipe":
            fields["data.augment.policy"] = "rand"
            fields["data.augment.policy_magnitude"] = float(magnitude)
    return fields


def _own_settings(recipe: Recipe) -> dict[str, Any]:
    """Return the parameters of a trial of the recipe itself; no weight decay is the smallest."""
    settings: dict[str, Any] = {
        "lr": recipe.optim.lr,
        "weight_decay": recipe.optim.weight_decay or WEIGHT_DECAYS[0],
    }
    return settings if recipe.data.has_stacks else {**settings, "augment": MAGNITUDES[0]}


def _find_own(trials: tuple[Trial, ...] | list[Trial], recipe: Recipe) -> Trial | None:
    """Return the trial of the recipe's own settings."""
    own = {
        f"optim.{key}": value for key, value in _own_settings(recipe).items() if key != "augment"
    }
    return next((each for each in trials if dict(each.fields) == own), None)


def _trial_folder(folder: Path, fields: Mapping[str, Any]) -> Path:
    """Return the folder of a trial, named by a hash of its fields."""
    text = json.dumps(fields, sort_keys=True)
    return folder / TRIALS / hashlib.sha256(text.encode()).hexdigest()[:10]


def _run_trial(folder: Path, recipe: Recipe, fields: Mapping[str, Any], device: str) -> float:
    """Train a trial, or resume it; returns its validation error in percent."""
    run = _trial_folder(folder, fields)
    if (run / RESULT).is_file():
        result = read_object(run / RESULT)
    else:
        chosen = None if (run / RECIPE).is_file() else replace_fields(recipe, dict(fields))
        try:
            result = run_training(chosen, run, device=device, quiet=True)
        except (Diverged, OutOfMemory):
            return WORST
    if "val" not in result:
        raise ConfigError("tuning needs validation images; set data.val_fraction")
    with reading(run / RESULT, remedy="delete the trial's folder"):
        val = result["val"]
        name = _monitored(recipe, val)
        error = float(WORST - val["mAP"] if name == "error" else val[name])
        if not 0 <= error <= WORST:
            raise ConfigError(f"the validation error is {error}")
    return error


def _monitored(recipe: Recipe, val: Mapping[str, Any]) -> str:
    """Return the metric that is minimized; "error" is 100 - mAP."""
    return choose_monitor(recipe, multilabel="mAP" in val)


def _read_metrics(run: Path) -> Mapping[str, Any]:
    """Return the validation metrics of a trial's run; empty if it has no result."""
    result = read_object(run / RESULT) if (run / RESULT).is_file() else {}
    return result["val"] if isinstance(result.get("val"), dict) else {}


def _write_report(
    folder: Path,
    recipe: Recipe,
    lr_test: RangeTest,
    trials: list[Trial],
    best: Trial,
    budget: str,
) -> StudyResult:
    """Write the page of the search."""
    names = list(dict.fromkeys(name for each in trials for name in each.fields))
    metrics = {
        key: title
        for key, title in METRICS.items()
        if key in SHOWN and any(key in each.metrics for each in trials)
    }
    rows = [
        (
            each.number,
            *(each.metrics.get(key) for key in metrics),
            *(_format_value(each.fields.get(name)) for name in names),
        )
        for each in sorted(trials, key=lambda each: (each.error, each.number))
    ]
    columns = ("trial", *(f"{title} (%)" for title in metrics.values()), *names)
    monitored = _monitored(recipe, best.metrics)
    return write_page(
        folder,
        "study/tune.html.j2",
        figures=[_plot_range_test(lr_test)],
        tables=[Table("trials", columns, tuple(rows))],
        interval=best.metrics.get("top1_interval") if monitored == "top1_error" else None,
        tested=best.metrics.get("examples"),
        own=_find_own(trials, recipe),  # none in searches of earlier versions
        errors=[each.error for each in trials],
        minimized=METRICS.get(monitored, "error (100 - mAP)"),
        name=recipe.name,
        data=Path(recipe.data.source).name,
        best=best,
        fields={name: _format_value(value) for name, value in best.fields.items()},
        suggested=lr_test.suggested,
        trials=len(trials),
        budget=budget,
        command=shlex.join(("resnets", "train", str(folder / BEST))),
    )


def _format_value(value: Any) -> str | None:
    return f"{value:.3g}" if isinstance(value, float) else value


def _plot_range_test(lr_test: RangeTest) -> Figure:
    with figure_style():
        plot, (axes,) = subplots(1, panel=(6, 3.2))
        axes.plot(lr_test.rates, lr_test.losses, color=SERIES[0])
        axes.axvline(lr_test.suggested, color=SERIES[3], linestyle="--")
        axes.set(xscale="log", xlabel="learning rate", ylabel="training loss")
    numbers = Numbers(("lr", "loss"), tuple(zip(lr_test.rates, lr_test.losses, strict=True)))
    return Figure("range-test", plot, numbers)
