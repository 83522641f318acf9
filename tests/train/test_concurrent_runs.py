"""One writer per run folder: two processes that race for it, and every command that writes."""

import shutil

import pytest
from concurrent_runs import MODES, race, train_references

from resnets.cli.main import main
from resnets.config import ConfigError
from resnets.recipes import recipe
from resnets.study.grid.worker import train_cell
from resnets.train.run import run_training
from resnets.utils.errors import BusyError
from resnets.utils.files.locks import LOCK, is_locked, lock_folder, lock_path

SMALL = ("--model", "cifar-resnet8", "--iterations", "2", "--device", "cpu")


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    monkeypatch.setattr("resnets.utils.files.locks.LOCK_TIMEOUT", 0.1)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return train_references(tmp_path_factory.mktemp("whole"))


@pytest.mark.parametrize("mode", MODES)
def test_two_processes_do_not_mix(whole, tmp_path, mode):
    assert race(tmp_path / "race", whole, mode, (0.0, 0.01)) == []


def line(capsys):
    return capsys.readouterr().err.strip().splitlines()[-1]


def test_a_locked_folder_is_refused_before_anything_is_written(whole, tmp_path, capsys):
    out = tmp_path / "run"
    with lock_folder(out):
        assert main(["train", "digits", *SMALL, "--out", str(out)]) == 2
        assert str(out) in line(capsys)
        with pytest.raises(ConfigError, match="is writing into it"):
            run_training(recipe("digits", "cifar-resnet8"), out)
        assert [each.name for each in out.iterdir()] == [LOCK]
    assert not out.exists()
    shutil.copytree(whole[0], out)
    rows = (out / "metrics.jsonl").read_bytes()
    with lock_folder(out):
        assert main(["train", "--resume", str(out), "--device", "cpu"]) == 2
        assert str(out) in line(capsys)
        assert (out / "metrics.jsonl").read_bytes() == rows
    assert main(["train", "--resume", str(out), "--device", "cpu"]) == 0
    assert not (out / LOCK).exists()


def test_a_refused_run_leaves_no_folder(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    words = ["train", "digits", *SMALL, "--data", "no/such/set"]
    for more in ([], ["--out", "new/deep/run"], ["--devices", "0"]):
        assert main([*words, *more]) != 0
        assert str(line(capsys))
    assert main(["train", "--resume", "nowhere/run"]) == 2
    assert list(tmp_path.iterdir()) == []


def test_a_run_whose_recipe_was_deleted_resumes_by_its_checkpoint(whole, tmp_path):
    out = shutil.copytree(whole[0], tmp_path / "run")
    (out / "recipe.toml").unlink()
    result = run_training(None, out, device="cpu", quiet=True)
    assert any("recipe.toml" in each["note"] for each in result["history"])
    assert (out / "recipe.toml").read_bytes() == (whole[0] / "recipe.toml").read_bytes()


def test_every_command_that_writes_into_a_folder_refuses_a_locked_one(
    whole, nested_digits, tmp_path, capsys
):
    run, images, out = str(whole[0]), str(nested_digits[0]), tmp_path / "out"
    with lock_folder(out):
        for words in (
            ["evaluate", run, "--out", str(out), "--device", "cpu"],
            ["data", "check", images, "--out", str(out)],
            ["study", "responses", run, "--out", str(out), "--device", "cpu"],
            ["study", "gradients", "cifar-plain8", "--out", str(out), "--device", "cpu"],
            ["study", "depth", "--preset", "quick", "--out", str(out), "--device", "cpu"],
            ["study", "data", "--data", "digits", "--out", str(out), "--device", "cpu"],
            ["folds", "digits", "--out", str(out), "--device", "cpu"],
            ["tune", "digits", "--out", str(out), "--device", "cpu"],
        ):
            assert main(words) == 2, words
            assert str(out) in line(capsys)
        assert [each.name for each in out.iterdir()] == [LOCK]


def test_every_command_that_replaces_a_file_refuses_a_locked_one(
    whole, nested_digits, tmp_path, capsys
):
    run, images = str(whole[0]), str(nested_digits[0])
    for name, words in (
        ("a.onnx", ["export", run, "--out"]),
        ("a.pack", ["data", "pack", images, "--out"]),
        ("pushed", ["push", run, "--to"]),
        ("averaged", ["recompute-norm", run, "--device", "cpu", "--out"]),
    ):
        path = tmp_path / name
        with lock_path(path):
            assert main([*words, str(path)]) == 2, words
            assert str(path) in line(capsys)
    assert list(tmp_path.iterdir()) == []


def test_a_busy_cell_of_a_study_is_not_called_failed(whole, tmp_path):
    cell = shutil.copytree(whole[0], tmp_path / "cell")
    (cell / "result.json").unlink()
    with lock_folder(cell), pytest.raises(BusyError):
        train_cell(recipe("digits", "cifar-resnet8"), cell, "cpu")
    assert not (cell / "failed.json").exists()


def test_checking_whether_a_folder_is_locked_creates_no_file(tmp_path):
    out = tmp_path / "run"
    assert not is_locked(out)
    with lock_folder(out):
        assert is_locked(out)
    assert not is_locked(out)
    assert not out.exists()
