"""Read the configs of OpenMMLab's libraries (mmpretrain, mmdet, ...) in their checkpoints.

mmengine stores the config as Python source in `meta.cfg`, mmcv in `meta.config`. The source is
parsed, never executed.
"""

from __future__ import annotations

import ast
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from resnets.config import ConfigError, ModelSpec
from resnets.models import catalog
from resnets.weights.readers.configs.field_handlers import apply_handlers, only, positive_int
from resnets.weights.readers.configs.timm import parse_numbers, parse_std, with_catalog_name

MAX_SOURCE = 200_000  # characters of source that are parsed
CLASSIFIER = "ImageClassifier"
DEPTHS = (18, 34, 50, 101, 152)
# Fields that matter only in training, or that the tensors show.
BACKBONE_NO_EFFECT = frozenset(
    {
        "type", "depth", "num_stages", "out_indices", "frozen_stages", "norm_eval", "with_cp",
        "zero_init_residual", "drop_path_rate", "init_cfg", "pretrained",
    }
)  # fmt: skip
HEAD_NO_EFFECT = frozenset({"loss", "topk", "cal_acc", "init_cfg", "in_channels"})
PREPROCESSOR_NO_EFFECT = frozenset(
    {
        "type", "num_classes", "to_onehot", "batch_augments", "pad_size_divisor", "pad_value",
        "mixup", "cutmix", "non_blocking", "pad_mask", "mask_pad_value", "pad_seg", "seg_pad_val",
        "boxtype2tensor", "size", "size_divisor", "test_cfg",
    }
)  # fmt: skip
LOADING = (
    "LoadImageFromFile",
    "PackInputs",
    "PackClsInputs",
    "ImageToTensor",
    "Collect",
    "ToTensor",
)


def parse_config(text: str) -> dict[str, Any] | None:
    """Return the assignments of a config in Python source; None for any other text."""
    if len(text) > MAX_SOURCE or "dict(" not in text:
        return None
    try:
        statements = ast.parse(text).body
        values: dict[str, Any] = {}
        for statement in statements:
            if isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Name):
                values[statement.targets[0].id] = _evaluate(statement.value, values)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None
    return values


def _evaluate(node: ast.expr, values: Mapping[str, Any]) -> Any:
    """Return the value of a literal, `dict(...)` or an earlier name; else the source."""
    if isinstance(node, ast.Constant):
        return node.value
    if isinstance(node, ast.List | ast.Tuple):
        items = [_evaluate(each, values) for each in node.elts]
        return tuple(items) if isinstance(node, ast.Tuple) else items
    if isinstance(node, ast.Dict):
        pairs = zip(node.keys, node.values, strict=True)
        return {
            _evaluate(key, values): _evaluate(each, values)
            for key, each in pairs
            if key is not None
        }
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "dict":
        return {word.arg: _evaluate(word.value, values) for word in node.keywords}
    if isinstance(node, ast.Name) and node.id in values:
        return values[node.id]
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        inner = _evaluate(node.operand, values)
        return -inner if isinstance(inner, int | float) else inner
    return ast.unparse(node)


def is_config(table: Mapping[Any, Any]) -> bool:
    """Return whether a table is such a config: it has a model with a backbone of some type."""
    model = table.get("model")
    backbone = model.get("backbone") if isinstance(model, Mapping) else None
    return isinstance(backbone, Mapping) and isinstance(backbone.get("type"), str)


def read_openmmlab(
    config: Mapping[str, Any], where: str
) -> tuple[ModelSpec, dict[str, Any], list[str]]:
    """Return the network, fields of `Preprocess`, and steps of the preprocessing that are not read.

    Raises ConfigError for an unknown field of the network or an unsupported value.
    """
    model = config["model"]
    spec = _parse_backbone(model["backbone"], f"{where}: model.backbone")
    preprocess = _parse_data_preprocessor(config, where)
    if _type_name(model) != CLASSIFIER:
        return spec, preprocess, []
    if model.get("neck") is not None:
        neck = {"type": only("GlobalAveragePooling", why="is not the pooling of these networks")}
        apply_handlers(_with_type_name(model["neck"]), f"{where}: model.neck", neck)
    head = {"type": only("LinearClsHead", why="is another head"), "num_classes": positive_int}
    fields = apply_handlers(
        _with_type_name(model.get("head", {})), f"{where}: model.head", head, HEAD_NO_EFFECT
    )
    steps, unread = _parse_pipeline(config)
    preprocess |= steps
    return (
        dataclasses.replace(
            spec,
            num_classes=fields.get("num_classes", spec.num_classes),
            input_size=preprocess.get("size", spec.input_size),
        ),
        preprocess,
        unread,
    )


def _type_name(table: Any) -> str:
    """Return the type that a table names, without the library."""
    kind = table.get("type") if isinstance(table, Mapping) else None
    return kind.rpartition(".")[2] if isinstance(kind, str) else ""


def _with_type_name(table: Any) -> Any:
    return {**table, "type": _type_name(table)} if isinstance(table, Mapping) else table


