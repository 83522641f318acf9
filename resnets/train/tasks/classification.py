"""Classification as a task of a training run (`train.tasks.task.Task`)."""

from __future__ import annotations

import copy
import dataclasses
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from resnets.config import SOFTMAX, ConfigError, Postprocess, Recipe, to_dict
from resnets.data import FileSplit, Split, Splits, open_data, prepare
from resnets.data.batch import Batch
from resnets.data.dataset.labels import class_counts, is_multilabel
from resnets.data.dataset.stream import StreamSplit
from resnets.data.errors import DataError
from resnets.data.loading.batches import TrainStream, epoch_draw, eval_batches, keep_on_device
from resnets.data.transforms.augment import mirror_warning
from resnets.data.transforms.preprocess import (
    Preprocessor,
    fit_preprocess,
    resize_preprocessor,
    sample_batches,
)
from resnets.evaluate import describe_protocol, evaluate_model
from resnets.evaluate.calibrate import Calibration, calibrate
from resnets.evaluate.evaluation import AnyEvaluation, note_unreadable
from resnets.evaluate.measure import Mistake, find_mistakes, most_confident
from resnets.evaluate.metrics.multiclass import gather_rows
from resnets.evaluate.views import compute_logits
from resnets.models import ImageClassifier, build
from resnets.models.block_config import eval_mode
from resnets.models.custom_model import build_custom
from resnets.models.speedrun_layers import fit_stem
from resnets.report.classification_details import CaptionedImage, RunDetails
from resnets.train.execution_plan import ExecutionPlan
from resnets.train.loop import Evaluate
from resnets.train.loss import LossFn, class_weights, classification_loss, custom_loss
from resnets.train.tasks.classification_report import run_details, training_images
from resnets.train.tasks.custom_parts import CustomParts
from resnets.train.tasks.distill import Teacher, distillation_loss
from resnets.train.tasks.label_settings import (
    METRICS,
    adapt_to_multilabel,
    choose_monitor,
    imbalance_warnings,
    logged_metrics,
    size_warnings,
    unreadable_messages,
)
from resnets.train.tasks.quantize import equalize_channels, quantized_loss
from resnets.train.tasks.task import check_same_classes, format_title, make_split_report
from resnets.utils.machine.distributed import ProcessGroup
from resnets.weights.adapt import adapt_preprocess_to_data, check_size
from resnets.weights.checkpoint.format import Checkpoint
from resnets.weights.checkpoint.image_record import read_fingerprint
from resnets.weights.create import build_from_weights, read_weights
from resnets.weights.load import check_model, load_classifier
from resnets.weights.read import read_preprocess

log = logging.getLogger("resnets")

REPORT_IMAGES = 16  # training images in the report
CALIBRATION = ("calibration_error", "calibration_error_equal_mass")
MAJORITY = ("top1_interval", "majority_error", "majority_class")
RESULT = (*METRICS, *CALIBRATION, *MAJORITY, "examples", "protocol")


