"""A block as a user of the package defines one, in a module of its own."""

import threading

import torch
from torch import Tensor, nn

from resnets.models.resnet import BasicBlock
from resnets.train.cuda_graph import capture


class DoubledBlock(BasicBlock):
    """A basic block whose branch is multiplied by a learned number that starts at 2."""

    def __init__(self, config) -> None:
        super().__init__(config)
        self.factor = nn.Parameter(torch.full((1,), 2.0))

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv2(self.norm1(self.conv1(x)))
        return self.norm2(y * self.factor, self.shortcut(x), self.drop_path)


class FailingBlock(BasicBlock):
    """A basic block with a bug: after six training steps it raises an error."""

    steps = 0

    def forward(self, x: Tensor) -> Tensor:
        self.steps += self.training
        if self.steps > 6:
            raise RuntimeError("a bug in a block")
        return super().forward(x)


class UncapturableBlock(BasicBlock):
    """A basic block after whose first training steps a CUDA graph could not be captured."""

    steps = 0

    def forward(self, x: Tensor) -> Tensor:
        self.steps += self.training
        if self.steps == 6 and threading.current_thread() is not threading.main_thread():
            capture.failed.append(None)
        return super().forward(x)