def _parse_backbone(config: Mapping[str, Any], where: str) -> ModelSpec:
    kind, depth = _type_name(config), config.get("depth")
    if kind not in ("ResNet", "ResNeXt") or depth not in DEPTHS:
        raise ConfigError(f"{where}: {kind[:40]} of depth {depth} is not supported")
    fields = apply_handlers(config, where, _BACKBONE, BACKBONE_NO_EFFECT)
    spec = catalog.spec(f"resnet{depth}")
    groups: dict[str, Any] = {"groups": 32, "width_per_group": 4} if kind == "ResNeXt" else {}
    groups |= {name: fields[name] for name in ("groups", "width_per_group") if name in fields}
    spec = dataclasses.replace(
        spec,
        **groups,
        in_channels=fields.get("in_channels", 3),
        stem_width=fields.get("stem_channels", 64),
        norm_eps=fields.get("norm_cfg", spec.norm_eps),
    )
    if spec.expansion > 1 and fields.get("style") == "caffe":
        spec = dataclasses.replace(spec, stride_in="1x1")
    return with_catalog_name(spec)


def _parse_batch_norm(config: Any) -> float:
    if _type_name(config) not in ("BN", "BN2d", "SyncBN"):
        raise ValueError("is not a norm of these networks")
    return float(config.get("eps", 1e-5))


_BACKBONE = {
    "style": only("pytorch", "caffe"),
    "strides": only((1, 2, 2, 2), [1, 2, 2, 2]),
    "dilations": only((1, 1, 1, 1), [1, 1, 1, 1]),
    "deep_stem": only(False),
    "avg_down": only(False),
    "expansion": only(1, 4),
    "base_channels": only(64),
    "stem_channels": positive_int,
    "in_channels": positive_int,
    "groups": positive_int,
    "width_per_group": positive_int,
    "norm_cfg": _parse_batch_norm,
}


def _parse_data_preprocessor(config: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Return mean, deviation and channel order; in the config they are of values in 0..255."""
    model = config["model"]
    preprocessor = model.get("data_preprocessor") or config.get("data_preprocessor")
    preprocessor = preprocessor or config.get("img_norm_cfg")
    if not isinstance(preprocessor, Mapping) or preprocessor.get("mean") is None:
        return {}
    handlers = {
        "mean": parse_numbers,
        "std": parse_std,
        "to_rgb": only(True, False),
        "bgr_to_rgb": only(True, False),
        "rgb_to_bgr": only(False),
    }
    place = f"{where}: data_preprocessor"
    fields = apply_handlers(preprocessor, place, handlers, PREPROCESSOR_NO_EFFECT)
    count = len(fields["mean"])
    if len(fields.get("std", fields["mean"])) != count:
        raise ConfigError(f"{place}: mean and std are of different lengths")
    preprocess: dict[str, Any] = {
        "mean": tuple(value / 255 for value in fields["mean"]),
        "std": tuple(value / 255 for value in fields.get("std", (1.0,) * count)),
    }
    if count == 3 and not fields.get("to_rgb", fields.get("bgr_to_rgb", False)):
        preprocess["channel_order"] = "bgr"  # as OpenCV decodes images
    return preprocess


def _parse_pipeline(config: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Return the preprocessing of a test image, and the steps that are not read."""
    place, steps = next(
        ((place, steps) for place, steps in _find_pipelines(config) if isinstance(steps, Sequence)),
        ("", ()),
    )
    preprocess: dict[str, Any] = {}
    unread = []
    for step in steps:
        kind = _type_name(step)
        rest = {name: each for name, each in step.items() if name != "type"} if kind else {}
        interpolation = rest.pop("interpolation", None)
        side = rest.pop("scale", None) or rest.pop("size", None) or rest.pop("crop_size", None)
        if kind in LOADING or (kind == "Normalize" and config.get("img_norm_cfg") == rest):
            continue
        if isinstance(side, list | tuple) and len(side) == 2 and (side[1] == -1 or kind[0] == "C"):
            side = side[0] if side[1] in (-1, side[0]) else None
        is_resize = kind == "Resize" or (
            kind == "ResizeEdge" and rest.pop("edge", "short") == "short"
        )
        rest.pop("backend", None)
        is_supported = interpolation in (None, "bilinear", "bicubic") and not rest
        if type(side) is int and is_supported and (is_resize or kind == "CenterCrop"):
            preprocess["resize" if is_resize else "size"] = side
            if interpolation:
                preprocess["interpolation"] = interpolation
        else:
            unread.append(f"{place}: {str(step)[:80]}")
    if unread or preprocess.get("resize", 0) < preprocess.get("size", 0):
        return {}, unread or [f"{place}: a crop larger than the image"]
    return preprocess, []


def _find_pipelines(config: Mapping[str, Any]) -> list[tuple[str, Any]]:
    loader, data = config.get("test_dataloader"), config.get("data")
    nested = loader.get("dataset") if isinstance(loader, Mapping) else None
    old = data.get("test") if isinstance(data, Mapping) else None
    return [
        (place, table.get(place.rpartition(".")[2]))
        for place, table in (
            ("test_dataloader.dataset.pipeline", nested),
            ("data.test.pipeline", old),
            ("test_pipeline", config),
        )
        if isinstance(table, Mapping)
    ]
