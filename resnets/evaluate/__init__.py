"""Metrics of trained models with their protocol (`evaluation`), and predictions (`predict`).

The names of `evaluation` are imported on first use: predicting does not need them.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from resnets.evaluate.evaluation import Evaluation, describe_protocol, evaluate_model

__all__ = ["Evaluation", "describe_protocol", "evaluate_model"]


def __getattr__(name: str) -> Any:
    """Import an exported name on first use (PEP 562)."""
    if name in __all__:
        return getattr(importlib.import_module("resnets.evaluate.evaluation"), name)
    raise AttributeError(f"module 'resnets.evaluate' has no attribute {name!r}")
