"""`Predictor`: from an image to a model's output, for prediction, evaluation and serving."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from resnets.config import ConfigError
from resnets.data.decode.bad_samples import BadSamples
from resnets.data.errors import DataError
from resnets.data.files.folder import Files
from resnets.data.prefetch import prefetch
from resnets.data.transforms.preprocess import ImageInput, Preprocessor
from resnets.detect.data.transforms import fit_size, read_fitted
from resnets.detect.data.types import DetectionSplit
from resnets.detect.metrics.meters import Meter
from resnets.detect.models.base import DetectionModel, InferenceOptions
from resnets.detect.outputs import Output
from resnets.evaluate.predict import input_name
from resnets.utils.errors import within_memory
from resnets.utils.machine.cpu_count import cores
from resnets.utils.machine.environment import copy_to_device
from resnets.utils.machine.precision import autocast
from resnets.utils.printable import format_count

WINDOW = 32  # images within which equal sizes are batched
BATCH_PIXELS = 1 << 22  # [px] per batch, about four images of 800 x 1,333 px


@dataclass(frozen=True, eq=False)
class InferenceInput:
    """An image that was resized for a model.

    row: its index among the images. stored: (H, W) in px of the upright stored image. image: (3, h,
    w) uint8.
    """

    row: int
    stored: tuple[int, int]
    image: Tensor


@dataclass(frozen=True)
class Predictor:
    """A model, or an ensemble of models of one kind, with its preprocessing.

    shorter, longer: [px] shorter side of its inputs, and maximum of the longer side.
    class_scores: For localizers: class probabilities (K,) from other models, by row.
    batch_pixels: [px] maximum of a batch of several images; 0 = one image per batch.
    """

    models: tuple[DetectionModel, ...]
    preprocessor: Preprocessor
    shorter: int
    longer: int
    device: torch.device
    precision: str
    options: InferenceOptions = InferenceOptions()  # noqa: RUF009 (frozen)
    class_scores: Mapping[int, Tensor] | None = None
    batch_pixels: int = 0

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
        """Return the predictor of `models`, by default with the options of the first one's recipe.

        Raises ConfigError for models of different kinds, or options that their kind does not
        support.
        """
        first = models[0]
        if any(type(each) is not type(first) for each in models):
            raise ConfigError("ensemble: all models must be for the same task")
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
        # On a CPU batching uses memory without saving time; so it does at several scales.
        single = device.type == "cpu" or bool(options.scales)
        return cls(
            tuple(models),
            preprocessor,
            shorter,
            longer,
            device,
            precision,
            options,
            batch_pixels=0 if single else BATCH_PIXELS,
        )

    def prepare(
        self, image: ImageInput | bytes | memoryview, name: str, row: int = 0
    ) -> InferenceInput:
        """Read an image (encoded, a path or in memory), upright and resized.

        Raises DataError for an unreadable image.
        """
        pixels, stored = read_fitted(
            image,
            name,
            lambda width, height: fit_size(width, height, self.shorter, self.longer),
        )
        return InferenceInput(row, stored, torch.from_numpy(pixels).permute(2, 0, 1))

    def inputs(self, files: Files, unreadable: BadSamples) -> Iterator[InferenceInput]:
        """Yield every image of `files` once, in order; see `prepare_ahead`."""

        def prepare(row: int) -> InferenceInput:
            return self.prepare(files.read(row), files.name(row), row)

        return self.prepare_ahead(prepare, len(files), unreadable)

    @staticmethod
    def prepare_ahead(
        prepare: Callable[[int], InferenceInput], count: int, unreadable: BadSamples
    ) -> Iterator[InferenceInput]:
        """Yield `prepare(row)` for `count` rows, in order.

        Unreadable images, which raise DataError, are recorded and skipped. Images are prepared
        ahead by one thread per core.
        """

        def read(row: int) -> InferenceInput | DataError:
            try:
                return prepare(row)
            except DataError as error:
                return error

        rows, workers = range(count), cores()
        with closing(prefetch(read, rows, workers=workers, ahead=2 * workers)) as results:
            for row, result in results:
                if isinstance(result, DataError):
                    unreadable.add(row, result)
                else:
                    yield result

    def outputs(self, inputs: Iterable[InferenceInput]) -> Iterator[tuple[InferenceInput, Output]]:
        """Yield each of `inputs` with its output, in order; some are computed in one batch."""
        inputs = iter(inputs)
        while window := list(itertools.islice(inputs, WINDOW if self.batch_pixels else 1)):
            yield from zip(window, self.infer(window), strict=True)

    def infer(self, inputs: Sequence[InferenceInput]) -> list[Output]:
        """Return the outputs of `inputs`, averaged over an ensemble; models are in eval mode.

        Images of equal size form batches of up to `batch_pixels`. Other images are not batched:
        padding changes the detections near the edges, and an output must not depend on other
        images.
        """
        rows_by_size: dict[Sequence[int], list[int]] = defaultdict(list)
        for row, each in enumerate(inputs):
            rows_by_size[each.image.shape[-2:]].append(row)
        outputs: dict[int, Output] = {}
        for (height, width), rows in rows_by_size.items():
            count = max(1, self.batch_pixels // (height * width))
            for start in range(0, len(rows), count):
                batch = rows[start : start + count]
                found = self._infer_batch([inputs[row] for row in batch])
                outputs |= dict(zip(batch, found, strict=True))
        return [outputs[row] for row in range(len(inputs))]

    def _infer_batch(self, inputs: Sequence[InferenceInput]) -> Sequence[Output]:
        """Return the outputs for images of equal size."""
        first, *others = self.models
        height, width = inputs[0].image.shape[-2:]
        precision = "float32" if first.normalizes else self.precision  # artifacts have their own
        with (
            within_memory(
                f"{format_count(len(inputs), 'image')} of {width}x{height} px on {self.device}",
                "use smaller sizes of test images, a smaller model, or --device cpu",
                self.device,
            ),
            torch.no_grad(),
            autocast(self.device, precision),
        ):
            images = copy_to_device(torch.stack([each.image for each in inputs]), self.device)
            if not first.normalizes:
                images = self.preprocessor.normalize(images)
            scores = None
            if self.class_scores is not None:
                scores = torch.stack([self.class_scores[each.row] for each in inputs])
                scores = copy_to_device(scores, self.device)
            sizes = [each.stored for each in inputs]
            return first.infer(images, sizes, others, self.options, scores)

    def meter(self, split: DetectionSplit) -> Meter:
        """Return the metric accumulator of outputs on `split`."""
        first, *others = self.models
        return first.meter(split, others)


@dataclass(frozen=True, eq=False)
class Prediction:
    """The output for an image, or the error that occurred while reading it.

    path: path of the image, or "image ROW" of one in memory. classes: names of the labels in
        `output`.
    image: the image as given; an image in memory is not copied.
    """

    path: Path
    output: Output | None
    classes: tuple[str, ...]
    image: ImageInput
    error: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Return values for JSON: the path, and those of the output or the error."""
        if self.output is None:
            return {"path": str(self.path), "error": self.error}
        return {"path": str(self.path), **self.output.to_json(self.classes)}

    def draw(self) -> Image.Image:
        """Draw the output on the image, which is read again; DataError if it is unreadable."""
        pixels, _ = read_fitted(self.image, str(self.path), lambda width, height: (height, width))
        if self.output is None:
            return Image.fromarray(pixels)
        return self.output.draw(pixels, self.classes)


def predict_images(
    predictor: Predictor, images: Sequence[ImageInput], threshold: float
) -> Iterator[Prediction]:
    """Yield one prediction for each of `images`, in order; unreadable images have an error.

    Detections whose score is below `threshold` are excluded.
    """
    unreadable = BadSamples(logged=False)  # predictions have the errors
    classes, next_row = predictor.models[0].classes, 0

    def prepare(row: int) -> InferenceInput:
        return predictor.prepare(images[row], input_name(images, row), row)

    def prediction(row: int, output: Output | None, error: str | None = None) -> Prediction:
        return Prediction(Path(input_name(images, row)), output, classes, images[row], error)

    def failed(stop: int) -> Iterator[Prediction]:
        errors = unreadable.errors if next_row < stop else {}
        for row in range(next_row, stop):
            yield prediction(row, None, errors[row])

    prepared = predictor.prepare_ahead(prepare, len(images), unreadable)
    for inputs, output in predictor.outputs(prepared):
        yield from failed(inputs.row)
        next_row = inputs.row + 1
        yield prediction(inputs.row, output.above(threshold))
    yield from failed(len(images))
