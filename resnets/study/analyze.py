"""The analyses of trained models as functions: `resnets.study.responses` and others."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from os import PathLike, fspath
from typing import Any

from resnets.config import ConfigError
from resnets.models import ImageClassifier
from resnets.report.page import StudyResult
from resnets.study.analyses.base import Analysis
from resnets.utils.api_function import api_function
from resnets.utils.errors import refuse_options
from resnets.utils.files.locks import page_folder
from resnets.weights.given import LOADED, Weights, path_or_model
from resnets.weights.load import LoadOptions

Checkpoints = Weights | Sequence[Weights]


@api_function
def responses(
    checkpoints: Checkpoints,
    *,
    model: str | None = None,
    classes: str | Sequence[str] | None = None,
    data: str | PathLike[str] | None = None,
    examples: int = 2000,
    seed: int = 0,
    out: str | PathLike[str] | None = None,
    device: str = "auto",
) -> StudyResult:
    """Fig. 7: the strength of the response of each layer of trained models.

        result = resnets.study.responses(["runs/plain56", "runs/resnet56"])
        result.tables["responses"][0]  # a row of the first layer

    Args:
        checkpoints: Runs, checkpoints, published weights or loaded models, which are copied, of one
            data set; one or several.
        model: Network of weights that do not specify it, as for `resnets.load`.
        classes: Names of the outputs, where the weights have none.
        data: Location of the data, if not where the runs had them.
        examples: Images to measure on.
        seed: Seed of the images and of all random choices.
        out: Folder; default runs/study-NAME-N. Models that are measured in it are not measured
            again.
        device: auto, cpu, cuda, cuda:1, mps.

    Raises ConfigError, DataError, CheckpointError, and ValueError for a model whose outputs are not
    finite.
    """
    return _analyze("responses", **locals())


@api_function
def identity(
    checkpoints: Checkpoints,
    *,
    model: str | None = None,
    classes: str | Sequence[str] | None = None,
    data: str | PathLike[str] | None = None,
    examples: int = 2000,
    seed: int = 0,
    out: str | PathLike[str] | None = None,
    device: str = "auto",
) -> StudyResult:
    """How close each block of a residual network is to the identity, and the effect of lesions.

    The arguments are those of `responses`, with a single run or checkpoint.
    """
    if len(_to_list(checkpoints)) > 1:
        raise ConfigError("checkpoints: this study is of one model; give one run or checkpoint")
    return _analyze("identity", **locals())


@api_function
def landscape(
    checkpoints: Checkpoints,
    *,
    steps: int = 21,
    model: str | None = None,
    classes: str | Sequence[str] | None = None,
    data: str | PathLike[str] | None = None,
    examples: int = 500,
    seed: int = 0,
    out: str | PathLike[str] | None = None,
    device: str = "auto",
) -> StudyResult:
    """Loss around trained models, along filter-normalized random directions.

    steps: points on each side of the plane, odd. The other arguments are those of `responses`.
    """
    return _analyze("landscape", **locals())


@api_function
def unravelled(
    checkpoints: Checkpoints,
    *,
    model: str | None = None,
    classes: str | Sequence[str] | None = None,
    data: str | PathLike[str] | None = None,
    examples: int = 1000,
    seed: int = 0,
    out: str | PathLike[str] | None = None,
    device: str = "auto",
) -> StudyResult:
    """Blocks removed and reordered, in residual and plain models; gradients by path length.

    The arguments are those of `responses`.
    """
    return _analyze("unravelled", **locals())


@api_function
def shattered(
    checkpoints: Checkpoints,
    *,
    model: str | None = None,
    classes: str | Sequence[str] | None = None,
    data: str | PathLike[str] | None = None,
    examples: int = 250,
    seed: int = 0,
    out: str | PathLike[str] | None = None,
    device: str = "auto",
) -> StudyResult:
    """Autocorrelation of the gradient along lines of inputs, at initialization and after training.

    The arguments are those of `responses`.
    """
    return _analyze("shattered", **locals())


@api_function
def inference(
    checkpoints: Checkpoints,
    *,
    model: str | None = None,
    classes: str | Sequence[str] | None = None,
    data: str | PathLike[str] | None = None,
    examples: int = 500,
    seed: int = 0,
    out: str | PathLike[str] | None = None,
    device: str = "auto",
) -> StudyResult:
    """A linear head after every block, and cosine of F(x) with the gradient of the loss.

    The arguments are those of `responses`.
    """
    return _analyze("inference", **locals())


@api_function
def similarity(
    checkpoints: Checkpoints,
    *,
    model: str | None = None,
    classes: str | Sequence[str] | None = None,
    data: str | PathLike[str] | None = None,
    examples: int = 250,
    seed: int = 0,
    out: str | PathLike[str] | None = None,
    device: str = "auto",
) -> StudyResult:
    """Similarity (CKA) of the outputs of the blocks of a model, and of models of several depths.

    The arguments are those of `responses`.
    """
    return _analyze("similarity", **locals())


@api_function
def effective(
    checkpoints: Checkpoints,
    *,
    model: str | None = None,
    classes: str | Sequence[str] | None = None,
    data: str | PathLike[str] | None = None,
    examples: int = 500,
    seed: int = 0,
    out: str | PathLike[str] | None = None,
    device: str = "auto",
) -> StudyResult:
    """Effective depth: blocks made linear, or removed, until the error rises.

    The arguments are those of `responses`.
    """
    return _analyze("effective", **locals())


@api_function
def curvature(
    checkpoints: Checkpoints,
    *,
    model: str | None = None,
    classes: str | Sequence[str] | None = None,
    data: str | PathLike[str] | None = None,
    examples: int = 100,
    seed: int = 0,
    out: str | PathLike[str] | None = None,
    device: str = "auto",
) -> StudyResult:
    """Largest eigenvalue of the Hessian of the training loss, and the loss along it.

    The arguments are those of `responses`.
    """
    return _analyze("curvature", **locals())


def _analyze(
    name: str,
    checkpoints: Checkpoints,
    *,
    model: str | None,
    classes: str | Sequence[str] | None,
    data: str | PathLike[str] | None,
    out: str | PathLike[str] | None,
    **options: Any,
) -> StudyResult:
    """Run `ANALYSIS` of the module of `study/analyses` with this name."""
    models = [path_or_model(each) for each in _to_list(checkpoints)]
    if not any(isinstance(each, str) for each in models):
        refuse_options(LOADED, model=model, classes=classes)
    with page_folder(out, f"study-{name}") as folder:
        analysis: Analysis[Any] = importlib.import_module(f"resnets.study.analyses.{name}").ANALYSIS
        return analysis.run(
            models,
            data=None if data is None else fspath(data),
            out=folder,
            loading=LoadOptions(model, classes),
            **options,
        )


def _to_list(checkpoints: Checkpoints) -> list[Weights]:
    if isinstance(checkpoints, str | PathLike | ImageClassifier):
        return [checkpoints]
    return list(checkpoints)
