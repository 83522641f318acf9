"""What a detector or segmenter sees in picture files."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from resnets.data.decode.bad_samples import BadSamples
from resnets.data.decode.decode import decode_whole
from resnets.data.files.folder import FolderFiles, read_file
from resnets.detect.data.class_maps import MapPixels
from resnets.detect.data.types import Detections, Pixels
from resnets.detect.draw import draw, draw_classes, marks
from resnets.detect.metrics.localization import Located
from resnets.detect.metrics.measure import Evaluator
from resnets.detect.models.inference_input import InferenceInput, show
from resnets.detect.models.localizer import Localizer, Refiner
from resnets.detect.models.segmenter import Segmenter


@dataclass(frozen=True, eq=False)
class Prediction:
    """What was seen in an image of `size` (H, W): objects, or the class of each pixel (H, W).

    areas: pixels of each class, where classes of pixels were seen.
    """

    path: Path
    size: tuple[int, int]
    found: Detections | None
    classes: Pixels | None
    areas: NDArray[np.int64] | None = None

    def drawn(self, names: Sequence[str]) -> Image.Image:
        """The image, read again, with its objects or under its class map."""
        pixels = decode_whole(read_file(self.path), str(self.path))
        if self.classes is not None:
            return draw_classes(pixels, self.classes, names)
        assert self.found is not None
        return draw(pixels, marks(self.found, names, 0.0))

    def without_pixels(self) -> Prediction:
        """Without the class of each pixel: those of thousands of images would fill the memory."""
        return replace(self, classes=None)

    def counts(self, names: Sequence[str]) -> dict[str, int]:
        """Objects, or pixels, of each class that is there, most first."""
        counts = self.areas
        if counts is None:
            assert self.found is not None
            counts = np.bincount(self.found["labels"], minlength=1)
        order = np.argsort(-counts, kind="stable")
        return {names[int(label)]: int(counts[label]) for label in order if counts[label]}


def look(
    test: Evaluator, paths: Sequence[Path], threshold: float, unreadable: BadSamples
) -> Iterator[Prediction]:
    """What `test` sees in each of `paths` that can be read; the others are noted.

    Objects whose score is less than `threshold` are left out. A localiser finds one object.
    """
    files = FolderFiles(Path(), [str(path) for path in paths])
    latest: list[InferenceInput] = []

    def noted() -> Iterator[InferenceInput]:
        for each in show(
            files, test.preprocessor, test.shorter, test.longer, test.device, unreadable
        ):
            latest[:] = [each]
            yield each

    if isinstance(test.models[0], Localizer | Refiner):
        for located in test.located(noted()):
            shown = latest[0]
            yield Prediction(paths[shown.row], shown.stored, likeliest(located), None)
        return
    if isinstance(test.models[0], Segmenter):
        for classes in test.maps(noted()):
            shown = latest[0]
            areas = np.zeros(256, np.int64)
            for label, count in MapPixels(classes, False, "").counts().items():
                areas[label] = count
            yield Prediction(paths[shown.row], shown.stored, None, classes, areas)
        return
    for found in test.objects(noted()):
        shown = latest[0]
        yield Prediction(paths[shown.row], shown.stored, at_least(found, threshold), None)


def likeliest(located: Located) -> Detections:
    """A localiser's answer as one object: its likeliest class in that class's box."""
    best = int(np.argmax(located["scores"]))
    rows = slice(best, best + 1)
    return Detections(
        boxes=np.nan_to_num(located["boxes"][rows]),
        scores=located["scores"][rows],
        labels=np.array([best], np.int64),
    )


def at_least(found: Detections, threshold: float) -> Detections:
    """The detections whose score is `threshold` or more."""
    kept = np.flatnonzero(np.asarray(found["scores"]) >= threshold)
    chosen = Detections(
        boxes=found["boxes"][kept], scores=found["scores"][kept], labels=found["labels"][kept]
    )
    if "masks" in found:
        chosen["masks"] = [found["masks"][place] for place in kept.tolist()]
    return chosen
