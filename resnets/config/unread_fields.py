"""Which fields of a recipe have no effect, because of its task or its other fields.

One table for all tasks. Where a user sets a field without effect, it is an error if the task never
reads the field, and a warning otherwise. Recipe files are written without such fields.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from typing import Any

from resnets.config.recipe import Recipe
from resnets.config.sequence import MIXED
from resnets.utils.errors import ConfigError
from resnets.utils.printable import join_names

Condition = Callable[[Recipe], bool]

MAX_LISTED = 4  # fields that a warning lists


@dataclass(frozen=True)
class Rule:
    """Fields that are read only under a condition.

    fields: dotted names, separated by spaces; TABLE.* stands for all fields of a table. is_read:
    whether a recipe reads them. why: the reason why it does not. by_task: the condition depends on
    the task alone. by_run: a run sets the fields, and writes the result into its recipe file.
    """

    fields: str
    is_read: Condition
    why: str
    by_task: bool = False
    by_run: bool = False

    def __iter__(self) -> Iterator[str]:
        for name in self.fields.split():
            table = name.removesuffix(".*")
            yield from (path for path in PATHS if path == name or path.startswith(f"{table}."))


def iter_fields(value: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the dotted name and value of each field of a spec, and of the specs in it."""
    for field in dataclasses.fields(value):
        inner, path = getattr(value, field.name), f"{prefix}{field.name}"
        if dataclasses.is_dataclass(inner):
            yield from iter_fields(inner, f"{path}.")
        else:
            yield path, inner


DEFAULTS = dict(iter_fields(Recipe()))
PATHS = tuple(DEFAULTS)


def _is_classify(recipe: Recipe) -> bool:
    return recipe.task == "classify"


def _is_detect(recipe: Recipe) -> bool:
    return recipe.task in ("detect", "instances")


def _is_segment(recipe: Recipe) -> bool:
    return recipe.task == "segment"


def _task_rule(fields: str, is_read: Condition, why: str) -> Rule:
    return Rule(fields, is_read, why, by_task=True)


def _reads_input_size(recipe: Recipe) -> bool:
    if _is_classify(recipe):
        return recipe.data.size is None
    if recipe.task == "signals":
        return False
    return recipe.detect.head == "rcnn"


def _is_text(recipe: Recipe) -> bool:
    return recipe.task == "text"


def _has_class_head(recipe: Recipe) -> bool:
    return recipe.task in ("classify", "signals")


def _finds_objects(recipe: Recipe) -> bool:
    return _is_image_task(recipe) and not _is_classify(recipe)


def _is_image_task(recipe: Recipe) -> bool:
    return recipe.task not in ("text", "signals")


# Fields of `data` that the tasks "text" and "signals" read.
READ_BY_SEQUENCES = ("data.source", "data.val_fraction", "data.test_fraction")
READ_BY_SIGNALS = ("data.split_seed",)
NOT_FOR_TEXT = " ".join(
    path
    for path in PATHS
    if path not in READ_BY_SEQUENCES
    and path.startswith(("model.", "data.", "loss.", "finetune.", "distill.", "detect.", "weights",
                         "norm_batch", "sync_norm", "recompute"))
)  # fmt: skip
NOT_FOR_SIGNALS = " ".join(
    path
    for path in NOT_FOR_TEXT.split()
    if path not in READ_BY_SIGNALS and not path.startswith(("model.", "loss."))
)

