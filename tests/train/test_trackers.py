"""Weights & Biases and MLflow, offline: rows of metrics.jsonl arrive, resumed runs continue."""

from dataclasses import replace
from pathlib import Path

import pytest
from digit_folders import recipe, write_tree

from resnets.config import ConfigError, Recipe
from resnets.train.log import trackers
from resnets.train.log.run_log import read_rows
from resnets.train.log.trackers import IDS, Trackers, check_trackers
from resnets.train.run import run_training
from resnets.utils.files.json import read_object


class Recorder:
    """A tracker that keeps what it gets, or fails."""

    written: list[tuple[dict[str, float], int]] = []  # noqa: RUF012
    known: str | None = None
    fails = False

    def __init__(self, _: Recipe, folder: Path, known: str | None) -> None:
        Recorder.known, self.id = known, known or "first"

    def write(self, metrics: dict[str, float], step: int) -> None:
        if Recorder.fails:
            raise OSError("the network is away")
        Recorder.written.append((dict(metrics), step))

    def close(self) -> None:
        Recorder.written.append(({}, -1))


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch) -> type[Recorder]:
    monkeypatch.setattr(trackers, "CLIENTS", {"wandb": Recorder})
    monkeypatch.setattr(Recorder, "written", [])
    monkeypatch.setattr(Recorder, "fails", False)
    return Recorder


def test_rows_are_logged_and_a_resumed_run_continues(
    recorder: type[Recorder], tmp_path: Path
) -> None:
    chosen = replace(recipe(write_tree(tmp_path / "set"), "4it"), trackers=("wandb",))
    run_training(chosen, tmp_path / "run", device="cpu", quiet=True)
    assert (recorder.known, recorder.written[-1]) == (None, ({}, -1))
    for row in read_rows(tmp_path / "run"):
        metrics = next(
            found for found, step in recorder.written
            if step == row["step"] and f"{row['kind']}/epoch" in found
        )  # fmt: skip
        for name, value in row.items():
            if isinstance(value, int | float) and name != "step":
                assert metrics[f"{row['kind']}/{name}"] == value
    run_training(None, tmp_path / "run", duration="8it", device="cpu", quiet=True)
    assert recorder.known == "first"
    assert read_object(tmp_path / "run" / IDS) == {"wandb": "first"}


def test_a_run_continues_without_a_failed_tracker(
    recorder: type[Recorder], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    recorder.fails = True
    found = Trackers(Recipe(trackers=("wandb",)), tmp_path)
    for step in (1, 2):
        found.write({"kind": "train", "step": step, "epoch": 0.1, "loss": 1.0})
    found.close()
    assert recorder.written == []
    assert sum("the network is away" in record.getMessage() for record in caplog.records) == 1


@pytest.mark.parametrize("text", ["", "[1]", '{"wandb": 7}'])
def test_damaged_ids_begin_a_new_run(recorder: type[Recorder], tmp_path: Path, text: str) -> None:
    (tmp_path / IDS).write_text(text)
    Trackers(Recipe(trackers=("wandb",)), tmp_path).close()
    assert recorder.known is None
    assert read_object(tmp_path / IDS) == {"wandb": "first"}


def test_a_tracker_that_is_not_installed_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(ConfigError, match=r"resnets\[mlflow\]"):
        check_trackers(("mlflow",))


@pytest.mark.slow
def test_mlflow_keeps_rows_in_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("mlflow")
    pytest.importorskip("sqlalchemy")
    from mlflow.tracking import MlflowClient

    uri = f"sqlite:///{tmp_path / 'm.db'}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    chosen = Recipe(trackers=("mlflow",))
    for step in (1, 2):  # the second goes on in the first's place
        found = Trackers(chosen, tmp_path)
        found.write({"kind": "val", "step": step, "epoch": 1.0, "top1_error": 50.0 / step})
        found.close()
    client = MlflowClient(tracking_uri=uri)
    (experiment,) = [each for each in client.search_experiments() if each.name == "resnets"]
    (mlflow_run,) = client.search_runs([experiment.experiment_id])
    history = client.get_metric_history(mlflow_run.info.run_id, "val/top1_error")
    assert [(each.step, each.value) for each in history] == [(1, 50.0), (2, 25.0)]
    assert mlflow_run.data.params["batch_size"] == "128"


@pytest.mark.slow
def test_wandb_offline_keeps_a_run_to_sync(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    found = Trackers(Recipe(trackers=("wandb",)), tmp_path)
    assert set(found._clients) == {"wandb"}
    found.write({"kind": "train", "step": 1, "epoch": 1.0, "loss": 0.5})
    assert set(found._clients) == {"wandb"}
    found.close()
    files = list((tmp_path / "wandb").glob("offline-run-*/run-*.wandb"))
    assert len(files) == 1
    assert files[0].stat().st_size > 0
