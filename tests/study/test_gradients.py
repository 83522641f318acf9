"""Gradient norms against autograd by hand, training against plain SGD, and what is said of it."""

import csv
import dataclasses
import math

import pytest
import torch
from torch.nn.functional import cross_entropy

from resnets.config import ConfigError, DataSpec, Recipe, ScheduleSpec
from resnets.data import Batch, TrainStream, fit_preprocess, open_data
from resnets.models import build, catalog
from resnets.study.gradients.measure import (
    SCHEMES,
    LayerGradient,
    Measurement,
    Trace,
    layer_gradients,
    trace_gradients,
)
from resnets.study.gradients.study import gradients, list_comparisons, write_gradients
from resnets.train.loss import classification_loss

GRAY = {"in_channels": 1, "num_classes": 10, "input_size": 16}
CPU = torch.device("cpu")


def batch_of(count, seed=0):
    chance = torch.Generator().manual_seed(seed)
    images = torch.randn(count, 1, 16, 16, generator=chance)
    return Batch(images, torch.randint(10, (count,), generator=chance), torch.arange(count))


def net_of(name, **changes):
    torch.manual_seed(0)
    return build(catalog.spec(name, **(GRAY | changes)))


@pytest.mark.parametrize("changes", [{}, {"shortcut": "B"}, {"norm": "none"}])
def test_norms_equal_autograd_by_hand(changes):
    net, batch = net_of("cifar-resnet8", **changes), batch_of(16)
    loss, layers = layer_gradients(net.eval(), classification_loss(), batch)
    net.train()
    by_hand = cross_entropy(net(batch.images), batch.targets)
    by_hand.backward()
    assert loss == pytest.approx(by_hand.item(), rel=1e-6)
    names = ["stem.conv"]
    names += [f"stage{s}.0.conv{c}" for s in (1, 2, 3) for c in (1, 2)]
    assert [each.layer for each in layers] == [*names, "head"]
    for each in layers:
        weight = net.get_submodule(each.layer).weight
        assert each.gradient == pytest.approx(weight.grad.norm().item(), rel=1e-5)
        assert each.weight == pytest.approx(weight.norm().item(), rel=1e-6)


def test_measuring_leaves_the_network_as_it_was():
    net = net_of("cifar-resnet8").eval()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    layer_gradients(net, classification_loss(), batch_of(8))
    assert not net.training
    assert all(parameter.grad is None for parameter in net.parameters())
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())


def digits_recipe(net, steps, **changes):
    return Recipe(
        model=catalog.spec(net, **(GRAY | changes)),
        data=DataSpec(source="digits", normalize="per-pixel-mean", val_fraction=0.0),
        schedule=ScheduleSpec(kind="constant"),
        duration=f"{steps}it",
        batch_size=32,
    )


@pytest.fixture(scope="module")
def digits():
    recipe = digits_recipe("cifar-resnet8", 1)
    splits = open_data(recipe.data)
    return splits, fit_preprocess(splits.train, recipe.data, 1)


def test_a_measured_gradient_is_the_one_of_the_update(digits):
    """Plain SGD written out by hand arrives at the same gradients, step for step."""
    splits, preprocessor = digits
    recipe = digits_recipe("cifar-plain8", 4)
    trace = trace_gradients(recipe, splits, preprocessor, CPU)
    assert [now.step for now in trace.measurements] == [0, 1, 2, 3]
    torch.manual_seed(recipe.seed)
    net = build(recipe.model).to(memory_format=torch.channels_last).train()
    stream = TrainStream(splits.train, recipe.data, preprocessor, 32, recipe.seed, CPU)
    velocity = {}
    for now, batch in zip(trace.measurements, stream.batches(), strict=False):
        net.zero_grad()
        loss = cross_entropy(net(batch.images), batch.targets)
        loss.backward()
        assert now.loss == pytest.approx(loss.item(), rel=1e-4)
        first = net.stem.conv.weight.grad.norm().item()
        assert now.layers[0].gradient == pytest.approx(first, rel=1e-3)
        with torch.no_grad():
            for name, weight in net.named_parameters():
                step = weight.grad + 1e-4 * weight
                velocity[name] = step + 0.9 * velocity.get(name, 0)
                weight -= 0.1 * velocity[name]
    assert trace.training_error is not None


