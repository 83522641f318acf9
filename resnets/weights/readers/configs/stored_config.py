"""Read what a file specifies about its network and its images, in addition to the tensors.

Arguments of timm's and torchvision's training scripts and configs of OpenMMLab's libraries are read
like a config.json: every field is used or refused by name. The rest of the file (tables, lists and
text at any depth) is searched for fields that seem to describe the network or its preprocessing;
those are logged as stated but not read.
"""

from __future__ import annotations

import logging
import math
import re
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from resnets.config import ConfigError, ModelSpec
from resnets.utils.files.json import parse_json
from resnets.utils.printable import join_names
from resnets.weights.errors import WeightsError
from resnets.weights.lazy_tensors import LazyTensor
from resnets.weights.readers.configs import openmmlab as openmmlab_config
from resnets.weights.readers.configs.field_handlers import apply_handlers
from resnets.weights.readers.configs.input_convention import PIXEL_CONSTANTS, pixel_constants
from resnets.weights.readers.configs.sigmoid_loss import clean, short_text, warn_about_sigmoid
from resnets.weights.readers.configs.timm import (
    MODEL_ARGS,
    NO_EFFECT,
    POOL,
    PREPROCESS_FIELDS,
    parse_square,
)

log = logging.getLogger("resnets")

MAX_DEPTH = 12  # nested containers that are searched
MAX_CONTAINERS = 100_000  # containers and texts that are searched
MAX_TEXT = 200_000  # characters of a text that are searched
MAX_SHOWN = 4  # fields in a message
# Entries that other readers read, or without information.
UNSEARCHED = ("optimizer", "model_kwargs", "model_args")
ARCH = ("arch", "architecture", "model", "model_name", "net", "backbone")
# Words before the name of a field: norm_mean, val_img_size.
QUALIFIERS = frozenset(
    {
        "norm", "normalize", "normalise", "normalization", "image", "img", "input", "pixel",
        "val", "valid", "validation", "test", "eval", "data", "dataset", "channel", "rgb",
    }
)  # fmt: skip
PREPROCESSING = frozenset(
    {
        "mean", "means", "std", "stds", "size", "sz", "imgsz", "resolution", "crop",
        "crop_size", "crop_pct", "crop_mode", "resize", "resize_size", "interpolation",
        "to_rgb", "bgr", "bgr_to_rgb", "mu", "height", "width",
    }
)  # fmt: skip
COMPUTATION = frozenset(
    {
        "norm", "norm_layer", "act", "act_layer", "activation", "gp", "global_pool", "pool",
        "pooling", "output_stride", "model_kwargs", "multilabel", "multi_label",
        "neck", "last_stride", "dilation", "dilations", "with_ibn", "with_se", "with_nl",
    }
)  # fmt: skip
SIZES = frozenset({"size", "sz", "imgsz", "resolution", "crop", "resize", "height", "width"})
# Values that are assumed anyway.
DEFAULT_VALUES = (
    "",
    "relu",
    "batch",
    "batchnorm",
    "batchnorm2d",
    "bn",
    "avg",
    "bilinear",
    "center",
    "rgb",
)
RESIZES = r"(?:\w+\.)*(?:Resize\w*|CenterCrop\w*|SmallestMaxSize|LongestMaxSize)"
TRANSFORM = re.compile(rf"{RESIZES}|(?:\w+\.)*Normalize\w*")
# In text: name=value or "name": value; --name value; Resize(...).
ASSIGNED = re.compile(
    r"\b([A-Za-z]\w*)['\"]?[ \t]*[:=][ \t]*(\[[^\]]{1,80}\]|\([^)]{1,80}\)|[^\s,;()\[\]{}]{1,40})"
)
NETWORK = re.compile(r"[a-z_-]*(resnet|resnext|vgg)[a-z_-]*\d[\w.-]*", re.I)
OPTION = re.compile(r"--([A-Za-z][\w-]*)[ =]([^\s-][^\n-]{0,40})")
CALL = re.compile(rf"\b{RESIZES}\([^()]{{0,80}}\)?")


