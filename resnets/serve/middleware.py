"""Middleware (authorization, logging, metrics, security headers) and exception handlers."""

from __future__ import annotations

import hmac
import ipaddress
import json
import logging
import secrets
import time
import traceback
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from resnets.data.errors import DataError
from resnets.serve.http.body import DisconnectedError
from resnets.serve.http.connection import error_body
from resnets.serve.http.limits import RequestError
from resnets.serve.metrics import Metrics
from resnets.utils.printable import StderrHandler

log = logging.getLogger("resnets.serve")

PUBLIC_PATHS = frozenset({"/", "/page.css", "/page.js", "/icon.svg", "/healthz", "/readyz"})
HEADERS = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:;"
        " media-src 'self' blob:; connect-src 'self'; base-uri 'none'; form-action 'none';"
        " frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "permissions-policy": "camera=(self), microphone=(), geolocation=()",
    "cache-control": "no-store",
}
QUIET_LOGGERS = ("python_multipart", "PIL", "py.warnings")
CLIENT_CLOSED = 499  # as in nginx: the client closed the connection


class RequestMiddleware:
    """ASGI middleware: host check, bearer token, request id, log line, metrics, headers, errors.

    Requests whose Host is not an IP address, localhost or one of `hosts` are rejected: otherwise a
    foreign web page could read responses by DNS rebinding. cross_origin: whether pages of some
    other origins may (CORS). Log lines have route, status, times, sizes and counts; never images,
    file names, query strings or tokens.
    """

    def __init__(
        self,
        app: ASGIApp,
        metrics: Metrics,
        token: str | None,
        hosts: Collection[str],
        *,
        cross_origin: bool,
    ) -> None:
        self.app, self.metrics = app, metrics
        self.token = None if token is None else token.encode()
        policy = "cross-origin" if cross_origin else "same-origin"
        self.headers = {**HEADERS, "cross-origin-resource-policy": policy}
        self.hosts = {"localhost", *(name.lower() for name in hosts)}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        start, request_id = time.monotonic(), secrets.token_hex(8)
        record: dict[str, Any] = {"request": request_id, "method": scope["method"], "bytes": 0}
        scope.setdefault("state", {})["record"] = record

        async def counting_receive() -> Message:
            message = await receive()
            record["bytes"] += len(message.get("body", b""))
            return message

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                record["status"] = message["status"]
                headers = {**self.headers, "x-request-id": request_id}
                present = {name for name, _ in message["headers"]}
                message["headers"] = [
                    *message["headers"],
                    *(
                        (k.encode(), v.encode())
                        for k, v in headers.items()
                        if k.encode() not in present
                    ),
                ]
            await send(message)

        try:
            await self._answer(scope, counting_receive, send_with_headers, record)
        except DisconnectedError:
            record["status"] = CLIENT_CLOSED
        except Exception as error:
            record["error"] = type(error).__name__
            record["where"] = traceback.format_tb(error.__traceback__)[-3:]
            if "status" not in record:
                await _refuse(
                    send_with_headers, 500, "internal server error; see the server log", request_id
                )
        finally:
            self._log_request(scope, record, time.monotonic() - start)

    async def _answer(
        self, scope: Scope, receive: Receive, send: Send, record: dict[str, Any]
    ) -> None:
        host = _header(scope, b"host")
        if host is not None and not self._is_allowed_host(host):
            text = f"unknown Host {host[:100]!r}; see --allowed-host"
            await _refuse(send, 421, text, record["request"])
            return
        if (
            self.token is not None
            and scope["path"] not in PUBLIC_PATHS
            and not self._is_authorized(scope)
        ):
            text = "missing or wrong token; send Authorization: Bearer TOKEN"
            await _refuse(send, 401, text, record["request"], (b"www-authenticate", b"Bearer"))
            return
        await self.app(scope, receive, send)

    def _is_authorized(self, scope: Scope) -> bool:
        assert self.token is not None
        kind, _, token = (_header(scope, b"authorization") or "").partition(" ")
        given = token.strip().encode("latin-1")
        return kind.lower() == "bearer" and hmac.compare_digest(given, self.token)

    def _is_allowed_host(self, host: str) -> bool:
        name = host.rpartition(":")[0] if host.rpartition(":")[2].isdecimal() else host
        name = name.strip("[]").rstrip(".").lower()
        if name in self.hosts:
            return True
        try:
            ipaddress.ip_address(name)  # not affected by DNS rebinding
        except ValueError:
            return False
        return True

    def _log_request(self, scope: Scope, record: dict[str, Any], elapsed: float) -> None:
        route = getattr(scope.get("route"), "path", "other")
        status = str(record.get("status", CLIENT_CLOSED))
        self.metrics.requests.labels(route, status).inc()
        self.metrics.seconds.labels(route).observe(elapsed)
        record.update(route=route, milliseconds=round(1000 * elapsed, 2))
        quiet = route in ("/healthz", "/readyz", "/metrics")
        level = logging.ERROR if "error" in record else logging.DEBUG if quiet else logging.INFO
        log.log(level, "request", extra={"fields": record})


