"""What a training script wrote beside the tensors of a file, on their network and its images.

Arguments of timm's and torchvision's scripts are read as their configs are: honoured, or refused by
name. Of others it is said that they are there, and that nothing was made of them.
"""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from resnets.config import ConfigError
from resnets.config.fields import take_fields
from resnets.weights.errors import WeightsError
from resnets.weights.lazy_tensors import LazyTensor
from resnets.weights.readers.timm_config import ABOUT, ARGS, POOL, SEEN
from resnets.weights.readers.timm_config import square as square_size

log = logging.getLogger("resnets")

DEEPEST = 3  # tables inside each other
ARCH = ("arch", "architecture", "model", "model_name", "net", "backbone")
# Fields on what images have to look like, or on what the network computes.
FIELDS = frozenset(
    {
        *("mean", "std", "img_size", "image_size", "input_size", "crop_size", "crop_pct"),
        *("interpolation", "val_crop_size", "val_resize_size", "image_mean", "image_std"),
        *("to_rgb", "bgr", "crop_mode", "norm", "norm_layer", "act", "act_layer", "activation"),
        *("gp", "global_pool", "pool", "pooling", "output_stride", "model_kwargs", "multilabel"),
        "multi_label",
    }
)
# Values that say what is taken anyway.
USUAL = ("", "relu", "batch", "batchnorm", "batchnorm2d", "bn", "avg", "bilinear", "center", "rgb")
LOSSES = ("loss", "loss_fn", "loss_name", "criterion", "task", "task_type", "problem_type")
MULTILABEL = re.compile(r"bce|binary_?cross|multi[-_ ]?label", re.I)
SINGLE = "single_label_classification"  # transformers' problem_type of a softmax
TEXT = re.compile(r"\b(mean|std|to_rgb|crop_size)\s*=\s*(\[[^\]]{1,80}\]|\([^)]{1,80}\)|\w+)")


@dataclass(frozen=True)
class Stated:
    """arch: what the file calls its network, "" where it does not. place: where it says so.

    seen: size, resize, mean, std, interpolation that it states, those that it does. unread: whether
    it states more that is not read.
    """

    arch: str = ""
    place: str = ""
    seen: Mapping[str, Any] = field(default_factory=dict)
    unread: bool = False


NOTHING = Stated()


def read_stated(found: Mapping[Any, Any], source: str, tensors: Iterable[str] = ()) -> Stated:
    """What a file says beside its tensors. What is not read is logged as a warning.

    tensors: their names. WeightsError where arguments of timm's or torchvision's scripts ask for
    what is not here.
    """
    arch, place, seen = "", "", dict[str, Any]()
    unread = []
    sigmoid = [name for name in tensors if name.rpartition(".")[2] == "pos_weight"]
    for before, table in _tables(found, "", 0):
        for key in ARCH:
            if isinstance(table.get(key), str) and not arch:
                arch, place = table[key], f"{before}{key}"
        sigmoid += _multilabel(table, before, source)
        if "model" in table and {"crop_pct", "gp", "img_size"} & table.keys():
            seen |= _of_timm(table, f"{source}: {before.removesuffix('.')}")
        elif "val_crop_size" in table and "val_resize_size" in table:
            seen |= _of_torchvision(table)
        else:
            unread += [
                f"{before}{key} {_shown(value)}"
                for key, value in table.items()
                if key in FIELDS and _says(value)
            ]
            unread += _in_text(table.get("cfg"), f"{before}cfg")
    if unread:
        more = ", ..." if len(unread) > 4 else ""
        log.warning("%s: states %s, which is not read", source, ", ".join(unread[:4]) + more)
    if sigmoid:
        log.warning(
            "%s: %s says that it was trained with a sigmoid for each class; the probabilities here"
            " are of a softmax, which is not what it was trained for",
            source, sigmoid[0],
        )  # fmt: skip
    return Stated(arch, place, seen, bool(unread))


