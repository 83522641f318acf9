"""Close connections so that the client receives the last response (lingering close).

Closing a socket with unread data sends a reset, which makes the client discard what it has not read
yet: an error response sent while a body still arrives would be lost. So the write side is closed
first, and incoming data is discarded until the client closes too, within limits.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

LINGER_SECONDS = 5.0  # after which a client that does not close is reset


class LingeringTransport:
    """A transport whose `close` lingers while `is_unread()`.

    allowance: maximum bytes to discard. The protocol passes received data to `drop` once
    `is_closing`, and calls `finish` when the client has closed.
    """

    def __init__(
        self, transport: asyncio.Transport, is_unread: Callable[[], bool], allowance: int
    ) -> None:
        self.transport, self.is_unread, self.allowance = transport, is_unread, allowance
        self._timer: asyncio.TimerHandle | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self.transport, name)

    def is_closing(self) -> bool:
        """Whether the write side is closed."""
        return self._timer is not None or self.transport.is_closing()

    def write(self, data: bytes) -> None:
        """Write, unless closing."""
        if data and not self.is_closing():
            self.transport.write(data)

    def close(self) -> None:
        """Close; immediately if everything the client sent was read."""
        if self.is_closing():
            return
        if not self.is_unread() or not self.transport.can_write_eof():
            self.transport.close()
            return
        self._timer = asyncio.get_running_loop().call_later(LINGER_SECONDS, self.finish)
        try:
            self.transport.write_eof()  # after buffered data
        except OSError:  # the client has reset the connection
            self.finish()
            return
        self.transport.resume_reading()

    def drop(self, data: bytes) -> None:
        """Discard data that arrived after the response."""
        self.allowance -= len(data)
        if self.allowance < 0:
            self.finish()

    def finish(self) -> None:
        """Close now: the client has closed, or the time is up."""
        if self._timer is not None:
            self._timer.cancel()
        self.transport.close()
