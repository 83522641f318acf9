"""Log a run to Weights & Biases and MLflow, in addition to TensorBoard (`Recipe.trackers`).

Each library is configured with its own environment variables: WANDB_MODE=offline, WANDB_PROJECT,
WANDB_ENTITY; MLFLOW_TRACKING_URI, MLFLOW_EXPERIMENT_NAME. The ids of a run are stored in
tracker.json in its folder, so that a resumed run continues them. A tracker that fails is dropped
with one warning.
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from resnets.config import Recipe, dump_json, flatten_fields, to_dict
from resnets.utils.files.json import read_object
from resnets.utils.imports import require_package

log = logging.getLogger("resnets")
PROJECT = "resnets"  # default project of Weights & Biases and experiment of MLflow
IDS = "tracker.json"
MAX_PARAM_LENGTH = 500  # limit of MLflow
TIMEOUT_SECONDS = 20  # for requests to a server


class Client(Protocol):
    """A run in a tracker; `id` identifies it when the run is resumed."""

    id: str

    def write(self, metrics: Mapping[str, float], step: int) -> None:
        """Log metrics of a step."""

    def close(self) -> None:
        """Finish uploads and end the run."""


class WandbClient:
    """A Weights & Biases run; with WANDB_MODE=offline in `folder`/wandb, for `wandb sync`."""

    def __init__(self, recipe: Recipe, folder: Path, run_id: str | None) -> None:
        import wandb

        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            name=folder.name,
            dir=str(folder),
            id=run_id,
            resume="allow",
            config=to_dict(recipe),
            settings=wandb.Settings(silent=True, console="off", init_timeout=TIMEOUT_SECONDS),
        )
        self.id = str(self._run.id)

    def write(self, metrics: Mapping[str, float], step: int) -> None:
        """Log metrics of a step."""
        self._run.log(dict(metrics), step=step)

    def close(self) -> None:
        """Finish uploads and end the run."""
        self._run.finish()


class MlflowClient:
    """An MLflow run; without MLFLOW_TRACKING_URI stored in mlflow.db next to the run's folder."""

    def __init__(self, recipe: Recipe, folder: Path, run_id: str | None) -> None:
        # The default of seven retries would delay training by four minutes.
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", str(TIMEOUT_SECONDS))
        from mlflow.tracking import MlflowClient as Tracking

        database = str(folder.resolve().parent / "mlflow.db")
        if (uri := os.environ.get("MLFLOW_TRACKING_URI")) is None:
            if "?" in database or "%" in database:  # reserved characters of URIs
                raise ValueError(f"set MLFLOW_TRACKING_URI: {database} cannot be part of a URI")
            uri = f"sqlite:///{database}"
        self._client = Tracking(tracking_uri=uri)
        if run_id is None:
            name = os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)
            experiment = self._client.get_experiment_by_name(name)
            if experiment is None:
                experiment_id = self._client.create_experiment(name)
            else:
                experiment_id = experiment.experiment_id
            run_id = self._client.create_run(experiment_id, run_name=folder.name).info.run_id
            for path, value in flatten_fields(to_dict(recipe)):
                self._client.log_param(run_id, path, json.dumps(value)[:MAX_PARAM_LENGTH])
        self.id = run_id

    def write(self, metrics: Mapping[str, float], step: int) -> None:
        """Log metrics of a step."""
        from mlflow.entities import Metric

        now = int(1000 * time.time())
        rows = [Metric(name, value, now, step) for name, value in metrics.items()]
        self._client.log_batch(self.id, metrics=rows)

    def close(self) -> None:
        """Finish uploads and end the run."""
        self._client.set_terminated(self.id)


CLIENTS: dict[str, Callable[[Recipe, Path, str | None], Client]] = {
    "wandb": WandbClient,
    "mlflow": MlflowClient,
}


class Trackers:
    """The trackers of a recipe, for the run in `folder`."""

    def __init__(self, recipe: Recipe, folder: Path) -> None:
        self._clients: dict[str, Client] = {}
        ids: dict[str, Any] = {}
        with self._drop_on_error(IDS):
            ids = read_object(folder / IDS) if (folder / IDS).is_file() else {}
        for name in recipe.trackers:
            run_id = ids.get(name)
            with self._drop_on_error(name):
                client = CLIENTS[name](recipe, folder, run_id if isinstance(run_id, str) else None)
                self._clients[name] = client
                ids[name] = client.id
        if recipe.trackers:
            dump_json(ids, folder / IDS)

    def write(self, row: Mapping[str, Any]) -> None:
        """Log one row of metrics.jsonl."""
        metrics = {
            f"{row['kind']}/{name}": float(value)
            for name, value in row.items()
            if isinstance(value, int | float) and name != "step"
        }
        for name, client in list(self._clients.items()):
            with self._drop_on_error(name):
                client.write(metrics, int(row["step"]))

    def close(self) -> None:
        """Finish uploads and end the run."""
        for name, client in list(self._clients.items()):
            with self._drop_on_error(name):
                client.close()
        self._clients.clear()

    @contextmanager
    def _drop_on_error(self, name: str) -> Iterator[None]:
        """Context that drops the tracker `name` with one warning if it fails."""
        try:
            yield
        except Exception as error:  # network, login, disk: each library has its own exceptions
            reason = " ".join(str(error).split())[:300] or type(error).__name__
            log.warning("trackers: %s: continuing without it (%s)", name, reason)
            self._clients.pop(name, None)


def check_trackers(names: Sequence[str]) -> None:
    """Raise ConfigError if the library of a tracker is not installed."""
    for name in names:
        require_package(name, f"trackers={name}", name)
