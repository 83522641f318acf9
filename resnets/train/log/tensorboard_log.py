"""TensorBoard events of a run."""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

_log = logging.getLogger(__name__)


class TensorBoardLog:
    """TensorBoard events in `folder`/tensorboard, if the extra `tensorboard` is installed.

    If events can no longer be written (disk full, folder removed), it logs one warning and drops
    later events; the run continues. Several logs may be open in one process, each in its own
    thread.
    """

    def __init__(self, folder: Path, step: int) -> None:
        self._writer: Any = None
        self._is_open = False
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            return
        self._folder = folder / "tensorboard"
        _WRITER_ERRORS.hide()
        self._is_open = True
        try:
            self._writer = SummaryWriter(str(self._folder), purge_step=step + 1 if step else None)
        except OSError as error:  # its folder cannot be created
            self._disable(error)

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
        if self._is_open:
            self._is_open = False
            _WRITER_ERRORS.show()

    def _disable(self, error: OSError) -> None:
        reason = error.strerror or type(error).__name__
        _log.warning("%s: cannot write events, continuing without them (%s)", self._folder, reason)
        files = {} if self._writer is None else self._writer.all_writers
        for file in files.values():
            with suppress(OSError):  # its flush fails again, after its thread has ended
                file.close()
        self._writer = None


class _WriterErrors:
    """Hides tracebacks of the threads of TensorBoard's writers while any log is open.

    `TensorBoardLog.write` reports their errors. threading.excepthook is global, so all logs share
    one replacement: the first log sets it, and the last one restores it.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._open_logs = 0
        self._hook = self._replaced = threading.excepthook

    def hide(self) -> None:
        """Register an open log; the first one replaces the hook."""
        with self._lock:
            self._open_logs += 1
            if self._open_logs == 1:
                self._replaced = threading.excepthook
                self._hook = threading.excepthook = _without_writers(self._replaced)

    def show(self) -> None:
        """Unregister a log; the last one restores the hook unless it was replaced meanwhile."""
        with self._lock:
            self._open_logs -= 1
            if self._open_logs == 0 and threading.excepthook is self._hook:
                threading.excepthook = self._replaced


def _without_writers(hook: Any) -> Any:
    """Return a hook that calls `hook` for threads other than those of TensorBoard's writers."""

    def excepthook(arguments: Any) -> None:
        if not type(arguments.thread).__module__.startswith("tensorboard."):
            hook(arguments)

    return excepthook


_WRITER_ERRORS = _WriterErrors()
