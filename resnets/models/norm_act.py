"""Batch norm, addition of the shortcut and ReLU in as few passes over memory as there can be.

A training step of a small net on a CPU spends a third of its time in these three, which torch runs
one after the other, each reading and writing the whole map. Here one kernel (native/norm.c) reads
a map twice and writes it once, and needs for its backward pass only what is stored anyway.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from resnets.models import convolution
from resnets.models.norm import GhostNorm, SyncNorm
from resnets.ops import compiler

VECTOR = 64  # numbers that a kernel's inner loop handles at once (TILE in norm.c)
BLOCK = 256  # rows that it adds up before it starts a new sum (BLOCK in norm.c)
SUFFIX = {torch.bfloat16: "bf16", torch.float32: "float"}


def norm_relu(
    norm: nn.Module, x: Tensor, shortcut: Tensor | None = None, *, keep: bool = False
) -> Tensor:
    """`relu(norm(x))`, or `relu(norm(x) + shortcut)`: all (B, C, H, W).

    keep: `x` is needed afterwards; else a net without norms overwrites it.
    """
    if _serves(norm, x, shortcut):
        return _run(norm, x, shortcut, floor=0.0)
    out = norm(x)
    if shortcut is not None:
        out += shortcut
    return F.relu(out, inplace=not (keep and out is x))


def norm_alone(norm: nn.Module, x: Tensor) -> Tensor:
    """`norm(x)`: (B, C, H, W)."""
    return _run(norm, x, None, floor=-math.inf) if _serves(norm, x, None) else norm(x)


def _run(norm: nn.Module, x: Tensor, shortcut: Tensor | None, floor: float) -> Tensor:
    """The kernel's `max(floor, norm(x) + shortcut)`."""
    assert isinstance(norm, nn.BatchNorm2d)
    assert norm.num_batches_tracked is not None
    if x[: _ghost(norm, x)].numel() == x.shape[1]:  # as torch's own norm says it
        raise ValueError(f"batch norm in training: one value of each channel, of {tuple(x.shape)}")
    if not isinstance(norm, GhostNorm):  # those count when they settle
        norm.num_batches_tracked.add_(1)
    out, second = _NormRelu.apply(x, shortcut, norm.weight, norm.bias, norm, floor)
    out.second_use = second
    return out


def second_use(x: Tensor) -> Tensor:
    """The same map for a second reader: what `norm_relu` made adds both gradients up itself.

    Autograd would do so in a pass of its own over each block's map.
    """
    return getattr(x, "second_use", x) if isinstance(x, Tensor) else x  # a tracer's stand-in


def use_kernels(net: nn.Module) -> bool:
    """Let `net` train with the kernels; False where there are none here."""
    if _kernel() is None:
        return False
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d) and not isinstance(module, SyncNorm):
            module.fused = True  # type: ignore[assignment]
    convolution.use_kernel(net)
    return True


def _serves(norm: nn.Module, x: Tensor, shortcut: Tensor | None) -> bool:
    """Whether the kernel computes this: training on a CPU, channels last, whole vectors."""
    if torch.compiler.is_compiling() or not getattr(norm, "fused", False):
        return False
    if not (norm.training and isinstance(x, Tensor) and x.device.type == "cpu"):
        return False  # or a tracer's stand-in
    channels = x.shape[1]
    whole = channels % VECTOR == 0 or VECTOR % channels == 0
    pictures = _ghost(norm, x)
    return (
        whole
        and norm.weight.dtype == torch.float32
        and x[:pictures].numel() % VECTOR == 0
        and len(x) % pictures == 0
        and x.dtype in SUFFIX
        and _last(x)
        and (shortcut is None or (shortcut.dtype == x.dtype and _last(shortcut)))
        and _kernel() is not None  # the net may come from another machine
    )


def _ghost(norm: nn.Module, x: Tensor) -> int:
    """Pictures that share statistics."""
    return norm.pictures if isinstance(norm, GhostNorm) else len(x)


def _last(x: Tensor) -> bool:
    return x.is_contiguous(memory_format=torch.channels_last)


