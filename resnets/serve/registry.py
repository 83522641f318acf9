"""The models of a server by name and version, with reloading while it runs."""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from resnets.config import ConfigError
from resnets.runtime.artifact import is_artifact
from resnets.runtime.base import Runtime
from resnets.serve.batching import Admission, Batcher
from resnets.serve.http.limits import EventLoopLag, Limits, RequestError
from resnets.serve.metrics import Metrics
from resnets.serve.models import Model, fingerprint, open_model
from resnets.serve.schemas import PredictOptions
from resnets.weights.checkpoint.find import read_task
from resnets.weights.load import DEFAULT_LOAD_OPTIONS, LoadOptions, has_known_model

log = logging.getLogger("resnets.serve")

NAME = re.compile(r"[\w.-]{1,64}(@[\w.-]{1,64})?")


@dataclass(frozen=True)
class Source:
    """The source of a model, given as [NAME[@VERSION]=]PATH."""

    name: str
    version: str | None
    where: str

    @classmethod
    def parse(cls, text: str) -> Source:
        """Parse; the default name is that of the file or run folder. ConfigError for bad names.

        What exists under the whole text is a path, also if it has "=" in its name.
        """
        full_name, equals, where = text.partition("=")
        if not equals or Path(text).exists():
            full_name, where = _default_name(text), text
        if not NAME.fullmatch(full_name) or not where:
            raise ConfigError(
                f"{text}: name a model as NAME=PATH or NAME@VERSION=PATH, of letters, digits, . _ -"
            )
        name, _, version = full_name.partition("@")
        return cls(name, version or None, where)


@dataclass(frozen=True, eq=False)
class LoadedModel:
    """A loaded model with its queue. version: as given, or the fingerprint of its files."""

    source: Source
    version: str
    digest: str
    model: Model
    admission: Admission
    batcher: Batcher

    def to_json(self) -> dict[str, Any]:
        """The public description of the model."""
        return {
            "name": self.source.name,
            "version": self.version,
            "task": self.model.task,
            "engine": self.model.engine,
            "explains": self.model.explains,
            "classes": list(self.model.classes),
        }


class Registry:
    """All models; of one name the last is used, and the first name is the default."""

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
        loading: LoadOptions = DEFAULT_LOAD_OPTIONS,
    ) -> None:
        self.limits, self.metrics, self.lag = limits, metrics, EventLoopLag()
        self._options: dict[str, Any] = {
            "backend": backend,
            "device": device,
            "precision": precision,
            "calibrate": calibrate,
            "loading": loading,
        }
        _check_options(sources, self._options)
        self._lock = asyncio.Lock()
        self._closing: set[asyncio.Task[None]] = set()
        self._served = {source: self._load(source) for source in sources}
        self._check(self.models)

    @property
    def models(self) -> list[LoadedModel]:
        """All models, in the order given."""
        return list(self._served.values())

    def find(self, requested: str | None) -> LoadedModel:
        """The model NAME or NAME@VERSION; RequestError (404) if there is none."""
        requested = requested or self.models[0].source.name
        name, _, version = requested.partition("@")
        for served in reversed(self.models):
            if served.source.name == name and version in ("", served.version):
                return served
        raise RequestError(404, f"no model {requested[:130]!r} here; GET /models lists them")

    async def reload(self) -> dict[str, str]:
        """Reload models whose files have changed; returns the outcome for each model.

        New requests use the new model once it is loaded; the old one first completes what it has
        accepted. If loading fails, the old model stays.
        """
        async with self._lock:
            results = {}
            for source, old in list(self._served.items()):
                key = f"{source.name}@{old.version}"
                try:
                    new = await asyncio.to_thread(self._load_if_changed, source, old)
                except Exception as error:  # of any type: the other models are still reloaded
                    results[key] = f"kept: {' '.join(str(error).split())}"
                    log.error("reload", extra={"fields": {"model": key, "error": results[key]}})
                    continue
                if new is None:
                    results[key] = "unchanged"
                    log.info("reload", extra={"fields": {"model": key, "now": "unchanged"}})
                    continue
                self._served[source] = new
                if new.version != old.version:
                    self.metrics.remove(source.name, old.version, old.model.engine)
                task = asyncio.create_task(old.batcher.close())
                self._closing.add(task)
                task.add_done_callback(self._closing.discard)
                results[key] = f"now {source.name}@{new.version}"
                log.info("reload", extra={"fields": {"model": key, "now": new.version}})
            return results

    async def close(self) -> None:
        """Close all models after everything accepted is answered."""
        await asyncio.gather(*self._closing, *(loaded.batcher.close() for loaded in self.models))

    def _load_if_changed(self, source: Source, old: LoadedModel) -> LoadedModel | None:
        return None if fingerprint(source.where) == old.digest else self._load(source)

    def _load(self, source: Source) -> LoadedModel:
        digest = fingerprint(source.where)
        model = open_model(
            source.where, digest, **self._options, log=partial(_log_load, source.name)
        )
        version = source.version or digest
        admission = Admission(self.limits, self.lag)
        _warm_up(model, admission, self.limits.max_batch)
        on_batch = self.metrics.batches(source.name)
        batcher = Batcher(model.compute, admission, self.limits, on_batch)
        self.metrics.track(source.name, version, model.engine, admission)
        return LoadedModel(source, version, digest, model, admission, batcher)

    def _check(self, models: Sequence[LoadedModel]) -> None:
        keys = [(loaded.source.name, loaded.version) for loaded in models]
        for name, version in keys:
            if keys.count((name, version)) > 1:
                raise ConfigError(f"two models are called {name}@{version}; rename one")


