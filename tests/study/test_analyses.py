"""Each analysis of one module against a small calculation that is written out here."""

import itertools
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from study_runs import train_on_digits
from torch import nn

from resnets.config import ConfigError
from resnets.data import Batch
from resnets.models import build, catalog
from resnets.study.analyses import curvature, effective, inference, lesions, shattered, similarity
from resnets.study.trained_models import LabeledImages, get_images, named_units

IMAGES = torch.randn(6, 1, 8, 8, generator=torch.Generator().manual_seed(0))
CLASSES = ("a", "b", "c")
NETS = {
    "plain": ("cifar-plain8", {}),
    "residual": ("cifar-resnet8", {}),
    "pre-activation": ("cifar-preact-resnet20", {"depths": (1, 1)}),
    "bottleneck": ("cifar-resnet8", {"block": "bottleneck", "shortcut": "B"}),
    "no norm": ("cifar-resnet8", {"norm": "none", "branch_scale": "rsqrt-depth"}),
}


def net_of(name, **changes):
    torch.manual_seed(0)
    spec = {"num_classes": 3, "in_channels": 1, "widths": (4, 6), "stem_width": 4, "depths": (2, 1)}
    return build(catalog.spec(name, **spec | {"input_size": 8} | changes)).eval()


def vgg():
    changes = {"widths": (4, 4, 4, 6, 6), "depths": (1, 1, 2, 1, 1), "norm": "batch"}
    torch.manual_seed(0)
    fixed = {"num_classes": 3, "in_channels": 1, "input_size": 32, "stem_width": 64}
    return build(catalog.spec("vgg11", **fixed | changes)).eval()


def shown(images=IMAGES):
    batch = Batch(images, torch.arange(len(images)) % 3, torch.arange(len(images)))
    return LabeledImages((batch,), CLASSES, "", torch.device("cpu"))


def test_curvature_is_the_largest_eigenvalue_of_the_whole_hessian(monkeypatch):
    monkeypatch.setattr(curvature, "CHUNK", 4)
    monkeypatch.setattr(curvature, "MAX_ITERATIONS", 300)
    model = net_of("cifar-resnet8", widths=(2, 2), stem_width=2, depths=(1, 1))
    images, names = shown(), [name for name, _ in model.named_parameters()]
    shapes = [each.shape for each in model.parameters()]
    sizes = [each.numel() for each in model.parameters()]

    def loss(flat):
        parts = [part.view(s) for part, s in zip(flat.split(sizes), shapes, strict=True)]
        logits = torch.func.functional_call(model, dict(zip(names, parts, strict=True)), IMAGES)
        return F.cross_entropy(logits, images.batches[0].targets)

    flat = torch.cat([each.detach().flatten() for each in model.parameters()])
    whole = torch.autograd.functional.hessian(loss, flat)
    values = torch.linalg.eigvalsh(whole)
    found, _ = curvature.Hessian(model, images, dict.fromkeys(names, 1.0)).top_eigenvalue(0, "")
    assert found.value == pytest.approx(values[values.abs().argmax()].item(), rel=0.02)
    assert found.residual <= curvature.TOLERANCE * abs(found.value)
    norms = curvature.filter_norms(model)
    assert set(norms) == {name for name in names if name.endswith("weight") and ".norm" not in name}
    scales = torch.cat(
        [
            norms.get(name, torch.zeros(shape)).flatten()
            for name, shape in zip(names, shapes, strict=True)
        ]
    )
    scaled = torch.linalg.eigvalsh(scales[:, None] * whole * scales)
    found, _ = curvature.Hessian(model, images, norms).top_eigenvalue(0, "")
    assert found.value == pytest.approx(scaled[scaled.abs().argmax()].item(), rel=0.02)


