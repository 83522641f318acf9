"""What one of several processes does in tests/train/test_scale.py: `torchrun scale_worker.py
FOLDER`.

Trains by each FOLDER/*.toml into FOLDER/<name>-<count>, and compares norms with one process's.
"""

import sys
from pathlib import Path

import torch
from torch import nn

from resnets import create_model
from resnets.config import OptimSpec, from_toml
from resnets.models.norm import convert_batch_norms
from resnets.train.optim.optimizers import (
    load_state_tensors,
    make_optimizer,
    set_lr,
    state_tensors,
)
from resnets.train.run import run_training
from resnets.utils.machine.distributed import ProcessGroup, init_distributed


def check_sync_norm(rank: ProcessGroup) -> None:
    """Outputs, gradients and running statistics equal those of the whole batch, in float64."""
    torch.manual_seed(0)
    x = torch.randn(12, 5, 4, 4, dtype=torch.float64) * 2 + 1
    weight = torch.randn_like(x)
    plain = nn.Sequential(nn.BatchNorm2d(5)).double()
    nn.init.uniform_(plain[0].weight)
    sync = nn.Sequential(nn.BatchNorm2d(5)).double()
    sync.load_state_dict(plain.state_dict())
    convert_batch_norms(sync, 0, sync=True)
    places = torch.from_numpy(rank.batch_indices(12, 3 if rank.world_size < 4 else 1))
    whole, mine = x.clone().requires_grad_(), x[places].clone().requires_grad_()
    out, part = plain(whole), sync(mine)
    (out * weight).sum().backward()
    (part * weight[places]).sum().backward()
    assert torch.allclose(out[places], part, atol=1e-12)
    assert torch.allclose(whole.grad[places], mine.grad, atol=1e-12)
    both = [*sync[0].parameters()]
    for parameter in both:
        torch.distributed.all_reduce(parameter.grad)
    for one, other in zip(plain[0].parameters(), both, strict=True):
        assert torch.allclose(one.grad, other.grad, atol=1e-10)
    for one, other in zip(plain[0].buffers(), sync[0].buffers(), strict=True):
        assert torch.allclose(one, other, atol=1e-12)


def check_sharded(rank: ProcessGroup) -> None:
    """Each process has about its share of the state, and all weights end as one optimizer's do."""
    spec = OptimSpec(kind="adamw", lr=0.1, decay_norm_and_bias=False, shard=True)
    nets, optimizers = [], []
    for known in (ProcessGroup(), rank):
        torch.manual_seed(0)
        nets.append(create_model("cifar-resnet8").to(memory_format=torch.channels_last))
        rates = dict.fromkeys(nets[-1].parameters(), 1.0)
        optimizers.append(make_optimizer(nets[-1], spec, rates, known))
    for step in range(3):
        for net, optimizer in zip(nets, optimizers, strict=True):
            torch.manual_seed(step)
            optimizer.zero_grad()
            for parameter in net.parameters():
                assert parameter.grad is None
                parameter.grad = torch.randn_like(parameter)
            set_lr(optimizer, 0.1 / (1 + step))
            optimizer.step()
    whole, own = (state_tensors(*each) for each in zip(nets, optimizers, strict=True))
    size, least = (sum(each.numel() for each in found.values()) for found in (whole, own))
    largest = 2 * max(each.numel() for each in nets[0].parameters())  # tensors stay whole
    assert 0 < least < size / rank.world_size + largest, (least, size)
    assert rank.world_size != 2 or 0.8 < least * rank.world_size / size < 1.2, (least, size)
    assert rank.sum({"numbers": least})["numbers"] == size
    for name, tensor in nets[0].state_dict().items():
        assert torch.equal(tensor, nets[1].state_dict()[name]), name
    collected = rank.gather_tensors(own)
    if rank.is_main:
        collected |= own
        assert collected.keys() == whole.keys()
        assert all(torch.equal(collected[name], whole[name]) for name in whole)
    else:
        assert not collected
    for state in optimizers[1].state.values():
        state["exp_avg"].zero_()
    load_state_tensors(nets[1], optimizers[1], whole)
    again = state_tensors(nets[1], optimizers[1])
    assert again.keys() == own.keys()
    assert all(torch.equal(again[name], whole[name]) for name in again)


def threads() -> list[str]:
    """Names of this process's threads, those of C++ among them."""
    return [path.read_text().strip() for path in Path("/proc/self/task").glob("*/comm")]


def main(folder: Path) -> None:
    with init_distributed("cpu") as rank:
        check_sync_norm(rank)
        check_sharded(rank)
        for path in sorted(folder.glob("*.toml")):
            out = folder / f"{path.stem}-{rank.world_size}"
            run_training(from_toml(path), out, device="cpu", group=rank, quiet=True)
    # One that still holds a tensor when Python ends would abort the process.
    assert not [name for name in threads() if "gloo" in name or "tcpstore" in name]


if __name__ == "__main__":
    main(Path(sys.argv[1]))
