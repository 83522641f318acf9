"""The log of a run at Weights & Biases and MLflow, beside TensorBoard (`Recipe.trackers`).

Their own settings say where: WANDB_MODE=offline, WANDB_PROJECT, WANDB_ENTITY; MLFLOW_TRACKING_URI,
MLFLOW_EXPERIMENT_NAME. A resumed run goes on in the same place, which tracker.json in its folder
keeps. What fails is said once, and the run goes on without it.
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
from resnets.utils.errors import read_object
from resnets.utils.imports import require_package

log = logging.getLogger("resnets")
PROJECT = "resnets"  # of Weights & Biases, and experiment of MLflow, where none is named
IDS = "tracker.json"
LONGEST = 500  # characters of a parameter of MLflow
PATIENCE = 20  # seconds for which a server that does not answer is waited for


class Client(Protocol):
    """What a tracker's library is asked for; `id` is what finds its run again."""

    id: str

    def write(self, metrics: Mapping[str, float], step: int) -> None:
        """Log metrics of a step."""

    def close(self) -> None:
        """Upload what is left."""


class WandbClient:
    """A run of Weights & Biases; with WANDB_MODE=offline in `folder`/wandb, for `wandb sync`."""

    def __init__(self, recipe: Recipe, folder: Path, known: str | None) -> None:
        import wandb

        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            name=folder.name,
            dir=str(folder),
            id=known,
            resume="allow",
            config=to_dict(recipe),
            settings=wandb.Settings(silent=True, console="off", init_timeout=PATIENCE),
        )
        self.id = str(self._run.id)

    def write(self, metrics: Mapping[str, float], step: int) -> None:
        """Log metrics of a step."""
        self._run.log(dict(metrics), step=step)

    def close(self) -> None:
        """Upload what is left."""
        self._run.finish()


class MlflowClient:
    """A run of MLflow; without MLFLOW_TRACKING_URI in mlflow.db beside the run's folder."""

    def __init__(self, recipe: Recipe, folder: Path, known: str | None) -> None:
        # By default seven retries, four minutes in which training would wait.
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", str(PATIENCE))
        from mlflow.tracking import MlflowClient as Tracking

        beside = str(folder.resolve().parent / "mlflow.db")
        if (uri := os.environ.get("MLFLOW_TRACKING_URI")) is None:
            if "?" in beside or "%" in beside:  # would be another file, by the rules of a URI
                raise ValueError(f"set MLFLOW_TRACKING_URI: {beside} cannot be written in one")
            uri = f"sqlite:///{beside}"
        self._client = Tracking(tracking_uri=uri)
        if known is None:
            name = os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)
            found = self._client.get_experiment_by_name(name)
            where = self._client.create_experiment(name) if found is None else found.experiment_id
            known = self._client.create_run(where, run_name=folder.name).info.run_id
            for path, value in flatten_fields(to_dict(recipe)):
                self._client.log_param(known, path, json.dumps(value)[:LONGEST])
        self.id = known

    def write(self, metrics: Mapping[str, float], step: int) -> None:
        """Log metrics of a step."""
        from mlflow.entities import Metric

        now = int(1000 * time.time())
        rows = [Metric(name, value, now, step) for name, value in metrics.items()]
        self._client.log_batch(self.id, metrics=rows)

    def close(self) -> None:
        """End the run."""
        self._client.set_terminated(self.id)


CLIENTS: dict[str, Callable[[Recipe, Path, str | None], Client]] = {
    "wandb": WandbClient,
    "mlflow": MlflowClient,
}


class Trackers:
    """The trackers that a recipe names, for the run in `folder`."""

    def __init__(self, recipe: Recipe, folder: Path) -> None:
        self._clients: dict[str, Client] = {}
        ids: dict[str, Any] = {}
        with self._tolerating(IDS):
            ids = read_object(folder / IDS) if (folder / IDS).is_file() else {}
        for name in recipe.trackers:
            known = ids.get(name)
            with self._tolerating(name):
                client = CLIENTS[name](recipe, folder, known if isinstance(known, str) else None)
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
            with self._tolerating(name):
                client.write(metrics, int(row["step"]))

    def close(self) -> None:
        """Upload what is left."""
        for name, client in list(self._clients.items()):
            with self._tolerating(name):
                client.close()
        self._clients.clear()

    @contextmanager
    def _tolerating(self, name: str) -> Iterator[None]:
        """Go on without a tracker that fails, with one warning."""
        try:
            yield
        except Exception as error:  # network, login, disk: each library has its own kinds
            reason = " ".join(str(error).split())[:300] or type(error).__name__
            log.warning("trackers: %s: continuing without it (%s)", name, reason)
            self._clients.pop(name, None)


def check_trackers(names: Sequence[str]) -> None:
    """ConfigError where a tracker's library is not installed."""
    for name in names:
        require_package(name, f"trackers={name}", name)
