"""API documentation: OpenAPI descriptions and an HTML page that needs no network."""

from __future__ import annotations

from collections.abc import Callable
from importlib import resources
from typing import Any

import jinja2

BINARY = {"type": "string", "format": "binary"}
BASE64_LIST = {"type": "array", "items": {"type": "string", "format": "byte"}}
REQUEST_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "image/*": {"schema": BINARY},
            "application/octet-stream": {"schema": BINARY},
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "properties": {"images": {"type": "array", "items": BINARY}},
                }
            },
            "application/json": {
                "schema": {"type": "object", "properties": {"images": BASE64_LIST}},
            },
        },
    }
}
ERROR_RESPONSES: dict[int | str, dict[str, Any]] = {
    400: {"description": "the body does not match its content type"},
    401: {"description": "the token is missing or wrong"},
    404: {"description": "no such model"},
    408: {"description": "the body arrived too slowly"},
    413: {"description": "too many bytes, pixels or images"},
    415: {"description": "unsupported content type"},
    421: {"description": "unknown Host"},
    422: {"description": "an image cannot be read, or an option is out of range"},
    503: {"description": "too busy; see Retry-After"},
}
PREDICT_RESPONSES = {
    200: {"description": "one prediction for each image, in their order"},
    **ERROR_RESPONSES,
}
EXPLAIN_RESPONSES: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "the image with a heat map of the evidence for the class",
        "content": {"image/png": {}},
    },
    **ERROR_RESPONSES,
    409: {"description": "the file of the model has changed since it was loaded; reload it"},
}


def docs_renderer() -> Callable[[dict[str, Any]], str]:
    """A function that renders an OpenAPI schema as a self-contained HTML page."""
    source = (resources.files("resnets.serve") / "page" / "docs.html.j2").read_text("utf-8")
    template = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    ).from_string(source)
    return lambda schema: template.render(paths=schema["paths"])
