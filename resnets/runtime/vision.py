"""Exported detectors, localizers and segmenters, used as their models are."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from resnets.config import ConfigError
from resnets.detect.data.types import DetectionSplit
from resnets.detect.metrics.meters import LocationMeter, Meter, ObjectMeter, SegmentationMeter
from resnets.detect.models.base import DetectionModel, InferenceOptions
from resnets.detect.models.build import KINDS, load_detection_model
from resnets.detect.models.detector import Detector
from resnets.detect.models.localizer import Localizer, center_crop
from resnets.detect.models.predictor import Predictor
from resnets.detect.models.segmenter import Segmenter
from resnets.detect.outputs import Output
from resnets.evaluate.prepare import to_device
from resnets.runtime.artifact import (
    ArtifactError,
    ArtifactMetadata,
    artifact_kind,
    check_artifact_files,
    check_artifact_options,
    is_artifact,
    require_torch,
)
from resnets.runtime.inference_module import INPUT
from resnets.utils.errors import reading
from resnets.weights.given import copy_for_inference

Run = Callable[[NDArray[np.uint8]], Mapping[str, NDArray[Any]]]
MODELS: dict[str, type[DetectionModel]] = {
    "detector": Detector,
    "localizer": Localizer,
    "segmenter": Segmenter,
}


class ArtifactModel(DetectionModel):
    """An artifact of a detector, localizer or segmenter; `run` computes its graph, from any thread.

    settings: options of its runtime that its outputs depend on, for the manifest.
    It takes uint8 images and runs on the CPU, in the precision of its export.
    """

    normalizes = True

    def __init__(
        self, run: Run, settings: Mapping[str, Any], metadata: ArtifactMetadata, path: Path
    ) -> None:
        nn.Module.__init__(self)
        if metadata.recipe is None or metadata.task not in KINDS:
            raise ArtifactError(f"{path}: is a classifier, but its manifest specifies another task")
        self.run, self.settings = run, settings
        self.metadata, self.recipe = metadata, metadata.recipe
        self.kind = KINDS[metadata.task]  # type: ignore[misc]  # of this object, not of its class
        self.spec, self.classes = metadata.recipe.detect, metadata.classes
        self.num_classes, self.fingerprint = len(metadata.classes), None
        self.preprocess = metadata.preprocessor
        self.origin = f"{path.name} (of {metadata.origin})"

    def infer(
        self,
        images: Tensor,
        sizes: Sequence[tuple[int, int]],
        others: Sequence[DetectionModel] = (),
        options: InferenceOptions = InferenceOptions(),  # noqa: B008 (frozen)
        scores: Tensor | None = None,
    ) -> list[Output]:
        """See `DetectionModel`; images are uint8. ConfigError for unsupported options."""
        if others or options != InferenceOptions() or scores is not None:
            raise ConfigError(
                f"{self.origin}: an artifact can only be evaluated alone, at one size and without "
                "--refine or --classes-from"
            )
        return [self._infer_one(image, size) for image, size in zip(images, sizes, strict=True)]

    def _infer_one(self, image: Tensor, size: tuple[int, int]) -> Output:
        view, corner = image, (0.0, 0.0)
        if self.kind == "localizer":
            view, corner = center_crop(image, self.spec)
        pixels = np.ascontiguousarray(view.permute(1, 2, 0).numpy())
        outputs = {name: torch.from_numpy(each) for name, each in self.run(pixels[None]).items()}
        if any(corner):
            outputs["boxes"] = outputs["boxes"] + torch.tensor(corner * 2)
        return MODELS[self.kind].to_output(outputs, image.shape[-2:], size)

    def meter(self, split: DetectionSplit, others: Sequence[DetectionModel] = ()) -> Meter:
        """See `DetectionModel`."""
        if self.kind == "segmenter":
            return SegmentationMeter(split)
        if self.kind == "localizer":
            return LocationMeter()
        return ObjectMeter(masks=self.metadata.task == "instances")


def open_artifact_model(path: Path) -> ArtifactModel:
    """Open an artifact after checking its files against the manifest; raises ArtifactError."""
    check_artifact_files(path)
    with reading(path, ArtifactError, remedy="export again"):
        if path.suffix.lower() == ".onnx":
            return _open_onnx(path)
        if path.suffix.lower() == ".xml":
            return _open_openvino(path)
    raise ArtifactError(f"{path}: detectors and segmenters are .onnx or .xml artifacts")


def check_runtime(where: str, backend: str, precision: str) -> None:
    """Raise ConfigError for a backend or precision that the model at `where` does not support."""
    if artifact_kind(where, backend) is not None:
        return
    remedy = "`resnets export` writes detectors and segmenters for onnx and openvino"
    require_torch(where, backend, precision, remedy)


def open_predictor(
    weights: Sequence[str | DetectionModel],
    device: str,
    precision: str,
    refine: bool | None = None,
    scales: tuple[int, ...] | None = None,
) -> Predictor:
    """Open checkpoints of models of one kind, or an artifact, for inference.

    A loaded model is copied, so that its device, mode and memory format stay as they are. Raises
    CheckpointError, ArtifactError, and ConfigError if they cannot be combined.
    """
    models: list[DetectionModel] = []
    for each in weights:
        if not isinstance(each, str) or not is_artifact(each):
            models.append(
                load_detection_model(each) if isinstance(each, str) else copy_for_inference(each)
            )
            chosen, resolved = to_device(models[-1], device, precision)
            continue
        models.append(artifact := open_artifact_model(Path(each)))
        chosen, resolved = torch.device("cpu"), artifact.metadata.precision
        check_artifact_options(Path(each), resolved, device, precision)
    if len(models) > 1 and any(each.normalizes for each in models):
        raise ConfigError("ensemble: needs checkpoints; an artifact can only be evaluated alone")
    return Predictor.of(models, models[0].preprocess, chosen, resolved, refine, scales)


def engine_name(predictor: Predictor) -> str:
    """Return runtime and precision, such as "onnx float32", for logs."""
    first = predictor.models[0]
    runtime = first.metadata.kind if isinstance(first, ArtifactModel) else "torch"
    return f"{runtime} {predictor.precision}"


def _open_onnx(path: Path) -> ArtifactModel:
    from resnets.runtime.onnx import SETTINGS, create_session, session_metadata

    session = create_session(path)
    names = [each.name for each in session.get_outputs()]

    def run(images: NDArray[np.uint8]) -> Mapping[str, NDArray[Any]]:
        return dict(zip(names, session.run(names, {INPUT: images}), strict=True))

    return ArtifactModel(run, SETTINGS, session_metadata(session, path), path)


def _open_openvino(path: Path) -> ArtifactModel:
    from resnets.runtime.openvino import precision_setting, read_model, shared_core

    model, metadata = read_model(path)
    settings = {
        **precision_setting(metadata),
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        "ENABLE_CPU_PINNING": False,
    }
    compiled = shared_core().compile_model(model, "CPU", settings)
    names = [each.get_any_name() for each in compiled.outputs]
    local = threading.local()  # infer requests, which are not thread-safe

    def run(images: NDArray[np.uint8]) -> Mapping[str, NDArray[Any]]:
        if not hasattr(local, "request"):
            local.request = compiled.create_infer_request()
        outputs = local.request.infer([images])
        return {name: outputs[index].copy() for index, name in enumerate(names)}

    return ArtifactModel(run, precision_setting(metadata), metadata, path)
