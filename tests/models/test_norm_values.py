"""A batch norm over a single value of each channel is refused before training, on every path."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from resnets.cli.main import main
from resnets.config import ConfigError, DetectSpec, FinetuneSpec, Recipe
from resnets.detect.models.segmenter import Segmenter
from resnets.models import build, catalog
from resnets.models.norm import use_cpu_kernels
from resnets.train.guards.norm_batch_check import check_norm_values, find_smallest_pass


def recipe(**changes: object) -> Recipe:
    model = catalog.spec("resnet18", num_classes=2, input_size=32)
    return Recipe(name="x", model=model, duration="1it", **changes)


@pytest.mark.parametrize(
    ("changes", "processes", "images"),
    [
        ({"batch_size": 1}, 1, 1),
        ({"batch_size": 2}, 1, 2),
        ({"batch_size": 65, "micro_batch": 64}, 1, 1),
        ({"batch_size": 66, "micro_batch": 64}, 1, 2),
        ({"batch_size": 8, "norm_batch": 1}, 1, 1),
        ({"batch_size": 8, "norm_batch": 2, "micro_batch": 5}, 1, 2),
        ({"batch_size": 3}, 2, 1),
        ({"batch_size": 3, "sync_norm": True}, 2, 3),
        ({"batch_size": 5, "micro_batch": 2}, 2, 1),
    ],
)
def test_the_fewest_images_of_a_pass(changes: dict, processes: int, images: int) -> None:
    assert find_smallest_pass(recipe(**changes), processes)[0] == images


def test_only_maps_of_one_pixel_are_refused() -> None:
    one = recipe(batch_size=1)
    model = build(one.model)
    with pytest.raises(ConfigError, match="batch_size=1"):
        check_norm_values(model, one, (3, 32, 32), 1)
    check_norm_values(model, one, (3, 64, 64), 1)
    check_norm_values(model, recipe(batch_size=2), (3, 32, 32), 1)
    check_norm_values(build(catalog.spec("cifar-resnet20")), one, (3, 32, 32), 1)
    check_norm_values(build(catalog.spec("vgg11")), one, (3, 224, 224), 1)
    assert all(torch.isfinite(value).all() for value in model.state_dict().values())


def test_frozen_norms_need_nothing() -> None:
    tuned = recipe(batch_size=1, weights="x", finetune=FinetuneSpec(freeze_norm=True))
    check_norm_values(build(tuned.model), tuned, (3, 32, 32), 1)


def test_a_pooled_map_has_one_pixel_at_any_size() -> None:
    one = recipe(batch_size=1)
    model = build(catalog.spec("resnet18"))
    model = Segmenter(model, DetectSpec(head="deeplabv3"), 3)
    with pytest.raises(ConfigError, match="classifier"):
        check_norm_values(model, one, (3, 96, 96), 1)
    fcn = Segmenter(build(catalog.spec("resnet18")), DetectSpec(head="fcn"), 3)
    check_norm_values(fcn, one, (3, 96, 96), 1)


def test_kernels_refuse_what_torch_refuses() -> None:
    model = build(catalog.spec("resnet18", input_size=32)).train()
    use_cpu_kernels(model.to(memory_format=torch.channels_last))
    images = torch.randn(1, 3, 32, 32).to(memory_format=torch.channels_last)
    with pytest.raises(ValueError, match="1 value per channel"):
        model(images)


@pytest.mark.parametrize("native", ["1", "0"])
@pytest.mark.parametrize("size", [["batch_size=1"], ["batch_size=5", "micro_batch=4"]])
def test_the_command_says_so_and_writes_nothing(
    tmp_path: Path, capsys, monkeypatch, native: str, size: list[str]
) -> None:
    monkeypatch.setenv("RESNETS_NATIVE", native)
    for name in ("a", "b"):
        (tmp_path / "set" / name).mkdir(parents=True)
        for number in range(4):
            pixels = np.full((32, 32, 3), 50 * number, np.uint8)
            Image.fromarray(pixels).save(tmp_path / "set" / name / f"{number}.png")
    settings = [word for each in (*size, "data.size=32") for word in ("--set", each)]
    command = ["train", "scratch", "--model", "resnet18", "--data", str(tmp_path / "set")]
    command += ["--iterations", "2", "--device", "cpu", "--out", str(tmp_path / "run"), *settings]
    assert main(command) == 2
    said = capsys.readouterr().err
    assert "batch norm" in said
    assert not (tmp_path / "run").exists()
