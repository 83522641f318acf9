"""Around every request: who may, what is logged and counted, and what browsers are told."""

from __future__ import annotations

import hmac
import ipaddress
import json
import logging
import secrets
import sys
import time
import traceback
from collections.abc import Collection
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from resnets.serve.http.body import DisconnectedError
from resnets.serve.http.connection import error_body
from resnets.serve.metrics import Metrics

log = logging.getLogger("resnets.serve")

OPEN = frozenset({"/", "/page.css", "/page.js", "/icon.svg", "/healthz", "/readyz"})
HEADERS = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:;"
        " media-src 'self' blob:; connect-src 'self'; base-uri 'none'; form-action 'none';"
        " frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(self), microphone=(), geolocation=()",
    "cache-control": "no-store",
}
GONE = 499  # nginx's number for a client that left before its answer


class Watch:
    """ASGI middleware: host, bearer token, request id, log line, metrics, headers, last errors.

    A request that names another host than an address, localhost or one of `hosts` is refused: a
    page of somebody else's, whose name was made to point here (DNS rebinding), could read the
    answers otherwise. A log line has route, status, times, sizes and counts; never pictures, names
    of files, query strings or tokens.
    """

    def __init__(
        self, app: ASGIApp, metrics: Metrics, token: str | None, hosts: Collection[str]
    ) -> None:
        self.app, self.metrics = app, metrics
        self.token = None if token is None else token.encode()
        self.hosts = {"localhost", *(name.lower() for name in hosts)}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        start, number = time.monotonic(), secrets.token_hex(8)
        seen: dict[str, Any] = {"request": number, "method": scope["method"], "bytes": 0}
        scope.setdefault("state", {})["seen"] = seen

        async def counted() -> Message:
            message = await receive()
            seen["bytes"] += len(message.get("body", b""))
            return message

        async def marked(message: Message) -> None:
            if message["type"] == "http.response.start":
                seen["status"] = message["status"]
                said = {**HEADERS, "x-request-id": number}
                named = {name for name, _ in message["headers"]}
                message["headers"] = [
                    *message["headers"],
                    *((k.encode(), v.encode()) for k, v in said.items() if k.encode() not in named),
                ]
            await send(message)

        try:
            await self._answer(scope, counted, marked, seen)
        except DisconnectedError:
            seen["status"] = GONE
        except Exception as error:
            seen["error"] = type(error).__name__
            seen["where"] = traceback.format_tb(error.__traceback__)[-3:]
            if "status" not in seen:
                await _refuse(marked, 500, "the server failed; its log says why", number)
        finally:
            self._note(scope, seen, time.monotonic() - start)

    async def _answer(
        self, scope: Scope, receive: Receive, send: Send, seen: dict[str, Any]
    ) -> None:
        host = _header(scope, b"host")
        if host is not None and not self._is_ours(host):
            text = f"this server is not called {host[:100]!r}; see --allowed-host"
            await _refuse(send, 421, text, seen["request"])
            return
        if self.token is not None and scope["path"] not in OPEN and not self._may(scope):
            text = "send the server's token: Authorization: Bearer TOKEN"
            await _refuse(send, 401, text, seen["request"], (b"www-authenticate", b"Bearer"))
            return
        await self.app(scope, receive, send)

    def _may(self, scope: Scope) -> bool:
        assert self.token is not None
        kind, _, token = (_header(scope, b"authorization") or "").partition(" ")
        said = token.strip().encode("latin-1")
        return kind.lower() == "bearer" and hmac.compare_digest(said, self.token)

    def _is_ours(self, host: str) -> bool:
        name = host.rpartition(":")[0] if host.rpartition(":")[2].isdecimal() else host
        name = name.strip("[]").rstrip(".").lower()
        if name in self.hosts:
            return True
        try:
            ipaddress.ip_address(name)  # what no other name can be made to point to
        except ValueError:
            return False
        return True

    def _note(self, scope: Scope, seen: dict[str, Any], spent: float) -> None:
        route = getattr(scope.get("route"), "path", "other")
        status = str(seen.get("status", GONE))
        self.metrics.requests.labels(route, status).inc()
        self.metrics.seconds.labels(route).observe(spent)
        seen.update(route=route, milliseconds=round(1000 * spent, 2))
        quiet = route in ("/healthz", "/readyz", "/metrics")
        level = logging.ERROR if "error" in seen else logging.DEBUG if quiet else logging.INFO
        log.log(level, "request", extra={"fields": seen})


class JsonLines(logging.Formatter):
    """One JSON object a line: time, level, event, and the record's `fields`."""

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        said = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
            + f".{int(record.msecs):03}Z",
            "level": record.levelname.lower(),
            "event": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info and record.exc_info[0] is not None:
            said["error"] = record.exc_info[0].__name__
            said["where"] = traceback.format_tb(record.exc_info[2])[-3:]
        return json.dumps(said, default=str)


class Stderr(logging.Handler):
    """To what is stderr at the time."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write the line."""
        print(self.format(record), file=sys.stderr, flush=True)  # noqa: T201


def log_to_stderr() -> None:
    """Send our lines and uvicorn's errors to stderr as JSON, and nothing that libraries say: they
    quote what they stumble over in a stranger's bytes."""
    handler = Stderr()
    handler.setFormatter(JsonLines())
    for name, level in (("resnets.serve", logging.INFO), ("uvicorn", logging.ERROR)):
        logging.getLogger(name).handlers = [handler]
        logging.getLogger(name).setLevel(level)
    for name in ("python_multipart", "PIL", "py.warnings"):
        logging.getLogger(name).handlers = [logging.NullHandler()]
    logging.captureWarnings(True)


def _header(scope: Scope, name: bytes) -> str | None:
    found = (value for key, value in scope["headers"] if key == name)
    value = next(found, None)
    return None if value is None else value.decode("latin-1").strip()


async def _refuse(
    send: Send, status: int, reason: str, number: str, *more: tuple[bytes, bytes]
) -> None:
    body = error_body(status, reason, number)
    length = (b"content-length", str(len(body)).encode())
    headers = [(b"content-type", b"application/json"), length, *more]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
