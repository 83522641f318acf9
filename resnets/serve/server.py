"""Running the server: its socket, its signals, its end."""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import socket
from collections.abc import Collection, Sequence

import uvicorn

from resnets.serve.app import make_app
from resnets.serve.http.connection import Connection
from resnets.serve.http.limits import Limits
from resnets.serve.metrics import Metrics
from resnets.serve.registry import Registry
from resnets.utils.openmp import follow_load

log = logging.getLogger("resnets.serve")

BACKLOG = 256  # connections that wait to be taken; so many are taken in one turn of the event loop


class Server(uvicorn.Server):
    """uvicorn, which says by /readyz that it stops, and then answers what it has accepted."""

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Take no more connections, finish the requests, close the models."""
        self.config.app.state.work.stopping = True  # type: ignore[union-attr]
        log.info("stopping", extra={"fields": {"requests": len(self.server_state.tasks)}})
        await super().shutdown(sockets)
        self._captured_signals.clear()  # or uvicorn would raise them again: this end is a good one


def bind(host: str, port: int) -> socket.socket:
    """A TCP socket there, before anything slow is done; OSError says why not."""
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
    """Whether only this machine can reach it."""
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
) -> None:
    """Answer until SIGINT or SIGTERM, then finish what was accepted.

    hosts: names, beside localhost and this machine's own, that requests may call the server by.
    """
    bounds = {
        "most": limits.connections,
        "lag": registry.lag,
        "allowance": limits.upload + (1 << 20),
    }
    config = uvicorn.Config(
        make_app(registry, limits, metrics, token, {socket.gethostname(), *hosts}),
        backlog=BACKLOG,
        http=type("Bounded", (Connection,), bounds),
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_keep_alive=10,
        timeout_graceful_shutdown=int(limits.body + limits.answer),
    )
    host, port = sock.getsockname()[:2]
    shown = f"[{host}]" if ":" in host else host
    fields = {"url": f"http://{shown}:{port}/", "models": names(registry)}
    sock.listen(BACKLOG)  # from here on clients that have read the line get an answer
    log.info("serving", extra={"fields": fields})
    with follow_load(lambda line: log.info("openmp", extra={"fields": {"note": line}})) as waits:
        log.info("openmp", extra={"fields": waits.to_json()})
        asyncio.run(Server(config).serve([sock]))


def names(registry: Registry) -> Sequence[str]:
    """NAME@VERSION of each model."""
    return [f"{each.source.name}@{each.version}" for each in registry.models]