def test_cka_is_its_definition():
    """HSIC by the sum over all quadruples of different images (Song et al. 2012, equation 4)."""
    generator = torch.Generator().manual_seed(1)
    x, y = (torch.randn(6, d, generator=generator, dtype=torch.float64) for d in (5, 3))
    y = y + x[:, :3]

    def hsic(k, m):
        terms = [
            k[i, j] * m[i, j] + k[i, j] * m[q, r] - 2 * k[i, j] * m[i, q]
            for i, j, q, r in itertools.permutations(range(6), 4)
        ]
        return sum(terms) / len(terms)

    k, m = x @ x.T, y @ y.T
    expected = hsic(k, m) / math.sqrt(hsic(k, k) * hsic(m, m))
    assert similarity.cka(k[None], m[None]).item() == pytest.approx(expected.item())
    turned = torch.linalg.qr(torch.randn(5, 5, generator=generator, dtype=torch.float64))[0]
    other = 3 * x @ turned + 7  # rotated, scaled and moved: the same
    same = similarity.cka(k[None], torch.stack([other @ other.T, m]))
    assert same[0].tolist() == pytest.approx([1, expected.item()])
    with pytest.raises(ValueError, match="at least 4"):
        similarity.cka(k[None, :3, :3], k[None, :3, :3])


@pytest.mark.parametrize(
    ("cka", "distance"),
    [
        ([[1.0, 0.2], [0.3, 1.0]], 0.0),
        ([[0.2, 1.0], [1.0, 0.3]], 0.5),
        ([[0.9, 0.1, 0.1, 0.1], [0.1, 0.1, 0.1, 0.9]], 0.125),  # (0.25 - 0.125 + 0.875 - 0.75) / 2
    ],
)
def test_distance_in_relative_depth_to_the_most_similar_unit(cka, distance):
    assert similarity.relative_distance(cka) == pytest.approx(distance)


def test_a_linear_unit_is_its_linearization_and_others_are_tangents():
    torch.manual_seed(0)
    linear = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).eval()
    x, center = torch.randn(5, 3, 8, 8), torch.randn(1, 3, 8, 8)
    with torch.no_grad():
        torch.testing.assert_close(effective.Linearized(linear, center)(x), linear(x))
    for model in (net_of("cifar-resnet8"), vgg()):
        for name, center in effective.mean_inputs(model, shown(big(model))).items():
            unit = named_units(model)[name]
            tangent = effective.Linearized(unit, center)
            x = torch.randn(2, *center.shape[1:])
            both = center.expand_as(x).contiguous()
            value, change = torch.autograd.functional.jvp(unit, both, x - center)
            torch.testing.assert_close(tangent(x), value + change, rtol=1e-3, atol=1e-3)


def big(model):
    return F.interpolate(IMAGES, 32) if model.spec.is_vgg else IMAGES


def test_mean_inputs_are_those_of_a_forward_pass():
    model = net_of("cifar-preact-resnet20", depths=(1, 1))
    found, seen = effective.mean_inputs(model, shown()), {}
    for name, unit in named_units(model).items():
        unit.register_forward_pre_hook(lambda _, x, name=name: seen.update({name: x[0].clone()}))
    with torch.no_grad():
        model(IMAGES)
    assert list(found) == list(seen) == ["stage1.0", "stage2.0"]
    for name, x in seen.items():
        torch.testing.assert_close(found[name], x.mean(0, keepdim=True))


def test_autocorrelation_of_known_series():
    alternating = np.array([1.0, -1.0] * 10)[:, None]
    assert shattered.autocorrelation(alternating, 2) == pytest.approx([1, -19 / 20, 18 / 20])
    white, brown = (shattered.noise_autocorrelation(brownian=each) for each in (False, True))
    assert white[1] == pytest.approx(-1 / shattered.POINTS, abs=0.02)
    assert brown[1] > 0.8
    half = shattered.Curve("", (1.0, 0.75, 0.25), (0.0,) * 3).half
    assert half == pytest.approx(100 * 1.5 / (shattered.POINTS - 1))


def test_gradients_along_a_line_are_those_at_its_inputs():
    model = net_of("cifar-resnet8")
    found = shattered.line_gradients(model, IMAGES[0], IMAGES[1], 2)
    assert found.shape == (shattered.POINTS, 64)
    for index, image in ((0, IMAGES[0]), (-1, IMAGES[1])):
        x = image[None].clone().requires_grad_()
        model(x)[0, 2].backward()
        assert found[index] == pytest.approx(x.grad.flatten().double().numpy(), rel=1e-3, abs=1e-6)


