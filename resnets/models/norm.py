"""All kinds of norms, each one module with the addition of the shortcut and the relu after it.

`BatchNormAct2d` follows timm: it inherits from torch's norm, so parameters and buffers keep their
names, and it trains with a fused CPU kernel (`ops.norm_act`). Ghost and synchronized norms compute
their statistics over parts of a batch, or over the batches of several devices.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, distributed, nn

from resnets.config import ConfigError, ModelSpec
from resnets.models.layers import DropPath, add_shortcut
from resnets.ops import conv_weight_grad
from resnets.ops import norm_act as fused

# All kinds; none is a subclass of another.
BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.SyncBatchNorm)

MakeNorm = Callable[[int], nn.Module]  # channels -> a module that normalizes (B, C, H, W)


class NormAct(nn.Module):
    """`relu(norm(x) + shortcut)`: a norm, the addition at the end of a residual block, and relu.

    Subclasses inherit from this class and from the norm.

    Args:
        relu: Whether a relu follows; with `activation` "gelu" it is a GELU.
        inplace: Whether addition and relu may overwrite the norm's output.
    """

    activation: Literal["relu", "gelu"] = "relu"

    def __init__(self, *args: Any, relu: bool = True, inplace: bool = True, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.relu, self.inplace = relu, inplace

    def normalize(self, x: Tensor) -> Tensor:
        """Return `norm(x)` alone: (B, C, H, W) to the same shape."""
        out: Tensor = super().forward(x)
        return out

    def add_relu(
        self, y: Tensor, shortcut: Tensor | None = None, drop_path: DropPath | None = None
    ) -> Tensor:
        """Return `relu(y + shortcut)`; `drop_path` zeroes `y` for some images."""
        y = add_shortcut(y, shortcut, drop_path, inplace=self.inplace)
        return self.activate(y) if self.relu else y

    def activate(self, y: Tensor) -> Tensor:
        """Return `relu(y)`, in place if allowed, or `gelu(y)`."""
        return F.gelu(y) if self.activation == "gelu" else F.relu(y, inplace=self.inplace)

    def forward(
        self, x: Tensor, shortcut: Tensor | None = None, drop_path: DropPath | None = None
    ) -> Tensor:
        """Return `relu(drop_path(norm(x)) + shortcut)`, all (B, C, H, W)."""
        return self.add_relu(self.normalize(x), shortcut, drop_path)

    def extra_repr(self) -> str:
        """Return the norm's settings."""
        return ", ".join(filter(None, (super().extra_repr(), "" if self.relu else "relu=False")))


class IdentityAct(NormAct, nn.Identity):
    """`relu(x + shortcut)`: a `NormAct` without a norm (`norm="none"`)."""


class GroupNormAct(NormAct, nn.GroupNorm):
    """Group norm (Wu and He 2018), addition and relu."""


class ScalarBiasAct(NormAct):
    """`relu(x + bias + shortcut)`: a learned scalar instead of a norm (Zhang et al. 2019)."""

    def __init__(self, *, relu: bool = True, inplace: bool = True) -> None:
        super().__init__(relu=relu, inplace=inplace)
        self.bias = nn.Parameter(torch.zeros(1))

    def normalize(self, x: Tensor) -> Tensor:
        """Return `x + bias`: (B, C, H, W) to the same shape."""
        return x + self.bias


class CustomNormAct(NormAct):
    """A `NormAct` around any custom norm, which is its child `norm`."""

    def __init__(self, norm: nn.Module, *, relu: bool = True) -> None:
        super().__init__(relu=relu, inplace=False)  # the norm's backward pass may need its output
        self.norm = norm

    def normalize(self, x: Tensor) -> Tensor:
        """Return `norm(x)` alone: (B, C, H, W) to the same shape."""
        out: Tensor = self.norm(x)
        return out


class BatchNormAct(NormAct, nn.modules.batchnorm._BatchNorm):
    """Base class of batch norms.

    counts_batches: False if the training loop updates `num_batches_tracked` of all norms at once
    (`DataParallelModel`), because each separate int64 addition is a kernel launch.
    """

    counts_batches = True

    def normalize(self, x: Tensor) -> Tensor:
        """Return `norm(x)` alone: (B, C, ...) to the same shape."""
        if self.counts_batches or not self.training or self.momentum is None:
            return super().normalize(x)
        statistics = self.running_mean, self.running_var
        return F.batch_norm(x, *statistics, self.weight, self.bias, True, self.momentum, self.eps)

    def _count_batch(self) -> None:
        if self.counts_batches and self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)


