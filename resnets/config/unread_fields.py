"""Which fields a recipe does not read, by its task or by its other fields.

One table for all tasks. A field that a user states and that nothing reads is refused where the task
never reads it, and otherwise warned about; a recipe's own file leaves such fields out.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from typing import Any

from resnets.config.recipe import Recipe
from resnets.config.transformer import MIXED
from resnets.utils.errors import ConfigError

Condition = Callable[[Recipe], bool]

SHOWN = 4  # fields that a warning names


@dataclass(frozen=True)
class Rule:
    """Fields that are read only under a condition.

    fields: dotted names, separated by spaces; a table with .* means all of its fields. read: when
    they are read. why: the reason where they are not. by_task: the task decides this, and no other
    field does. by_run: a run sets them, and its recipe file has the result.
    """

    fields: str
    read: Condition
    why: str
    by_task: bool = False
    by_run: bool = False

    def __iter__(self) -> Iterator[str]:
        for name in self.fields.split():
            table = name.removesuffix(".*")
            yield from (path for path in PATHS if path == name or path.startswith(f"{table}."))


def leaves(value: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every field of a spec that is no spec itself, by its dotted name."""
    for field in dataclasses.fields(value):
        inner, path = getattr(value, field.name), f"{prefix}{field.name}"
        if dataclasses.is_dataclass(inner):
            yield from leaves(inner, f"{path}.")
        else:
            yield path, inner


DEFAULTS = dict(leaves(Recipe()))
PATHS = tuple(DEFAULTS)


def _classifies(recipe: Recipe) -> bool:
    return recipe.task == "classify"


def _detects(recipe: Recipe) -> bool:
    return recipe.task in ("detect", "instances")


def _segments(recipe: Recipe) -> bool:
    return recipe.task == "segment"


def _task(fields: str, read: Condition, why: str) -> Rule:
    return Rule(fields, read, why, by_task=True)


def _takes_input_size(recipe: Recipe) -> bool:
    if _classifies(recipe):
        return recipe.data.size is None
    if recipe.task == "signals":
        return False
    return recipe.detect.head == "rcnn"


def _of_text(recipe: Recipe) -> bool:
    return recipe.task == "text"


def _names_classes(recipe: Recipe) -> bool:
    return recipe.task in ("classify", "signals")


def _of_images(recipe: Recipe) -> bool:
    return recipe.task not in ("text", "signals")


# What tasks of sequences read of the tables below.
SEQUENCES_READ = ("data.source", "data.val_fraction", "data.test_fraction")
SIGNALS_READ = ("data.split_seed",)
NOT_TEXT = " ".join(
    path
    for path in PATHS
    if path not in SEQUENCES_READ
    and path.startswith(("model.", "data.", "loss.", "finetune.", "distill.", "detect.", "weights",
                         "norm_batch", "sync_norm", "recompute"))
)  # fmt: skip
NOT_SIGNALS = " ".join(
    path
    for path in NOT_TEXT.split()
    if path not in SIGNALS_READ and not path.startswith(("model.", "loss."))
)

