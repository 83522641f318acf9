"""The server's routes."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import AsyncIterator, Callable, Collection, Coroutine
from contextlib import asynccontextmanager, suppress
from importlib import resources
from typing import Annotated, Any, TypeVar
from urllib.parse import quote

from fastapi import FastAPI, Query, Request, Response
from fastapi.responses import JSONResponse

from resnets.serve.errors import answer_errors
from resnets.serve.http.body import DisconnectedError, Intake, check_picture, pictures_of
from resnets.serve.http.limits import Limits, RefusalError
from resnets.serve.metrics import Metrics
from resnets.serve.middleware import Watch
from resnets.serve.models import Asked
from resnets.serve.openapi import BODY, EXPLAINED, PREDICTED, documentation
from resnets.serve.registry import Registry, Served
from resnets.serve.workers import Workers
from resnets.utils.cpu_count import cores

T = TypeVar("T")
SPARE = 4  # threads that may replace stuck ones, of each kind
AT_ONCE = 1 << 16  # bytes of a body that is taken apart sooner than another thread would begin
PAGE = {
    "/": ("index.html", "text/html"),
    "/page.css": ("page.css", "text/css"),
    "/page.js": ("page.js", "text/javascript"),
    "/icon.svg": ("icon.svg", "image/svg+xml"),
}
ModelName = Annotated[
    str | None,
    Query(max_length=130, description="NAME or NAME@VERSION; the first one if left out"),
]


class PredictService:
    """What the routes share: models, bounds, and threads.

    Bodies have threads of their own: behind pictures that wait to be decoded, they would wait
    before anybody has counted them.
    """

    def __init__(self, registry: Registry, limits: Limits, metrics: Metrics) -> None:
        self.registry, self.limits, self.metrics = registry, limits, metrics
        self.intake = Intake(limits)
        self.decoders = Workers("decode", cores(), limits.answer, SPARE)
        self.parsers = Workers("parse", cores(), limits.answer, SPARE)
        self.stopping = False
        metrics.watch_workers(lambda: sum(pool.stuck for pool, _ in self._pools()))

    def check_workers(self) -> None:
        """RefusalError (503) where stuck threads could not all be replaced."""
        for pool, what in self._pools():
            if not pool.is_complete:
                raise RefusalError(
                    503,
                    f"{pool.stuck} threads that {what} have been at one job for over"
                    f" {pool.patience:.3g} s; restart the server if that lasts",
                    5,
                )

    async def predict(self, request: Request, model: str | None, asked: Asked) -> dict[str, Any]:
        """Read the body, let its pictures in, answer them."""

        async def ask(served: Served, pictures: list[bytes]) -> list[Any]:
            return await asyncio.gather(
                *(self._one(served, data, f"picture {n}") for n, data in enumerate(pictures, 1))
            )

        start = time.monotonic()
        served, answers, waited = await self._let_in(request, model, ask)
        return {
            "model": served.source.name,
            "version": served.version,
            "task": served.model.task,
            "engine": served.model.engine,
            "predictions": [served.model.describe(answer, asked) for answer in answers],
            "milliseconds": {
                "total": round(1000 * (time.monotonic() - start), 2),
                "accepted": round(1000 * waited, 2),
            },
        }

    async def explain(
        self, request: Request, model: str | None, wanted: str | None
    ) -> tuple[bytes, str]:
        """The PNG that explains the one picture of the body, and the class it is about."""

        async def ask(served: Served, pictures: list[bytes]) -> tuple[bytes, str]:
            if len(pictures) > 1:
                raise RefusalError(400, "explain: one picture at a time")
            await self._run(self.decoders, check_picture, pictures[0], "the picture", self.limits)
            await self._run(self.decoders, served.model.explainable, wanted)
            return await self._run(
                served.batcher.thread, served.model.explain, pictures[0], "the picture", wanted
            )

        return (await self._let_in(request, model, ask))[1]

    async def _let_in(
        self,
        request: Request,
        model: str | None,
        ask: Callable[[Served, list[bytes]], Coroutine[Any, Any, T]],
    ) -> tuple[Served, T, float]:
        """`ask` of the pictures once they are accepted, and seconds from then to the answer."""
        seen = request.scope["state"]["seen"]
        self._check(self.registry.find(model))  # before the body is read: shedding has to be cheap
        coding = request.headers.get("content-encoding", "identity").strip().lower()
        if coding not in ("identity", ""):
            raise RefusalError(415, f"content-encoding {coding[:30]!r}: send the body without one")
        async with self.intake.body(request) as body:
            kind = request.headers.get("content-type", "")
            if len(body) > AT_ONCE:
                pictures = await self._run(self.parsers, pictures_of, body, kind, self.limits)
            else:
                pictures = pictures_of(body, kind, self.limits)
            served = self.registry.find(model)  # again: it may have been exchanged meanwhile
            seen.update(model=f"{served.source.name}@{served.version}", pictures=len(pictures))
            self._check(served, len(pictures))
            served.admission.enter(len(pictures))
            accepted = time.monotonic()
            try:
                answer = await self._unless_gone(request, ask(served, pictures))
            finally:
                served.admission.leave(len(pictures))
            self.metrics.pictures.labels(served.source.name).inc(len(pictures))
            return served, answer, time.monotonic() - accepted

    def _pools(self) -> list[tuple[Workers, str]]:
        """All threads, and what they do."""
        return [
            (self.decoders, "decode images"),
            (self.parsers, "parse bodies"),
            *(
                (each.batcher.thread, f"compute {each.source.name}")
                for each in self.registry.models
            ),
        ]

    def _check(self, served: Served, pictures: int = 1) -> None:
        try:
            for pool in (self.decoders, self.parsers, served.batcher.thread):
                if pool.is_blocked:
                    raise RefusalError(503, "all threads are stuck; try again later", 5)
            served.admission.check(pictures)
        except RefusalError:
            self.metrics.shed.labels(served.source.name).inc()
            raise

    async def _one(self, served: Served, data: bytes, name: str) -> Any:
        def prepare() -> Any:
            check_picture(data, name, self.limits)
            return served.model.prepare(data, name)

        return await served.batcher.answer(await self._run(self.decoders, prepare))

    async def _unless_gone(self, request: Request, asking: Coroutine[Any, Any, T]) -> T:
        """Its result; given up as soon as the client leaves, or after `limits.answer`."""
        task, left = asyncio.create_task(asking), asyncio.create_task(_leaving(request))
        try:
            done, _ = await asyncio.wait(
                (task, left), timeout=self.limits.answer, return_when=asyncio.FIRST_COMPLETED
            )
            if task in done:
                return task.result()
            if left in done:
                raise DisconnectedError
            raise RefusalError(
                503, f"no answer within {self.limits.answer:.3g} s; try again later", 5
            )
        finally:
            task.cancel()
            left.cancel()
            await asyncio.gather(task, left, return_exceptions=True)

    async def _run(self, pool: Workers, function: Callable[..., T], *arguments: Any) -> T:
        return await asyncio.get_running_loop().run_in_executor(pool, function, *arguments)


async def _leaving(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def make_app(
    registry: Registry,
    limits: Limits,
    metrics: Metrics,
    token: str | None = None,
    hosts: Collection[str] = (),
) -> FastAPI:
    """The ASGI application; `app.state.work` is its service. hosts: names it answers to."""
    work = PredictService(registry, limits, metrics)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        reloads: set[asyncio.Task[Any]] = set()

        def reload() -> None:
            task = asyncio.ensure_future(registry.reload())
            reloads.add(task)
            task.add_done_callback(reloads.discard)

        hangup = getattr(signal, "SIGHUP", None)
        if hangup is not None:
            # Outside the main thread whoever embeds the server has its own signals.
            with suppress(RuntimeError, ValueError):
                asyncio.get_running_loop().add_signal_handler(hangup, reload)
        registry.lag.watch()
        yield
        await registry.close()
        registry.lag.stop()
        for pool in (work.parsers, work.decoders):
            pool.shutdown(wait=False, cancel_futures=True)

    app = FastAPI(title="resnets", lifespan=lifespan, docs_url=None, redoc_url=None)
    app.state.work = work
    app.add_middleware(Watch, metrics=metrics, token=token, hosts=hosts)
    answer_errors(app)
    _page(app)
    _health(app, work, token)
    _answers(app, work)
    return app


def _answers(app: FastAPI, work: PredictService) -> None:
    @app.post("/predict", openapi_extra=BODY, responses=PREDICTED)
    async def predict(
        request: Request,
        model: ModelName = None,
        top_k: Annotated[int, Query(ge=1, le=100_000, description="classes to give")] = 5,
        threshold: Annotated[float, Query(ge=0, le=1, description="least score")] = 0.5,
    ) -> JSONResponse:
        """Name what is in one or more pictures, or find it where the model is a detector."""
        return JSONResponse(await work.predict(request, model, Asked(top_k, threshold)))

    @app.post("/explain", openapi_extra=BODY, responses=EXPLAINED, response_class=Response)
    async def explain(
        request: Request,
        model: ModelName = None,
        wanted: Annotated[str | None, Query(alias="class", max_length=500)] = None,
    ) -> Response:
        """A PNG of what in a picture speaks for a class (Grad-CAM); the likeliest if none is
        named. Classifiers served from a checkpoint only."""
        png, about = await work.explain(request, model, wanted)
        return Response(png, media_type="image/png", headers={"x-class": quote(about)})

    @app.get("/models")
    async def models() -> JSONResponse:
        """What is served; the first one is the default."""
        return JSONResponse([each.to_json() for each in work.registry.models])


def _health(app: FastAPI, work: PredictService, token: str | None) -> None:
    @app.get("/healthz")
    async def healthz() -> JSONResponse:
        """200 while the process lives."""
        return JSONResponse({"status": "alive"})

    @app.get("/readyz")
    async def readyz() -> JSONResponse:
        """200 while requests are taken; 503 once the server stops, or threads are stuck."""
        if work.stopping:
            raise RefusalError(503, "the server is stopping", 5)
        work.check_workers()
        return JSONResponse({"status": "ready", "models": len(work.registry.models)})

    @app.get("/metrics", response_class=Response)
    async def metrics() -> Response:
        """Prometheus's text format."""
        return Response(work.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    @app.post("/admin/reload")
    async def reload() -> JSONResponse:
        """Load anew the models whose files have changed. Only where the server has a token."""
        if token is None:
            raise RefusalError(403, "reload: start the server with --token-env, or send it SIGHUP")
        return JSONResponse({"models": await work.registry.reload()})


def _page(app: FastAPI) -> None:
    folder = resources.files("resnets.serve") / "page"
    for path, (name, kind) in PAGE.items():
        content = (folder / name).read_bytes()  # at start: no request reads a file
        app.router.add_route(path, _handler(content, kind), methods=["GET"])

    render = documentation()

    @app.get("/docs", response_class=Response, include_in_schema=False)
    async def docs() -> Response:
        """The routes for people; /openapi.json has them for programs."""
        return Response(render(app.openapi()), media_type="text/html; charset=utf-8")


def _handler(content: bytes, kind: str) -> Callable[[Request], Coroutine[Any, Any, Response]]:
    async def show(request: Request) -> Response:
        return Response(content, media_type=f"{kind}; charset=utf-8")

    return show
