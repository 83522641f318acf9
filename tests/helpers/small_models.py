"""Small nets with lively statistics, and odd-shaped images, for the tests of evaluation."""

import dataclasses
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn
from torch.nn import functional as F

from resnets.config import ModelSpec, Preprocess
from resnets.data import FileSplit, Preprocessor
from resnets.data.files.folder import FolderFiles
from resnets.models import ImageClassifier, build

CLASSES = ("ant", "bee", "cat", "dog")
SIZES = ((40, 31), (31, 40), (64, 33), (50, 50), (40, 31), (33, 90), (200, 30))  # width, height

RESIDUAL = ModelSpec(
    name="small-residual", depths=(1, 1), widths=(8, 16), stem="cifar", stem_width=8
)  # fmt: skip
PREACT = ModelSpec(
    name="small-preact", block="preact-basic", depths=(1, 1), widths=(8, 16), stem="cifar",
    stem_width=8,
)  # fmt: skip
VGG = ModelSpec(name="small-vgg", block="vgg", depths=(1, 1), widths=(6, 8), dropout=0.5)


def small_net(
    spec: ModelSpec,
    *,
    size: int = 28,
    resize: int = 32,
    classes: tuple[str, ...] = CLASSES,
    seed: int = 0,
    mean_image: bool = False,
    channels: int = 3,
) -> ImageClassifier:
    """A net in eval mode whose norms and biases are not at their first values."""

    torch.manual_seed(seed)
    spec = dataclasses.replace(
        spec, num_classes=len(classes), input_size=size, in_channels=channels
    )
    net = build(spec)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.3)
            module.running_var.uniform_(0.5, 2)
        elif isinstance(module, nn.Linear):
            nn.init.normal_(module.bias, 0, 0.3)
    _spread(net.eval(), channels, size)
    preprocess = Preprocess(
        size=size,
        resize=resize,
        channels=channels,
        mean=(0.45,) * channels,
        std=(0.25,) * channels,
        mean_image=mean_image,
    )
    mean = torch.rand(channels, size, size) if mean_image else None
    net.preprocess = Preprocessor(preprocess, mean)
    net.classes, net.origin = classes, f"{spec.name}.safetensors"
    return net


@torch.no_grad()
def _spread(net: ImageClassifier, channels: int, size: int) -> None:
    """Scale the head so that spotted images are told apart: logits of mean 0, deviation 1.5."""
    spots = F.interpolate(2 * torch.randn(16, channels, 3, 3), size=(size, size), mode="bicubic")
    logits = net(spots)
    net.head.weight.mul_(1.5 / logits.std(0)[:, None])
    net.head.bias.copy_(-1.5 * (logits.mean(0) - net.head.bias) / logits.std(0))


def write_images(folder: Path, sizes: tuple[tuple[int, int], ...] = SIZES) -> FileSplit:
    """A few blurred spots as PNG files of these sizes (width, height), with labels in turn."""
    folder.mkdir(parents=True, exist_ok=True)
    names = [f"{number:02}.png" for number in range(len(sizes))]
    for number, (name, (width, height)) in enumerate(zip(names, sizes, strict=True)):
        noise = np.random.default_rng(number).integers(0, 256, (3, 3, 3), dtype=np.uint8)
        Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC).save(folder / name)
    labels = torch.arange(len(sizes)) % len(CLASSES)
    return FileSplit(FolderFiles(folder, names), labels, CLASSES, f"{len(sizes)} noises")
