"""`DetectionModel`: the interface of detectors, segmenters and localizers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Self

from torch import Tensor, nn

from resnets.config import ConfigError, DetectSpec, Recipe
from resnets.config.detect import check_test_sizes
from resnets.detect.data.types import DetectionSplit
from resnets.detect.metrics.meters import Meter
from resnets.detect.outputs import Output
from resnets.models import ImageClassifier

ModelKind = Literal["detector", "localizer", "segmenter"]


@dataclass(frozen=True)
class InferenceOptions:
    """The paper's additions at test time (appendices B and C); see `DetectSpec`.

    refine is for detectors, scales for detectors and localizers.
    """

    refine: bool = False
    scales: tuple[int, ...] = ()

    def check(self, kind: ModelKind) -> None:
        """Raise ConfigError if a model of this kind does not support the options."""
        if self.refine and kind != "detector":
            raise ConfigError("detect.refine (--refine): only for tasks detect and instances")
        check_test_sizes(self.scales)
        if self.scales and kind == "segmenter":
            raise ConfigError("detect.test_sizes (--scales): not for task segment")
        if len(self.scales) == 1 and kind == "detector":
            raise ConfigError(
                f"detect.test_sizes (--scales): {self.scales} is a single size; give at least two, "
                "or none"
            )


class DetectionModel(nn.Module):
    """A network with a head for one task, with its metadata.

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
        images: Tensor,
        sizes: Sequence[tuple[int, int]],
        others: Sequence[Self] = (),
        options: InferenceOptions = InferenceOptions(),
        scores: Tensor | None = None,
    ) -> Sequence[Output]:
        """Return the outputs of a batch, in pixels of the stored images of `sizes` (H, W).

        images: (B, C, h, w), normalized. others: models of the same kind to average with (an
        ensemble). scores: for localizers, probabilities (B, K) of the classes from other models.
        """
        raise NotImplementedError

    def outputs(self, image: Tensor, size: Tensor) -> dict[str, Tensor]:
        """Return the tensors that `to_output` reads, by name, of one normalized image (for export).

        image: (1, C, H, W), padded with zeros to multiples of `divisor`. size: int64 (2,), height
        and width without the padding.
        """
        raise NotImplementedError

    @staticmethod
    def to_output(
        found: Mapping[str, Tensor], shape: Sequence[int], size: tuple[int, int]
    ) -> Output:
        """Return the output of an image of `shape` (h, w), in px of the stored `size` (H, W)."""
        raise NotImplementedError

    def meter(self, split: DetectionSplit, others: Sequence[Self] = ()) -> Meter:
        """Return the meter for the metrics of its outputs on `split`."""
        raise NotImplementedError
