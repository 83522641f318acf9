"""Detection, localization and segmentation as tasks of a training run (`train.tasks.task.Task`)."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from resnets.config import ConfigError, Recipe, to_dict
from resnets.data.batch import Batch
from resnets.data.splits.image_record import Fingerprint
from resnets.data.transforms.preprocess import Preprocessor
from resnets.detect.evaluate.measure import measure
from resnets.detect.loading.sources import DetectionSplits, open_detection
from resnets.detect.loading.train_batches import DetectStream
from resnets.detect.metrics.coco import require_coco
from resnets.detect.models.base import DetectionModel
from resnets.detect.models.build import (
    Model,
    build_model,
    check_initial_weights,
    load_detection_model,
    recompute_norms,
)
from resnets.detect.models.detector import Detector
from resnets.detect.models.localizer import Localizer, Refiner
from resnets.detect.models.predictor import Predictor
from resnets.report.classification_details import RunDetails
from resnets.train.execution_plan import ExecutionPlan
from resnets.train.loop import Evaluate
from resnets.train.loss import Losses, LossFn
from resnets.train.tasks.task import check_same_classes, format_title, make_split_report
from resnets.utils.machine.distributed import ProcessGroup
from resnets.weights.checkpoint.format import Checkpoint
from resnets.weights.checkpoint.image_record import read_fingerprint
from resnets.weights.read import read_preprocess


class DetectionTask:
    """A detector, localizer or segmenter and its data."""

    def __init__(
        self,
        recipe: Recipe,
        splits: DetectionSplits,
        model: Model,
        preprocessor: Preprocessor,
        *,
        resumed: bool = False,
    ) -> None:
        self.recipe, self.splits, self.model = recipe, splits, model
        self.preprocessor = preprocessor
        self.mean_image: torch.Tensor | None = None
        self.data_name, self.summary = splits.name, splits.summary
        self.split_report = make_split_report(splits, resumed=resumed)
        self.monitor = "error"
        self.details: RunDetails | None = None
        self.metadata: Mapping[str, Any] = {
            "classes": list(splits.classes),
            "preprocess": to_dict(preprocessor.spec),
        }
        self.title = format_title(recipe, splits)

    @classmethod
    def open(cls, recipe: Recipe) -> DetectionTask:
        """Open the data, and build a new model for `recipe` with its initial weights."""
        if recipe.weights is None:
            check_initial_weights(recipe, whole=False)
        if recipe.task in ("detect", "instances"):
            require_coco()
        splits = _open_splits(recipe)
        torch.manual_seed(recipe.seed)
        model, preprocessor = build_model(recipe, len(splits.classes), splits.classes)
        recipe = dataclasses.replace(recipe, model=model.net.spec)
        if isinstance(model, Refiner):
            preprocessor = _load_localizer(model, recipe, splits)
        elif isinstance(model, Detector) and model.proposer is not None:
            _load_proposer(model, model.proposer, recipe, preprocessor, splits)
        return cls(recipe, splits, model, preprocessor)

    @classmethod
    def reopen(cls, recipe: Recipe, checkpoint: Checkpoint) -> DetectionTask:
        """Open a run to resume, whose weights are in its checkpoint."""
        splits = _open_splits(recipe, read_fingerprint(checkpoint))
        check_same_classes(checkpoint, splits)
        without_weights = dataclasses.replace(recipe, weights=None)
        model, _ = build_model(without_weights, len(splits.classes))
        return cls(recipe, splits, model, read_preprocess(checkpoint), resumed=True)

    @cached_property
    def examples(self) -> int:
        """Number of images per epoch."""
        return self.stream(torch.device("cpu"), ProcessGroup()).examples

    @property
    def loss_fn(self) -> LossFn:
        """The sum of the losses that the model returns."""
        return model_losses

    def smallest_input(self) -> tuple[int, int, int] | None:
        """Return (C, H, W) of a segmenter's crops; None for others, whose image sizes vary."""
        if self.recipe.task != "segment":
            return None
        return self.recipe.model.in_channels, self.recipe.detect.crop, self.recipe.detect.crop

    def setup(self, device: torch.device) -> None:
        """Recompute the norms' statistics if the recipe requires it (`recompute_norms`)."""
        if self.recipe.detect.recompute_norm:
            recompute_norms(self.model.net, self.stream(device, ProcessGroup()), self.recipe)

    def stream(self, device: torch.device, group: ProcessGroup) -> DetectStream:
        """Return the stream of this process's share of the training batches."""
        return DetectStream(
            self.splits.train,
            self.recipe.data,
            self.recipe.detect,
            self.preprocessor,
            self.recipe.batch_size,
            self.recipe.seed,
            device,
            self.recipe.detection_task,
            group.batch_indices(self.recipe.batch_size, self.recipe.norm_batch or 1),
        )

    def evaluator(self, plan: ExecutionPlan, group: ProcessGroup) -> Evaluate | None:
        """Return the function that evaluates a model during training; None without data for it."""
        if self.recipe.detect.train_part == "proposals":
            return None  # proposals have no classes to evaluate
        candidates = {"val": self.splits.val}
        if self.recipe.eval.watch_test:
            candidates["test"] = self.splits.test()
        splits = {name: split for name, split in candidates.items() if split is not None}

        def evaluate(model: nn.Module) -> dict[str, dict[str, float]]:
            predictor = self._predictor(model, plan)
            measured = {
                name: measure(predictor, split, "training", group=group)
                for name, split in splits.items()
            }
            return {name: each.metrics.percentages for name, each in measured.items()}

        return evaluate if splits else None

    def evaluate_checkpoint(
        self, path: Path, plan: ExecutionPlan, group: ProcessGroup
    ) -> dict[str, Any]:
        """Evaluate the run's checkpoint `path` on validation and, only here, on test."""
        if self.recipe.detect.train_part == "proposals":
            return {}
        model = group.broadcast_from_main(lambda: load_detection_model(path))
        predictor = self._predictor(model.to(plan.device), plan)
        result: dict[str, Any] = {}
        test = self.splits.test() if self.recipe.eval.test else None
        for name, split in (("test", test), ("val", self.splits.val)):
            if split is not None:
                metrics = measure(predictor, split, model.origin, group=group).metrics
                result[name] = {**metrics.percentages, **metrics.to_json()}
        return result

    def _predictor(self, model: nn.Module, plan: ExecutionPlan) -> Predictor:
        assert isinstance(model, DetectionModel)
        device = torch.device(plan.device)
        return Predictor.of((model,), self.preprocessor, device, plan.precision)


