"""`Net`, the common base of every net here: logits, named stages, activation checkpointing."""

from __future__ import annotations

import importlib
import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from resnets.config import ModelSpec, Recipe
from resnets.models.norm import BATCH_NORMS


class Net(nn.Module, ABC):
    """An image classifier that is a chain of named stages and a head.

    Stages are submodules of this object named by `stage_names` (`stem`, `stage1`, ...), so that a
    detector can run some of them on whole pictures and the rest on regions. `head` is the linear
    layer that gives the logits. Any input size works; the features are pooled to one size.
    `recompute` trades about a third more computation for memory; see `_run`.
    A loaded net also carries its preprocessing, class names, recipe and origin.
    """

    stage_names: tuple[str, ...]
    input_layer: ClassVar[str]
    head: nn.Linear

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        self.spec = spec
        self.recompute = False
        self.preprocess: Any = None
        self.classes: tuple[str, ...] = ()
        self.recipe: Recipe | None = None
        self.fingerprint: Any = None  # `data.splits.fingerprint.Fingerprint` of the run's images
        self.origin = "random initialisation"

    @abstractmethod
    def classify(self, features: Tensor) -> Tensor:
        """Logits (B, K) from the last stage's output (B, C, H, W)."""

    def save(
        self, folder: str | Path, *, classes: Sequence[str] | None = None, preprocess: Any = None
    ) -> None:
        """Write a new folder that `resnets.load` and every command read: weights, config.json.

        classes, preprocess (a `Preprocess` or `Preprocessor`): where the net does not carry its own
        (`.classes`, `.preprocess`), or in their place. Without either, a reader is told that none
        were said. Raises ConfigError where the folder holds something.
        """
        # By name: weights know of nets, and nets not of weights.
        saving = importlib.import_module("resnets.weights.save")
        saving.save_net(self, Path(folder), classes=classes, preprocess=preprocess)

    def stages(self, x: Tensor, last: str | None = None) -> dict[str, Tensor]:
        """Output of every stage, first to last, for pictures `x` (B, C, H, W); `last` ends it."""
        named = {}
        for name in self.stage_names:
            x = named[name] = self._run(self.get_submodule(name), x)
            if name == last:
                break
        return named

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, K) of pictures `x` (B, C, H, W)."""
        return self.classify(self.stages(x)[self.stage_names[-1]])

    def _run(self, stage: nn.Module, x: Tensor) -> Tensor:
        """One stage; with `recompute`, its blocks in segments whose insides are not stored.

        A block stores about four maps for its backward pass, a border between segments one. With
        n blocks in segments of k, n/k borders and the 4k maps of the segment at work are alive,
        least at k = sqrt(n) / 2: 7 of the 200 blocks of a stage of cifar-resnet1202 leave 57 maps
        of 800. Per block (k = 1) leaves 204, a whole stage (k = n) all 800 at its backward pass.
        A training step of batch 128 peaks at about 1 GiB in place of 11 (float32).
        """
        # The stem is stored as it is; where autograd records nothing there is nothing to save.
        if not (
            self.recompute
            and self.training
            and torch.is_grad_enabled()
            and isinstance(stage, nn.Sequential)
        ):
            return stage(x)
        length = max(2, round(math.sqrt(len(stage)) / 2))
        for start in range(0, len(stage), length):
            x = _checkpointed(stage[start : start + length], x, draws=self.spec.drop_path > 0)
        return x


def _checkpointed(segment: nn.Sequential, x: Tensor, draws: bool) -> Tensor:
    """`segment(x)` that stores only `x` and runs again in the backward pass.

    draws: whether the segment draws random numbers, which must then be the same again.
    """

    def contexts() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        return nullcontext(), _unchanged_statistics(segment)

    # A compiled graph updates the statistics in its forward part only, and takes no contexts.
    options: dict[str, Any] = {} if torch.compiler.is_compiling() else {"context_fn": contexts}
    return checkpoint(segment, x, use_reentrant=False, preserve_rng_state=draws, **options)


@contextmanager
def _unchanged_statistics(module: nn.Module) -> Iterator[None]:
    """Let batch norms count the batch they see again into copies of their statistics."""
    kept = [
        (norm, name, buffer)
        for norm in module.modules()
        if isinstance(norm, BATCH_NORMS) and norm.training
        for name, buffer in norm.named_buffers(recurse=False)
    ]
    for norm, name, buffer in kept:
        setattr(norm, name, buffer.clone())
    try:
        yield
    finally:
        for norm, name, buffer in kept:
            setattr(norm, name, buffer)
