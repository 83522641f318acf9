"""Exception handlers: an HTTP status and a JSON error for each."""

from __future__ import annotations

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from resnets.data.errors import DataError
from resnets.serve.http.connection import error_body
from resnets.serve.http.limits import RequestError


def add_error_handlers(app: FastAPI) -> None:
    """Add exception handlers to `app`; errors have the form of `error_body`."""

    def answer(
        request: Request, status: int, reason: str, headers: dict[str, str] | None = None
    ) -> Response:
        number = request.scope["state"]["seen"]["request"]
        body = error_body(status, reason, number)
        return Response(body, status, headers, media_type="application/json")

    @app.exception_handler(RequestError)
    async def refused(request: Request, error: RequestError) -> Response:
        retry_after = error.retry_after
        headers = None if retry_after is None else {"retry-after": str(retry_after)}
        return answer(request, error.status, error.reason, headers)

    @app.exception_handler(DataError)
    async def unreadable(request: Request, error: DataError) -> Response:
        return answer(request, 422, str(error))

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        return answer(request, 422, f"{first['loc'][-1]}: {first['msg']}")

    @app.exception_handler(HTTPException)
    async def http(request: Request, error: HTTPException) -> Response:
        headers = None if error.headers is None else dict(error.headers)
        return answer(request, error.status_code, str(error.detail), headers)
