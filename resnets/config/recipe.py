"""`Recipe`: one training run, whole."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Literal

from resnets.config.data import DataSpec
from resnets.config.detect import DetectSpec
from resnets.config.model import ModelSpec
from resnets.config.optim import EvalSpec, FinetuneSpec, OptimSpec, ScheduleSpec
from resnets.utils.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """One training run, whole. `batch_size` is the global one, on any number of devices.

    micro_batch: the most pictures in one forward pass on one device; the gradients of several add
    up to one step. 0 = no limit.
    norm_batch: pictures that batch norm takes its statistics over while training, on any number of
    devices: 32 as on each of the paper's 8 GPUs for ImageNet, 64 as on each of its two for CIFAR-10
    ("ghost" batches, Hoffer et al. 2017). 0 = all that one
    device has in one forward pass. sync_norm: the whole global batch, on all devices together.
    duration, eval.every, checkpoint_every and log_every are "<n>it" or "<n>ep".
    ema_decay: decay per step of the averaged weights, 0 = off.
    precision "auto" is bfloat16 where the device computes it natively, else float32.
    compile "auto" compiles when the run is long enough to pay for it.
    recompute: recompute each stage's blocks in the backward pass instead of storing them.
    loss: "bce" takes each class as a question of its own (Wightman et al. 2021, RSB).
    keep_checkpoints: how many to go on from are kept, the last one among them.
    checkpoint_url: where checkpoints go in place of the run's folder, under its name:
    s3://bucket/runs, gs://..., file:///...
    task: what is learnt. All but "classify" use `detect`.
    weights: initial weights; None = random. See `resnets.create_model`. Weights whose
    preprocessing is known bring their own normalisation, which then replaces data.normalise.
    weights_head: "names" keeps their head where it is of the data's classes, by name (its rows are
    brought into their order), and replaces it otherwise; "keep" keeps it by position, whatever its
    classes are called; "new" always replaces it.
    weights_size: "near" refuses weights that were made for images less than half as large as those
    of this recipe; "any" does not.
    """

    name: str = "custom"
    task: Literal["classify", "detect", "localise", "instances", "segment"] = "classify"
    model: ModelSpec = field(default_factory=ModelSpec)
    data: DataSpec = field(default_factory=DataSpec)
    optim: OptimSpec = field(default_factory=OptimSpec)
    schedule: ScheduleSpec = field(default_factory=ScheduleSpec)
    finetune: FinetuneSpec = field(default_factory=FinetuneSpec)
    eval: EvalSpec = field(default_factory=EvalSpec)
    detect: DetectSpec = field(default_factory=DetectSpec)
    duration: str = "30ep"
    batch_size: int = 128
    micro_batch: int = 0
    norm_batch: int = 0
    sync_norm: bool = False
    loss: Literal["cross-entropy", "bce"] = "cross-entropy"
    label_smoothing: float = 0.0
    ema_decay: float = 0.0
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    channels_last: bool = True
    compile: Literal["auto", "on", "off"] = "off"
    recompute: bool = False
    weights: str | None = None
    weights_head: Literal["names", "keep", "new"] = "names"
    weights_size: Literal["near", "any"] = "near"
    checkpoint_every: str = "1ep"
    keep_checkpoints: int = 2
    checkpoint_url: str | None = None
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
        if self.keep_checkpoints < 1:
            raise ConfigError(f"keep_checkpoints: {self.keep_checkpoints} must be at least 1")
        if self.checkpoint_url is not None and "://" not in self.checkpoint_url.lstrip(":/"):
            raise ConfigError(
                f"checkpoint_url: {self.checkpoint_url!r} is no URL such as s3://bucket/runs"
            )
        self._check_parts()

    def _check_parts(self) -> None:
        """Raise ConfigError where batch, micro-batch and the norms' batch do not go together."""
        if self.norm_batch < 0 or self.micro_batch < 0:
            raise ConfigError("norm_batch and micro_batch: must not be negative; 0 = no such parts")
        if self.norm_batch and self.batch_size % self.norm_batch:
            raise ConfigError(
                f"norm_batch: {self.norm_batch} does not divide batch_size={self.batch_size}"
            )
        if self.norm_batch and 0 < self.micro_batch < self.norm_batch:
            raise ConfigError(
                f"micro_batch: {self.micro_batch} is less than norm_batch={self.norm_batch}, "
                "whose pictures must be in one forward pass"
            )
        if self.sync_norm and (self.norm_batch or self.micro_batch):
            raise ConfigError(
                "sync_norm: excludes norm_batch and micro_batch, since it takes the statistics of "
                "the whole batch in one forward pass"
            )

    @property
    def net_name(self) -> str:
        """What people call the net: "resnet50", or "resnet50-fpn" with a detector's head."""
        name = self.model.name
        return name if self.task == "classify" else f"{name}-{self.detect.head}"

    def steps(self, duration: str, examples: int) -> int:
        """Optimizer steps in `duration` over a training set of `examples`; at least 1."""
        amount, unit = parse_duration(duration, "duration")
        count = amount if unit == "it" else amount * examples / self.batch_size
        return max(1, round(count))


def parse_duration(text: str, path: str) -> tuple[float, Literal["it", "ep"]]:
    """Split "64000it" or "2.5ep" into amount and unit; ConfigError names `path` otherwise."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(it|ep)", text.strip())
    if not match or float(match[1]) <= 0:
        raise ConfigError(f"{path}: {text!r} is not a duration such as '64000it' or '30ep'")
    return float(match[1]), "it" if match[2] == "it" else "ep"