class BatchNormAct2d(BatchNormAct, nn.BatchNorm2d):
    """Batch norm (Ioffe and Szegedy 2015), addition and relu, fused into one kernel on a CPU.

    use_kernel: set by `use_cpu_kernels`. Inputs that the kernel does not support run in torch.
    """

    use_kernel = False

    def forward(
        self, x: Tensor, shortcut: Tensor | None = None, drop_path: DropPath | None = None
    ) -> Tensor:
        """Return `relu(drop_path(norm(x)) + shortcut)`, all (B, C, H, W)."""
        drops = drop_path is not None and drop_path.active
        fuses = self.use_kernel and self.training and not drops
        if fuses and fused.supports(x, shortcut, self.weight, self.group_size(x)):
            return self._fused(x, shortcut)
        return super().forward(x, shortcut, drop_path)

    def group_size(self, x: Tensor) -> int:
        """Return how many images of the batch `x` share statistics."""
        return len(x)

    def _fused(self, x: Tensor, shortcut: Tensor | None) -> Tensor:
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.momentum is not None
        out = self._run_kernel(x, shortcut, self.running_mean, self.running_var, self.momentum)
        self._count_batch()
        return out

    def _run_kernel(
        self, x: Tensor, shortcut: Tensor | None, means: Tensor, variances: Tensor, momentum: float
    ) -> Tensor:
        fuses_relu = self.relu and self.activation == "relu"
        out = fused.batch_norm_act(
            x, shortcut, self.weight, self.bias, means, variances,
            eps=self.eps, momentum=momentum, relu=fuses_relu, group_size=self.group_size(x),
        )  # fmt: skip
        return out if fuses_relu or not self.relu else self.activate(out)


class BatchNormAct1d(BatchNormAct, nn.BatchNorm1d):
    """Batch norm of signals (B, C, L), addition and relu."""


class GhostBatchNormAct2d(BatchNormAct2d):
    """Ghost batch norm: in training, each `ghost_size` images are normalized separately.

    From Hoffer et al. 2017, "Train longer, generalize better"; the paper's networks had 32 images
    on each of 8 GPUs. The running statistics are updated once per step, by `update_running_stats`,
    with the mean over the ghost batches of the step, so they do not depend on the number of
    micro-batches.
    """

    ghost_size: int
    sums: Tensor  # (2, C): sums of means and of variances since the last step
    count: Tensor  # number of ghost batches since the last step

    def group_size(self, x: Tensor) -> int:
        """Return how many images of the batch `x` share statistics."""
        return self.ghost_size

    def normalize(self, x: Tensor) -> Tensor:
        """Return `norm(x)` alone: (B, C, H, W) to the same shape."""
        if not self.training:
            return super().normalize(x)
        parts = x.split(self.ghost_size)
        means, variances = self._zero_statistics(len(parts))
        normalized = [
            F.batch_norm(part, mean, variance, self.weight, self.bias, True, 1.0, self.eps)
            for part, mean, variance in zip(parts, means, variances, strict=True)
        ]
        self._accumulate(means, variances)
        return torch.cat(normalized)

    def _fused(self, x: Tensor, shortcut: Tensor | None) -> Tensor:
        means, variances = self._zero_statistics(len(x) // self.ghost_size)
        out = self._run_kernel(x, shortcut, means, variances, momentum=1.0)
        self._accumulate(means, variances)
        return out

    def _zero_statistics(self, ghosts: int) -> tuple[Tensor, Tensor]:
        """Return zeros for mean and unbiased variance of each ghost batch, (ghosts, C) each."""
        assert self.running_mean is not None
        zeros = self.running_mean.new_zeros(2, ghosts, self.num_features)
        return zeros[0], zeros[1]

    def _accumulate(self, means: Tensor, variances: Tensor) -> None:
        with torch.no_grad():
            self.sums += torch.stack([means.sum(0), variances.sum(0)])
            self.count += len(means)

    def update_running_stats(self) -> None:
        """Update the running statistics; called at the end of each step."""
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.momentum is not None
        if self.training:
            mean, variance = self.sums / self.count
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance, self.momentum)
            self._count_batch()
            self.sums.zero_()
            self.count.zero_()


class AllReduceBatchNormAct2d(BatchNormAct, nn.BatchNorm2d):
    """Synchronized batch norm over all processes, for devices without torch's SyncBatchNorm."""

    def normalize(self, x: Tensor) -> Tensor:
        """Return `norm(x)` alone: (B, C, H, W) to the same shape."""
        if not self.training:
            return super().normalize(x)
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.momentum is not None
        wide = x.to(torch.promote_types(x.dtype, torch.float32))  # autocast gives bfloat16
        shape = (1, -1, 1, 1)
        count = _all_reduce(wide.new_tensor([wide.numel() / wide.shape[1]]))
        mean = _all_reduce(wide.sum((0, 2, 3))) / count
        centered = wide - mean.view(shape)
        variance = _all_reduce(centered.square().sum((0, 2, 3))) / count
        with torch.no_grad():
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * count / (count - 1), self.momentum)
            self._count_batch()
        scale = self.weight * (variance + self.eps).rsqrt()
        return (centered * scale.view(shape) + self.bias.view(shape)).to(x.dtype)


class SyncBatchNormAct(NormAct, nn.SyncBatchNorm):
    """torch's SyncBatchNorm over all processes (CUDA), addition and relu.

    It counts batches in each pass, in which it waits for other processes anyway.
    """


