"""Batch norm, addition of the shortcut and relu in as few passes over memory as possible, on a CPU.

A training step of a small network on a CPU spends a third of its time in these three, which torch
runs one after the other, each reading and writing the whole map. The kernel (native/norm.c) reads a
map twice and writes it once; its backward pass needs only tensors that are stored anyway.
`models.norm.BatchNormAct2d` is the module that calls it.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from resnets.ops import compiler

VECTOR = 64  # numbers per step of the kernel's inner loop (TILE in norm.c)
BLOCK = 256  # rows per partial sum (BLOCK in norm.c)
SUFFIX = {torch.bfloat16: "bf16", torch.float32: "float"}


def has_kernel() -> bool:
    """Return whether this machine has the kernel."""
    return _kernel() is not None


def supports(x: Tensor, shortcut: Tensor | None, weight: Tensor, group_size: int) -> bool:
    """Return whether the kernel supports these tensors: on a CPU, channels last, whole vectors.

    group_size: images of the batch `x` (B, C, H, W) that share statistics.
    """
    if torch.compiler.is_compiling() or x.device.type != "cpu":
        return False
    channels = x.shape[1]
    return (
        (channels % VECTOR == 0 or VECTOR % channels == 0)
        and weight.dtype == torch.float32
        and group_size * x.shape[1:].numel() % VECTOR == 0
        and len(x) % group_size == 0
        and x.dtype in SUFFIX
        and _is_channels_last(x)
        and (shortcut is None or (shortcut.dtype == x.dtype and _is_channels_last(shortcut)))
        and has_kernel()  # the model may come from another machine
    )


def batch_norm_act(
    x: Tensor,
    shortcut: Tensor | None,
    weight: Tensor,
    bias: Tensor,
    means: Tensor,
    variances: Tensor,
    *,
    eps: float,
    momentum: float,
    relu: bool,
    group_size: int,
) -> Tensor:
    """Return `relu(batch_norm(x) + shortcut)` in training, for tensors that `supports` accepts.

    x, shortcut, result: (B, C, H, W). means, variances: running statistics (C,), or
    (B / group_size, C) if parts of the batch are normalized separately; updated in place with
    `momentum`. Raises ValueError for a single value per channel, as torch does.
    """
    ghosts = len(x) // group_size
    if group_size * x.shape[2:].numel() == 1:
        raise ValueError(
            f"batch norm in training: expected more than 1 value per channel, got {tuple(x.shape)}"
        )
    floor = 0.0 if relu else -math.inf
    settings = (means, variances, eps, momentum, floor, ghosts)
    out, second = _BatchNormAct.apply(x, shortcut, weight, bias, settings)
    out.second_use = second
    return out


def fuse_second_use(shortcut: nn.Module) -> None:
    """Let the kernel add the gradient of `shortcut` to that of the block's first convolution.

    Both read the block's input. Autograd would add their gradients in a separate pass over the map,
    9% of a step of cifar-resnet20. So `batch_norm_act` returns its output twice and receives both
    gradients in its backward pass.
    """
    if _second_use not in shortcut._forward_pre_hooks.values():
        shortcut.register_forward_pre_hook(_second_use)


def second_use(x: Tensor) -> Tensor:
    """Return the second output of `batch_norm_act`, an alias of `x`; other tensors unchanged."""
    return getattr(x, "second_use", x) if isinstance(x, Tensor) else x  # or a tracer's proxy


def _second_use(_: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return tuple(map(second_use, inputs))


def _is_channels_last(x: Tensor) -> bool:
    return x.is_contiguous(memory_format=torch.channels_last)


class _BatchNormAct(torch.autograd.Function):
    """`max(floor, batch_norm(x) + shortcut)`; (B, C, H, W) channels last in, the same out, twice.

    settings: means, variances, eps, momentum, floor, ghosts.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        shortcut: Tensor | None,
        weight: Tensor,
        bias: Tensor,
        settings: tuple[Tensor, Tensor, float, float, float, int],
    ) -> tuple[Tensor, Tensor]:
        means, variances, eps, momentum, floor, ghosts = settings
        kernel, y = _kernel(), torch.empty_like(x)
        assert kernel is not None
        run = getattr(kernel, f"norm_forward_{SUFFIX[x.dtype]}")
        rows, width = _matrix(x, ghosts)
        saved, scratch = _floats(x, ghosts, 2, width), _scratch(x, rows, width)
        parameters = (weight.data_ptr(), bias.data_ptr())
        for maps in _addresses(ghosts, x, shortcut, means, variances, saved, y):
            run(
                *maps[:2],
                *parameters,
                *maps[2:],
                scratch.data_ptr(),
                rows,
                width,
                x.shape[1],
                eps,
                momentum,
                floor,
                torch.get_num_threads(),
            )
        # Without relu every value of `y` passes a gradient, so `y` need not be kept.
        ctx.save_for_backward(x, x if floor == -math.inf else y, weight, saved)
        ctx.adds, ctx.ghosts, ctx.floor = shortcut is not None, ghosts, floor
        ctx.set_materialize_grads(False)
        # No view: it would hold `y`, which holds it, and neither would ever be freed.
        return y, y.new_empty(0).set_(y.untyped_storage(), 0, y.shape, y.stride())

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        *maps, weight, saved = ctx.saved_tensors
        # Saved-tensor hooks may have moved these away and back, into another layout.
        x, y = (each.contiguous(memory_format=torch.channels_last) for each in maps)
        dense = [
            each.contiguous(memory_format=torch.channels_last)
            for each in gradients
            if each is not None
        ]
        if not dense:
            return (None,) * 5
        dy, second = dense[0], dense[1] if len(dense) > 1 else None
        kernel = _kernel()
        assert kernel is not None
        run = getattr(kernel, f"norm_backward_{SUFFIX[x.dtype]}")
        rows, width = _matrix(x, ctx.ghosts)
        dx = torch.empty_like(x)
        dz = torch.empty_like(x) if ctx.adds or second is not None else None
        sums = _floats(x, 2, ctx.ghosts, len(weight))
        scratch = _scratch(x, rows, width)
        for parts in _addresses(ctx.ghosts, dy, second, y, x, saved, sums[0], sums[1], dx, dz):
            run(
                *parts[:5],
                weight.data_ptr(),
                *parts[5:],
                scratch.data_ptr(),
                rows,
                width,
                x.shape[1],
                ctx.floor,
                torch.get_num_threads(),
            )
        dweight, dbias = sums.sum(1) if ctx.ghosts > 1 else sums[:, 0]
        return dx, dz if ctx.adds else None, dweight, dbias, None


