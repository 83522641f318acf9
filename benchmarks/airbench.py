"""The baseline of the recipe cifar10-speedrun: the method of airbench94_muon on a CPU.

Jordan 2024 ("94% on CIFAR-10 in 3.29 Seconds on a Single GPU") with Muon, reimplemented after
github.com/KellerJordan/cifar10-airbench, airbench94_muon.py: the same network, 8 epochs in batches
of 2,000, optimizers and augmentation, in bfloat16 autocast, evaluated with one view instead of six.
On the original images it has 94.01% accuracy with six views.

    python benchmarks/airbench.py --data cifar10.tar.xz [--epochs 8] [--seed 0] [--record NAME]

Reports the test error and the CPU time of training. docs/results/cifar10-speedrun.json has the row
of a run beside those of the recipe, joined by hand.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from recording import make_parser, report
from torch import Tensor, nn

from resnets.config import DataSpec
from resnets.data import open_data
from resnets.data.dataset.labeled_images import TensorSplit

MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
BATCH, SHIFT, SMOOTHING = 2000, 2, 0.2
FILTER_LR, BIAS_LR, HEAD_LR, DECAY = 0.24, 0.053, 0.67, 2e-6 * BATCH
WHITEN_EPOCHS = 3  # in which the bias of the first layer is trained


class Group(nn.Module):
    """Two 3x3 convolutions without shortcut; a max pool after the first."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.norm1, self.norm2 = (
            nn.BatchNorm2d(outputs, eps=1e-12, momentum=0.4) for _ in range(2)
        )
        for conv, norm in ((self.conv1, self.norm1), (self.conv2, self.norm2)):
            nn.init.dirac_(conv.weight[: conv.weight.shape[1]])
            norm.weight.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        x = F.gelu(self.norm1(F.max_pool2d(self.conv1(x), 2)))
        return F.gelu(self.norm2(self.conv2(x)))


class Net(nn.Module):
    """Whitening stem, three groups, a max pool and a head whose output is scaled."""

    def __init__(self, images: Tensor) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 24, 2)
        self.stem.weight.requires_grad_(False)
        patches = F.unfold(images, 2).transpose(1, 2).reshape(-1, 12)
        values, vectors = torch.linalg.eigh(patches.T @ patches / len(patches))
        filters = (vectors.T / (values[:, None] + 5e-4).sqrt()).view(12, 3, 2, 2)
        self.stem.weight.data = torch.cat([filters, -filters])
        self.groups = nn.Sequential(Group(24, 64), Group(64, 256), Group(256, 256))
        self.head = nn.Linear(256, 10, bias=False)
        self.head.weight.data /= self.head.weight.std().detach()

    def forward(self, x: Tensor) -> Tensor:
        x = self.groups(F.gelu(self.stem(x))).amax((2, 3))
        return self.head(x) / x.shape[1]


def orthogonalize(update: Tensor) -> Tensor:
    """Three steps of the quintic Newton-Schulz iteration."""
    x = update.flatten(1)
    x = (x.T if len(x) > x.shape[1] else x) / (x.norm() + 1e-7)
    for _ in range(3):
        gram = x @ x.T
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
    return (x.T if len(update) > update[0].numel() else x).reshape(update.shape)


