"""The studies of trained models, and that of gradients: `resnets study responses` and others."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from resnets.cli.process import load_options
from resnets.utils.files import page_folder
from resnets.utils.printable import echo

if TYPE_CHECKING:
    from resnets.report.page import Report

Checkpoints = Annotated[tuple[Path, ...], tyro.conf.Positional]


@dataclass(frozen=True)
class Responses:
    """Fig. 7: how strongly each layer of trained models responds.

    Args:
        checkpoints: Runs or checkpoints of one data set.
        model: Architecture of weights that do not state it, as `resnets info` names it.
        classes: Names of the outputs in order, if the weights do not name them: FILE or a,b,c.
        data: Location of the data, if not where the runs had them.
        examples: Held-out images to measure on.
        out: Folder to write; default runs/study-responses-N.
        device: auto, cpu, cuda, cuda:1, mps.
    """

    checkpoints: Checkpoints
    model: str | None = None
    classes: str | None = None
    data: str | None = None
    examples: int = 2000
    out: Path | None = None
    device: str = "auto"

    def run(self) -> int:
        """Run the study; returns the exit code."""
        from resnets.study.responses.study import responses_study

        with page_folder(self.out, "study-responses") as out:
            report = responses_study(
                self.checkpoints,
                data=self.data,
                examples=self.examples,
                device=self.device,
                out=out,
                loading=load_options(self.model, self.classes),
            )
        return _show(report)


@dataclass(frozen=True)
class Gradients:
    """Gradients by layer, with and without batch norm and He initialization.

    Args:
        models: Models, separated by commas, such as cifar-plain56,cifar-resnet56; NAME:FIELD=VALUE
            for another field of the model.
        data: Data set; the embedded digits by default.
        iterations: Training steps of each model.
        seed: Seed of initialization and order.
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
        from resnets.study.gradients.study import gradients_study

        with page_folder(self.out, "study-gradients") as out:
            report = gradients_study(
                split_names(self.models),
                data=self.data,
                iterations=self.iterations,
                seed=self.seed,
                device=self.device,
                out=out,
            )
        return _show(report)


@dataclass(frozen=True)
class Identity:
    """How close each block of a trained model is to the identity, and the cost of lesions.

    Args:
        checkpoint: Run or checkpoint of a residual network.
        model: Architecture of weights that do not state it, as `resnets info` names it.
        classes: Names of the outputs in order, if the weights do not name them: FILE or a,b,c.
        data: Location of the data, if not where the run had them.
        examples: Held-out images to measure on.
        seed: Seed of the images and of the random lesions.
        out: Folder to write; default runs/study-identity-N.
        device: auto, cpu, cuda, cuda:1, mps.
    """

    checkpoint: Annotated[Path, tyro.conf.Positional]
    model: str | None = None
    classes: str | None = None
    data: str | None = None
    examples: int = 2000
    seed: int = 0
    out: Path | None = None
    device: str = "auto"

    def run(self) -> int:
        """Run the study; returns the exit code."""
        from resnets.study.identity.study import identity_study

        with page_folder(self.out, "study-identity") as out:
            report = identity_study(
                self.checkpoint,
                data=self.data,
                examples=self.examples,
                seed=self.seed,
                device=self.device,
                out=out,
                loading=load_options(self.model, self.classes),
            )
        return _show(report)


@dataclass(frozen=True)
class Landscape:
    """Loss around trained models, along filter-normalized random directions.

    Args:
        checkpoints: Runs or checkpoints of one data set.
        model: Architecture of weights that do not state it, as `resnets info` names it.
        classes: Names of the outputs in order, if the weights do not name them: FILE or a,b,c.
        data: Location of the data, if not where the runs had them.
        examples: Training images to measure on.
        steps: Points on each side of the plane, odd.
        seed: Seed of the images and of the directions.
        out: Folder to write; default runs/study-landscape-N.
        device: auto, cpu, cuda, cuda:1, mps.
    """

    checkpoints: Checkpoints
    model: str | None = None
    classes: str | None = None
    data: str | None = None
    examples: int = 500
    steps: int = 21
    seed: int = 0
    out: Path | None = None
    device: str = "auto"

    def run(self) -> int:
        """Run the study; returns the exit code."""
        from resnets.study.landscape.study import landscape_study

        with page_folder(self.out, "study-landscape") as out:
            report = landscape_study(
                self.checkpoints,
                data=self.data,
                examples=self.examples,
                steps=self.steps,
                seed=self.seed,
                device=self.device,
                out=out,
                loading=load_options(self.model, self.classes),
            )
        return _show(report)


@dataclass(frozen=True)
class Unravelled:
    """Blocks removed and reordered, in residual and plain models; gradients by path length.

    Args:
        checkpoints: Runs or checkpoints of one data set.
        model: Architecture of weights that do not state it, as `resnets info` names it.
        classes: Names of the outputs in order, if the weights do not name them: FILE or a,b,c.
        data: Location of the data, if not where the runs had them.
        examples: Held-out images to measure on.
        seed: Seed of the images, of the blocks and of the paths.
        out: Folder to write; default runs/study-unravelled-N.
        device: auto, cpu, cuda, cuda:1, mps.
    """

    checkpoints: Checkpoints
    model: str | None = None
    classes: str | None = None
    data: str | None = None
    examples: int = 1000
    seed: int = 0
    out: Path | None = None
    device: str = "auto"

    def run(self) -> int:
        """Run the study; returns the exit code."""
        from resnets.study.unravelled.study import unravelled_study

        with page_folder(self.out, "study-unravelled") as out:
            report = unravelled_study(
                self.checkpoints,
                data=self.data,
                examples=self.examples,
                seed=self.seed,
                device=self.device,
                out=out,
                loading=load_options(self.model, self.classes),
            )
        return _show(report)


def split_names(names: str | None) -> tuple[str, ...]:
    """Names separated by commas, but for commas inside brackets."""
    parts = re.split(r",(?![^\[]*\])", names or "")
    return tuple(part.strip() for part in parts if part.strip())


def _show(report: Report) -> int:
    """Print the caution and the lead of the page, and its path."""
    if report.caution:
        echo(f"No conclusion. {report.caution}")
    echo(report.lead)
    echo(f"report: {report.path}")
    return 0
