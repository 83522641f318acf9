"""API documentation: OpenAPI descriptions and an HTML page that needs no network."""

from __future__ import annotations

from collections.abc import Callable
from importlib import resources
from typing import Any

import jinja2
from pydantic import BaseModel

from resnets.serve.schemas import ErrorResponse, ExplainOptions, PredictOptions, PredictResponse

BINARY = {"type": "string", "format": "binary"}
BASE64 = {"type": "string", "format": "byte"}
REASONS: dict[int | str, str] = {
    400: "the body does not match its content type",
    401: "the token is missing or wrong",
    404: "no such model",
    408: "the body arrived too slowly",
    413: "too many bytes, pixels or images",
    415: "unsupported content type, or a content encoding",
    421: "unknown Host",
    422: "an image cannot be read, or an option is unknown or out of range",
    503: "too busy; see Retry-After",
}
ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"description": reason, "model": ErrorResponse} for status, reason in REASONS.items()
}
PNG = {"content": {"image/png": {"schema": BINARY}}}
PREDICT_RESPONSES: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "one prediction for each image, in their order",
        "model": PredictResponse,
    },
    **ERRORS,
}
EXPLAIN_RESPONSES: dict[int | str, dict[str, Any]] = {
    200: {"description": "the image with a heat map of the evidence for the class", **PNG},
    **ERRORS,
    409: {
        "description": "the file of the model has changed since it was loaded; reload it",
        "model": ErrorResponse,
    },
}
PREVIEW_RESPONSES: dict[int | str, dict[str, Any]] = {
    200: {"description": "the image as PNG", **PNG},
    **ERRORS,
}


def _request_body(options: type[BaseModel] | None, *, several: bool) -> dict[str, Any]:
    """The forms of a body with one image, or `several`, and with `options` beside them."""
    beside = {} if options is None else options.model_json_schema()["properties"]
    images = {"type": "array", "items": BINARY}
    encoded = {"type": "array", "items": BASE64}
    name = "images" if several else "image"
    form = {name: images if several else BINARY, **beside}
    fields = {name: encoded if several else BASE64, **beside}
    return {
        "requestBody": {
            "required": True,
            "content": {
                "image/*": {"schema": BINARY},
                "application/octet-stream": {"schema": BINARY},
                "multipart/form-data": {"schema": {"type": "object", "properties": form}},
                "application/json": {
                    "schema": {"type": "object", "properties": fields, "required": [name]},
                    "example": {name: ["<base64>"] if several else "<base64>"},
                },
            },
        }
    }


PREDICT_BODY = _request_body(PredictOptions, several=True)
EXPLAIN_BODY = _request_body(ExplainOptions, several=False)
PREVIEW_BODY = _request_body(None, several=False)


def docs_renderer() -> Callable[[dict[str, Any]], str]:
    """A function that renders an OpenAPI schema as a self-contained HTML page."""
    source = (resources.files("resnets.serve") / "page" / "docs.html.j2").read_text("utf-8")
    template = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    ).from_string(source)
    return lambda schema: template.render(paths=schema["paths"])