@dataclass(frozen=True)
class StoredConfig:
    """What a file specifies about its model.

    arch: name of the network, "" if not stated. arch_field: the field with that name. spec: the
    network, if a config in the file describes it completely. preprocess: fields of `Preprocess`
    that it specifies, and crop_pct. unread: whether it specifies more that is not read.
    """

    arch: str = ""
    arch_field: str = ""
    spec: ModelSpec | None = None
    preprocess: Mapping[str, Any] = field(default_factory=dict)
    unread: bool = False


NO_CONFIG = StoredConfig()


def read_stored_config(
    table: Mapping[Any, Any],
    source: str,
    tensors: Mapping[str, LazyTensor] = {},
    part: str | None = None,
) -> StoredConfig:
    """Read what the `table` of a file specifies in addition to its `tensors`.

    Anything stated but not read is logged as a warning. Raises WeightsError if a config or a
    script's arguments need what the networks of this package do not compute; with `part`
    (FILE#PART), which uses only tensors, that is logged, too.
    """
    nodes = list(_iter_nodes(table))
    arch, arch_field = _find_arch(nodes)
    spec, preprocess = None, dict[str, Any]()
    unread, states_defaults = [], False
    done: list[str] = []  # tables that were read completely
    for key_path, node in nodes:
        if any(key_path == each or key_path.startswith(f"{each}.") for each in done):
            continue
        reader = next(
            (read for matches, read in READERS if isinstance(node, dict) and matches(node)), None
        )
        if reader is None:
            unread += _find_unread(node, key_path)
            states_defaults = states_defaults or _states_default(node)
            continue
        done.append(key_path)
        try:
            their_spec, fields, others = reader(node, f"{source}: {key_path}")
        except (ConfigError, WeightsError) as error:
            if part is None:
                raise WeightsError(f"{error}{_suggest_part(table, source)}") from None
            log.warning("%s; only its tensors are used, because of #%s", error, part)
            unread.append(key_path)
            continue
        spec, preprocess = spec or their_spec, preprocess | fields
        unread += [f"{key_path}: {each}" for each in others]
    unread += _find_constants(tensors)
    if unread:
        unread.sort(key=lambda each: re.search("mean|std", each, re.I) is None)  # they matter most
        log.warning("%s: contains %s, which is not read", source, join_names(unread, MAX_SHOWN))
    warn_about_sigmoid(nodes, tensors, source)
    return StoredConfig(arch, arch_field, spec, preprocess, bool(unread) or states_defaults)


def _suggest_part(table: Mapping[Any, Any], source: str) -> str:
    """Return how to use only the tensors of a file, for a message."""
    states = (key for key, value in table.items() if isinstance(value, dict) and _is_state(value))
    key = next(states, None)
    return f"; to use only its tensors, give {source}#{key}" if isinstance(key, str) else ""


def _iter_nodes(table: Mapping[Any, Any]) -> Iterator[tuple[str, dict[Any, Any] | str]]:
    """Yield every table and text in a file with its key path, top down; configs in text as tables.

    Tables of tensors and of an optimizer's state are skipped.
    """
    waiting: deque[tuple[str, Any, int]] = deque([("", table, 0)])
    visited: set[int] = set()
    while waiting and len(visited) < MAX_CONTAINERS:
        key_path, value, depth = waiting.popleft()
        if isinstance(value, str):
            parsed = _parse_text(value)
            if parsed is None:
                yield key_path, value
                continue
            value = parsed
        if id(value) in visited or depth > MAX_DEPTH:
            continue
        visited.add(id(value))
        if isinstance(value, dict):
            if not _is_state(value):
                yield key_path, value
            items = [(key, each) for key, each in value.items() if key not in UNSEARCHED]
        else:
            items = list(enumerate(value))
        waiting += [
            (f"{key_path}.{key}" if key_path else str(key), each, depth + 1)
            for key, each in items
            if isinstance(each, dict | list | tuple | str)
        ]


def _parse_text(text: str) -> dict[Any, Any] | list[Any] | None:
    """Return a table or list in JSON, or a config in Python source; None for other text."""
    if text[:1] in ("{", "["):
        try:
            parsed = parse_json(text)
        except (ValueError, RecursionError):
            parsed = None
        if isinstance(parsed, dict | list):
            return parsed
    return openmmlab_config.parse_config(text)


