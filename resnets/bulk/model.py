"""Models for bulk prediction: decoding of images, inference, and the cells of a row."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from resnets.bulk.dataset_index import Item
from resnets.bulk.write import Layout, classes_layout, vision_layout
from resnets.config import ConfigError
from resnets.data.decode.decode import decode
from resnets.data.transforms.preprocess import Preprocessor
from resnets.evaluate.postprocess import decide
from resnets.evaluate.predict import MAX_BATCH
from resnets.export.select_backend import open_backend
from resnets.runtime.artifact import artifact_files, is_artifact, model_sha256
from resnets.runtime.base import Backend, Runtime, describe_backend
from resnets.utils.files.write import file_sha256
from resnets.utils.printable import without_log
from resnets.weights.checkpoint.find import find_checkpoint, read_task
from resnets.weights.load import DEFAULT_LOAD_OPTIONS, LoadOptions, load_classifier

if TYPE_CHECKING:  # detection takes long to import
    from resnets.detect.models.predictor import InferenceInput, Predictor
    from resnets.detect.outputs import Output

DECODED_AHEAD = 8  # images for a detector on a CPU, which computes them one by one


class BulkModel(Protocol):
    """A model of bulk prediction.

    engine: runtime and precision. description: the same with the reason, for the log. device: its
    type, such as "cuda". batch: the preferred batch size. at_once: see `Backend`. finite: whether
    outputs are tensors that must be finite.
    """

    engine: str
    description: str
    device: str
    preprocess: Preprocessor
    batch: int
    at_once: int
    finite: bool

    def columns(self, top: int) -> tuple[int, Layout]:
        """Return `top`, at most the number of classes, and the columns of the rows."""
        ...

    def read(self, item: Item) -> Any:
        """Decode an image to an input of `compute`; DataError if it cannot be read."""
        ...

    def compute(self, inputs: Sequence[Any]) -> Any:
        """Return one output per input."""
        ...

    def cells(self, output: Any, top: int, threshold: float | None) -> list[Any]:
        """Return the cells of a row between path and error."""
        ...


class ClassifierModel:
    """A classifier on any runtime."""

    finite = True

    def __init__(self, backend: Backend) -> None:
        self.backend, self.engine = backend, backend.name
        self.description = describe_backend(backend)
        self.device = str(getattr(backend, "device", torch.device("cpu")).type)
        self.preprocess, self.at_once = backend.preprocess, backend.at_once
        self.batch = min(MAX_BATCH, backend.batch)

    def columns(self, top: int) -> tuple[int, Layout]:
        """See `BulkModel`."""
        top = min(top, len(self.backend.classes))
        return top, classes_layout(top, self.backend.postprocess)

    def read(self, item: Item) -> NDArray[np.uint8]:
        """See `BulkModel`."""
        return decode(item.read(), self.preprocess.view, item.name)

    def compute(self, inputs: Sequence[NDArray[np.uint8]]) -> Tensor:
        """Return the logits (B, K)."""
        return torch.from_numpy(self.backend.logits(np.stack(inputs)))

    def cells(self, output: Tensor, top: int, threshold: float | None) -> list[Any]:
        """Return the most likely classes, then `labels` and `unknown` where the model has them."""
        (decision,) = decide(output.numpy()[None], self.backend.postprocess)
        classes = self.backend.classes
        ranked: list[Any] = []
        for each in decision.top(top):
            ranked += [classes[each], each, float(decision.probabilities[each])]
        return ranked + list(decision.to_json(classes).values())


class VisionBulkModel:
    """A detector, localizer or segmenter, or an artifact of one."""

    finite = False
    at_once = 1

    def __init__(self, predictor: Predictor) -> None:
        from resnets.detect.models.predictor import WINDOW
        from resnets.runtime.vision import engine_name

        (model,) = predictor.models
        assert model.recipe is not None
        self.predictor, self.engine = predictor, engine_name(predictor)
        self.description, self.device = self.engine, predictor.device.type
        self.preprocess, self.classes = predictor.preprocessor, model.classes
        self.task = model.recipe.task
        self.batch = WINDOW if predictor.batch_pixels else DECODED_AHEAD

    def columns(self, top: int) -> tuple[int, Layout]:
        """See `BulkModel`; `top` is not used."""
        return top, vision_layout(self.task)

    def read(self, item: Item) -> InferenceInput:
        """See `BulkModel`."""
        return self.predictor.prepare(item.read(), item.name)

    def compute(self, inputs: Sequence[InferenceInput]) -> list[Output]:
        """See `BulkModel`."""
        return [each.without_pixels() for each in self.predictor.infer(inputs)]

    def cells(self, output: Output, top: int, threshold: float | None) -> list[Any]:
        """Return width, height, and objects or areas."""
        chosen = output if threshold is None else output.above(threshold)
        return list(chosen.to_json(self.classes).values())


def open_bulk_model(
    where: str,
    *,
    backend: Runtime,
    device: str,
    precision: str,
    images: int | None = None,
    calibrate: str | None = None,
    loading: LoadOptions = DEFAULT_LOAD_OPTIONS,
    log: Callable[[str], None] = lambda _: None,
) -> BulkModel:
    """Open a model; arguments and errors are those of `open_backend`.

    Raises ConfigError for models of text and signals, and for options of classifiers with others.
    """
    task = read_task(where)
    if task in ("text", "signals"):
        raise ConfigError(
            f"{where}: is for task {task!r}; --data is only for image models, pass other inputs "
            "as arguments"
        )
    if task == "classify":
        return ClassifierModel(
            open_backend(
                where,
                backend=backend,
                device=device,
                precision=precision,
                images=images,
                calibrate=calibrate,
                loading=loading,
                log=log,
            )
        )
    if loading != DEFAULT_LOAD_OPTIONS or calibrate is not None:
        raise ConfigError(
            f"{where}: --model, --classes and --calibrate are only for classifiers; omit them"
        )
    from resnets.runtime.vision import check_runtime, open_predictor

    check_runtime(where, backend, precision)
    return VisionBulkModel(open_predictor([where], device, precision))


def weights_sha256(where: str, loading: LoadOptions) -> str:
    """SHA-256 of the files of an artifact or detector, or of the weights of any other model."""
    if is_artifact(where):
        sums = [file_sha256(file) for file in artifact_files(Path(where))]
        return hashlib.sha256("".join(sums).encode()).hexdigest()
    if read_task(where) != "classify":
        return file_sha256(find_checkpoint(where))
    with without_log():  # `open_bulk_model` reads them too
        return model_sha256(load_classifier(where, loading))