def test_naive_init_without_norm_vanishes_and_ends_early(digits):
    recipe = digits_recipe("cifar-plain32", 10, norm="none", init="naive")
    trace = trace_gradients(recipe, *digits, CPU)
    assert trace.measurements[-1].state == "vanishing"
    assert trace.training_error is None
    assert len(trace.measurements) < 10


def test_a_loss_that_is_not_finite_ends_the_training(digits):
    recipe = digits_recipe("cifar-resnet20", 10, norm="none")
    recipe = dataclasses.replace(recipe, optim=dataclasses.replace(recipe.optim, lr=1e6))
    trace = trace_gradients(recipe, *digits, CPU)
    assert trace.measurements[-1].state == "not finite"
    assert trace.training_error is None
    assert len(trace.measurements) < 10


def test_a_trace_follows_from_the_seed(digits):
    recipe = digits_recipe("cifar-resnet8", 3)
    again = [trace_gradients(recipe, *digits, CPU) for _ in range(2)]
    assert again[0] == again[1]
    other = trace_gradients(dataclasses.replace(recipe, seed=1), *digits, CPU)
    assert other.measurements[0].loss != again[0].measurements[0].loss


def measured(step, *gradients, loss=1.0):
    layers = tuple(LayerGradient(f"conv{i}", value, 2.0) for i, value in enumerate(gradients))
    return Measurement(step, loss, layers)


@pytest.mark.parametrize(
    ("gradients", "loss", "state"),
    [
        ((0.1, 0.2, 0.3), 1.0, "healthy"),
        ((1.9e-6, 0.2, 0.3), 1.0, "vanishing"),
        ((0.1, 0.0, 0.3), 1.0, "vanishing"),
        ((21.0, 0.2, 0.3), 1.0, "exploding"),
        ((math.nan, 0.2, 0.3), 1.0, "not finite"),
        ((0.1, 0.2, 0.3), math.inf, "not finite"),
    ],
)
def test_state_of_a_measurement(gradients, loss, state):
    assert measured(0, *gradients, loss=loss).state == state


def test_ratio_is_of_the_first_and_the_last_convolution():
    assert measured(0, 6.0, 1.0, 3.0, 100.0).ratio == 2.0  # the head is no convolution
    assert math.isnan(measured(0, 0.0, 0.0, 0.0).ratio)


def trace_of(net, error, *states, scheme=SCHEMES[0]):
    gradients = {"healthy": 0.1, "vanishing": 1e-9, "exploding": 100.0}
    spec = dataclasses.replace(catalog.spec(net), norm=scheme.norm, init=scheme.init)
    steps = tuple(measured(step, gradients[state], 0.1, 0.1) for step, state in enumerate(states))
    return Trace(spec, steps, error)


@pytest.fixture
def report_of(tmp_path):
    return lambda *traces: write_gradients(
        tmp_path, traces, data="", iterations=2, seed=0, recipe="", commands=[], environment={}
    )


@pytest.mark.ci
def test_degradation_that_remains_is_reported_and_no_other(report_of):
    shallow = trace_of("cifar-plain20", 10.0, "healthy", "healthy")
    deep = trace_of("cifar-plain56", 60.0, "healthy", "healthy")
    residual = trace_of("cifar-resnet56", 12.0, "healthy", "healthy")
    found = list_comparisons([shallow, deep, residual])
    assert [each.peer.spec.name for each in found] == ["cifar-resnet56", "cifar-plain20"]
    assert all(each.converged and each.worse and not each.vanishing for each in found)
    assert "train worse in 2 of 2" in report_of(shallow, deep, residual).lead
    short = [
        trace_of(net, error, "healthy", "healthy")
        for net, error in (
            ("cifar-plain20", 70.0),
            ("cifar-plain56", 88.0),
            ("cifar-resnet56", 81.0),
        )
    ]
    assert not any(each.converged for each in list_comparisons(short))
    assert "train worse" not in report_of(*short).lead
    assert "not converged (lowest training error 70.0%)" in report_of(*short).lead
    good = trace_of("cifar-plain56", 9.0, "healthy", "healthy")
    assert "no degradation" in report_of(shallow, good, residual).lead
    assert list_comparisons([residual]) == []


