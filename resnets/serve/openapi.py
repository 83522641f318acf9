"""The routes described: for programs (OpenAPI) and, without a network, for people."""

from __future__ import annotations

from collections.abc import Callable
from importlib import resources
from typing import Any

import jinja2

PICTURE = {"type": "string", "format": "binary"}
TEXTS = {"type": "array", "items": {"type": "string", "format": "byte"}}
BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "image/*": {"schema": PICTURE},
            "application/octet-stream": {"schema": PICTURE},
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "properties": {"pictures": {"type": "array", "items": PICTURE}},
                }
            },
            "application/json": {
                "schema": {"type": "object", "properties": {"pictures": TEXTS}},
            },
        },
    }
}
REFUSALS: dict[int | str, dict[str, Any]] = {
    400: {"description": "the body is not what its type says"},
    401: {"description": "the token is missing or wrong"},
    404: {"description": "no such model"},
    408: {"description": "the body came too slowly"},
    413: {"description": "too many bytes, pixels or pictures"},
    415: {"description": "the body is of another type"},
    421: {"description": "the request calls the server by a name it does not know"},
    422: {"description": "a picture cannot be read, or an option is out of range"},
    503: {"description": "too busy; Retry-After says when to come back"},
}
PREDICTED = {200: {"description": "one prediction for each picture, in their order"}, **REFUSALS}
EXPLAINED: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "the picture under a map of what speaks for the class",
        "content": {"image/png": {}},
    },
    **REFUSALS,
    409: {"description": "the model's file is no longer the one that is served; reload it"},
}


def documentation() -> Callable[[dict[str, Any]], str]:
    """What makes an HTML page of an OpenAPI schema, without a file and without elsewhere."""
    source = (resources.files("resnets.serve") / "page" / "docs.html.j2").read_text("utf-8")
    template = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    ).from_string(source)
    return lambda schema: template.render(paths=schema["paths"])