class ClassificationTask:
    """A classifier and its data."""

    def __init__(
        self,
        recipe: Recipe,
        splits: Splits,
        model: ImageClassifier,
        preprocessor: Preprocessor,
        *,
        parts: CustomParts = CustomParts(),  # noqa: B008 (frozen)
        resumed: bool = False,
    ) -> None:
        if recipe.recompute and not model.stage_names:
            raise ConfigError(
                "recompute: needs a network of stages, such as ResNet(spec, block=...)"
            )
        epoch_draw(splits.train, recipe.data)  # raises errors before any file is written
        model.recompute = recipe.recompute
        self.parts = parts
        self.recipe, self.splits, self.model = recipe, splits, model
        self.preprocessor, self.mean_image = preprocessor, preprocessor.mean_image
        self.data_name = splits.name
        self.multilabel = is_multilabel(splits.train.labels)
        counts = class_counts(splits.train.labels.numpy(), len(splits.classes))
        self.class_counts: list[int] = counts.tolist()
        warnings = size_warnings(recipe, splits.train)
        if not self.multilabel:
            warnings += imbalance_warnings(recipe, splits.classes, self.class_counts)
        self.summary = dataclasses.replace(
            splits.summary, warnings=(*splits.summary.warnings, *warnings)
        )
        self.split_report = make_split_report(splits, resumed=resumed)
        num_classes = len(splits.classes)
        self.postprocess = SOFTMAX
        if self.multilabel:
            self.postprocess = Postprocess(activation="sigmoid", thresholds=(0.5,) * num_classes)
        self.class_weights: torch.Tensor | None = None
        if recipe.loss.class_weights != "none":
            self.class_weights = class_weights(recipe.loss, splits.train.labels, splits.classes)
        self.details: RunDetails | None = None
        teacher = recipe.distill.teacher
        if teacher is not None and parts.loss is not None:
            raise ConfigError("distill.teacher: has no effect with a custom loss; set it to none")
        self.teacher = None if teacher is None else Teacher(teacher, splits.classes, preprocessor)
        self.monitor = choose_monitor(recipe, multilabel=self.multilabel)
        self.metadata: Mapping[str, Any] = {
            "classes": list(splits.classes),
            "preprocess": to_dict(preprocessor.spec),
        }
        if self.multilabel:
            self.metadata = {**self.metadata, "postprocess": to_dict(self.postprocess)}
        if self.teacher is not None:
            self.metadata = {**self.metadata, "teacher": self.teacher.digest}
        self.title = format_title(recipe, splits)
        if self.monitor == "balanced_error":
            self.title += ", best by balanced error"

    @classmethod
    def open(
        cls,
        recipe: Recipe,
        parts: CustomParts = CustomParts(),  # noqa: B008 (frozen)
    ) -> ClassificationTask:
        """Open the data, and build the model and preprocessing for its classes and image size."""
        splits = open_data(recipe.data, source=parts.data, training=True)
        data = dataclasses.replace(recipe.data, value_range=splits.value_range)
        recipe = dataclasses.replace(recipe, data=data)
        if data.channels is not None:
            spec = dataclasses.replace(recipe.model, in_channels=data.channels)
            recipe = dataclasses.replace(recipe, model=spec)
        if is_multilabel(splits.train.labels):
            recipe = adapt_to_multilabel(recipe)
            data = recipe.data
        if warning := mirror_warning(splits.classes, data.augment):
            log.warning("%s", warning)
        weights = None if recipe.weights is None else read_weights(recipe.weights, recipe.model)
        if data.size is None and isinstance(splits.train, FileSplit):
            data = dataclasses.replace(data, size=recipe.model.input_size)
            recipe = dataclasses.replace(recipe, data=data)
        if weights is not None and data.tested_at is not None:
            check_size(weights, recipe.model, data.tested_at, recipe.weights_size)
        if weights is None or weights.preprocess is None or data.has_stacks:
            preprocessor = fit_preprocess(splits.train, data, recipe.model.in_channels)
        else:
            assumed = ", which the file does not specify," if weights.preprocess_assumed else ""
            text = "%s: using the normalization of the weights%s not data.normalize"
            log.info(text, recipe.weights, assumed or ",")
            preprocessor = adapt_preprocess_to_data(
                weights.preprocess, splits.train, data, recipe.model.in_channels
            )
        spec = dataclasses.replace(
            recipe.model, num_classes=len(splits.classes), input_size=preprocessor.spec.size
        )
        torch.manual_seed(recipe.seed)
        names: dict[str, str] = {}
        if parts.model is not None:
            model, names = build_custom(parts.model, spec)
        elif weights is None:
            model = build(spec)
        else:
            check_size(weights, spec, spec.input_size, recipe.weights_size)
            model = build_from_weights(
                weights, spec, classes=splits.classes, policy=recipe.weights_head
            )
        if weights is None and not isinstance(parts.model, nn.Module):
            fit_stem(model, sample_batches(splits.train, preprocessor, data.workers))
        recipe = parts.add_names(dataclasses.replace(recipe, model=model.spec), names)
        return cls(recipe, splits, model, preprocessor, parts=parts)

    @classmethod
    def reopen(
        cls, recipe: Recipe, checkpoint: Checkpoint, parts: CustomParts
    ) -> ClassificationTask:
        """Open a run to resume; its initial weights are not loaded again."""
        fingerprint = read_fingerprint(checkpoint)
        splits = open_data(recipe.data, fingerprint, source=parts.data, training=True)
        check_same_classes(checkpoint, splits)
        custom = parts.model
        model = build(recipe.model) if custom is None else build_custom(custom, recipe.model)[0]
        check_model(str(checkpoint.path), recipe.model, model.spec, "model=")
        preprocessor = read_preprocess(checkpoint)
        return cls(recipe, splits, model, preprocessor, parts=parts, resumed=True)

    @property
    def examples(self) -> int:
        """Number of images per epoch."""
        return len(self.splits.train)

    @property
    def loss_fn(self) -> LossFn:
        """The recipe's loss, or a custom one."""
        custom, spec = self.parts.loss, self.recipe.loss
        loss = custom_loss(custom) if custom else classification_loss(spec, self.class_weights)
        if self.teacher is not None:
            loss = distillation_loss(self.recipe.distill, loss, self.teacher)
        return quantized_loss(loss) if self._quantizes else loss

    @property
    def _quantizes(self) -> bool:
        return self.recipe.finetune.quantize and self.recipe.weights is not None

    def smallest_input(self) -> tuple[int, int, int]:
        """Return (C, H, W) of the smallest training images."""
        data, side = self.recipe.data, self.preprocessor.spec.size
        sizes = (each for each in (data.size, data.grow_from, side) if each is not None)
        return (self.recipe.model.in_channels, smallest := min(sizes), smallest)

    def setup(self, device: torch.device) -> None:
        """Equalize channels before quantization-aware training (`tasks.quantize`)."""
        if self._quantizes:
            equalize_channels(self.model)

    def stream(self, device: torch.device, group: ProcessGroup) -> TrainStream:
        """Return the stream of this process's share of the training batches."""
        return self._open_stream(
            self.recipe.batch_size,
            device,
            channels_last=self.recipe.channels_last,
            group=group,
            norm_batch=self.recipe.norm_batch,
        )

    def _open_stream(self, batch_size: int, device: torch.device, **options: Any) -> TrainStream:
        data, seed = self.recipe.data, self.recipe.seed
        train, preprocessor = self.splits.train, self._train_preprocessor
        return TrainStream(train, data, preprocessor, batch_size, seed, device, **options)

    @property
    def _train_preprocessor(self) -> Preprocessor:
        """The preprocessor with the image size of training, which may differ from that of tests."""
        size = self.recipe.data.size
        return self.preprocessor if size is None else resize_preprocessor(self.preprocessor, size)

    def evaluator(self, plan: ExecutionPlan, group: ProcessGroup) -> Evaluate | None:
        """Return the function that evaluates a model during training; None without data for it."""
        watch_test = self.recipe.eval.watch_test
        candidates = {"val": self.splits.val, "test": self.splits.test() if watch_test else None}
        splits = {
            name: keep_on_device(prepare(split, self.preprocessor), torch.device(plan.device))
            for name, split in candidates.items()
            if split is not None
        }

        def evaluate(model: nn.Module) -> dict[str, dict[str, float]]:
            metrics = {}
            for name, split in splits.items():
                evaluation, unreadable = self._evaluate(
                    model, split, self.preprocessor, plan, "training", group
                )
                metrics[name] = logged_metrics(evaluation)
                metrics[name]["unreadable"] = len(unreadable)
            return metrics

        return evaluate if splits else None

    def evaluate_checkpoint(
        self, path: Path, plan: ExecutionPlan, group: ProcessGroup
    ) -> dict[str, Any]:
        """Evaluate the run's checkpoint `path` on validation and, only here, on test."""
        custom_model = self.parts.model
        if isinstance(custom_model, nn.Module):  # keeps the final weights of training
            custom_model = copy.deepcopy(custom_model)
        model = group.broadcast_from_main(lambda: load_classifier(path, custom=custom_model))
        model = model.to(plan.device)
        result: dict[str, Any] = {}
        if self.splits.val is not None:
            calibration = self._calibrate(model, self.splits.val, plan, group)
            model.postprocess = calibration.postprocess
            result["calibration"] = calibration.to_json()
        postprocess = model.postprocess
        test = self.splits.test() if self.recipe.eval.test else None
        for name, split in (("test", test), ("val", self.splits.val)):
            if split is None:
                continue
            mistakes: list[Mistake] = []
            evaluation, unreadable = self._evaluate(
                model, split, model.preprocess, plan, model.origin, group, postprocess, mistakes
            )
            if group.is_main and self.details is None:
                batch = self._training_images()
                counts = dict(zip(self.splits.classes, self.class_counts, strict=True))
                self.details = run_details(
                    name, split, evaluation, mistakes, counts, batch, self.recipe.data.source
                )
            metrics = evaluation.to_json()
            result[name] = {key: metrics[key] for key in RESULT if key in metrics}
            if self.multilabel:
                result[name]["per_class"] = metrics["per_class"]
            result[name]["warnings"] = list(evaluation.warnings)
            result[name]["unreadable"] = unreadable
        result["postprocess"] = to_dict(postprocess)
        result["train"] = {
            "unreadable": unreadable_messages(self.splits.train, group),
            "class_counts": dict(zip(self.splits.classes, self.class_counts, strict=True)),
        }
        return result

    def _training_images(self) -> list[CaptionedImage]:
        """Return the first augmented training images; [] for a streamed data set."""
        if isinstance(self.splits.train, StreamSplit):
            return []
        batches = self._open_stream(REPORT_IMAGES, torch.device("cpu")).batches()
        try:
            return training_images(next(batches), self._train_preprocessor, self.splits.classes)
        except DataError as error:  # the run is complete; the report works without them
            log.warning("report: no training images are shown: %s", error)
            return []
        finally:
            batches.close()  # type: ignore[attr-defined]

    def _calibrate(
        self, model: ImageClassifier, val: Split, plan: ExecutionPlan, group: ProcessGroup
    ) -> Calibration:
        """Calibrate the logits of `model` on the validation images of all processes."""
        logits, targets, rows = [], [], []
        with eval_mode(model), torch.inference_mode():
            for batch in self._batches(val, model.preprocess, plan, group):
                assert isinstance(batch.images, torch.Tensor)
                assert isinstance(batch.targets, torch.Tensor)
                logits.append(compute_logits(model, batch.images, precision=plan.precision))
                targets.append(batch.targets)
                rows.append(batch.ids)
        order = np.argsort(gather_rows(rows))  # independent of the number of processes
        all_logits, all_targets = (
            torch.from_numpy(gather_rows(each)[order]) for each in (logits, targets)
        )
        return calibrate(all_logits, all_targets, self.postprocess)

    def _batches(
        self, split: Split, preprocessor: Preprocessor, plan: ExecutionPlan, group: ProcessGroup
    ) -> Iterator[Batch]:
        """Yield this process's share of the images of `split`, each exactly once."""
        rows = None if group.world_size == 1 else group.shard(list(range(len(split))))
        device, workers = torch.device(plan.device), self.recipe.data.workers
        batch_size = self.recipe.eval.batch_size
        return eval_batches(split, preprocessor, batch_size, device, workers, rows)

    def _evaluate(
        self,
        model: nn.Module,
        split: Split,
        preprocessor: Preprocessor,
        plan: ExecutionPlan,
        weights: str,
        group: ProcessGroup,
        postprocess: Postprocess | None = None,
        mistakes: list[Mistake] | None = None,
    ) -> tuple[AnyEvaluation, list[str]]:
        """Evaluate over all processes; also return one message per unreadable image.

        mistakes: list to which the most confident errors are appended.
        """
        device = torch.device(plan.device)
        postprocess = postprocess or self.postprocess
        own_mistakes: list[Mistake] = []

        def observe(batch: Batch, logits: torch.Tensor) -> None:
            assert isinstance(batch.targets, torch.Tensor)
            wrong = find_mistakes(
                split, batch.ids, logits, batch.targets, split.classes, postprocess
            )
            own_mistakes[:] = most_confident(own_mistakes + wrong)

        evaluation = evaluate_model(
            model,
            self._batches(split, preprocessor, plan, group),
            split.classes,
            protocol=describe_protocol(
                size=preprocessor.spec.size,
                precision=plan.precision,
                weights=weights,
                data=split.description,
            ),
            precision=plan.precision,
            device=device,
            postprocess=postprocess,
            observe=None if mistakes is None else observe,
        )
        if mistakes is not None:
            mistakes += most_confident(group.all_gather(own_mistakes))
        unreadable = unreadable_messages(split, group)
        return note_unreadable(evaluation, len(unreadable)), unreadable
