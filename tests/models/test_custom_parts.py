"""Blocks and norms from outside the package, given as Python objects."""

import copy
import dataclasses

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from resnets.config import ConfigError
from resnets.models import build, catalog
from resnets.models.block_config import BlockConfig, get_block_attr, residual_paths
from resnets.models.norm import BatchNormAct2d, CustomNormAct, convert_batch_norms, use_cpu_kernels
from resnets.models.resnet import BasicBlock, ResNet, make_shortcut

SPEC = catalog.spec("cifar-resnet8", num_classes=5)


class SqueezeExcite(nn.Module):
    """Hu et al. 2018, on a basic block; it has what a block must have and nothing else."""

    def __init__(self, config: BlockConfig) -> None:
        super().__init__()
        width = config.width
        self.conv1 = config.conv(config.in_channels, width, 3, stride=config.stride)
        self.norm1 = config.norm(width)
        self.conv2 = config.conv(width, width, 3)
        self.norm2 = config.norm(width, relu=False)
        self.squeeze = nn.Conv2d(width, width // 4, 1)
        self.excite = nn.Conv2d(width // 4, width, 1)
        self.skip = make_shortcut(config)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm2(self.conv2(self.norm1(self.conv1(x))))
        gate = self.excite(F.relu(self.squeeze(y.mean((2, 3), keepdim=True)))).sigmoid()
        return F.relu(y * gate + self.skip(x))


class Measurable(SqueezeExcite):
    """The same with what studies and zero-initialization ask for."""

    def paths(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y = self.norm2(self.conv2(self.norm1(self.conv1(x))))
        gate = self.excite(F.relu(self.squeeze(y.mean((2, 3), keepdim=True)))).sigmoid()
        return y * gate, self.skip(x)

    @property
    def last_layer(self) -> nn.Module:
        return self.norm2


class Stale(BasicBlock):
    """A block that changes `forward` and inherits the `paths` of another."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * 2


def group_norm(channels: int) -> nn.Module:
    return nn.GroupNorm(4, channels)


def images(count: int = 4) -> Tensor:
    return torch.randn(count, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def test_a_block_and_a_norm_train_and_name_themselves() -> None:
    model = ResNet(SPEC, block=SqueezeExcite, norm=group_norm)
    assert model.custom_names == {
        "block": f"{__name__}.SqueezeExcite",
        "norm": f"{__name__}.group_norm",
    }
    assert all(isinstance(block, SqueezeExcite) for block in model.blocks().values())
    assert not any(isinstance(module, nn.BatchNorm2d) for module in model.modules())
    F.cross_entropy(model(images()), torch.arange(4)).backward()
    assert all(each.grad.isfinite().all() for each in model.parameters())
    again = build(SPEC, **model.custom)
    again.load_state_dict(model.state_dict())
    assert torch.equal(again(images()), model(images()))


def test_models_of_the_package_name_no_parts() -> None:
    assert build(SPEC).custom_names == {}


@pytest.mark.parametrize("name", ["vgg11", "preact-resnet18", "resnet18-c"])
def test_a_norm_replaces_every_norm(name: str) -> None:
    with torch.device("meta"):
        model = build(catalog.spec(name, norm="batch"), norm=group_norm)
        replaced = [each for each in model.modules() if isinstance(each, CustomNormAct)]
        usual = build(catalog.spec(name, norm="batch"))
    assert len(replaced) == sum(isinstance(each, BatchNormAct2d) for each in usual.modules())


def test_a_batch_norm_of_other_settings_keeps_its_names_and_the_kernels() -> None:
    model = build(SPEC, norm=lambda channels: nn.BatchNorm2d(channels, eps=1e-3, momentum=0.01))
    assert list(model.state_dict()) == list(build(SPEC).state_dict())
    norm = model.get_submodule("stage1.0.norm1")
    assert isinstance(norm, BatchNormAct2d)
    assert (norm.eps, norm.momentum) == (1e-3, 0.01)


@pytest.mark.parametrize("settings", [{"affine": False}, {"momentum": None}])
def test_a_batch_norm_that_the_kernels_do_not_know_is_wrapped(settings: dict) -> None:
    model = build(SPEC, norm=lambda channels: nn.BatchNorm2d(channels, **settings))
    assert isinstance(model.get_submodule("stage1.0.norm1"), CustomNormAct)
    use_cpu_kernels(convert_batch_norms(model, 2, sync=False))
    F.cross_entropy(model(images()), torch.arange(4)).backward()


def test_a_block_of_the_package_may_be_used_from_outside() -> None:
    torch.manual_seed(0)
    usual = build(SPEC)
    torch.manual_seed(0)
    given = build(SPEC, block=lambda config: BasicBlock(config))
    assert torch.equal(usual(images()), given(images()))


def test_shapes_are_checked_when_the_model_is_built() -> None:
    def ignores_stride(config: BlockConfig) -> nn.Module:
        return BasicBlock(dataclasses.replace(config, stride=1))

    with pytest.raises(ConfigError, match="ignores_stride"):
        build(SPEC, block=ignores_stride)
    with pytest.raises(ConfigError, match="VGG"):
        build(catalog.spec("vgg11"), block=SqueezeExcite)


def test_what_a_block_lacks_is_named_where_it_is_needed() -> None:
    with pytest.raises(ConfigError, match="SqueezeExcite.*last_layer"):
        build(dataclasses.replace(SPEC, zero_init_residual=True), block=SqueezeExcite)
    block = build(SPEC, block=SqueezeExcite).blocks()["stage1.0"]
    with pytest.raises(ConfigError, match="SqueezeExcite.*paths"):
        get_block_attr(block, "paths")


def test_optional_parts_serve_zero_init_and_studies() -> None:
    spec = dataclasses.replace(SPEC, zero_init_residual=True)
    model = build(spec, block=Measurable).eval()
    x = model.stem(images())
    for block in model.blocks().values():
        branch, shortcut, out = residual_paths(block, x)
        assert branch.abs().max() == 0
        assert torch.equal(out, shortcut.relu())
        x = out


def test_paths_that_disagree_with_forward_are_an_error() -> None:
    model = build(SPEC, block=Stale).eval()
    with pytest.raises(ConfigError, match="Stale"):
        residual_paths(model.blocks()["stage1.0"], model.stem(images()))


def test_kernels_and_recomputation_serve_other_blocks() -> None:
    torch.manual_seed(0)
    model = build(dataclasses.replace(SPEC, depths=(4, 1, 1)), block=SqueezeExcite)
    model.to(memory_format=torch.channels_last)
    recomputed = copy.deepcopy(model)
    recomputed.recompute = True
    x = images().contiguous(memory_format=torch.channels_last)
    for each in (model, recomputed):
        use_cpu_kernels(each)
        F.cross_entropy(each(x), torch.arange(4)).backward()
    for one, other in zip(model.parameters(), recomputed.parameters(), strict=True):
        assert torch.equal(one.grad, other.grad)
