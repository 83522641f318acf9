"""HTTP connections of uvicorn with limits for untrusted clients, and errors as JSON."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any, cast

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from resnets.serve.http.limits import EventLoopLag

MAX_LAG = 0.05  # seconds of event loop lag above which the lower connection limit applies
MAX_CONNECTIONS_LAGGING = 64
# Seconds: a connection without a request in progress is closed within twice this.
IDLE_TIMEOUT = 15.0
LINGER_SECONDS = 5.0  # after which a client that does not close is reset
MAX_LINGERING = 256  # connections over the limit that get a response; any more are reset
CHUNK_SIZE = 1 << 14  # bytes passed to h11 at once; it checks header limits in between
# Body chunks are handled one by one in Python, so their number is limited: a fixed number, plus one
# per BYTES_PER_CHUNK.
MAX_FREE_CHUNKS, BYTES_PER_CHUNK = 1000, 512


def error_body(status: int, reason: str, request: str | None = None) -> bytes:
    """Return the JSON body of an error response."""
    fields: dict[str, Any] = {"status": status, "error": reason}
    return json.dumps(fields if request is None else {**fields, "request": request}).encode()


class LingeringTransport:
    """A transport whose `close` waits until the client has received the last response.

    Closing a socket with unread data sends a reset, which makes the client discard what it has not
    read yet: an error response sent while a body still arrives would be lost. So while
    `is_unread()`, the write side is closed first, and incoming data is discarded until the client
    closes too, within limits (lingering close).

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


class BoundedH11(h11.Connection):
    """Rejects bodies with too many small chunks."""

    def __init__(self) -> None:
        super().__init__(h11.SERVER)
        self._chunks = self._bytes = 0
        self._refused = False

    def next_event(self) -> Any:
        """The next event; RemoteProtocolError also for too many chunks."""
        event = None if self._refused else super().next_event()
        if isinstance(event, h11.Request):
            self._chunks = self._bytes = 0
        elif isinstance(event, h11.Data):
            self._chunks += event.chunk_start
            self._bytes += len(event.data)
            self._refused = self._chunks > MAX_FREE_CHUNKS + self._bytes // BYTES_PER_CHUNK
        if self._refused:
            raise h11.RemoteProtocolError("too many small chunks")
        return event


class Connection(H11Protocol):
    """Adds limits to h11, which limits headers (16 KiB) and parses bodies strictly."""

    max_connections = 512
    idle_timeout = IDLE_TIMEOUT
    allowance = 32 << 20  # bytes read and discarded after an error response
    lag = EventLoopLag()

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Reject connections over the limit; start the idle timer of others."""
        self.conn = BoundedH11()
        self._refused = False
        self._lingering = LingeringTransport(transport, self._is_unread, self.allowance)
        super().connection_made(cast(asyncio.Transport, self._lingering))
        self._idle_since: int | None = None
        self._requests = 0
        max_connections = (
            self.max_connections
            if self.lag.seconds < MAX_LAG
            else min(self.max_connections, MAX_CONNECTIONS_LAGGING)
        )
        if len(self.connections) > self.max_connections + MAX_LINGERING:
            transport.abort()
        elif len(self.connections) > max_connections and self._count_open() > max_connections:
            self._refused = True
            self._send_error(
                503, "too many connections; try again later", ((b"retry-after", b"1"),)
            )
        else:
            self._timer = self.loop.call_later(self.idle_timeout, self._check_idle)

    def data_received(self, data: bytes) -> None:
        """Pass data on in chunks, so that the header limit of h11 holds."""
        for start in range(0, len(data), CHUNK_SIZE):
            if self.transport.is_closing():
                self._lingering.drop(data[start:])
                return
            super().data_received(data[start : start + CHUNK_SIZE])

    def eof_received(self) -> None:
        """Treat a half-closed connection as closed."""
        if self.transport.is_closing():
            self._lingering.finish()

    def connection_lost(self, exc: Exception | None) -> None:
        """Cancel the timers."""
        self._lingering.finish()
        if hasattr(self, "_timer"):
            self._timer.cancel()
        super().connection_lost(exc)

    def on_response_complete(self) -> None:
        """Count responses, for `_check_idle`."""
        self._requests += 1
        super().on_response_complete()

    def send_400_response(self, msg: str) -> None:
        """Send the error as JSON, unless a response has been started."""
        self._send_error(400, msg.rstrip("."))
        if self.cycle is not None:  # tell the handler of the request
            self.cycle.disconnected = True
            self.cycle.message_event.set()

    def _count_open(self) -> int:
        """Number of open connections, without lingering ones."""
        return sum(not connection.transport.is_closing() for connection in self.connections)

    def _is_unread(self) -> bool:
        """Whether the client may still send data that will not be read."""
        return self._refused or self.conn.their_state in (h11.SEND_BODY, h11.ERROR)

    def _send_error(
        self, status: int, reason: str, extra: tuple[tuple[bytes, bytes], ...] = ()
    ) -> None:
        body = error_body(status, reason)
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", str(len(body)).encode()),
            (b"connection", b"close"),
            *extra,
        ]
        try:
            for event in (
                h11.Response(status_code=status, headers=headers),
                h11.Data(data=body),
                h11.EndOfMessage(),
            ):
                self.transport.write(self.conn.send(event) or b"")
        except h11.LocalProtocolError:
            pass  # a response has been started; closing signals the error
        self.transport.close()

    def _check_idle(self) -> None:
        """Close the connection if it had no request in progress in two consecutive checks: an idle
        client, or one that sends headers or a rejected body very slowly."""
        idle = self.cycle is None or self.cycle.response_complete
        if idle and self._idle_since == self._requests:
            self.transport.abort()
            return
        self._idle_since = self._requests if idle else None
        self._timer = self.loop.call_later(self.idle_timeout, self._check_idle)
