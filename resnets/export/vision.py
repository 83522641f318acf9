"""Export detectors, localizers and segmenters: write, verify against the model, move into place."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from resnets.config import ConfigError, to_dict
from resnets.data import DataError
from resnets.data.dataset.summary import announce
from resnets.data.order import evenly_spaced
from resnets.data.sources.builtin import load_photographs
from resnets.detect.data.transforms import fit_size, resize_image
from resnets.detect.data.types import DetectionSplit
from resnets.detect.evaluate.measure import EvaluationResult, measure
from resnets.detect.evaluate.splits import choose_split
from resnets.detect.models.base import DetectionModel
from resnets.detect.models.detector import Detector
from resnets.detect.models.localizer import Refiner, center_crop
from resnets.detect.models.predictor import InferenceInput, Predictor
from resnets.export.verify import MAX_MEASURED, VerificationError, write_verified
from resnets.export.write.classifier import check_format
from resnets.export.write.vision import write_vision
from resnets.runtime.artifact import ArtifactKind, ArtifactMetadata, Precision
from resnets.runtime.inference_module import INPUT
from resnets.runtime.vision import ArtifactModel, engine_name, open_artifact_model

COMPARED = 10  # images of a data set whose outputs are compared
CALIBRATION = 100  # images that calibrate the ranges of int8 activations
# Minimum of the mean agreement of outputs (`Output.agreement`) over the images.
LIMITS = {"float32": 0.98, "bfloat16": 0.8, "int8": 0.6}
DESCRIPTIONS = {
    "boxes": "left, top, right, bottom in px of the image",
    "scores": "probability of each object, or of each class",
    "labels": "class of each object, from 1",
    "masks": "probability of the object on a grid over its box",
    "probabilities": "of each class at each pixel of the image",
}


@dataclass(frozen=True)
class _Evidence:
    """Images to verify an artifact with, and annotated ones if a data set was named."""

    images: Sequence[InferenceInput]
    source: str
    calibration: Sequence[NDArray[np.uint8]] = ()
    split: DetectionSplit | None = None


def export_vision(
    model: DetectionModel,
    kind: ArtifactKind,
    precision: Precision,
    out: Path,
    *,
    data: str | None = None,
    max_drop: float = 0.5,
    source: Path | None = None,
    log: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """Export `model`, as loaded from a checkpoint, to `out`; see `export.export.export_classifier`.

    Its outputs are compared image by image, and with `data` its metrics: AP, mean IoU or top-1
    error may get worse by `max_drop` points.
    """
    _check_exportable(model, kind, precision, data)
    assert model.recipe is not None
    predictor = Predictor.of((model,), model.preprocess, torch.device("cpu"), "float32")
    metadata = ArtifactMetadata(
        kind,
        precision,
        model.net.spec.name,
        model.classes,
        model.preprocess.spec,
        model.origin,
        model.recipe,
    )

    def make(artifact: Path) -> dict[str, Any]:
        evidence = _gather_evidence(predictor, data, precision)
        log(f"writing {out.name}")
        write_vision(model, metadata, artifact, evidence.calibration)
        log("verifying outputs")
        return _verify(predictor, artifact, evidence, max_drop)

    return write_verified(out, kind, make, {"weights": model.origin}, source)


def _check_exportable(
    model: DetectionModel, kind: ArtifactKind, precision: Precision, data: str | None
) -> None:
    """Raise ConfigError if the model cannot be exported in this format and precision."""
    check_format(kind, precision)
    spec, origin = model.spec, model.origin
    if kind in ("torch", "executorch"):
        raise ConfigError(
            f"--to {kind}: not supported for detectors, localizers and segmenters; use onnx or"
            " openvino"
        )
    if isinstance(model, Refiner):
        raise ConfigError(
            f"{origin}: localizers with head 'rcnn' cannot be exported; those of 'pcr' can"
        )
    if isinstance(model, Detector):
        if spec.train_part == "proposals" or model.proposer is not None:
            raise ConfigError(f"{origin}: only detectors with their own proposals can be exported")
        if spec.roi == "pool" or spec.context:
            field = "context" if spec.context else "roi 'pool'"
            raise ConfigError(f"{origin}: detectors with detect.{field} cannot be exported")
    if spec.refine or spec.test_sizes:
        raise ConfigError(
            f"{origin}: an artifact cannot apply detect.refine or detect.test_sizes; set them to "
            "false and []"
        )
    if precision != "float32" and data is None:
        raise ConfigError(
            f"--{'int8' if precision == 'int8' else 'bf16'}: add --calibrate DATA, on which the"
            " metrics are compared"
        )


def _gather_evidence(predictor: Predictor, data: str | None, precision: Precision) -> _Evidence:
    """Return images of the data set `data`, or the sample photographs of scikit-learn."""
    model = predictor.models[0]
    if data is None:
        photographs = load_photographs()
        portrait = np.ascontiguousarray(photographs[1][:, 150:390])
        images = [_prepare(predictor, each) for each in (*photographs, portrait)]
        return _Evidence(images, "scikit-learn's two sample photographs and a part of one")
    assert model.recipe is not None
    recipe, classes, fingerprint = model.recipe, model.classes, model.fingerprint
    try:
        split = choose_split(recipe, classes, data, "val", fingerprint)
    except DataError:  # no validation split
        split = choose_split(recipe, classes, data, "test", fingerprint)
    announce(split)
    split = split.take(evenly_spaced(len(split), MAX_MEASURED))
    images = _read_images(predictor, split, COMPARED)
    calibration: list[NDArray[np.uint8]] = []
    if precision == "int8":
        training = choose_split(recipe, classes, data, "train", fingerprint)
        for each in _read_images(predictor, training, CALIBRATION):
            image = each.image
            if model.kind == "localizer":
                image = center_crop(image, model.spec)[0]
            calibration.append(np.ascontiguousarray(image.permute(1, 2, 0).numpy()))
    return _Evidence(images, split.description, calibration, split)


def _read_images(predictor: Predictor, split: DetectionSplit, count: int) -> list[InferenceInput]:
    """Return evenly spaced images of a split; DataError for one that cannot be read."""
    return [
        predictor.prepare(split.files.read(row), split.files.name(row))
        for row in evenly_spaced(len(split), count).tolist()
    ]


def _prepare(predictor: Predictor, photograph: NDArray[np.uint8]) -> InferenceInput:
    height, width = photograph.shape[:2]
    size = fit_size(width, height, predictor.shorter, predictor.longer)
    pixels = resize_image(np.asarray(Image.fromarray(photograph)), size)
    return InferenceInput(0, (height, width), torch.from_numpy(pixels.copy()).permute(2, 0, 1))


def _verify(
    predictor: Predictor, path: Path, evidence: _Evidence, max_drop: float
) -> dict[str, Any]:
    """Return the manifest of the artifact at `path`; VerificationError if it differs."""
    artifact = open_artifact_model(path)
    metadata, model = artifact.metadata, predictor.models[0]
    actual = Predictor.of((artifact,), artifact.preprocess, torch.device("cpu"), metadata.precision)
    manifest: dict[str, Any] = {
        "artifact": path.name,
        "task": metadata.task,
        "runtime": metadata.kind,
        "precision": metadata.precision,
        "settings": dict(artifact.settings),
        "model": metadata.model,
        "classes": list(metadata.classes),
        "input": {
            "name": INPUT,
            "type": "uint8",
            "shape": [1, "height", "width", 3],
            "color": "RGB",
        },
        "outputs": _describe_outputs(artifact, evidence.images[0]),
        "preprocess": {
            **to_dict(metadata.preprocess),
            "before_graph": "EXIF orientation; resize, bilinear and antialiased, until the shorter"
            f" side has {predictor.shorter} px, or the longer {predictor.longer} px",
            "in_graph": "channel order, scale to 0..1, mean and deviation; padding",
        },
        "parity": _compare_outputs(predictor, actual, evidence),
    }
    if evidence.split is not None:
        before = measure(predictor, evidence.split, model.origin)
        after = measure(actual, evidence.split, artifact.origin)
        name = engine_name(actual)
        manifest["metrics"] = _compare_metrics(name, before, after, max_drop)
    return manifest


def _describe_outputs(artifact: ArtifactModel, example: InferenceInput) -> list[dict[str, Any]]:
    image = np.ascontiguousarray(example.image.permute(1, 2, 0).numpy())
    return [
        {
            "name": name,
            "type": str(values.dtype),
            "dimensions": values.ndim,
            "description": DESCRIPTIONS[name],
        }
        for name, values in artifact.run(image[None]).items()
    ]


def _compare_outputs(expected: Predictor, actual: Predictor, evidence: _Evidence) -> dict[str, Any]:
    """Return the mean agreement of outputs; VerificationError if too low, or nothing is found."""
    outputs = expected.infer(evidence.images), actual.infer(evidence.images)
    pairs = list(zip(*outputs, strict=True))
    objects = [one.objects for pair in pairs for one in pair]
    if all(each is not None and not len(each["scores"]) for each in objects):
        raise VerificationError(
            f"{expected.models[0].origin}: no objects found in {evidence.source}, so outputs "
            "cannot be compared; add --calibrate DATA with images of its objects; nothing was "
            "written"
        )
    agreement = float(np.mean([other.agreement(one) for one, other in pairs]))
    limit = LIMITS[actual.precision]
    if not agreement >= limit:
        raise VerificationError(
            f"{engine_name(actual)} differs from {expected.models[0].origin}: its outputs agree on"
            f" {agreement:.1%}, needed are {limit:.0%}, of {evidence.source}; nothing was written"
        )
    return {
        "images": evidence.source,
        "compared": len(pairs),
        "measure": "share of objects with one of the same class, score within 0.05 and IoU of 0.9"
        " or more; or of pixels of the same class",
        "agreement": agreement,
        "limit": limit,
    }


def _compare_metrics(
    name: str, before: EvaluationResult, after: EvaluationResult, max_drop: float
) -> dict[str, Any]:
    """Return the metrics of the model and of the artifact `name`; VerificationError if worse."""
    old, new = before.metrics.percentages, after.metrics.percentages
    rise = new["error"] - old["error"]
    if not rise <= max_drop:
        key = after.metrics.monitored
        raise VerificationError(
            f"{name}: {key} goes from {old[key]:.2f} to {new[key]:.2f}, which is {rise:.2f} points"
            f" worse, on {len(after.split):,} images; allowed are {max_drop:g} (--max-drop);"
            " nothing was written"
        )
    return {
        "before": old,
        "after": new,
        "error_rise": rise,
        "max_drop": max_drop,
        "images": len(after.split),
        "protocol_before": before.metrics.protocol,
        "protocol_after": after.metrics.protocol,
    }
