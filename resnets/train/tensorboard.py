"""TensorBoard's events of a run: for looking on, so a run goes on without them."""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_log = logging.getLogger("resnets.train")


class Board:
    """Writes events into `folder`/tensorboard where the extra `tensorboard` is installed.

    Where they cannot be written any more (a full disk, a folder that was removed), one warning says
    so and the rest is dropped.
    """

    def __init__(self, folder: Path, step: int) -> None:
        self._writer: Any = None
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            return
        self._place = folder / "tensorboard"
        self._hook = threading.excepthook
        threading.excepthook = self._unless_ours
        self._writer = SummaryWriter(str(self._place), purge_step=step + 1 if step else None)

    def write(self, row: Mapping[str, Any]) -> None:
        """The figures of one row of metrics.jsonl."""
        if self._writer is None:
            return
        try:
            for name, value in row.items():
                if isinstance(value, int | float) and name not in ("step", "epoch"):
                    self._writer.add_scalar(f"{row['kind']}/{name}", value, row["step"])
        except OSError as error:  # of the thread that writes
            self._give_up(error)

    def close(self) -> None:
        """Write what is left."""
        if self._writer is not None:
            try:
                self._writer.close()
            except OSError as error:
                self._give_up(error)
            self._writer = None
            threading.excepthook = self._hook

    def _give_up(self, error: OSError) -> None:
        reason = error.strerror or type(error).__name__
        _log.warning("%s: no more events are written (%s)", self._place, reason)
        self._writer = None
        threading.excepthook = self._hook

    def _unless_ours(self, arguments: Any) -> None:
        """The writer's thread prints its error, which `write` meets again, as a traceback."""
        if not type(arguments.thread).__module__.startswith("tensorboard."):
            self._hook(arguments)
