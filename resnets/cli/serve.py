"""`resnets serve`: serve models over HTTP, with a page to try them."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Sequence
from typing import Annotated, Literal

import tyro

from resnets.config import ConfigError
from resnets.config.ranges import check_range
from resnets.config.recipe import Precision

log = logging.getLogger("resnets.serve")


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
    cors_origin: tuple[str, ...] = (),
    token_env: str | None = None,
    max_batch: int = 32,
    max_delay_ms: float = 5.0,
    max_latency_ms: float = 1000.0,
    queue: int = 256,
    max_upload_mb: float = 32.0,
    max_megapixels: float = 50.0,
    backend: Literal["auto", "torch", "onnx", "openvino"] = "auto",
    device: str = "auto",
    precision: Literal[Precision, "int8"] = "auto",
    calibrate: str | None = None,
) -> int:
    """Serve models over HTTP: POST /predict and /explain, a page at /, documentation at /docs.

    SIGHUP reloads models whose files have changed; SIGTERM and Ctrl-C answer accepted requests,
    then end.

    Args:
        models: Artifacts, run folders, checkpoints, weights files or published weights, as PATH,
            NAME=PATH or NAME@VERSION=PATH. The first is the default; of several versions of a name,
            the last one is.
        model: Architecture of weights that do not specify it (a state dict); a name listed by
            `resnets info`.
        classes: Class names in output order, if the weights do not contain them: a file with one
            per line, a,b,c, imagenet, or numbers for 0, 1, ...
        port: Port; 0 selects a free one, which the log line "serving" contains.
        host: Address to listen on; 0.0.0.0 or :: for other machines.
        allowed_host: Accepted Host headers, besides localhost, addresses and the name of this
            machine.
        cors_origin: Origins whose web pages may use the server, as https://example.org, or "*".
        token_env: Environment variable with the bearer token that requests must send.
        max_batch: Largest batch.
        max_delay_ms: Maximum time that the first image of a batch waits for others.
        max_latency_ms: Maximum time from acceptance to response; requests that would take longer
            are refused with 503.
        queue: Largest number of images waiting for one model; more are refused with 503.
        max_upload_mb: Largest request in MiB.
        max_megapixels: Largest image in millions of pixels.
        backend: Runtime for checkpoints (artifacts have their own). auto is the fastest that is
            installed and verified; the first start with a model takes about ten seconds longer.
        device: auto, cpu, cuda, cuda:1, mps.
        precision: Precision of checkpoints. auto is bfloat16 where the device computes it natively,
            float16 on GPUs with tensor cores but without it, else float32; and int8 if an artifact
            in the run folder has a small measured rise of the error. tf32: GPUs from Ampere on.
        calibrate: Data set that --precision int8 is calibrated on; the top-1 error may rise by half
            a point on it.
    """
    if not models:
        raise ConfigError("give at least one artifact, run or checkpoint")
    check_range("--port", port, "[0, 65535]")
    check_range("--max-upload-mb", max_upload_mb, "(0, inf)")
    check_range("--max-megapixels", max_megapixels, "(0, inf)")
    from resnets.serve.http.limits import Limits

    limits = Limits(
        max_batch=max_batch,
        max_delay=max_delay_ms / 1000,
        max_latency=max_latency_ms / 1000,
        queue=queue,
        upload=int(max_upload_mb * (1 << 20)),
        pixels=int(max_megapixels * 1e6),
    )
    token = _read_token(token_env)
    _check_origins(cors_origin)
    try:
        from resnets.serve import server
        from resnets.serve.metrics import Metrics
        from resnets.serve.middleware import json_log
        from resnets.serve.registry import Registry, Source
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("resnets"):
            raise
        raise ConfigError(
            f"the package {error.name} is not installed; pip install 'resnets[serve]'"
        ) from None
    from resnets.weights.load import LoadOptions

    loading = LoadOptions(model, classes)
    sources = [Source.parse(text) for text in models]
    sock = server.bind(host, port)
    metrics = Metrics()
    with json_log():
        if token is None and not server.is_loopback(host):
            log.warning(
                "listening on %s without authentication; to require a token use --token-env", host
            )
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
        server.serve(sock, registry, limits, metrics, token, {host, *allowed_host}, cors_origin)
    return 0


def _check_origins(origins: Sequence[str]) -> None:
    """Raise ConfigError for an origin that no browser sends."""
    for origin in origins:
        if origin != "*" and not re.fullmatch(r"https?://[^/\s*]+", origin):
            raise ConfigError(
                f"--cors-origin {origin}: must be an origin such as https://example.org, without "
                "a path, or *"
            )


def _read_token(name: str | None) -> str | None:
    """Read the token from the environment variable `name`; ConfigError if there is none."""
    if name is None:
        return None
    token = os.environ.get(name, "")
    if not token.strip() or not token.isascii():
        raise ConfigError(f"--token-env {name}: the environment variable is empty or not ASCII")
    return token.strip()
