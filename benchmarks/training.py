"""A network with its data, state and step, as `resnets train` makes them."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from resnets.config import Recipe
from resnets.data import TrainStream, fit_preprocess
from resnets.data.batch import Batch
from resnets.data.dataset.labeled_images import Split, TensorSplit
from resnets.data.loading.batches import eval_batches
from resnets.data.transforms.preprocess import sample_batches
from resnets.evaluate import evaluate_model
from resnets.models import build
from resnets.models.norm import use_cpu_kernels
from resnets.models.speedrun_layers import fit_stem
from resnets.train.cuda_graph import capture
from resnets.train.cuda_graph.start import find_obstacle
from resnets.train.cuda_graph.step import GraphTraining
from resnets.train.data_parallel import DataParallelModel
from resnets.train.execution_plan import choose_plan
from resnets.train.loss import classification_loss
from resnets.train.state import new_state
from resnets.train.step import TrainStep
from resnets.train.tasks.quantize import quantized_loss
from resnets.utils.machine.distributed import ProcessGroup
from resnets.utils.machine.environment import tune_malloc

EAGER, COMPILED = "eager", "compiled"
GRAPH, GRAPH_OF_BLOCKS = "one graph", "one graph of compiled blocks"
MODES = (EAGER, COMPILED, GRAPH, GRAPH_OF_BLOCKS)


def random_images(count: int, size: int, classes: int = 10) -> TensorSplit:
    """Return a data set of random uint8 images in memory: a step takes the same time on any."""
    rng = np.random.default_rng(0)
    images = torch.from_numpy(rng.integers(0, 256, (count, size, size, 3), dtype=np.uint8))
    labels = torch.from_numpy(rng.integers(0, classes, count))
    return TensorSplit(images, labels, tuple(map(str, range(classes))), "random images")


class Training:
    """A run of `recipe` on `split` that takes `total` steps in one of the `MODES`.

    group: the processes that share a batch. On a CPU the steps of a graph are plain calls.
    """

    def __init__(
        self,
        device: torch.device,
        recipe: Recipe,
        split: Split,
        mode: str = EAGER,
        total: int = 100_000,
        group: ProcessGroup = ProcessGroup(),  # noqa: B008 (frozen)
    ) -> None:
        torch.manual_seed(recipe.seed)
        self.model = build(recipe.model).to(device).to(memory_format=torch.channels_last).train()
        is_cuda = device.type == "cuda"
        if not is_cuda:
            tune_malloc()
            use_cpu_kernels(self.model)
        self.recipe = recipe
        self.plan = choose_plan(recipe, self.model, len(split), str(device))
        self.preprocessor = fit_preprocess(split, recipe.data, recipe.model.in_channels)
        fit_stem(self.model, sample_batches(split, self.preprocessor))
        self.stream = TrainStream(
            split,
            recipe.data,
            self.preprocessor,
            recipe.batch_size,
            recipe.seed,
            device,
            group=group,
        )
        self.state = new_state(self.model, recipe, total, precision=self.plan.precision)
        self.cuda_stream = torch.cuda.Stream(device) if is_cuda else None
        module = torch.compile(self.model, dynamic=False) if mode == COMPILED else self.model
        self.forward = model = DataParallelModel(module, group)
        loss_fn = classification_loss(recipe.loss)
        if recipe.finetune.quantize:
            loss_fn = quantized_loss(loss_fn)
        train_step = TrainStep(self.state, model, loss_fn, self.plan.autocast(), recipe)
        step: Callable[[Batch], None] = train_step
        batches = self.stream.batches(0, total)
        if mode in (GRAPH, GRAPH_OF_BLOCKS):
            reason = find_obstacle(recipe, self.stream, model, device)
            if is_cuda and reason is not None:
                raise ValueError(f"no graph: {reason}")
            graph = GraphTraining(
                train_step,
                self.stream,
                total,
                compile_blocks=mode == GRAPH_OF_BLOCKS,
                capture=capture.capture if is_cuda else capture.plain,
            )
            step, batches = graph.step, graph.batches(0, total)
        self.step: Callable[[], Any] = lambda: step(next(batches))

    def on_own_stream(self) -> Any:
        """Return a context in which steps run on the CUDA stream of this run."""
        return nullcontext() if self.cuda_stream is None else torch.cuda.stream(self.cuda_stream)

    def test_error(self, split: Split) -> float:
        """Return the top-1 error in percent, one view, of the averaged weights if there are any."""
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
    """Return `recipe` with another seed."""
    return replace(recipe, seed=seed)
