"""uvicorn's HTTP connection, for strangers: errors in JSON, no endless ones, not too many."""

from __future__ import annotations

import asyncio
import json
from typing import Any, cast

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from resnets.serve.http.lag import Lag
from resnets.serve.http.linger import LingeringTransport

LATE = 0.05  # seconds that the event loop may lag before only FEW connections are held
FEW = 64
PATIENCE = 15.0  # seconds: a connection without a request in progress is closed within twice this
LINGERING = 256  # connections over the limit that are told so in order; any more are reset
PIECE = 1 << 14  # bytes given to h11 at a time: it bounds headers only between two of them
# Chunks of a body are handled one by one in Python: so many are allowed, and one more for each
# CHUNK bytes.
CHUNKS, CHUNK = 1000, 512


def error_body(status: int, reason: str, request: str | None = None) -> bytes:
    """The JSON of every answer that is not the one asked for."""
    said: dict[str, Any] = {"status": status, "error": reason}
    return json.dumps(said if request is None else {**said, "request": request}).encode()


class BoundedH11(h11.Connection):
    """Refuses bodies of very many, very small chunks."""

    def __init__(self) -> None:
        super().__init__(h11.SERVER)
        self._chunks = self._bytes = 0
        self._refused = False

    def next_event(self) -> Any:
        """The next event; RemoteProtocolError as h11's, and for too many chunks."""
        event = None if self._refused else super().next_event()
        if isinstance(event, h11.Request):
            self._chunks = self._bytes = 0
        elif isinstance(event, h11.Data):
            self._chunks += event.chunk_start
            self._bytes += len(event.data)
            self._refused = self._chunks > CHUNKS + self._bytes // CHUNK
        if self._refused:
            raise h11.RemoteProtocolError("too many small chunks")
        return event


class Connection(H11Protocol):
    """h11 bounds headers (16 KiB) and frames bodies strictly; this adds the rest."""

    most = 512
    patience = PATIENCE
    allowance = 32 << 20  # bytes that are read and dropped behind a refusal
    lag = Lag()

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Refuse one too many; watch the others."""
        self.conn = BoundedH11()
        self._refused = False
        self._lingering = LingeringTransport(transport, self._is_unread, self.allowance)
        super().connection_made(cast(asyncio.Transport, self._lingering))
        self._idle_since: int | None = None
        self._requests = 0
        most = self.most if self.lag.seconds < LATE else min(self.most, FEW)
        if len(self.connections) > self.most + LINGERING:
            transport.abort()
        elif len(self.connections) > most and self._open() > most:
            self._refused = True
            self._say(503, "too many connections; try again later", ((b"retry-after", b"1"),))
        else:
            self._timer = self.loop.call_later(self.patience, self._look)

    def data_received(self, data: bytes) -> None:
        """In pieces, so that h11's bound of headers holds."""
        for start in range(0, len(data), PIECE):
            if self.transport.is_closing():
                self._lingering.drop(data[start:])
                return
            super().data_received(data[start : start + PIECE])

    def eof_received(self) -> None:
        """A client that sends no more counts as gone."""
        if self.transport.is_closing():
            self._lingering.finish()

    def connection_lost(self, exc: Exception | None) -> None:
        """Cancel its timers."""
        self._lingering.finish()
        if hasattr(self, "_timer"):
            self._timer.cancel()
        super().connection_lost(exc)

    def on_response_complete(self) -> None:
        """Count the answers, by which `_look` knows that the connection lives."""
        self._requests += 1
        super().on_response_complete()

    def send_400_response(self, msg: str) -> None:
        """The same as JSON, and quiet where an answer is on its way already."""
        self._say(400, msg.rstrip("."))
        if self.cycle is not None:  # whoever is at work on the request has nobody to answer
            self.cycle.disconnected = True
            self.cycle.message_event.set()

    def _open(self) -> int:
        """Connections that are not answered yet; those that only linger take no place."""
        return sum(not each.transport.is_closing() for each in self.connections)

    def _is_unread(self) -> bool:
        """Whether the client may still send what nobody will read."""
        return self._refused or self.conn.their_state in (h11.SEND_BODY, h11.ERROR)

    def _say(self, status: int, reason: str, more: tuple[tuple[bytes, bytes], ...] = ()) -> None:
        body = error_body(status, reason)
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", str(len(body)).encode()),
            (b"connection", b"close"),
            *more,
        ]
        try:
            for event in (
                h11.Response(status_code=status, headers=headers),
                h11.Data(data=body),
                h11.EndOfMessage(),
            ):
                self.transport.write(self.conn.send(event) or b"")
        except h11.LocalProtocolError:
            pass  # half an answer has gone out; closing tells the client
        self.transport.close()

    def _look(self) -> None:
        """Close it where it has had no request in progress twice in a row: nobody is there, or
        somebody sends headers, or a body that is refused already, drop by drop."""
        idle = self.cycle is None or self.cycle.response_complete
        if idle and self._idle_since == self._requests:
            self.transport.abort()
            return
        self._idle_since = self._requests if idle else None
        self._timer = self.loop.call_later(self.patience, self._look)
