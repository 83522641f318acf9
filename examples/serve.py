"""Serve a run from Python, in an application with additional routes.

python examples/serve.py runs/digits-1 --port 8000
"""

import argparse

import uvicorn
from fastapi import FastAPI

from resnets.serve.app import create_app
from resnets.serve.http.limits import Limits
from resnets.serve.metrics import Metrics
from resnets.serve.registry import Registry, Source


def make_app(run: str) -> FastAPI:
    """Return the application of `resnets serve` with one more route."""
    limits, metrics = Limits(max_batch=16), Metrics()
    registry = Registry([Source.parse(run)], limits, metrics, backend="torch")
    app = create_app(registry, limits, metrics)

    @app.get("/about")
    async def about() -> dict[str, str]:
        return {"run": run, "docs": "/docs"}

    return app


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("run")
    parser.add_argument("--port", type=int, default=8000)
    arguments = parser.parse_args()
    uvicorn.run(make_app(arguments.run), host="127.0.0.1", port=arguments.port)
