"""Served models: classifiers, detectors, localizers and segmenters."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import threading
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from resnets.config import ConfigError
from resnets.data.decode.decode import decode, decode_whole
from resnets.detect.models.predictor import InferenceInput
from resnets.detect.outputs import Output
from resnets.evaluate.batched_inference import NOT_FINITE
from resnets.evaluate.figures.grad_cam import PANEL, grad_cam, overlay_heat_map
from resnets.evaluate.postprocess import Decision, decide
from resnets.export.select_backend import open_backend
from resnets.runtime.artifact import is_artifact
from resnets.runtime.base import Backend, Runtime, describe_backend
from resnets.runtime.vision import check_runtime, engine_name, open_predictor
from resnets.serve.http.limits import RequestError
from resnets.serve.schemas import PredictOptions
from resnets.weights.checkpoint.find import find_checkpoint, read_task
from resnets.weights.checkpoint.format import FOLDER, RECIPE
from resnets.weights.checkpoint.store import local_path, remote_url
from resnets.weights.load import (
    DEFAULT_LOAD_OPTIONS,
    LoadOptions,
    describe_preprocess,
    has_known_model,
    load_classifier,
)
from resnets.weights.read import split_part

Json = dict[str, Any]
PREVIEW_SIZE = 640  # px


class Model(Protocol):
    """Interface of a served model.

    `prepare` decodes an image, in any thread (DataError); `compute` runs a batch of prepared
    images, in one thread at a time; `describe` converts a result to JSON.
    """

    task: str
    classes: tuple[str, ...]
    engine: str
    explains: bool

    def prepare(self, data: bytes, name: str) -> Any:
        """Decode an image to an input of `compute`."""
        ...

    def compute(self, prepared: Sequence[Any]) -> Sequence[Any]:
        """One result per input."""
        ...

    def describe(self, answer: Any, options: PredictOptions) -> Json:
        """Convert a result to JSON."""
        ...

    def prepare_explain(self, class_name: str | None) -> None:
        """Prepare for `explain`, in any thread; RequestError if it is not supported."""
        ...

    def explain(self, data: bytes, name: str, class_name: str | None) -> tuple[bytes, str]:
        """A PNG of the evidence for a class (the most likely if None), and the class.

        Call `prepare_explain` first, and this in the compute thread.
        """
        ...


class Classifier:
    """A classifier; for explanations it loads `where`, whose fingerprint was `digest`."""

    task = "classify"

    def __init__(
        self, backend: Backend, where: str, digest: str, loading: LoadOptions = DEFAULT_LOAD_OPTIONS
    ) -> None:
        self.backend, self.where, self.digest, self.loading = backend, where, digest, loading
        self.classes, self.engine = backend.classes, backend.name
        self.explains = not is_artifact(where)
        self._torch_model: Any = None
        self._lock = threading.Lock()

    def prepare(self, data: bytes, name: str) -> NDArray[np.uint8]:
        """The input (size, size, channels) of the model."""
        return decode(data, self.backend.preprocess.view, name)

    def compute(self, prepared: Sequence[NDArray[np.uint8]]) -> Sequence[Decision]:
        """Probabilities, labels and "unknown" of each image."""
        return decide(self.backend.logits(np.stack(list(prepared))), self.backend.postprocess)

    def describe(self, answer: Decision, options: PredictOptions) -> Json:
        """The most likely classes, best first, with `labels` and `unknown` where the model tells
        them; RequestError if the outputs are not finite."""
        scores = answer.probabilities
        if not np.isfinite(scores).all():
            raise RequestError(500, NOT_FINITE)
        return {
            "classes": [
                {"class": self.classes[index], "probability": round(float(scores[index]), 6)}
                for index in answer.top(options.top_k)
            ],
            **answer.to_json(self.classes),
        }

    def prepare_explain(self, class_name: str | None) -> None:
        """Load the PyTorch model on first use.

        RequestError for artifacts, which have no gradients, for unknown classes, and if the file
        has changed since it was loaded.
        """
        if class_name is not None and class_name not in self.classes:
            raise RequestError(422, f"class {class_name!r}: unknown to this model")
        if not self.explains:
            raise RequestError(
                422, "explain: an exported model has no gradients; serve its checkpoint instead"
            )
        with self._lock:
            if self._torch_model is not None:
                return
            try:
                model, digest = load_classifier(self.where, self.loading), fingerprint(self.where)
            except (ValueError, OSError):  # reloading logs the reason
                model, digest = None, ""
            if digest != self.digest:
                raise RequestError(
                    409,
                    "explain: the model's file has changed since it was loaded, or cannot be read;"
                    " reload it",
                )
            self._torch_model = model

    def explain(self, data: bytes, name: str, class_name: str | None) -> tuple[bytes, str]:
        """Grad-CAM over the center crop, PANEL px."""
        pixels = self.prepare(data, name)
        if class_name is None:
            class_name = self.classes[self.compute([pixels])[0].top(1)[0]]
        tensor = torch.from_numpy(pixels).permute(2, 0, 1)[None]
        image = self._torch_model.preprocess.normalize(tensor)
        target = torch.tensor([self.classes.index(class_name)])
        activation = grad_cam(self._torch_model, image, target)[0].numpy()
        size = max(PANEL, self.backend.size)
        view = dataclasses.replace(self.backend.preprocess.view, size=size, channels=3)
        return _png(
            overlay_heat_map(Image.fromarray(decode(data, view, name)), activation)
        ), class_name


class VisionModel:
    """A detector, localizer or segmenter."""

    explains = False

    def __init__(self, where: str, device: str, precision: str) -> None:
        self.predictor = open_predictor([where], device, precision)
        (model,) = self.predictor.models
        assert model.recipe is not None
        self.task: str = model.recipe.task
        self.classes, self.engine = model.classes, engine_name(self.predictor)

    def prepare(self, data: bytes, name: str) -> InferenceInput:
        """The whole image, resized for the model; the original pixels are not kept."""
        return self.predictor.prepare(data, name)

    def compute(self, prepared: Sequence[InferenceInput]) -> Sequence[Output]:
        """One output per image."""
        return self.predictor.infer(prepared)

    def describe(self, answer: Output, options: PredictOptions) -> Json:
        """Objects by score, in px of the upright image; or the fraction of each class."""
        return answer.above(options.threshold).to_json(self.classes)

    def prepare_explain(self, class_name: str | None) -> None:
        """RequestError."""
        raise RequestError(422, "explain: only supported for classifiers")

    def explain(self, data: bytes, name: str, class_name: str | None) -> tuple[bytes, str]:
        """Not supported."""
        raise NotImplementedError


def open_model(
    where: str,
    digest: str,
    *,
    backend: Runtime,
    device: str,
    precision: str,
    calibrate: str | None = None,
    loading: LoadOptions = DEFAULT_LOAD_OPTIONS,
    log: Callable[[str], None] = lambda _: None,
) -> Model:
    """Open an artifact, run or checkpoint for serving; raises the errors of its loader, and
    ConfigError for models of text and signals.

    digest: its `fingerprint` before this call. backend, device, precision, calibrate: for
    checkpoints; artifacts have their own. loading: options for weights that do not name their
    model; ignored for others.
    """
    task = read_task(where)
    if is_artifact(where):
        backend, device, precision, calibrate = "auto", "auto", "auto", None
    if task in ("text", "signals"):
        raise ConfigError(f"{where}: models of task {task!r} cannot be served; use predict")
    if task != "classify":
        check_runtime(where, backend, precision)
        return VisionModel(where, device, precision)
    if is_artifact(where):
        loading = DEFAULT_LOAD_OPTIONS
    elif has_known_model(where):  # --model and --classes are for other weights
        loading = dataclasses.replace(loading, model=None, rename=False)
    opened = open_backend(
        where,
        backend=backend,
        device=device,
        precision=precision,
        images=None,
        calibrate=calibrate,
        loading=loading,
        log=log,
    )
    log(f"computing with {describe_backend(opened)}")
    log(f"preprocessing: {describe_preprocess(opened.preprocess.spec)}")
    return Classifier(opened, where, digest, loading)


def fingerprint(where: str) -> str:
    """First 12 hex digits of the SHA-256 of the files of a model; of its name if published.

    For a run, those of its checkpoint, local or remote. Raises the errors of `find_checkpoint`.
    """
    where = split_part(where)[0]
    path = local_path(where)
    if remote_url(where) or (path / FOLDER).is_dir() or (path / RECIPE).is_file():
        path = find_checkpoint(where)
    if path.is_dir():
        files = sorted(file for file in path.rglob("*") if file.is_file())
    else:  # OpenVINO has separate weights, ONNX may have
        companions = (path.with_suffix(".bin"), path.with_name(path.name + ".data"))
        files = [file for file in (path, *companions) if file.is_file()]
    digest = hashlib.sha256()
    for file in files:
        with file.open("rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
    if not files:
        digest.update(where.encode())
    return digest.hexdigest()[:12]


def preview(data: bytes, name: str) -> bytes:
    """The whole upright image as PNG, at most PREVIEW_SIZE px; DataError as `decode_whole`."""
    image = Image.fromarray(decode_whole(data, name))
    image.thumbnail((PREVIEW_SIZE, PREVIEW_SIZE))
    return _png(image)


def _png(image: Image.Image) -> bytes:
    out = io.BytesIO()
    image.save(out, format="PNG")
    return out.getvalue()
