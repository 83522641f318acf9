"""What a file states beside its tensors about its network and its images.

Arguments of timm's and torchvision's training scripts and configs of OpenMMLab's libraries are read
as config.json is: every field is honoured, or refused by name. The rest of the file, tables, lists
and text at any depth, is searched for fields that look like a description of the network or of its
preprocessing; those are logged as stated and not read.
"""

from __future__ import annotations

import json
import logging
import math
import re
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from resnets.config import ConfigError, ModelSpec
from resnets.weights.errors import WeightsError
from resnets.weights.lazy_tensors import LazyTensor
from resnets.weights.readers.configs import openmmlab as openmmlab_config
from resnets.weights.readers.configs.field_handlers import apply_handlers
from resnets.weights.readers.configs.sigmoid_loss import clean, short_text, warn_of_sigmoid
from resnets.weights.readers.configs.timm import ABOUT, ARGS, POOL, SEEN
from resnets.weights.readers.configs.timm import square as square_size

log = logging.getLogger("resnets")

DEEPEST = 12  # containers inside each other that are searched
MOST = 100_000  # containers and texts that are searched
LONGEST = 200_000  # characters of a text that are searched
SHOWN = 4  # fields in a message
# Held by tables whose readers read it, or of no use.
UNSEARCHED = ("optimizer", "model_kwargs", "model_args")
ARCH = ("arch", "architecture", "model", "model_name", "net", "backbone")
# Words before the name of a field: norm_mean, val_img_size.
QUALIFIERS = frozenset(
    {
        *("norm", "normalize", "normalise", "normalization", "image", "img", "input", "pixel"),
        *("val", "valid", "validation", "test", "eval", "data", "dataset", "channel", "rgb"),
    }
)
PREPROCESSING = frozenset(
    {
        *("mean", "means", "std", "stds", "size", "sz", "imgsz", "resolution", "crop"),
        *("crop_size", "crop_pct", "crop_mode", "resize", "resize_size", "interpolation"),
        *("to_rgb", "bgr", "bgr_to_rgb", "mu", "height", "width"),
    }
)
COMPUTATION = frozenset(
    {
        *("norm", "norm_layer", "act", "act_layer", "activation", "gp", "global_pool", "pool"),
        *("pooling", "output_stride", "model_kwargs", "multilabel", "multi_label"),
        *("neck", "last_stride", "dilation", "dilations", "with_ibn", "with_se", "with_nl"),
    }
)
SIZES = frozenset({"size", "sz", "imgsz", "resolution", "crop", "resize", "height", "width"})
# Values that say what is taken anyway.
USUAL = ("", "relu", "batch", "batchnorm", "batchnorm2d", "bn", "avg", "bilinear", "center", "rgb")
RESIZES = r"(?:\w+\.)*(?:Resize\w*|CenterCrop\w*|SmallestMaxSize|LongestMaxSize)"
TRANSFORM = re.compile(rf"{RESIZES}|(?:\w+\.)*Normalize\w*")
# In text: name=value or "name": value; --name value; Resize(...).
ASSIGNED = re.compile(
    r"\b([A-Za-z]\w*)['\"]?[ \t]*[:=][ \t]*(\[[^\]]{1,80}\]|\([^)]{1,80}\)|[^\s,;()\[\]{}]{1,40})"
)
NETWORK = re.compile(r"[a-z_-]*(resnet|resnext|vgg)[a-z_-]*\d[\w.-]*", re.I)
OPTION = re.compile(r"--([A-Za-z][\w-]*)[ =]([^\s-][^\n-]{0,40})")
CALL = re.compile(rf"\b{RESIZES}\([^()]{{0,80}}\)?")
PIXEL_CONSTANTS = ("pixel_mean", "pixel_std")


@dataclass(frozen=True)
class StoredConfig:
    """arch: what the file calls its network, "" where it does not. place: where it says so.

    spec: the network, where a config in the file describes it whole. preprocess: fields of
    `Preprocess` that it states, and crop_pct. unread: whether it states more that is not read.
    """

    arch: str = ""
    place: str = ""
    spec: ModelSpec | None = None
    preprocess: Mapping[str, Any] = field(default_factory=dict)
    unread: bool = False


