"""A network with its data, state and step, as the product makes them."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from gpu_checks.case import Setting
from resnets import recipes
from resnets.config import Recipe, replace_fields
from resnets.data import TrainStream, fit_preprocess
from resnets.data.batch import Batch
from resnets.data.dataset.labeled_images import Split, TensorSplit
from resnets.data.loading.loader import eval_batches
from resnets.evaluate import evaluate_model
from resnets.models import build
from resnets.train.cuda_graph import capture
from resnets.train.cuda_graph.start import find_obstacle
from resnets.train.cuda_graph.step import GraphTraining
from resnets.train.data_parallel import DataParallelModel
from resnets.train.execution_plan import choose_plan
from resnets.train.loss import classification_loss
from resnets.train.state import new_state
from resnets.train.step import TrainStep

EAGER, COMPILED = "eager", "compiled"
GRAPH, GRAPH_OF_BLOCKS = "one graph", "one graph of compiled blocks"
WAYS = (EAGER, COMPILED, GRAPH, GRAPH_OF_BLOCKS)


def random_images(count: int, size: int, classes: int = 10) -> TensorSplit:
    """A set in memory: the speed of a step does not depend on what the images show."""
    rng = np.random.default_rng(0)
    images = torch.from_numpy(rng.integers(0, 256, (count, size, size, 3), dtype=np.uint8))
    labels = torch.from_numpy(rng.integers(0, classes, count))
    return TensorSplit(images, labels, tuple(map(str, range(classes))), "random images")


def cifar_recipe(setting: Setting, net: str, fields: dict[str, str] | None = None) -> Recipe:
    """The paper's recipe for a CIFAR network, of tiny size where `setting` says so."""
    recipe = recipes.recipe("cifar10-paper", net)
    tiny = {"model.depths": "[1,1,1]", "batch_size": "16"} if setting.tiny else {}
    return replace_fields(recipe, {"model.num_classes": "10"} | tiny | (fields or {}))


class Training:
    """A run of `recipe` on `split` that takes `total` steps, one of `WAYS` to step.

    On a CPU the graph is a plain call of what it would hold.
    """

    def __init__(
        self, setting: Setting, recipe: Recipe, split: Split, way: str, total: int
    ) -> None:
        device = setting.device
        torch.manual_seed(recipe.seed)
        self.model = build(recipe.model).to(device).to(memory_format=torch.channels_last).train()
        self.recipe = recipe
        self.plan = choose_plan(recipe, self.model, len(split), str(device))
        self.preprocessor = fit_preprocess(split, recipe.data, recipe.model.in_channels)
        self.stream = TrainStream(
            split, recipe.data, self.preprocessor, recipe.batch_size, recipe.seed, device
        )
        self.state = new_state(self.model, recipe, total, precision=self.plan.precision)
        self.cuda_stream = torch.cuda.Stream(device) if setting.cuda else None
        forward = torch.compile(self.model, dynamic=False) if way == COMPILED else self.model
        model, loss_fn = DataParallelModel(forward), classification_loss(recipe.loss)
        train_step = TrainStep(self.state, model, loss_fn, self.plan.autocast(), recipe)
        step: Callable[[Batch], None] = train_step
        batches = self.stream.batches(0, total)
        if way in (GRAPH, GRAPH_OF_BLOCKS):
            reason = find_obstacle(recipe, self.stream, model, device)
            if setting.cuda and reason is not None:
                raise ValueError(f"no graph: {reason}")
            graph = GraphTraining(
                train_step,
                self.stream,
                total,
                compile_blocks=way == GRAPH_OF_BLOCKS,
                capture=capture.capture if setting.cuda else capture.plain,
            )
            step, batches = graph.step, graph.batches(0, total)
        self.step: Callable[[], Any] = lambda: step(next(batches))

    def on_own_stream(self) -> Any:
        """Context in which steps go to this run's own CUDA stream."""
        return nullcontext() if self.cuda_stream is None else torch.cuda.stream(self.cuda_stream)

    def test_error(self, split: Split) -> float:
        """Top-1 error in percent, one view, of the averaged weights if there are any."""
        device = self.stream.device
        evaluation = evaluate_model(
            self.state.eval_model,
            eval_batches(split, self.preprocessor, 2000, device),
            split.classes,
            protocol="one view",
            precision=self.plan.precision,
            device=device,
        )
        return evaluation.top1_error


def with_seed(recipe: Recipe, seed: int) -> Recipe:
    """The same recipe with another seed."""
    return replace(recipe, seed=seed)
