"""Figures of trained nets with their protocol (`run`), and names for pictures (`predict`).

`run`'s names are imported when first asked for: predicting need not wait for them.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from resnets.evaluate.run import Evaluation, describe_protocol, evaluate_model

__all__ = ["Evaluation", "describe_protocol", "evaluate_model"]


def __getattr__(name: str) -> Any:
    """Import an exported name on first use (PEP 562)."""
    if name in __all__:
        return getattr(importlib.import_module("resnets.evaluate.run"), name)
    raise AttributeError(f"module 'resnets.evaluate' has no attribute {name!r}")
