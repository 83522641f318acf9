"""`resnets serve`: nets behind HTTP, with a page to try them."""

from __future__ import annotations

import os
from typing import Annotated, Literal

import tyro

from resnets.config import ConfigError
from resnets.utils.terminal import say


def command(
    models: Annotated[
        tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="[NAME=]MODEL ...")
    ],
    /,
    model: str | None = None,
    classes: str | None = None,
    port: int = 8000,
    host: str = "127.0.0.1",
    allowed_host: tuple[str, ...] = (),
    token_env: str | None = None,
    max_batch: int = 32,
    max_delay_ms: float = 5.0,
    max_latency_ms: float = 1000.0,
    queue: int = 256,
    max_upload_mb: float = 32.0,
    max_megapixels: float = 50.0,
    backend: Literal["auto", "torch", "onnx", "openvino"] = "auto",
    device: str = "auto",
    precision: Literal["auto", "float32", "bfloat16", "int8"] = "auto",
    calibrate: str | None = None,
) -> int:
    """Serve nets over HTTP: POST /predict, /explain, a page at /, and /docs that explain the rest.

    SIGHUP loads models anew whose files have changed; SIGTERM and Ctrl-C answer what was accepted,
    then end.

    Args:
        models: Artifacts, run folders, checkpoints, files in a known format, published weights, as
            PATH, NAME=PATH or NAME@VERSION=PATH. The first is the default; of several versions of
            a name the last one answers for it.
        model: Network of weights that do not say it themselves (a state dict), as `resnets info`
            names it.
        classes: Names of the outputs in order, where the weights do not name them: a file with one
            a line, a,b,c, imagenet, or numbers for 0, 1, ...
        port: 0 takes a free one; the line "serving" of the log says which.
        host: Address to listen on. Others than this machine reach it at 0.0.0.0 or ::.
        allowed_host: Names that requests may call the server by, beside localhost, this machine's
            own and addresses; others are refused.
        token_env: Name of the environment variable with the bearer token that requests must send.
        max_batch: Pictures computed at once.
        max_delay_ms: How long the first picture of a batch waits for others at most.
        max_latency_ms: From acceptance to answer; what would take longer is refused with 503.
        queue: Pictures accepted and not answered yet, for each model, at most.
        max_upload_mb: MiB of a request.
        max_megapixels: Millions of pixels of a picture.
        backend: What computes checkpoints. auto is the fastest that is installed and proved equal;
            the first start with a net takes some ten seconds longer.
        device: auto, cpu, cuda, cuda:1, mps.
        precision: Of checkpoints. auto is bfloat16 where the device computes it natively, and int8
            where an artifact in the run's folder has measured that it loses little.
        calibrate: Data set that --precision int8 takes its ranges from; it may lose half a point of
            top-1 error there.
    """
    if not models:
        raise ConfigError("name at least one artifact, run or checkpoint")
    if not 0 <= port <= 65535:
        raise ConfigError(f"--port {port}: is 0..65535")
    from resnets.serve.http.limits import Limits

    limits = Limits(
        max_batch=max_batch,
        max_delay=max_delay_ms / 1000,
        max_latency=max_latency_ms / 1000,
        queue=queue,
        upload=int(max_upload_mb * (1 << 20)),
        pixels=int(max_megapixels * 1e6),
    )
    token = _token(token_env)
    try:
        from resnets.serve import server
        from resnets.serve.metrics import Metrics
        from resnets.serve.middleware import log_to_stderr
        from resnets.serve.registry import Registry, Source
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("resnets"):
            raise
        raise ConfigError(
            f"the package {error.name} is missing; pip install 'resnets[serve]'"
        ) from None
    from resnets.weights.load import LoadOptions

    loading = LoadOptions(model, classes)  # what is decided about weights is in the log
    sources = [Source.parse(text) for text in models]
    sock = server.bind(host, port)
    if token is None and not server.is_loopback(host):
        say(f"resnets serve: {host}: anybody there may ask; see --token-env", error=True)
    metrics = Metrics()
    log_to_stderr()
    registry = Registry(
        sources,
        limits,
        metrics,
        backend=backend,
        device=device,
        precision=precision,
        calibrate=calibrate,
        loading=loading,
    )
    server.serve(sock, registry, limits, metrics, token, {host, *allowed_host})
    return 0


def _token(name: str | None) -> str | None:
    if name is None:
        return None
    token = os.environ.get(name, "")
    if not token.strip() or not token.isascii():
        raise ConfigError(f"--token-env {name}: that variable is empty or not ASCII")
    return token.strip()
