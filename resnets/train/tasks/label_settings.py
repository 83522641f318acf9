"""Settings of a classifier that depend on its images and labels: metrics, imbalance, sizes."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Sequence
from operator import attrgetter

from resnets.config import ConfigError, Recipe
from resnets.data import Split
from resnets.data.dataset.labeled_images import TensorSplit
from resnets.evaluate.evaluation import AnyEvaluation
from resnets.evaluate.metrics.multilabel import MultilabelEvaluation
from resnets.utils.machine.distributed import ProcessGroup

log = logging.getLogger("resnets")

# Metrics of each evaluation in metrics.jsonl.
METRICS = ("top1_error", "balanced_error", "top5_error", "mAP", "macro_f1", "micro_f1", "loss")
MAX_SMALL = 64  # [px] images up to this longer side have their own networks
MAX_IMBALANCE = 10  # largest ratio of class sizes without a warning


def choose_monitor(recipe: Recipe, *, multilabel: bool = False) -> str:
    """Return the validation metric that selects the best checkpoint ("error" is 100 - mAP)."""
    if multilabel:
        return "error"
    if recipe.eval.monitor != "auto":
        return recipe.eval.monitor
    balanced = recipe.loss.class_weights != "none" or recipe.data.balance != "none"
    return "balanced_error" if balanced else "top1_error"


def imbalance_warnings(recipe: Recipe, classes: Sequence[str], counts: Sequence[int]) -> list[str]:
    """Return warnings about classes with far fewer training images than others."""
    weighted, sampled = recipe.loss.class_weights != "none", recipe.data.balance != "none"
    if weighted and sampled:
        return [
            "loss.class_weights and data.balance are both set: rare classes count twice; set one"
            " of them to none"
        ]
    rarest, most = (pick(range(len(counts)), key=counts.__getitem__) for pick in (min, max))
    if MAX_IMBALANCE * counts[rarest] >= counts[most]:
        return []
    remedy = (
        ""
        if weighted or sampled
        else "; to weight rare classes, add --set loss.class_weights=auto (or data.balance=sqrt)"
    )
    return [
        f"class {classes[rarest]} has {counts[rarest]:,} training images, {classes[most]}"
        f" {counts[most]:,}: the error hides what happens to rare classes, the balanced error"
        f" shows it{remedy}"
    ]


def size_warnings(recipe: Recipe, train: Split) -> list[str]:
    """Return a warning if all images are small but enlarged for a network for large images."""
    if not isinstance(train, TensorSplit) or train.prepared is not None:
        return []
    height, width = train.images.shape[1:3]
    size, small = recipe.data.size or 0, max(height, width)
    if small > MAX_SMALL or size < 2 * small:
        return []
    # Pretrained weights cannot be used with the suggested network.
    scratch = "" if recipe.weights is None else "resnets train scratch "
    return [
        f"all images have {width}x{height} px and are enlarged to {size} for {recipe.model.name}; a"
        f" network for small images is many times faster: {scratch}--model cifar-resnet20 --set"
        f" data.size={small} --set data.resize={small}"
    ]


def adapt_to_multilabel(recipe: Recipe) -> Recipe:
    """Return the recipe for multi-label data; may raise ConfigError."""
    conflicts = {
        "loss.kind": recipe.loss.kind == "focal",
        "loss.class_weights": recipe.loss.class_weights != "none",
        "data.balance": recipe.data.balance != "none",
        "distill.teacher": recipe.distill.teacher is not None,
        "eval.monitor": recipe.eval.monitor != "auto",
        "schedule.hold_until_error": recipe.schedule.hold_until_error is not None,
    }
    if name := next((name for name, is_set in conflicts.items() if is_set), None):
        value = attrgetter(name)(recipe)
        raise ConfigError(
            f"{name}: {value!r} is only for single-label data; these images have several labels"
        )
    if recipe.loss.kind != "bce":
        log.info("images have several labels: loss.kind is 'bce', not %r", recipe.loss.kind)
    return dataclasses.replace(
        recipe,
        data=dataclasses.replace(recipe.data, labels="multi"),
        loss=dataclasses.replace(recipe.loss, kind="bce"),
    )


def logged_metrics(evaluation: AnyEvaluation) -> dict[str, float]:
    """Return the metrics of an evaluation for metrics.jsonl."""
    metrics = {key: value for key, value in evaluation.metrics.items() if key in METRICS}
    if isinstance(evaluation, MultilabelEvaluation):
        metrics["error"] = evaluation.error
    return metrics


def unreadable_messages(split: Split, group: ProcessGroup) -> list[str]:
    """Return one message per unreadable image, from all processes."""
    messages = dict(group.all_gather(list(split.unreadable.errors.items())))
    return [message for _, message in sorted(messages.items())]
