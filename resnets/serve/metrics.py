"""Prometheus metrics of a server."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from resnets.serve.batching import Admission

SECONDS = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30)
SIZES = (1, 2, 4, 8, 16, 32, 64, 128)


class Metrics:
    """Requests, batches and queues. Each server has its own registry."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = self._counter("requests", "Requests answered", ("route", "status"))
        self.seconds = self._histogram("request_seconds", "Request to answer", SECONDS, "route")
        self.images = self._counter("images", "Images answered", ("model",))
        self.shed = self._counter("shed", "Requests refused because the queue was full", ("model",))
        self._sizes = self._histogram("batch_images", "Images in a batch", SIZES, "model")
        self._compute = self._histogram("batch_seconds", "Computing a batch", SECONDS, "model")
        self._count = self._gauge(
            "waiting_images", "Images accepted and not yet answered", ("model",)
        )
        self._room = self._gauge(
            "room_images", "Maximum number of images accepted at a time", ("model",)
        )
        self._stuck = Gauge(
            "resnets_stuck_workers", "Threads at one job for too long", registry=self.registry
        )
        self._info = self._gauge("model", "1 for each model", ("model", "version", "engine"))

    def batches(self, model: str) -> Callable[[int, float], None]:
        """Return a function that records a batch of `model`: its images and seconds."""
        sizes, seconds = self._sizes.labels(model), self._compute.labels(model)

        def record(images: int, elapsed: float) -> None:
            sizes.observe(images)
            seconds.observe(elapsed)

        return record

    def track(self, model: str, version: str, engine: str, admission: Admission) -> None:
        """Export the queue of `model`; of several versions the one loaded last."""
        self._count.labels(model).set_function(lambda: admission.count)
        self._room.labels(model).set_function(lambda: admission.room)
        self._info.labels(model, version, engine).set(1)

    def track_workers(self, stuck: Callable[[], int]) -> None:
        """Export the number of stuck threads."""
        self._stuck.set_function(stuck)

    def remove(self, model: str, version: str, engine: str) -> None:
        """Stop exporting a version that is no longer served."""
        self._info.remove(model, version, engine)

    def render(self) -> bytes:
        """All metrics in the Prometheus text format 0.0.4."""
        return generate_latest(self.registry)

    def _counter(self, name: str, description: str, labels: tuple[str, ...]) -> Counter:
        return Counter(f"resnets_{name}", description, labels, registry=self.registry)

    def _gauge(self, name: str, description: str, labels: tuple[str, ...]) -> Gauge:
        return Gauge(f"resnets_{name}", description, labels, registry=self.registry)

    def _histogram(
        self, name: str, description: str, buckets: tuple[float, ...], label: str
    ) -> Histogram:
        return Histogram(
            f"resnets_{name}", description, (label,), buckets=buckets, registry=self.registry
        )
