"""Blocks removed and reordered: the networks that are left, against networks built that way."""

import csv
import dataclasses
import random

import pytest
import torch
import torch.nn.functional as F
from study_runs import train_on_digits
from torch import nn

from resnets.config import ConfigError
from resnets.data import Batch
from resnets.models import build, catalog
from resnets.models.resnet import BasicBlock
from resnets.report.figure_style import series_colors
from resnets.study.analyses.lesions import (
    Lesion,
    recalibrate_norms,
    removable_blocks,
    remove_blocks,
    swap_blocks,
)
from resnets.study.analyses.unravelled import ANALYSIS, PathLength, Unravelled, path_gradients

IMAGES = torch.randn(8, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def net_of(name, **changes):
    torch.manual_seed(0)
    return build(catalog.spec(name, num_classes=5, **changes)).eval()


@pytest.mark.parametrize("name", ["cifar-resnet20", "cifar-plain20", "cifar-preact-resnet20"])
def test_a_network_without_a_block_is_the_shallower_network(name):
    model = net_of(name)
    assert removable_blocks(model, IMAGES) == [
        "stage1.0",
        "stage1.1",
        "stage1.2",
        "stage2.1",
        "stage2.2",
        "stage3.1",
        "stage3.2",
    ]
    shallow = build(dataclasses.replace(model.spec, depths=(3, 2, 3))).eval()
    state = {k: v for k, v in model.state_dict().items() if not k.startswith("stage2.1.")}
    state = {k.replace("stage2.2.", "stage2.1."): v for k, v in state.items()}
    shallow.load_state_dict(state)
    before = model(IMAGES)
    with remove_blocks(model, ["stage2.1"]):
        assert torch.equal(model(IMAGES), shallow(IMAGES))
    assert torch.equal(model(IMAGES), before)


def test_swapped_blocks_come_back():
    model = net_of("cifar-plain20")
    before, first = model(IMAGES), model.get_submodule("stage1.1")
    with swap_blocks(model, [("stage1.1", "stage1.2"), ("stage1.2", "stage1.0")]):
        assert model.get_submodule("stage1.0") is first  # two swaps moved it there
        assert not torch.equal(model(IMAGES), before)
    assert torch.equal(model(IMAGES), before)


def test_recalibrated_statistics_are_those_of_the_images_and_are_restored():
    model = net_of("cifar-plain8")
    norm = model.get_submodule("stem.norm")
    saved = norm.running_mean.clone()
    with recalibrate_norms(model, [IMAGES[:4], IMAGES[4:]]):
        expected = model.stem.conv(IMAGES).mean((0, 2, 3))
        torch.testing.assert_close(norm.running_mean, expected, rtol=1e-4, atol=1e-5)
        assert not model.training
    assert torch.equal(norm.running_mean, saved)


def test_gradients_of_all_paths_add_up_to_the_gradient():
    """In a network of two blocks: the four paths, each by itself, sum to the whole."""
    model = net_of("cifar-resnet8", depths=(1, 1), widths=(8, 16), stem_width=8)
    targets = torch.arange(8) % 5
    batch = Batch(IMAGES, targets, torch.arange(8))
    lengths = path_gradients(model, batch, random.Random(0))
    assert [each.length for each in lengths] == [0, 1, 2]
    assert [each.share for each in lengths] == [0.25, 0.5, 0.25]
    stem = model.stem(IMAGES).detach().requires_grad_()
    one, two = model.blocks().values()
    total = torch.zeros_like(stem)
    norms = {}
    for first in (True, False):
        for second in (True, False):
            x = stem * 1
            for block, through in ((one, first), (two, second)):
                branch, shortcut = block.paths(x)
                x = (branch.detach() + shortcut).relu() if not through else (
                    branch + shortcut.detach()
                ).relu()  # fmt: skip
            loss = F.cross_entropy(model.classify(x), targets)
            (gradient,) = torch.autograd.grad(loss, [stem])
            total += gradient
            norms[first, second] = gradient.norm().item()
    (whole,) = torch.autograd.grad(
        F.cross_entropy(model.classify(two(one(stem * 1))), targets), [stem]
    )
    torch.testing.assert_close(total, whole, rtol=1e-4, atol=1e-6)
    assert lengths[0].gradient == pytest.approx(norms[False, False], rel=1e-4)
    assert lengths[2].gradient == pytest.approx(norms[True, True], rel=1e-4)


class WithoutRelu(BasicBlock):
    """A block with nothing behind the addition."""

    def forward(self, x):
        branch, shortcut = self.paths(x)
        return branch + shortcut


def test_a_path_passes_what_follows_the_addition_of_a_block_from_outside():
    """All shortcuts and no branch: the whole network without branches, whose relu is missing."""
    spec = catalog.spec("cifar-resnet8", num_classes=5, depths=(1, 1), widths=(8, 16), stem_width=8)
    torch.manual_seed(0)
    model = build(spec, block=WithoutRelu).eval()
    targets = torch.arange(8) % 5
    lengths = path_gradients(model, Batch(IMAGES, targets, torch.arange(8)), random.Random(0))
    stem = model.stem(IMAGES).detach().requires_grad_()
    x = stem * 1
    for block in model.blocks().values():
        branch, shortcut = block.paths(x)
        x = branch.detach() + shortcut
    (gradient,) = torch.autograd.grad(F.cross_entropy(model.classify(x), targets), [stem])
    assert lengths[0].gradient == pytest.approx(gradient.norm().item(), rel=1e-5)


def test_page_of_a_plain_and_a_residual_network(tmp_path):
    def made(label, residual, rise):
        single = tuple(Lesion(((f"stage1.{n}",),), 5.0 + rise, 6.0) for n in range(3))
        swaps = (Lesion((("stage1.0", "stage1.1"),), 50.0, 40.0),)
        paths = (PathLength(0, 0.25, 0.1), PathLength(1, 0.5, 1.0), PathLength(2, 0.25, 0.5))
        return Unravelled(label, residual, 3, 5.0, 5.5, single, (), swaps, paths * residual)

    report = ANALYSIS.write(
        tmp_path / "out",
        [made("plain", False, 60.0), made("residual", True, 1.0)],
    )
    assert "plain (plain): removing one block changes its error of 5.00% by +60.00" in report.lead
    assert "paths through 1 branch carry" in report.lead
    paths = (tmp_path / "out/figures/paths.svg").read_text(encoding="utf-8")
    plain, residual = series_colors(2)
    assert residual in paths, "the color that the network has in the other figures"
    assert plain not in paths, "a network without residual paths"
    for path in (tmp_path / "out/numbers").glob("*.csv"):
        header = path.read_text(encoding="utf-8").splitlines()[0]
        (columns,) = csv.reader([header])
        assert len(set(columns)) == len(columns), path


@pytest.mark.slow
def test_study_of_real_runs(tmp_path):
    runs = [train_on_digits(tmp_path / net, net) for net in ("cifar-plain14", "cifar-resnet14")]
    options = {"data": None, "examples": 50, "seed": 0, "device": "cpu"}
    report = ANALYSIS.run(runs, out=tmp_path / "out", **options)
    rows = (tmp_path / "out/numbers/removed.csv").read_text(encoding="utf-8")
    assert rows == (
        ANALYSIS.run(runs, out=tmp_path / "again", **options).folder / "numbers/removed.csv"
    ).read_text(encoding="utf-8")
    assert "cifar-plain14" in report.lead


def test_a_vgg_loses_convolutions_of_equal_shape_and_else_is_refused():
    images, small = torch.zeros(1, 3, 32, 32), {"norm": "batch", "input_size": 32}
    vgg = net_of("vgg11", widths=(8,) * 5, **small)
    assert removable_blocks(vgg, images)[:2] == ["stage2.0", "stage3.0"]
    with pytest.raises(ConfigError, match="no blocks"):
        removable_blocks(net_of("vgg11", depths=(1,) * 5, widths=(4, 5, 6, 7, 8), **small), images)
    assert not any(
        isinstance(each, nn.Identity) for each in net_of("cifar-plain8").blocks().values()
    )
