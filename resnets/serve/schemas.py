"""The options and answers of the HTTP API as types, for validation and for its OpenAPI schema."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from resnets.serve.http.limits import RequestError

ClassName = Annotated[str, Field(alias="class", examples=["cat"])]
Probability = Annotated[float, Field(ge=0, le=1, examples=[0.973])]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")


class ModelOptions(_Strict):
    """Options of every request on a model."""

    model: str | None = Field(
        default=None, max_length=130, description="NAME or NAME@VERSION; the first one if left out"
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


class ErrorResponse(_Strict):
    """Answer to a request that failed."""

    status: int = Field(examples=[422])
    error: str = Field(examples=["image 1: 9000 x 9000 px is more than 50 megapixels"])
    request: str = Field(description="its ID in the log", examples=["9f86d081884c7d65"])


def with_body_options(options: Options, given: Mapping[str, str]) -> Options:
    """`options`, which are those of the URL, with those of the body added.

    RequestError (422) for one that is given in both, is unknown here or has a bad value.
    """
    if not given:
        return options
    values = options.model_dump(by_alias=True, exclude_unset=True)
    for name, value in given.items():
        if name in values:
            raise RequestError(422, f"{name}: given in the URL and in the body")
        values[name] = value
    try:
        return type(options).model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        raise RequestError(422, f"{first['loc'][-1]}: {first['msg']}") from None
