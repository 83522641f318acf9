"""The whitening stem, pooled stages and scaled logits of networks that train in minutes."""

import copy
import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

import resnets
from resnets.config import ConfigError, DataSpec, ModelSpec, Recipe
from resnets.detect.models.build import HEADS, check_recipe
from resnets.models import build, catalog, cost
from resnets.models.block_config import residual_paths
from resnets.models.resnet import BasicBlock, ResNet
from resnets.models.speedrun_layers import PooledBlock, WhiteningConv
from resnets.study.trained_models import iter_units
from resnets.train.guards.norm_batch_check import check_norm_values
from resnets.weights.name_maps.formats import FORMATS

SPEC = dataclasses.replace(catalog.spec("cifar-speedrun"), widths=(16, 32, 64), name="small")

HEADS_OF_TASKS = [(task, head) for task, heads in HEADS.items() for head in heads]


def made(**fields: Any) -> Any:
    torch.manual_seed(0)
    return build(dataclasses.replace(SPEC, **fields))


def images(count: int, draw: int = 0) -> torch.Tensor:
    """Images whose neighbors and channels are correlated, as those of photographs."""
    noise = torch.randn(count, 3, 34, 34, generator=torch.Generator().manual_seed(draw))
    smooth = F.avg_pool2d(noise, 3, stride=1)
    return smooth + smooth.mean(1, keepdim=True) * 3


def test_the_stem_whitens_patches() -> None:
    stem, x = WhiteningConv(3), images(200)
    stem.fit(iter(x.split(50)))
    with torch.no_grad():
        maps = F.conv2d(x, stem.weight)
    torch.testing.assert_close(maps[:, :12], -maps[:, 12:])
    rows = maps[:, :12].transpose(0, 1).flatten(1)
    covariance = rows @ rows.T / rows.shape[1]
    torch.testing.assert_close(covariance, torch.eye(12), rtol=0.0, atol=0.05)


def test_only_the_bias_of_the_stem_is_trained() -> None:
    model = made()
    names = [name for name, _ in model.stem.named_parameters()]
    assert names == ["conv.bias"]
    norm = model.stage1[0].block.norm1
    assert [name for name, _ in norm.named_parameters()] == ["bias"]
    assert "stem.conv.weight" in model.state_dict()
    assert copy.deepcopy(model).stem.conv.weight is not model.stem.conv.weight


def test_the_forward_pass_is_the_one_of_the_literature() -> None:
    """Against plain torch calls in the order of airbench's groups of three convolutions."""
    model = made().eval()
    x = images(4)
    y = F.gelu(F.conv2d(x, model.stem.conv.weight, model.stem.conv.bias))
    for stage in (model.stage1, model.stage2, model.stage3):
        (unit,) = stage.children()
        t, block = unit.transition, unit.block
        y = F.max_pool2d(F.conv2d(y, t.conv.weight, padding=1), 2)
        y = F.gelu(F.batch_norm(y, t.norm.running_mean, t.norm.running_var))
        z = F.conv2d(y, block.conv1.weight, padding=1)
        z = F.gelu(F.batch_norm(z, block.norm1.running_mean, block.norm1.running_var))
        z = F.conv2d(z, block.conv2.weight, padding=1)
        z = F.batch_norm(z, block.norm2.running_mean, block.norm2.running_var)
        y = F.gelu(z + y)
    logits = F.linear(y.amax((2, 3)), model.head.weight, model.head.bias) / 9
    with torch.no_grad():
        torch.testing.assert_close(model(x), logits, rtol=1e-4, atol=1e-5)


def test_layers_are_counted() -> None:
    counted = cost.count_cost(build(catalog.spec("cifar-speedrun")))
    convolutions = [each for each in counted.layers if each.kind.startswith("conv")]
    assert len(convolutions) + 1 == catalog.spec("cifar-speedrun").num_layers == 11
    first = next(each for each in counted.layers if each.name == "stage1.0.transition.conv")
    assert first.output == (64, 31, 31)
    assert first.multiply_adds == 24 * 9 * 64 * 31 * 31


@pytest.mark.parametrize("block", ["basic", "bottleneck", "preact-basic", "relu-before-add-basic"])
def test_every_block_can_stand_behind_a_transition(block: str) -> None:
    model = made(block=block, widths=(8, 16, 16), depths=(2, 1, 1)).eval()
    assert len(model.blocks()) == 4
    pooled = [isinstance(each, PooledBlock) for each in model.blocks().values()]
    assert pooled == [True, False, True, True]
    for _, unit, x, out in iter_units(model, images(2)):
        branch, shortcut, again = residual_paths(unit, x)
        assert branch.shape == shortcut.shape == out.shape
        torch.testing.assert_close(again, out)


