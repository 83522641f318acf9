"""Configs of OpenMMLab's libraries (mmpretrain, mmdet, ...), which their checkpoints carry.

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
from resnets.weights.readers.configs.timm import deviations, numbers, with_catalog_name

LONGEST = 200_000  # characters of source that are parsed
CLASSIFIER = "ImageClassifier"
DEPTHS = (18, 34, 50, 101, 152)
# Fields that matter in training alone, or that the tensors show.
BACKBONE_ABOUT = frozenset(
    {
        *("type", "depth", "num_stages", "out_indices", "frozen_stages", "norm_eval", "with_cp"),
        *("zero_init_residual", "drop_path_rate", "init_cfg", "pretrained"),
    }
)
HEAD_ABOUT = frozenset({"loss", "topk", "cal_acc", "init_cfg", "in_channels"})
PREPROCESSOR_ABOUT = frozenset(
    {
        *("type", "num_classes", "to_onehot", "batch_augments", "pad_size_divisor", "pad_value"),
        *(
            "mixup",
            "cutmix",
            "non_blocking",
            "pad_mask",
            "mask_pad_value",
            "pad_seg",
            "seg_pad_val",
        ),
        *("boxtype2tensor", "size", "size_divisor", "test_cfg"),
    }
)
LOADING = (
    "LoadImageFromFile",
    "PackInputs",
    "PackClsInputs",
    "ImageToTensor",
    "Collect",
    "ToTensor",
)


def parse_config(text: str) -> dict[str, Any] | None:
    """The assignments of a config in Python source; None for any other text."""
    if len(text) > LONGEST or "dict(" not in text:
        return None
    try:
        statements = ast.parse(text).body
        values: dict[str, Any] = {}
        for statement in statements:
            if isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Name):
                values[statement.targets[0].id] = _value(statement.value, values)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None
    return values


def _value(node: ast.expr, values: Mapping[str, Any]) -> Any:
    """A literal, `dict(...)` or an earlier name; anything else as its source."""
    if isinstance(node, ast.Constant):
        return node.value
    if isinstance(node, ast.List | ast.Tuple):
        items = [_value(each, values) for each in node.elts]
        return tuple(items) if isinstance(node, ast.Tuple) else items
    if isinstance(node, ast.Dict):
        pairs = zip(node.keys, node.values, strict=True)
        return {_value(key, values): _value(each, values) for key, each in pairs if key is not None}
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "dict":
        return {word.arg: _value(word.value, values) for word in node.keywords}
    if isinstance(node, ast.Name) and node.id in values:
        return values[node.id]
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        inner = _value(node.operand, values)
        return -inner if isinstance(inner, int | float) else inner
    return ast.unparse(node)


def is_config(found: Mapping[Any, Any]) -> bool:
    """Whether a table is such a config: it describes a model with a backbone of some type."""
    model = found.get("model")
    backbone = model.get("backbone") if isinstance(model, Mapping) else None
    return isinstance(backbone, Mapping) and isinstance(backbone.get("type"), str)


def read_openmmlab(
    config: Mapping[str, Any], where: str
) -> tuple[ModelSpec, dict[str, Any], list[str]]:
    """The network, fields of `Preprocess`, and what of the preprocessing is not read.

    ConfigError names a field of the network that is not known or that the networks here lack.
    """
    model = config["model"]
    spec = _backbone(model["backbone"], f"{where}: model.backbone")
    seen = _data_preprocessor(config, where)
    if _kind(model) != CLASSIFIER:
        return spec, seen, []
    if model.get("neck") is not None:
        neck = {"type": only("GlobalAveragePooling", why="is not the pooling of the networks here")}
        apply_handlers(_plain(model["neck"]), f"{where}: model.neck", neck)
    head = {"type": only("LinearClsHead", why="is another head"), "num_classes": positive_int}
    said = apply_handlers(_plain(model.get("head", {})), f"{where}: model.head", head, HEAD_ABOUT)
    steps, unread = _pipeline(config)
    seen |= steps
    return (
        dataclasses.replace(
            spec,
            num_classes=said.get("num_classes", spec.num_classes),
            input_size=seen.get("size", spec.input_size),
        ),
        seen,
        unread,
    )


def _kind(table: Any) -> str:
    """The type that a table names, without the library before it."""
    kind = table.get("type") if isinstance(table, Mapping) else None
    return kind.rpartition(".")[2] if isinstance(kind, str) else ""


def _plain(table: Any) -> Any:
    return {**table, "type": _kind(table)} if isinstance(table, Mapping) else table


def _backbone(said: Mapping[str, Any], where: str) -> ModelSpec:
    kind, depth = _kind(said), said.get("depth")
    if kind not in ("ResNet", "ResNeXt") or depth not in DEPTHS:
        raise ConfigError(f"{where}: {kind[:40]} of depth {depth} is none of the networks here")
    found = apply_handlers(said, where, _BACKBONE, BACKBONE_ABOUT)
    spec = catalog.spec(f"resnet{depth}")
    grouped = {"groups": 32, "width_per_group": 4} if kind == "ResNeXt" else {}
    spec = dataclasses.replace(
        spec,
        **grouped | {name: found[name] for name in ("groups", "width_per_group") if name in found},
        in_channels=found.get("in_channels", 3),
        stem_width=found.get("stem_channels", 64),
        norm_eps=found.get("norm_cfg", spec.norm_eps),
    )
    if spec.expansion > 1 and found.get("style") == "caffe":
        spec = dataclasses.replace(spec, stride_in="1x1")
    return with_catalog_name(spec)


def _batch_norm(said: Any) -> float:
    if _kind(said) not in ("BN", "BN2d", "SyncBN"):
        raise ValueError("is another norm than the networks here have")
    return float(said.get("eps", 1e-5))


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
    "norm_cfg": _batch_norm,
}


def _data_preprocessor(config: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Mean, deviation and channel order, which are of values from 0 to 255 there."""
    model = config["model"]
    said = model.get("data_preprocessor") or config.get("data_preprocessor")
    said = said or config.get("img_norm_cfg")
    if not isinstance(said, Mapping) or said.get("mean") is None:
        return {}
    handlers = {
        "mean": numbers,
        "std": deviations,
        "to_rgb": only(True, False),
        "bgr_to_rgb": only(True, False),
        "rgb_to_bgr": only(False),
    }
    place = f"{where}: data_preprocessor"
    found = apply_handlers(said, place, handlers, PREPROCESSOR_ABOUT)
    count = len(found["mean"])
    if len(found.get("std", found["mean"])) != count:
        raise ConfigError(f"{place}: mean and std are of different lengths")
    seen: dict[str, Any] = {
        "mean": tuple(value / 255 for value in found["mean"]),
        "std": tuple(value / 255 for value in found.get("std", (1.0,) * count)),
    }
    if count == 3 and not found.get("to_rgb", found.get("bgr_to_rgb", False)):
        seen["channel_order"] = "bgr"  # as OpenCV decodes them
    return seen


