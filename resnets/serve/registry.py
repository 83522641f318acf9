"""The models of a server by name and version, and their exchange while it runs."""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from resnets.config import ConfigError
from resnets.runtime.base import Runtime
from resnets.serve.batching import Admission, Batcher
from resnets.serve.http.lag import Lag
from resnets.serve.http.limits import Limits, RefusalError
from resnets.serve.metrics import Metrics
from resnets.serve.models import Asked, Model, fingerprint, open_model
from resnets.weights.load import NOTHING_SAID, LoadOptions

log = logging.getLogger("resnets.serve")

NAME = re.compile(r"[\w.-]{1,64}(@[\w.-]{1,64})?")


@dataclass(frozen=True)
class Source:
    """Where one model comes from, as the user named it: [NAME[@VERSION]=]PATH."""

    name: str
    version: str | None
    where: str

    @classmethod
    def parse(cls, text: str) -> Source:
        """Without a name it is the file's, or the run folder's; ConfigError for odd names."""
        said, equals, where = text.partition("=")
        if not equals:
            said, where = _natural_name(text), text
        if not NAME.fullmatch(said) or not where:
            raise ConfigError(
                f"{text}: name a model as NAME=PATH or NAME@VERSION=PATH, of letters, digits, . _ -"
            )
        name, _, version = said.partition("@")
        return cls(name, version or None, where)


@dataclass(frozen=True, eq=False)
class Served:
    """A loaded model with its queue. version: given, or what its files hash to."""

    source: Source
    version: str
    digest: str
    model: Model
    admission: Admission
    batcher: Batcher

    def to_json(self) -> dict[str, Any]:
        """What clients may know of it."""
        return {
            "name": self.source.name,
            "version": self.version,
            "task": self.model.task,
            "engine": self.model.engine,
            "explains": self.model.explains,
            "classes": list(self.model.classes),
        }


class Registry:
    """All models; the last one named of a name answers for it, the first name is the default."""

    def __init__(
        self,
        sources: Sequence[Source],
        limits: Limits,
        metrics: Metrics,
        *,
        backend: Runtime = "auto",
        device: str = "auto",
        precision: str = "auto",
        calibrate: str | None = None,
        loading: LoadOptions = NOTHING_SAID,
    ) -> None:
        self.limits, self.metrics, self.lag = limits, metrics, Lag()
        self._options: dict[str, Any] = {
            "backend": backend,
            "device": device,
            "precision": precision,
            "calibrate": calibrate,
            "loading": loading,
        }
        self._lock = asyncio.Lock()
        self._closing: set[asyncio.Task[None]] = set()
        self._served = {source: self._load(source) for source in sources}
        self._check(self.models)

    @property
    def models(self) -> list[Served]:
        """In the order they were named."""
        return list(self._served.values())

    def find(self, wanted: str | None) -> Served:
        """The model called NAME or NAME@VERSION; RefusalError (404) where there is none."""
        wanted = wanted or self.models[0].source.name
        name, _, version = wanted.partition("@")
        for served in reversed(self.models):
            if served.source.name == name and version in ("", served.version):
                return served
        raise RefusalError(404, f"no model {wanted[:130]!r} here; GET /models lists them")

    async def reload(self) -> dict[str, str]:
        """Load anew what has changed on the disk; what became of each model.

        New requests go to the new model once it has loaded; the old one first answers what it has
        accepted. A model that cannot be loaded stays as it was.
        """
        async with self._lock:
            said = {}
            for source, old in list(self._served.items()):
                key = f"{source.name}@{old.version}"
                try:
                    new = await asyncio.to_thread(self._renewed, source, old)
                except Exception as error:  # whatever it is, the others are reloaded
                    said[key] = f"kept: {' '.join(str(error).split())}"
                    log.error("reload", extra={"fields": {"model": key, "error": said[key]}})
                    continue
                if new is None:
                    said[key] = "unchanged"
                    log.info("reload", extra={"fields": {"model": key, "now": "unchanged"}})
                    continue
                self._served[source] = new
                if new.version != old.version:
                    self.metrics.forget(source.name, old.version, old.model.engine)
                task = asyncio.create_task(old.batcher.close())
                self._closing.add(task)
                task.add_done_callback(self._closing.discard)
                said[key] = f"now {source.name}@{new.version}"
                log.info("reload", extra={"fields": {"model": key, "now": new.version}})
            return said

    async def close(self) -> None:
        """Once everything that was accepted is answered."""
        await asyncio.gather(*self._closing, *(each.batcher.close() for each in self.models))

    def _renewed(self, source: Source, old: Served) -> Served | None:
        return None if fingerprint(source.where) == old.digest else self._load(source)

    def _load(self, source: Source) -> Served:
        digest = fingerprint(source.where)
        model = open_model(source.where, digest, **self._options, say=partial(_say, source.name))
        version = source.version or digest
        admission = Admission(self.limits, self.lag)
        _warm_up(model, admission, self.limits.max_batch)
        noted = self.metrics.batches(source.name)
        batcher = Batcher(model.compute, admission, self.limits, noted)
        self.metrics.watch(source.name, version, model.engine, admission)
        return Served(source, version, digest, model, admission, batcher)

    def _check(self, models: Sequence[Served]) -> None:
        keys = [(each.source.name, each.version) for each in models]
        for name, version in keys:
            if keys.count((name, version)) > 1:
                raise ConfigError(f"two models are {name}@{version}; give one another name")


def _say(name: str, text: str) -> None:
    log.info("load", extra={"fields": {"model": name, "said": text}})


def _natural_name(text: str) -> str:
    path = Path(text)
    if path.parent.name == "checkpoints":  # RUN/checkpoints/best.safetensors
        path = path.parent.parent
    stem = path.name if path.is_dir() else path.stem
    return re.sub(r"[^\w.-]+", "-", stem or path.resolve().name).strip("-")[:64]


def _warm_up(model: Model, admission: Admission, batch: int) -> None:
    """Compute one picture and one batch, so that the first request is fast and the speed known."""
    prepared = model.prepare(b"P5 64 64 255\n" + bytes(64 * 64), "a grey picture")
    for count in (1, batch) if model.task == "classify" else (1,):
        start = time.monotonic()
        for answer in model.compute([prepared] * count):
            model.describe(answer, Asked())
        spent = time.monotonic() - start
    start = time.monotonic()
    model.compute([prepared])
    admission.computed(count, spent if count > 1 else time.monotonic() - start)