def _open_splits(recipe: Recipe, known: Fingerprint | None = None) -> DetectionSplits:
    """Open the recipe's data set.

    The test set is opened, too, so that errors in it are reported before training.
    """
    splits = open_detection(recipe.data, recipe.detect, recipe.detection_task, known, training=True)
    splits.test()
    return splits


def _load_proposer(
    model: Detector,
    proposer: Detector,
    recipe: Recipe,
    preprocessor: Preprocessor,
    splits: DetectionSplits,
) -> None:
    """Load the detector whose proposals `model` is trained on (step 2 of alternating training).

    Raises ConfigError if it is of another kind, or its preprocessing differs.
    """
    where = recipe.detect.proposals_from
    assert where is not None
    trained = load_detection_model(where)
    shared_fields = ("head", "anchor_sizes", "anchor_ratios", "pyramid_from", "pyramid_width")
    if not isinstance(trained, Detector) or trained.classes != splits.classes:
        raise ConfigError(f"detect.proposals_from: {where} is not a detector of these classes")
    assert trained.preprocess is not None
    if trained.preprocess.spec != preprocessor.spec:
        raise ConfigError(
            f"detect.proposals_from: {where} uses another normalization of images than this recipe"
        )
    different = [
        name for name in shared_fields if getattr(trained.spec, name) != getattr(model.spec, name)
    ]
    if different:
        raise ConfigError(f"detect.proposals_from: {where} has a different detect.{different[0]}")
    try:
        proposer.load_state_dict(trained.state_dict())
    except RuntimeError:
        raise ConfigError(f"detect.proposals_from: {where} has a different model") from None


def _load_localizer(model: Refiner, recipe: Recipe, splits: DetectionSplits) -> Preprocessor:
    """Load the localizer from which R-CNN starts, and its backbone unless `weights` is set."""
    assert recipe.detect.proposals_from is not None
    where = recipe.detect.proposals_from
    localizer = load_detection_model(where)
    if not isinstance(localizer, Localizer) or localizer.classes != splits.classes:
        raise ConfigError(
            f"detect.proposals_from: {where} is not a 'pcr' localizer of these classes"
        )
    try:
        model.proposer.load_state_dict(localizer.state_dict())
    except RuntimeError:
        raise ConfigError(
            f"detect.proposals_from: {where} has a different model or different anchors than this "
            "recipe"
        ) from None
    if recipe.weights is None:
        model.net.load_state_dict(localizer.net.state_dict())
    assert localizer.preprocess is not None
    return localizer.preprocess


TARGET_FIELDS = ("boxes", "labels", "masks")


def model_losses(model: Callable[..., Any], batch: Batch) -> Losses:
    """Return the losses of the model (a `LossFn`): their sum is minimized, and each is logged.

    Losses are means over a batch, so they are logged as means weighted by the number of images.
    """
    targets = batch.targets
    if isinstance(targets, list):
        targets = [{name: each[name] for name in TARGET_FIELDS if name in each} for each in targets]
    losses: dict[str, Tensor] = model(batch.images, targets)
    total = sum(losses.values())
    assert isinstance(total, Tensor)
    parts = {"loss": total, **losses}
    return Losses(
        total, {name: each.detach() * len(batch) for name, each in parts.items()}, len(batch)
    )
