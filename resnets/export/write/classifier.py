"""Write a classifier in each format; `export/export.py` verifies the result."""

from __future__ import annotations

import errno
import functools
import io
import logging
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from resnets.config import ConfigError
from resnets.export.write.executorch import write_executorch
from resnets.export.write.trace import silence_exporters, to_onnx, trace_for_any_batch
from resnets.models import ImageClassifier
from resnets.runtime.artifact import KEY, ArtifactMetadata
from resnets.runtime.inference_module import INPUT, OUTPUT, InferenceModule
from resnets.runtime.openvino import run_in_new_thread
from resnets.runtime.resize_graph import add_to_onnx, add_to_openvino
from resnets.utils.imports import require_package
from resnets.utils.machine.processes import deferred_signals

WEIGHTED_OPS = ("Convolution", "GroupConvolution", "MatMul")  # OpenVINO's operations with weights


def write_artifact(
    model: ImageClassifier,
    metadata: ArtifactMetadata,
    path: Path,
    calibration: np.ndarray | None = None,
) -> None:
    """Write `model` (float32, on the CPU) to `path` in the format given by `metadata`.

    calibration: uint8 (N, size, size, C), for the activation ranges of int8. Raises ConfigError if
    the format does not support the precision, or a package is missing.
    """
    check_format(metadata.kind, metadata.precision)
    with silence_exporters():
        if metadata.kind == "torch":
            _write_torch(model, metadata, path)
        elif metadata.kind == "executorch":
            write_executorch(model, metadata, path, calibration)
        elif metadata.kind == "onnx":
            _write_onnx(model, metadata, path, calibration)
        else:
            write_openvino(openvino_model(model, metadata), metadata, path, calibration)


def check_format(kind: str, precision: str) -> None:
    """Raise ConfigError if a format does not support a precision, or a package is missing."""
    if kind == "torch":
        if precision == "int8":
            raise ConfigError("--int8: not supported with --to torch; use openvino or onnx")
        return
    if kind == "executorch":
        if precision not in ("float32", "int8"):
            raise ConfigError(f"--to executorch: float32 or --int8, not {precision}")
        require_package("executorch", "--to executorch", "executorch")
        return
    if kind == "onnx" and precision == "bfloat16":
        raise ConfigError(
            "--bf16: ONNX Runtime has no bfloat16 on CPUs; use --to openvino or torch"
        )
    for package in ("onnx", "onnxscript", "onnxruntime") if kind == "onnx" else ("openvino",):
        require_package(package, f"--to {kind}")
    if kind == "openvino" and precision == "int8":
        require_package("nncf", "--to openvino --int8")


def _write_torch(model: ImageClassifier, metadata: ArtifactMetadata, path: Path) -> None:
    program = trace_for_any_batch(InferenceModule(model, metadata.precision), metadata.preprocess)
    buffer = io.BytesIO()  # torch's writer of files ends the process when a disk is full
    torch.export.save(program, buffer, extra_files={f"{KEY}.json": metadata.to_json()})
    path.write_bytes(buffer.getbuffer())


def _write_onnx(
    model: ImageClassifier, metadata: ArtifactMetadata, path: Path, calibration: np.ndarray | None
) -> None:
    import onnx

    program = trace_for_any_batch(InferenceModule(model, channels_first=True), metadata.preprocess)
    graph = to_onnx(program, [INPUT], [OUTPUT])
    if metadata.precision == "int8":
        assert calibration is not None
        feeds = ({INPUT: image[None]} for image in calibration)
        graph = quantize_onnx(graph, feeds, explicit=not metadata.resizes)
    elif metadata.precision == "float16":
        from onnxruntime.transformers.float16 import convert_float_to_float16

        graph = convert_float_to_float16(graph, keep_io_types=True)
    if metadata.resizes:
        add_to_onnx(graph, metadata.preprocess)
    add_metadata(graph, metadata)
    onnx.save(graph, path)


def add_metadata(graph: Any, metadata: ArtifactMetadata) -> None:
    """Store `metadata`, and the classes one per line, in an onnx.ModelProto."""
    for key, value in ((KEY, metadata.to_json()), ("classes", "\n".join(metadata.classes))):
        graph.metadata_props.add(key=key, value=value)


