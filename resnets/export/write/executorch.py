"""Write a classifier as a program of ExecuTorch, for phones and edge devices.

Its operators are computed by XNNPACK, the CPU backend for ARM and x86. What XNNPACK lacks, such as
the conversion from uint8, is computed by ExecuTorch's portable kernels.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from resnets.export.write.trace import trace_for_any_batch
from resnets.models import ImageClassifier
from resnets.runtime.artifact import ArtifactMetadata
from resnets.runtime.executorch import MAX_BATCH, METADATA_METHOD
from resnets.runtime.inference_module import InferenceModule
from resnets.utils.machine.processes import deferred_signals


def write_executorch(
    model: ImageClassifier,
    metadata: ArtifactMetadata,
    path: Path,
    calibration: NDArray[np.uint8] | None,
) -> None:
    """Write `model` to `path`; see `export.write.classifier.write_artifact`."""
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir import to_edge_transform_and_lower

    module: torch.nn.Module = InferenceModule(model, channels_first=True)
    program = trace_for_any_batch(module, metadata.preprocess, MAX_BATCH)
    if metadata.precision == "int8":
        assert calibration is not None
        with deferred_signals():
            module = _quantize(program.module(), calibration)
        program = trace_for_any_batch(module, metadata.preprocess, MAX_BATCH)
    described = torch.frombuffer(bytearray(metadata.to_json().encode()), dtype=torch.uint8)
    with deferred_signals():
        lowered = to_edge_transform_and_lower(
            program,
            partitioner=[XnnpackPartitioner()],
            constant_methods={METADATA_METHOD: described},
        )
        path.write_bytes(lowered.to_executorch().buffer)


def _quantize(module: Any, images: NDArray[np.uint8]) -> torch.nn.Module:
    """Quantize to s8 activations and per-channel s8 weights, as XNNPACK computes them."""
    from executorch.backends.xnnpack.quantizer.xnnpack_quantizer import (
        XNNPACKQuantizer,
        get_symmetric_quantization_config,
    )
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e

    config = get_symmetric_quantization_config(is_per_channel=True)
    prepared = prepare_pt2e(module, XNNPACKQuantizer().set_global(config))
    with torch.no_grad():
        for image in images:
            prepared(torch.tensor(image[None].tolist(), dtype=torch.uint8))
    quantized: torch.nn.Module = convert_pt2e(prepared)
    return quantized