class _NormRelu(torch.autograd.Function):
    """What `_run` says; (B, C, H, W) channels last in, the same out, twice."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        shortcut: Tensor | None,
        weight: Tensor,
        bias: Tensor,
        norm: Any,
        floor: float,
    ) -> tuple[Tensor, Tensor]:
        kernel, y = _kernel(), torch.empty_like(x)
        assert kernel is not None
        run = getattr(kernel, f"norm_forward_{SUFFIX[x.dtype]}")
        ghosts = len(x) // _ghost(norm, x)
        rows, width = _matrix(x, ghosts)
        saved, scratch = _floats(x, ghosts, 2, width), _scratch(x, rows, width)
        splits = isinstance(norm, GhostNorm)
        means, variances = (
            norm.statistics(ghosts) if splits else (norm.running_mean, norm.running_var)
        )
        whole = (weight.data_ptr(), bias.data_ptr())
        for maps in _parts(ghosts, x, shortcut, means, variances, saved, y):
            run(
                *(*maps[:2], *whole, *maps[2:], scratch.data_ptr()),
                *(rows, width, x.shape[1], norm.eps, 1.0 if splits else norm.momentum),
                *(floor, torch.get_num_threads()),
            )
        if splits:
            norm.note(means, variances)
        # Without relu all of `y` counts, and need not be kept to tell.
        ctx.save_for_backward(x, x if floor == -math.inf else y, weight, saved)
        ctx.adds, ctx.ghosts, ctx.floor = shortcut is not None, ghosts, floor
        ctx.set_materialize_grads(False)
        # No view, which would hold `y`, which holds it: neither would ever be freed.
        return y, y.new_empty(0).set_(y.untyped_storage(), 0, y.shape, y.stride())

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        *maps, weight, saved = ctx.saved_tensors
        # What was saved may have been moved away and back, into another layout.
        x, y = (each.contiguous(memory_format=torch.channels_last) for each in maps)
        dense = [
            each.contiguous(memory_format=torch.channels_last)
            for each in gradients
            if each is not None
        ]
        if not dense:
            return (None,) * 6
        dy, second = dense[0], dense[1] if len(dense) > 1 else None
        kernel = _kernel()
        assert kernel is not None
        run = getattr(kernel, f"norm_backward_{SUFFIX[x.dtype]}")
        rows, width = _matrix(x, ctx.ghosts)
        dx = torch.empty_like(x)
        dz = torch.empty_like(x) if ctx.adds or second is not None else None
        sums = _floats(x, 2, ctx.ghosts, len(weight))
        scratch = _scratch(x, rows, width)
        for parts in _parts(ctx.ghosts, dy, second, y, x, saved, sums[0], sums[1], dx, dz):
            run(
                *(*parts[:5], weight.data_ptr(), *parts[5:], scratch.data_ptr()),
                *(rows, width, x.shape[1], ctx.floor, torch.get_num_threads()),
            )
        dweight, dbias = sums.sum(1) if ctx.ghosts > 1 else sums[:, 0]
        return dx, dz if ctx.adds else None, dweight, dbias, None, None


def _matrix(x: Tensor, ghosts: int) -> tuple[int, int]:
    """Rows and width of a ghost's map as the kernel sees it."""
    width = max(x.shape[1], VECTOR)
    return x.numel() // ghosts // width, width


def _scratch(x: Tensor, rows: int, width: int) -> Tensor:
    return _floats(x, 2 * -(-rows // BLOCK) + 4, width)


def _floats(x: Tensor, *shape: int) -> Tensor:
    """Room beside `x`, whatever torch's defaults are."""
    return torch.empty(shape, dtype=torch.float32, device=x.device)


def _parts(count: int, *tensors: Tensor | None) -> Iterator[list[int | None]]:
    """Where each of `count` equal parts of each tensor begins in memory."""
    starts = [None if each is None else each.data_ptr() for each in tensors]
    sizes = [0 if each is None else each.nbytes // count for each in tensors]
    for number in range(count):
        yield [
            None if start is None else start + number * size
            for start, size in zip(starts, sizes, strict=True)
        ]


@lru_cache
def _kernel() -> ctypes.CDLL | None:
    library = compiler.load("norm")
    if library is not None:
        pointer, size, real, small = ctypes.c_void_p, ctypes.c_int64, ctypes.c_double, ctypes.c_int
        for suffix in SUFFIX.values():
            forward = getattr(library, f"norm_forward_{suffix}")
            forward.argtypes = [pointer] * 9 + [size] * 3 + [real] * 3 + [small]
            backward = getattr(library, f"norm_backward_{suffix}")
            backward.argtypes = [pointer] * 11 + [size] * 3 + [real, small]
            forward.restype = backward.restype = None
    return library
