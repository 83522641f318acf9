"""How many pixels may be decoded at a time, whatever the number of threads."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

# Pillow takes four bytes a pixel, and as many again for a copy: half a gigabyte at most.
DECODED_PIXELS = 1 << 26


class PixelBudget:
    """Threads that decode large images wait for each other; one image alone may be of any size."""

    def __init__(self, limit: int = DECODED_PIXELS) -> None:
        self.limit = limit
        self._used = 0
        self._changed = threading.Condition()

    @contextmanager
    def room(self, pixels: int) -> Iterator[None]:
        """Hold room for `pixels`, once there is enough, or nobody else holds any."""
        with self._changed:
            while self._used and self._used + pixels > self.limit:
                self._changed.wait()
            self._used += pixels
        try:
            yield
        finally:
            with self._changed:
                self._used -= pixels
                self._changed.notify_all()


BUDGET = PixelBudget()
