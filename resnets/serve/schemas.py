"""Options and answers of the HTTP API as types, their OpenAPI descriptions, and its docs page."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import resources
from typing import Annotated, Any, Literal, TypeVar

import jinja2
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from resnets.serve.http.limits import RequestError

ClassName = Annotated[str, Field(alias="class", examples=["cat"])]
Probability = Annotated[float, Field(ge=0, le=1, examples=[0.973])]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")


class ModelOptions(_Strict):
    """Options of every request on a model."""

    model: str | None = Field(
        default=None, max_length=130, description="NAME or NAME@VERSION; default: the first one"
    )


Options = TypeVar("Options", bound=ModelOptions)


class PredictOptions(ModelOptions):
    """Options of POST /predict."""

    top_k: int = Field(default=5, ge=1, le=100_000, description="number of classes to return")
    threshold: float = Field(default=0.5, ge=0, le=1, description="minimum score of an object")


class ExplainOptions(ModelOptions):
    """Options of POST /explain."""

    class_name: str | None = Field(
        default=None,
        alias="class",
        max_length=500,
        description="class to explain; default: most likely",
    )


class ClassProbability(_Strict):
    """A class and its probability."""

    class_name: ClassName
    probability: Probability


class Classification(_Strict):
    """Output of a classifier for one image."""

    classes: list[ClassProbability] = Field(description="the most likely classes, best first")
    labels: list[str] | None = Field(
        default=None, description="all classes of the image (multi-label)"
    )
    unknown: bool | None = Field(
        default=None, description="whether the image has none of the classes"
    )


class ImageSize(_Strict):
    """Size of the upright image in px."""

    width: int = Field(examples=[640])
    height: int = Field(examples=[480])


class RunLengths(_Strict):
    """A mask in COCO's compressed run-length encoding."""

    size: tuple[int, int] = Field(description="height, width")
    counts: str


class DetectedObject(_Strict):
    """An object in an image."""

    class_name: ClassName
    score: Probability
    box: tuple[float, float, float, float] = Field(
        description="left, top, right, bottom in px of the upright image",
        examples=[[12.5, 30.0, 200.25, 180.0]],
    )
    mask: RunLengths | None = Field(default=None, description="if the model predicts masks")


class Objects(ImageSize):
    """Output of a detector or localizer for one image."""

    objects: list[DetectedObject] = Field(description="by score, highest first")


class Area(_Strict):
    """The fraction of an image that a class covers."""

    class_name: ClassName
    share: float = Field(ge=0, le=1)


class Areas(ImageSize):
    """Output of a segmenter for one image."""

    areas: list[Area] = Field(description="largest first")


class Milliseconds(_Strict):
    """Times of a request."""

    total: float = Field(description="from the first byte of the body to the answer")
    accepted: float = Field(description="from admission to the answer")


class PredictResponse(_Strict):
    """Answer to POST /predict."""

    model: str = Field(examples=["flowers"])
    version: str = Field(examples=["3f2a9c01b7de"])
    task: str = Field(examples=["classify"])
    engine: str = Field(examples=["torch bfloat16"])
    predictions: list[Classification | Objects | Areas] = Field(
        description="one for each image, in their order"
    )
    milliseconds: Milliseconds


class ServedModel(_Strict):
    """A model of the server."""

    name: str
    version: str
    task: str
    engine: str
    explains: bool = Field(description="whether POST /explain works")
    classes: list[str]


class Alive(_Strict):
    """Answer of GET /healthz."""

    status: Literal["alive"]


class Ready(_Strict):
    """Answer of GET /readyz."""

    status: Literal["ready"]
    models: int = Field(description="number of models", examples=[1])


class Reloaded(_Strict):
    """Answer to POST /admin/reload."""

    models: dict[str, str] = Field(
        description="outcome for each model",
        examples=[{"flowers@3f2a9c01b7de": "now flowers@8c5c3a45e173", "cells@v1": "unchanged"}],
    )


class ErrorResponse(_Strict):
    """Answer to a request that failed."""

    status: int = Field(examples=[422])
    error: str = Field(examples=["image 1: 9000 x 9000 px is more than 50 megapixels"])
    request: str = Field(description="its ID in the log", examples=["9f86d081884c7d65"])


def merge_body_options(options: Options, body_options: Mapping[str, str]) -> Options:
    """Add the options of the body to `options`, which are those of the URL.

    RequestError (422) for one that is given in both, is unknown here or has a bad value.
    """
    if not body_options:
        return options
    values = options.model_dump(by_alias=True, exclude_unset=True)
    for name, value in body_options.items():
        if name in values:
            raise RequestError(422, f"{name}: given in the URL and in the body")
        values[name] = value
    try:
        return type(options).model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        raise RequestError(422, f"{first['loc'][-1]}: {first['msg']}") from None


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


def _predict_example(task: str, prediction: dict[str, Any]) -> dict[str, Any]:
    return {
        "summary": f"task {task}",
        "value": {
            "model": "flowers" if task == "classify" else "cells",
            "version": "3f2a9c01b7de",
            "task": task,
            "engine": "torch float32",
            "predictions": [prediction],
            "milliseconds": {"total": 12.4, "accepted": 11.9},
        },
    }


_SIZE = {"width": 640, "height": 480}
_OBJECT = {"class": "platelet", "score": 0.973, "box": [12.5, 30.0, 200.25, 180.0]}
_RANKED = [{"class": "rose", "probability": 0.973}, {"class": "tulip", "probability": 0.021}]
_AREAS = [{"class": "background", "share": 0.8125}, {"class": "cell", "share": 0.1875}]
PREDICT_EXAMPLES = {
    "classifier": _predict_example("classify", {"classes": _RANKED}),
    "detector": _predict_example("detect", {**_SIZE, "objects": [_OBJECT]}),
    "segmenter": _predict_example("segment", {**_SIZE, "areas": _AREAS}),
}
PREDICT_RESPONSES: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "one prediction for each image, in their order",
        "model": PredictResponse,
        "content": {"application/json": {"examples": PREDICT_EXAMPLES}},
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


READY_RESPONSES: dict[int | str, dict[str, Any]] = {
    200: {"model": Ready},
    503: {"description": "stopping, or threads are stuck", "model": ErrorResponse},
}
RELOAD_RESPONSES: dict[int | str, dict[str, Any]] = {
    200: {"model": Reloaded},
    401: ERRORS[401],
    403: {"description": "the server was started without --token-env", "model": ErrorResponse},
}


def _request_body(options: type[BaseModel] | None, *, several: bool) -> dict[str, Any]:
    """Describe the forms of a body with one image, or `several`, and with `options`."""
    properties = {} if options is None else options.model_json_schema()["properties"]
    images = {"type": "array", "items": BINARY}
    encoded = {"type": "array", "items": BASE64}
    name = "images" if several else "image"
    form = {name: images if several else BINARY, **properties}
    fields = {name: encoded if several else BASE64, **properties}
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


def make_docs_renderer() -> Callable[[dict[str, Any]], str]:
    """Return a function that renders an OpenAPI schema as a self-contained HTML page."""
    source = (resources.files("resnets.serve") / "page" / "docs.html.j2").read_text("utf-8")
    template = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    ).from_string(source)
    return lambda schema: template.render(paths=schema["paths"])