def _is_state(table: Mapping[Any, Any]) -> bool:
    """Return whether a table is a state dict; other tables may have one or two tensors."""
    return sum(isinstance(each, LazyTensor) for each in table.values()) > 2


def _find_arch(nodes: Sequence[tuple[str, dict[Any, Any] | str]]) -> tuple[str, str]:
    """Return the first name of a network, and its field.

    That is a field of ARCH, NAME in a table of such a name (MODEL.NAME), or in text one of both
    whose value looks like a network.
    """
    for key_path, node in nodes:
        if isinstance(node, str):
            for key, value in ASSIGNED.findall(node[:MAX_TEXT]):
                name = value.strip("'\"")
                if key.lower() in (*ARCH, "name") and NETWORK.fullmatch(name):
                    return name, f"{key_path}: {key}"
        elif key_path.count(".") < 3:
            in_arch_table = key_path.rpartition(".")[2].lower() in ARCH
            for key, value in node.items():
                if not isinstance(key, str) or not isinstance(value, str):
                    continue
                if key.lower() in ARCH or (in_arch_table and key.lower() == "name"):
                    return value, f"{key_path}.{key}".removeprefix(".")
    return "", ""


def _find_unread(node: dict[Any, Any] | str, key_path: str) -> list[str]:
    """Return the descriptions of a network or of its preprocessing in a table or text."""
    if isinstance(node, str):
        text = node[:MAX_TEXT]
        fields = [
            f"{name}={value}"
            for name, value in [*ASSIGNED.findall(text), *OPTION.findall(text)]
            if name.lower() != "size" and _describes(name, value)
        ]
        calls = [match[0] for match in CALL.finditer(text)]
        return [f"{key_path}: {clean(each)}" for each in dict.fromkeys(fields + calls)]
    prefix = f"{key_path}." if key_path else ""
    fields = [
        f"{prefix}{key} {short_text(value)}"
        for key, value in node.items()
        if _describes(key, value) and not _is_default(value)
    ]
    transforms = [
        f"{key_path}: {value.rpartition('.')[2]}"
        for value in node.values()
        if isinstance(value, str) and TRANSFORM.fullmatch(value)
    ]
    return [*fields, *transforms]


def _states_default(node: dict[Any, Any] | str) -> bool:
    """Return whether a table specifies the preprocessing that is assumed by default."""
    return isinstance(node, dict) and any(
        _strip_qualifiers(key) in PREPROCESSING and _is_default(value) and value
        for key, value in node.items()
        if isinstance(key, str)
    )


def _strip_qualifiers(key: str) -> str:
    """Return the name of a field without QUALIFIERS: "mean" for "norm_mean" and "imageMean"."""
    words = re.sub(r"(?<=[a-z])(?=[A-Z])|[-.]", "_", key).lower().split("_")
    while len(words) > 1 and words[0] in QUALIFIERS:
        words = words[1:]
    while len(words) > 1 and words[-1] in QUALIFIERS:  # SIZE_TEST
        words = words[:-1]
    return "_".join(words)


def _describes(key: Any, value: Any) -> bool:
    """Return whether a field describes preprocessing, or what a network computes."""
    if not isinstance(key, str):
        return False
    name = _strip_qualifiers(key)
    if name in SIZES:
        sides = value if isinstance(value, list | tuple) else [value]
        return bool(sides) and all(_is_side(side) for side in sides)
    if key.lower() in COMPUTATION or name in PREPROCESSING:
        return isinstance(value, str | int | float | list | tuple | dict) and bool(value)
    return False


def _is_side(value: Any) -> bool:
    """Return whether a value may be the side of an image, in px."""
    if isinstance(value, str):
        numbers = [int(each) for each in re.findall(r"\d{1,6}", value)]
        return bool(numbers) and re.fullmatch(r"[\d\s,x()\[\]-]+", value) is not None
    return type(value) is int and (8 <= value <= 8192 or value in (1, 3))


