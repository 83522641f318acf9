"""The loss of classification."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from resnets.utils.errors import ConfigError

GAMMA = 2.0  # the best in Lin et al. 2017, Table 1b


@dataclass(frozen=True, kw_only=True)
class LossSpec:
    """The loss of task "classify"; those of the other tasks belong to their heads.

    Attributes:
        kind: "cross-entropy" is of the softmax; "bce" is binary cross-entropy per class (Wightman
            et al. 2021); "focal" weights the cross-entropy of each image by (1 - p)^`gamma`, p
            being the probability of its class, so that images that are classified well count less
            (Lin et al. 2017).
        label_smoothing: [fraction] Target probability spread over all classes (Szegedy et al.
            2016).
        gamma: [exponent] Exponent of "focal"; 0 is the cross-entropy.
        class_weights: Factor of the loss of each image by its class. "auto" is N / (K n) for a
            class of n images, of N in K classes: inversely proportional to its frequency, with mean
            1 over the images (King and Zeng 2001). A table {class = weight} is used as given;
            classes that it does not name have weight 1.
    """

    kind: Literal["cross-entropy", "bce", "focal"] = "cross-entropy"
    label_smoothing: float = 0.0
    gamma: float = GAMMA
    class_weights: Literal["none", "auto"] | dict[str, float] = "none"

    def __post_init__(self) -> None:
        if not 0 <= self.label_smoothing < 1:
            raise ConfigError(f"loss.label_smoothing: {self.label_smoothing} is not in [0, 1)")
        if not 0 <= self.gamma < math.inf:
            raise ConfigError(f"loss.gamma: {self.gamma} is not in [0, inf)")
        if self.kind != "focal" and self.gamma != GAMMA:
            raise ConfigError(f"loss.gamma: is used by kind focal only, not by {self.kind}")
        if isinstance(self.class_weights, str):
            return
        for name, weight in self.class_weights.items():
            if not 0 <= weight < math.inf:
                raise ConfigError(f"loss.class_weights.{name}: {weight} is not in [0, inf)")
