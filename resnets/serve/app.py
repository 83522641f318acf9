"""The routes of the server."""

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
from fastapi.middleware.cors import CORSMiddleware
from fastapi.responses import JSONResponse

from resnets.serve.http.body import BodyReader, DisconnectedError, check_image, parse_body
from resnets.serve.http.limits import Limits, RequestError
from resnets.serve.metrics import Metrics
from resnets.serve.middleware import RequestMiddleware, add_error_handlers
from resnets.serve.models import preview
from resnets.serve.registry import LoadedModel, Registry
from resnets.serve.schemas import (
    EXPLAIN_BODY,
    EXPLAIN_RESPONSES,
    PREDICT_BODY,
    PREDICT_RESPONSES,
    PREVIEW_BODY,
    PREVIEW_RESPONSES,
    READY_RESPONSES,
    RELOAD_RESPONSES,
    Alive,
    ExplainOptions,
    ModelOptions,
    Options,
    PredictOptions,
    ServedModel,
    make_docs_renderer,
    merge_body_options,
)
from resnets.serve.timeout_pool import WorkerPool
from resnets.utils.machine.cpu_count import cores

T = TypeVar("T")
SPARE_THREADS = 4  # per pool: threads that may replace stuck ones
MAX_INLINE_BODY = 1 << 16  # bytes; larger bodies are parsed in another thread
PAGE = {
    "/": ("index.html", "text/html"),
    "/page.css": ("page.css", "text/css"),
    "/page.js": ("page.js", "text/javascript"),
    "/icon.svg": ("icon.svg", "image/svg+xml"),
}


