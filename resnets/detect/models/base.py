"""`DetectionModel`: what detectors, segmenters and localizers have in common."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

from torch import Tensor, nn

from resnets.config import ConfigError, DetectSpec, Recipe
from resnets.detect.data.types import DetectionSplit
from resnets.detect.metrics.meters import Meter
from resnets.detect.outputs import Output
from resnets.models import ImageClassifier


@dataclass(frozen=True)
class InferenceOptions:
    """The paper's additions at test (appendix B), as `DetectSpec` has them; detectors only."""

    refine: bool = False
    scales: tuple[int, ...] = ()

    def check(self, detects: bool) -> None:
        """ConfigError if a model cannot be tested so; `detects`: it is a detector."""
        if not detects and (self.refine or self.scales):
            field = "detect.refine (--refine)" if self.refine else "detect.test_sizes (--scales)"
            raise ConfigError(f"{field}: only for tasks detect and instances")
        if len(self.scales) == 1:
            raise ConfigError(f"detect.test_sizes: {self.scales} is one size; give more or none")


class DetectionModel(nn.Module):
    """A network with a head for one task, how it is used, and where it came from.

    preprocess, classes, recipe, fingerprint (`data.splits.fingerprint.Fingerprint` of the images of
    its run) and origin are set by `load`.
    """

    detects: ClassVar[bool] = False

    def __init__(self, net: ImageClassifier, spec: DetectSpec, num_classes: int) -> None:
        super().__init__()
        self.net, self.spec, self.num_classes = net, spec, num_classes
        self.preprocess: Any = None
        self.classes: tuple[str, ...] = ()
        self.recipe: Recipe | None = None
        self.fingerprint: Any = None
        self.origin = "random initialization"

    def infer(
        self,
        image: Tensor,
        size: tuple[int, int],
        others: Sequence[Self] = (),
        options: InferenceOptions = InferenceOptions(),
    ) -> Output:
        """What is in a normalized image (C, h, w), in pixels of the stored image of `size` (H, W).

        others: models of the same kind to average with (an ensemble).
        """
        raise NotImplementedError

    def meter(self, split: DetectionSplit, others: Sequence[Self] = ()) -> Meter:
        """What adds up the metrics of its outputs on `split`."""
        raise NotImplementedError
