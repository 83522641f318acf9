"""uvicorn's HTTP connection, for strangers: errors in JSON, no endless ones, not too many."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from resnets.deploy.serve_lag import Lag

LATE = 0.05  # seconds that the event loop may lag before only FEW connections are held
FEW = 64
PATIENCE = 15.0  # seconds: a connection without a request in progress is closed within twice this


def error_body(status: int, reason: str, request: str | None = None) -> bytes:
    """The JSON of every answer that is not the one asked for."""
    said: dict[str, Any] = {"status": status, "error": reason}
    return json.dumps(said if request is None else {**said, "request": request}).encode()


class Connection(H11Protocol):
    """h11 bounds headers (16 KiB) and frames bodies strictly; this adds the rest."""

    most = 512
    patience = PATIENCE
    lag = Lag()

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Refuse one too many; watch the others."""
        super().connection_made(transport)
        self._idle_since: int | None = None
        self._requests = 0
        most = self.most if self.lag.seconds < LATE else min(self.most, FEW)
        if len(self.connections) > most:
            self._say(503, "too many connections; try again later", ((b"retry-after", b"1"),))
            return
        self._timer = self.loop.call_later(self.patience, self._look)

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget it."""
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
