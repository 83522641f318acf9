"""Weight gradients of convolutions by a kernel for CPUs that multiply bfloat16, by AMX or AVX-512.

On these CPUs oneDNN spends up to half of a convolution's time on the gradient of its weights, which
it rounds to bfloat16. native/conv_weights.c and native/conv_weights_avx512.c take less, and return
float32.
"""

from __future__ import annotations

import ctypes
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from resnets.ops import compiler
from resnets.utils.machine import environment

KERNELS = {"amx_bf16": "conv_weights", "avx512_bf16": "conv_weights_avx512"}  # by CPU flag
VECTOR = 16  # channels of a tile (conv_weights.c)
MAX_CHANNELS = 1 << 14  # channels at most (`zeros` there)
MAX_THREADS = 16  # the kernel cannot use more; oneDNN can


class Conv2d(nn.Conv2d):
    """`nn.Conv2d` that trains in bfloat16 on a CPU with the kernel's gradient.

    It supports first-order gradients only, like all kernels here: double backward, forward-mode
    differentiation and `torch.func` raise torch's error.
    """

    def forward(self, input: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C', H', W')."""
        if not _uses_kernel(self, input):
            return super().forward(input)
        out: Tensor = _Convolve.apply(input, self.weight, self.stride, self.padding)
        return out


def has_kernel() -> bool:
    """Return whether this machine has the kernel."""
    return _kernel() is not None


def supports(conv: nn.Conv2d) -> bool:
    """Return whether the kernel computes convolutions of these settings."""
    size, stride = conv.kernel_size[0], conv.stride[0]
    return (
        conv.bias is None
        and conv.groups == 1
        and conv.dilation == (1, 1)
        and conv.padding_mode == "zeros"
        and size in (1, 3)
        and conv.kernel_size == (size, size)
        and stride in (1, 2)
        and conv.stride == (stride, stride)
        and conv.padding == (size // 2, size // 2)
        and conv.in_channels % VECTOR == conv.out_channels % VECTOR == 0
        and max(conv.in_channels, conv.out_channels) <= MAX_CHANNELS
    )


def use_kernel(model: nn.Module) -> None:
    """Train the convolutions of `model` that the kernel supports with it, if it is available.

    Their class is changed in place, since models are built from torch's own layers.
    """
    if has_kernel():
        for module in model.modules():
            if type(module) is nn.Conv2d and supports(module):
                module.__class__ = Conv2d


def _uses_kernel(conv: nn.Conv2d, x: Tensor) -> bool:
    """Return whether the kernel computes this call: training on a CPU, bfloat16, channels last."""
    return (
        not torch.compiler.is_compiling()
        and conv.training
        and torch.is_grad_enabled()
        and conv.weight.requires_grad
        and x.device.type == "cpu"
        and x.dtype == torch.bfloat16
        and conv.weight.dtype == torch.float32
        and torch.is_autocast_enabled("cpu")
        and torch.get_autocast_dtype("cpu") == torch.bfloat16
        and x.numel() > 0
        and x.is_contiguous(memory_format=torch.channels_last)
        and torch.get_num_threads() <= MAX_THREADS
        and has_kernel()  # the model may come from another machine
    )


class _Convolve(torch.autograd.Function):
    """(B, C, H, W) bfloat16 and (C', C, k, k) float32 -> (B, C', H', W') bfloat16."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, stride: tuple[int, int], padding: tuple[int, int]
    ) -> Tensor:
        rounded = weight.to(x.dtype, memory_format=torch.channels_last)
        ctx.save_for_backward(x, rounded)
        ctx.options = (list(stride), list(padding), [1, 1], False, [0, 0], 1)
        return torch.ops.aten.convolution(x, rounded, None, *ctx.options)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        # Saved-tensor hooks may have moved these away and back, into another layout.
        x, dy = (each.contiguous(memory_format=torch.channels_last) for each in (x, dy))
        dx = dw = None
        if ctx.needs_input_grad[0]:
            mask = [True, False, False]  # the gradient of the input alone
            dx = torch.ops.aten.convolution_backward(dy, x, weight, None, *ctx.options, mask)[0]
        if ctx.needs_input_grad[1]:
            dw = weight_gradient(x, dy, weight, ctx.options[0][0], ctx.options[1][0])
        return dx, dw, None, None


def weight_gradient(x: Tensor, dy: Tensor, weight: Tensor, stride: int, padding: int) -> Tensor:
    """Return (C', C, k, k) float32 of bfloat16, channels-last (B, C, H, W) and (B, C', H', W')."""
    kernel, threads = _kernel(), torch.get_num_threads()
    assert kernel is not None
    (n, ci, hi, wi), (_, co, ho, wo) = x.shape, dy.shape
    dims = (ctypes.c_int64 * 10)(n, hi, wi, ci, ho, wo, co, weight.shape[2], stride, padding)
    size = kernel.conv_weights_scratch(dims, threads)
    scratch = torch.empty(size, dtype=torch.uint8, device=x.device)
    dw = torch.empty_like(weight, dtype=torch.float32, memory_format=torch.channels_last)
    tensors = (x, dy, dw, scratch)
    kernel.conv_weights(*(each.data_ptr() for each in tensors), dims, threads)
    return dw


def kernel_name() -> str | None:
    """Return the kernel for this processor, None if it cannot multiply bfloat16."""
    flags = environment.cpu_flags().split()
    return next((name for flag, name in KERNELS.items() if flag in flags), None)


def uses_amx() -> bool:
    """Return whether this machine has the kernel, and it works on AMX tiles."""
    return has_kernel() and kernel_name() == KERNELS["amx_bf16"]


def why_unused(name: str) -> str:
    """Return why the kernel `name` is not the one for this processor, "" if it is."""
    if name == kernel_name():
        return ""
    if name == KERNELS["amx_bf16"]:
        return "needs a processor with AMX bfloat16"
    return "needs a processor with AVX-512 bfloat16" if kernel_name() is None else "AMX is faster"


@lru_cache
def _kernel() -> ctypes.CDLL | None:
    name = kernel_name()
    if name is None:
        return None
    pointer, sizes, small = ctypes.c_void_p, ctypes.POINTER(ctypes.c_int64), ctypes.c_int
    library = compiler.load_library(
        name,
        conv_weights=([pointer] * 4 + [sizes, small], None),
        conv_weights_scratch=([sizes, small], ctypes.c_int64),
    )
    if library is None or (name == KERNELS["amx_bf16"] and not library.conv_weights_allowed()):
        return None
    return library
