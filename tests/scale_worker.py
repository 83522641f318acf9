"""What one of several processes does in tests/test_scale.py: `torchrun scale_worker.py FOLDER`.

Trains by each FOLDER/*.toml into FOLDER/<name>-<count>, and compares norms with one process's.
"""

import sys
from pathlib import Path

import torch
from torch import nn

from resnets import job
from resnets.config import from_toml
from resnets.models.norm_batch import use_norm_batch
from resnets.ranks import Rank, joined


def check_sync_norm(rank: Rank) -> None:
    """Outputs, gradients and running statistics equal those of the whole batch, in float64."""
    torch.manual_seed(0)
    x = torch.randn(12, 5, 4, 4, dtype=torch.float64) * 2 + 1
    weight = torch.randn_like(x)
    plain = nn.Sequential(nn.BatchNorm2d(5)).double()
    nn.init.uniform_(plain[0].weight)
    sync = nn.Sequential(nn.BatchNorm2d(5)).double()
    sync.load_state_dict(plain.state_dict())
    use_norm_batch(sync, 0, sync=True)
    places = torch.from_numpy(rank.places(12, 3 if rank.count < 4 else 1))
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


def main(folder: Path) -> None:
    with joined("cpu") as rank:
        check_sync_norm(rank)
        for path in sorted(folder.glob("*.toml")):
            out = folder / f"{path.stem}-{rank.count}"
            job.run(from_toml(path), out, device="cpu", rank=rank, quiet=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
