"""Residual forms against small implementations written from their papers, and their counts.

References compute one unit, or one network, from a state dict and nothing else of the package.
"""

import copy
import dataclasses
import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from very_deep import FORMS, train_deep
from weights_state import random_state

from resnets.config import ConfigError, ModelSpec
from resnets.models import ImageClassifier, build, catalog, cost
from resnets.models.block_config import residual_paths

State = dict[str, Tensor]
WIDE = ModelSpec(
    name="forms",
    depths=(2, 2),
    widths=(8, 16),
    shortcut="A",
    stem="cifar",
    stem_width=8,
    num_classes=5,
    input_size=8,
)


def built(**fields: object) -> ImageClassifier:
    """A network of random weights, no learned number of which is 0 or 1."""
    model = build(dataclasses.replace(WIDE, **fields))
    state = random_state(model, seed=3)
    for name in state:
        if state[name].shape == (1,):
            state[name] = 0.3 + 0.1 * torch.rand(1, generator=torch.Generator().manual_seed(5))
    model.load_state_dict(state)
    return model


def conv(x: Tensor, s: State, name: str, stride: int = 1) -> Tensor:
    weight = s[f"{name}.weight"]
    padding = weight.shape[-1] // 2
    return F.conv2d(x, weight, s.get(f"{name}.bias"), stride, padding)


def bn(x: Tensor, s: State, name: str) -> Tensor:
    """Batch norm by the batch's statistics, written out."""
    mean, var = x.mean((0, 2, 3), keepdim=True), x.var((0, 2, 3), correction=0, keepdim=True)
    shape = (1, -1, 1, 1)
    scaled = (x - mean) / (var + 1e-5).sqrt() * s[f"{name}.weight"].view(shape)
    return scaled + s[f"{name}.bias"].view(shape)


def depth(s: State) -> int:
    """Convolutions of F: 2 in a basic unit, 3 in a bottleneck."""
    return sum(f"conv{n}.weight" in s for n in (1, 2, 3))


def branch(x: Tensor, s: State) -> Tensor:
    """F of the original unit: conv, BN, ReLU, conv, BN; in a bottleneck once more."""
    for n in range(1, depth(s) + 1):
        x = bn(conv(x, s, f"conv{n}"), s, f"norm{n}")
        x = x.relu() if n < depth(s) else x
    return x


def gate(x: Tensor, s: State) -> Tensor:
    return conv(x, s, "shortcut.gate").sigmoid()


def norm_after_add(x: Tensor, s: State) -> Tensor:
    y, last = x, depth(s)
    for n in range(1, last):
        y = bn(conv(y, s, f"conv{n}"), s, f"norm{n}").relu()
    return bn(x + conv(y, s, f"conv{last}"), s, f"norm{last}").relu()


def relu_preact(x: Tensor, s: State) -> Tensor:
    return x + branch(x.relu(), s)


def full_preact(x: Tensor, s: State) -> Tensor:
    y = x
    for n in range(1, depth(s) + 1):
        y = conv(bn(y, s, f"norm{n}").relu(), s, f"conv{n}")
    return x + y


def no_norm(x: Tensor, s: State) -> Tensor:
    for n in range(1, depth(s)):
        x = conv(x, s, f"conv{n}").relu()
    return conv(x, s, f"conv{depth(s)}")


