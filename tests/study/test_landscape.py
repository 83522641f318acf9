"""Loss around a net: directions, the point of the net itself, and single points by hand."""

import copy
import csv
import math

import pytest
import torch
from study_runs import make_subject, train_on_digits

from resnets.config import ConfigError
from resnets.evaluate import evaluate_model
from resnets.models import catalog
from resnets.study.analyses.landscape import (
    ANALYSIS,
    Landscape,
    Point,
    low_loss_share,
    measure,
    random_direction,
    shift_weights,
)
from resnets.study.trained_models import prepare_images, sample_split
from resnets.weights.load import load_classifier


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("landscape")
    nets = ("cifar-resnet8", "cifar-plain8")
    return {net: train_on_digits(folder / net, net) for net in nets}


@pytest.fixture(scope="module")
def shown(runs):
    net = load_classifier(runs["cifar-resnet8"])
    return net, prepare_images(sample_split(net, None, "train", 64, 0), net, "cpu")


def test_each_filter_of_a_direction_has_the_norm_of_the_networks(shown):
    net, _ = shown
    direction = random_direction(net, 3)
    assert set(direction) == {name for name, p in net.named_parameters() if p.ndim > 1}
    for name, way in direction.items():
        for ours, theirs in zip(way, net.get_parameter(name), strict=True):
            assert ours.norm().item() == pytest.approx(theirs.norm().item(), rel=1e-5)
    again, other = random_direction(net, 3), random_direction(net, 4)
    assert all(torch.equal(way, again[name]) for name, way in direction.items())
    assert not torch.equal(direction["stem.conv.weight"], other["stem.conv.weight"])


def test_shifting_does_not_change_norms_or_biases_and_is_undone_exactly(shown):
    net, _ = shown
    before = {name: value.clone() for name, value in net.state_dict().items()}
    ways = random_direction(net, 0), random_direction(net, 1)
    with shift_weights(net, ((0.3, ways[0]), (-0.7, ways[1]))):
        for name, value in net.state_dict().items():
            expected = before[name]
            if name in ways[0]:
                expected = expected + 0.3 * ways[0][name] - 0.7 * ways[1][name]
            assert torch.allclose(value, expected, rtol=0, atol=1e-6)
            assert torch.equal(value, before[name]) == (name not in ways[0])
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())


def test_the_center_is_the_network_and_other_points_are_the_shifted_network(shown):
    net, images = shown
    found = measure(make_subject(net, images, seed=1), steps=3)
    assert [point.alpha for point in found.line] == [-1, -0.5, 0, 0.5, 1]
    assert [(point.beta, point.alpha) for point in found.plane] == [
        (beta, alpha) for beta in (-1, 0, 1) for alpha in (-1, 0, 1)
    ]
    intact = evaluate_model(
        net, images.batches, net.classes, protocol="", precision="float32",
        device=torch.device("cpu"),
    )  # fmt: skip
    for center in (found.center, found.plane[4]):
        assert (center.alpha, center.beta) == (0, 0)
        assert (center.loss, center.error) == (intact.loss, intact.top1_error)
    by_hand, ways = copy.deepcopy(net), (random_direction(net, 2), random_direction(net, 3))
    with torch.no_grad():
        for name, parameter in by_hand.named_parameters():
            if name in ways[0]:
                parameter += 1.0 * ways[0][name] - 1.0 * ways[1][name]
    corner = found.plane[2]
    assert (corner.alpha, corner.beta) == (1, -1)
    assert corner.loss == pytest.approx(images.evaluate(by_hand).loss, rel=1e-4)
    assert corner.loss != found.center.loss
    middle = [point for point in found.plane if point.beta == 0]
    assert middle == [point for point in found.line if point.alpha in (-1, 0, 1)]


def test_low_share_counts_points_under_half_the_loss_of_guessing():
    half = math.log(10) / 2
    losses = [half - 0.01, half + 0.01, 5.0, math.nan]
    plane = tuple(Point(0, 0, loss, 0.0) for loss in losses)
    landscape = Landscape("net", catalog.spec("cifar-resnet8"), plane[:1], plane)
    assert low_loss_share(landscape) == 0.25


def test_losses_that_are_not_finite_are_gaps(tmp_path):
    """A net that overflows far from its weights still gets its figure."""
    side = (-1.0, 0.0, 1.0)
    plane = tuple(
        Point(alpha, beta, 0.1 if alpha == 0 else math.inf if alpha < 0 else 1e9, 0.0)
        for beta in side
        for alpha in side
    )
    line = tuple(point for point in plane if point.beta == 0)
    net = Landscape("net", catalog.spec("cifar-plain8"), line, plane)
    report = ANALYSIS.write(tmp_path, [net])
    assert ">33%<" in report.report.read_text(encoding="utf-8")


def test_study_compares_networks_on_the_same_images(runs, tmp_path):
    report = ANALYSIS.run(
        list(runs.values()), data=None, examples=40, steps=3, seed=0, device="cpu", out=tmp_path
    )
    rows = list(csv.DictReader((tmp_path / "numbers" / "plane.csv").open()))
    assert len(rows) == 2 * 9
    text = report.report.read_text()
    assert text.count("40 drawn (seed 0) from digits, training share") == 2
    assert "stored statistics" in text


@pytest.mark.parametrize("steps", [1, 2, 10])
def test_steps_without_a_middle_are_refused(runs, tmp_path, steps):
    with pytest.raises(ConfigError, match="an odd number"):
        ANALYSIS.run(
            list(runs.values()), data=None, examples=40, steps=steps, seed=0, device="cpu",
            out=tmp_path / "out",
        )  # fmt: skip
    assert not (tmp_path / "out").exists()


def test_a_diverged_network_is_refused(runs, tmp_path):
    from checkpoint_files import save_checkpoint

    from resnets.weights.checkpoint.find import find_checkpoint
    from resnets.weights.checkpoint.format import read_checkpoint

    checkpoint = read_checkpoint(find_checkpoint(runs["cifar-resnet8"]))
    checkpoint.tensors["model/head.weight"].fill_(math.nan)
    path = tmp_path / "diverged.safetensors"
    save_checkpoint(path, checkpoint.tensors, checkpoint.meta)
    with pytest.raises(ValueError, match="diverged.safetensors"):
        ANALYSIS.run(
            [path], data=None, examples=9, steps=3, seed=0, device="cpu", out=tmp_path / "out"
        )
