"""Activation checkpointing changes memory and nothing else."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.distributed._tools.mem_tracker import MemTracker

from resnets.models import ImageClassifier, build, catalog

NETS = ["cifar-resnet32", "cifar-preact-resnet20", "cifar-plain20", "resnet50", "vgg11-bn"]


def step(model: ImageClassifier) -> Tensor:
    """One SGD step on fixed images; returns the loss."""
    data = torch.Generator().manual_seed(1)
    images = torch.randn(2, 3, 32, 32, generator=data)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    torch.manual_seed(2)
    loss = F.cross_entropy(model(images), torch.tensor([1, 3]))
    loss.backward()
    optimizer.step()
    return loss.detach()


@pytest.mark.parametrize("name", NETS)
def test_recomputed_step_is_bitwise_the_same(name: str) -> None:
    torch.manual_seed(0)
    overrides = {"widths": (16, 16, 16, 16, 16)} if name.startswith("vgg") else {}
    stored = build(catalog.spec(name, num_classes=5, **overrides))
    recomputed = copy.deepcopy(stored)
    recomputed.recompute = True
    # A second step starts from the running statistics that the first one left.
    for _ in range(2):
        assert torch.equal(step(stored), step(recomputed))
    for (key, one), other in zip(
        stored.state_dict().items(), recomputed.state_dict().values(), strict=True
    ):
        assert torch.equal(one, other), key
    for (key, one), other in zip(stored.named_parameters(), recomputed.parameters(), strict=True):
        assert torch.equal(one.grad, other.grad), key
    counts = [v for k, v in recomputed.state_dict().items() if k.endswith("num_batches_tracked")]
    assert all(count == 2 for count in counts)


def test_frozen_norms_stay_frozen() -> None:
    model = build(catalog.spec("cifar-resnet20"))
    model.recompute = True
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
    step(model)
    assert model.get_submodule("stage1.0.norm1").running_mean.abs().max() == 0


def peak_bytes(recompute: bool) -> int:
    """Peak memory of a training step of batch 128; on fake tensors, so nothing is computed."""
    with FakeTensorMode():
        model = build(catalog.spec("cifar-resnet56"))
        model.recompute = recompute
        images = torch.empty(128, 3, 32, 32)
        with MemTracker() as tracker:
            F.cross_entropy(model(images), torch.zeros(128, dtype=torch.long)).backward()
    return tracker.get_tracker_snapshot("peak")[torch.device("cpu")]["Total"]


@pytest.mark.ci
def test_recomputing_saves_most_of_the_memory() -> None:
    assert peak_bytes(recompute=True) < 0.35 * peak_bytes(recompute=False)
