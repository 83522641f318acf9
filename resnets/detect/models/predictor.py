"""`Predictor`: from an image to a model's output, for predict, evaluate and serve alike."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from resnets.config import ConfigError
from resnets.data.decode.bad_samples import BadSamples
from resnets.data.decode.decode import decode_fitted, decode_whole
from resnets.data.errors import DataError
from resnets.data.files.folder import Files, FolderFiles, read_file
from resnets.data.transforms.preprocess import Preprocessor
from resnets.detect.data.transforms import fit_size
from resnets.detect.data.types import DetectionSplit
from resnets.detect.metrics.meters import Meter
from resnets.detect.models.base import DetectionModel, InferenceOptions
from resnets.detect.outputs import Output
from resnets.utils.cpu_count import cores
from resnets.utils.environment import copy_to_device
from resnets.utils.errors import within_memory
from resnets.utils.precision import autocast


@dataclass(frozen=True, eq=False)
class InferenceInput:
    """An image resized for a model.

    row: its number among those that are read. stored: (H, W) px of the upright stored image.
    image: (3, h, w) uint8.
    """

    row: int
    stored: tuple[int, int]
    image: Tensor


@dataclass(frozen=True)
class Predictor:
    """A model, or an ensemble of one kind, with its preprocessing.

    shorter, longer: [px] the shorter side of its inputs, and the most that the longer may have.
    class_scores: for localizers, probabilities (K,) of the classes from elsewhere, by row.
    """

    models: tuple[DetectionModel, ...]
    preprocessor: Preprocessor
    shorter: int
    longer: int
    device: torch.device
    precision: str
    options: InferenceOptions = InferenceOptions()  # noqa: RUF009 (frozen)
    class_scores: Mapping[int, Tensor] | None = None

    @classmethod
    def of(
        cls,
        models: Sequence[DetectionModel],
        preprocessor: Preprocessor,
        device: torch.device,
        precision: str,
        refine: bool | None = None,
        scales: tuple[int, ...] | None = None,
    ) -> Predictor:
        """As the recipe of the first of `models` tests, with `refine` and `scales` where given.

        ConfigError: models of different kinds, or options that their kind does not have.
        """
        first = models[0]
        if any(type(each) is not type(first) for each in models):
            raise ConfigError("an ensemble needs models of one task")
        spec = first.spec
        if spec.train_part == "proposals":
            raise ConfigError(
                f"{first.origin}: was trained to propose regions only (detect.train_part), and"
                " finds no objects; use the run of a later step"
            )
        options = InferenceOptions(
            spec.refine if refine is None else refine,
            tuple(sorted(spec.test_sizes if scales is None else scales)),
        )
        options.check(first.kind)
        home = spec.train_sizes[-1]
        shorter = max(options.scales, default=home)
        longer = round(spec.max_size * max(1.0, shorter / home))
        return cls(tuple(models), preprocessor, shorter, longer, device, precision, options)

    def prepare(self, data: bytes | memoryview, name: str, row: int = 0) -> InferenceInput:
        """An encoded image, upright and resized; DataError names one that cannot be read."""
        pixels, stored = decode_fitted(
            data,
            name,
            lambda width, height: fit_size(width, height, self.shorter, self.longer),
        )
        return InferenceInput(row, stored, torch.from_numpy(pixels).permute(2, 0, 1))

    def inputs(
        self, files: Files, unreadable: BadSamples, workers: int = 0
    ) -> Iterator[InferenceInput]:
        """Every image of `files` once, in order; those that cannot be read are noted and left out.

        Some are decoded ahead by `workers` threads, 0 = one per core.
        """
        workers = workers or cores()
        pool = ThreadPoolExecutor(workers, thread_name_prefix="predict")
        waiting: deque[tuple[int, Future[InferenceInput]]] = deque()

        def read(row: int) -> InferenceInput:
            return self.prepare(files.read(row), files.name(row), row)

        try:
            for row in range(len(files) + 2 * workers):
                if row < len(files):
                    waiting.append((row, pool.submit(read, row)))
                if row < 2 * workers or not waiting:
                    continue
                place, task = waiting.popleft()
                try:
                    inputs = task.result()
                except DataError as error:
                    unreadable.add(place, error)
                    continue
                yield inputs
        finally:
            pool.shutdown(cancel_futures=True)

    def infer(self, inputs: InferenceInput) -> Output:
        """What the model finds, or the ensemble on average; models are in eval mode."""
        first, *others = self.models
        height, width = inputs.image.shape[-2:]
        with (
            within_memory(
                f"an image of {width}x{height} px on {self.device}",
                "use smaller sizes of test images, a smaller model, or --device cpu",
            ),
            torch.no_grad(),
            autocast(self.device, self.precision),
        ):
            image = copy_to_device(inputs.image, self.device)
            if not first.normalizes:
                image = self.preprocessor.normalize(image[None])[0]
            scores = None
            if self.class_scores is not None:
                scores = copy_to_device(self.class_scores[inputs.row], self.device)
            return first.infer(image, inputs.stored, others, self.options, scores)

    def meter(self, split: DetectionSplit) -> Meter:
        """What adds up the metrics of outputs on `split`."""
        first, *others = self.models
        return first.meter(split, others)


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
