"""What a server takes on at most, and how it says no."""

from __future__ import annotations

from dataclasses import dataclass

from resnets.config import ConfigError


class RefusalError(Exception):
    """A request that is not done; becomes a JSON answer of this HTTP status."""

    def __init__(self, status: int, reason: str, retry_after: int | None = None) -> None:
        super().__init__(reason)
        self.status, self.reason, self.retry_after = status, reason, retry_after


@dataclass(frozen=True)
class Limits:
    """Bounds of one server.

    max_batch: pictures computed at once. max_delay: seconds that the first picture of a batch waits
    for others at most. max_latency: seconds from acceptance to answer that a model is not to pass;
    what would take longer at its present speed is shed. queue: pictures accepted and not answered,
    for each model. upload: bytes of a request's body. pixels: of one picture. pictures: in one
    request. stall: seconds without a byte. body: seconds a whole body may take. answer: seconds
    after which an accepted request is given up. readers: bodies read at a time. connections: open
    at a time.
    """

    max_batch: int = 32
    max_delay: float = 0.005
    max_latency: float = 1.0
    queue: int = 256
    upload: int = 32 << 20
    pixels: int = 50_000_000
    pictures: int = 64
    stall: float = 10.0
    body: float = 120.0
    answer: float = 30.0
    readers: int = 256
    connections: int = 512

    def __post_init__(self) -> None:
        for name, value, least in (
            ("--max-batch", self.max_batch, 1),
            ("--max-delay-ms", self.max_delay, 0),
            ("--queue", self.queue, 1),
            ("--max-upload-mb", self.upload, 1),
            ("--max-megapixels", self.pixels, 1),
        ):
            if not value >= least:
                raise ConfigError(f"{name}: must be at least {least}")
        if not self.max_latency > self.max_delay:
            raise ConfigError("--max-latency-ms: must be more than --max-delay-ms")

    @property
    def held(self) -> int:
        """Bytes of all bodies together."""
        return 8 * self.upload