class PredictService:
    """State shared by the routes: models, limits and thread pools.

    Bodies are parsed by their own threads: queued behind images to decode, they would wait before
    admission control has counted their images.
    """

    def __init__(self, registry: Registry, limits: Limits, metrics: Metrics) -> None:
        self.registry, self.limits, self.metrics = registry, limits, metrics
        self.intake = BodyReader(limits)
        self.decoders = WorkerPool("decode", cores(), limits.answer, SPARE_THREADS)
        self.parsers = WorkerPool("parse", cores(), limits.answer, SPARE_THREADS)
        self.stopping = False
        metrics.track_workers(lambda: sum(pool.stuck for pool, _ in self._pools()))

    def check_workers(self) -> None:
        """RequestError (503) if stuck threads could not all be replaced."""
        for pool, what in self._pools():
            if not pool.is_complete:
                raise RequestError(
                    503,
                    f"{pool.stuck} threads that {what} have been busy with one job for more than"
                    f" {pool.patience:.3g} s; restart the server if this persists",
                    5,
                )

    async def predict(self, request: Request, options: PredictOptions) -> dict[str, Any]:
        """Read the body, admit its images and return the predictions."""

        async def infer(
            served: LoadedModel, images: list[bytes], options: PredictOptions
        ) -> list[dict[str, Any]]:
            outputs = await asyncio.gather(
                *(self._infer_one(served, data, f"image {n}") for n, data in enumerate(images, 1))
            )
            return [served.model.describe(each, options) for each in outputs]

        start = time.monotonic()
        served, predictions, accepted_seconds = await self._admit(request, options, infer)
        return {
            "model": served.source.name,
            "version": served.version,
            "task": served.model.task,
            "engine": served.model.engine,
            "predictions": predictions,
            "milliseconds": {
                "total": round(1000 * (time.monotonic() - start), 2),
                "accepted": round(1000 * accepted_seconds, 2),
            },
        }

    async def explain(self, request: Request, options: ExplainOptions) -> tuple[bytes, str]:
        """The explanation of the one image of the body as PNG, and its class."""

        async def infer(
            served: LoadedModel, images: list[bytes], options: ExplainOptions
        ) -> tuple[bytes, str]:
            class_name = options.class_name
            if len(images) > 1:
                raise RequestError(400, "explain: one image at a time")
            await self._run(self.decoders, check_image, images[0], "the image", self.limits)
            await self._run(self.decoders, served.model.prepare_explain, class_name)
            return await self._run(
                served.batcher.thread, served.model.explain, images[0], "the image", class_name
            )

        return (await self._admit(request, options, infer))[1]

    async def preview(self, request: Request) -> bytes:
        """The one image of the body as PNG."""

        async def infer(served: LoadedModel, images: list[bytes], options: ModelOptions) -> bytes:
            if len(images) > 1:
                raise RequestError(400, "preview: one image at a time")
            await self._run(self.decoders, check_image, images[0], "the image", self.limits)
            return await self._run(self.decoders, preview, images[0], "the image")

        return (await self._admit(request, ModelOptions(), infer))[1]

    async def _admit(
        self,
        request: Request,
        options: Options,
        infer: Callable[[LoadedModel, list[bytes], Options], Coroutine[Any, Any, T]],
    ) -> tuple[LoadedModel, T, float]:
        """Read and admit the images of a request, run `infer` on them, and time it.

        options: those of the URL; `infer` gets them with those of the body.
        """
        record = request.scope["state"]["record"]
        # Before reading the body, so that shedding is cheap.
        self._check(self.registry.find(options.model))
        encoding = request.headers.get("content-encoding", "identity").strip().lower()
        if encoding not in ("identity", ""):
            raise RequestError(
                415, f"content-encoding {encoding[:30]!r}: send the body without one"
            )
        async with self.intake.body(request) as body:
            content_type = request.headers.get("content-type", "")
            if len(body) > MAX_INLINE_BODY:
                content = await self._run(self.parsers, parse_body, body, content_type, self.limits)
            else:
                content = parse_body(body, content_type, self.limits)
            images, options = content.images, merge_body_options(options, content.options)
            served = self.registry.find(options.model)  # it may have been reloaded meanwhile
            record.update(model=f"{served.source.name}@{served.version}", images=len(images))
            self._check(served, len(images))
            served.admission.enter(len(images))
            accepted = time.monotonic()
            try:
                answer = await self._unless_disconnected(request, infer(served, images, options))
            finally:
                served.admission.leave(len(images))
            self.metrics.images.labels(served.source.name).inc(len(images))
            return served, answer, time.monotonic() - accepted

    def _pools(self) -> list[tuple[WorkerPool, str]]:
        """Return all thread pools, each with a verb phrase that says what it does."""
        return [
            (self.decoders, "decode images"),
            (self.parsers, "parse bodies"),
            *(
                (loaded.batcher.thread, f"compute {loaded.source.name}")
                for loaded in self.registry.models
            ),
        ]

    def _check(self, served: LoadedModel, images: int = 1) -> None:
        try:
            for pool in (self.decoders, self.parsers, served.batcher.thread):
                if pool.is_blocked:
                    raise RequestError(503, "all threads are stuck; try again later", 5)
            served.admission.check(images)
        except RequestError:
            self.metrics.shed.labels(served.source.name).inc()
            raise

    async def _infer_one(self, served: LoadedModel, data: bytes, name: str) -> Any:
        def prepare() -> Any:
            check_image(data, name, self.limits)
            return served.model.prepare(data, name)

        return await served.batcher.answer(await self._run(self.decoders, prepare))

    async def _unless_disconnected(self, request: Request, coroutine: Coroutine[Any, Any, T]) -> T:
        """Await `coroutine`; cancel it if the client disconnects, or after `limits.answer`."""
        task = asyncio.create_task(coroutine)
        disconnected = asyncio.create_task(_wait_for_disconnect(request))
        try:
            done, _ = await asyncio.wait(
                (task, disconnected),
                timeout=self.limits.answer,
                return_when=asyncio.FIRST_COMPLETED,
            )
            if task in done:
                return task.result()
            if disconnected in done:
                raise DisconnectedError
            raise RequestError(
                503, f"no answer within {self.limits.answer:.3g} s; try again later", 5
            )
        finally:
            task.cancel()
            disconnected.cancel()
            await asyncio.gather(task, disconnected, return_exceptions=True)

    async def _run(self, pool: WorkerPool, function: Callable[..., T], *arguments: Any) -> T:
        return await asyncio.get_running_loop().run_in_executor(pool, function, *arguments)


