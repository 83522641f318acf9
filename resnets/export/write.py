"""A net as a file of each format; proving it comes after (`export/export.py`)."""

from __future__ import annotations

import contextlib
import functools
import logging
import sys
import tempfile
import threading
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from resnets.config import ConfigError
from resnets.models import Net
from resnets.runtime.artifact import KEY, ArtifactMetadata, need
from resnets.runtime.graph import INPUT, OUTPUT, Deployed
from resnets.runtime.openvino_core import apart
from resnets.runtime.resize_graph import add_to_onnx, add_to_openvino
from resnets.utils.signals import signals_later

OPSET = 18
WEIGHTED = ("Convolution", "GroupConvolution", "MatMul")  # OpenVINO's names of what has weights


def write(
    net: Net, facts: ArtifactMetadata, path: Path, calibration: np.ndarray | None = None
) -> None:
    """Write `net` (float32, on the CPU) to `path` as `facts` say.

    calibration: (N, size, size, C) uint8, of which int8 takes the ranges of activations. Raises
    ConfigError where the format does not have the precision, or a package is missing.
    """
    check(facts.kind, facts.precision)
    with quiet():
        if facts.kind == "torch":
            _write_torch(net, facts, path)
        elif facts.kind == "onnx":
            _write_onnx(net, facts, path, calibration)
        else:
            write_openvino(openvino_model(net, facts), facts, path, calibration)


def check(kind: str, precision: str) -> None:
    """Raise ConfigError where this cannot be written here."""
    if kind == "torch":
        if precision == "int8":
            raise ConfigError("--int8: not with --to torch; take openvino or onnx")
        return
    if kind == "onnx" and precision == "bfloat16":
        raise ConfigError(
            "--bf16: ONNX Runtime does not compute bfloat16 on CPUs; take --to openvino or torch"
        )
    for package in ("onnx", "onnxscript", "onnxruntime") if kind == "onnx" else ("openvino",):
        need(package, f"--to {kind}")
    if kind == "openvino" and precision == "int8":
        need("nncf", "--to openvino --int8")


def _program(graph: Deployed, facts: ArtifactMetadata) -> torch.export.ExportedProgram:
    """The graph for any batch. Its example is two black pictures: 0 and 1 would be constants."""
    size, channels = facts.preprocess.size, facts.preprocess.channels
    example = torch.zeros(2, size, size, channels, dtype=torch.uint8)
    batch = torch.export.Dim("batch", min=1)
    with signals_later():
        return torch.export.export(graph, (example,), dynamic_shapes={INPUT: {0: batch}})


def _write_torch(net: Net, facts: ArtifactMetadata, path: Path) -> None:
    program = _program(Deployed(net, facts.precision), facts)
    torch.export.save(program, path, extra_files={f"{KEY}.json": facts.to_text()})


def _write_onnx(
    net: Net, facts: ArtifactMetadata, path: Path, calibration: np.ndarray | None
) -> None:
    import onnx

    program = _program(Deployed(net, plain=True), facts)
    with signals_later():
        exported = torch.onnx.export(
            program,
            input_names=[INPUT],
            output_names=[OUTPUT],
            opset_version=OPSET,
            dynamo=True,
            verbose=False,
        )
    assert exported is not None
    model = exported.model_proto
    if facts.precision == "int8":
        assert calibration is not None
        model = _quantized(model, calibration)
    add_to_onnx(model, facts.preprocess)
    for key, value in ((KEY, facts.to_text()), ("classes", "\n".join(facts.classes))):
        model.metadata_props.add(key=key, value=value)
    onnx.save(model, path)


