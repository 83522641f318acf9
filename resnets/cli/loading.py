"""What every command that loads a network does first."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from resnets.utils.terminal import say

if TYPE_CHECKING:
    from resnets.weights.load import LoadOptions


class _Printed(logging.Handler):
    """Each record as a line on stderr."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print it."""
        say(record.getMessage(), error=True)


def load_options(model: str | None, classes: str | None) -> LoadOptions:
    """The user's --model and --classes; from now on, what is decided about weights is printed."""
    from resnets.weights.load import LoadOptions

    log_to_stderr()
    return LoadOptions(model, classes)


def log_to_stderr() -> None:
    """Print what is logged from now on."""
    log = logging.getLogger("resnets")
    log.setLevel(logging.INFO)
    if not any(isinstance(handler, _Printed) for handler in log.handlers):
        log.addHandler(_Printed())
