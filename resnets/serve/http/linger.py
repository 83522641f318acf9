"""Closing a connection so that the client gets the answer that was sent last.

A socket that is closed with bytes unread sends a reset, and a reset makes the other side throw away
what it has not read yet: a refusal sent while a body was still arriving would be lost. So the
sending direction is closed first, and what still arrives is dropped until the client closes too,
within bounds.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

SECONDS = 5.0  # until a client that does not close is reset


class LingeringTransport:
    """A transport whose `close` drops what still arrives while `is_unread()` says it may.

    allowance: bytes dropped at most. The protocol hands what it receives to `drop` as soon as
    `is_closing`, and `close`s once more when the client has closed.
    """

    def __init__(
        self, transport: asyncio.Transport, is_unread: Callable[[], bool], allowance: int
    ) -> None:
        self.transport, self.is_unread, self.allowance = transport, is_unread, allowance
        self._timer: asyncio.TimerHandle | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self.transport, name)

    def is_closing(self) -> bool:
        """Whether nothing more is to be written."""
        return self._timer is not None or self.transport.is_closing()

    def write(self, data: bytes) -> None:
        """Nothing once it is closing."""
        if data and not self.is_closing():
            self.transport.write(data)

    def close(self) -> None:
        """Close in order; at once where all that the client sent was read."""
        if self.is_closing():
            return
        if not self.is_unread() or not self.transport.can_write_eof():
            self.transport.close()
            return
        self._timer = asyncio.get_running_loop().call_later(SECONDS, self.finish)
        self.transport.write_eof()  # behind what is still to be written
        self.transport.resume_reading()

    def drop(self, data: bytes) -> None:
        """Bytes that arrived behind the answer."""
        self.allowance -= len(data)
        if self.allowance < 0:
            self.finish()

    def finish(self) -> None:
        """The client has closed, or has had its chance."""
        if self._timer is not None:
            self._timer.cancel()
        self.transport.close()