def _log_load(name: str, text: str) -> None:
    log.info("load", extra={"fields": {"model": name, "note": text}})


def _default_name(text: str) -> str:
    path = Path(text)
    if path.parent.name == "checkpoints":  # RUN/checkpoints/best.safetensors
        path = path.parent.parent
    stem = path.name if path.is_dir() else path.stem
    return re.sub(r"[^\w.-]+", "-", stem or path.resolve().name).strip("-")[:64]


def _warm_up(model: Model, admission: Admission, batch: int) -> None:
    """Run one image and one batch, so that the first request is fast and the pace known."""
    prepared = model.prepare(b"P5 64 64 255\n" + bytes(64 * 64), "a gray image")
    for count in (1, batch) if model.task == "classify" else (1,):
        start = time.monotonic()
        for answer in model.compute([prepared] * count):
            try:
                model.describe(answer, PredictOptions())
            except RequestError as error:
                raise ConfigError(f"{error.reason}; it is not served") from None
        elapsed = time.monotonic() - start
    start = time.monotonic()
    model.compute([prepared])
    admission.record_batch(count, elapsed if count > 1 else time.monotonic() - start)


def _check_options(sources: Sequence[Source], options: Mapping[str, Any]) -> None:
    """ConfigError for an option that applies to none of the models."""
    loading: LoadOptions = options["loading"]
    places = [source.where for source in sources]
    classifiers = [
        each for each in places if not is_artifact(each) and read_task(each) == "classify"
    ]
    unstated = []
    if loading.model is not None:
        unstated = [each for each in classifiers if not has_known_model(each)]
    for name, value, readers in (
        ("model", loading.model, unstated),
        ("classes", loading.classes, classifiers),
        ("calibrate", options["calibrate"], classifiers),
    ):
        if value is not None and not readers:
            raise ConfigError(f"--{name} {value}: has no effect for any of the models; omit it")
    if not all(map(is_artifact, places)):
        return
    for name in ("backend", "device", "precision"):
        if options[name] not in ("auto", None, *(("cpu",) if name == "device" else ())):
            raise ConfigError(
                f"--{name} {options[name]}: only for checkpoints; all models are artifacts, which "
                "have their own runtime and precision"
            )
