"""What detectors, segmenters and localizers find in image files."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from PIL import Image

from resnets.data.decode.bad_samples import BadSamples
from resnets.data.decode.decode import decode_whole
from resnets.data.files.folder import FolderFiles, read_file
from resnets.detect.models.predictor import Predictor
from resnets.detect.outputs import Output


@dataclass(frozen=True, eq=False)
class Prediction:
    """What was found in the image at `path`."""

    path: Path
    output: Output

    def draw(self, classes: Sequence[str]) -> Image.Image:
        """The image, read again, with what was found in it."""
        return self.output.draw(decode_whole(read_file(self.path), str(self.path)), classes)

    def without_pixels(self) -> Prediction:
        """See `Output.without_pixels`."""
        return replace(self, output=self.output.without_pixels())


def predict_files(
    predictor: Predictor, paths: Sequence[Path], threshold: float, unreadable: BadSamples
) -> Iterator[Prediction]:
    """A prediction for each of `paths` that can be read; the others are noted in `unreadable`.

    Detections whose score is below `threshold` are left out.
    """
    files = FolderFiles(Path(), [str(path) for path in paths])
    for inputs in predictor.inputs(files, unreadable):
        yield Prediction(paths[inputs.row], predictor.infer(inputs).above(threshold))