async def _wait_for_disconnect(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def create_app(
    registry: Registry,
    limits: Limits,
    metrics: Metrics,
    token: str | None = None,
    hosts: Collection[str] = (),
    origins: Collection[str] = (),
) -> FastAPI:
    """The ASGI application; `app.state.service` is its service.

    hosts: accepted Host names. origins: origins whose pages may read the answers (CORS).
    """
    service = PredictService(registry, limits, metrics)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        reloads: set[asyncio.Task[Any]] = set()

        def reload() -> None:
            task = asyncio.ensure_future(registry.reload())
            reloads.add(task)
            task.add_done_callback(reloads.discard)

        hangup = getattr(signal, "SIGHUP", None)
        if hangup is not None:
            # Outside the main thread, signals belong to the embedding program.
            with suppress(RuntimeError, ValueError):
                asyncio.get_running_loop().add_signal_handler(hangup, reload)
        registry.lag.start()
        yield
        await registry.close()
        registry.lag.stop()
        for pool in (service.parsers, service.decoders):
            pool.shutdown(wait=False, cancel_futures=True)

    app = FastAPI(title="resnets", lifespan=lifespan, docs_url=None, redoc_url=None)
    app.state.service = service
    app.add_middleware(
        RequestMiddleware,
        metrics=metrics,
        token=token,
        hosts=hosts,
        cross_origin=bool(origins),
    )
    if origins:  # outermost: preflight requests carry no token, and errors need its headers too
        app.add_middleware(
            CORSMiddleware,
            allow_origins=list(origins),
            allow_methods=["GET", "HEAD", "POST"],
            allow_headers=["authorization", "content-type"],
            expose_headers=["x-request-id", "x-class", "retry-after"],
        )
    add_error_handlers(app)
    _add_page_routes(app)
    _add_health_routes(app, service, token)
    _add_inference_routes(app, service)
    return app


def _add_inference_routes(app: FastAPI, service: PredictService) -> None:
    @app.post("/predict", openapi_extra=PREDICT_BODY, responses=PREDICT_RESPONSES)
    async def predict(
        request: Request, options: Annotated[PredictOptions, Query()]
    ) -> JSONResponse:
        """Classify one or more images, or detect objects if the model is a detector."""
        return JSONResponse(await service.predict(request, options))

    @app.post(
        "/explain", openapi_extra=EXPLAIN_BODY, responses=EXPLAIN_RESPONSES, response_class=Response
    )
    async def explain(request: Request, options: Annotated[ExplainOptions, Query()]) -> Response:
        """A PNG of the Grad-CAM heatmap of a class; the most likely class if none is
        named. Classifiers served from a checkpoint only."""
        png, class_shown = await service.explain(request, options)
        return Response(png, media_type="image/png", headers={"x-class": quote(class_shown)})

    @app.post(
        "/preview", openapi_extra=PREVIEW_BODY, responses=PREVIEW_RESPONSES, response_class=Response
    )
    async def preview(request: Request) -> Response:
        """The image as the models see it, upright and at most 640 px, as PNG: for browsers that do
        not show its format (TIFF, PPM)."""
        return Response(await service.preview(request), media_type="image/png")

    @app.get("/models", responses={200: {"model": list[ServedModel]}})
    async def models() -> JSONResponse:
        """What is served; the first one is the default."""
        return JSONResponse([loaded.to_json() for loaded in service.registry.models])


def _add_health_routes(app: FastAPI, service: PredictService, token: str | None) -> None:
    @app.head("/healthz", include_in_schema=False)
    @app.get("/healthz", responses={200: {"model": Alive}})
    async def healthz() -> JSONResponse:
        """200 while the process is alive."""
        return JSONResponse({"status": "alive"})

    @app.head("/readyz", include_in_schema=False)
    @app.get("/readyz", responses=READY_RESPONSES)
    async def readyz() -> JSONResponse:
        """200 while requests are accepted; 503 once the server stops, or if threads are stuck."""
        if service.stopping:
            raise RequestError(503, "the server is stopping", 5)
        service.check_workers()
        return JSONResponse({"status": "ready", "models": len(service.registry.models)})

    @app.head("/metrics", include_in_schema=False)
    @app.get("/metrics", response_class=Response)
    async def metrics() -> Response:
        """Metrics in the Prometheus text format."""
        return Response(
            service.metrics.render(), media_type="text/plain; version=0.0.4; charset=utf-8"
        )

    @app.post("/admin/reload", responses=RELOAD_RESPONSES)
    async def reload() -> JSONResponse:
        """Reload the models whose files have changed. Only if the server has a token."""
        if token is None:
            raise RequestError(403, "reload: start the server with --token-env, or send it SIGHUP")
        return JSONResponse({"models": await service.registry.reload()})


def _add_page_routes(app: FastAPI) -> None:
    folder = resources.files("resnets.serve") / "page"
    for path, (name, content_type) in PAGE.items():
        content = (folder / name).read_bytes()  # once: requests read no files
        app.router.add_route(path, _content_route(content, content_type), methods=["GET"])

    render = make_docs_renderer()

    @app.get("/docs", response_class=Response, include_in_schema=False)
    async def docs() -> Response:
        """API documentation as HTML; /openapi.json is the schema."""
        return Response(render(app.openapi()), media_type="text/html; charset=utf-8")


def _content_route(
    content: bytes, content_type: str
) -> Callable[[Request], Coroutine[Any, Any, Response]]:
    async def respond(request: Request) -> Response:
        return Response(content, media_type=f"{content_type}; charset=utf-8")

    return respond
