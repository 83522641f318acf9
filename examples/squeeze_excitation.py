"""A custom block: squeeze-and-excitation (Hu et al. 2018) at several depths.

python examples/squeeze_excitation.py --epochs 20
"""

import argparse
from functools import partial

from torch import Tensor, nn

import resnets
from resnets.models.resnet import BasicBlock, ResNet


class SEBlock(BasicBlock):
    """A basic block with squeeze-and-excitation of its residual branch (Fig. 3)."""

    def __init__(self, config) -> None:
        super().__init__(config)
        channels, squeezed = config.out_channels, max(4, config.out_channels // 16)
        self.gate = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            nn.Conv2d(channels, squeezed, 1),
            nn.ReLU(),
            nn.Conv2d(squeezed, channels, 1),
            nn.Sigmoid(),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, in_channels, H, W) to (B, out_channels, H', W')."""
        y = self.conv2(self.norm1(self.conv1(x)))
        return self.norm2(y * self.gate(y), self.shortcut(x), self.drop_path)


parser = argparse.ArgumentParser()
parser.add_argument("--epochs", type=float, default=20)
parser.add_argument("--depths", type=int, nargs="+", default=[8, 14, 20])
parser.add_argument("--out", default="runs/squeeze-excitation")
arguments = parser.parse_args()
for depth in arguments.depths:
    recipe = resnets.recipes.recipe("digits", f"cifar-resnet{depth}")
    for name, model in (("basic", ResNet), ("se", partial(ResNet, block=SEBlock))):
        out = f"{arguments.out}/{name}-{depth}"
        run = resnets.train(recipe, model=model, epochs=arguments.epochs, out=out, resume=True)
        print(f"{name} block, {depth} layers: {run.result['test']['top1_error']:.2f}% test error")