def test_zero_initialized_branches_start_at_the_shortcut() -> None:
    model = made(zero_init_residual=True, norm_scale=True).eval()
    for _, unit, x, _ in iter_units(model, images(2)):
        branch, shortcut, _ = residual_paths(unit, x)
        assert shortcut is not None
        assert branch.abs().max() == 0 < shortcut.abs().max()


@pytest.mark.parametrize(
    "fields",
    [
        {"downsample": "max-pool", "dilate": 1},
        {"downsample": "max-pool", "blur_pool": True},
        {"downsample": "max-pool", "branch_scale": "fixup", "norm": "none"},
        {"downsample": "max-pool", "dims": 1},
        {"stem": "whitening", "dims": 1},
        {"head_pool": "max", "dims": 1},
        {"norm_scale": False, "norm": "none"},
        {"norm_scale": False, "zero_init_residual": True},
    ],
)
def test_contradicting_fields_are_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"model\.(downsample|dims|norm_scale)"):
        build(dataclasses.replace(ModelSpec(depths=(1, 1), widths=(8, 8)), **fields))


@pytest.mark.parametrize(("task", "head"), HEADS_OF_TASKS)
def test_other_tasks_refuse_maps_without_a_stride(task: Any, head: Any) -> None:
    recipe = Recipe(task=task, model=dataclasses.replace(SPEC, input_size=64))
    recipe = dataclasses.replace(recipe, detect=dataclasses.replace(recipe.detect, head=head))
    with pytest.raises(ConfigError, match="speedrun"):
        check_recipe(recipe)


def test_images_that_are_too_small_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"input_size|data\.size"):
        made(input_size=8)
    recipe = Recipe(model=SPEC, data=DataSpec(source="digits", size=32, resize=32, grow_from=8))
    with pytest.raises(ConfigError, match=r"input_size|data\.size"):
        check_norm_values(made(), recipe, (3, 8, 8), 1)
    made(input_size=9)


@pytest.mark.parametrize("scale", [0.0, -1.0, float("nan"), float("inf")])
def test_logits_have_a_positive_scale(scale: float) -> None:
    with pytest.raises(ConfigError, match="logit_scale"):
        made(logit_scale=scale)


def test_the_stem_of_a_network_from_outside_is_fitted_too(tmp_path: Path) -> None:
    data = DataSpec(source="digits", size=12, resize=12)
    recipe = Recipe(model=SPEC, data=data, duration="1it", batch_size=16)
    run = resnets.train(recipe, model=from_outside, out=tmp_path, device="cpu", quiet=True)
    filters = whitening_filters(run).flatten(1)
    torch.testing.assert_close(filters[:12], -filters[12:])


def from_outside(spec: ModelSpec) -> ResNet:
    fields = {"name": "other", "widths": (8, 8, 8), "stem": "whitening", "downsample": "max-pool"}
    return ResNet(dataclasses.replace(spec, depths=(1, 1, 1), **fields), block=BasicBlock)  # type: ignore[arg-type]


def test_other_libraries_have_no_such_network() -> None:
    assert [name for name, each in FORMATS.items() if each.rules(SPEC)] == []


def test_a_model_of_the_zoo_has_the_network_of_the_catalog() -> None:
    net = resnets.load("resnets:cifar10/cifar-speedrun")
    assert net.spec == catalog.spec("cifar-speedrun")
    filters = net.get_submodule("stem.conv").state_dict()["weight"].flatten(1)
    torch.testing.assert_close(filters[:12], -filters[12:])
    again = resnets.create_model("cifar-speedrun", weights="resnets:cifar10/cifar-speedrun").eval()
    x = images(1)[..., :32, :32]
    with torch.no_grad():
        assert torch.equal(again(x), net(x))


@pytest.mark.ci
def test_a_run_whitens_once_and_resumes(tmp_path: Path) -> None:
    """The filters are those of the training images, whatever the seed, and stay when resumed."""
    model = dataclasses.replace(SPEC, widths=(8, 8, 8))
    data = DataSpec(source="digits", size=12, resize=12)
    recipe = Recipe(model=model, data=data, duration="4it", batch_size=32, log_every="1it")
    out = tmp_path / "run"
    first = whitening_filters(resnets.train(recipe, out=out, device="cpu", quiet=True))
    other = dataclasses.replace(recipe, seed=5)
    run = resnets.train(other, out=tmp_path / "other", device="cpu", quiet=True)
    assert torch.equal(first, whitening_filters(run))
    run = resnets.train(out=out, resume=True, iterations=6, device="cpu", quiet=True)
    assert torch.equal(first, whitening_filters(run))
    filters = first.flatten(1)
    torch.testing.assert_close(filters[:12], -filters[12:])


def whitening_filters(run: resnets.Run) -> torch.Tensor:
    stem = run.model.get_submodule("stem.conv")
    assert isinstance(stem, WhiteningConv)
    return stem.weight.clone()