NO_CONFIG = StoredConfig()


def read_stored_config(
    found: Mapping[Any, Any],
    source: str,
    tensors: Mapping[str, LazyTensor] = {},
    part: str | None = None,
) -> StoredConfig:
    """What the content `found` of a file says beside its `tensors`.

    What is stated and not read is logged as a warning. WeightsError where a config or a script's
    arguments ask for what the networks here do not compute; with `part` (FILE#PART), which takes
    tensors alone, that is logged too.
    """
    nodes = list(_nodes(found))
    arch, arch_place = _arch(nodes)
    spec, preprocess = None, dict[str, Any]()
    unread, usual = [], False
    done: list[str] = []  # places that a reader has read whole
    for place, node in nodes:
        if any(place == each or place.startswith(f"{each}.") for each in done):
            continue
        reader = next(
            (read for fits, read in READERS if isinstance(node, dict) and fits(node)), None
        )
        if reader is None:
            unread += _unread(node, place)
            usual = usual or _states_usual(node)
            continue
        done.append(place)
        try:
            their_spec, theirs, others = reader(node, f"{source}: {place}")
        except (ConfigError, WeightsError) as error:
            if part is None:
                raise WeightsError(f"{error}{_alone(found, source)}") from None
            log.warning("%s; its tensors are taken alone, as #%s says", error, part)
            unread.append(place)
            continue
        spec, preprocess = spec or their_spec, preprocess | theirs
        unread += [f"{place}: {each}" for each in others]
    unread += _constants(tensors)
    if unread:
        unread.sort(key=lambda each: re.search("mean|std", each, re.I) is None)  # they matter most
        more = ", ..." if len(unread) > SHOWN else ""
        log.warning("%s: states %s, which is not read", source, ", ".join(unread[:SHOWN]) + more)
    warn_of_sigmoid(nodes, tensors, source)
    return StoredConfig(arch, arch_place, spec, preprocess, bool(unread) or usual)


def _alone(found: Mapping[Any, Any], source: str) -> str:
    """How to take the tensors of a file without what stands beside them, for a message."""
    states = (key for key, value in found.items() if isinstance(value, dict) and _is_state(value))
    key = next(states, None)
    return f"; to take its tensors alone, say {source}#{key}" if isinstance(key, str) else ""


def _nodes(found: Mapping[Any, Any]) -> Iterator[tuple[str, dict[Any, Any] | str]]:
    """Every table and text in a file with its place, from the top down; configs in text as tables.

    Tables of tensors and of an optimizer's state are left out.
    """
    waiting: deque[tuple[str, Any, int]] = deque([("", found, 0)])
    entered: set[int] = set()
    while waiting and len(entered) < MOST:
        place, value, depth = waiting.popleft()
        if isinstance(value, str):
            parsed = _parsed(value)
            if parsed is None:
                yield place, value
                continue
            value = parsed
        if id(value) in entered or depth > DEEPEST:
            continue
        entered.add(id(value))
        if isinstance(value, dict):
            if not _is_state(value):
                yield place, value
            items = [(key, each) for key, each in value.items() if key not in UNSEARCHED]
        else:
            items = list(enumerate(value))
        waiting += [
            (f"{place}.{key}" if place else str(key), each, depth + 1)
            for key, each in items
            if isinstance(each, dict | list | tuple | str)
        ]


def _parsed(text: str) -> dict[Any, Any] | list[Any] | None:
    """A table or list in JSON, or a config in Python source; None for other text."""
    if text[:1] in ("{", "["):
        try:
            found = json.loads(text)
        except (ValueError, RecursionError):
            found = None
        if isinstance(found, dict | list):
            return found
    return openmmlab_config.parse_config(text)


def _is_state(found: Mapping[Any, Any]) -> bool:
    """Whether a table is a state dict; a figure or two beside it are tensors as well."""
    return sum(isinstance(each, LazyTensor) for each in found.values()) > 2


