"""Responses against a forward pass written out by hand, and the report made of them."""

import csv
import re

import pytest
import torch
from PIL import Image
from study_runs import train_on_digits
from torch.nn.functional import relu

from resnets.config import ConfigError
from resnets.data import Batch, DataError
from resnets.models import build, catalog
from resnets.study.analyses.responses import (
    ANALYSIS,
    LayerResponse,
    ModelResponses,
    describe,
    layer_responses,
)


def digits_like(count, seed=0):
    images = torch.randn(count, 1, 16, 16, generator=torch.Generator().manual_seed(seed))
    return Batch(images, torch.zeros(count, dtype=torch.int64), torch.arange(count))


def small(name, **changes):
    torch.manual_seed(0)
    net = build(catalog.spec(name, in_channels=1, num_classes=10, input_size=16, **changes))
    for module in net.modules():  # weights and statistics as training leaves them: none trivial
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.weight, 0.5, 2)
            torch.nn.init.normal_(module.bias)
            torch.nn.init.normal_(module.running_mean)
            torch.nn.init.uniform_(module.running_var, 0.5, 2)
    return net.eval()


def std(x):
    return x.double().std(correction=0).item()


def by_hand(net, x):
    """The responses of a net of basic or bottleneck blocks, norms after convolutions."""
    found = {}
    x = net.stem.norm.normalize(net.stem.conv(x))
    found["stem.conv"] = std(x)
    x = relu(x)
    for stage in net.stage_names[1:]:
        for position, block in enumerate(net.get_submodule(stage)):
            out, layers = (
                x,
                [layer for layer in ("conv1", "conv2", "conv3") if hasattr(block, layer)],
            )
            for layer in layers:
                out = relu(out) if layer != "conv1" else out
                norm = getattr(block, layer.replace("conv", "norm"))
                out = norm.normalize(getattr(block, layer)(out))
                if getattr(block, layer).kernel_size == (3, 3):
                    found[f"{stage}.{position}.{layer}"] = std(out)
            shortcut = block.shortcut(x)
            x = relu(out if shortcut is None else out + shortcut)
    return found


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("cifar-resnet14", {}),
        ("cifar-plain14", {}),
        ("cifar-resnet14", {"shortcut": "C"}),
        ("cifar-resnet14", {"norm": "none"}),
        ("cifar-resnet14", {"block": "bottleneck", "shortcut": "B"}),
    ],
)
def test_equals_a_forward_pass_by_hand(name, changes):
    net, batch = small(name, **changes), digits_like(20)
    with torch.no_grad():
        expected = by_hand(net, batch.images)
    measured = {each.layer: each.std for each in layer_responses(net, [batch])}
    assert list(measured) == list(expected)
    assert measured == pytest.approx(expected, rel=1e-5)


def test_preactivation_takes_the_norm_that_follows_and_the_raw_end_of_a_branch():
    net, batch = small("cifar-preact-resnet8"), digits_like(20)
    block = net.stage1[0]
    with torch.no_grad():
        x = net.stem(batch.images)
        middle = block.norm2.normalize(block.conv1(block.norm1(x)))
        expected = {
            "stage1.0.conv1": std(middle),
            "stage1.0.conv2": std(block.conv2(relu(middle))),
        }
    measured = {each.layer: each.std for each in layer_responses(net, [batch])}
    assert {layer: measured[layer] for layer in expected} == pytest.approx(expected, rel=1e-5)


def test_batches_of_unlike_length_make_one_standard_deviation():
    net, whole = small("cifar-resnet8"), digits_like(30)
    parts = [
        Batch(whole.images[rows], whole.targets[rows], whole.ids[rows])
        for rows in (slice(0, 7), slice(7, 30))
    ]
    once = [each.std for each in layer_responses(net, [whole])]
    assert [each.std for each in layer_responses(net, parts)] == pytest.approx(once, rel=1e-6)


def test_leaves_no_hooks_behind():
    net = small("cifar-resnet8")
    layer_responses(net, [digits_like(4)])
    assert not any(module._forward_hooks for module in net.modules())


def responses_of(name, *stds):
    layers = tuple(LayerResponse(f"layer{index}", value) for index, value in enumerate(stds))
    return ModelResponses(name, catalog.spec(name), layers)


