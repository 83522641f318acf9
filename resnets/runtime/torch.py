"""torch: networks of ours on any device, and `torch.export` programs (.pt2) on the CPU."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from resnets.evaluate.batch_size import Budget
from resnets.models import Net
from resnets.runtime.artifact import KEY, ArtifactError, ArtifactMetadata
from resnets.runtime.base import ArtifactEngine, Engine, Pictures, Scores, unreadable
from resnets.runtime.graph import Deployed
from resnets.runtime.pt2_archive import check_archive
from resnets.utils import environment
from resnets.utils.signals import signals_later


class TorchEngine(Engine):
    """A net of ours in torch, folded, on any device."""

    def __init__(self, net: Net, device: str = "auto", precision: str = "auto") -> None:
        self.device = environment.pick_device(device)
        if self.device.type == "cpu":
            environment.tune_malloc()
        precise = environment.pick_precision(precision, self.device)
        name = f"torch {precise}, {environment.device_name(self.device)}"
        super().__init__(name, net.classes, net.preprocess, net.origin, net.recipe)
        self.graph: nn.Module = Deployed(net, precise).to(self.device)
        self.budget = Budget(self.device)
        self.batch = self.budget.pictures(self.size**2)

    def _compute(self, pictures: Pictures) -> Scores:
        with torch.inference_mode():
            images = torch.from_numpy(pictures).permute(0, 3, 1, 2)  # as the budget counts pixels
            scores: Scores = self.budget.run(self._part, images).numpy()
            return scores

    def _part(self, images: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.graph(images.permute(0, 2, 3, 1).to(self.device))
        return logits.cpu()


class ProgramEngine(ArtifactEngine):
    """A .pt2 file in torch, on the CPU."""

    def __init__(self, path: Path) -> None:
        extra = {f"{KEY}.json": ""}
        try:
            check_archive(path)
            with signals_later():
                program = torch.export.load(path, extra_files=extra)
            # Guards are source of the file that would be compiled; `logits` looks at shapes itself.
            self.graph = program.module(check_guards=False)
        except ArtifactError:
            raise
        except Exception as error:  # arbitrary bytes make the reader raise errors of any kind
            raise unreadable(path, error) from None
        super().__init__(ArtifactMetadata.from_text(extra[f"{KEY}.json"], path), path)
        environment.tune_malloc()

    def _compute(self, pictures: Pictures) -> Scores:
        with torch.inference_mode():
            scores: Scores = self.graph(torch.from_numpy(pictures)).numpy()
            return scores
