"""Train, study and ship deep residual networks (He et al., CVPR 2016).

`create_model` makes a net from its name, `load` reads one from a run or checkpoint. Both are
imported when first asked for, so that the command line starts quickly.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from resnets.utils import cpu_count, telemetry

if TYPE_CHECKING:
    from resnets.weights.initial import create_model
    from resnets.weights.load import load

    __version__: str

__all__ = ["__version__", "create_model", "load"]

telemetry.disable()
cpu_count.limit_threads()

_HOMES = {"create_model": "resnets.weights.initial", "load": "resnets.weights.load"}


def __getattr__(name: str) -> Any:
    """Import an exported name on first use (PEP 562)."""
    if name == "__version__":
        from importlib.metadata import version

        return version("resnets")
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'resnets' has no attribute {name!r}")