def _is_default(value: Any) -> bool:
    """Return whether a value is assumed anyway."""
    return (
        isinstance(value, str)
        and value.lower().replace("nn.", "").replace("torch.", "") in DEFAULT_VALUES
    )


def _find_constants(tensors: Mapping[str, LazyTensor]) -> list[str]:
    """Return the tensors that are means and deviations of input channels, with their values.

    Without detectron2's pair, which `input_convention` reads.
    """
    constants = []
    pair = pixel_constants(tensors)
    for name, tensor in tensors.items():
        if pair is not None and name.rpartition(".")[2] in PIXEL_CONSTANTS:
            continue
        words = set(re.split(r"[._]", name.lower().rpartition(".")[2]))
        small = tensor.size in (1, 3) and max(tensor.shape, default=0) == tensor.size
        if small and words & {"mean", "std"} and not words & {"running", "moving"}:
            values = [round(float(value), 4) for value in tensor.read().flatten()]
            constants.append(f"{clean(name)} {values}")
    return constants


ConfigFields = tuple[ModelSpec | None, dict[str, Any], list[str]]


def _read_timm_args(table: Mapping[Any, Any], where: str) -> ConfigFields:
    """Read the arguments of timm's train.py, which has its own rules for missing ones."""
    arguments = {
        key: table[key]
        for key in ("mean", "std", "crop_pct", "interpolation", "input_size")
        if table.get(key) not in (None, "", "random")
    }
    try:
        fields = apply_handlers(arguments, where, PREPROCESS_FIELDS)
        if table.get("img_size") and "input_size" not in fields:
            size = table["img_size"]
            fields["input_size"] = parse_square((3, size, size))
        apply_handlers({"gp": table.get("gp") or None}, where, {"gp": POOL})
        apply_handlers(
            table.get("model_kwargs") or {}, f"{where}.model_kwargs", MODEL_ARGS, NO_EFFECT
        )
    except (ValueError, TypeError) as error:  # ConfigError is one
        message = str(error) if str(error).startswith(where) else f"{where}: {error}"
        raise WeightsError(message) from None
    stated: dict[str, Any] = {
        key: fields[key] for key in ("mean", "std", "interpolation", "crop_pct") if key in fields
    }
    if "input_size" in fields:
        stated["size"] = fields["input_size"][1]
    missing = [name for name in ("crop_pct", "interpolation") if name not in fields]
    if missing:
        log.warning(
            "%s: has no %s; the usual ones are assumed; timm uses those of its own config of %s,"
            " which may differ",
            where, " and no ".join(missing), short_text(table.get("model")),
        )  # fmt: skip
    return None, stated, []


def _read_torchvision_args(table: Mapping[Any, Any], where: str) -> ConfigFields:
    """Read the arguments of torchvision's references, whose mean and deviation are ImageNet's."""
    size, resize = table["val_crop_size"], table["val_resize_size"]
    if type(size) is not int or type(resize) is not int or not 0 < size <= resize:
        return (
            None,
            {},
            [f"val_crop_size {short_text(size)}", f"val_resize_size {short_text(resize)}"],
        )
    fields = {"size": size, "resize": resize}
    interpolation = table.get("interpolation", "bilinear")
    if interpolation not in ("bilinear", "bicubic"):
        return None, fields, [f"interpolation {short_text(interpolation)}"]
    return None, fields | {"interpolation": interpolation}, []


# Whether a table is of a known kind, and the reader of that kind.
READERS: Sequence[
    tuple[Callable[[Mapping[Any, Any]], object], Callable[[Any, str], ConfigFields]]
] = (
    (openmmlab_config.is_config, openmmlab_config.read_openmmlab),
    (
        lambda table: "model" in table and {"crop_pct", "gp", "img_size"} & table.keys(),
        _read_timm_args,
    ),
    (lambda table: {"val_crop_size", "val_resize_size"} <= table.keys(), _read_torchvision_args),
)


def shorter_side(size: int, crop_pct: float) -> int:
    """Return the shorter side before a crop of `size`, as timm computes it."""
    return max(size, math.floor(size / crop_pct))
