"""The power law of learning curves: error = a + b n^-c (Hestness et al. 2017)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 200
EXPONENTS = np.linspace(0.05, 2.0, 80)  # c that are tried; a and b follow from it


@dataclass(frozen=True)
class PowerLaw:
    """error(n) = floor + scale n^-exponent, in percent of n training images."""

    floor: float
    scale: float
    exponent: float

    def __call__(self, images: float) -> float:
        """The error in percent at `images` training images."""
        return float(self.floor + self.scale * images**-self.exponent)


@dataclass(frozen=True)
class Extrapolation:
    """images: how many; error: what the law says, and its 90% interval over resampled errors."""

    images: int
    error: float
    low: float
    high: float


def fit_power_law(images: Sequence[int], errors: Sequence[float]) -> PowerLaw:
    """The law of least squares with a floor and a scale of 0 or more.

    Needs three points or more.
    """
    assert len(images) >= 3
    counts, wanted = np.array(images, float), np.array(errors, float)
    found = [_fit(counts, wanted, exponent) for exponent in EXPONENTS]
    return min(found, key=lambda each: each[0])[1]


def _fit(
    counts: NDArray[np.float64], errors: NDArray[np.float64], exponent: float
) -> tuple[float, PowerLaw]:
    from scipy.optimize import nnls

    columns = np.stack([np.ones_like(counts), counts**-exponent], 1)
    (floor, scale), residual = nnls(columns, errors)
    return residual, PowerLaw(float(floor), float(scale), float(exponent))


def extrapolate(
    images: Sequence[int], errors: Sequence[float], tested: int, factors: Sequence[int] = (2, 4)
) -> tuple[PowerLaw, list[Extrapolation]]:
    """The law, and what it says of more images than the most.

    The interval is that of laws fitted to errors drawn anew from the binomial distribution of
    `tested` test images: it holds the chance of the test images, not that of the training, nor that
    the law ends.
    """
    law, rng = fit_power_law(images, errors), np.random.default_rng(0)
    shares = np.array(errors) / 100
    laws = [
        fit_power_law(images, (100 * rng.binomial(tested, shares) / tested).tolist())
        for _ in range(RESAMPLES)
    ]
    found = []
    for factor in factors:
        count = factor * max(images)
        low, high = np.quantile([each(count) for each in laws], (0.05, 0.95))
        found.append(Extrapolation(count, law(count), float(low), float(high)))
    return law, found