def fixup(x: Tensor, s: State) -> Tensor:
    """FixupBasicBlock: bias1a, conv1, bias1b, relu, bias2a, conv2, scale, bias2b.

    FixupBottleneck has bias2b, relu, bias3a and conv3 before the scale.
    """
    y = x
    for n in range(1, depth(s) + 1):
        w = s[f"conv{n}.weight"]
        y = F.conv2d(y + s[f"conv{n}.input_bias"], w, padding=w.shape[-1] // 2)
        if n < depth(s):
            y = (y + s[f"norm{n}.bias"]).relu()
    return (y * s["scale.weight"] + s["scale.bias"] + x).relu()


def bit(x: Tensor, s: State) -> Tensor:
    """Pre-activation unit of BiT: group norm, ReLU, convolution with standardized weights."""

    def norm(x: Tensor, name: str, groups: int) -> Tensor:
        parts = x.view(len(x), groups, -1)
        mean, var = parts.mean(-1, keepdim=True), parts.var(-1, correction=0, keepdim=True)
        y = ((parts - mean) / (var + 1e-5).sqrt()).view(x.shape)
        return y * s[f"{name}.weight"].view(-1, 1, 1) + s[f"{name}.bias"].view(-1, 1, 1)

    def std(x: Tensor, name: str) -> Tensor:
        w = s[f"{name}.weight"]
        flat = w.flatten(1)
        flat = (flat - flat.mean(1, keepdim=True)) / flat.std(1, correction=0, keepdim=True)
        return F.conv2d(x, flat.view(w.shape), padding=w.shape[-1] // 2)

    y = x
    for n in range(1, depth(s) + 1):
        y = std(norm(y, f"norm{n}", 4).relu(), f"conv{n}")
    return x + y


Reference = Callable[[Tensor, State], Tensor]
UNITS: dict[str, tuple[dict[str, object], Reference]] = {
    # He et al., ECCV 2016, Fig. 4 and Table 2.
    "original": ({}, lambda x, s: (x + branch(x, s)).relu()),
    "norm after addition": ({"block": "norm-after-add-basic"}, norm_after_add),
    "relu before addition": (
        {"block": "relu-before-add-basic"},
        lambda x, s: x + branch(x, s).relu(),
    ),
    "relu-only": ({"block": "relu-preact-basic"}, relu_preact),
    "full pre-activation": ({"block": "preact-basic"}, full_preact),
    # Fig. 2 and Table 1.
    "scaled": ({"shortcut_scale": 0.5}, lambda x, s: (0.5 * x + branch(x, s)).relu()),
    "frozen gate": (
        {"shortcut_scale": 0.5, "branch_scale": 0.5},
        lambda x, s: (0.5 * x + 0.5 * branch(x, s)).relu(),
    ),
    "exclusive gate": (
        {"shortcut_gate": "exclusive"},
        lambda x, s: ((1 - gate(x, s)) * x + gate(x, s) * branch(x, s)).relu(),
    ),
    "shortcut-only gate": (
        {"shortcut_gate": "shortcut-only"},
        lambda x, s: ((1 - gate(x, s)) * x + branch(x, s)).relu(),
    ),
    "1x1": (
        {"shortcut": "C"},
        lambda x, s: (bn(conv(x, s, "shortcut.conv"), s, "shortcut.norm") + branch(x, s)).relu(),
    ),
    # Srivastava et al. 2015, eq. 3: y = H T + x (1 - T), T as wide as H.
    "highway": (
        {"shortcut_gate": "highway", "block": "relu-before-add-basic"},
        lambda x, s: branch(x, s).relu() * gate(x, s) + x * (1 - gate(x, s)),
    ),
    # Hayou et al. 2021; Bachlechner et al. 2021; De and Smith 2020; Zhang et al. 2019; BiT.
    "rsqrt-depth": (
        {"branch_scale": "rsqrt-depth"},
        lambda x, s: (x + branch(x, s) / math.sqrt(4)).relu(),
    ),
    "rezero": (
        {"branch_scale": "rezero"},
        lambda x, s: (x + s["scale.weight"] * branch(x, s)).relu(),
    ),
    "skipinit": (
        {"branch_scale": "skipinit", "norm": "none"},
        lambda x, s: (x + s["scale.weight"] * no_norm(x, s)).relu(),
    ),
    "fixup": ({"branch_scale": "fixup", "norm": "none"}, fixup),
    "bit": ({"block": "preact-basic", "norm": "group+ws", "norm_groups": 4}, bit),
}


@pytest.mark.parametrize("kind", ["basic", "bottleneck"])
@pytest.mark.parametrize("form", UNITS)
def test_unit_is_the_papers(form: str, kind: str) -> None:
    """In training mode: outputs, and gradients of input and weights."""
    fields, reference = UNITS[form]
    order = str(fields.get("block", "basic")).removesuffix("basic")
    model = built(**{**fields, "block": f"{order}{kind}"})
    block = model.get_submodule("stage1.1").train()
    channels = 8 * model.spec.expansion
    x = torch.randn(6, channels, 5, 5, generator=torch.Generator().manual_seed(1))
    if model.spec.order != "preact":
        x = x.relu()  # as it comes out of the unit before
    images = [x.clone().requires_grad_() for _ in range(2)]
    state = {
        name: each.detach().clone().requires_grad_() for name, each in block.named_parameters()
    }
    ours, theirs = block(images[0] * 1), reference(images[1], state)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
    weights = torch.randn(ours.shape, generator=torch.Generator().manual_seed(2))
    (ours * weights).sum().backward()
    (theirs * weights).sum().backward()
    torch.testing.assert_close(images[0].grad, images[1].grad, rtol=1e-3, atol=1e-3)
    for name, parameter in block.named_parameters():
        expected = state[name].grad
        assert expected is not None, name
        torch.testing.assert_close(parameter.grad, expected, rtol=1e-3, atol=2e-3)


@pytest.mark.parametrize("form", UNITS)
def test_studies_read_the_paths_of_every_form(form: str) -> None:
    model = built(**UNITS[form][0]).eval()
    x = torch.rand(2, 8, 5, 5)
    for name in ("stage1.0", "stage1.1", "stage2.0"):
        block = model.get_submodule(name)
        with torch.no_grad():
            zeroed = copy.deepcopy(block)
            for parameter in zeroed.last_layer.parameters():
                parameter.zero_()
            found, shortcut, _ = residual_paths(block, x)
            gone, kept, _ = residual_paths(zeroed, x)
        assert found.abs().max() > 0
        assert gone.abs().max() == 0
        assert torch.equal(shortcut, kept)


@pytest.mark.parametrize("kind", ["basic", "bottleneck"])
@pytest.mark.parametrize(
    "order", ["", "norm-after-add-", "relu-before-add-", "relu-preact-", "preact-"]
)
@pytest.mark.parametrize("shortcut", ["A", "none"])
def test_orders_have_the_same_layers(order: str, kind: str, shortcut: str) -> None:
    """Every order has the convolutions and, but for the pre-activations, the norms of the paper."""
    base = build(dataclasses.replace(WIDE, block=kind, shortcut=shortcut))
    model = build(dataclasses.replace(base.spec, block=f"{order}{kind}"))
    shapes = {name: each.shape for name, each in base.named_parameters() if ".conv" in name}
    assert {
        name: each.shape for name, each in model.named_parameters() if ".conv" in name
    } == shapes
    if order != "preact-":
        assert list(model.state_dict()) == list(base.state_dict())
    assert model.spec.num_layers == base.spec.num_layers
    counted = cost.count_cost(model).multiply_adds
    assert counted == cost.count_cost(base).multiply_adds
    model(torch.randn(2, 3, 8, 8)).sum().backward()


def extra(model: ImageClassifier) -> tuple[int, int]:
    """Parameters and multiply-adds above those of the paper's network."""
    base = cost.count_cost(build(WIDE))
    found = cost.count_cost(model)
    return found.parameters - base.parameters, found.multiply_adds - base.multiply_adds


def test_counts_of_forms() -> None:
    """Written out for four units: 8 to 8 channels twice at 8 px, 8 to 16 and 16 to 16 at 4 px."""
    pairs = [(8, 8, 64), (8, 8, 64), (8, 16, 16), (16, 16, 16)]
    for name, size in (("exclusive", 1), ("shortcut-only", 1), ("highway", 9)):
        gates = sum(size * ins * outs + outs for ins, outs, _ in pairs)
        products = sum(size * ins * outs * pixels for ins, outs, pixels in pairs)
        assert extra(build(dataclasses.replace(WIDE, shortcut_gate=name))) == (gates, products)
    for fields in ({"shortcut_scale": 0.5}, {"shortcut_dropout": 0.5}, {"branch_scale": 0.5}):
        assert extra(build(dataclasses.replace(WIDE, **fields))) == (0, 0)
    assert extra(build(dataclasses.replace(WIDE, branch_scale="rezero"))) == (4, 0)
    groups = dataclasses.replace(WIDE, norm="group+ws", norm_groups=4)
    assert extra(build(groups)) == (0, 0)
    # Fixup: five scalars and a multiplier in each unit (Fig. 1), a bias after the stem and before
    # the head; no norm has a weight and bias: the stem's, and two in each unit.
    norms = 2 * (8 + 2 * (8 + 8 + 16 + 16))
    fix = build(dataclasses.replace(WIDE, branch_scale="fixup", norm="none"))
    assert extra(fix) == (4 * 5 + 2 - norms, 0)


def test_fixup_network_starts_as_its_paper_says() -> None:
    spec = catalog.spec("cifar-resnet56", branch_scale="fixup", norm="none", num_classes=5)
    torch.manual_seed(0)
    model = build(spec).train()
    images = torch.randn(4, 3, 16, 16)
    outputs = model.stages(images)
    assert torch.equal(outputs["stage1"], outputs["stem"])
    assert torch.equal(model(images), torch.zeros(4, 5))
    for name in ("stage1.3.conv1", "stage3.4.conv1"):
        layer = model.get_submodule(name)
        expected = math.sqrt(2 / layer.weight[0].numel()) * 27**-0.5
        assert layer.weight.std().item() == pytest.approx(expected, rel=0.05)
    # The whole network once more, with weights that differ from 0.
    model = built(branch_scale="fixup", norm="none")
    s = model.state_dict()
    x = torch.randn(2, 3, 8, 8)
    y = (F.conv2d(x, s["stem.conv.weight"], padding=1) + s["stem.norm.bias"]).relu()
    for name, stride in (("stage1.0", 1), ("stage1.1", 1), ("stage2.0", 2), ("stage2.1", 1)):
        unit = {key.removeprefix(f"{name}."): each for key, each in s.items() if name in key}
        if stride == 1:
            y = fixup(y, unit)
            continue
        shortcut = F.pad(y[:, :, ::2, ::2], (0, 0, 0, 0, 4, 4))
        z = F.conv2d(y + unit["conv1.input_bias"], unit["conv1.weight"], stride=2, padding=1)
        z = (z + unit["norm1.bias"]).relu() + unit["conv2.input_bias"]
        z = F.conv2d(z, unit["conv2.weight"], padding=1)
        y = (z * unit["scale.weight"] + unit["scale.bias"] + shortcut).relu()
    logits = F.linear((y + s["norm.bias"]).mean((2, 3)), s["head.weight"], s["head.bias"])
    torch.testing.assert_close(model(x), logits, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["basic", "bottleneck"])
def test_fixup_projection_shares_the_bias_of_the_branch(kind: str) -> None:
    """FixupBasicBlock and FixupBottleneck: downsample(x + bias1a)."""
    model = built(branch_scale="fixup", norm="none", shortcut="B", block=kind)
    block = model.get_submodule("stage2.0")
    s = block.state_dict()
    assert [name for name in s if name.startswith("shortcut")] == ["shortcut.conv.weight"]
    x = torch.randn(2, block.conv1.in_channels, 8, 8)
    _, shortcut = block.paths(x)
    expected = F.conv2d(x + s["conv1.input_bias"], s["shortcut.conv.weight"], stride=2)
    assert s["conv1.input_bias"].abs() > 0
    torch.testing.assert_close(shortcut, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("scale", ["rezero", "skipinit"])
def test_branches_that_start_at_zero_are_the_identity(scale: str) -> None:
    norm = "none" if scale == "skipinit" else "batch"
    model = build(dataclasses.replace(WIDE, branch_scale=scale, norm=norm)).train()
    x = torch.rand(2, 8, 4, 4)
    assert torch.equal(model.get_submodule("stage1.1")(x), x)
    F.cross_entropy(model(torch.randn(4, 3, 8, 8)), torch.arange(4)).backward()
    for block in model.blocks().values():
        assert block.scale.weight.grad.abs() > 0


def test_gates_start_at_their_bias() -> None:
    model = build(dataclasses.replace(WIDE, shortcut_gate="exclusive", gate_bias=-3.0))
    for block in model.blocks().values():
        assert torch.equal(block.shortcut.gate.bias, torch.full_like(block.shortcut.gate.bias, -3))


def test_dropout_on_the_shortcut_in_training_alone() -> None:
    model = built(shortcut_dropout=0.5)
    block = model.get_submodule("stage1.1")
    x = torch.ones(1, 8, 64, 64)
    dropped = block.shortcut.train()(x)
    assert set(dropped.unique().tolist()) == {0.0, 2.0}
    assert dropped.mean() == pytest.approx(1.0, abs=0.05)
    assert torch.equal(block.shortcut.eval()(x), x)
    model.recompute = False
    stored, again = model.train(), copy.deepcopy(model)
    again.recompute = True  # must draw the same numbers twice
    gradients = []
    for each in (stored, again):
        torch.manual_seed(0)
        images = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(1))
        each(images).sum().backward()
        gradients.append(each.stem.conv.weight.grad)
    assert torch.equal(*gradients)


@pytest.mark.parametrize("fields", [fields for fields, _ in UNITS.values()], ids=list(UNITS))
def test_forms_keep_their_weights_through_a_state_dict_and_strides(fields: dict) -> None:
    """A unit that changes shapes keeps the shape contract, in both kinds of blocks."""
    for kind in ("basic", "bottleneck"):
        block = f"{str(fields.get('block', 'basic')).removesuffix('basic')}{kind}"
        for shortcut in ("A", "B"):
            options = {**fields, "block": block, "shortcut": fields.get("shortcut", shortcut)}
            model = build(dataclasses.replace(WIDE, **options)).eval()
            twin = build(model.spec).eval()
            twin.load_state_dict(model.state_dict())
            images = torch.randn(2, 3, 9, 9)
            assert torch.equal(model(images), twin(images))
            assert model.stages(images)["stage2"].shape == (2, model.spec.out_channels, 5, 5)


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"shortcut": "none", "shortcut_gate": "exclusive"}, "model.shortcut_"),
        ({"shortcut": "none", "branch_scale": "rezero"}, "model.branch_scale"),
        ({"gate_bias": -1.0}, "model.gate_bias"),
        ({"shortcut_scale": 0.5, "shortcut_dropout": 0.5}, "shortcut_scale"),
        ({"shortcut_gate": "highway", "shortcut_scale": 0.5}, "model.shortcut_gate"),
        ({"branch_scale": "skipinit"}, "model.branch_scale"),
        ({"branch_scale": "fixup"}, "model.norm"),
        ({"branch_scale": "fixup", "norm": "none", "block": "preact-basic"}, "fixup"),
        ({"branch_scale": "rezero", "zero_init_residual": True}, "zero_init_residual"),
        ({"branch_scale": 0.0}, "model.branch_scale"),
        ({"norm": "group+ws"}, "model.norm_groups: 8"),
        ({"norm": "group+ws", "norm_groups": 4, "blur_pool": True}, "model.blur_pool"),
        ({"block": "vgg", "shortcut": "none", "norm": "group+ws"}, "model.norm"),
        ({"block": "vgg", "shortcut_gate": "highway"}, "branch_scale"),
    ],
)
def test_contradicting_fields_are_named(fields: dict, field: str) -> None:
    with pytest.raises(ConfigError, match=field):
        build(dataclasses.replace(WIDE, **fields))


@pytest.mark.parametrize("form", FORMS)
def test_deep_networks_start(form: str) -> None:
    losses = train_deep(form, 98, widths=(4, 4, 8))
    assert losses[-1] < losses[0] < 4


@pytest.mark.slow
@pytest.mark.parametrize("layers", [1004, 10004])
@pytest.mark.parametrize("form", FORMS)
def test_very_deep_networks_start(form: str, layers: int) -> None:
    losses = train_deep(form, layers)
    assert max(losses) < 4
    assert min(losses[1:]) < losses[0]


def test_drop_path_reaches_every_form() -> None:
    for block in ("norm-after-add-basic", "relu-before-add-basic"):
        model = build(dataclasses.replace(WIDE, block=block, drop_path=0.5))
        assert [each.drop_path.p for each in model.blocks().values()][-1] == 0.5
        assert isinstance(model.get_submodule("stage1.1.shortcut"), nn.Identity)