def _arch(nodes: Sequence[tuple[str, dict[Any, Any] | str]]) -> tuple[str, str]:
    """The first name of a network, and its place.

    That is a field of ARCH, NAME in a table of such a name (MODEL.NAME), or in text one of both
    whose value looks like a network.
    """
    for place, node in nodes:
        if isinstance(node, str):
            for key, value in ASSIGNED.findall(node[:LONGEST]):
                name = value.strip("'\"")
                if key.lower() in (*ARCH, "name") and NETWORK.fullmatch(name):
                    return name, f"{place}: {key}"
        elif place.count(".") < 3:
            inside = place.rpartition(".")[2].lower() in ARCH
            for key, value in node.items():
                named = isinstance(key, str) and isinstance(value, str)
                if named and (key.lower() in ARCH or (inside and key.lower() == "name")):
                    return value, f"{place}.{key}".removeprefix(".")
    return "", ""


def _unread(node: dict[Any, Any] | str, place: str) -> list[str]:
    """Descriptions of a network or of its preprocessing in a table or text."""
    if isinstance(node, str):
        text = node[:LONGEST]
        said = [
            f"{name}={value}"
            for name, value in [*ASSIGNED.findall(text), *OPTION.findall(text)]
            if name.lower() != "size" and _describes(name, value)
        ]
        calls = [match[0] for match in CALL.finditer(text)]
        return [f"{place}: {clean(each)}" for each in dict.fromkeys(said + calls)]
    before = f"{place}." if place else ""
    named = [
        f"{before}{key} {short_text(value)}"
        for key, value in node.items()
        if _describes(key, value) and not _is_usual(value)
    ]
    transforms = [
        f"{before.removesuffix('.')}: {value.rpartition('.')[2]}"
        for value in node.values()
        if isinstance(value, str) and TRANSFORM.fullmatch(value)
    ]
    return [*named, *transforms]


def _states_usual(node: dict[Any, Any] | str) -> bool:
    """Whether a table states preprocessing, if only what is assumed without it."""
    return isinstance(node, dict) and any(
        _field(key) in PREPROCESSING and _is_usual(value) and value
        for key, value in node.items()
        if isinstance(key, str)
    )


def _field(key: str) -> str:
    """The name of a field without the words before it: "mean" of "norm_mean" and "imageMean"."""
    words = re.sub(r"(?<=[a-z])(?=[A-Z])|[-.]", "_", key).lower().split("_")
    while len(words) > 1 and words[0] in QUALIFIERS:
        words = words[1:]
    while len(words) > 1 and words[-1] in QUALIFIERS:  # SIZE_TEST
        words = words[:-1]
    return "_".join(words)


def _describes(key: Any, value: Any) -> bool:
    """Whether a field says how images have to look, or what a network computes."""
    if not isinstance(key, str):
        return False
    name = _field(key)
    if name in SIZES:
        sides = value if isinstance(value, list | tuple) else [value]
        return bool(sides) and all(_is_side(side) for side in sides)
    if key.lower() in COMPUTATION or name in PREPROCESSING:
        return isinstance(value, str | int | float | list | tuple | dict) and bool(value)
    return False


def _is_side(value: Any) -> bool:
    """Whether a value may be a side of an image, in px."""
    if isinstance(value, str):
        numbers = [int(each) for each in re.findall(r"\d{1,6}", value)]
        return bool(numbers) and re.fullmatch(r"[\d\s,x()\[\]-]+", value) is not None
    return type(value) is int and (8 <= value <= 8192 or value in (1, 3))


def _is_usual(value: Any) -> bool:
    """Whether a value is what is assumed without it."""
    return (
        isinstance(value, str) and value.lower().replace("nn.", "").replace("torch.", "") in USUAL
    )


def pixel_constants(
    tensors: Mapping[str, LazyTensor], before: str = ""
) -> tuple[list[float], list[float]] | None:
    """detectron2's `pixel_mean` and `pixel_std`, in 0..255, of names that start with `before`.

    None where they are not there or do not tell the order of the planes: the means of photographs
    grow from blue to red.
    """
    found = []
    for leaf in PIXEL_CONSTANTS:
        tensor = next(
            (
                tensor
                for name, tensor in tensors.items()
                if name.startswith(before) and name.rpartition(".")[2] == leaf and tensor.size == 3
            ),
            None,
        )
        if tensor is None:
            return None
        found.append([float(value) for value in tensor.read().flatten()])
    mean, std = found
    sorted_ = mean[0] < mean[1] < mean[2] or mean[0] > mean[1] > mean[2]
    usable = all(map(math.isfinite, (*mean, *std))) and min(mean) > 1 and min(std) > 0
    return (mean, std) if sorted_ and usable else None


