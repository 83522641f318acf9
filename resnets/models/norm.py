"""Batch norms whose statistics are not those of one device's batch: ghost and synchronised ones."""

from __future__ import annotations

import torch
from torch import Tensor, distributed, nn
from torch.nn import functional as F

BATCH_NORMS = (nn.BatchNorm2d, nn.SyncBatchNorm)  # all kinds; the one is no subclass of the other


class GhostNorm(nn.BatchNorm2d):
    """Batch norm over each `pictures` neighbours of a batch by themselves while it trains.

    "Ghost" batches (Hoffer et al. 2017, "Train longer, generalize better"); the paper's net had 32
    pictures on each of 8 GPUs. Running statistics move when `settle` is called, once a step,
    towards the mean over all of its ghosts: they do not depend on how many passes it took.
    """

    pictures: int
    sums: Tensor  # (2, C): of means and of variances since the last step
    ghosts: Tensor  # how many those are

    def forward(self, input: Tensor) -> Tensor:
        """(B, C, H, W) to the same; B a multiple of `pictures` in training."""
        if not self.training:
            return super().forward(input)
        parts = input.split(self.pictures)
        means, variances = self.statistics(len(parts))
        normed = [
            F.batch_norm(part, mean, variance, self.weight, self.bias, True, 1.0, self.eps)
            for part, mean, variance in zip(parts, means, variances, strict=True)
        ]
        self.note(means, variances)
        return torch.cat(normed)

    def statistics(self, ghosts: int) -> tuple[Tensor, Tensor]:
        """Room for the mean and the unbiased variance (ghosts, C) of each ghost."""
        assert self.running_mean is not None
        room = self.running_mean.new_zeros(2, ghosts, self.num_features)
        return room[0], room[1]

    def note(self, means: Tensor, variances: Tensor) -> None:
        """Count what `statistics` was filled with."""
        with torch.no_grad():
            self.sums += torch.stack([means.sum(0), variances.sum(0)])
            self.ghosts += len(means)

    def settle(self) -> None:
        """Move the running statistics, at the end of a step."""
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        assert self.momentum is not None
        if self.training:
            mean, variance = self.sums / self.ghosts
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance, self.momentum)
            self.num_batches_tracked.add_(1)
            self.sums.zero_()
            self.ghosts.zero_()


class SyncNorm(nn.BatchNorm2d):
    """Batch norm over the batches of all processes, on devices that torch's own does not serve."""

    def forward(self, input: Tensor) -> Tensor:
        """(B, C, H, W) to the same."""
        if not self.training:
            return super().forward(input)
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        assert self.momentum is not None
        x = input.to(torch.promote_types(input.dtype, torch.float32))  # autocast gives bfloat16
        place = (1, -1, 1, 1)
        count = _total(x.new_tensor([x.numel() / x.shape[1]]))
        mean = _total(x.sum((0, 2, 3))) / count
        away = x - mean.view(place)
        variance = _total(away.square().sum((0, 2, 3))) / count
        with torch.no_grad():
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * count / (count - 1), self.momentum)
            self.num_batches_tracked.add_(1)
        scale = self.weight * (variance + self.eps).rsqrt()
        return (away * scale.view(place) + self.bias.view(place)).to(input.dtype)


class _Total(torch.autograd.Function):
    """The sum over all processes, whose gradient is the sum of theirs."""

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


def _total(values: Tensor) -> Tensor:
    return _Total.apply(values) if distributed.is_initialized() else values


def use_norm_batch(net: nn.Module, pictures: int, sync: bool) -> nn.Module:
    """`net` with its batch norms replaced, weights and names kept; the same net where nothing is.

    pictures: of each ghost batch, 0 = none. sync: statistics over all processes.
    """
    if sync and next(net.parameters()).device.type == "cuda":
        return nn.SyncBatchNorm.convert_sync_batchnorm(net)
    if not (pictures or sync):
        return net
    for parent in list(net.modules()):
        for name, norm in list(parent.named_children()):
            if type(norm) is nn.BatchNorm2d:
                setattr(parent, name, _replaced(norm, pictures))
    return net


def _replaced(norm: nn.BatchNorm2d, pictures: int) -> nn.BatchNorm2d:
    """A ghost norm of `pictures`, or for 0 a synchronised one, with the weights of `norm`."""
    kind = GhostNorm if pictures else SyncNorm
    # Nothing is allocated: all that the norm holds is put in the place of the new one's.
    with torch.device("meta"):
        new = kind(norm.num_features, norm.eps, norm.momentum)
    new._parameters, new._buffers = norm._parameters, norm._buffers
    new.training = norm.training
    if isinstance(new, GhostNorm):
        new.pictures = pictures
        like = norm.weight.detach()
        new.register_buffer("sums", like.new_zeros(2, len(like)), persistent=False)
        new.register_buffer("ghosts", like.new_zeros(()), persistent=False)
    return new


def running_statistics(net: nn.Module) -> list[Tensor]:
    """Running means and variances that each process moves by its own pictures alone."""
    return [
        buffer
        for norm in net.modules()
        if type(norm) in (nn.BatchNorm2d, GhostNorm) and norm.training
        for buffer in (norm.running_mean, norm.running_var)
        if isinstance(buffer, Tensor)
    ]