def test_a_vanished_gradient_is_not_called_healthy(report_of):
    shallow = trace_of("cifar-plain20", 10.0, "healthy", "healthy")
    deep = trace_of("cifar-plain56", 60.0, "healthy", "vanishing")
    (found,) = list_comparisons([shallow, deep])
    assert found.vanishing == 1
    report = report_of(shallow, deep)
    assert report.lead.startswith("Even with batch norm and He initialization a gradient vanishes")
    page = report.report.read_text(encoding="utf-8")
    assert "vanishes in 1 of 2 measurements" in page
    assert "fails in 1 of 2" in page


@pytest.mark.ci
def test_study_writes_every_scheme(tmp_path):
    report = gradients(
        ["cifar-plain8", "cifar-resnet8"],
        data=None, iterations=10, seed=0, device="cpu", out=tmp_path,
    )  # fmt: skip
    rows = list(csv.DictReader((tmp_path / "numbers" / "gradient-states.csv").open()))
    assert [(row["model"], row["scheme"]) for row in rows] == [
        (net, str(scheme)) for net in ("cifar-plain8", "cifar-resnet8") for scheme in SCHEMES
    ]
    layers = list(csv.DictReader((tmp_path / "numbers" / "gradients-start.csv").open()))
    assert len(layers) == 8 * 8
    text = report.report.read_text()
    assert "digits" in text
    assert "resnets study gradients cifar-plain8,cifar-resnet8" in text


@pytest.mark.parametrize(
    ("nets", "iterations", "message"),
    [
        ([], 10, "name at least one model"),
        (["cifar-plain20", "cifar-plain20"], 10, "name each once"),
        (["cifar-plain21"], 10, "did you mean"),
        (["vgg16"], 10, "not a plain or residual network"),
        (["cifar-plain20", "resnet18"], 10, "stems"),
        (["cifar-plain20"], 9, "iterations=9: too few"),
    ],
)
def test_bad_use(tmp_path, nets, iterations, message):
    with pytest.raises(ConfigError, match=message):
        gradients(
            nets, data=None, iterations=iterations, seed=0, device="cpu", out=tmp_path / "out"
        )
    assert not (tmp_path / "out").exists()


@pytest.mark.ci
def test_forms_are_named_by_their_fields(tmp_path):
    """A network without norms and with branches that start at zero trains in its own scheme."""
    names = ["cifar-resnet8", "cifar-resnet8:norm=none:branch_scale=skipinit"]
    report = gradients(
        names, data="digits", iterations=10, seed=0, device="cpu", out=tmp_path / "out"
    )
    with open(report.folder / "numbers/gradient-states.csv", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    schemes = [row["scheme"] for row in rows if row["model"] == names[1]]
    assert schemes == ["no norm, He init"]
    assert len(rows) == len(SCHEMES) + 1
    with pytest.raises(ConfigError, match=r"optim\.lr"):
        gradients(
            ["cifar-resnet8:optim.lr=1"], data=None, iterations=10, seed=0, device="cpu",
            out=tmp_path / "no",
        )  # fmt: skip


def test_a_branch_that_starts_at_zero_is_not_called_vanishing_for_it():
    spec = catalog.spec("cifar-resnet8", branch_scale="rezero")
    layers = (LayerGradient("conv", 0.0, 1.0), LayerGradient("head", 1.0, 1.0))
    later = (LayerGradient("conv", 0.1, 1.0), LayerGradient("head", 1.0, 1.0))
    trace = Trace(spec, (Measurement(0, 2.0, layers), Measurement(1, 2.0, later)), 50.0)
    assert [now.state for now in trace.measurements] == ["vanishing", "healthy"]
    assert [now.state for now in trace.after_zero_init] == ["healthy"]
    assert len(dataclasses.replace(trace, spec=catalog.spec("cifar-resnet8")).after_zero_init) == 2
