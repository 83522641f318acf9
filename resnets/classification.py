"""What classification brings to a run (`train.task.Work`)."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from resnets.config import ConfigError, Recipe, to_dict
from resnets.data import FileSplit, Split, Splits, open_data, prepare
from resnets.data.loading.loader import TrainStream, eval_batches
from resnets.data.splits.report import SetReport
from resnets.data.transforms.mirror_check import mirror_warning
from resnets.data.transforms.preprocess import Preprocessor, fit_preprocess
from resnets.data.transforms.progressive_resize import at_size
from resnets.evaluate import Evaluation, describe_protocol, evaluate_model
from resnets.models import Net, build
from resnets.train.loop import Evaluate
from resnets.train.loss import LossFn, classification
from resnets.train.task import ExecutionPlan
from resnets.utils.distributed import ProcessGroup
from resnets.weights.adapt import check_size, fit_known
from resnets.weights.checkpoint.fingerprint import read_fingerprint
from resnets.weights.checkpoint.format import Checkpoint, CheckpointError
from resnets.weights.initial import net_from, read_weights
from resnets.weights.load import load, read_preprocess

log = logging.getLogger("resnets")

FIGURES = ("top1_error", "top5_error", "loss")


class ClassificationTask:
    """A classifier and its pictures."""

    def __init__(
        self,
        recipe: Recipe,
        splits: Splits,
        net: Net,
        preprocessor: Preprocessor,
        *,
        resumed: bool = False,
    ) -> None:
        if recipe.eval.patience is not None and splits.val is None:
            raise ConfigError(
                "eval.patience: stopping early needs a validation split; set data.val_fraction"
            )
        net.recompute = recipe.recompute
        self.recipe, self.splits, self.model = recipe, splits, net
        self.preprocessor, self.mean_image = preprocessor, preprocessor.mean_image
        self.data, self.summary = splits.name, splits.summary
        assert splits.fingerprint is not None
        self.images = SetReport(
            splits.fingerprint, splits.changes, splits.overlap, resumed, splits.checked
        )
        self.monitor = "top1_error"
        self.fixed: Mapping[str, Any] = {
            "classes": list(splits.classes),
            "preprocess": to_dict(preprocessor.spec),
        }
        held = (
            f"{len(splits.val):,} validation" if splits.val is not None else "no validation split"
        )
        self.title = (
            f"{recipe.net_name} on {splits.name}: {len(splits.train):,} training pictures, {held}"
        )

    @classmethod
    def open(cls, recipe: Recipe) -> ClassificationTask:
        """Fit the recipe to the data's classes and picture size; build net and preprocessing."""
        splits = open_data(recipe.data, training=True)
        data = dataclasses.replace(recipe.data, value_range=splits.value_range)
        recipe = dataclasses.replace(recipe, data=data)
        if data.augment.flip and (warning := mirror_warning(splits.classes)):
            log.warning("%s", warning)
        weights = None if recipe.weights is None else read_weights(recipe.weights, recipe.model)
        if data.size is None and isinstance(splits.train, FileSplit):
            data = dataclasses.replace(data, size=recipe.model.input_size)
            recipe = dataclasses.replace(recipe, data=data)
        if weights is not None and data.tested_at is not None:
            check_size(weights, recipe.model, data.tested_at, recipe.weights_size)
        if weights is None or weights.preprocess is None:
            preprocessor = fit_preprocess(splits.train, data, recipe.model.in_channels)
        else:
            log.info("%s: normalisation from the weights, not data.normalise", recipe.weights)
            channels = recipe.model.in_channels
            preprocessor = fit_known(weights.preprocess, splits.train, data, channels)
        spec = dataclasses.replace(
            recipe.model, num_classes=len(splits.classes), input_size=preprocessor.spec.size
        )
        torch.manual_seed(recipe.seed)
        if weights is None:
            net = build(spec)
        else:
            check_size(weights, spec, spec.input_size, recipe.weights_size)
            net = net_from(weights, spec, classes=splits.classes, policy=recipe.weights_head)
        return cls(dataclasses.replace(recipe, model=net.spec), splits, net, preprocessor)

    @classmethod
    def reopen(cls, recipe: Recipe, checkpoint: Checkpoint) -> ClassificationTask:
        """The same for a run to go on with: its weights need not be at hand again."""
        known = read_fingerprint(checkpoint)
        splits = open_data(recipe.data, known, training=True)
        if checkpoint.classes != splits.classes:
            raise CheckpointError(
                f"{checkpoint.path}: was trained on other classes than {splits.name} has"
            )
        net, preprocessor = build(recipe.model), read_preprocess(checkpoint)
        return cls(recipe, splits, net, preprocessor, resumed=True)

    @property
    def examples(self) -> int:
        """Pictures in one epoch."""
        return len(self.splits.train)

    @property
    def loss_fn(self) -> LossFn:
        """The recipe's loss."""
        return classification(self.recipe.label_smoothing, self.recipe.loss)

    def smallest_input(self) -> tuple[int, int, int]:
        """(C, H, W) of the smallest training images."""
        data, side = self.recipe.data, self.preprocessor.spec.size
        sizes = (each for each in (data.size, data.grow_from, side) if each is not None)
        return (self.recipe.model.in_channels, smallest := min(sizes), smallest)

    def begin(self, device: torch.device) -> None:
        """Nothing to do."""

    def stream(self, device: torch.device, rank: ProcessGroup) -> TrainStream:
        """This process's parts of the training batches."""
        size = self.recipe.data.size
        return TrainStream(
            self.splits.train,
            self.recipe.data,
            self.preprocessor if size is None else at_size(self.preprocessor, size),
            self.recipe.batch_size,
            self.recipe.seed,
            device,
            channels_last=self.recipe.channels_last,
            rank=rank,
            norm_batch=self.recipe.norm_batch,
        )

    def compiled(self) -> nn.Module:
        """One graph for each size of growing pictures, fixed like all others."""
        return torch.compile(self.model, dynamic=False)  # type: ignore[return-value]

    def evaluator(self, means: ExecutionPlan, rank: ProcessGroup) -> Evaluate | None:
        """What the loop calls to measure a model; None where there is nothing to measure on."""
        watching = self.recipe.eval.watch_test
        watched = {"val": self.splits.val, "test": self.splits.test() if watching else None}
        present = {
            name: prepare(split, self.preprocessor)
            for name, split in watched.items()
            if split is not None
        }

        def evaluate(model: nn.Module) -> dict[str, dict[str, float]]:
            figures = {}
            for name, split in present.items():
                measured, missed = self._measure(
                    model, split, self.preprocessor, means, "training", rank
                )
                figures[name] = _figures(measured)
                figures[name]["unreadable"] = len(missed)
            return figures

        return evaluate if present else None

    def conclude(self, path: Path, means: ExecutionPlan, rank: ProcessGroup) -> dict[str, Any]:
        """Errors of the run's checkpoint `path` on validation and, this once, on test."""
        net = rank.broadcast_from_main(lambda: load(path)).to(means.device)
        result: dict[str, Any] = {}
        for name, split in (("test", self.splits.test()), ("val", self.splits.val)):
            if split is None:
                continue
            found, missed = self._measure(net, split, net.preprocess, means, net.origin, rank)
            measured = found.to_json()
            kept = (*FIGURES, "examples", "protocol")
            result[name] = {key: measured[key] for key in kept if key in measured}
            result[name]["unreadable"] = missed
        result["train"] = {"unreadable": _unreadable(self.splits.train, rank)}
        return result

    def _measure(
        self,
        net: nn.Module,
        split: Split,
        preprocessor: Preprocessor,
        means: ExecutionPlan,
        weights: str,
        rank: ProcessGroup,
    ) -> tuple[Evaluation, list[str]]:
        """Figures of all processes together, and what is wrong with pictures left out."""
        device = torch.device(means.device)
        rows = None if rank.world_size == 1 else rank.shard(list(range(len(split))))
        measured = evaluate_model(
            net,
            eval_batches(split, preprocessor, self.recipe.eval.batch_size, device, rows=rows),
            split.classes,
            protocol=describe_protocol(
                size=preprocessor.spec.size,
                precision=means.precision,
                weights=weights,
                data=split.description,
            ),
            precision=means.precision,
            device=device,
        )
        missed = _unreadable(split, rank)
        return measured.leaving_out(len(missed)), missed


def _figures(measured: Evaluation) -> dict[str, float]:
    """What a log has of a measurement."""
    return {key: value for key, value in measured.figures.items() if key in FIGURES}


def _unreadable(split: Split, rank: ProcessGroup) -> list[str]:
    """What is wrong with pictures that any process met; each reads a set in memory whole."""
    found = dict(rank.gather(list(split.unreadable.found.items())))
    return [message for _, message in sorted(found.items())]
