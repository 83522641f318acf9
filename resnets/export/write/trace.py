"""Trace a model with torch.export, and convert the program to ONNX."""

from __future__ import annotations

import contextlib
import logging
import sys
import threading
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import torch

from resnets.config import Preprocess
from resnets.utils.machine.processes import deferred_signals

OPSET = 18


def trace(
    module: torch.nn.Module,
    inputs: tuple[torch.Tensor, ...],
    dynamic_shapes: dict[str, Any] | tuple[Any, ...],
) -> torch.export.ExportedProgram:
    """Call `torch.export.export`, and remove stack traces, which contain paths of this machine."""
    with deferred_signals():
        program = torch.export.export(module, inputs, dynamic_shapes=dynamic_shapes)
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)
    return program


def to_onnx(
    program: torch.export.ExportedProgram,
    inputs: Sequence[str],
    outputs: Sequence[str],
    translations: dict[Any, Any] | None = None,
) -> Any:
    """Convert a program to an onnx.ModelProto with these names of its inputs and outputs.

    translations: ONNX functions of custom operators.
    """
    with deferred_signals():
        exported = torch.onnx.export(
            program,
            input_names=list(inputs),
            output_names=list(outputs),
            opset_version=OPSET,
            custom_translation_table=translations,
            dynamo=True,
            verbose=False,
        )
    assert exported is not None
    model = exported.model_proto  # a new object in each access
    _name_batch(model.graph)
    return model


def _name_batch(graph: Any) -> None:
    """Rename the dynamic first dimension of the inputs to "batch" (torch's name is "s34")."""
    values = [*graph.input, *graph.output, *graph.value_info]
    shapes = [value.type.tensor_type.shape.dim for value in values]
    symbols = {dims[0].dim_param for dims in shapes[: len(graph.input)] if dims} - {""}
    for dim in (dim for dims in shapes for dim in dims if dim.dim_param in symbols):
        dim.dim_param = "batch"


def trace_for_any_batch(
    module: torch.nn.Module, preprocess: Preprocess, largest: int | None = None
) -> torch.export.ExportedProgram:
    """Trace with an example of two images, since torch specializes batch sizes 0 and 1.

    largest: batch size, unlimited by default.
    """
    # A new tensor, whose strides of dimensions of size 1 are as usual: ExecuTorch fixes them.
    example = torch.zeros(2, preprocess.size, preprocess.size, preprocess.channels).byte()
    return trace(module, (example,), ({0: torch.export.Dim("batch", min=1, max=largest)},))


_LOCK = threading.RLock()


@contextlib.contextmanager
def silence_exporters() -> Iterator[None]:
    """Suppress the output of exporters: errors are raised, and the result is verified.

    This changes process-wide state, so one thread at a time.
    """
    with _LOCK:
        disabled = logging.root.manager.disable
        levels = [(handler, handler.level) for handler in logging.root.handlers]
        logging.disable(logging.WARNING)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                with contextlib.redirect_stdout(sys.stderr):
                    yield
        finally:
            logging.disable(disabled)
            for handler, level in levels:  # exporters change the level of existing handlers
                handler.setLevel(level)
