"""Block ratios, lesions against surgery by hand, and the deepened net, bit for bit."""

import copy
import csv

import pytest
import torch
from study_runs import make_subject, train_on_digits
from torch.nn.functional import relu

from resnets.config import ConfigError
from resnets.data import Batch
from resnets.models import build, catalog
from resnets.study.analyses.deepen import compare_deepened, deepen
from resnets.study.analyses.identity import ANALYSIS, block_ratios, measure
from resnets.study.analyses.lesions import (
    identity_blocks,
    remove_branches,
    residual_blocks,
    swap_blocks,
    swappable_blocks,
)
from resnets.study.trained_models import prepare_images, sample_split
from resnets.weights.load import load_classifier

GRAY = {"in_channels": 1, "num_classes": 10, "input_size": 16}


def images_of(count, seed=0):
    return torch.randn(count, 1, 16, 16, generator=torch.Generator().manual_seed(seed))


def batch_of(count):
    return Batch(images_of(count), torch.zeros(count, dtype=torch.int64), torch.arange(count))


def small(name, **changes):
    """A net whose weights and statistics are as training leaves them: none is trivial."""
    torch.manual_seed(0)
    net = build(catalog.spec(name, **(GRAY | changes)))
    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
            torch.nn.init.normal_(module.bias)
            torch.nn.init.normal_(module.running_mean)
            torch.nn.init.uniform_(module.running_var, 0.5, 2)
    return net.eval()


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return train_on_digits(tmp_path_factory.mktemp("identity") / "run", "cifar-resnet14")


def test_ratios_equal_norms_taken_by_hand():
    net, batch = small("cifar-resnet14"), batch_of(10)
    expected = {}
    with torch.no_grad():
        x = net.stem(batch.images)
        for stage in ("stage1", "stage2", "stage3"):
            for position, block in enumerate(net.get_submodule(stage)):
                branch = block.norm2.normalize(block.conv2(block.norm1(block.conv1(x))))
                shortcut = block.shortcut(x)
                ratios = [f.norm() / s.norm() for f, s in zip(branch, shortcut, strict=True)]
                expected[f"{stage}.{position}"] = torch.stack(ratios).mean().item()
                x = relu(branch + shortcut)
    assert block_ratios(net, [batch]) == pytest.approx(expected, rel=1e-5)


def logits(net, count=10):
    with torch.no_grad():
        return net(images_of(count))


@pytest.mark.parametrize("name", ["cifar-resnet20", "cifar-preact-resnet20"])
def test_dropping_identity_blocks_equals_taking_them_out(name):
    net = small(name)
    whole = logits(net)
    cut = copy.deepcopy(net)
    del cut.stage2[2], cut.stage2[1], cut.stage3[1]
    with remove_branches(net, ["stage2.1", "stage2.2", "stage3.1"]):
        assert torch.equal(logits(net), logits(cut))
        assert not torch.equal(logits(net), whole)
    assert torch.equal(logits(net), whole)


def test_dropping_a_downsampling_block_leaves_its_shortcut():
    net = small("cifar-resnet14", shortcut="B")
    with torch.no_grad():
        x = net.stage1(net.stem(images_of(10)))
        x = relu(net.stage2[0].shortcut(x))
        expected = net.classify(net.stage3(net.stage2[1](x)))
    with remove_branches(net, ["stage2.0"]):
        assert torch.equal(logits(net), expected)


def test_swapping_equals_surgery_and_is_undone_even_after_an_error():
    net = small("cifar-resnet20")
    whole, names = logits(net), [name for name, _ in net.named_modules()]
    turned = copy.deepcopy(net)
    turned.stage2[1], turned.stage2[2] = turned.stage2[2], turned.stage2[1]
    with swap_blocks(net, [("stage2.1", "stage2.2")]):
        assert torch.equal(logits(net), logits(turned))
        assert not torch.equal(logits(net), whole)
    with swap_blocks(net, [("stage1.0", "stage1.1"), ("stage1.1", "stage1.2")]):
        pass
    with pytest.raises(KeyboardInterrupt), swap_blocks(net, [("stage1.0", "stage1.1")]):
        raise KeyboardInterrupt
    assert torch.equal(logits(net), whole)
    assert [name for name, _ in net.named_modules()] == names


def test_which_blocks_may_be_dropped_whole_or_swapped():
    net = small("cifar-resnet20")
    stage1 = ["stage1.0", "stage1.1", "stage1.2"]
    later = ["stage2.1", "stage2.2", "stage3.1", "stage3.2"]
    assert identity_blocks(net) == stage1 + later
    assert swappable_blocks(net) == [stage1, later[:2], later[2:]]
    projected = small("cifar-resnet20", shortcut="C")
    assert identity_blocks(projected) == []
    assert swappable_blocks(projected) == [stage1, later[:2], later[2:]]
    # The first pre-activation block has no norm of its own.
    assert swappable_blocks(small("cifar-preact-resnet20"))[0] == ["stage1.1", "stage1.2"]


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("cifar-resnet14", {}),
        ("cifar-resnet14", {"shortcut": "B"}),
        ("cifar-resnet14", {"norm": "none"}),
        ("cifar-resnet14", {"block": "bottleneck", "shortcut": "B"}),
        ("cifar-preact-resnet14", {}),
    ],
)
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_deepened_residual_network_is_equal_bit_for_bit(name, changes, training, layout):
    net = small(name, **changes).to(memory_format=layout).train(training)
    deep = deepen(net, 2)
    assert deep.training == training
    assert deep.spec.depths == (4, 4, 4)
    assert sum(1 for _ in residual_blocks(deep)) == 12
    images = images_of(16).to(memory_format=layout)
    with torch.no_grad():
        given, expected = deep(images), net(images)
    assert given.abs().max() > 0
    assert torch.equal(given, expected)
    # Also what training mode leaves behind: the statistics of the layers they share.
    own = net.state_dict()
    assert all(torch.equal(deep.state_dict()[key], value) for key, value in own.items())


