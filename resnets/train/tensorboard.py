"""TensorBoard events of a run; optional, so a run continues when they cannot be written."""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_log = logging.getLogger("resnets.train")


class TensorBoardLog:
    """Writes events to `folder`/tensorboard if the extra `tensorboard` is installed.

    When they can no longer be written (disk full, folder removed), it logs one warning and drops
    the rest.
    """

    def __init__(self, folder: Path, step: int) -> None:
        self._writer: Any = None
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            return
        self._folder = folder / "tensorboard"
        self._previous_hook = threading.excepthook
        threading.excepthook = self._excepthook
        self._writer = SummaryWriter(str(self._folder), purge_step=step + 1 if step else None)

    def write(self, row: Mapping[str, Any]) -> None:
        """Write the metrics of one row of metrics.jsonl."""
        if self._writer is None:
            return
        try:
            for name, value in row.items():
                if isinstance(value, int | float) and name not in ("step", "epoch"):
                    self._writer.add_scalar(f"{row['kind']}/{name}", value, row["step"])
        except OSError as error:  # raised in the writer's thread
            self._disable(error)

    def close(self) -> None:
        """Flush and close."""
        if self._writer is not None:
            try:
                self._writer.close()
            except OSError as error:
                self._disable(error)
            self._writer = None
            threading.excepthook = self._previous_hook

    def _disable(self, error: OSError) -> None:
        reason = error.strerror or type(error).__name__
        _log.warning("%s: cannot write events, continuing without them (%s)", self._folder, reason)
        self._writer = None
        threading.excepthook = self._previous_hook

    def _excepthook(self, arguments: Any) -> None:
        """Hide tracebacks of the writer's thread; `write` reports its error."""
        if not type(arguments.thread).__module__.startswith("tensorboard."):
            self._previous_hook(arguments)