ONLY_CLASSIFY = "only task 'classify' reads it"
RULES = (
    # By the task.
    _task_rule(NOT_FOR_TEXT, lambda recipe: not _is_text(recipe), "see the fields of transformer"),
    _task_rule("transformer.*", _is_text, "only task 'text' reads it"),
    _task_rule(NOT_FOR_SIGNALS, _is_image_task, "it does not apply to signals"),
    _task_rule("loss.class_weights", _is_image_task, "it does not apply to signals"),
    _task_rule("signal.*", lambda recipe: recipe.task == "signals", "only task 'signals' reads it"),
    Rule("transformer.streams", lambda recipe: recipe.transformer.residual in MIXED,
         "transformer.residual is neither 'hyper' nor 'mhc'"),
    Rule("transformer.vocabulary", lambda recipe: False, "training sets it from the data",
         by_run=True),
    _task_rule("detect.*", lambda recipe: not _is_classify(recipe),
               "task 'classify' does not read it"),
    _task_rule("data.size data.test_size data.resize data.grow_from data.grow_between"
               " data.grow_step",
               _is_classify, f"{ONLY_CLASSIFY}; see detect.train_sizes and detect.max_size"),
    _task_rule("data.augment.*", _is_classify,
               f"{ONLY_CLASSIFY}; see detect.flip, detect.scale and detect.crop"),
    _task_rule("data.normalize",
               lambda recipe: _is_classify(recipe) or recipe.data.normalize == "imagenet",
               "images are normalized by ImageNet's statistics, or as the weights require"),
    _task_rule("data.value_range", _is_classify,
               f"{ONLY_CLASSIFY}; convert the images to 8 bits"),
    _task_rule("data.labels_from data.ground_truth", _is_classify,
               f"{ONLY_CLASSIFY}; the classes are in the annotations"),
    _task_rule("loss.*", _has_class_head,
               f"{ONLY_CLASSIFY}; other tasks have the loss of their head"),
    _task_rule("data.in_memory data.streaming data.shuffle_buffer data.channels data.keep_bits"
               " data.folds data.fold data.train_fraction data.balance data.corrections"
               " data.labels weights_size cuda_graph eval.monitor"
               " schedule.hold_until_error schedule.hold_factor",
               _is_classify, ONLY_CLASSIFY),
    _task_rule("distill.*", _is_classify, ONLY_CLASSIFY),
    _task_rule("eval.batch_size", lambda recipe: not _finds_objects(recipe),
               "memory decides how many images are computed at once"),
    _task_rule("optim.head_lr_scale", lambda recipe: not _finds_objects(recipe),
               "the head of the network is not used"),
    _task_rule("channels_last", _is_image_task, "only tasks of images read it"),
    _task_rule("detect.class_map detect.class_map_folder detect.crop detect.aux_loss_weight",
               lambda recipe: _is_classify(recipe) or _is_segment(recipe),
               "only task 'segment' reads it"),
    _task_rule("detect.group_aspect detect.keep_difficult detect.anchor_sizes detect.anchor_ratios"
               " detect.rpn_batch_size detect.box_batch_size detect.proposals",
               lambda recipe: not _is_segment(recipe), "task 'segment' finds no boxes"),
    _task_rule("detect.pyramid_from detect.pyramid_width detect.region_width detect.roi"
               " detect.roi_size detect.context detect.score_threshold detect.nms_threshold"
               " detect.max_detections detect.keep_empty",
               lambda recipe: _is_classify(recipe) or _is_detect(recipe),
               "only tasks 'detect' and 'instances' read it"),
    _task_rule("detect.proposals_from detect.train_part detect.freeze_shared",
               lambda recipe: not _is_segment(recipe), "task 'segment' has no proposals"),
    _task_rule("detect.train_part detect.freeze_shared",
               lambda recipe: _is_classify(recipe) or _is_detect(recipe),
               "only tasks 'detect' and 'instances' read it"),
    # By other fields.
    Rule("detect.pyramid_from detect.pyramid_width detect.region_width",
         lambda recipe: not _is_detect(recipe) or recipe.detect.head == "fpn",
         "detect.head is not 'fpn'"),
    Rule("data.fold", lambda recipe: bool(recipe.data.folds), "data.folds is off"),
    Rule("data.test_fraction", lambda recipe: not recipe.data.folds,
         "a fold is tested on (data.folds)"),
    Rule("detect.proposals_from detect.box_batch_size detect.proposals",
         lambda recipe: recipe.task != "localize" or recipe.detect.head == "rcnn",
         "detect.head is not 'rcnn'"),
    Rule("detect.rpn_batch_size", lambda recipe: recipe.detect.train_part != "regions",
         "detect.train_part is 'regions'"),
    Rule("detect.box_batch_size", lambda recipe: recipe.detect.train_part != "proposals",
         "detect.train_part is 'proposals'"),
    Rule("detect.rpn_batch_size",
         lambda recipe: recipe.task != "localize" or recipe.detect.head == "pcr",
         "detect.head is not 'pcr'"),
    Rule("optim.unit_filters", lambda recipe: recipe.optim.kind == "muon",
         "optim.kind is not 'muon'"),
    Rule("optim.momentum optim.nesterov", lambda recipe: recipe.optim.kind in ("sgd", "muon"),
         "optim.kind is neither 'sgd' nor 'muon'"),
    Rule("optim.betas", lambda recipe: recipe.optim.kind in ("adamw", "lamb"),
         "optim.kind is neither 'adamw' nor 'lamb'"),
    Rule("schedule.milestones", lambda recipe: recipe.schedule.kind == "steps",
         "schedule.kind is not 'steps'"),
    Rule("schedule.gamma", lambda recipe: recipe.schedule.kind in ("steps", "plateau"),
         "schedule.kind is neither 'steps' nor 'plateau'"),
    Rule("schedule.final",
         lambda recipe: recipe.schedule.kind in ("cosine", "linear", "one-cycle"),
         "schedule.kind is not 'cosine', 'linear' or 'one-cycle'"),
    Rule("schedule.patience", lambda recipe: recipe.schedule.kind == "plateau",
         "schedule.kind is not 'plateau'"),
    Rule("schedule.hold_factor", lambda recipe: recipe.schedule.hold_until_error is not None,
         "schedule.hold_until_error is off"),
    Rule("finetune.* weights_head weights_size", lambda recipe: recipe.weights is not None,
         "weights is not set"),
    Rule("distill.temperature distill.weight",
         lambda recipe: recipe.distill.teacher is not None, "distill.teacher is not set"),
    Rule("loss.kind loss.label_smoothing loss.gamma",
         lambda recipe: recipe.distill.teacher is None or recipe.distill.weight < 1,
         "distill.weight is 1"),
    Rule("loss.gamma", lambda recipe: recipe.loss.kind == "focal", "loss.kind is not 'focal'"),
    Rule("data.augment.flip_rule", lambda recipe: recipe.data.augment.flip,
         "data.augment.flip is off"),
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
         " model.shortcut_pool model.attention model.downsample model.head_pool model.logit_scale",
         lambda recipe: not recipe.model.is_vgg, "model.block is 'vgg'"),
    Rule("model.stem_pool", lambda recipe: recipe.model.stem not in ("cifar", "whitening"),
         "model.stem 'cifar' and 'whitening' have no pool"),
    Rule("model.stem_width model.stem_norm", lambda recipe: recipe.model.stem != "whitening",
         "model.stem is 'whitening'"),
    Rule("model.se_reduction", lambda recipe: recipe.model.attention == "se",
         "model.attention is not 'se'"),
    Rule("model.stride_in", lambda recipe: recipe.model.is_bottleneck,
         "model.block is not a bottleneck"),
    Rule("model.norm_eps", lambda recipe: recipe.model.norm != "none", "model.norm is 'none'"),
    Rule("model.norm_scale", lambda recipe: recipe.model.norm == "batch",
         "model.norm is not 'batch'"),
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
    Rule("model.dropout", lambda recipe: _has_class_head(recipe) or recipe.model.is_vgg,
         "dropout is in the network's head, which is not used"),
    Rule("model.num_classes", lambda recipe: False, "training sets it from the data", by_run=True),
    Rule("model.input_size", _reads_input_size,
         "the size of images is that of data.size, or of detect.train_sizes", by_run=True),
)  # fmt: skip


