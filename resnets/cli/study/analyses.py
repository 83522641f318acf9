"""The studies of trained models, and that of gradients: `resnets study responses` and others."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from resnets import study
from resnets.cli.process import log_to_stderr
from resnets.utils.printable import echo

if TYPE_CHECKING:
    from resnets.report.page import StudyResult

Checkpoints = Annotated[tuple[Path, ...], tyro.conf.Positional]


@dataclass(frozen=True)
class TrainedStudy:
    """A study of trained models: the function of `resnets.study` with its name.

    Args:
        checkpoints: Runs or checkpoints of one data set.
        model: Architecture of weights that do not specify it; a name listed by `resnets info`.
        classes: Class names in output order, if the weights do not contain them: FILE or a,b,c.
        data: Location of the data set, if it has moved since training.
        examples: Number of images to measure on.
        seed: Random seed for the selection of images and all other random choices.
        out: Folder to write, or to resume; default runs/study-NAME-N.
        device: auto, cpu, cuda, cuda:1, mps.
    """

    checkpoints: Checkpoints
    model: str | None = None
    classes: str | None = None
    data: str | None = None
    examples: int = 500
    seed: int = 0
    out: Path | None = None
    device: str = "auto"

    def run(self) -> int:
        """Run the study; returns the exit code."""
        log_to_stderr()  # of loading the weights
        return _print_result(getattr(study, type(self).__name__.lower())(**vars(self)))


@dataclass(frozen=True)
class Responses(TrainedStudy):
    """Fig. 7: how strongly each layer of trained models responds."""

    examples: int = 2000


@dataclass(frozen=True)
class Identity(TrainedStudy):
    """How close each block of a trained model is to the identity, and the cost of lesions.

    Args:
        checkpoints: Run or checkpoint of a residual network.
    """

    checkpoints: Annotated[tuple[Path], tyro.conf.Positional]
    examples: int = 2000


@dataclass(frozen=True)
class Landscape(TrainedStudy):
    """Loss around trained models, along filter-normalized random directions.

    Args:
        steps: Points on each side of the plane, odd.
    """

    steps: int = 21


@dataclass(frozen=True)
class Unravelled(TrainedStudy):
    """Blocks removed and reordered, in residual and plain models; gradients by path length."""

    examples: int = 1000


@dataclass(frozen=True)
class Shattered(TrainedStudy):
    """Autocorrelation of the gradient along lines of inputs, at the start and as trained."""

    examples: int = 250


@dataclass(frozen=True)
class Inference(TrainedStudy):
    """A linear head after every block, and cosine of F(x) with the gradient of the loss."""


@dataclass(frozen=True)
class Similarity(TrainedStudy):
    """Similarity (CKA) of what blocks of a model, and models of several depths, compute."""

    examples: int = 250


@dataclass(frozen=True)
class Effective(TrainedStudy):
    """Effective depth: units made linear, or removed, until the error rises."""


@dataclass(frozen=True)
class Curvature(TrainedStudy):
    """Largest eigenvalue of the Hessian of the training loss, and the loss along it."""

    examples: int = 100


@dataclass(frozen=True)
class Gradients:
    """Gradients by layer, with and without batch norm and He initialization.

    Args:
        models: Models, separated by commas, such as cifar-plain56,cifar-resnet56; NAME:FIELD=VALUE
            for another field of the model.
        data: Data set; the embedded digits by default.
        iterations: Number of training steps of each model.
        seed: Random seed for initialization and data order.
        out: Folder to write; default runs/study-gradients-N.
        device: auto, cpu, cuda, cuda:1, mps.
    """

    models: Annotated[str, tyro.conf.Positional]
    data: str | None = None
    iterations: int = 200
    seed: int = 0
    out: Path | None = None
    device: str = "auto"

    def run(self) -> int:
        """Run the study; returns the exit code."""
        from resnets.study.grid.model_names import split_names

        options = vars(self) | {"models": split_names(self.models)}
        return _print_result(study.gradients(**options))


def _print_result(result: StudyResult) -> int:
    """Print the caution, lead and path of a page; returns the exit code."""
    if result.caution:
        echo(f"No conclusion. {result.caution}")
    echo(result.lead)
    echo(f"report: {result.report}")
    return 0
