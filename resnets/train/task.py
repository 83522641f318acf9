"""What a task brings to a run; the run itself is the same for all of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import nn

from resnets.config import Recipe
from resnets.data.dataset.summary import DataSummary
from resnets.data.splits.report import SetReport
from resnets.train.loop import Evaluate, Stream
from resnets.train.loss import LossFn
from resnets.utils.distributed import ProcessGroup


@dataclass(frozen=True)
class ExecutionPlan:
    """What "auto" became on this machine.

    Kept in the checkpoint: a resumed run takes its precision from there, where its device can, and
    says which of the others differ.

    fused: norm, addition and relu in one kernel (`models.norm_act`), which compiling would undo.
    tiles: gradients of convolutions' weights on AMX tiles (`models.convolution`).
    """

    device: str
    precision: str
    compiled: bool
    fused: bool
    tiles: bool
    keeps_pages: bool

    def autocast(self) -> torch.autocast:
        """Context of the forward pass."""
        return torch.autocast(
            torch.device(self.device).type,
            dtype=torch.bfloat16,
            enabled=self.precision == "bfloat16",
        )


class Task(Protocol):
    """Data, model, loss and measures of one run.

    recipe: fitted to the data. data: the set's name. title: what is trained on what, for the person
    at the terminal. summary: what was understood of the data.
    fixed: what each checkpoint says besides, `classes` and `preprocess` among it. monitor: the
    validation figure that chooses the best checkpoint. images: what is trained on and held out.
    """

    recipe: Recipe
    data: str
    title: str
    summary: DataSummary
    fixed: Mapping[str, Any]
    monitor: str
    images: SetReport

    @property
    def model(self) -> nn.Module:
        """What is trained."""
        ...

    @property
    def examples(self) -> int:
        """Pictures in one epoch."""
        ...

    @property
    def loss_fn(self) -> LossFn:
        """The task's loss."""
        ...

    @property
    def mean_image(self) -> torch.Tensor | None:
        """The mean picture (C, H, W) that preprocessing subtracts, where it does."""
        ...

    def smallest_input(self) -> tuple[int, int, int] | None:
        """(C, H, W) of the smallest training images; None where they may be of any size."""
        ...

    def begin(self, device: torch.device) -> None:
        """Done once, before the first step, with the model on `device`."""
        ...

    def stream(self, device: torch.device, rank: ProcessGroup) -> Stream:
        """This process's parts of the training batches."""
        ...

    def compiled(self) -> nn.Module:
        """The model's compiled form, for the forward pass of training."""
        ...

    def evaluator(self, means: ExecutionPlan, rank: ProcessGroup) -> Evaluate | None:
        """What the loop calls to measure a model; None where there is nothing to measure on.

        All processes call it at once, and all get the figures of all.
        """
        ...

    def conclude(self, path: Path, means: ExecutionPlan, rank: ProcessGroup) -> dict[str, Any]:
        """Figures by split of the finished run's checkpoint `path`, the test set among them.

        The first process reads it, and the others get the net from there.
        """
        ...