def _multilabel(table: Mapping[Any, Any], before: str, source: str) -> list[str]:
    """Fields that say that several classes may be true at once.

    WeightsError for transformers' problem_type, which their config.json is refused for too.
    """
    problem = table.get("problem_type")
    if isinstance(problem, str) and problem not in ("", SINGLE):
        raise WeightsError(
            f"{source}: {before}problem_type = {_shown(problem)}: is another question; only"
            f" {SINGLE!r}"
        )
    return [
        f"{before}{key} {_shown(table[key])}"
        for key in LOSSES
        if isinstance(table.get(key), str) and MULTILABEL.search(table[key])
    ]


def _tables(
    found: Mapping[Any, Any], before: str, depth: int
) -> Iterator[tuple[str, Mapping[Any, Any]]]:
    """The tables in a file that hold no tensors themselves but may say something of them."""
    if not _is_state(found):
        yield before, found
    for key, inner in found.items():
        plain = isinstance(inner, dict) and not _is_state(inner)
        if plain and depth < DEEPEST and key not in ("optimizer", "model_kwargs", "model_args"):
            yield from _tables(inner, f"{before}{key}.", depth + 1)


def _is_state(found: Mapping[Any, Any]) -> bool:
    """Whether a table is a state dict; a figure or two beside it are tensors as well."""
    return sum(isinstance(each, LazyTensor) for each in found.values()) > 2


def _of_timm(table: Mapping[Any, Any], where: str) -> dict[str, Any]:
    """The arguments of timm's train.py, with its own rules for those that are not given."""
    given = {
        key: table[key]
        for key in ("mean", "std", "crop_pct", "interpolation", "input_size")
        if table.get(key) not in (None, "", "random")
    }
    try:
        seen = take_fields(given, where, SEEN)
        if table.get("img_size") and "input_size" not in seen:
            size = table["img_size"]
            seen["input_size"] = square_size((3, size, size))
        take_fields({"gp": table.get("gp") or None}, where, {"gp": POOL})
        take_fields(table.get("model_kwargs") or {}, f"{where}.model_kwargs", ARGS, ABOUT)
    except (ConfigError, ValueError, TypeError) as error:
        said = str(error) if str(error).startswith(where) else f"{where}: {error}"
        raise WeightsError(said) from None
    stated: dict[str, Any] = {
        key: seen[key] for key in ("mean", "std", "interpolation") if key in seen
    }
    if "input_size" in seen:
        stated["size"] = seen["input_size"][1]
    if "crop_pct" in seen or "size" in stated:
        stated["share"] = seen.get("crop_pct", 0.875)
    return stated


def _of_torchvision(table: Mapping[Any, Any]) -> dict[str, Any]:
    """The arguments of torchvision's references; its mean and deviation are ImageNet's."""
    size, resize = table["val_crop_size"], table["val_resize_size"]
    if type(size) is not int or type(resize) is not int or not 0 < size <= resize:
        return {}
    how = table.get("interpolation", "bilinear")
    usual = {"interpolation": how} if how in ("bilinear", "bicubic") else {}
    return {"size": size, "resize": resize, **usual}


def resized(size: int, share: float) -> int:
    """The shorter side before a crop of `size`, as timm has it."""
    return max(size, math.floor(size / share))


def _says(value: Any) -> bool:
    """Whether a field says another thing than what is assumed without it."""
    if isinstance(value, str):
        return value.lower().replace("nn.", "").replace("torch.", "") not in USUAL
    return isinstance(value, int | float | list | tuple | dict) and bool(value)


def _in_text(said: Any, place: str) -> list[str]:
    """Fields in a configuration that is Python's text, as OpenMMLab has it in `meta.cfg`."""
    if not isinstance(said, str):
        return []
    usual = ("123.675", "58.395", "True", "224")
    return [
        f"{place}: {name}={value}"
        for name, value in dict(TEXT.findall(said[:200_000])).items()
        if not any(each in value for each in usual)
    ]


def _shown(value: Any) -> str:
    text = repr(value)[:60]
    return "".join(char if char.isprintable() else "?" for char in text)
