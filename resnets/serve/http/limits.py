"""Limits of a server, and the exception for rejected requests."""

from __future__ import annotations

from dataclasses import dataclass

from resnets.config import ConfigError


class RequestError(Exception):
    """A rejected request; becomes a JSON response with this HTTP status."""

    def __init__(self, status: int, reason: str, retry_after: int | None = None) -> None:
        super().__init__(reason)
        self.status, self.reason, self.retry_after = status, reason, retry_after


@dataclass(frozen=True)
class Limits:
    """Limits of one server.

    max_batch: batch size. max_delay: seconds that the first image of a batch waits for others.
    max_latency: target in seconds from acceptance to response; requests that would take longer at
    the current pace are shed. queue: images accepted but not answered, per model. upload: bytes of
    a body. pixels: of one image. images: per request. stall: seconds without data. body: seconds
    for a whole body. answer: timeout of an accepted request in seconds. readers: bodies read
    concurrently. connections: open concurrently.
    """

    max_batch: int = 32
    max_delay: float = 0.005
    max_latency: float = 1.0
    queue: int = 256
    upload: int = 32 << 20
    pixels: int = 50_000_000
    images: int = 64
    stall: float = 10.0
    body: float = 120.0
    answer: float = 30.0
    readers: int = 256
    connections: int = 512

    def __post_init__(self) -> None:
        for name, value, minimum in (
            ("--max-batch", self.max_batch, 1),
            ("--max-delay-ms", self.max_delay, 0),
            ("--queue", self.queue, 1),
            ("--max-upload-mb", self.upload, 1),
            ("--max-megapixels", self.pixels, 1),
        ):
            if not value >= minimum:
                raise ConfigError(f"{name}: must be at least {minimum}")
        if not self.max_latency > self.max_delay:
            raise ConfigError("--max-latency-ms: must be more than --max-delay-ms")

    @property
    def total_body_bytes(self) -> int:
        """Maximum bytes of all bodies together."""
        return 8 * self.upload
