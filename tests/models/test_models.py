"""Models: their shapes, sizes, stages and building blocks."""

import dataclasses
import math

import pytest
import torch
from torch import Tensor, nn
from torchvision import models as torchvision_models

from resnets.config import ConfigError, ModelSpec
from resnets.models import ImageClassifier, build, catalog
from resnets.models.block_config import BlockConfig
from resnets.models.residual_unit import ResidualUnit
from resnets.models.shortcut import NoShortcut, Projection, ZeroPad

CIFAR_PARAMETERS = {  # the paper's Table 6, to the last one
    "cifar-resnet20": 269_722,
    "cifar-resnet32": 464_154,
    "cifar-resnet44": 658_586,
    "cifar-resnet56": 853_018,
    "cifar-resnet110": 1_727_962,
    "cifar-resnet1202": 19_421_274,
}
SHARED_WITH_TORCHVISION = [
    name
    for name in catalog.list_models()
    if name.replace("-", "_") in torchvision_models.list_models(module=torchvision_models)
]
TINY = ModelSpec(
    name="tiny", depths=(2, 2), widths=(4, 8), stem="cifar", stem_width=4, num_classes=3
)


def on_meta(name: str) -> ImageClassifier:
    with torch.device("meta"):
        return build(catalog.spec(name))


def size(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize(("name", "count"), CIFAR_PARAMETERS.items())
def test_cifar_parameters_are_the_papers(name: str, count: int) -> None:
    assert size(on_meta(name)) == count


def test_torchvision_shares_every_model_expected() -> None:
    assert len(SHARED_WITH_TORCHVISION) == 5 + 2 + 3 + 8  # ResNets, wide, ResNeXts, VGGs


@pytest.mark.parametrize("name", SHARED_WITH_TORCHVISION)
def test_parameters_are_torchvisions(name: str) -> None:
    with torch.device("meta"):
        theirs = torchvision_models.get_model(name.replace("-", "_"))
    assert size(on_meta(name)) == size(theirs)


@pytest.mark.parametrize(
    ("plain", "residual"),
    [("plain18", "resnet18-a"), ("plain34", "resnet34-a"), ("cifar-plain56", "cifar-resnet56")],
)
def test_plain_counterpart_differs_in_the_shortcut_only(plain: str, residual: str) -> None:
    ours, twin = on_meta(plain), on_meta(residual)
    shapes = {name: tensor.shape for name, tensor in twin.state_dict().items()}
    assert {name: tensor.shape for name, tensor in ours.state_dict().items()} == shapes
    assert dataclasses.replace(ours.spec, name=residual, shortcut="A") == twin.spec


@pytest.mark.parametrize(
    ("name", "pixels", "shapes"),
    [
        ("resnet18", 64, [(64, 16), (64, 16), (128, 8), (256, 4), (512, 2)]),
        ("resnet50-v1", 64, [(64, 16), (256, 16), (512, 8), (1024, 4), (2048, 2)]),
        ("preact-resnet50", 64, [(64, 16), (256, 16), (512, 8), (1024, 4), (2048, 2)]),
        ("plain18", 70, [(64, 18), (64, 18), (128, 9), (256, 5), (512, 3)]),
        ("cifar-resnet20", 32, [(16, 32), (16, 32), (32, 16), (64, 8)]),
        ("cifar-resnet164", 32, [(16, 32), (64, 32), (128, 16), (256, 8)]),
        ("vgg11", 64, [(64, 32), (128, 16), (256, 8), (512, 4), (512, 2)]),
    ],
)
def test_stages_have_names_widths_and_strides(
    name: str, pixels: int, shapes: list[tuple[int, int]]
) -> None:
    model = on_meta(name)
    stages = model.stages(torch.empty(2, 3, pixels, pixels, device="meta"))
    stem = [] if name.startswith("vgg") else ["stem"]
    assert list(stages) == stem + [f"stage{i + 1}" for i in range(len(shapes) - len(stem))]
    assert [tuple(x.shape) for x in stages.values()] == [(2, c, side, side) for c, side in shapes]
    assert model.classify(stages[list(stages)[-1]]).shape == (2, model.spec.num_classes)


def test_vgg_gives_conv5_3_before_its_pool() -> None:
    model = on_meta("vgg16")
    stages = model.stages(torch.empty(1, 3, 224, 224, device="meta"))
    last: nn.Sequential = model.get_submodule("stage5")
    assert last[:-1](stages["stage4"]).shape == (1, 512, 14, 14)


@pytest.mark.parametrize("name", ["resnet18", "preact-resnet18", "cifar-resnet20", "vgg11"])
@pytest.mark.parametrize("shape", [(33, 47), (65, 96)])
def test_any_input_size_works(name: str, shape: tuple[int, int]) -> None:
    logits = on_meta(name)(torch.empty(2, 3, *shape, device="meta"))
    assert logits.shape[0] == 2


def test_stages_are_what_forward_computes_with() -> None:
    torch.manual_seed(0)
    model = build(TINY).eval()
    x = torch.randn(2, 3, 9, 9)
    stages = model.stages(x)
    assert torch.equal(model(x), model.classify(stages["stage2"]))
    kept = {name: tensor.clone() for name, tensor in stages.items()}
    model.get_submodule("stage1")(stages["stem"])
    assert all(torch.equal(stages[name], kept[name]) for name in kept)


NAMES = ["cifar-resnet8", "cifar-preact-resnet8", "cifar-speedrun", "vgg11", "resnet18"]


@pytest.mark.parametrize("name", NAMES)
def test_features_and_head_are_what_forward_computes(name: str) -> None:
    torch.manual_seed(0)
    model = build(catalog.spec(name, num_classes=3)).eval()
    images = torch.randn(2, 3, 40, 40)
    features = model.forward_features(images)
    assert features.shape[:2] == (2, model.spec.out_channels)
    assert torch.equal(model.forward_head(features), model(images))
    last = model.stages(images)[model.stage_names[-1]]
    assert torch.equal(model.classify(last), model(images))
    assert torch.equal(features, last) != model.spec.is_preact


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[pytest.mark.ci] * (name == "vgg11")) for name in NAMES],
)
def test_a_new_head_is_that_of_a_new_model(name: str) -> None:
    model = build(catalog.spec(name, num_classes=3)).eval().bfloat16()
    model.classes = ("a", "b", "c")
    before = {key: value.clone() for key, value in model.state_dict().items()}
    for _ in range(2):
        model.reset_classifier(500)
    fresh = build(catalog.spec(name, num_classes=500))
    assert (model.spec, model.classes, model.training) == (fresh.spec, (), False)
    assert model.origin == "random initialization, new head"
    assert (type(model.head), model.head.training) == (type(fresh.head), False)
    assert model.head.weight.dtype == torch.bfloat16
    assert model.head.weight.shape == fresh.head.weight.shape
    torch.testing.assert_close(
        model.head.weight.float().std(), fresh.head.weight.std(), rtol=0.1, atol=0
    )
    assert not model.head.bias.any()
    for key, value in model.state_dict().items():
        assert key.startswith("head.") or torch.equal(value, before[key])


