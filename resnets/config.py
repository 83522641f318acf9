"""Everything that decides a result, as frozen, typed values that read from and print as TOML.

A `Recipe` is written into each run and each checkpoint and is enough to repeat the run. Variants
are data, not subclasses: a plain net differs from its residual twin in one field of `ModelSpec`.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import re
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

import pydantic
import tomli_w

Block = Literal["basic", "bottleneck", "preact-basic", "preact-bottleneck", "vgg"]
T = TypeVar("T")


class ConfigError(ValueError):
    """A recipe, spec or option that cannot be used; its message says which field and why."""


@dataclass(frozen=True, kw_only=True)
class ModelSpec:
    """Architecture of one net of the family: residual, plain, pre-activation or VGG.

    `block="vgg"` reads `depths` as 3x3 convolutions per stage and ends each stage with a max pool
    (Simonyan and Zisserman 2015); every other block is stacked `depths[i]` times in stage i + 1.
    `widths` are the widths of the 3x3 convolutions; a bottleneck's output is four times as wide.
    `shortcut` is the paper's option A, B or C (section 4.1), or "none" for the plain twin.
    `stride_in` places a bottleneck's stride in its first 1x1 (the paper, "v1") or its 3x3 ("v1.5").

    `stem_pool`, `conv_bias` and `norm_eps` are there for weights made elsewhere. "ceil" is the 3x3
    pool of the authors' Caffe models: no padding, sizes rounded up. Biases on convolutions that a
    norm follows change nothing that a net can learn: their Caffe ResNet-50 has one in the stem,
    Keras has them on all.
    """

    name: str = "resnet18"
    block: Block = "basic"
    depths: tuple[int, ...] = (2, 2, 2, 2)
    widths: tuple[int, ...] = (64, 128, 256, 512)
    shortcut: Literal["A", "B", "C", "none"] = "B"
    stride_in: Literal["1x1", "3x3"] = "3x3"
    stem: Literal["imagenet", "cifar"] = "imagenet"
    stem_width: int = 64
    stem_pool: Literal["padded", "ceil"] = "padded"
    groups: int = 1
    width_per_group: int = 64
    norm: Literal["batch", "none"] = "batch"
    norm_eps: float = 1e-5
    conv_bias: Literal["none", "stem", "all"] = "none"
    init: Literal["he", "naive"] = "he"
    zero_init_residual: bool = False
    dropout: float = 0.0
    num_classes: int = 1000
    in_channels: int = 3
    input_size: int = 224

    @property
    def residual(self) -> bool:
        """Whether blocks add a shortcut."""
        return self.block != "vgg" and self.shortcut != "none"

    @property
    def expansion(self) -> int:
        """Output width of a block over `widths` (4 for bottlenecks)."""
        return 4 if self.block.endswith("bottleneck") else 1

    def __post_init__(self) -> None:
        if len(self.depths) != len(self.widths) or not self.depths:
            raise ConfigError(
                f"model: depths {self.depths} and widths {self.widths} must be equally long"
            )
        if min(self.depths) < 1 or min(self.widths) < 1 or self.num_classes < 1:
            raise ConfigError("model: depths, widths and num_classes must be at least 1")
        if self.in_channels < 1:
            raise ConfigError("model: in_channels must be at least 1")


@dataclass(frozen=True, kw_only=True)
class AugmentSpec:
    """Random changes to training pictures; all keyed by (seed, epoch, sample).

    crop: "none"; "pad" zero-pads by `pad` pixels and crops back (CIFAR); "scale-jitter" samples
    the shorter side from `scale` pixels and crops (the paper's ImageNet recipe); "random-resized"
    samples an area share from `scale` and an aspect ratio in 3/4..4/3 (Szegedy et al. 2015).
    pca_colour: standard deviation of the PCA colour shift (Krizhevsky et al. 2012), 0 = off.
    """

    crop: Literal["none", "pad", "scale-jitter", "random-resized"] = "none"
    pad: int = 4
    scale: tuple[float, float] = (0.35, 1.0)
    flip: bool = False
    pca_colour: float = 0.0


@dataclass(frozen=True, kw_only=True)
class DataSpec:
    """Where pictures come from and how they reach the net.

    source: a name ("digits", "fashion-mnist", "cifar10", "cifar100") or a path to a folder of
    class folders, a tar of one, or a folder with IDX or CIFAR files.
    size: pixels of the square the net sees; None = as stored (small sets only).
    resize: shorter side before the centre crop at test time; None = `size`.
    val_fraction, test_fraction: shares kept for validation and test where the source brings none
    (stratified by class, by `split_seed`). A source with train/ and val/ but no test/ (ImageNet's
    layout) is tested on val/, and validated on a share of train/.
    in_memory: whether the whole set lives as one uint8 tensor; "auto" = when all pictures share
    one size and fit 2 GiB, or when they are read at a fixed size without random scaling.
    workers: decode threads, 0 = one per core. Never changes a result.
    """

    source: str = "digits"
    size: int | None = None
    resize: int | None = None
    val_fraction: float = 0.1
    test_fraction: float = 0.2
    split_seed: int = 0
    normalise: Literal["per-pixel-mean", "channel", "imagenet"] = "channel"
    in_memory: Literal["auto", "always", "never"] = "auto"
    workers: int = 0
    augment: AugmentSpec = field(default_factory=AugmentSpec)

    def __post_init__(self) -> None:
        for name in ("val_fraction", "test_fraction"):
            if not 0 <= getattr(self, name) < 1:
                raise ConfigError(f"data.{name}: {getattr(self, name)} is not in [0, 1)")


@dataclass(frozen=True, kw_only=True)
class OptimSpec:
    """The optimizer. The paper's is SGD, momentum 0.9, weight decay 1e-4 on every parameter."""

    kind: Literal["sgd", "adamw"] = "sgd"
    lr: float = 0.1
    momentum: float = 0.9
    nesterov: bool = False
    weight_decay: float = 1e-4
    decay_norm_and_bias: bool = True
    clip_norm: float | None = None


@dataclass(frozen=True, kw_only=True)
class ScheduleSpec:
    """Learning rate over the run; all durations are shares of the whole, so they scale with it.

    steps: times `gamma` at each of `milestones`. cosine / linear: to `final` x lr.
    one-cycle: linear up over `warmup`, linear down to `final` x lr. plateau: times `gamma` when
    the error has not improved for `patience` evaluations. warmup: linear from 0 for all kinds.
    hold_until_error: train at lr x `hold_factor` until the running training error in percent
    falls below it (the paper's ResNet-110: lr 0.01 until 80%, section 4.2).
    """

    kind: Literal["constant", "steps", "cosine", "linear", "one-cycle", "plateau"] = "steps"
    milestones: tuple[float, ...] = (0.5, 0.75)
    gamma: float = 0.1
    warmup: float = 0.0
    final: float = 0.0
    patience: int = 5
    hold_until_error: float | None = None
    hold_factor: float = 0.1


@dataclass(frozen=True, kw_only=True)
class EvalSpec:
    """How errors are measured: on validation during training, on test once at the end.

    watch_test: also measure the test set at every evaluation, to draw the paper's Fig. 4 and 6;
    it is logged and decides nothing.
    """

    every: str = "1ep"
    batch_size: int = 500
    watch_test: bool = False


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """One training run, whole. `batch_size` is the global one, on any number of devices.

    duration, eval.every, checkpoint_every and log_every are "<n>it" or "<n>ep".
    ema_decay: decay per step of the averaged weights, 0 = off.
    precision "auto" is bfloat16 where the device computes it natively, else float32.
    compile "auto" compiles when the run is long enough to pay for it.
    recompute: recompute each stage's blocks in the backward pass instead of storing them.
    weights: initial weights; None = random. See `resnets.create_model`. Weights whose
    preprocessing is known bring their own normalisation, which then replaces data.normalise.
    """

    name: str = "custom"
    model: ModelSpec = field(default_factory=ModelSpec)
    data: DataSpec = field(default_factory=DataSpec)
    optim: OptimSpec = field(default_factory=OptimSpec)
    schedule: ScheduleSpec = field(default_factory=ScheduleSpec)
    eval: EvalSpec = field(default_factory=EvalSpec)
    duration: str = "30ep"
    batch_size: int = 128
    label_smoothing: float = 0.0
    ema_decay: float = 0.0
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    channels_last: bool = True
    compile: Literal["auto", "on", "off"] = "off"
    recompute: bool = False
    weights: str | None = None
    checkpoint_every: str = "1ep"
    log_every: str = "100it"
    seed: int = 0

    def __post_init__(self) -> None:
        for path, text in (
            ("duration", self.duration),
            ("checkpoint_every", self.checkpoint_every),
            ("log_every", self.log_every),
            ("eval.every", self.eval.every),
        ):
            parse_duration(text, path)
        if self.batch_size < 1:
            raise ConfigError(f"batch_size: {self.batch_size} must be at least 1")

    def steps(self, duration: str, examples: int) -> int:
        """Optimizer steps in `duration` over a training set of `examples`; at least 1."""
        amount, unit = parse_duration(duration, "duration")
        count = amount if unit == "it" else amount * examples / self.batch_size
        return max(1, round(count))


@dataclass(frozen=True, kw_only=True)
class Preprocess:
    """From a picture to the net's input; travels with the weights.

    A picture becomes `channels` planes (1 grey, 3 RGB), its shorter side `resize` px (antialiased
    `interpolation`), its centre crop `size` px, its values (x / 255 - mean) / std. With
    `mean_image` the checkpoint carries a mean picture (C, size, size) in 0..1 in place of `mean`.
    """

    size: int = 224
    resize: int = 256
    channels: int = 3
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"
    channel_order: Literal["rgb", "bgr"] = "rgb"
    mean_image: bool = False


def parse_duration(text: str, path: str) -> tuple[float, Literal["it", "ep"]]:
    """Split "64000it" or "2.5ep" into amount and unit; ConfigError names `path` otherwise."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(it|ep)", text.strip())
    if not match or float(match[1]) <= 0:
        raise ConfigError(f"{path}: {text!r} is not a duration such as '64000it' or '30ep'")
    return float(match[1]), "it" if match[2] == "it" else "ep"


def to_dict(value: Any) -> dict[str, Any]:
    """Plain dict of a spec; fields that are None are left out (TOML has no null)."""

    def clean(item: Any) -> Any:
        if isinstance(item, dict):
            return {key: clean(entry) for key, entry in item.items() if entry is not None}
        return [clean(entry) for entry in item] if isinstance(item, list | tuple) else item

    return clean(dataclasses.asdict(value))


def from_dict(kind: type[T], data: dict[str, Any], where: str = "recipe") -> T:
    """Build a spec from plain data, or raise one ConfigError line that names the field."""
    _refuse_unknown(kind, data, where, "")
    try:
        return pydantic.TypeAdapter(kind).validate_python(data)
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        path = ".".join(str(part) for part in first["loc"]) or "value"
        message = first["msg"].removeprefix("Value error, ").removeprefix(f"{path}: ")
        given = "" if first["type"] == "value_error" else f", got {first['input']!r}"
        raise ConfigError(f"{where}: {path}: {message}{given}") from None


def _refuse_unknown(kind: Any, data: dict[str, Any], where: str, prefix: str) -> None:
    """Raise on keys that are no field, suggesting the nearest one."""
    fields = {entry.name: entry for entry in dataclasses.fields(kind)}
    for key, value in data.items():
        if key not in fields:
            near = difflib.get_close_matches(key, fields, 1)
            hint = f"; did you mean {prefix}{near[0]}?" if near else f"; known: {', '.join(fields)}"
            raise ConfigError(f"{where}: unknown field {prefix}{key}{hint}")
        nested = fields[key].default_factory
        if isinstance(value, dict) and dataclasses.is_dataclass(nested):
            _refuse_unknown(nested, value, where, f"{prefix}{key}.")


def to_toml(recipe: Recipe) -> str:
    """The recipe as TOML; `from_toml` reads it back to an equal value."""
    return tomli_w.dumps(to_dict(recipe))


def from_toml(path: str | Path) -> Recipe:
    """Read a recipe file; ConfigError names the file and the field."""
    try:
        data = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read as a recipe: {error}") from None
    return from_dict(Recipe, data, where=str(path))


def replace_fields(recipe: Recipe, changes: dict[str, Any], where: str = "--set") -> Recipe:
    """A copy with dotted fields changed ("optim.lr": 0.05); values may be TOML text."""
    data = to_dict(recipe)
    for path, value in changes.items():
        *parents, leaf = path.split(".")
        node = data
        for parent in parents:
            node = node.setdefault(parent, {})
            if not isinstance(node, dict):
                raise ConfigError(f"{where}: {path}: {parent} has no fields")
        if value is None or (value == "none" and _default(path) is None):
            node.pop(leaf, None)
        else:
            node[leaf] = _parse_value(value) if isinstance(value, str) else value
    return from_dict(Recipe, data, where)


def _parse_value(text: str) -> Any:
    """Read TOML text (numbers, booleans, lists), else keep it as a string."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def _default(path: str) -> Any:
    """Default of a dotted recipe field; None where there is none or no such field."""
    node: Any = Recipe()
    for part in path.split("."):
        node = getattr(node, part, None)
    return node


def dump_json(value: Any, path: Path) -> None:
    """Write `value` as JSON to `path` whole or not at all (temporary file, then rename)."""
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
    temporary.replace(path)
