"""A real server on loopback with small nets, for the tests of `resnets serve`."""

import asyncio
import io
import os
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import httpx
import numpy as np
import uvicorn
from checkpoint_files import save_checkpoint
from detect_models import FPN, small_model
from PIL import Image
from small_models import RESIDUAL, small_net

from resnets.config import Preprocess, Recipe, to_dict
from resnets.runtime.base import Runtime
from resnets.serve.app import PredictService, create_app
from resnets.serve.http.connection import Connection
from resnets.serve.http.limits import Limits
from resnets.serve.metrics import Metrics
from resnets.serve.registry import Registry, Source
from resnets.serve.server import Server, bind


def save_classifier(path: Path, seed: int = 0) -> str:
    """A checkpoint of a small classifier of ant, bee, cat, dog."""
    net = small_net(RESIDUAL, seed=seed)
    recipe = Recipe(task="classify", model=net.spec)
    _save(path, net, recipe, net.classes, net.preprocess.spec)
    return str(path)


def save_detector(path: Path) -> str:
    """A checkpoint of a small, untrained detector of disc, box, star."""
    return save_vision(path, small_model(FPN), "detect")


def save_vision(path: Path, model, task: str) -> str:
    """A checkpoint of a detector, localizer or segmenter of disc, box, star."""
    spec = Preprocess(size=64, resize=64, channels=3, mean=(0.45,) * 3, std=(0.25,) * 3)
    assert model.net.spec is not None
    recipe = Recipe(task=task, model=model.net.spec, detect=model.spec)
    _save(path, model, recipe, ("disc", "box", "star"), spec)
    return str(path)


def _save(path, model, recipe, classes, spec) -> None:
    meta = {"step": 1, "recipe": to_dict(recipe), "classes": list(classes)}
    meta["preprocess"] = to_dict(spec)
    tensors = {f"model/{name}": tensor for name, tensor in model.state_dict().items()}
    save_checkpoint(path, tensors, meta)


def encoded_image(width: int = 40, height: int = 31, seed: int = 0, form: str = "PNG") -> bytes:
    """Blurred spots as an encoded image."""
    noise = np.random.default_rng(seed).integers(0, 256, (3, 3, 3), dtype=np.uint8)
    out = io.BytesIO()
    Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC).save(out, format=form)
    return out.getvalue()


class Opens:
    """Notes the names of files that this process opens, by whatever function, while `on`."""

    on = False
    names: ClassVar[list[str]] = []

    @classmethod
    def note(cls, event: str, arguments: tuple) -> None:
        """An audit hook."""
        if event == "open" and cls.on and isinstance(arguments[0], str | bytes | Path):
            cls.names.append(os.fsdecode(arguments[0]))


sys.addaudithook(Opens.note)  # it cannot be taken off again


@contextmanager
def watched_files() -> Iterator[list[str]]:
    """The names of all files opened in the block."""
    Opens.on, Opens.names = True, []
    try:
        yield Opens.names
    finally:
        Opens.on = False


@dataclass
class Running:
    """A server, a client of it, and its inside; `connection` is the class of its connections."""

    host: str
    port: int
    client: httpx.Client
    service: PredictService
    server: Server
    registry: Registry
    connection: type[Connection]

    @property
    def url(self) -> str:
        return f"http://{self.host}:{self.port}"

    def connect(self) -> socket.socket:
        """A raw connection."""
        return socket.create_connection((self.host, self.port), timeout=60)

    def until(self, ready, seconds: float = 60) -> None:
        """Wait until `ready()`."""
        deadline = time.monotonic() + seconds
        while not ready():
            assert time.monotonic() < deadline, "waited in vain"
            time.sleep(0.01)

    @property
    def accepted(self) -> int:
        """Images let in and not answered."""
        return sum(each.admission.count for each in self.registry.models)


@contextmanager
def running(
    *models: str,
    token: str | None = None,
    hosts: tuple[str, ...] = (),
    origins: tuple[str, ...] = (),
    backend: Runtime = "torch",
    precision: str = "auto",
    **limits,
) -> Iterator[Running]:
    """A server in a thread of this process; it ends gracefully with the block.

    Where a test does not say otherwise, none of its limits in seconds is one that a busy machine
    may reach, and it is the client that gives up idle connections.
    """
    bounds = Limits(**{"max_latency": 60.0, "stall": 60.0, "answer": 120.0, **limits})
    metrics = Metrics()
    sources = [Source.parse(text) for text in models]
    registry = Registry(sources, bounds, metrics, backend=backend, precision=precision)
    app = create_app(registry, bounds, metrics, token, hosts, origins)
    sock = bind("127.0.0.1", 0)
    port = sock.getsockname()[1]
    kind = type(
        "Tested", (Connection,), {"max_connections": bounds.connections, "idle_timeout": 60.0}
    )
    config = uvicorn.Config(
        app, http=kind, ws="none", log_config=None, access_log=False, timeout_keep_alive=60
    )
    server = Server(config)
    thread = threading.Thread(target=lambda: asyncio.run(server.serve([sock])), daemon=True)
    thread.start()
    headers = {} if token is None else {"authorization": f"Bearer {token}"}
    client = httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60, headers=headers)
    found = Running("127.0.0.1", port, client, app.state.service, server, registry, kind)
    found.until(lambda: server.started, 60)
    try:
        yield found
    finally:
        client.close()
        server.should_exit = True
        thread.join(60)
        assert not thread.is_alive(), "the server did not end"