def _pipeline(config: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """What the steps on a test image are, and those that are not read."""
    place, steps = next(
        ((place, steps) for place, steps in _pipelines(config) if isinstance(steps, Sequence)),
        ("", ()),
    )
    seen: dict[str, Any] = {}
    unread = []
    for step in steps:
        kind = _kind(step)
        rest = {name: each for name, each in step.items() if name != "type"} if kind else {}
        how = rest.pop("interpolation", None)
        side = rest.pop("scale", None) or rest.pop("size", None) or rest.pop("crop_size", None)
        if kind in LOADING or (kind == "Normalize" and config.get("img_norm_cfg") == rest):
            continue
        if isinstance(side, list | tuple) and len(side) == 2 and (side[1] == -1 or kind[0] == "C"):
            side = side[0] if side[1] in (-1, side[0]) else None
        edge = kind == "Resize" or (kind == "ResizeEdge" and rest.pop("edge", "short") == "short")
        rest.pop("backend", None)
        known = type(side) is int and how in (None, "bilinear", "bicubic") and not rest
        if known and (edge or kind == "CenterCrop"):
            seen["resize" if edge else "size"] = side
            seen |= {"interpolation": how} if how else {}
        else:
            unread.append(f"{place}: {str(step)[:80]}")
    if unread or seen.get("resize", 0) < seen.get("size", 0):
        return {}, unread or [f"{place}: a crop larger than the image"]
    return seen, []


def _pipelines(config: Mapping[str, Any]) -> list[tuple[str, Any]]:
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
