"""`resnets study` as a person calls it: what it prints, what it refuses, what it returns."""

import json
import shutil

import pytest
from study_grid import trained_grid

from resnets.cli.main import main
from resnets.study.grid.cells import read_cells


@pytest.fixture(scope="session")
def study(tmp_path_factory):
    """A finished study of four tiny nets; for reading only."""
    return trained_grid(tmp_path_factory)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("depth", "name the models (--models"),
        ("depth --preset quik", "did you mean quick?"),
        ("depth --models cifar-plain20,cifar-resnett20", "did you mean cifar-resnet20?"),
        ("depth --nets cifar-plain20 --seeds 0", "seeds: 0"),
        ("depth --nets cifar-plain20 --budget soon", "is not a budget such as"),
        ("depth --nets cifar-plain20 --recipe cifar10-papr", "did you mean cifar10-paper?"),
        ("depth --nets cifar-plain20 --jobs 0", "--jobs 0"),
        ("depth --nets cifar-plain20 --set optim.rate=1", "unknown field optim.rate"),
        ("depth --resume nowhere", "no study here"),
        ("depth --resume nowhere --nets cifar-plain20", "only --jobs and --device"),
        ("depth --resume nowhere --set optim.lr=1", "only --jobs and --device"),
        ("shortcuts --nets cifar-resnet20:X", "unknown shortcut option 'X'"),
        ("shortcuts --resume nowhere --seeds 2", "only --jobs and --device"),
        ("gradients vgg16", "not a plain or residual network"),
    ],
)
def test_bad_usage_is_one_line(tmp_path, monkeypatch, capsys, words, message):
    monkeypatch.chdir(tmp_path)
    assert main(["study", *words.split()]) == 2
    err = capsys.readouterr().err
    assert message in err
    assert err.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_data_that_are_not_there(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["study", "depth", "--nets", "cifar-plain8", "--data", "digitss"]) == 1
    assert "did you mean digits?" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_finished_study_only_gets_a_new_report(study, tmp_path, capsys):
    copy = tmp_path / "study"
    shutil.copytree(study, copy)
    before = {path: path.stat().st_mtime_ns for path in (copy / "cells").rglob("*.*")}
    assert main(["study", "depth", "--resume", str(copy)]) == 0
    out = capsys.readouterr().out
    assert f"report: {copy / 'report.html'}" in out
    assert "90% interval" in out
    assert (copy / "report.html").is_file()
    assert before == {path: path.stat().st_mtime_ns for path in (copy / "cells").rglob("*.*")}


def test_another_grid_is_refused(study, capsys):
    words = ["--nets", "cifar-plain8,cifar-resnet8", "--recipe", "digits", "--budget", "24it"]
    assert main(["study", "depth", *words, "--out", str(study)]) == 2
    assert "contains a study with models = " in capsys.readouterr().err


def test_failures_are_reported_and_everything_failed_is_a_failure(tmp_path, capsys, monkeypatch):
    """A rate of a million: both runs diverge, each says so, and the report is still written."""
    monkeypatch.chdir(tmp_path)
    words = "depth --nets cifar-plain8,cifar-resnet8 --data digits --recipe digits --seeds 1"
    words += " --budget 25it --set optim.lr=1e6 --set schedule.kind=constant --device cpu"
    words += " --set schedule.warmup=0"
    assert main(["study", *words.split()]) == 1
    captured = capsys.readouterr()
    folder = tmp_path / "runs" / "study-depth-1"
    cells = read_cells(folder)
    assert [cell.status for cell in cells] == ["failed", "failed"]
    assert "failed: cifar-plain8-seed0, cifar-resnet8-seed0" in captured.out
    assert captured.err.count("failed: the loss is") == 2
    for cell in cells:
        assert json.loads((cell.folder / "failed.json").read_text())["error"] == cell.error
    assert "No answer on degradation" in captured.out
    assert (folder / "report.html").is_file()


@pytest.mark.parametrize(
    "words",
    [
        "responses {run} --examples 50",
        "identity {run} --examples 50",
        "landscape {run} --examples 50 --steps 3",
        pytest.param("gradients cifar-plain8,cifar-resnet8 --iterations 10", marks=pytest.mark.ci),
    ],
)
def test_studies_of_trained_networks(study, tmp_path, monkeypatch, capsys, words):
    monkeypatch.chdir(tmp_path)
    run = study / "cells" / "cifar-resnet8-seed0"
    words = words.format(run=run).split()
    assert main(["study", *words, "--device", "cpu"]) == 0
    out = capsys.readouterr().out
    assert f"report: runs/study-{words[0]}-1/report.html" in out
    # 20 steps: enough to describe, too few to conclude anything.
    expected = "have not converged" if words[0] == "gradients" else "No conclusion. "
    assert expected in out
    assert (tmp_path / "runs" / f"study-{words[0]}-1" / "report.html").is_file()


def test_networks_may_have_their_own_numbers_of_seeds():
    from resnets.cli.study import _parse_seeds
    from resnets.config import ConfigError
    from resnets.study.depth.presets import depth_grid

    nets = ("cifar-plain20", "cifar-resnet20")
    assert depth_grid(models=nets, seeds=_parse_seeds("3,1")).seeds == (3, 1)
    assert depth_grid(models=nets, seeds=_parse_seeds("2")).seeds == (2, 2)
    for wrong in ("3,1,1", "0", "three"):
        with pytest.raises(ConfigError, match="seeds"):
            depth_grid(models=nets, seeds=_parse_seeds(wrong))
