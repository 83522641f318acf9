"""`DetectionModel`: what detectors, segmenters and localizers have in common."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Self

from torch import Tensor, nn

from resnets.config import ConfigError, DetectSpec, Recipe
from resnets.detect.data.types import DetectionSplit
from resnets.detect.metrics.meters import Meter
from resnets.detect.outputs import Output
from resnets.models import ImageClassifier

ModelKind = Literal["detector", "localizer", "segmenter"]


@dataclass(frozen=True)
class InferenceOptions:
    """The paper's additions at test (appendices B and C), as `DetectSpec` has them.

    refine is for detectors, scales for detectors and localizers.
    """

    refine: bool = False
    scales: tuple[int, ...] = ()

    def check(self, kind: ModelKind) -> None:
        """ConfigError if a model of this kind cannot be tested so."""
        if self.refine and kind != "detector":
            raise ConfigError("detect.refine (--refine): only for tasks detect and instances")
        if self.scales and kind == "segmenter":
            raise ConfigError("detect.test_sizes (--scales): not for task segment")
        if len(self.scales) == 1 and kind == "detector":
            raise ConfigError(f"detect.test_sizes: {self.scales} is one size; give more or none")


class DetectionModel(nn.Module):
    """A network with a head for one task, how it is used, and where it came from.

    preprocess, classes, recipe, fingerprint (`data.splits.image_record.Fingerprint` of the images
    of its run) and origin are set by `load`.
    """

    kind: ClassVar[ModelKind] = "segmenter"
    divisor: ClassVar[int] = 32  # images are padded to multiples of this
    normalizes: ClassVar[bool] = False  # whether `infer` takes uint8 images

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
        scores: Tensor | None = None,
    ) -> Output:
        """What is in a normalized image (C, h, w), in pixels of the stored image of `size` (H, W).

        others: models of the same kind to average with (an ensemble). scores: probabilities (K,) of
        the classes from elsewhere, for localizers.
        """
        raise NotImplementedError

    def outputs(self, image: Tensor, size: Tensor) -> dict[str, Tensor]:
        """What `to_output` reads, as tensors by name, of one normalized image: for `export`.

        image: (1, C, H, W), padded with zeros to multiples of `divisor`. size: int64 (2,), height
        and width without the padding.
        """
        raise NotImplementedError

    @staticmethod
    def to_output(
        found: Mapping[str, Tensor], shape: Sequence[int], size: tuple[int, int]
    ) -> Output:
        """The output of an image of `shape` (h, w), in pixels of the stored image of `size`."""
        raise NotImplementedError

    def meter(self, split: DetectionSplit, others: Sequence[Self] = ()) -> Meter:
        """What adds up the metrics of its outputs on `split`."""
        raise NotImplementedError