class JsonLines(logging.Formatter):
    """One JSON object per line: time, level, event, and the `fields` of the record."""

    def format(self, record: logging.LogRecord) -> str:
        """Format one record."""
        line = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
            + f".{int(record.msecs):03}Z",
            "level": record.levelname.lower(),
            "event": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info and record.exc_info[0] is not None:
            line["error"] = record.exc_info[0].__name__
            line["where"] = traceback.format_tb(record.exc_info[2])[-3:]
        return json.dumps(line, default=str)


@contextmanager
def json_log() -> Iterator[None]:
    """Log to stderr as JSON within the block: the package from warnings on, the server also infos,
    uvicorn errors, but nothing of other libraries, whose messages quote client data.

    The loggers are restored after the block, for programs that call `main`.
    """
    handler = StderrHandler()
    handler.setFormatter(JsonLines())
    changes: dict[str, tuple[list[logging.Handler], int]] = {
        "resnets": ([handler], logging.WARNING),
        "resnets.serve": ([], logging.INFO),
        "uvicorn": ([handler], logging.ERROR),
    }
    for name in QUIET_LOGGERS:
        changes[name] = ([logging.NullHandler()], logging.NOTSET)
    before = []
    for name, (handlers, level) in changes.items():
        logger = logging.getLogger(name)
        before.append((logger, logger.handlers, logger.level))
        logger.handlers = handlers
        logger.setLevel(level)
    logging.captureWarnings(True)
    try:
        yield
    finally:
        logging.captureWarnings(False)
        for logger, handlers, level in before:
            logger.handlers = handlers
            logger.setLevel(level)


def _header(scope: Scope, name: bytes) -> str | None:
    values = (value for key, value in scope["headers"] if key == name)
    value = next(values, None)
    return None if value is None else value.decode("latin-1").strip()


async def _refuse(
    send: Send, status: int, reason: str, request_id: str, *extra: tuple[bytes, bytes]
) -> None:
    body = error_body(status, reason, request_id)
    length = (b"content-length", str(len(body)).encode())
    headers = [(b"content-type", b"application/json"), length, *extra]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def add_error_handlers(app: FastAPI) -> None:
    """Add exception handlers to `app`: an HTTP status and a JSON error (`error_body`) for each."""

    def answer(
        request: Request, status: int, reason: str, headers: dict[str, str] | None = None
    ) -> Response:
        request_id = request.scope["state"]["record"]["request"]
        body = error_body(status, reason, request_id)
        return Response(body, status, headers, media_type="application/json")

    @app.exception_handler(RequestError)
    async def refused(request: Request, error: RequestError) -> Response:
        retry_after = error.retry_after
        headers = None if retry_after is None else {"retry-after": str(retry_after)}
        return answer(request, error.status, error.reason, headers)

    @app.exception_handler(DataError)
    async def unreadable(request: Request, error: DataError) -> Response:
        return answer(request, 422, str(error))

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        return answer(request, 422, f"{first['loc'][-1]}: {first['msg']}")

    @app.exception_handler(HTTPException)
    async def http(request: Request, error: HTTPException) -> Response:
        headers = None if error.headers is None else dict(error.headers)
        return answer(request, error.status_code, str(error.detail), headers)
