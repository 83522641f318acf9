"""Runs, artifacts, packed sets and bulk predictions of earlier versions still load.

tests/golden/written_2026_11_30 was written by the code of commit f708fba, before modules moved.
"""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from paths import GOLDEN

from resnets import load
from resnets.bulk.plan import lock_output
from resnets.bulk.run import BulkOptions, prepare_run
from resnets.cli.main import main
from resnets.config import DataSpec, from_toml
from resnets.data import open_data
from resnets.export.select_backend import open_backend
from resnets.train.log.run_log import read_rows
from resnets.train.run import run_training

WRITTEN = GOLDEN / "written_2026_11_30"


@pytest.fixture
def written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy as the current folder: the run names its data set by a relative path."""
    folder = Path(shutil.copytree(WRITTEN, tmp_path / "written"))
    monkeypatch.chdir(folder)
    return folder


def test_a_run_is_measured_as_before(written, capsys):
    expected = json.loads((written / "evaluation.json").read_text())
    assert main(["evaluate", "run", "--json", "--precision", "float32"]) == 0  # whatever the CPU
    found = json.loads(capsys.readouterr().out)
    for key in ("top1_error", "examples", "confusion"):
        assert found[key] == expected[key]
    assert found["loss"] == pytest.approx(expected["loss"], rel=1e-5)


def test_a_run_is_resumed(written):
    assert main(["train", "--resume", "run", "--iterations", "10", "--device", "cpu"]) == 0
    steps = [row["step"] for row in read_rows(written / "run") if row["kind"] == "train"]
    assert steps[0] <= 4
    assert steps[-1] == 10
    recipe = from_toml(written / "run" / "recipe.toml")
    assert recipe.duration == "10it"


def test_a_checkpoint_loads(written):
    assert load(written / "run").classes == ("digit0", "digit1", "digit2")


@pytest.mark.parametrize("name", ["net.onnx", "net.pt2"])
def test_an_artifact_computes_what_it_did(written, name):
    if name.endswith(".onnx"):
        pytest.importorskip("onnxruntime")
    backend = open_backend(written / name)
    shape = (3, backend.size, backend.size, backend.channels)
    images = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    expected = json.loads((written / "logits.json").read_text())["logits"]
    np.testing.assert_allclose(backend.logits(images), expected, rtol=1e-4, atol=1e-4)


def test_a_packed_set_opens(written):
    splits = open_data(DataSpec(source="set.pack", size=8, val_fraction=0.25, test_fraction=0.25))
    assert splits.classes == ("digit0", "digit1", "digit2")
    assert sum(len(each) for each in (splits.train, splits.val, splits.test())) == 12


def test_a_bulk_prediction_is_complete(written):
    out = written / "bulk"
    with lock_output(out):
        run = prepare_run(
            BulkOptions("run", "set", out, format="csv", backend="torch"), lambda text: None
        )
    assert run.missing == ()


def test_a_recipe_trains_as_before(written):
    recipe = from_toml(written / "run" / "recipe.toml")
    run_training(recipe, written / "again", device="cpu", quiet=True)
    before, now = (
        [row for row in read_rows(written / run) if row["kind"] == "val"]
        for run in ("run", "again")
    )
    assert [row["step"] for row in now] == [row["step"] for row in before]
    assert now[-1]["loss"] == pytest.approx(before[-1]["loss"], rel=1e-3)


def _validations(run: Path) -> list[dict[str, float]]:
    return [row for row in read_rows(run) if row["kind"] == "val"]