def batches(images: Tensor, labels: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield batches: mirrored in every other epoch, shifted by up to 2 px with reflection."""
    mirrored = (torch.rand(len(images)) < 0.5)[:, None, None, None]
    images = F.pad(torch.where(mirrored, images.flip(-1), images), (SHIFT,) * 4, "reflect")
    side = images.shape[-1] - 2 * SHIFT
    steps = torch.arange(side)
    epoch = 0
    while True:
        order = torch.randperm(len(images))
        for rows in order[: len(order) // BATCH * BATCH].split(BATCH):
            top, left = torch.randint(0, 2 * SHIFT + 1, (2, len(rows), 1))
            y, x = (top + steps)[:, :, None], (left + steps)[:, None, :]
            batch = images[rows[:, None, None], :, y, x].permute(0, 3, 1, 2)
            yield batch.flip(-1) if epoch % 2 else batch, labels[rows]
        epoch += 1


def train(images: Tensor, labels: Tensor, epochs: float) -> Net:
    """Return the trained network."""
    net = Net(images[:5000]).to(memory_format=torch.channels_last)
    total = round(epochs * (len(images) // BATCH))
    whiten_steps = WHITEN_EPOCHS * (len(images) // BATCH)
    filters = [each for each in net.groups.parameters() if each.ndim == 4]
    shifts = [each for each in net.groups.parameters() if each.ndim == 1 and each.requires_grad]
    rates = (BIAS_LR, BIAS_LR, HEAD_LR)
    groups = ([net.stem.bias], shifts, [net.head.weight])
    optimizer = torch.optim.SGD(
        [
            {"params": group, "lr": rate, "weight_decay": DECAY / rate}
            for group, rate in zip(groups, rates, strict=True)
        ],
        momentum=0.85,
        nesterov=True,
    )
    momenta = [torch.zeros_like(each) for each in filters]
    stream = batches(images, labels)
    for step in range(total):
        x, y = next(stream)
        x = x.contiguous(memory_format=torch.channels_last)
        with torch.autocast("cpu", torch.bfloat16):
            logits = net(x)
        F.cross_entropy(logits.float(), y, label_smoothing=SMOOTHING, reduction="sum").backward()
        left = 1 - step / total
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate * left
        optimizer.param_groups[0]["lr"] = BIAS_LR * max(0.0, 1 - step / whiten_steps)
        optimizer.step()
        with torch.no_grad():
            for weight, momentum in zip(filters, momenta, strict=True):
                assert weight.grad is not None
                momentum.mul_(0.6).add_(weight.grad)
                update = orthogonalize(weight.grad.add(momentum, alpha=0.6))
                weight.mul_(len(weight) ** 0.5 / weight.norm())
                weight.sub_(update, alpha=FILTER_LR * left)
        net.zero_grad()
        if (step + 1) % 25 == 0:
            print(f"step {step + 1} of {total}", flush=True)
    return net


@torch.no_grad()
def test_error(net: Net, images: Tensor, labels: Tensor) -> float:
    """Return the error in percent, with one view of each image."""
    wrong = 0
    for x, y in zip(images.split(1000), labels.split(1000), strict=True):
        with torch.autocast("cpu", torch.bfloat16):
            wrong += int((net.eval()(x).argmax(1) != y).sum())
    return 100 * wrong / len(labels)


def normalized(split: TensorSplit) -> tuple[Tensor, Tensor]:
    mean, std = (torch.tensor(each)[:, None, None] for each in (MEAN, STD))
    images = split.images.permute(0, 3, 1, 2).float() / 255
    return (images - mean) / std, split.labels.long()


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--data", required=True)
    parser.add_argument("--epochs", type=float, default=8.0)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    splits = open_data(DataSpec(source=args.data, val_fraction=0.0, overlap="allow"))
    test = splits.test()
    assert isinstance(splits.train, TensorSplit)
    assert isinstance(test, TensorSplit)
    torch.manual_seed(args.seed)
    wall, cpu = time.perf_counter(), time.process_time()
    net = train(*normalized(splits.train), args.epochs)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    error = round(test_error(net, *normalized(test)), 2)
    threads = torch.get_num_threads()
    print(f"{wall:.0f} s of training")
    epochs = args.epochs if args.epochs % 1 else int(args.epochs)
    columns = ["what", "epochs", "seed", "threads", "test error", "seconds of one core"]
    row = ["airbench94_muon on a CPU", epochs, args.seed, threads, error, round(cpu)]
    report(args.record, columns, [row], f"torch {torch.__version__}")


if __name__ == "__main__":
    main()
