"""Small real runs that the tests of the studies share."""

import dataclasses
from pathlib import Path

from resnets.models import ImageClassifier
from resnets.recipes import recipe
from resnets.study.analysis import Subject
from resnets.study.trained_models import LabeledImages
from resnets.train import run as training


def train_on_digits(folder: Path, net: str, iterations: int = 12, **data) -> Path:
    """A run of `net` on the embedded digits, in float32 on the CPU; returns its folder."""
    chosen = recipe("digits", net)
    chosen = dataclasses.replace(
        chosen,
        duration=f"{iterations}it",
        precision="float32",
        data=dataclasses.replace(chosen.data, **data),
    )
    training.run(chosen, folder, device="cpu", quiet=True)
    return folder


def make_subject(net: ImageClassifier, images: LabeledImages, seed: int = 0) -> Subject:
    """The subject of an analysis that needs no training images."""
    return Subject("net", Path("net"), net, images, images.evaluate(net), None, seed)
