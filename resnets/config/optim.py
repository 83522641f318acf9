"""How a network is trained and evaluated: loss, optimizer, schedule, fine-tuning, distillation."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from resnets.config.ranges import check_ranges
from resnets.utils.errors import ConfigError

GAMMA = 2.0  # the best in Lin et al. 2017, Table 1b
OPTIM_RANGES = {
    **dict.fromkeys(("lr", "head_lr_scale", "norm_bias_lr_scale", "weight_decay"), "[0, inf)"),
    **dict.fromkeys(("momentum", "betas"), "[0, 1)"),
    "clip_norm": "(0, inf)",
}
SCHEDULE_RANGES = {
    **dict.fromkeys(("milestones", "warmup", "final"), "[0, 1]"),
    **dict.fromkeys(("gamma", "hold_factor"), "(0, inf)"),
    "patience": "[0, inf)",
    "hold_until_error": "[0, 100]",
}


@dataclass(frozen=True, kw_only=True)
class LossSpec:
    """The loss of task "classify"; those of the other tasks belong to their heads.

    Attributes:
        kind: "cross-entropy" is softmax cross-entropy; "bce" is binary cross-entropy per class
            (Wightman et al. 2021); "focal" weights the cross-entropy of each image by (1 -
            p)^`gamma`, p being the probability of its class, so that images that are classified
            well count less (Lin et al. 2017).
        label_smoothing: [fraction] Target probability spread over all classes (Szegedy et al.
            2016).
        gamma: [exponent] Exponent of "focal"; 0 is the cross-entropy.
        class_weights: Factor of the loss of each image by its class. "auto" is N / (K n) for a
            class of n images, of N in K classes: inversely proportional to its frequency, with mean
            1 over the images (King and Zeng 2001). A table {class = weight} is used as given;
            classes that it does not name have weight 1.
    """

    kind: Literal["cross-entropy", "bce", "focal"] = "cross-entropy"
    label_smoothing: float = 0.0
    gamma: float = GAMMA
    class_weights: Literal["none", "auto"] | dict[str, float] = "none"

    def __post_init__(self) -> None:
        check_ranges(self, "loss.", {"label_smoothing": "[0, 1)", "gamma": "[0, inf)"})
        if self.kind != "focal" and self.gamma != GAMMA:
            raise ConfigError(f"loss.gamma: only for loss.kind 'focal', not for {self.kind}")
        if isinstance(self.class_weights, str):
            return
        for name, weight in self.class_weights.items():
            if not 0 <= weight < math.inf:
                raise ConfigError(
                    f"loss.class_weights.{name}: {weight} must be finite and at least 0"
                )


@dataclass(frozen=True, kw_only=True)
class OptimSpec:
    """The optimizer. The paper's is SGD with momentum 0.9 and weight decay 1e-4 on every parameter.

    Attributes:
        kind: Optimizer: SGD with momentum; AdamW (Loshchilov and Hutter 2019); LAMB for large
            batches (You et al. 2020); or Muon (Jordan et al. 2024), which orthogonalizes the
            updates of convolutions and linear layers, and trains the input layer, the head, norms
            and biases by SGD.
        lr: [per step] Learning rate at the peak of the schedule. It is not scaled with
            `batch_size`.
        head_lr_scale: [factor] Learning rate of the head relative to `lr`.
        norm_bias_lr_scale: [factor] Learning rate of norms and biases relative to `lr`.
        momentum: [fraction] Momentum of SGD and Muon.
        nesterov: Nesterov's form of momentum, for SGD and Muon.
        unit_filters: Muon scales the weights that it orthogonalizes to filters of norm 1 on
            average before each update, in place of weight decay (Jordan 2024, airbench94_muon):
            for layers that a norm follows, whose scale has no effect.
        betas: [fraction] Decay rates of both moments, for AdamW and LAMB.
        weight_decay: [per step] L2 penalty for SGD; decoupled for AdamW, LAMB and Muon.
        decay_norm_and_bias: Apply weight decay to norms and biases too, as in the paper.
        clip_norm: [norm] Upper limit of the norm of all gradients; None is no clipping.
        shard: Shard the optimizer state: each process stores that of its part of the parameters
            only (ZeRO stage 1, Rajbhandari et al. 2020). The result is the same.
    """

    kind: Literal["sgd", "adamw", "lamb", "muon"] = "sgd"
    lr: float = 0.1
    head_lr_scale: float = 1.0
    norm_bias_lr_scale: float = 1.0
    momentum: float = 0.9
    nesterov: bool = False
    unit_filters: bool = False
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 1e-4
    decay_norm_and_bias: bool = True
    clip_norm: float | None = None
    shard: bool = False

    def __post_init__(self) -> None:
        check_ranges(self, "optim.", OPTIM_RANGES)


@dataclass(frozen=True, kw_only=True)
class ScheduleSpec:
    """Learning rate over the run. Durations are fractions of the run, so they scale with it.

    Attributes:
        kind: "steps" multiplies by `gamma` at each of `milestones` (the paper, section 4.2);
            "cosine" and "linear" fall to `final`; "one-cycle" rises linearly over `warmup`, then
            falls linearly to `final`; "plateau" multiplies by `gamma` once the validation error has
            not improved for more than `patience` evaluations (the paper, section 3.4).
        milestones: [fraction of the run] Where "steps" multiplies.
        gamma: [factor] Factor of "steps" and "plateau".
        warmup: [fraction of the run] Linear warm-up from 0, for every kind (Goyal et al. 2017).
        final: [factor of lr] Learning rate at the end.
        patience: [evaluations] Evaluations in a row without improvement that "plateau" tolerates,
            as torch's ReduceLROnPlateau does.
        hold_until_error: [percent] Train at `hold_factor` of the rate until the running training
            error falls below this, as for ResNet-110; None is off (the paper, section 4.2).
        hold_factor: [factor of lr] Learning rate until then.
    """

    kind: Literal["constant", "steps", "cosine", "linear", "one-cycle", "plateau"] = "steps"
    milestones: tuple[float, ...] = (0.5, 0.75)
    gamma: float = 0.1
    warmup: float = 0.0
    final: float = 0.0
    patience: int = 5
    hold_until_error: float | None = None
    hold_factor: float = 0.1

    def __post_init__(self) -> None:
        check_ranges(self, "schedule.", SCHEDULE_RANGES)


@dataclass(frozen=True, kw_only=True)
class EvalSpec:
    """Evaluation: on validation during training, on test once at the end.

    Attributes:
        every: [it or ep] Interval between evaluations, such as "1ep" or "500it".
        batch_size: [images] Batch size of evaluation; does not affect the result.
        test: Measure the test set once at the end; searches do not.
        watch_test: Also evaluate the test set each time, to plot its error (the paper, Fig. 4 and
            6); it is not used for any decision.
        monitor: The validation error that chooses the best checkpoint, and that plateau and
            patience watch. "auto" is the balanced error where loss.class_weights or data.balance is
            set, else the top-1 error. Task "classify" only.
        patience: [evaluations] Stop once the validation error has not improved for this many
            evaluations; None trains to the end. The best weights are kept in any case.
    """

    every: str = "1ep"
    batch_size: int = 500
    test: bool = True
    watch_test: bool = False
    monitor: Literal["auto", "top1_error", "balanced_error"] = "auto"
    patience: int | None = None

    def __post_init__(self) -> None:
        if self.watch_test and not self.test:
            raise ConfigError("eval.watch_test: needs eval.test=true")
        check_ranges(self, "eval.", {"batch_size": "[1, inf)", "patience": "[1, inf)"})


@dataclass(frozen=True, kw_only=True)
class FinetuneSpec:
    """Fine-tuning; has an effect only with pretrained `weights`.

    Attributes:
        head_first: [fraction of the run] Initial part of the run in which only the new head is
            trained.
        layer_decay: [factor] Learning rate of each stage relative to the next one; 1 is equal rates
            (Howard and Ruder 2018).
        freeze_norm: Batch norms keep their pretrained statistics, scales and shifts.
        quantize: Weights and inputs of layers are rounded to 8 bits in the forward pass of
            training, as int8 artifacts do (Jacob et al. 2018), in float32 or tf32; see recipe qat.
    """

    head_first: float = 0.0
    layer_decay: float = 1.0
    freeze_norm: bool = False
    quantize: bool = False

    def __post_init__(self) -> None:
        check_ranges(self, "finetune.", {"head_first": "[0, 1]", "layer_decay": "(0, 1]"})


@dataclass(frozen=True, kw_only=True)
class DistillSpec:
    """Knowledge distillation (Hinton et al. 2015); off without a teacher. Task "classify" only.

    Attributes:
        teacher: A run, checkpoint or any weights, as `weights`, whose classes are those of the
            data, in any order. It sees the same augmented batch.
        temperature: [factor] Divisor of both logits.
        weight: [fraction] Weight of the divergence from the teacher; that of the labels' loss is
            1 - weight.
    """

    teacher: str | None = None
    temperature: float = 4.0
    weight: float = 0.9

    def __post_init__(self) -> None:
        if self.teacher is not None and not self.teacher.strip():
            raise ConfigError("distill.teacher: is empty; omit it")
        check_ranges(self, "distill.", {"temperature": "(0, inf)", "weight": "(0, 1]"})
