"""A custom loss: the focal loss (Lin et al. 2017), for rare classes.

python examples/custom_loss.py --epochs 20
"""

import argparse

from torch import Tensor
from torch.nn import functional as F

import resnets


def focal_loss(logits: Tensor, targets: Tensor, gamma: float = 2.0) -> Tensor:
    """Return losses (B,) of logits (B, K) and classes (B,), in which easy images count less."""
    cross_entropy = F.cross_entropy(logits, targets, reduction="none")
    return (1 - (-cross_entropy).exp()) ** gamma * cross_entropy


parser = argparse.ArgumentParser()
parser.add_argument("--epochs", type=float, default=20)
parser.add_argument("--out", default="runs/focal-loss")
arguments = parser.parse_args()

# resume=True: the same command resumes a stopped run.
run = resnets.train(
    "digits", loss=focal_loss, epochs=arguments.epochs, out=arguments.out, resume=True
)
print(f"{run.result['test']['top1_error']:.2f}% test error; report: {run.report}")
