"""Convolutions whose weights get their gradient from a kernel of our own.

On a CPU with AMX, oneDNN takes half of a convolution's time for the gradient of its weights, which
it rounds to bfloat16. native/conv_weights.c takes 0.6 to 0.7 of that time, and keeps float32.
"""

from __future__ import annotations

import ctypes
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from resnets import host, native

VECTOR = 16  # channels of a tile (conv_weights.c)
WIDEST = 8192  # channels at most (`zeros` there)
MOST_THREADS = 16  # groups of pictures that the kernel's threads share


class Conv2d(nn.Conv2d):
    """`nn.Conv2d`; with `fused` set, training in bfloat16 on a CPU takes the kernel's gradient."""

    fused = False

    def forward(self, input: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C', H', W')."""
        if not (self.fused and _serves(self, input)):
            return super().forward(input)
        out: Tensor = _Convolve.apply(input, self.weight, self.stride, self.padding)
        return out


def has_kernel() -> bool:
    """Whether this machine has the kernel."""
    return _kernel() is not None


def _serves(conv: nn.Conv2d, x: Tensor) -> bool:
    """Whether the kernel computes this: training on a CPU in bfloat16, channels last."""
    size, stride = conv.kernel_size[0], conv.stride[0]
    return (
        conv.training
        and torch.is_grad_enabled()
        and conv.weight.requires_grad
        and x.device.type == "cpu"
        and x.dtype == torch.bfloat16
        and conv.weight.dtype == torch.float32
        and torch.is_autocast_enabled("cpu")
        and conv.bias is None
        and conv.groups == 1
        and conv.dilation == (1, 1)
        and size in (1, 3)
        and conv.kernel_size == (size, size)
        and stride in (1, 2)
        and conv.stride == (stride, stride)
        and conv.padding == (size // 2, size // 2)
        and conv.in_channels % VECTOR == conv.out_channels % VECTOR == 0
        and max(conv.in_channels, conv.out_channels) <= WIDEST
        and x.numel() > 0
        and x.is_contiguous(memory_format=torch.channels_last)
        and torch.get_num_threads() <= MOST_THREADS
        and not torch.compiler.is_compiling()
    )


class _Convolve(torch.autograd.Function):
    """(B, C, H, W) bfloat16 and (C', C, k, k) float32 -> (B, C', H', W') bfloat16."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, stride: tuple[int, int], padding: tuple[int, int]
    ) -> Tensor:
        rounded = weight.to(x.dtype, memory_format=torch.channels_last)
        ctx.save_for_backward(x, rounded)
        ctx.how = (list(stride), list(padding), [1, 1], False, [0, 0], 1)
        return torch.ops.aten.convolution(x, rounded, None, *ctx.how)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        dy = dy.contiguous(memory_format=torch.channels_last)
        dx = None
        if ctx.needs_input_grad[0]:
            only = [True, False, False]
            dx = torch.ops.aten.convolution_backward(dy, x, weight, None, *ctx.how, only)[0]
        return dx, weight_gradient(x, dy, weight, ctx.how[0][0], ctx.how[1][0]), None, None


def weight_gradient(x: Tensor, dy: Tensor, weight: Tensor, stride: int, padding: int) -> Tensor:
    """(C', C, k, k) float32, of maps (B, C, H, W) and (B, C', H', W'), bfloat16, channels last."""
    kernel, threads = _kernel(), torch.get_num_threads()
    assert kernel is not None
    (n, ci, hi, wi), (_, co, ho, wo) = x.shape, dy.shape
    dims = (ctypes.c_int64 * 10)(n, hi, wi, ci, ho, wo, co, weight.shape[2], stride, padding)
    scratch = torch.empty(kernel.conv_weights_scratch(dims, threads), dtype=torch.uint8)
    dw = torch.empty_like(weight, dtype=torch.float32)
    tensors = (x, dy, dw, scratch)
    kernel.conv_weights(*(each.data_ptr() for each in tensors), dims, threads)
    return dw


@lru_cache
def _kernel() -> ctypes.CDLL | None:
    if "amx_bf16" not in host.processor_flags().split():
        return None
    library = native.load("conv_weights")
    if library is None or not library.conv_weights_allowed():
        return None
    pointer, sizes, small = ctypes.c_void_p, ctypes.POINTER(ctypes.c_int64), ctypes.c_int
    library.conv_weights.argtypes = [pointer] * 4 + [sizes, small]
    library.conv_weights.restype = None
    library.conv_weights_scratch.argtypes = [sizes, small]
    library.conv_weights_scratch.restype = ctypes.c_int64
    return library