def unread_fields(recipe: Recipe) -> dict[str, Rule]:
    """Return the fields that `recipe` does not read, each with the first rule that says so."""
    unread: dict[str, Rule] = {}
    for rule in RULES:
        if not rule.is_read(recipe):
            for path in rule:
                unread.setdefault(path, rule)
    return unread


def omittable_fields(recipe: Recipe) -> set[str]:
    """Return the fields at their defaults that the task never reads; files are written without."""
    values = dict(iter_fields(recipe))
    return {
        path
        for path, rule in unread_fields(recipe).items()
        if rule.by_task and values[path] == DEFAULTS[path]
    }


def check_explicit_fields(
    recipe: Recipe, explicit: Collection[str], where: str = "", in_file: Collection[str] = ()
) -> list[str]:
    """Return warnings about the fields that a user set and that `recipe` does not read.

    Raises ConfigError for a field that the task never reads, and for an empty string where that has
    no meaning. Other fields without effect depend on fields that may be set next.

    explicit: dotted names of fields that were set by option. in_file: of fields in a recipe file,
    which count as set where they differ from their default: files of earlier versions list all
    fields. where: what errors and warnings begin with.
    """
    unread, values = unread_fields(recipe), dict(iter_fields(recipe))
    for path in (*explicit, *in_file):
        if values.get(path) == "" != DEFAULTS.get(path):
            none = f", or write {path}=none" if DEFAULTS[path] is None else ""
            raise ConfigError(f"{where or 'recipe'}: {path} is empty; omit it{none}")
    changed = {path for path in in_file if values.get(path) != DEFAULTS.get(path)}
    prefix = f"{where}: " if where else ""
    for path, rule in unread.items():
        if rule.by_task and (path in explicit or path in changed):
            raise ConfigError(
                f"{prefix}{path} = {values[path]!r}: has no effect for task {recipe.task!r}; "
                f"omit it ({rule.why})"
            )
    warnings = [
        f"{prefix}{path} = {values[path]!r} has no effect: {rule.why}"
        for path, rule in unread.items()
        if not rule.by_task and (path in explicit or (path in changed and not rule.by_run))
    ]
    unused = [path for path in unread if path in in_file and unread[path].by_task]
    if unused:
        warnings.append(
            f"{prefix}has fields that have no effect for task {recipe.task!r}: "
            f"{join_names(unused, MAX_LISTED)}"
        )
    return warnings
