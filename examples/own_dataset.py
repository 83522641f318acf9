"""A custom data set (`torch.utils.data.Dataset`) and a custom network.

python examples/own_dataset.py --epochs 20
"""

import argparse

from PIL import Image
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import Dataset

import resnets


class Even(Dataset):
    """Scikit-learn's digits with two classes, even and odd."""

    classes = ("even", "odd")  # optional; the default names are "0" and "1"

    def __init__(self, rows: slice) -> None:
        digits = load_digits()
        self.images, self.labels = digits.images[rows], digits.target[rows] % 2

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, row: int) -> tuple[Image.Image, int]:
        pixels = (self.images[row] * (255 / 16)).astype("uint8")
        return Image.fromarray(pixels).resize((16, 16)), int(self.labels[row])


def make_net(spec: resnets.ModelSpec) -> nn.Module:
    """Return a network from images (B, C, H, W) to logits (B, K)."""
    return nn.Sequential(
        nn.Conv2d(spec.in_channels, 32, 3, 2, 1),
        nn.BatchNorm2d(32),
        nn.ReLU(),
        nn.Conv2d(32, 64, 3, 2, 1),
        nn.BatchNorm2d(64),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(64, spec.num_classes),
    )


parser = argparse.ArgumentParser()
parser.add_argument("--epochs", type=float, default=20)
parser.add_argument("--out", default="runs/own-dataset")
arguments = parser.parse_args()
data = {"train": Even(slice(1400)), "test": Even(slice(1400, None))}
run = resnets.train("digits", data=data, model=make_net, epochs=arguments.epochs, out=arguments.out)
print(f"{run.result['test']['top1_error']:.2f}% test error")
image, label = data["test"][0]
(prediction,) = resnets.predict(run, image)
print(f"{Even.classes[label]} image: {prediction.probabilities[0]:.0%} {prediction.classes[0]}")
