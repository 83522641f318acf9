"""Compute the running statistics of batch norms over a set of batches."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from resnets.models.norm import BATCH_NORMS


def use_batch_statistics(model: nn.Module) -> None:
    """Put the batch norms of `model` in training mode, and all other modules in eval mode.

    If all modules were in training mode, dropout and stochastic depth would be active, and the
    statistics would be random and differ from those of the evaluated network.
    """
    model.eval()
    for norm in _batch_norms(model):
        norm.train()


def recompute_statistics(model: nn.Module, batches: Iterable[Tensor]) -> None:
    """Replace the running statistics of all batch norms by averages over `batches` (B, C, H, W).

    All batches have equal weight, unlike in the moving averages of training. Nothing else changes.
    Unlike torch's `update_bn`, no random numbers are drawn: see `use_batch_statistics`.
    """
    device = next(model.parameters()).device
    modes = {module: module.training for module in model.modules()}
    norms = _batch_norms(model)
    momenta = [norm.momentum for norm in norms]
    use_batch_statistics(model)
    try:
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # cumulative average
        with torch.no_grad():
            for batch in batches:
                model(batch.to(device))
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
        for module, mode in modes.items():
            module.training = mode


def _batch_norms(model: nn.Module) -> list[nn.BatchNorm1d | nn.BatchNorm2d | nn.SyncBatchNorm]:
    return [module for module in model.modules() if isinstance(module, BATCH_NORMS)]
