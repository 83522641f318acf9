"""`resnets.study.data`: the error by number of training images, and its extrapolation.

The law is error = floor + scale n^-exponent (Hestness et al. 2017).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from os import PathLike, fspath
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resnets.config import ConfigError
from resnets.config.ranges import check_range
from resnets.report.figure_style import SERIES, figure_style, subplots
from resnets.report.page import Figure, Numbers, StudyResult, Table, write_page
from resnets.report.render import Row
from resnets.study.convergence_rule import measure_convergence
from resnets.study.grid.cells import Cell, Grid, read_grid
from resnets.study.run import single_model_grid, to_settings, trained_grid
from resnets.utils.api_function import api_function

MIN_POINTS = 3  # for a law
RESAMPLES = 200
EXPONENTS = np.linspace(0.05, 2.0, 80)  # candidates; floor and scale follow from each
COLUMNS = (
    "training images",
    "test error (%)",
    "90% interval",
    "balanced error (%)",
    "macro F1 (%)",
    "how",
)


@dataclass(frozen=True)
class PowerLaw:
    """error(n) = floor + scale n^-exponent, in percent of n training images."""

    floor: float
    scale: float
    exponent: float

    def __call__(self, images: float) -> float:
        """Return the error in percent at `images` training images."""
        return float(self.floor + self.scale * images**-self.exponent)


@dataclass(frozen=True)
class Extrapolation:
    """Error in percent that the law predicts for `images`, with its 90% interval."""

    images: int
    error: float
    low: float
    high: float


def fit_power_law(images: Sequence[int], errors: Sequence[float]) -> PowerLaw:
    """Fit the law to three or more points by least squares, with floor and scale at least 0."""
    assert len(images) >= MIN_POINTS
    counts, targets = np.array(images, float), np.array(errors, float)
    fits = [_fit_exponent(counts, targets, exponent) for exponent in EXPONENTS]
    return min(fits, key=lambda each: each[0])[1]


def _fit_exponent(
    counts: NDArray[np.float64], errors: NDArray[np.float64], exponent: float
) -> tuple[float, PowerLaw]:
    """Return the residual and the law of least squares for one exponent."""
    from scipy.optimize import nnls

    columns = np.stack([np.ones_like(counts), counts**-exponent], 1)
    (floor, scale), residual = nnls(columns, errors)
    return residual, PowerLaw(float(floor), float(scale), float(exponent))


def extrapolate(
    images: Sequence[int], errors: Sequence[float], tested: int, factors: Sequence[int] = (2, 4)
) -> tuple[PowerLaw, list[Extrapolation]]:
    """Fit the law, and extrapolate it to `factors` times the largest number of images.

    The interval is that of laws fitted to errors resampled from the binomial distribution of
    `tested` test images: it covers the sampling of the test images, but neither the variation of
    training nor a departure from the law.
    """
    law, rng = fit_power_law(images, errors), np.random.default_rng(0)
    shares = np.array(errors) / 100
    laws = [
        fit_power_law(images, (100 * rng.binomial(tested, shares) / tested).tolist())
        for _ in range(RESAMPLES)
    ]
    extrapolations = []
    for factor in factors:
        count = factor * max(images)
        low, high = np.quantile([each(count) for each in laws], (0.05, 0.95))
        extrapolations.append(Extrapolation(count, law(count), float(low), float(high)))
    return law, extrapolations


@dataclass(frozen=True, eq=False, repr=False)
class LearningCurve(StudyResult):
    """A learning curve: training images and test errors in percent of each subset.

    law, expected: the fitted power law, and its values at more images; None and empty with fewer
    than three finished subsets, and where the network of the largest had not converged.
    """

    cells: Sequence[Cell]
    images: Sequence[int]
    errors: Sequence[float]
    law: PowerLaw | None
    expected: Sequence[Extrapolation]


def data_grid(
    data: str,
    subsets: int = 4,
    *,
    model: str | None = None,
    recipe: str | None = None,
    budget: str | None = None,
    settings: Sequence[str] = (),
) -> Grid:
    """Return the grid of a learning curve: one model, one cell per subset; raises ConfigError."""
    check_range("--subsets", subsets, f"[{MIN_POINTS}, inf)")
    return single_model_grid(
        "data", data, subsets, model=model, recipe=recipe, budget=budget, settings=settings
    )


@api_function
def data(
    data: str | PathLike[str],
    subsets: int = 4,
    *,
    model: str | None = None,
    recipe: str | None = None,
    budget: str | None = None,
    jobs: int | None = None,
    out: str | PathLike[str] | None = None,
    device: str = "auto",
    **fields: Any,
) -> LearningCurve:
    """Train on 1/8, 1/4, 1/2 and all of the images, and extrapolate the error to more images.

    Args:
        data: Data set: a name or a path.
        subsets: Number of subsets; each is half of the next, the last one is the whole set.
        model: Catalog name; default is the recipe's.
        recipe: Recipe of all runs; default "scratch", for digits "digits".
        budget: Length of each run in steps ("2000it") or passes over all images ("30ep"), the same
            number of steps for each subset; or of the whole study ("5min").
        jobs: Runs trained at a time.
        out: Folder; default runs/study-data-N. The same study in it is resumed.
        device: auto (all GPUs, else the CPU), cpu, cuda, cuda:1, mps.
        **fields: Other recipe fields, as for `resnets.train`.

    Raises ConfigError, DataError, and Interrupted after a signal.
    """
    grid = data_grid(
        fspath(data),
        subsets,
        model=model,
        recipe=recipe,
        budget=budget,
        settings=to_settings(fields),
    )
    return run_data_study(grid, out, jobs=jobs, device=device)


def run_data_study(
    grid: Grid, out: str | PathLike[str] | None, *, jobs: int | None, device: str
) -> LearningCurve:
    """Train what is left of the subsets in `out`, and write the page."""
    with trained_grid(grid, out, jobs=jobs, device=device) as (folder, cells):
        return write_curve(read_grid(folder), folder, cells)


def write_curve(grid: Grid, folder: Path, cells: Sequence[Cell]) -> LearningCurve:
    """Fit the finished cells, and write the page. ConfigError if none has a test error."""
    measured = sorted(
        (
            cell.result["splits"]["images"]["train"],
            cell.result["test"]["top1_error"],
            cell.seed,
            cell.result["test"],
        )
        for cell in cells
        if cell.result is not None and "test" in cell.result
    )
    points = [(count, error) for count, error, *_ in measured]
    if not points:
        raise ConfigError(f"{folder}: no subset is finished, or the data set has no test images")
    images, errors = ([point[axis] for point in points] for axis in (0, 1))
    tested = next(cell.result["test"]["examples"] for cell in cells if cell.result is not None)
    law: PowerLaw | None = None
    expected: list[Extrapolation] = []
    convergence = measure_convergence([cell for cell in cells if cell.seed == measured[-1][2]])
    short = "" if convergence is None or convergence.converged else convergence.text
    if len(points) >= MIN_POINTS and not short:
        law, expected = extrapolate(images, errors, tested)
    rows: list[Row] = [
        (count, error, None, test.get("balanced_error"), test.get("macro_f1"), "measured")
        for count, error, _, test in measured
    ]
    rows += [
        (each.images, each.error, f"{each.low:.2f} to {each.high:.2f}", None, None, "extrapolated")
        for each in expected
    ]
    page = write_page(
        folder,
        "study/data.html.j2",
        figures=[_plot_curve(images, errors, law, expected)],
        tables=[Table("points", COLUMNS, tuple(rows))],
        data=Path(grid.data).name,
        model=grid.models[0],
        images=images,
        errors=errors,
        tested=tested,
        law=law,
        expected=expected,
        short=short,
        fits=not expected or expected[0].error <= errors[-1],
        steps=grid.iterations,
        missing=[cell.folder.name for cell in cells if cell.status != "done"],
    )
    return LearningCurve(
        **vars(page), cells=cells, images=images, errors=errors, law=law, expected=expected
    )


def _plot_curve(
    images: Sequence[int],
    errors: Sequence[float],
    law: PowerLaw | None,
    expected: Sequence[Extrapolation],
) -> Figure:
    with figure_style():
        plot, (axes,) = subplots(1, panel=(6, 3.4))
        axes.plot(images, errors, "o", color=SERIES[0], label="measured")
        if law is not None and expected:
            counts = np.geomspace(min(images), expected[-1].images, 100)
            fitted = [law(count) for count in counts]
            axes.plot(counts, fitted, "--", color=SERIES[0], label="power law")
            below = [each.error - each.low for each in expected]
            above = [each.high - each.error for each in expected]
            axes.errorbar(
                [each.images for each in expected],
                [each.error for each in expected],
                yerr=np.clip([below, above], 0, None),
                fmt="s",
                color=SERIES[3],
                label="extrapolated",
            )
        axes.set(xscale="log", xlabel="training images", ylabel="test error (%)")
        axes.legend()
    points = tuple(zip(images, errors, strict=True))
    return Figure("curve", plot, Numbers(("images", "error"), points))