def _matrix(x: Tensor, ghosts: int) -> tuple[int, int]:
    """Return rows and width of one ghost's map as the kernel's matrix."""
    width = max(x.shape[1], VECTOR)
    return x.numel() // ghosts // width, width


def _scratch(x: Tensor, rows: int, width: int) -> Tensor:
    return _floats(x, 2 * -(-rows // BLOCK) + 4, width)


def _floats(x: Tensor, *shape: int) -> Tensor:
    """Uninitialized float32 on the device of `x`, regardless of torch's defaults are."""
    return torch.empty(shape, dtype=torch.float32, device=x.device)


def _addresses(count: int, *tensors: Tensor | None) -> Iterator[list[int | None]]:
    """Yield the addresses of each of `count` equal parts of the tensors."""
    starts = [None if each is None else each.data_ptr() for each in tensors]
    sizes = [0 if each is None else each.nbytes // count for each in tensors]
    for number in range(count):
        yield [
            None if start is None else start + number * size
            for start, size in zip(starts, sizes, strict=True)
        ]


@lru_cache
def _kernel() -> ctypes.CDLL | None:
    pointer, size, real, small = ctypes.c_void_p, ctypes.c_int64, ctypes.c_double, ctypes.c_int
    forward = ([pointer] * 9 + [size] * 3 + [real] * 3 + [small], None)
    backward = ([pointer] * 11 + [size] * 3 + [real, small], None)
    return compiler.load_library(
        "norm",
        **{f"norm_forward_{suffix}": forward for suffix in SUFFIX.values()},
        **{f"norm_backward_{suffix}": backward for suffix in SUFFIX.values()},
    )
