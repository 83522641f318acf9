"""`resnets recompute-norm`: statistics against a loop of our own, and the folder it writes."""

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import resnets
from resnets.cli.main import main
from resnets.config import ConfigError, Preprocess
from resnets.data import eval_batches, order
from resnets.data.transforms.preprocess import Preprocessor
from resnets.evaluate.data.match_classes import open_split

SIZE = 160


def averaged(run: Path, size: int) -> dict[str, torch.Tensor]:
    """Means over the batches, each read with momentum 1."""
    net = resnets.load(run)
    split = open_split(net, None, "train")
    rows = order.permutation(len(split), 0, 0)
    found: dict[str, list[torch.Tensor]] = {}
    net.train()
    for part in np.array_split(rows, -(-len(rows) // size)):
        for module in net.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = 1.0
        for batch in eval_batches(
            split, net.preprocess, len(part), torch.device("cpu"), 0, part.tolist()
        ):
            with torch.no_grad():
                net(batch.images)
        for name, buffer in net.named_buffers():
            if "running" in name:
                found.setdefault(name, []).append(buffer.clone())
    return {name: torch.stack(each).mean(0) for name, each in found.items()}


@pytest.fixture(scope="module")
def fixed(digits_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("norm") / "fixed"
    words = ["recompute-norm", str(digits_run), "--out", str(out), "--batch-size", str(SIZE)]
    assert main(words) == 0
    return out


def test_statistics_are_averages_over_the_training_images(digits_run: Path, fixed: Path) -> None:
    before, after = resnets.load(digits_run).state_dict(), resnets.load(fixed)
    expected = averaged(digits_run, SIZE)
    assert expected
    for name, value in after.state_dict().items():
        if name in expected:
            torch.testing.assert_close(value, expected[name], rtol=1e-3, atol=1e-4)
            assert not torch.equal(value, before[name])
        elif "num_batches" not in name:
            assert torch.equal(value, before[name])
    assert after.classes == resnets.load(digits_run).classes
    assert after.recipe.data.source == "digits"


def test_the_loaded_model_that_is_given_stays_as_it_is(digits_run: Path, fixed: Path) -> None:
    net = resnets.load(digits_run)
    before = copy.deepcopy(net.state_dict())
    found = resnets.recompute_norm(net, "digits", batch_size=SIZE, quiet=True)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    for name, value in resnets.load(fixed).state_dict().items():
        torch.testing.assert_close(value, found.state_dict()[name], rtol=1e-4, atol=1e-5)


def test_a_folder_in_use_is_refused_before_images_are_read(
    digits_run: Path, fixed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr("resnets.api.recompute_norm.open_split")
    with pytest.raises(ConfigError, match="not empty"):
        resnets.recompute_norm(str(digits_run), out=fixed)


def test_what_has_no_statistics_is_refused(digits_run: Path) -> None:
    with pytest.raises(ConfigError, match="batch_size"):
        resnets.recompute_norm(str(digits_run), batch_size=1)
    vgg = resnets.create_model("vgg11", num_classes=10)
    with pytest.raises(ConfigError, match="no batch norm"):
        resnets.recompute_norm(vgg, "digits")


@pytest.mark.parametrize(("count", "size", "sizes"), [(3, 2, [3]), (5, 2, [3, 2]), (7, 4, [4, 3])])
def test_no_batch_has_a_single_image(
    tmp_path: Path, count: int, size: int, sizes: list[int]
) -> None:
    """A map of 1 x 1 px then has no variance."""
    random = np.random.default_rng(0)
    for number, split in enumerate([*["train"] * count, "val", "val", "test", "test"]):
        folder = tmp_path / split / str(number % 2)
        folder.mkdir(parents=True, exist_ok=True)
        pixels = random.integers(0, 256, (32, 32, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    net = resnets.create_model("resnet18", num_classes=2)
    net.preprocess = Preprocessor(Preprocess(size=32, resize=32))
    seen: list[int] = []
    net.register_forward_pre_hook(lambda _, images: seen.append(len(images[0])))
    resnets.recompute_norm(net.eval(), str(tmp_path), batch_size=size, quiet=True, device="cpu")
    assert seen == sizes
