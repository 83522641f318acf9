"""`Recipe`: all settings of a training run."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Literal

from resnets.config.data import DataSpec
from resnets.config.detect import DetectSpec
from resnets.config.model import ModelSpec
from resnets.config.optim import (
    DistillSpec,
    EvalSpec,
    FinetuneSpec,
    LossSpec,
    OptimSpec,
    ScheduleSpec,
)
from resnets.config.ranges import check_ranges
from resnets.config.sequence import SignalSpec, TransformerSpec
from resnets.utils.errors import ConfigError

Precision = Literal["auto", "float32", "tf32", "float16", "bfloat16"]  # see `Recipe.precision`

DURATIONS = ("duration", "checkpoint_every", "log_every", "eval.every")


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """All settings of a training run, which decide its result.

    Attributes:
        name: Name of the recipe; run folders are named after it.
        task: Task. "classify" predicts the class of an image, "signals" that of a signal, "text"
            the next character, with `transformer` in place of `model`; the others use `detect`.
        model: Architecture, `ModelSpec`.
        transformer: Architecture of task "text", `TransformerSpec`.
        signal: How task "signals" reads a file, `SignalSpec`.
        data: Data set and input, `DataSpec`.
        loss: Loss of task "classify", `LossSpec`.
        optim: Optimizer, `OptimSpec`.
        schedule: Learning rate over the run, `ScheduleSpec`.
        finetune: Treatment of pretrained weights, `FinetuneSpec`.
        distill: Knowledge distillation, `DistillSpec`.
        eval: Evaluation, `EvalSpec`.
        detect: Detection and segmentation, `DetectSpec`.
        duration: [it or ep] Length of the run: "64000it" is optimizer steps, "30ep" epochs.
        batch_size: [images] Global batch size, independent of the number of devices.
        micro_batch: [images] Maximum number of images in one forward pass on one device; gradients
            are accumulated. 0 is no limit.
        norm_batch: [images] Number of images over which batch norm computes its statistics,
            independent of the number of devices: 32 as on each of the paper's 8 GPUs for ImageNet,
            64 as on each of its two for CIFAR-10; 0 is all images of a forward pass ("ghost"
            batches, Hoffer et al. 2017).
        sync_norm: Compute batch norm statistics over the global batch, across all devices.
        ema_decay: [per step] Decay of the exponential moving average of the weights, which is
            evaluated in their place; 0 is off.
        precision: "auto" is bfloat16 where the device computes it natively, float16 on other GPUs
            with tensor cores (V100, T4), else float32; with data.keep_bits always float32, since
            bfloat16 has 8 bits of precision. "tf32" is float32 whose convolutions and
            matrix products round their operands to TF32 (GPUs from Ampere on); "float32" does not.
            "float16" scales the loss and skips steps whose gradients overflow (Micikevicius et al.
            2018).
        channels_last: Store activations in channels-last memory format.
        compile: torch.compile; "auto" if the run is long enough to gain from it.
        cuda_graph: Run a training step of a classifier as one CUDA graph, which requires one device
            and a data set in memory; otherwise the reason is logged. With `compile` the graph
            contains compiled blocks.
        recompute: Recompute activations in the backward pass instead of storing them (Chen et al.
            2016).
        weights: Initial weights, as accepted by `resnets.create_model`; None is random
            initialization. Their own normalization then replaces data.normalize.
        weights_head: "names" keeps the head if its classes are those of the data, in any order;
            "keep" keeps it by position; "new" replaces it.
        weights_size: "near" refuses weights made for images less than half as large as the
            recipe's; "any" does not.
        checkpoint_every: [it or ep] Interval between checkpoints.
        keep_checkpoints: [files] Number of checkpoints kept to resume from, including the last one.
        checkpoint_url: Where checkpoints are stored in place of the run folder, under its name:
            s3://bucket/runs, gs://..., file:///...
        log_every: [it or ep] Interval between rows of the log; in iterations, at most an epoch.
        trackers: Where the log is sent in addition to the run's folder and TensorBoard: "wandb"
            (Weights & Biases), "mlflow"; configured by their environment variables.
        seed: [seed] Random seed for initialization, data order and augmentation.
        custom: Names of the Python objects that were passed to `resnets.train` in place of what a
            recipe can name: "model", "block", "norm", "loss". Set by the run.
    """

    name: str = "custom"
    task: Literal["classify", "detect", "localize", "instances", "segment", "text", "signals"] = (
        "classify"
    )
    model: ModelSpec = field(default_factory=ModelSpec)
    transformer: TransformerSpec = field(default_factory=TransformerSpec)
    signal: SignalSpec = field(default_factory=SignalSpec)
    data: DataSpec = field(default_factory=DataSpec)
    loss: LossSpec = field(default_factory=LossSpec)
    optim: OptimSpec = field(default_factory=OptimSpec)
    schedule: ScheduleSpec = field(default_factory=ScheduleSpec)
    finetune: FinetuneSpec = field(default_factory=FinetuneSpec)
    distill: DistillSpec = field(default_factory=DistillSpec)
    eval: EvalSpec = field(default_factory=EvalSpec)
    detect: DetectSpec = field(default_factory=DetectSpec)
    duration: str = "30ep"
    batch_size: int = 128
    micro_batch: int = 0
    norm_batch: int = 0
    sync_norm: bool = False
    ema_decay: float = 0.0
    precision: Precision = "auto"
    channels_last: bool = True
    compile: Literal["auto", "on", "off"] = "off"
    cuda_graph: bool = False
    recompute: bool = False
    weights: str | None = None
    weights_head: Literal["names", "keep", "new"] = "names"
    weights_size: Literal["near", "any"] = "near"
    checkpoint_every: str = "1ep"
    keep_checkpoints: int = 2
    checkpoint_url: str | None = None
    log_every: str = "100it"
    trackers: tuple[Literal["wandb", "mlflow"], ...] = ()
    seed: int = 0
    custom: dict[str, str] | None = None

    def __post_init__(self) -> None:
        for path in DURATIONS:
            parse_duration(attrgetter(path)(self), path)
        check_ranges(
            self,
            "",
            {
                "batch_size": "[1, inf)",
                "micro_batch": "[0, inf)",
                "norm_batch": "[0, inf)",
                "keep_checkpoints": "[1, inf)",
                "ema_decay": "[0, 1)",
                "seed": "[-9e18, 9e18]",
            },
        )
        if self.checkpoint_url is not None and "://" not in self.checkpoint_url.lstrip(":/"):
            raise ConfigError(
                f"checkpoint_url: {self.checkpoint_url!r} is not a URL such as s3://bucket/runs"
            )
        if (self.model.dims == 1) != (self.task == "signals"):
            raise ConfigError(
                f"model.dims: {self.model.dims} cannot be used for task {self.task!r}; 1 is for "
                "'signals', 2 for images"
            )
        if self.distill.teacher is not None and self.task != "classify":
            raise ConfigError(f"distill.teacher: only for task 'classify', not for {self.task!r}")
        if self.finetune.quantize:
            self._check_quantize()
        self._check_batch_sizes()

    def _check_quantize(self) -> None:
        """Raise ConfigError for what quantization-aware training excludes."""
        for path, allowed in (
            ("task", ("classify",)),
            ("precision", ("float32", "tf32")),  # bfloat16 rounds more than int8
            ("compile", ("off",)),
            ("cuda_graph", (False,)),
            ("recompute", (False,)),  # recomputes without rounding
        ):
            if (value := getattr(self, path)) not in allowed:
                raise ConfigError(
                    f"finetune.quantize: needs {path} {' or '.join(map(str, allowed))}, not {value}"
                )

    def _check_batch_sizes(self) -> None:
        """Raise ConfigError where batch, micro-batch and norm batch contradict each other."""
        if self.norm_batch and self.batch_size % self.norm_batch:
            raise ConfigError(
                f"norm_batch: batch_size={self.batch_size} is not divisible by {self.norm_batch}"
            )
        if self.norm_batch and 0 < self.micro_batch < self.norm_batch:
            raise ConfigError(
                f"micro_batch: {self.micro_batch} must be at least norm_batch={self.norm_batch}, "
                "whose images must be in one forward pass"
            )
        if self.sync_norm and (self.norm_batch or self.micro_batch):
            raise ConfigError(
                "sync_norm: cannot be combined with norm_batch and micro_batch, since its "
                "statistics need the whole batch in one forward pass"
            )

    @property
    def net_name(self) -> str:
        """Name of the model: "resnet50", or "resnet50-fpn" with the head of a detector."""
        if self.task == "text":
            return self.transformer.name
        name = self.model.name
        return name if self.task in ("classify", "signals") else f"{name}-{self.detect.head}"

    @property
    def detection_task(self) -> Literal["detect", "localize", "instances", "segment"]:
        """The task, for recipes of the tasks that use `detect`."""
        assert self.task != "classify"
        assert self.task != "text"
        assert self.task != "signals"
        return self.task

    def steps(self, duration: str, examples: int) -> int:
        """Optimizer steps in `duration` over a training set of `examples`; at least 1."""
        amount, unit = parse_duration(duration, "duration")
        count = amount if unit == "it" else amount * examples / self.batch_size
        return max(1, round(count))

    def is_due(self, interval: str, step: int, examples: int) -> bool:
        """Whether an interval of `interval` ends with optimizer step `step`, counted from 1.

        The k-th epoch ends with the step that is nearest to k epochs, so that the intervals do not
        drift away from whole epochs where the batch size does not divide `examples`.
        """
        amount, unit = parse_duration(interval, "interval")
        length = max(1.0, amount if unit == "it" else amount * examples / self.batch_size)
        return step > 0 and step == round(round(step / length) * length)


def parse_duration(text: str, path: str) -> tuple[float, Literal["it", "ep"]]:
    """Split "64000it" or "2.5ep" into amount and unit; raises ConfigError that names `path`."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(it|ep)", text.strip())
    number = re.fullmatch(r"\d+(?:\.\d+)?", text.strip())
    hint = f"; give {number[0]}it (optimizer steps) or {number[0]}ep (epochs)" if number else ""
    if not match or float(match[1]) <= 0:
        raise ConfigError(f"{path}: {text!r} is not a duration such as '64000it' or '30ep'{hint}")
    return float(match[1]), "it" if match[2] == "it" else "ep"


def format_duration(text: str) -> str:
    """Format a duration such as "64000it" as "64,000 iterations"."""
    amount, unit = parse_duration(text, "duration")
    count = f"{amount:,.0f}" if amount == round(amount) else f"{amount:g}"
    return f"{count} {'iteration' if unit == 'it' else 'epoch'}{'' if amount == 1 else 's'}"
