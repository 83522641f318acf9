"""Run the server: socket, signals and graceful shutdown."""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import socket
from collections.abc import Collection, Sequence

import uvicorn

from resnets.serve.app import create_app
from resnets.serve.http.connection import Connection
from resnets.serve.http.limits import Limits
from resnets.serve.metrics import Metrics
from resnets.serve.registry import Registry
from resnets.utils.machine.wait_policy import adapt_wait_policy

log = logging.getLogger("resnets.serve")

BACKLOG = 256  # pending connections; as many are accepted per iteration of the event loop


class Server(uvicorn.Server):
    """uvicorn with graceful shutdown: /readyz fails, accepted requests are answered."""

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop accepting connections, finish the requests and close the models."""
        self.config.app.state.service.stopping = True  # type: ignore[union-attr]
        log.info("stopping", extra={"fields": {"requests": len(self.server_state.tasks)}})
        await super().shutdown(sockets)
        self._captured_signals.clear()  # uvicorn would raise them again


def bind(host: str, port: int) -> socket.socket:
    """Bind a TCP socket before anything slow is done; OSError if that fails."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        sock.bind((host, port))
    except OSError as error:
        sock.close()
        raise OSError(error.errno, error.strerror, f"{host}:{port}") from None
    return sock


def is_loopback(host: str) -> bool:
    """Whether `host` is reachable from this machine only."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def serve(
    sock: socket.socket,
    registry: Registry,
    limits: Limits,
    metrics: Metrics,
    token: str | None,
    hosts: Collection[str],
    origins: Collection[str] = (),
) -> None:
    """Serve until SIGINT or SIGTERM, then finish accepted requests.

    hosts: accepted Host names besides localhost and the host name of this machine. origins: see
    `create_app`.
    """
    attributes = {
        "max_connections": limits.connections,
        "lag": registry.lag,
        "allowance": limits.upload + (1 << 20),
    }
    config = uvicorn.Config(
        create_app(registry, limits, metrics, token, {socket.gethostname(), *hosts}, origins),
        backlog=BACKLOG,
        http=type("Bounded", (Connection,), attributes),
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_keep_alive=10,
        timeout_graceful_shutdown=int(limits.body + limits.answer),
    )
    host, port = sock.getsockname()[:2]
    display_host = f"[{host}]" if ":" in host else host
    fields = {"url": f"http://{display_host}:{port}/", "models": model_names(registry)}
    sock.listen(BACKLOG)  # before the log line, so that clients can connect once they see it
    log.info("serving", extra={"fields": fields})
    with adapt_wait_policy(
        lambda line: log.info("openmp", extra={"fields": {"note": line}})
    ) as policy:
        log.info("openmp", extra={"fields": policy.to_json()})
        asyncio.run(Server(config).serve([sock]))


def model_names(registry: Registry) -> Sequence[str]:
    """NAME@VERSION of all models."""
    return [f"{loaded.source.name}@{loaded.version}" for loaded in registry.models]
