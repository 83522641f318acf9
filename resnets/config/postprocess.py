"""`Postprocess`: from a network's logits to probabilities, labels and "unknown"."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from resnets.utils.errors import ConfigError

# Beyond these, logits divided by a stored temperature could overflow float32, or all become equal.
MIN_TEMPERATURE, MAX_TEMPERATURE = 1e-3, 1e3


@dataclass(frozen=True, kw_only=True)
class Postprocess:
    """From the network's logits to probabilities and decisions; stored with the weights.

    Probabilities are `activation`(logits / `temperature`).

    Attributes:
        activation: "softmax" for one class per image, "sigmoid" for any number of labels per image.
        temperature: [factor] Divides the logits, 0.001 to 1,000; 1 where it was not fitted (Guo et
            al. 2017).
        thresholds: [probability] Of each class: an image has the label from this probability on.
            Empty for "softmax".
        min_score: [nats] An image whose logsumexp of the logits, its negative energy, is below is
            "unknown", of none of the classes; None where it was not fitted (Liu et al. 2020).
    """

    activation: Literal["softmax", "sigmoid"] = "softmax"
    temperature: float = 1.0
    thresholds: tuple[float, ...] = ()
    min_score: float | None = None

    def __post_init__(self) -> None:
        if not MIN_TEMPERATURE <= self.temperature <= MAX_TEMPERATURE:
            raise ConfigError(
                f"postprocess.temperature: {self.temperature} must be in [{MIN_TEMPERATURE:g}, "
                f"{MAX_TEMPERATURE:g}]"
            )
        if not all(0 <= each <= 1 for each in self.thresholds):
            raise ConfigError("postprocess.thresholds: must be in [0, 1]")
        if self.min_score is not None and not math.isfinite(self.min_score):
            raise ConfigError(f"postprocess.min_score: {self.min_score} must be finite")

    @property
    def multilabel(self) -> bool:
        """Whether an image may have any number of labels."""
        return self.activation == "sigmoid"

    def check(self, num_classes: int) -> None:
        """Raise ConfigError unless there is one threshold for each class."""
        expected = num_classes if self.multilabel else 0
        if len(self.thresholds) != expected:
            raise ConfigError(
                f"postprocess.thresholds: {len(self.thresholds)} values, expected {expected}"
            )


SOFTMAX = Postprocess()  # the default: one class per image, nothing fitted
