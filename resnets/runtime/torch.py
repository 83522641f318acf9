"""PyTorch: models on any device, and `torch.export` programs (.pt2) on the CPU."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import nn

from resnets.evaluate.batched_inference import PixelBudget
from resnets.models import ImageClassifier
from resnets.runtime.artifact import KEY, ArtifactError, ArtifactMetadata
from resnets.runtime.base import ArtifactEngine, Engine, Images, Scores, open_error
from resnets.runtime.check_pt2 import check_archive
from resnets.runtime.graph import InferenceModule
from resnets.utils import environment
from resnets.utils.errors import within_memory
from resnets.utils.precision import pick_precision
from resnets.utils.processes import deferred_signals


class TorchEngine(Engine):
    """A PyTorch model with folded batch norms, on any device."""

    def __init__(
        self, model: ImageClassifier, device: str = "auto", precision: str = "auto"
    ) -> None:
        self.device = environment.pick_device(device)
        if self.device.type == "cpu":
            environment.tune_malloc()
        resolved = pick_precision(precision, self.device)
        name = f"torch {resolved}, {environment.device_name(self.device)}"
        super().__init__(
            name, model.classes, model.preprocess, model.origin, model.recipe, model.postprocess
        )
        with within_memory(f"the model does not fit on {self.device}", "use --device cpu"):
            self.graph: nn.Module = InferenceModule(model, resolved).to(self.device)
        self.budget = PixelBudget(self.device)
        self.batch = self.budget.images(self.size**2)

    def _compute(self, images: Images) -> Scores:
        with torch.inference_mode():
            tensor = torch.from_numpy(images).permute(0, 3, 1, 2)  # NCHW, as `PixelBudget` expects
            scores: Scores = self.budget.run(self._compute_chunk, tensor).numpy()
            return scores

    def _compute_chunk(self, tensor: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.graph(tensor.permute(0, 2, 3, 1).to(self.device))
        return logits.cpu()


class ProgramEngine(ArtifactEngine):
    """A .pt2 file in PyTorch, on the CPU."""

    def __init__(self, path: Path) -> None:
        extra = {f"{KEY}.json": ""}
        try:
            check_archive(path)
            with deferred_signals(), _quiet():
                program = torch.export.load(path, extra_files=extra)
            # Guards are source code in the file that would be compiled; `logits` checks shapes.
            self.graph = program.module(check_guards=False)
        except ArtifactError:
            raise
        except Exception as error:  # arbitrary bytes can raise exceptions of any type
            raise open_error(path, error) from None
        super().__init__(ArtifactMetadata.from_json(extra[f"{KEY}.json"], path), path)
        environment.tune_malloc()

    def _compute(self, images: Images) -> Scores:
        with torch.inference_mode():
            scores: Scores = self.graph(torch.from_numpy(images)).numpy()
            return scores


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep torch.export from logging the errors that it raises, with their traces."""
    logger = logging.getLogger("torch.export")
    before, logger.disabled = logger.disabled, True
    try:
        yield
    finally:
        logger.disabled = before
