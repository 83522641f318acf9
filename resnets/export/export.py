"""Export: write an artifact to a temporary folder, verify it, then move it into place."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resnets.config import ConfigError, to_dict
from resnets.config.ranges import check_range
from resnets.data import DataError, Split
from resnets.data.dataset.summary import announce
from resnets.data.order import evenly_spaced
from resnets.evaluate.data.ground_truth import GroundTruth
from resnets.evaluate.data.match_classes import open_labeled, open_split
from resnets.evaluate.evaluation import AnyEvaluation
from resnets.evaluate.views import Views, read_views
from resnets.export.mixed_int8 import quantize_mixed
from resnets.export.verify import (
    BATCHES,
    LIMITS,
    VerificationError,
    compare_errors,
    compare_full_images,
    compare_logits,
    count_errors,
    relative_difference,
    sample_images,
    write_verified,
)
from resnets.export.write.classifier import check_format, write_artifact
from resnets.models import ImageClassifier
from resnets.runtime.artifact import ArtifactKind, ArtifactMetadata, Precision, model_sha256
from resnets.runtime.inference_module import INPUT
from resnets.runtime.open import open_artifact
from resnets.runtime.torch import TorchBackend

RESIZE_AND_CROP = "shorter side to `resize` px (antialiased), center crop of `size` px"
NORMALIZATION = "channel order, scale to 0..1, mean and deviation"
CALIBRATION = 300  # images that calibrate the ranges of int8 activations (NNCF's default)


@dataclass(frozen=True)
class Evidence:
    """Real images for the verification of an artifact.

    Attributes:
        images: uint8 (10 or more, size, size, C), on which outputs are compared.
        source: Description of the images.
        calibration: (N, size, size, C), for int8; None without data.
        split, truth: Images and labels on which errors are counted; None without data.
        baseline: Evaluates the original model on them, once; None without data.
    """

    images: NDArray[np.uint8]
    source: str
    calibration: NDArray[np.uint8] | None = None
    split: Split | None = None
    truth: GroundTruth | None = None
    baseline: Callable[[], AnyEvaluation] | None = None


def export_classifier(
    model: ImageClassifier,
    kind: ArtifactKind,
    precision: Precision,
    out: Path,
    *,
    data: str | None = None,
    max_drop: float = 0.5,
    source: Path | None = None,
    tensorrt: bool = False,
    log: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """Export `model` to `out` and write its manifest next to it; returns the manifest.

    model: as returned by `resnets.load`. data: the data set that calibrates int8 (training split)
    and on which errors are counted (validation split, else test split). source: the file of the
    model, whose SHA-256 is stored in the manifest. tensorrt: an .onnx file for TensorRT: of cropped
    images, without control flow (`check_static_graph`). Raises ConfigError if the format is
    not supported and VerificationError if the artifact differs from the model; then nothing is
    written.
    """
    check_format(kind, precision)
    preprocess = model.preprocess.spec
    if preprocess.has_stacks:
        raise ConfigError(
            f"{model.origin}: takes stacks of {preprocess.channels} channels (data.channels,"
            " data.keep_bits), and only models of gray or RGB images of 8 bits are exported"
        )
    if precision == "float16" and not tensorrt:
        raise ConfigError("--fp16: only for --to tensorrt")
    if precision == "int8" and data is None:
        raise ConfigError("--int8: needs images for calibration; add --calibrate DATA")
    check_range("--max-drop", max_drop, "[0, inf]")
    metadata = ArtifactMetadata.from_model(model, kind, precision, resizes=not tensorrt)

    def make(artifact: Path) -> dict[str, Any]:
        evidence = gather_evidence(model, data, precision)
        log(f"writing {out.name}")
        write_artifact(model, metadata, artifact, evidence.calibration)
        log("verifying outputs")
        verify_artifact = functools.partial(verify, model, evidence=evidence, max_drop=max_drop)
        try:
            if not tensorrt:
                return verify_artifact(artifact)
            graph = check_static_graph(artifact)
            opencv = compare_in_opencv(artifact, evidence.images)
            return verify_artifact(artifact) | {"graph": graph, "opencv": opencv}
        except VerificationError as error:
            if (kind, precision) != ("openvino", "int8"):
                raise
            assert evidence.calibration is not None
            return quantize_mixed(
                model, metadata, artifact, evidence.calibration, error, verify_artifact, log
            )

    weights = {"weights": model.origin, "model_sha256": model_sha256(model)}
    return write_verified(out, kind, make, weights, source)


def verify(
    model: ImageClassifier, path: Path, evidence: Evidence, max_drop: float
) -> dict[str, Any]:
    """Return the manifest of the artifact at `path`; VerificationError if it differs."""
    backend = open_artifact(path)
    metadata = backend.metadata
    limit = LIMITS[metadata.precision]
    parity = compare_logits(model, backend, evidence.images, limit)
    full_images = compare_full_images(model, backend, limit)
    spatial = (backend.size, backend.size) if full_images is None else ("height", "width")
    manifest: dict[str, Any] = {
        "artifact": path.name,
        "runtime": metadata.kind,
        "precision": metadata.precision,
        "settings": dict(backend.settings),
        "model": metadata.model,
        "classes": list(metadata.classes),
        "input": {
            "name": INPUT,
            "type": "uint8",
            "shape": ["batch", *spatial, backend.channels],
            "color": "RGB" if backend.channels == 3 else "gray",
            "precropped": [backend.size, backend.size],
        },
        "output": {
            "name": "logits",
            "type": "float32",
            "shape": ["batch", len(metadata.classes)],
            "description": f"scores before the {metadata.postprocess.activation}, in the order of"
            " the classes",
        },
        "postprocess": to_dict(metadata.postprocess),
        "preprocess": {
            **to_dict(metadata.preprocess),
            "before_graph": "EXIF orientation"
            + (f"; {RESIZE_AND_CROP}" if full_images is None else ""),
            "in_graph": (
                "" if full_images is None else f"{RESIZE_AND_CROP}, unless already cropped; "
            )
            + NORMALIZATION,
        },
        "parity": {
            "images": evidence.source,
            "measure": "root mean square difference over the deviation of the model's logits",
            "limit": limit,
            "batches": [dataclasses.asdict(each) for each in parity],
            "full_images": full_images,
        },
    }
    if evidence.split is not None and evidence.truth is not None and evidence.baseline is not None:
        after = count_errors(backend, evidence.split, evidence.truth)
        manifest["errors"] = compare_errors(backend.name, evidence.baseline(), after, max_drop)
    return manifest


def check_static_graph(path: Path) -> dict[str, Any]:
    """Check that TensorRT can read an .onnx file; returns its opset and operators.

    Raises VerificationError if ONNX's checker or strict shape inference rejects it, if it has
    control flow or operators that are not ONNX's own, or a quantization with a zero point other
    than 0.
    """
    import onnx
    from onnx import numpy_helper

    model = onnx.load(path)
    try:
        onnx.checker.check_model(model, full_check=True)
        onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)
    except Exception as error:  # of several types
        reason = " ".join(str(error).split())[:200]
        raise VerificationError(
            f"{path.name}: ONNX rejects it ({reason}); nothing was written"
        ) from None
    nodes = model.graph.node
    operators = sorted({node.op_type for node in nodes})
    constants = {each.name: numpy_helper.to_array(each) for each in model.graph.initializer}
    zero_points = [
        constants.get(node.input[2])
        for node in nodes
        if node.op_type in ("QuantizeLinear", "DequantizeLinear") and len(node.input) > 2
    ]
    bad = [name for name in operators if name in ("If", "Loop", "Scan")]
    bad += [node.op_type for node in nodes if node.domain not in ("", "ai.onnx")]
    bad += ["a zero point" for each in zero_points if each is None or each.any()]
    if bad:
        raise VerificationError(f"{path.name}: has {', '.join(bad[:3])}; nothing was written")
    opset = next(each.version for each in model.opset_import if each.domain in ("", "ai.onnx"))
    return {"opset": opset, "operators": operators}


def compare_in_opencv(path: Path, images: NDArray[np.uint8]) -> dict[str, Any] | None:
    """Compute an .onnx file of cropped images with OpenCV, a reader independent of ONNX Runtime.

    Returns its version and the difference from ONNX Runtime's logits, or what OpenCV cannot read;
    None if OpenCV cannot be imported, or is older than version 5, which rewrote its reader. Raises
    VerificationError if the logits differ.
    """
    try:
        import cv2
    except ImportError:  # also of a build with windows, on a machine without libGL
        return None
    if int(cv2.__version__.partition(".")[0]) < 5:
        return None
    backend = open_artifact(path)
    limit = LIMITS[backend.metadata.precision]
    try:
        net = cv2.dnn.readNetFromONNX(str(path))
        outputs = []
        for image in images:  # one by one: it does not read dynamic batch sizes
            net.setInput(image[None].copy())
            outputs.append(net.forward()[0])
    except cv2.error as error:
        return {"version": cv2.__version__, "error": " ".join(str(error).split())[:200]}
    relative = relative_difference(np.stack(outputs), backend.logits(images))
    if not relative <= limit:
        raise VerificationError(
            f"{path.name}: OpenCV's logits differ from ONNX Runtime's: {relative:.2g}, allowed"
            f" {limit:g}; nothing was written"
        )
    return {"version": cv2.__version__, "relative": relative, "limit": limit}


def gather_evidence(model: ImageClassifier, data: str | None, precision: Precision) -> Evidence:
    """Return images from the data set `data`, or the sample images of scikit-learn."""
    if data is None:
        images, source = sample_images(model.preprocess)
        return Evidence(images, source)
    training = open_split(model, data, "train", stored=True)
    announce(training)
    try:
        split, truth = open_labeled(model, data, "val")
    except DataError:  # no validation split
        split, truth = open_labeled(model, data, "test")
    count = min(CALIBRATION, len(training))
    calibration = _evenly_spaced(model, training, count) if precision == "int8" else None
    images = _evenly_spaced(model, split, sum(BATCHES))
    baseline = functools.cache(
        lambda: count_errors(TorchBackend(model, "cpu", "float32"), split, truth)
    )
    return Evidence(images, split.description, calibration, split, truth, baseline)


def _evenly_spaced(model: ImageClassifier, split: Split, count: int) -> NDArray[np.uint8]:
    """Return evenly spaced images of a split as model inputs, (count, size, size, C) uint8."""
    rows = evenly_spaced(len(split), count, repeat=True).tolist()
    views: NDArray[np.uint8] = np.stack(
        [read_views(split, row, Views(), model.preprocess.spec)[0] for row in rows]
    )
    return views
