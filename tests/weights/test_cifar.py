"""CIFAR-10 checkpoints as most repositories save them: DataParallel names in a wrapper."""

import argparse
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from weights_state import assert_same, logits, random_images, random_state

import resnets
from resnets.models import build, catalog
from resnets.weights.errors import WeightsError
from resnets.weights.name_maps.maps import build_name_map


class Block(nn.Module):
    """The block of the nets in circulation, written from their description."""

    def __init__(self, c_in: int, width: int, stride: int, option: str) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(c_in, width, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.shortcut = nn.Sequential()
        self.padded = option == "A" and c_in != width
        if option == "B" and c_in != width:
            projection = nn.Conv2d(c_in, width, 1, stride, bias=False)
            self.shortcut = nn.Sequential(projection, nn.BatchNorm2d(width))

    def forward(self, x: Tensor) -> Tensor:
        out = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        if self.padded:
            quarter = out.shape[1] // 4
            return F.relu(out + F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, quarter, quarter)))
        return F.relu(out + self.shortcut(x))


class Reference(nn.Module):
    """A CIFAR net of n blocks a stage, with their names."""

    def __init__(self, n: int, option: str = "A") -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        c_in = 16
        for stage, width in enumerate((16, 32, 64), start=1):
            blocks = []
            for block in range(n):
                blocks.append(Block(c_in, width, 2 if block == 0 and stage > 1 else 1, option))
                c_in = width
            self.add_module(f"layer{stage}", nn.Sequential(*blocks))
        self.linear = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.linear(x.mean((2, 3)))


def reference(option: str = "A", seed: int = 1) -> Reference:
    net = Reference(3, option)
    net.load_state_dict(random_state(net, seed))
    return net


def as_saved(net: nn.Module) -> dict[str, object]:
    """What a training script of 2018 saved: DataParallel's names, and the best figure beside."""
    state = nn.DataParallel(net).state_dict()
    assert all(name.startswith("module.") for name in state)
    return {
        "state_dict": state,
        "best_prec1": np.float64(92.1),
        "epoch": 199,
        "args": argparse.Namespace(lr=0.1),
    }


@pytest.mark.parametrize("option", ["A", "B"])
@pytest.mark.parametrize("legacy", [False, True])
def test_a_saved_checkpoint_gives_the_same_logits(
    tmp_path: Path, option: str, legacy: bool
) -> None:
    theirs = reference(option)
    path = tmp_path / "resnet20.th"
    torch.save(as_saved(theirs), path, _use_new_zipfile_serialization=not legacy)
    spec = catalog.spec("cifar-resnet20", shortcut=option)
    ours = resnets.create_model(spec, weights=str(path))
    images = random_images(32)
    assert_same(logits(ours, images), logits(theirs, images))


def test_our_weights_in_their_network() -> None:
    ours = build(catalog.spec("cifar-resnet20"))
    ours.load_state_dict(random_state(ours, seed=2))
    theirs = Reference(3)
    theirs.load_state_dict(build_name_map("cifar", ours).to_foreign(ours.state_dict()))
    images = random_images(32)
    assert_same(logits(theirs, images), logits(ours, images))


def test_preprocessing_of_option_a_networks_is_known(tmp_path: Path) -> None:
    path = tmp_path / "resnet20.th"
    torch.save(as_saved(reference()), path)
    seen = resnets.create_model("cifar-resnet20", weights=str(path)).preprocess.spec
    assert (seen.size, seen.resize, seen.mean) == (32, 32, (0.485, 0.456, 0.406))
    torch.save(as_saved(reference("B")), path)
    spec = catalog.spec("cifar-resnet20", shortcut="B")
    assert resnets.create_model(spec, weights=str(path)).preprocess is None


def test_a_checkpoint_that_would_run_code_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "resnet20.th"
    marker = tmp_path / "ran"

    class Bad:
        def __reduce__(self):
            return (Path.touch, (marker,))

    torch.save(as_saved(reference()) | {"extra": Bad()}, path)
    with pytest.raises(WeightsError, match="contains a pickled"):
        resnets.create_model("cifar-resnet20", weights=str(path))
    assert not marker.exists()


def test_deeper_checkpoint_names_the_tensors(tmp_path: Path) -> None:
    path = tmp_path / "resnet32.th"
    torch.save(as_saved(Reference(5)), path)
    with pytest.raises(WeightsError, match=r"layer1.3.bn1.bias") as caught:
        resnets.create_model("cifar-resnet20", weights=str(path))
    assert "\n" not in str(caught.value)