@pytest.mark.parametrize("name", ["cifar-resnet8", "cifar-plain8"])
def test_cosines_are_those_of_the_blocks(name):
    """With the gradient at a block's input found by a backward pass from there."""
    model = net_of(name)
    found = inference.gradient_cosines(model, shown())
    assert list(found) == ["stage1.0", "stage1.1"]
    targets = torch.arange(6) % 3
    x = model.stem(IMAGES).detach()
    for index, block in enumerate(model.stage1):
        x = x.detach().requires_grad_()
        added = block.paths(x)[0] if model.spec.residual else block(x) - x
        rest = model.stage2(model.stage1[index:](x))
        F.cross_entropy(model.classify(rest), targets, reduction="sum").backward()
        expected = [
            F.cosine_similarity(a.flatten(), -g.flatten(), dim=0).item()
            for a, g in zip(added, x.grad, strict=True)
        ]
        assert found[f"stage1.{index}"] == pytest.approx(expected, rel=1e-3, abs=1e-6)
        x = block(x)


def test_a_linear_head_separates_what_is_separable():
    rng = np.random.default_rng(0)
    targets = np.arange(60) % 3
    features = np.eye(3)[targets] + 0.05 * rng.standard_normal((60, 3))
    assert inference.head_error(features, targets, features[::-1], targets[::-1]) == 0
    wrong = (targets[::-1] + 1) % 3
    assert inference.head_error(features, targets, features[::-1], wrong) == 100


@pytest.mark.parametrize("kind", [*NETS, "vgg"])
def test_all_analyses_take_all_networks(kind):
    model = vgg() if kind == "vgg" else net_of(NETS[kind][0], **NETS[kind][1])
    images = shown(big(model))
    count = len(named_units(model))
    assert similarity.gram_matrices(model, images).shape == (count, 6, 6)
    assert len(inference.pooled_outputs(model, images)) == count
    assert inference.gradient_cosines(model, images)
    with lesions.replace_modules(
        model,
        {
            name: effective.Linearized(named_units(model)[name], center)
            for name, center in effective.mean_inputs(model, images).items()
        },
    ):
        logits = images.evaluate(model)
    assert math.isfinite(logits.loss)
    for spec in filter(None, shattered.list_forms(model).values()):
        start = build(spec)
        gradient = shattered.line_gradients(start, *get_images(images.batches[0])[:2], 0)
        assert np.isfinite(gradient).all()


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("analyses")
    nets = ("cifar-plain8", "cifar-resnet8")
    return [train_on_digits(folder / net, net) for net in nets]


@pytest.mark.parametrize("module", [curvature, effective, inference, shattered, similarity])
def test_page_warns_of_untrained_networks_and_answers(module, runs, tmp_path, monkeypatch):
    monkeypatch.setattr(curvature, "MAX_ITERATIONS", 2)
    report = module.ANALYSIS.run(runs, data=None, examples=24, device="cpu", out=tmp_path)
    assert "cifar-plain8: the network" in report.caution
    assert "cifar-resnet8" in report.lead
    text = report.report.read_text(encoding="utf-8")
    for title in ("Question", "Uncertainty", "Limitations", "Source"):
        assert f"<h2>{title}</h2>" in text
    assert list((tmp_path / "numbers").glob("*.csv"))


def test_a_network_without_units_of_equal_shape_is_refused():
    model = net_of("cifar-resnet8", depths=(1,), widths=(8,))
    with pytest.raises(ConfigError, match="no blocks that could be removed"):
        lesions.removable_blocks(model, IMAGES)


def test_cosines_need_a_block_that_keeps_its_shape() -> None:
    model = build(catalog.spec("cifar-speedrun", widths=(8, 8, 8)))
    with pytest.raises(ConfigError):
        inference.gradient_cosines(model, shown(torch.zeros(2, 3, 32, 32)))