def test_a_model_without_head_returns_features() -> None:
    model = build(dataclasses.replace(TINY, branch_scale="fixup", norm="none")).eval()
    images = torch.randn(2, 3, 9, 9)
    model.reset_classifier(0)
    assert torch.equal(model(images), model.pool(model.forward_features(images)).flatten(1))
    model.reset_classifier(7)
    assert model.head.weight.shape[0] == model.spec.num_classes == 7
    assert not model.head.weight.any()
    with pytest.raises(ConfigError, match="num_classes"):
        model.reset_classifier(-1)


def downsampling(in_channels: int, width: int) -> BlockConfig:
    return BlockConfig(spec=TINY, in_channels=in_channels, width=width, stride=2)


def test_option_a_subsamples_and_pads_with_zeros() -> None:
    x = torch.randn(2, 3, 5, 5)
    y = ZeroPad(downsampling(3, 8))(x)
    assert y.shape == (2, 8, 3, 3)
    assert torch.equal(y[:, 2:5], x[:, :, ::2, ::2])
    assert y[:, :2].abs().sum() + y[:, 5:].abs().sum() == 0


def test_the_gradient_of_option_a_keeps_the_layout():
    x = torch.randn(2, 4, 5, 7)
    pull, found = torch.randn(2, 8, 3, 4), []
    for layout in (torch.contiguous_format, torch.channels_last):
        leaf = x.clone(memory_format=layout).requires_grad_()
        out = ZeroPad(downsampling(4, 8))(leaf)
        (gradient,) = torch.autograd.grad(out, leaf, pull)
        assert gradient.is_contiguous(memory_format=layout)
        found.append((out, gradient))
    for one, other in zip(*found, strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize(
    ("option", "kinds"),
    [
        ("A", [nn.Identity, nn.Identity, ZeroPad, nn.Identity]),
        ("B", [nn.Identity, nn.Identity, Projection, nn.Identity]),
        ("C", [Projection] * 4),
        ("none", [NoShortcut] * 4),
    ],
)
def test_shortcut_options(option: str, kinds: list[type]) -> None:
    model = build(dataclasses.replace(TINY, shortcut=option))
    found = list(model.blocks().values())
    assert [type(block.shortcut) for block in found] == kinds
    x = torch.randn(2, 4, 6, 6)
    for block in found:
        branch, shortcut = block.paths(x)
        assert shortcut is None or shortcut.shape == branch.shape
        total = branch if shortcut is None else branch + shortcut
        x = block(x)
        torch.testing.assert_close(x, total.relu())


def test_stride_sits_where_the_spec_says() -> None:
    strides = {}
    for name in ("resnet50", "resnet50-v1"):
        block = on_meta(name).get_submodule("stage2.0")
        strides[name] = (block.conv1.stride[0], block.conv2.stride[0])
    assert strides == {"resnet50": (1, 2), "resnet50-v1": (2, 1)}


def by_hand(block: ResidualUnit, x: Tensor) -> Tensor:
    """He et al., ECCV 2016: shared pre-activation in front of a projection, else the raw input."""
    active = x if isinstance(block.norm1, nn.Identity) else block.norm1.normalize(x).relu()
    branch = block.conv2(block.norm2.normalize(block.conv1(active)).relu())
    if isinstance(block.shortcut, Projection):
        return branch + block.shortcut.conv(active)
    return branch + x


def test_preactivation_order() -> None:
    torch.manual_seed(0)
    model = build(dataclasses.replace(TINY, block="preact-basic")).eval()
    first = model.get_submodule("stage1.0")
    assert isinstance(first.norm1, nn.Identity)  # the stem has normalised and activated already
    x = model.get_submodule("stem")(torch.randn(2, 3, 8, 8))
    for name in ("stage1.0", "stage1.1", "stage2.0", "stage2.1"):
        block = model.get_submodule(name)
        expected = by_hand(block, x)
        x = block(x)
        torch.testing.assert_close(x, expected)
    assert (x < 0).any()  # no relu after the addition
    assert (model.get_submodule("stem")(torch.randn(1, 3, 8, 8)) >= 0).all()


def test_preactivation_without_norm_leaves_the_input_alone() -> None:
    model = build(dataclasses.replace(TINY, block="preact-basic", norm="none"))
    x = torch.randn(2, 4, 6, 6)
    kept = x.clone()
    model.get_submodule("stage1.1")(x)
    assert torch.equal(x, kept)


@pytest.mark.parametrize("norm", ["batch", "none"])
@pytest.mark.parametrize("block", ["basic", "bottleneck", "preact-basic", "preact-bottleneck"])
def test_zero_init_starts_every_block_as_its_shortcut(block: str, norm: str) -> None:
    model = build(dataclasses.replace(TINY, block=block, norm=norm, zero_init_residual=True))
    x = model.get_submodule("stem")(torch.randn(2, 3, 8, 8))
    for name in ("stage1.0", "stage1.1", "stage2.0"):
        unit = model.get_submodule(name)
        branch, shortcut = unit.paths(x)
        assert branch.abs().max() == 0
        x = unit(x)
        assert torch.equal(x, shortcut if block.startswith("preact") else shortcut.relu())


def test_he_and_naive_initialization() -> None:
    torch.manual_seed(0)
    he, naive = (build(catalog.spec("cifar-resnet20", init=init)) for init in ("he", "naive"))
    conv = he.get_submodule("stage3.1.conv1").weight
    assert conv.std().item() == pytest.approx(math.sqrt(2 / (64 * 9)), rel=0.02)
    assert he.head.weight.std().item() == pytest.approx(math.sqrt(1 / 64), rel=0.1)
    assert he.head.bias.abs().max() == 0
    conv = naive.get_submodule("stage3.1.conv1").weight
    assert conv.std().item() == pytest.approx(0.01, rel=0.02)


def test_he_initialization_keeps_the_signal_in_a_deep_plain_model_without_norms() -> None:
    torch.manual_seed(0)
    sizes = {}
    for init in ("he", "naive"):
        model = build(catalog.spec("cifar-plain32", norm="none", init=init)).eval()
        sizes[init] = model.stages(torch.randn(4, 3, 32, 32))["stage3"].std().item()
    assert 1e-2 < sizes["he"] < 10
    assert sizes["naive"] < 1e-20


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"widths": (8, 4), "shortcut": "A"}, "model.shortcut"),
        ({"groups": 2}, "model.groups"),
        ({"block": "bottleneck", "width_per_group": 8}, "width_per_group"),
        ({"block": "vgg", "input_size": 2}, "less than the 4 px"),
    ],
)
def test_contradictions_are_config_errors(changes: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        build(dataclasses.replace(TINY, **changes))


def test_1202_layers_build_and_run() -> None:
    model = build(catalog.spec("cifar-resnet1202"))
    convs = [m for m in model.modules() if isinstance(m, nn.Conv2d)]
    assert len(convs) + 1 == 1202
    with torch.inference_mode():
        assert model(torch.randn(2, 3, 16, 16)).isfinite().all()