class _AllReduce(torch.autograd.Function):
    """All-reduce sum over processes; its gradient is the sum of the processes' gradients."""

    @staticmethod
    def forward(ctx: object, values: Tensor) -> Tensor:
        total = values.clone()
        distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: object, gradient: Tensor) -> Tensor:
        total = gradient.contiguous().clone()
        distributed.all_reduce(total)
        return total


def _all_reduce(values: Tensor) -> Tensor:
    return _AllReduce.apply(values) if distributed.is_initialized() else values


def make_norm(
    spec: ModelSpec,
    channels: int,
    custom: MakeNorm | None = None,
    *,
    relu: bool = True,
    inplace: bool = True,
) -> NormAct:
    """Return the norm of `spec`, or that of `custom`, with addition and relu.

    inplace: False if the input is needed afterwards; a network without norms would overwrite it.
    """
    norm = _make_norm(spec, channels, custom, relu, inplace)
    norm.activation = spec.activation
    return norm


def _make_norm(
    spec: ModelSpec, channels: int, custom: MakeNorm | None, relu: bool, inplace: bool
) -> NormAct:
    if custom is not None:
        if not spec.norm_scale:
            raise ConfigError("model.norm_scale: false cannot be combined with a custom norm")
        norm = custom(channels)
        if _is_batch_norm(norm):
            return convert_norm(norm, BatchNormAct2d, relu)
        return CustomNormAct(norm, relu=relu)
    if spec.branch_scale == "fixup":
        return ScalarBiasAct(relu=relu, inplace=inplace)
    if spec.norm == "none":
        return IdentityAct(relu=relu, inplace=inplace)
    if spec.norm == "group+ws":
        return GroupNormAct(spec.norm_groups, channels, spec.norm_eps, relu=relu)
    kind = BatchNormAct1d if spec.dims == 1 else BatchNormAct2d
    batch_norm = kind(channels, spec.norm_eps, relu=relu)
    if not spec.norm_scale:
        del batch_norm.weight
        batch_norm.register_buffer("weight", torch.ones(channels))
    return batch_norm


def convert_batch_norms(model: nn.Module, ghost_size: int, sync: bool) -> nn.Module:
    """Replace the batch norms of `model` by norms with the same weights and names; return `model`.

    ghost_size: images per ghost batch, 0 = none. sync: statistics over all processes.
    """
    if not (ghost_size or sync):
        return model
    cuda = next(model.parameters()).device.type == "cuda"
    kind: type[NormAct] = SyncBatchNormAct if cuda else AllReduceBatchNormAct2d
    kind = kind if sync else GhostBatchNormAct2d
    for parent in list(model.modules()):
        for name, norm in list(parent.named_children()):
            if _is_batch_norm(norm):
                converted = convert_norm(norm, kind, getattr(norm, "relu", False))
                if isinstance(converted, GhostBatchNormAct2d):
                    _set_ghost_size(converted, ghost_size)
                setattr(parent, name, converted)
    return model


def _is_batch_norm(norm: nn.Module) -> bool:
    """True for a batch norm of a single device with weights and running statistics."""
    if type(norm) not in (nn.BatchNorm2d, BatchNormAct2d):
        return False
    assert isinstance(norm, nn.BatchNorm2d)
    return norm.affine and norm.track_running_stats and norm.momentum is not None


def convert_norm(norm: nn.Module, kind: type[NormAct], relu: bool) -> NormAct:
    """Return a norm of class `kind` with the weights and statistics of the batch norm `norm`."""
    assert isinstance(norm, nn.BatchNorm2d)
    with torch.device("meta"):  # allocates nothing: the tensors of `norm` are reused
        new = kind(norm.num_features, norm.eps, norm.momentum, relu=relu)
    new._parameters, new._buffers = norm._parameters, norm._buffers
    new.training = norm.training
    new.activation = getattr(norm, "activation", "relu")
    return new


def _set_ghost_size(norm: GhostBatchNormAct2d, ghost_size: int) -> None:
    norm.ghost_size = ghost_size
    like = norm.weight.detach()
    norm.register_buffer("sums", like.new_zeros(2, len(like)), persistent=False)
    norm.register_buffer("count", like.new_zeros(()), persistent=False)


def strip_norm(norm: nn.Module) -> nn.Module:
    """Return the addition and relu of `norm`, which remain after folding it into a convolution."""
    act = IdentityAct(relu=getattr(norm, "relu", False))
    act.activation = getattr(norm, "activation", "relu")
    return act.train(norm.training)


def use_cpu_kernels(model: nn.Module) -> bool:
    """Make `model` train with the fused CPU kernels; returns False if they are not available.

    Shortcuts are the children named `shortcut`: see `ops.norm_act.fuse_second_use`.
    """
    if not fused.has_kernel():
        return False
    for module in list(model.modules()):
        if isinstance(module, BatchNormAct2d):
            module.use_kernel = True
        shortcut = getattr(module, "shortcut", None)
        if isinstance(shortcut, nn.Module):
            fused.fuse_second_use(shortcut)
    conv_weight_grad.use_kernel(model)
    return True