def _quantized(model: Any, calibration: np.ndarray) -> Any:
    """The model with 8-bit convolutions and products: u8 activations, s8 weights per channel.

    Activations keep all 8 bits (no `reduce_range`): products of u8 and s8 are summed in 32 bits
    where the CPU has VNNI; one without may saturate, which the proof would show there.
    """
    import onnx
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.calibrate import CalibrationDataReader
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):
        pictures: Iterator[np.ndarray] = iter(calibration)

        def get_next(self) -> dict[str, np.ndarray] | None:
            found = next(self.pictures, None)
            return None if found is None else {INPUT: found[None]}

    with tempfile.TemporaryDirectory() as folder:
        raw, ready, done = (Path(folder, f"{name}.onnx") for name in ("raw", "ready", "done"))
        onnx.save(model, raw)
        quant_pre_process(str(raw), str(ready), skip_symbolic_shape=True)
        quantize_static(
            str(ready),
            str(done),
            Reader(),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            op_types_to_quantize=["Conv", "Relu", "Gemm", "MatMul", "Add", "MaxPool", "ReduceMean"],
        )
        return onnx.load(done)


def write_openvino(
    model: Any, facts: ArtifactMetadata, path: Path, calibration: np.ndarray | None
) -> None:
    """Write what `openvino_model` gives, which is used up, as `facts` say."""
    import openvino as ov

    if facts.precision == "int8":
        assert calibration is not None
        model = apart(functools.partial(quantized_openvino, model, calibration, facts.floats))
    model = add_to_openvino(model, facts.preprocess)
    model.set_rt_info(facts.to_text(), [KEY])
    ov.save_model(model, path, compress_to_fp16=facts.precision == "bfloat16")


def openvino_model(net: Net, facts: ArtifactMetadata, *, named: bool = False) -> Any:
    """The openvino.Model in float32 for cut pictures; `named`: its layers by the net's modules."""
    import openvino as ov

    program = _program(Deployed(net, plain=True), facts)
    with signals_later():
        model = ov.convert_model(program)
    model.output(0).set_names({OUTPUT})
    if named:
        _name_layers(model, program)
    return model


def _name_layers(model: Any, program: torch.export.ExportedProgram) -> None:
    """Call `convolution_2/aten...` by its module: "stage1.0.conv2"; other kinds "stage1.0.add"."""
    with signals_later():
        nodes = program.run_decompositions().graph.nodes  # as OpenVINO reads them
    stacks = {node.name: node.meta.get("nn_module_stack") for node in nodes}
    taken = set()
    for op in model.get_ordered_ops():
        stack = stacks.get(op.get_friendly_name().split("/")[0])
        if stack:
            module = [*stack.values()][-1][0].removeprefix("net.")
            kind = op.get_type_name()
            name = module if kind in WEIGHTED else f"{module}.{kind.lower()}"
            if module and name not in taken:
                op.set_friendly_name(name)
                taken.add(name)


def quantized_openvino(
    model: Any, calibration: np.ndarray, floats: Sequence[str] = (), *, for_ranking: bool = False
) -> Any:
    """The model with 8-bit convolutions and products, by NNCF, but for the layers `floats`.

    for_ranking: weights as quantisers that can be taken out one by one, and biases as they are.
    """
    import nncf
    from nncf.quantization import advanced_parameters as advanced
    from nncf.quantization.range_estimator import RangeEstimatorParametersSet as Ranges

    nncf.set_log_level(logging.ERROR)
    data = nncf.Dataset([picture[None] for picture in calibration])
    # Symmetric s8 weights per channel; asymmetric u8 activations, for sums are below zero too.
    # Their ranges are the widest seen: NNCF's default, the mean of each picture's widest, and
    # its fast bias correction lose four times as much (docs/export.md). All 8 bits are used.
    return nncf.quantize(
        model,
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


_ONE_AT_A_TIME = threading.RLock()


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep the exporters' notes off stdout: errors are raised, and the outcome is proved.

    All of this is the whole process's, so one thread at a time.
    """
    with _ONE_AT_A_TIME:
        before = logging.root.manager.disable
        levels = [(handler, handler.level) for handler in logging.root.handlers]
        logging.disable(logging.WARNING)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                with contextlib.redirect_stdout(sys.stderr):
                    yield
        finally:
            logging.disable(before)
            for handler, level in levels:  # exporters make others' handlers deaf to warnings
                handler.setLevel(level)
