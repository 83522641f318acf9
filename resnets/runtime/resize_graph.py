"""Resize and center crop inside a graph, so that it accepts full images of any size.

Both functions prepend what the decoder usually does (`data.decode.decode.center_box`): resize the
shorter side to `resize` px, antialiased as in Pillow, and crop the center `size` px. Images of
`size` x `size` px are not changed, so one file serves both. A runtime that knows the input size
in advance removes these nodes.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from resnets.config import Preprocess
from resnets.runtime.inference_module import INPUT

VIEW = "view"  # input of the model itself: uint8 (batch, size, size, channels)

# target: height and width after resizing; start and stop: the center, rounded half to even as in
# Python. The branch not taken is not computed; a runtime that knows the size removes it.
ONNX = """<ir_version: {ir}, opset_import: ["" : {opset}]>
resize (uint8[batch,height,width,{channels}] images) => (uint8[batch,{size},{size},{channels}] view)
{{
    shape = Shape(images)
    from = Constant<value_ints=[1]>()
    to = Constant<value_ints=[3]>()
    input_size = Slice(shape, from, to)
    crop_size = Constant<value_ints=[{size}, {size}]>()
    equal = Equal(input_size, crop_size)
    equal_int = Cast<to=7>(equal)
    all_equal = ReduceMin<keepdims=0>(equal_int)
    is_cropped = Cast<to=9>(all_equal)
    view = If (is_cropped) <
        then_branch = cropped_branch () => (uint8[batch,{size},{size},{channels}] unchanged) {{
            unchanged = Identity(images)
        }},
        else_branch = resize_branch () => (uint8[batch,{size},{size},{channels}] output) {{
            shorter_side = ReduceMin<keepdims=1>(input_size)
            side = Constant<value_ints=[{resize}]>()
            product = Mul(input_size, side)
            target = Div(product, shorter_side)
            gap = Sub(target, crop_size)
            gap_float = Cast<to=1>(gap)
            half = Constant<value_floats=[0.5]>()
            middle = Mul(gap_float, half)
            rounded_half = Round(middle)
            start = Cast<to=7>(rounded_half)
            stop = Add(start, crop_size)
            channels_first = Transpose<perm=[0, 3, 1, 2]>(images)
            floats = Cast<to=1>(channels_first)
            all = Shape(floats)
            zero = Constant<value_ints=[0]>()
            two = Constant<value_ints=[2]>()
            head = Slice(all, zero, two)
            sizes = Concat<axis=0>(head, target)
            resized = Resize<antialias=1, mode="{mode}", cubic_coeff_a=-0.5,
                coordinate_transformation_mode="half_pixel">(floats, , , sizes)
            axes = Constant<value_ints=[2, 3]>()
            center = Slice(resized, start, stop, axes)
            rounded = Round(center)
            low = Constant<value_float=0.0>()
            high = Constant<value_float=255.0>()
            clipped = Clip(rounded, low, high)
            bytes = Cast<to=2>(clipped)
            output = Transpose<perm=[0, 2, 3, 1]>(bytes)
        }}
    >
}}"""


def add_to_onnx(model: Any, preprocess: Preprocess) -> None:
    """Prepend resize and crop to the graph of an onnx.ModelProto, in place."""
    opset = next(each.version for each in model.opset_import if each.domain in ("", "ai.onnx"))
    mode = {"bilinear": "linear", "bicubic": "cubic"}[preprocess.interpolation]
    text = ONNX.format(
        ir=model.ir_version,
        opset=opset,
        mode=mode,
        size=preprocess.size,
        resize=preprocess.resize,
        channels=preprocess.channels,
    )
    prepend_to_onnx(model, text, {INPUT: VIEW})


def prepend_to_onnx(model: Any, text: str, replaced: dict[str, str]) -> None:
    """Prepend the graph written in `text` to that of an onnx.ModelProto, in place.

    replaced: inputs of the model, and the value of `text` that each becomes.
    """
    from onnx import parser

    before, graph = parser.parse_model(text).graph, model.graph
    _prefix(before)
    for node in graph.node:
        node.input[:] = [
            f"resize/{replaced[name]}" if name in replaced else name for name in node.input
        ]
    nodes = [*before.node, *graph.node]
    del graph.node[:], graph.input[:]
    graph.node.extend(nodes)
    graph.input.extend(before.input)


def _prefix(graph: Any) -> None:
    """Prefix the names of all values except the input, so that they are unique."""
    names = {"": "", INPUT: INPUT}
    for node in graph.node:
        node.input[:] = [names.get(name, f"resize/{name}") for name in node.input]
        node.output[:] = [names.get(name, f"resize/{name}") for name in node.output]
        for attribute in node.attribute:
            if attribute.HasField("g"):
                _prefix(attribute.g)
                for value in attribute.g.output:
                    value.name = f"resize/{value.name}"


def add_to_openvino(model: Any, preprocess: Preprocess) -> Any:
    """Prepend resize and crop to an openvino.Model; returns the new model."""
    import openvino as ov
    from openvino import opset13 as op

    size, integer = preprocess.size, np.int64
    images = op.parameter([-1, -1, -1, preprocess.channels], np.uint8, name=INPUT)
    images.output(0).set_names({INPUT})
    axes, zero, one = (op.constant(value, integer) for value in ([1, 2], [0], [1, 1]))
    target_size, side = (op.constant(value, integer) for value in ([size] * 2, [preprocess.resize]))
    input_size = op.gather(op.shape_of(images, "i64"), axes, op.constant(0, integer))
    shorter_side = op.reduce_min(input_size, zero, keep_dims=True)
    scaled = op.divide(op.multiply(input_size, side), shorter_side)
    is_cropped = op.reduce_logical_and(op.equal(input_size, target_size), zero, keep_dims=True)
    target = op.select(is_cropped, input_size, scaled)
    resized = op.interpolate(
        op.convert(images, "f32"), target, f"{preprocess.interpolation}_pillow", "sizes",
        cube_coeff=-0.5, axes=axes,
    )  # fmt: skip
    gap = op.convert(op.subtract(target, target_size), "f32")
    start = op.convert(op.round(op.multiply(gap, np.float32(0.5)), "half_to_even"), "i64")
    center = op.slice(resized, start, op.add(start, target_size), one, axes)
    view = op.convert(op.clamp(op.round(center, "half_to_even"), 0.0, 255.0), "u8", name=VIEW)
    old = model.input(0).get_node()
    old.output(0).replace(view.output(0))
    return ov.Model(model.get_results(), [images], "model")