def quantize_onnx(
    graph: Any,
    feeds: Iterable[dict[str, np.ndarray]],
    nodes: Sequence[str] = (),
    *,
    explicit: bool = False,
) -> Any:
    """Quantize to u8 activations and per-channel s8 weights; only `nodes` if there are any.

    feeds: inputs for calibration, by name. explicit: as TensorRT needs it: s8 activations, zero
    points of 0, only inputs of layers with weights are quantized, and biases are float.

    Activations use all 8 bits (no `reduce_range`): CPUs
    with VNNI accumulate the products in 32 bits; others may saturate, which verification detects.
    """
    import onnx
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.calibrate import CalibrationDataReader
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):
        feeds: Iterator[dict[str, np.ndarray]]

        def get_next(self) -> dict[str, np.ndarray] | None:
            return next(self.feeds, None)

    weighted, others = ["Conv", "Gemm", "MatMul"], ["Relu", "Add", "MaxPool", "ReduceMean"]
    options = {
        "ActivationSymmetric": True,
        "WeightSymmetric": True,
        "QuantizeBias": False,
        "OpTypesToExcludeOutputQuantization": weighted,
    }
    reader = Reader()
    reader.feeds = iter(feeds)
    with tempfile.TemporaryDirectory() as folder:
        raw, ready, done = (Path(folder, f"{name}.onnx") for name in ("raw", "ready", "done"))
        onnx.save(graph, raw)
        quant_pre_process(str(raw), str(ready), skip_symbolic_shape=True)
        quantize_static(
            str(ready),
            str(done),
            reader,
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QInt8 if explicit else QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            op_types_to_quantize=weighted if explicit else [*weighted, *others],
            nodes_to_quantize=list(nodes),
            extra_options=options if explicit else {},
        )
        return onnx.load(done)


def write_openvino(
    graph: Any, metadata: ArtifactMetadata, path: Path, calibration: np.ndarray | None
) -> None:
    """Write the result of `openvino_model`, which is modified, as given by `metadata`."""
    if metadata.precision == "int8":
        assert calibration is not None
        graph = run_in_new_thread(
            functools.partial(quantize_openvino, graph, calibration, metadata.floats)
        )
    save_openvino(add_to_openvino(graph, metadata.preprocess), metadata, path)


def save_openvino(graph: Any, metadata: ArtifactMetadata, path: Path) -> None:
    """Save an openvino.Model with its metadata; weights of bfloat16 are stored in 16 bits.

    Raises OSError if it cannot be written.
    """
    import openvino as ov

    graph.set_rt_info(metadata.to_json(), [KEY])
    try:
        ov.save_model(graph, path, compress_to_fp16=metadata.precision == "bfloat16")
    except RuntimeError as error:
        if "iostream" not in str(error):
            raise
        reason = "cannot be written (is the disk full?)"
        raise OSError(errno.EIO, reason, str(path)) from error


def openvino_model(
    model: ImageClassifier, metadata: ArtifactMetadata, *, named: bool = False
) -> Any:
    """Convert to a float32 openvino.Model for cropped images; named: name layers by module."""
    import openvino as ov

    program = trace_for_any_batch(InferenceModule(model, channels_first=True), metadata.preprocess)
    with deferred_signals():
        graph = ov.convert_model(program)
    graph.output(0).set_names({OUTPUT})
    if named:
        _name_layers(graph, program)
    return graph


def _name_layers(graph: Any, program: torch.export.ExportedProgram) -> None:
    """Rename `convolution_2/aten...` to its module, "stage1.0.conv2"; others to "stage1.0.add"."""
    with deferred_signals():
        nodes = program.run_decompositions().graph.nodes  # as OpenVINO does
    stacks = {node.name: node.meta.get("nn_module_stack") for node in nodes}
    names = set()
    for op in graph.get_ordered_ops():
        stack = stacks.get(op.get_friendly_name().split("/")[0])
        if stack:
            module = [*stack.values()][-1][0].removeprefix("model.")
            kind = op.get_type_name()
            name = module if kind in WEIGHTED_OPS else f"{module}.{kind.lower()}"
            if module and name not in names:
                op.set_friendly_name(name)
                names.add(name)


def quantize_openvino(
    graph: Any, calibration: np.ndarray, floats: Sequence[str] = (), *, for_ranking: bool = False
) -> Any:
    """Quantize convolutions and matrix products with NNCF, except the layers `floats`.

    for_ranking: keep weight quantizers that can be removed one by one, and do not correct biases.
    """
    import nncf
    from nncf.quantization import advanced_parameters as advanced
    from nncf.quantization.range_estimator import RangeEstimatorParametersSet as Ranges

    nncf.set_log_level(logging.ERROR)
    data = nncf.Dataset([image[None] for image in calibration])
    # Symmetric per-channel s8 weights; asymmetric u8 activations, as sums can be negative. Ranges
    # are the overall min and max: NNCF's default (mean of the per-image ranges) and its fast bias
    # correction lose four times as much (docs/export.md). All 8 bits are used.
    return nncf.quantize(
        graph,
        data,
        preset=nncf.QuantizationPreset.MIXED,
        target_device=nncf.TargetDevice.CPU,
        subset_size=len(calibration),
        fast_bias_correction=False,
        ignored_scope=nncf.IgnoredScope(names=list(floats)) if floats else None,
        advanced_parameters=advanced.AdvancedQuantizationParameters(
            overflow_fix=advanced.OverflowFix.DISABLE,
            activations_range_estimator_params=Ranges.MINMAX,
            disable_bias_correction=for_ranking,
            backend_params={"compress_weights": not for_ranking},
        ),
    )
