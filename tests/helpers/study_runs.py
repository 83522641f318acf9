"""Small real runs that the tests of the studies share."""

import dataclasses
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from resnets.models import ImageClassifier
from resnets.recipes import recipe
from resnets.study.analyses.base import Subject
from resnets.study.grid import worker
from resnets.study.trained_models import LabeledImages
from resnets.train.run import run_training


def train_on_digits(folder: Path, net: str, iterations: int = 12, **data) -> Path:
    """A run of `net` on the embedded digits, in float32 on the CPU; returns its folder."""
    chosen = recipe("digits", net)
    chosen = dataclasses.replace(
        chosen,
        duration=f"{iterations}it",
        precision="float32",
        data=dataclasses.replace(chosen.data, **data),
    )
    run_training(chosen, folder, device="cpu", quiet=True)
    return folder


def make_subject(net: ImageClassifier, images: LabeledImages, seed: int = 0) -> Subject:
    """The subject of an analysis that needs no training images."""
    return Subject("net", net, images, images.evaluate(net), None, seed)


def pretend_two_gpus(monkeypatch: pytest.MonkeyPatch, memory: int, cores: int) -> None:
    """Let the slots of a study see two GPUs of `memory` bytes each, and `cores` processor cores."""
    properties = SimpleNamespace(total_memory=memory)
    for name, value in (
        ("is_available", True),
        ("device_count", 2),
        ("get_device_properties", properties),
    ):
        monkeypatch.setattr(torch.cuda, name, lambda *_, value=value: value)
    monkeypatch.setattr(worker, "cores", lambda: cores)