OF_CLASSIFICATION = "task 'classify' alone reads it"
RULES = (
    # Of other tasks.
    _task(NOT_TEXT, lambda recipe: not _of_text(recipe), "see the fields of transformer"),
    _task("transformer.*", _of_text, "task 'text' alone reads it"),
    _task(NOT_SIGNALS, _of_images, "signals have no such field"),
    _task("loss.class_weights", _of_images, "signals have no such field"),
    _task("signal.*", lambda recipe: recipe.task == "signals", "task 'signals' alone reads it"),
    Rule("transformer.streams", lambda recipe: recipe.transformer.residual in MIXED,
         "transformer.residual is neither 'hyper' nor 'mhc'"),
    Rule("transformer.vocabulary", lambda recipe: False, "training sets it from the data",
         by_run=True),
    _task("detect.*", lambda recipe: not _classifies(recipe), "task 'classify' has no such field"),
    _task("data.size data.test_size data.resize data.grow_from data.grow_between data.grow_step",
          _classifies, f"{OF_CLASSIFICATION}; see detect.train_sizes and detect.max_size"),
    _task("data.augment.*", _classifies,
          f"{OF_CLASSIFICATION}; see detect.flip, detect.scale and detect.crop"),
    _task("data.normalize",
          lambda recipe: _classifies(recipe) or recipe.data.normalize == "imagenet",
          "images are normalized as by ImageNet, or as the weights say"),
    _task("data.value_range", _classifies,
          f"{OF_CLASSIFICATION}; convert the images to 8 bits"),
    _task("data.labels_from data.ground_truth", _classifies,
          f"{OF_CLASSIFICATION}; annotations say the classes"),
    _task("loss.*", _names_classes,
          f"{OF_CLASSIFICATION}; the losses of others belong to their head"),
    _task("data.in_memory data.streaming data.shuffle_buffer data.channels data.keep_bits"
          " data.folds data.fold data.train_fraction data.balance data.corrections"
          " weights_size cuda_graph eval.batch_size eval.monitor"
          " schedule.hold_until_error schedule.hold_factor",
          _classifies, OF_CLASSIFICATION),
    _task("distill.*", _classifies, OF_CLASSIFICATION),
    _task("detect.class_map detect.class_map_folder detect.crop detect.aux_loss_weight",
          lambda recipe: _classifies(recipe) or _segments(recipe),
          "task 'segment' alone reads it"),
    _task("detect.group_aspect detect.keep_difficult detect.anchor_sizes detect.anchor_ratios"
          " detect.rpn_batch_size detect.box_batch_size detect.proposals",
          lambda recipe: not _segments(recipe), "task 'segment' finds no boxes"),
    _task("detect.pyramid_from detect.pyramid_width detect.region_width detect.roi detect.roi_size"
          " detect.context detect.score_threshold detect.nms_threshold detect.max_detections"
          " detect.keep_empty",
          lambda recipe: _classifies(recipe) or _detects(recipe),
          "tasks 'detect' and 'instances' alone read it"),
    _task("detect.proposals_from detect.train_part detect.freeze_shared",
          lambda recipe: not _segments(recipe), "task 'segment' has no proposals"),
    _task("detect.train_part detect.freeze_shared",
          lambda recipe: _classifies(recipe) or _detects(recipe),
          "tasks 'detect' and 'instances' alone read it"),
    # Of other values.
    Rule("detect.pyramid_from detect.pyramid_width detect.region_width",
         lambda recipe: not _detects(recipe) or recipe.detect.head == "fpn",
         "detect.head is not 'fpn'"),
    Rule("data.fold", lambda recipe: bool(recipe.data.folds), "data.folds is off"),
    Rule("detect.proposals_from detect.box_batch_size detect.proposals",
         lambda recipe: recipe.task != "localize" or recipe.detect.head == "rcnn",
         "detect.head is not 'rcnn'"),
    Rule("optim.momentum optim.nesterov", lambda recipe: recipe.optim.kind == "sgd",
         "optim.kind is not 'sgd'"),
    Rule("optim.betas", lambda recipe: recipe.optim.kind != "sgd", "optim.kind is 'sgd'"),
    Rule("schedule.milestones", lambda recipe: recipe.schedule.kind == "steps",
         "schedule.kind is not 'steps'"),
    Rule("schedule.gamma", lambda recipe: recipe.schedule.kind in ("steps", "plateau"),
         "schedule.kind is neither 'steps' nor 'plateau'"),
    Rule("schedule.final",
         lambda recipe: recipe.schedule.kind in ("cosine", "linear", "one-cycle"),
         "schedule.kind is none of 'cosine', 'linear' and 'one-cycle'"),
    Rule("schedule.patience", lambda recipe: recipe.schedule.kind == "plateau",
         "schedule.kind is not 'plateau'"),
    Rule("schedule.hold_factor", lambda recipe: recipe.schedule.hold_until_error is not None,
         "schedule.hold_until_error is off"),
    Rule("finetune.* weights_head weights_size", lambda recipe: recipe.weights is not None,
         "there are no pretrained weights"),
    Rule("distill.temperature distill.weight",
         lambda recipe: recipe.distill.teacher is not None, "there is no distill.teacher"),
    Rule("loss.gamma", lambda recipe: recipe.loss.kind == "focal", "loss.kind is not 'focal'"),
    Rule("data.augment.blur_sigma", lambda recipe: bool(recipe.data.augment.blur),
         "data.augment.blur is off"),
    Rule("data.augment.pad", lambda recipe: recipe.data.augment.crop == "pad",
         "data.augment.crop is not 'pad'"),
    Rule("data.augment.scale",
         lambda recipe: recipe.data.augment.crop in ("scale-jitter", "random-resized"),
         "data.augment.crop is neither 'scale-jitter' nor 'random-resized'"),
    Rule("data.augment.policy_ops data.augment.policy_magnitude data.augment.policy_std",
         lambda recipe: recipe.data.augment.policy == "rand",
         "data.augment.policy is not 'rand'"),
    Rule("data.augment.mix_probability",
         lambda recipe: bool(recipe.data.augment.mixup or recipe.data.augment.cutmix),
         "data.augment.mixup and data.augment.cutmix are off"),
    Rule("data.grow_between data.grow_step", lambda recipe: recipe.data.grow_from is not None,
         "data.grow_from is off"),
    Rule("data.shuffle_buffer", lambda recipe: recipe.data.streaming, "data.streaming is off"),
    Rule("model.stem model.stem_width model.stem_pool model.stem_norm model.shortcut"
         " model.shortcut_pool model.attention",
         lambda recipe: not recipe.model.is_vgg, "model.block is 'vgg'"),
    Rule("model.stem_pool", lambda recipe: recipe.model.stem != "cifar",
         "model.stem 'cifar' has no pool"),
    Rule("model.se_reduction", lambda recipe: recipe.model.attention == "se",
         "model.attention is not 'se'"),
    Rule("model.stride_in", lambda recipe: recipe.model.is_bottleneck,
         "model.block is no bottleneck"),
    Rule("model.norm_eps", lambda recipe: recipe.model.norm != "none", "model.norm is 'none'"),
    Rule("model.norm_groups", lambda recipe: recipe.model.norm == "group+ws",
         "model.norm is not 'group+ws'"),
    Rule("norm_batch sync_norm", lambda recipe: recipe.model.norm == "batch",
         "model.norm is not 'batch'"),
    Rule("model.gate_bias", lambda recipe: recipe.model.shortcut_gate != "none",
         "model.shortcut_gate is 'none'"),
    Rule("model.in_channels", lambda recipe: recipe.data.channels is None,
         "data.channels is set", by_run=True),
    Rule("model.zero_init_residual", lambda recipe: recipe.model.residual,
         "the network has no shortcuts"),
    Rule("model.dropout", lambda recipe: _names_classes(recipe) or recipe.model.is_vgg,
         "the network's head, before which dropout is, is not used"),
    Rule("model.num_classes", lambda recipe: False, "training sets it from the data", by_run=True),
    Rule("model.input_size", _takes_input_size,
         "the size of images is that of data.size, or of detect.train_sizes", by_run=True),
)  # fmt: skip


