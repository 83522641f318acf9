"""Operators that Apple's MPS lacks: they run on the CPU if an environment variable is set."""

from __future__ import annotations

import logging
import os
import sys

VARIABLE = "PYTORCH_ENABLE_MPS_FALLBACK"  # torch reads it when it is imported

log = logging.getLogger("resnets")

_is_late = False  # torch was imported before the variable was set, and the user has not been told


def enable() -> None:
    """Set the variable on macOS, unless the user has set it; `resnets` does so when imported."""
    global _is_late
    if sys.platform == "darwin" and VARIABLE not in os.environ:
        os.environ[VARIABLE] = "1"
        _is_late = "torch" in sys.modules


def warn_if_late() -> None:
    """Log once that the variable has no effect, if torch was imported before it was set."""
    global _is_late
    if _is_late:
        _is_late = False
        log.warning(
            "operators that MPS lacks will fail instead of running on the CPU, because torch was"
            " imported before resnets; import resnets first, or set %s=1",
            VARIABLE,
        )
