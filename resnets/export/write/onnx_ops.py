"""The operators of `detect/models/export_ops.py` in ONNX, for `torch.onnx.export`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from onnxscript import opset18

from resnets.detect.models import export_ops  # noqa: F401  # registers the operators

op: Any = opset18  # its annotations do not cover values that operators return


def _suppress(boxes: Any, scores: Any, overlap: float, threshold: float, max_boxes: int) -> Any:
    count = op.Constant(value_ints=[max_boxes])
    chosen = op.NonMaxSuppression(
        boxes,
        op.Unsqueeze(scores, op.Constant(value_ints=[1])),
        count,  # of each group
        op.Constant(value_floats=[overlap]),
        op.Constant(value_floats=[threshold]),
    )  # (S, 3): group, 0, row
    group = op.Gather(chosen, op.Constant(value_int=0), axis=1)
    row = op.Gather(chosen, op.Constant(value_int=2), axis=1)
    width = op.Gather(op.Shape(scores), op.Constant(value_ints=[1]))
    absent = op.Expand(op.Reshape(op.Size(scores), op.Constant(value_ints=[1])), count)
    kept = op.Concat(op.Add(op.Mul(group, width), row), absent, axis=0)
    flat = op.Reshape(scores, op.Constant(value_ints=[-1]))
    padded = op.Concat(flat, op.Constant(value_floats=[-2.0]), axis=0)
    _, order = op.TopK(op.Gather(padded, kept, axis=0), count, axis=0)
    return op.Gather(kept, order, axis=0)


def _pool_regions(
    maps: Sequence[Any], boxes: Any, levels: Any, scales: Sequence[float], size: int, sampling: int
) -> Any:
    rows, pooled = [], []
    for level, (each, scale) in enumerate(zip(maps, scales, strict=True)):
        on_level = op.Equal(levels, op.Constant(value_int=level))
        rows.append(op.Reshape(op.NonZero(on_level), op.Constant(value_ints=[-1])))
        pooled.append(
            op.RoiAlign(
                each,
                op.Gather(boxes, rows[-1], axis=0),
                op.Mul(rows[-1], op.Constant(value_ints=[0])),  # all of image 0
                coordinate_transformation_mode="output_half_pixel",
                output_height=size,
                output_width=size,
                sampling_ratio=sampling,
                spatial_scale=scale,
            )
        )
    if len(maps) == 1:
        return pooled[0]
    order = op.Concat(*rows, axis=0)
    _, order = op.TopK(order, op.Shape(order), axis=0, largest=0)
    return op.Gather(op.Concat(*pooled, axis=0), order, axis=0)


TRANSLATIONS: dict[Callable[..., Any], Callable[..., Any]] = {
    torch.ops.resnets.suppress.default: _suppress,
    torch.ops.resnets.pool_regions.default: _pool_regions,
}