def unread_fields(recipe: Recipe) -> dict[str, Rule]:
    """The fields that `recipe` does not read, each with the rule that says so."""
    found: dict[str, Rule] = {}
    for rule in RULES:
        if not rule.read(recipe):
            for path in rule:
                found.setdefault(path, rule)
    return found


def without_effect(recipe: Recipe) -> set[str]:
    """Fields that the task never reads and that have their default: a file need not state them."""
    values = dict(leaves(recipe))
    return {
        path
        for path, rule in unread_fields(recipe).items()
        if rule.by_task and values[path] == DEFAULTS[path]
    }


def check_stated(
    recipe: Recipe, stated: Collection[str], where: str = "", in_file: Collection[str] = ()
) -> list[str]:
    """Warnings about the fields that a user stated and that `recipe` does not read.

    ConfigError where one is empty text that means nothing.

    stated: dotted names. in_file: those that a file states, where another value than the default
    is stated deliberately: files of earlier versions have all fields. ConfigError names fields that
    the task never reads; the others depend on fields that may be set next, and are warned about.
    """
    unread, values = unread_fields(recipe), dict(leaves(recipe))
    for path in (*stated, *in_file):
        if values.get(path) == "" != DEFAULTS.get(path):
            none = f"; {path}=none is none" if DEFAULTS[path] is None else ""
            raise ConfigError(f"{where or 'recipe'}: {path} is empty; leave it out{none}")
    changed = {path for path in in_file if values.get(path) != DEFAULTS.get(path)}
    said = f"{where}: " if where else ""
    for path, rule in unread.items():
        if rule.by_task and (path in stated or path in changed):
            raise ConfigError(
                f"{said}{path} = {values[path]!r}: task {recipe.task!r} does not read it; leave it"
                f" out ({rule.why})"
            )
    warnings = [
        f"{said}{path} = {values[path]!r} has no effect: {rule.why}"
        for path, rule in unread.items()
        if not rule.by_task and (path in stated or (path in changed and not rule.by_run))
    ]
    rest = [path for path in unread if path in in_file and unread[path].by_task]
    if rest:
        more = f" and {len(rest) - SHOWN} more" if len(rest) > SHOWN else ""
        warnings.append(
            f"{said}states fields that task {recipe.task!r} does not read:"
            f" {', '.join(rest[:SHOWN])}{more}; they have no effect"
        )
    return warnings
