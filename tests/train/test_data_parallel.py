"""What is compiled in a run of several processes: DistributedDataParallel, as torch documents."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel

from resnets.train.data_parallel import DataParallelModel
from resnets.utils.machine.distributed import ProcessGroup

SEVERAL = ProcessGroup(rank=0, world_size=2)


@pytest.fixture
def group() -> Iterator[None]:
    """torch's group of one process, in which DistributedDataParallel can be built."""
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch) -> list[nn.Module]:
    """The modules that are compiled; each stays as it is."""
    modules: list[nn.Module] = []

    def compile_(module: nn.Module, **_: Any) -> nn.Module:
        modules.append(module)
        return nn.Sequential(module)  # compiled modules contain the original one, too

    monkeypatch.setattr(torch, "compile", compile_)
    return modules


def test_the_compiled_module_is_the_distributed_one(group, compiled) -> None:
    """compile(DDP(net)): in DDP(compile(net)), graphs do not break at the gradient buckets."""
    net = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 2))
    model = DataParallelModel(net, SEVERAL, compiled=True)
    for trainable in (True, False):  # built again when layers are frozen
        net[0].requires_grad_(trainable)
        model.prepare()
        outer = compiled[-1]
        assert type(outer) is DistributedDataParallel
        assert outer.module is net
        assert model.module[0] is outer
    assert len({id(each) for each in compiled}) == 3  # the network at first, which is not called
    model(torch.ones(1, 3)).sum().backward()
    assert net[1].weight.grad is not None


@pytest.mark.parametrize("is_compiled", [False, True])
def test_one_process_has_no_distributed_module(is_compiled: bool, compiled) -> None:
    net = nn.Linear(3, 2)
    model = DataParallelModel(net, compiled=is_compiled)
    model.prepare()
    assert compiled == [net] * is_compiled
    assert (model.module is net) is not is_compiled