def _constants(tensors: Mapping[str, LazyTensor]) -> list[str]:
    """Means and deviations of an input's channels that are tensors, with their values.

    Not detectron2's pair, which `input_convention` reads.
    """
    found = []
    pair = pixel_constants(tensors)
    for name, tensor in tensors.items():
        if pair is not None and name.rpartition(".")[2] in PIXEL_CONSTANTS:
            continue
        words = set(re.split(r"[._]", name.lower().rpartition(".")[2]))
        small = tensor.size in (1, 3) and max(tensor.shape, default=0) == tensor.size
        if small and words & {"mean", "std"} and not words & {"running", "moving"}:
            values = [round(float(value), 4) for value in tensor.read().flatten()]
            found.append(f"{clean(name)} {values}")
    return found


Read = tuple[ModelSpec | None, dict[str, Any], list[str]]


def _of_timm(table: Mapping[Any, Any], where: str) -> Read:
    """The arguments of timm's train.py, with its own rules for those that are not given."""
    given = {
        key: table[key]
        for key in ("mean", "std", "crop_pct", "interpolation", "input_size")
        if table.get(key) not in (None, "", "random")
    }
    try:
        seen = apply_handlers(given, where, SEEN)
        if table.get("img_size") and "input_size" not in seen:
            size = table["img_size"]
            seen["input_size"] = square_size((3, size, size))
        apply_handlers({"gp": table.get("gp") or None}, where, {"gp": POOL})
        apply_handlers(table.get("model_kwargs") or {}, f"{where}.model_kwargs", ARGS, ABOUT)
    except (ValueError, TypeError) as error:  # ConfigError is one
        said = str(error) if str(error).startswith(where) else f"{where}: {error}"
        raise WeightsError(said) from None
    stated: dict[str, Any] = {
        key: seen[key] for key in ("mean", "std", "interpolation") if key in seen
    }
    if "input_size" in seen:
        stated["size"] = seen["input_size"][1]
    if "crop_pct" in seen:
        stated["crop_pct"] = seen["crop_pct"]
    own = [name for name in ("crop_pct", "interpolation") if name not in seen]
    if own:
        log.warning(
            "%s: states no %s; the usual ones are assumed, and timm takes those of its own config"
            " of %s, which may be others",
            where, " and no ".join(own), short_text(table.get("model")),
        )  # fmt: skip
    return None, stated, []


def _of_torchvision(table: Mapping[Any, Any], where: str) -> Read:
    """The arguments of torchvision's references; its mean and deviation are ImageNet's."""
    size, resize = table["val_crop_size"], table["val_resize_size"]
    if type(size) is not int or type(resize) is not int or not 0 < size <= resize:
        return (
            None,
            {},
            [f"val_crop_size {short_text(size)}", f"val_resize_size {short_text(resize)}"],
        )
    how = table.get("interpolation", "bilinear")
    if how not in ("bilinear", "bicubic"):
        return None, {"size": size, "resize": resize}, [f"interpolation {short_text(how)}"]
    return None, {"size": size, "resize": resize, "interpolation": how}, []


# What tells a table of a known kind, and its reader.
READERS: Sequence[tuple[Callable[[Mapping[Any, Any]], object], Callable[[Any, str], Read]]] = (
    (openmmlab_config.is_config, openmmlab_config.read_openmmlab),
    (lambda said: "model" in said and {"crop_pct", "gp", "img_size"} & said.keys(), _of_timm),
    (lambda said: {"val_crop_size", "val_resize_size"} <= said.keys(), _of_torchvision),
)


def resized(size: int, crop_pct: float) -> int:
    """The shorter side before a crop of `size`, as timm has it."""
    return max(size, math.floor(size / crop_pct))
