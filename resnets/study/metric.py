"""Metrics by which the networks of a grid are compared: keys, units, labels, thresholds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Metric:
    """A metric of rows of metrics.jsonl; lower is better.

    key: in the rows. name, unit: as in "error 1.5%". difference: unit of differences. axis: label
    of an axis. depth: unit of a network's depth. margin: smaller rises are not degradation. fitted,
    learned, level: see `convergence_rule`. rule: that rule in words.
    """

    key: str
    name: str
    unit: str
    difference: str
    axis: str
    depth: str
    margin: float
    fitted: float
    learned: float
    level: float
    rule: str

    def of(self, row: Mapping[str, Any]) -> float:
        """Return the metric of a row."""
        return float(row[self.key])

    def text(self, value: float, digits: int = 2) -> str:
        """Format a value with its unit, such as "1.50%"."""
        return f"{value:.{digits}f}{self.unit}"


LEVEL_EPOCHS = 30.0

ERROR = Metric(
    key="top1_error",
    name="error",
    unit="%",
    difference="points",
    axis="error (%)",
    depth="weighted layers",
    margin=1.0,  # 0.1 points between two models that both fit their data is not degradation
    fitted=1 / 6,
    learned=0.5,
    level=1.0,
    rule="A comparison is valid only where the better of its two networks has converged: its "
    "training error is at most a sixth of the chance level, or it has leveled off (less than "
    f"1 point in the last fifth of at least {LEVEL_EPOCHS:g} epochs, and an error of at "
    "most half of the chance level).",
)
# The lowest possible loss of a text is unknown. The rule requires that the better network
# predicts more than the frequencies of characters: 4.5 bits in English, 0.76 of chance among 62.
BITS = Metric(
    key="bits_per_character",
    name="loss",
    unit=" bits",
    difference="bits",
    axis="loss (bits per character)",
    depth="blocks",
    margin=0.05,
    fitted=0.65,
    learned=0.65,
    level=0.05,
    rule="A comparison is valid only where the better of its two networks has learned more than "
    "how frequent each character is: its training loss is at most 0.65 of the chance level "
    "(all characters equally probable). It need not have converged, so every difference here is "
    "one within these iterations.",
)
