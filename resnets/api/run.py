"""`Run`: the folder of a training run as a Python object."""

from __future__ import annotations

import copy
from functools import cached_property
from os import PathLike
from pathlib import Path
from typing import Any

from torch import nn

from resnets.api.load import load
from resnets.config import ConfigError, Recipe, from_toml
from resnets.config.aliases import read_json
from resnets.models import ImageClassifier
from resnets.models.custom_model import MakeModel
from resnets.report.page import REPORT
from resnets.report.run import run_summary
from resnets.train.log.run_log import read_rows
from resnets.train.resume import check_is_run
from resnets.train.write_results import RESULT
from resnets.utils.api_function import api_function
from resnets.weights.checkpoint.format import RECIPE


class Run:
    """A finished or unfinished run in `folder`; notebooks display its results and curves.

    Args:
        folder: Folder of the run.
        model: The network of a run of a custom network, as for `resnets.load`.

    Files are read at first use. Raises ConfigError if the folder contains no run.
    """

    @api_function
    def __init__(
        self, folder: str | PathLike[str], model: nn.Module | MakeModel | None = None
    ) -> None:
        self.folder = Path(folder)
        self.custom_model = model

    @cached_property
    def recipe(self) -> Recipe:
        """Recipe of the run, including the fields that were set from its data."""
        return from_toml(self.folder / RECIPE, stored=True)

    @cached_property
    def result(self) -> dict[str, Any]:
        """Metrics by split ("train", "val", "test"), each with its protocol; see docs/train.md.

        Raises ConfigError if the run has not finished.
        """
        check_is_run(self.folder)
        if not (self.folder / RESULT).is_file():
            raise ConfigError(
                f"{self.folder}: the run has not finished (no {RESULT}); resume it with"
                f" resnets.train(out={str(self.folder)!r}, resume=True)"
            )
        return read_json(self.folder / RESULT, "result")

    @property
    def history(self) -> list[dict[str, Any]]:
        """Rows of metrics.jsonl so far, with `kind` ("train", "val", "time"), `step`, `epoch`..."""
        check_is_run(self.folder)
        return read_rows(self.folder)

    @property
    def report(self) -> Path:
        """Path of the report, one self-contained HTML file, written when the run finishes."""
        return self.folder / REPORT

    @cached_property
    def model(self) -> ImageClassifier | Any:
        """The model with the best validation metric (the last without validation), in eval mode.

        See `resnets.load`.
        """
        custom = self.custom_model
        return load(self.folder, copy.deepcopy(custom) if isinstance(custom, nn.Module) else custom)

    def __fspath__(self) -> str:
        return str(self.folder)

    def __repr__(self) -> str:
        return f"Run({str(self.folder)!r})"

    def _repr_html_(self) -> str:
        """Return results and curves as HTML, for notebooks."""
        finished = (self.folder / RESULT).is_file()
        result = self.result if finished else {}
        title = f"{self.recipe.net_name} on {self.recipe.data.source}"
        return run_summary(self.folder, title, result, self.history)
