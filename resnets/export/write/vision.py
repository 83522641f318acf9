"""Write a detector, localizer or segmenter as ONNX, or as OpenVINO converted from that.

Both go through ONNX, which has operators for suppression and RoIAlign (`export/write/onnx_ops.py`).
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from resnets.detect.models.base import DetectionModel
from resnets.export.write.classifier import add_metadata, quantize_onnx, save_openvino
from resnets.export.write.trace import OPSET, silence_exporters, to_onnx, trace
from resnets.runtime.artifact import ArtifactMetadata
from resnets.runtime.inference_module import INPUT, VisionModule
from resnets.runtime.resize_graph import prepend_to_onnx

SIZE = "size"  # input of the traced program: height and width without padding
EXAMPLE = (128, 192)  # px; multiples of the largest stride

# Pad an image at right and bottom to multiples of `divisor` px.
PAD = """<ir_version: {ir}, opset_import: ["" : {opset}]>
pad (uint8[1,height,width,{channels}] images)
    => (uint8[1,padded_height,padded_width,{channels}] view, int64[2] size)
{{
    shape = Shape(images)
    from = Constant<value_ints=[1]>()
    to = Constant<value_ints=[3]>()
    size = Slice(shape, from, to)
    step = Constant<value_ints=[{divisor}, {divisor}]>()
    negative = Neg(size)
    rest = Mod(negative, step)
    before = Constant<value_ints=[0, 0, 0, 0, 0]>()
    channels = Constant<value_ints=[0]>()
    pads = Concat<axis=0>(before, rest, channels)
    black = Constant<value=uint8 {{0}}>()
    view = Pad(images, pads, black)
}}"""
# Operators between two layers with weights; values pass through their first input.
PASS_THROUGH = {
    "Relu", "Add", "Clip", "MaxPool", "AveragePool", "GlobalAveragePool", "ReduceMean",
    "Resize", "RoiAlign", "Reshape", "Flatten", "Transpose", "Gather", "Concat",
}  # fmt: skip
WEIGHTED = {"Conv", "ConvTranspose", "Gemm", "MatMul"}
QUANTIZED = {*WEIGHTED, "Relu", "Add", "MaxPool"}


def write_vision(
    model: DetectionModel,
    metadata: ArtifactMetadata,
    path: Path,
    calibration: Sequence[NDArray[np.uint8]] = (),
) -> None:
    """Write `model` (float32, on the CPU) to `path` in the format given by `metadata`.

    calibration: uint8 images (H, W, C) in the model's size, for the ranges of int8.
    """
    import onnx

    with silence_exporters():
        graph = _convert(model)
        if metadata.precision == "int8":
            feeds = (_make_feed(image, model.divisor) for image in calibration)
            graph = quantize_onnx(graph, feeds, nodes=_inner_nodes(graph))
        text = PAD.format(ir=graph.ir_version, opset=OPSET, channels=3, divisor=model.divisor)
        prepend_to_onnx(graph, text, {INPUT: "view", SIZE: SIZE})
        if metadata.kind == "onnx":
            add_metadata(graph, metadata)
            onnx.save(graph, path)
            return
        import openvino as ov

        with tempfile.TemporaryDirectory() as folder:
            onnx.save(graph, Path(folder, "model.onnx"))
            converted = ov.convert_model(Path(folder, "model.onnx"))
            save_openvino(converted, metadata, path)


def _convert(model: DetectionModel) -> Any:
    """Convert to an onnx.ModelProto of padded images and their sizes, with named outputs."""
    from resnets.export.write.onnx_ops import TRANSLATIONS

    module, divisor = VisionModule(model), model.divisor
    images = torch.zeros(1, *EXAMPLE, 3, dtype=torch.uint8)
    size = torch.tensor(EXAMPLE)
    with torch.no_grad():
        names = list(module(images, size))
    if divisor == 1:
        sides: dict[int, Any] = dict.fromkeys((1, 2), torch.export.Dim.DYNAMIC)
    else:
        sides = {i: divisor * torch.export.Dim(name, min=1) for i, name in ((1, "h"), (2, "w"))}
    with torch.no_grad():
        program = trace(module, (images, size), {INPUT: sides, SIZE: None})
        return to_onnx(program, [INPUT, SIZE], names, TRANSLATIONS)


def _make_feed(image: NDArray[np.uint8], divisor: int) -> dict[str, NDArray[Any]]:
    height, width = image.shape[:2]
    padded = np.pad(image, ((0, -height % divisor), (0, -width % divisor), (0, 0)))
    return {INPUT: padded[None], SIZE: np.array([height, width], np.int64)}


def _inner_nodes(graph: Any) -> list[str]:
    """Return the nodes whose values reach another layer with weights.

    The last layers, which give scores and boxes, and their decoding stay in float.
    """
    readers: dict[str, list[Any]] = {}
    for node in graph.graph.node:
        for index, name in enumerate(node.input):
            if index == 0 or node.op_type in ("Add", "Concat"):
                readers.setdefault(name, []).append(node)

    def iter_followers(node: Any) -> Iterator[Any]:
        stack, visited = [node], set()
        while stack:
            outputs = stack.pop().output
            for reader in (each for output in outputs for each in readers.get(output, ())):
                if reader.name in visited:
                    continue
                visited.add(reader.name)
                yield reader
                if reader.op_type in PASS_THROUGH:
                    stack.append(reader)

    return [
        node.name
        for node in graph.graph.node
        if node.op_type in QUANTIZED
        and any(each.op_type in WEIGHTED for each in iter_followers(node))
    ]
