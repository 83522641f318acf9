"""The studies of nets as they are: `resnets study responses`, `gradients` and the like."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from resnets.cli.loading import load_options
from resnets.utils.run_folders import page_folder
from resnets.utils.terminal import say

if TYPE_CHECKING:
    from resnets.study.page import Report


@dataclass(frozen=True)
class Responses:
    """Fig. 7: how strongly each layer of trained nets responds.

    Args:
        checkpoints: Runs or checkpoints of one data set.
        model: Network of weights that do not say it themselves, as `resnets info` names it.
        classes: Names of the outputs in order, where the weights do not name them: FILE or a,b,c.
        data: Where the data lie, if not where the runs had them.
        examples: Held-out pictures to measure on.
        out: Folder to write; default runs/study-responses-N.
        device: auto, cpu, cuda, cuda:1, mps.
    """

    checkpoints: Annotated[tuple[Path, ...], tyro.conf.Positional]
    model: str | None = None
    classes: str | None = None
    data: str | None = None
    examples: int = 2000
    out: Path | None = None
    device: str = "auto"

    def run(self) -> int:
        """Do the study; returns the exit code."""
        from resnets.study.responses.study import responses_study

        with page_folder(self.out, "study-responses") as out:
            return _show(
                responses_study(
                    self.checkpoints,
                    data=self.data,
                    examples=self.examples,
                    device=self.device,
                    out=out,
                    loading=load_options(self.model, self.classes),
                )
            )


@dataclass(frozen=True)
class Gradients:
    """Gradients by layer, with and without batch norm and He initialisation.

    Args:
        nets: Nets, separated by commas, such as cifar-plain56,cifar-resnet56.
        data: Data set; the embedded digits by default.
        iterations: Training steps of each net.
        seed: Seed of initialisation and order.
        out: Folder to write; default runs/study-gradients-N.
        device: auto, cpu, cuda, cuda:1, mps.
    """

    nets: Annotated[str, tyro.conf.Positional]
    data: str | None = None
    iterations: int = 200
    seed: int = 0
    out: Path | None = None
    device: str = "auto"

    def run(self) -> int:
        """Do the study; returns the exit code."""
        from resnets.study.gradients.study import gradients_study

        with page_folder(self.out, "study-gradients") as out:
            return _show(
                gradients_study(
                    split_names(self.nets),
                    data=self.data,
                    iterations=self.iterations,
                    seed=self.seed,
                    device=self.device,
                    out=out,
                )
            )


@dataclass(frozen=True)
class Identity:
    """How near each block of a trained net is to the identity, and what lesions cost.

    Args:
        checkpoint: Run or checkpoint of a residual net.
        model: Network of weights that do not say it themselves, as `resnets info` names it.
        classes: Names of the outputs in order, where the weights do not name them: FILE or a,b,c.
        data: Where the data lie, if not where the run had them.
        examples: Held-out pictures to measure on.
        seed: Seed of the pictures and of the random lesions.
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
        """Do the study; returns the exit code."""
        from resnets.study.identity.study import identity_study

        with page_folder(self.out, "study-identity") as out:
            return _show(
                identity_study(
                    self.checkpoint,
                    data=self.data,
                    examples=self.examples,
                    seed=self.seed,
                    device=self.device,
                    out=out,
                    loading=load_options(self.model, self.classes),
                )
            )


@dataclass(frozen=True)
class Landscape:
    """Loss around trained nets, along filter-normalised random directions.

    Args:
        checkpoints: Runs or checkpoints of one data set.
        model: Network of weights that do not say it themselves, as `resnets info` names it.
        classes: Names of the outputs in order, where the weights do not name them: FILE or a,b,c.
        data: Where the data lie, if not where the runs had them.
        examples: Training pictures to measure on.
        steps: Points on each side of the plane, odd.
        seed: Seed of the pictures and of the directions.
        out: Folder to write; default runs/study-landscape-N.
        device: auto, cpu, cuda, cuda:1, mps.
    """

    checkpoints: Annotated[tuple[Path, ...], tyro.conf.Positional]
    model: str | None = None
    classes: str | None = None
    data: str | None = None
    examples: int = 500
    steps: int = 21
    seed: int = 0
    out: Path | None = None
    device: str = "auto"

    def run(self) -> int:
        """Do the study; returns the exit code."""
        from resnets.study.landscape.study import landscape_study

        with page_folder(self.out, "study-landscape") as out:
            return _show(
                landscape_study(
                    self.checkpoints,
                    data=self.data,
                    examples=self.examples,
                    steps=self.steps,
                    seed=self.seed,
                    device=self.device,
                    out=out,
                    loading=load_options(self.model, self.classes),
                )
            )


def split_names(nets: str | None) -> tuple[str, ...]:
    """Names separated by commas."""
    return tuple(name.strip() for name in (nets or "").split(",") if name.strip())


def _show(report: Report) -> int:
    """Print what the page says first, and where it is."""
    if report.page.caution:
        say(f"No conclusion. {report.page.caution}")
    say(report.page.lead)
    say(f"report: {report.path}")
    return 0
