"""Our CPU kernels beside torch's operators, layer by layer of a net.

    python benchmarks/kernels.py [--net cifar-resnet20|resnet50|...] [--rounds 7] [--threads 1]

Every kind of layer of the net is run on random maps of its size, bfloat16, channels last, torch and
we in turn. Rates are of processor time, so that other jobs disturb least. Prints for each layer the
medians and our share of torch's time, and for the net the sums over its layers.

weights: gradient of a convolution's weights (torch: aten::convolution_backward)
norm:    batch norm, addition of the shortcut where there is one, and relu, forwards and backwards
         (torch: F.batch_norm, add, F.relu, as in a net by hand); a projection's norm, too
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections import Counter
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from resnets import create_model
from resnets.models.norm import BatchNormAct2d, use_cpu_kernels
from resnets.ops import conv_weight_grad
from resnets.utils import environment


def layers(name: str, batch: int, size: int) -> Counter[tuple[object, ...]]:
    """What the net's convolutions and norms are given, and how often."""
    net, found = create_model(name, num_classes=10), Counter[tuple[object, ...]]()

    def note(module: nn.Module, given: tuple[Tensor | None, ...], _: Tensor) -> None:
        x, *shortcut = given
        if not isinstance(module, nn.BatchNorm2d | nn.Conv2d):
            return
        shape = (batch, *x.shape[1:])
        if isinstance(module, nn.BatchNorm2d):
            adds = bool(shortcut) and shortcut[0] is not None
            found["norm", shape, adds] += 1
        elif conv_weight_grad.supports(module):
            found[
                "weights", shape, module.out_channels, module.kernel_size[0], module.stride[0]
            ] += 1

    for module in net.modules():
        module.register_forward_hook(note)
    with torch.no_grad():
        net.eval()(torch.zeros(1, 3, size, size))
    return found


def maps(*shape: int) -> Tensor:
    drawn = torch.randn(shape, dtype=torch.bfloat16)
    return drawn.contiguous(memory_format=torch.channels_last)


def weights(
    shape: tuple[int, ...], co: int, size: int, stride: int
) -> tuple[Callable[[], object], ...]:
    x, weight = maps(*shape), maps(co, shape[1], size, size)
    dy = maps(shape[0], co, *(-(-side // stride) for side in shape[2:]))
    how = ([stride] * 2, [size // 2] * 2, [1, 1], False, [0, 0], 1, [False, True, False])
    torch_ = lambda: torch.ops.aten.convolution_backward(dy, x, weight, None, *how)  # noqa: E731
    return torch_, lambda: conv_weight_grad.weight_gradient(x, dy, weight, stride, size // 2)


def norm(shape: tuple[int, ...], adds: bool) -> tuple[Callable[[], object], ...]:
    ours = BatchNormAct2d(shape[1]).train()
    use_cpu_kernels(ours)
    x, shortcut, pull = (maps(*shape).requires_grad_() for _ in range(3))
    given = [x, shortcut, ours.weight, ours.bias] if adds else [x, ours.weight, ours.bias]

    def by_hand() -> object:
        args = (ours.running_mean, ours.running_var, ours.weight, ours.bias, True, 0.1, 1e-5)
        y = F.batch_norm(x, *args)
        y = F.relu(y + shortcut if adds else y, inplace=True)
        return torch.autograd.grad(y, given, pull)

    def kernel() -> object:
        y = ours(x, shortcut if adds else None)
        return torch.autograd.grad(y, given, pull)

    return by_hand, kernel


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--net", default="cifar-resnet20")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    environment.tune_malloc()
    if not conv_weight_grad.has_kernel() or not use_cpu_kernels(nn.Identity()):
        raise SystemExit("no kernels here: they take a C compiler and a processor with AMX")
    batch, size = (128, 32) if args.net.startswith("cifar-") else (16, 224)
    totals: dict[str, list[list[float]]] = {}
    for (kind, shape, *rest), count in layers(args.net, batch, size).items():
        pair = (weights if kind == "weights" else norm)(shape, *rest)
        times: list[list[float]] = [[], []]
        for number in range(args.rounds + 1):
            for run, spent in zip(pair, times, strict=True):
                begin = time.process_time()
                run()
                spent += [time.process_time() - begin] if number else []
        theirs, ours = map(statistics.median, times)
        said = f"{kind} {'x'.join(map(str, shape))} {' '.join(map(str, rest))}, {count} times"
        print(
            f"{said:52} {1e3 * theirs:7.2f} {1e3 * ours:7.2f} ms {ours / theirs:5.2f}", flush=True
        )
        sums = totals.setdefault(str(kind), [[0.0] * args.rounds, [0.0] * args.rounds])
        for total, spent in zip(sums, times, strict=True):
            total[:] = [one + count * other for one, other in zip(total, spent, strict=True)]
    for kind, (theirs, ours) in totals.items():
        shares = sorted(one / other for one, other in zip(ours, theirs, strict=True))
        share = f"{statistics.median(shares):.2f} ({shares[0]:.2f} to {shares[-1]:.2f})"
        print(
            f"{args.net}, {kind}: {1e3 * statistics.median(theirs):.1f} ms of torch, "
            f"{1e3 * statistics.median(ours):.1f} ms of ours, share {share}"
        )


if __name__ == "__main__":
    main()