def test_new_blocks_can_learn():
    """The gradient reaches their null layers, so they need not stay identities."""
    deep = deepen(small("cifar-resnet8"), 1).train()
    deep(images_of(8)).logsumexp(1).sum().backward()
    new = deep.stage2[1]
    assert isinstance(new.shortcut, torch.nn.Identity)
    assert new.norm2.weight.grad.abs().max() > 0
    assert new.norm2.bias.grad.abs().max() > 0


@pytest.mark.parametrize("training", [False, True])
def test_a_deepened_plain_network_is_constant(training):
    torch.manual_seed(0)
    plain = build(catalog.spec("cifar-plain14", **GRAY)).train(training)
    images = images_of(16)
    with torch.no_grad():
        shallow, deep = plain(images), deepen(plain, 1)(images)
    assert (shallow - shallow[0]).abs().max() > 1e-2
    assert torch.equal(deep, deep[:1].expand_as(deep))


def test_the_comparison_detects_equality_and_constancy():
    net = small("cifar-resnet14")
    before = logits(net)
    proof = compare_deepened(net, images_of(16), 2)
    assert (proof.eval_difference, proof.train_difference) == (0.0, 0.0)
    assert (proof.shallow_layers, proof.deep_layers) == (14, 26)
    assert proof.plain_variation == 0.0
    assert proof.plain_variation_before > 1e-2
    assert torch.equal(logits(net), before)  # the statistics of the net stay as they were


def test_what_cannot_be_deepened():
    with pytest.raises(ConfigError, match="cifar-resnet8"):
        deepen(small("cifar-resnet8", shortcut="C"), 1)
    with pytest.raises(ConfigError, match="at least 1"):
        deepen(small("cifar-resnet8"), 0)
    with torch.device("meta"):
        vgg = build(catalog.spec("vgg11"))
    with pytest.raises(ConfigError, match="no blocks to add to"):
        deepen(vgg, 1)


@pytest.mark.ci
def test_figures_of_a_run_equal_lesions_done_by_hand(run):
    net = load_classifier(run)
    images = prepare_images(sample_split(net, None, "held-out", 60, 0), net, "cpu")
    figures = measure(make_subject(net, images))
    assert figures.error == images.evaluate(net).top1_error
    assert len(figures.blocks) == 6
    cut = copy.deepcopy(net)
    del cut.stage3[1]
    block = figures.blocks[-1]
    assert (block.name, block.shortcut) == ("stage3.1", "identity")
    assert block.error_without == images.evaluate(cut).top1_error
    assert [lesion.blocks for lesion in figures.swaps] == [(("stage1.0", "stage1.1"),)]
    # 4 identity blocks: 1, 2 and 3 at random, and all.
    assert [lesion.count for lesion in figures.random_drops] == [1] * 5 + [2] * 5 + [3] * 5 + [4]
    net = load_classifier(run).to(memory_format=torch.channels_last)
    again = measure(make_subject(net, images))
    assert again == figures


def test_study_of_a_run(run, tmp_path):
    report = ANALYSIS.run([run], data=None, examples=50, seed=0, device="cpu", out=tmp_path / "out")
    rows = list(csv.DictReader((tmp_path / "out" / "numbers" / "blocks.csv").open()))
    assert [row["shortcut"] for row in rows] == ["identity", "identity"] + [
        "zero-padded",
        "identity",
    ] * 2
    text = report.report.read_text()
    assert "equal bit for bit" in text
    assert "50 drawn (seed 0) from digits, validation share" in text


def test_plain_network_is_refused_before_anything_is_written(tmp_path):
    plain = train_on_digits(tmp_path / "plain", "cifar-plain8", 2)
    with pytest.raises(ConfigError, match="cifar-plain8"):
        ANALYSIS.run([plain], data=None, examples=9, seed=0, device="cpu", out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.ci
def test_projections_everywhere_leave_gaps_not_errors(tmp_path):
    """Option C: nothing to drop whole, no proof; the page says so."""
    net = small("cifar-resnet8", shortcut="C")
    run = train_on_digits(tmp_path / "run", "cifar-resnet8", 2)
    trained = load_classifier(run)
    net.classes, net.preprocess, net.recipe = trained.classes, trained.preprocess, trained.recipe
    images = prepare_images(sample_split(net, None, "held-out", 20, 0), net, "cpu")
    figures = measure(make_subject(net, images))
    assert figures.deepened is None
    report = ANALYSIS.write(tmp_path / "out", [figures])
    assert "none of its blocks can be an identity" in report.lead
