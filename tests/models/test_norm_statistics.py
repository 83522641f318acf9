"""Averaged batch norm statistics are those of the evaluated network; nothing is random."""

import copy
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from resnets.models import ImageClassifier, build, catalog
from resnets.models.norm_statistics import recompute_statistics
from resnets.study.analyses.deepen import compare_deepened


def net(**fields: float) -> ImageClassifier:
    torch.manual_seed(0)
    return build(catalog.spec("cifar-resnet8", num_classes=10, **fields)).eval()


def batches(count: int = 3) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(8, 3, 32, 32, generator=generator) for _ in range(count)]


def statistics(model: nn.Module, seed: int) -> dict[str, Tensor]:
    model = copy.deepcopy(model)
    torch.manual_seed(seed)
    recompute_statistics(model, batches())
    return {name: buffer for name, buffer in model.named_buffers() if "running" in name}


@pytest.mark.parametrize("field", ["drop_path", "shortcut_dropout", "dropout"])
def test_dropout_and_stochastic_depth_do_not_change_the_averages(field: str) -> None:
    expected = statistics(net(), seed=1)
    assert expected
    for seed in (1, 2):
        found = statistics(net(**{field: 0.5}), seed)
        assert all(torch.equal(found[name], value) for name, value in expected.items())


def test_modes_and_momenta_are_restored_also_after_an_error() -> None:
    def unreadable() -> Iterator[Tensor]:
        yield batches(1)[0]
        raise OSError("a disk")

    model = net(drop_path=0.5).train()
    frozen = model.stem.norm.eval()
    model.stage1[0].norm1.momentum = 0.25
    with pytest.raises(OSError, match="a disk"):
        recompute_statistics(model, unreadable())
    assert {name for name, each in model.named_modules() if not each.training} == {"stem.norm"}
    assert not frozen.training
    assert frozen.momentum == 0.1
    assert model.stage1[0].norm1.momentum == 0.25


def test_a_deepened_network_with_dropout_is_compared_without_it() -> None:
    comparison = compare_deepened(net(dropout=0.5), batches(1)[0], extra_blocks=1)
    assert comparison.eval_difference == comparison.train_difference == 0
    assert comparison.plain_variation == 0