def test_comparisons_follow_the_numbers():
    plain = responses_of("cifar-plain20", 1.0, 1.2)
    shallow = responses_of("cifar-resnet20", 0.5, 0.7)
    deep = responses_of("cifar-resnet56", 0.2, 0.4)
    found = describe([plain, shallow, deep])
    (counterpart,), (family,) = found["counterparts"], found["depths"]
    assert (counterpart.result, family.result) == ("smaller", "smaller")
    assert counterpart.ratio == pytest.approx(0.6 / 1.1)
    for mean, expected in ((0.3, "larger"), (0.601, "equal")):
        (counterpart,) = describe([responses_of("cifar-plain20", mean), shallow])["counterparts"]
        assert counterpart.result == expected
    (family,) = describe([shallow, responses_of("cifar-resnet56", 0.9)])["depths"]
    assert family.result == "larger"
    found = describe([shallow])
    assert found["counterparts"] == found["depths"] == []


@pytest.mark.parametrize(("caution", "tones"), [("", ["good", "good"]), ("Short.", ["open"] * 2)])
def test_page_judges_only_without_a_caution(tmp_path, caution, tones):
    models = [
        responses_of("cifar-plain20", 1.0, 1.2),
        responses_of("cifar-resnet20", 0.5, 0.7),
        responses_of("cifar-resnet56", 0.2, 0.4),
    ]
    report = ANALYSIS.write(tmp_path, models, caution=caution)
    page = report.report.read_text(encoding="utf-8")
    assert re.findall(r'<li class="(\w+)">', page) == tones
    assert ("2 comparisons agree" in report.lead) is not bool(caution)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("responses")
    nets = ("cifar-resnet8", "cifar-plain8")
    return {net: train_on_digits(folder / net, net) for net in nets}


@pytest.mark.ci
def test_study_writes_every_layer_of_every_network(runs, tmp_path):
    report = ANALYSIS.run(list(runs.values()), data=None, examples=60, device="cpu", out=tmp_path)
    rows = list(csv.DictReader((tmp_path / "numbers" / "responses.csv").open()))
    assert [row["model"] for row in rows] == ["cifar-resnet8"] * 7 + ["cifar-plain8"] * 7
    text = report.report.read_text()
    assert "60 drawn (seed 0) from digits, validation share" in text
    assert "resnets study responses" in text


def test_two_runs_of_one_network_are_distinguished(runs, tmp_path):
    again = train_on_digits(tmp_path / "again", "cifar-resnet8", 3)
    report = ANALYSIS.run(
        [runs["cifar-resnet8"], again], data=None, examples=20, device="cpu", out=tmp_path / "out"
    )
    assert "cifar-resnet8 (again)" in report.report.read_text()


def test_unlike_data_are_refused(runs, tmp_path):
    other = train_on_digits(tmp_path / "other", "cifar-resnet8", 2, split_seed=1)
    pair = [runs["cifar-resnet8"], other]
    with pytest.raises(ConfigError, match="data.split_seed.*1.*0"):
        ANALYSIS.run(pair, data=None, examples=20, device="cpu", out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_other_classes_are_refused(runs, tmp_path):
    for index in range(12):
        folder = tmp_path / "data" / ("cat", "dog")[index % 2]
        folder.mkdir(parents=True, exist_ok=True)
        Image.new("L", (16, 16), index).save(folder / f"{index}.png")
    with pytest.raises(DataError, match="knows none of its classes"):
        ANALYSIS.run(
            [runs["cifar-resnet8"]],
            data=str(tmp_path / "data"),
            examples=20,
            device="cpu",
            out=tmp_path / "out",
        )


@pytest.mark.parametrize(
    ("checkpoints", "examples", "message"),
    [([], 10, "at least one"), (["run"], 0, "--examples 0")],
)
def test_bad_use(runs, tmp_path, checkpoints, examples, message):
    paths = [runs["cifar-resnet8"] for _ in checkpoints]
    with pytest.raises(ConfigError, match=message):
        ANALYSIS.run(paths, data=None, examples=examples, device="cpu", out=tmp_path)
