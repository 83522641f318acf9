"""Mixed precision: if int8 is too inaccurate, quantization-sensitive layers stay in float.

The sensitivity of a layer is the change of the logits when it alone is quantized. The most
sensitive layer is kept in float, then more of them, each time quantized again and verified, until
one artifact passes or int8 no longer pays off. docs/export.md says why NNCF's own
`quantize_with_accuracy_control` is not used.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from resnets.data.order import evenly_spaced
from resnets.export.verify import VerificationError, relative_difference
from resnets.export.write.classifier import (
    WEIGHTED_OPS,
    openvino_model,
    quantize_openvino,
    write_openvino,
)
from resnets.export.write.trace import silence_exporters
from resnets.models import ImageClassifier
from resnets.runtime.artifact import ArtifactMetadata, artifact_files
from resnets.runtime.open import measure_relative_speed, open_artifact
from resnets.runtime.openvino import run_in_new_thread, shared_core
from resnets.utils.machine.precision import pick_precision

MAX_FLOAT_SHARE = 0.5  # of the multiply-adds; beyond, less than half of the speedup is left
RANKING_IMAGES = 32  # 300 gave the same four most sensitive layers
BATCH = 8  # fixed: OpenVINO computes an int8 first layer wrongly at a dynamic batch size
LAYERS = (*WEIGHTED_OPS, "Add", "Multiply", "ReduceMean", "AvgPool")


@dataclass(frozen=True)
class Layer:
    """A quantizable layer.

    sensitivity: `relative_difference` of the logits if it alone is quantized. share: of the
    multiply-adds of the model.
    """

    name: str
    sensitivity: float
    share: float


def quantize_mixed(
    model: ImageClassifier,
    metadata: ArtifactMetadata,
    path: Path,
    calibration: np.ndarray,
    int8_error: VerificationError,
    verify: Callable[[Path], dict[str, Any]],
    log: Callable[[str], None],
) -> dict[str, Any]:
    """Replace the artifact at `path`, which failed with `int8_error`; returns the manifest.

    verify: returns a manifest or raises VerificationError. Temporary files are written next to
    `path`. Raises VerificationError if no artifact with enough int8 layers passes.
    """
    log(f"{int8_error.reason}; looking for quantization-sensitive layers")
    with silence_exporters():
        ov_model = openvino_model(model, metadata, named=True)
        layers = run_in_new_thread(functools.partial(rank_layers, ov_model.clone(), calibration))

    @silence_exporters()
    def make(out: Path, **changes: Any) -> Path:
        write_openvino(ov_model.clone(), replace(metadata, **changes), out, calibration)
        return out

    plain_path, float_path = (path.with_name(f"{name}.xml") for name in ("plain", "float"))
    for old, new in zip(artifact_files(path), artifact_files(plain_path), strict=True):
        old.replace(new)
    last, tried = int8_error, 0
    for count in _layer_counts(layers):
        names = tuple(layer.name for layer in layers[:count])
        log(f"trying {count} of {len(layers)} layers in float: {', '.join(names)}")
        try:
            manifest = verify(make(path, floats=names))
        except VerificationError as error:
            last, tried = error, count
            continue
        float_precision = pick_precision("auto", torch.device("cpu"))
        base = open_artifact(make(float_path, precision=float_precision))
        speeds = [measure_relative_speed(open_artifact(each), base) for each in (path, plain_path)]
        manifest["mixed"] = {
            "float": {layer.name: layer.sensitivity for layer in layers[:count]},
            "quantized": len(layers) - count,
            "float_multiply_adds": sum(layer.share for layer in layers[:count]),
            "all_int8": {"failure": int8_error.reason, "top1_error": int8_error.top1_error},
            "speed_relative_to": float_precision,
            "speed": speeds[0],
            "speed_all_int8": speeds[1],
        }
        return manifest
    suffix = f", with {tried} of {len(layers)} layers in float" if tried else ""
    raise VerificationError(f"{last.reason}{suffix}; nothing was written", last.top1_error)


def rank_layers(ov_model: Any, calibration: np.ndarray) -> list[Layer]:
    """Return the layers of an openvino.Model that NNCF quantizes, most sensitive first."""
    ov_model = quantize_openvino(ov_model, calibration, for_ranking=True)
    ov_model.reshape([BATCH, *calibration.shape[1:]])
    quantized = {op: names for op in ov_model.get_ordered_ops() if (names := _find_quantizers(op))}
    readers = {
        op.get_friendly_name(): (op, list(op.output(0).get_target_inputs()))
        for op in ov_model.get_ops()
        if op.get_type_name() == "FakeQuantize"
    }

    def set_quantizers(names: Any, on: bool) -> None:
        for name in names:
            op, inputs = readers[name]
            for each in inputs:
                each.replace_source_output(op.output(0) if on else op.input_value(0))

    images = calibration[evenly_spaced(len(calibration), RANKING_IMAGES, repeat=True)]

    def compute() -> np.ndarray:
        compiled = shared_core().compile_model(ov_model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
        return np.concatenate(
            [compiled(part)[0] for part in np.split(images, RANKING_IMAGES // BATCH)]
        )

    set_quantizers(readers, on=False)
    expected = compute()
    sizes = {op: _multiply_adds(op) for op in quantized}
    layers = []
    for op, names in quantized.items():
        set_quantizers(names, on=True)
        sensitivity = relative_difference(compute(), expected)
        set_quantizers(names, on=False)
        share = sizes[op] / sum(sizes.values())
        layers.append(Layer(op.get_friendly_name(), sensitivity, share))
    return sorted(layers, key=lambda layer: -layer.sensitivity)


def _find_quantizers(op: Any) -> list[str]:
    """Return the quantizers whose outputs a layer reads, directly or through pooling, padding."""
    names, to_visit = [], list(op.inputs()) if op.get_type_name() in LAYERS else []
    while to_visit:
        producer = to_visit.pop().get_source_output().get_node()
        if producer.get_type_name() == "FakeQuantize":
            names.append(producer.get_friendly_name())
        elif producer.get_type_name() not in LAYERS:
            to_visit += producer.inputs()
    return names


def _multiply_adds(op: Any) -> int:
    """Return the multiply-adds of a layer for one image; 0 for layers without weights."""
    size = math.prod(op.output(0).get_shape()[2:])
    return (
        size * math.prod(op.input_value(1).get_shape()) if op.get_type_name() in WEIGHTED_OPS else 0
    )


def _layer_counts(layers: list[Layer]) -> list[int]:
    """Return the numbers of float layers to try, each 1.5 times the last, to MAX_FLOAT_SHARE."""
    shares = np.cumsum([layer.share for layer in layers])
    max_count = int((shares <= MAX_FLOAT_SHARE).sum())
    counts = [1]
    while counts[-1] < max_count:
        counts.append(min(max_count, counts[-1] + max(1, counts[-1] // 2)))
    return counts if max_count else []
