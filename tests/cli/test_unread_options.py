"""Options that a command does not read in one of its modes are refused by name."""

import importlib
import json
from pathlib import Path

import pytest
from safetensors.torch import save_file

from resnets.cli.main import main
from resnets.cli.options import parse_settings
from resnets.config import Recipe, to_toml
from resnets.recipes import RECIPES


def write_header(path: Path, task: str) -> None:
    """Write a checkpoint that only states its task."""
    save_file({}, path, {"resnets": json.dumps({"recipe": {"task": task}})})


@pytest.mark.parametrize(
    ("words", "option"),
    [
        (("info", "--devices", "resnet18"), "MODELS: "),
        (("info", "--kernels", "--size", "32"), "--size: "),
        (("info", "--all"), "--all: "),
        (("info", "resnet18", "--json", "--all"), "--all: "),
        (("info", "block:basic", "--diagram", "x.svg", "--size", "8"), "--size: blocks"),
        (("train", "--list", "digits"), "RECIPE: "),
        (("folds", "--resume", "x", "--k", "7"), "--k: --resume"),
        (("folds", "photos", "--resume", "x"), "DATA: --resume"),
        (("folds", "x", "--group", "regex:a", "--set", "data.group=regex:b"), "--set data.group"),
        (("study", "data", "--resume", "x", "--subsets", "2"), "--subsets: --resume"),
        (("study", "depth", "--resume", "x", "--set", "optim.lr=1"), "--set: --resume"),
        (("data", "pack", "x.pack", "--verify", "--size", "64"), "--size: --verify"),
        (("features", "x", "y", "--out", "z.parquet", "--top-k", "2"), "--top-k: "),
        (("features", "x", "y", "--out", "z.parquet", "--json"), "--json: "),
        (("predict", "x", "--data", "y", "--out", "z", "--length", "2"), "--length: "),
        (("push", "x", "--to", "y", "--private"), "--private: is for a repository"),
        (("export", "x", "--max-drop", "2"), "--max-drop: "),
    ],
)
def test_an_option_that_a_mode_does_not_read_is_refused(words, option, capsys, monkeypatch):
    monkeypatch.chdir("/")  # nothing is read, nor written
    assert main([*words]) == 2
    error = capsys.readouterr().err
    assert option in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("task", "words", "option"),
    [
        ("classify", ("--threshold", "0.9"), "--threshold"),
        ("classify", ("--length", "9"), "--length"),
        ("detect", ("--top-k", "1"), "--top-k"),
        ("detect", ("--model", "resnet18"), "--model"),
        ("detect", ("--calibrate", "digits"), "--calibrate"),
        ("segment", ("--threshold", "0.9"), "--threshold"),
        ("localize", ("--threshold", "0.9"), "--threshold"),
        ("signals", ("--length", "9"), "--length"),
        ("signals", ("--json",), "--json"),
        ("text", ("--top-k", "1"), "--top-k"),
        ("text", ("--csv",), "--csv"),
    ],
)
def test_an_option_that_models_of_a_task_do_not_read_is_refused(
    task, words, option, capsys, tmp_path
):
    path = tmp_path / "best.safetensors"
    write_header(path, task)
    assert main(["predict", str(path), "x", *words]) == 2
    assert f"{option}: has no effect for a model of task {task!r}" in capsys.readouterr().err


@pytest.mark.parametrize("option", [("--model", "resnet18"), ("--calibrate", "digits")])
def test_an_option_that_no_served_model_reads_is_refused(option, capsys, tmp_path):
    pytest.importorskip("uvicorn")
    path = tmp_path / "best.safetensors"
    write_header(path, "detect")
    assert main(["serve", str(path), "--port", "0", *option]) == 2
    assert f"{' '.join(option)}: has no effect for any of the models" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--epochs", "2", "--set", "duration=5ep"), "--set duration: "),
        (("--seed", "2", "--set", "seed=5"), "--set seed: "),
        (("--data", "x", "--set", "data.source=y"), "--set data.source: "),
    ],
)
def test_a_field_that_is_set_twice_is_refused(words, message, capsys):
    assert main(["train", "digits", *words]) == 2
    assert message in capsys.readouterr().err
    assert main(["train", "qat", "runs/x", "--set", "weights=y"]) == 2
    assert "--set weights: runs/x " in capsys.readouterr().err


def test_of_a_setting_that_is_given_twice_the_last_one_is_used(caplog):
    assert parse_settings(("optim.lr=1", "optim.lr=2", "seed=3", "seed=3")) == {
        "optim.lr": "2",
        "seed": "3",
    }
    assert caplog.messages == ["--set optim.lr: given twice; using 2"]


def test_the_model_of_a_search_replaces_that_of_its_recipe_file(tmp_path, monkeypatch):
    api = importlib.import_module("resnets.api.tune")
    path = tmp_path / "recipe.toml"
    path.write_text(to_toml(RECIPES["digits"]()))
    searched: list[Recipe] = []

    def stop(recipe: Recipe, **_: object) -> None:
        searched.append(recipe)
        raise KeyboardInterrupt

    monkeypatch.setattr(api, "search", stop)
    assert main(["tune", str(path), "--model", "cifar-resnet56"]) == 130
    assert searched[0].model.name == "cifar-resnet56"
    assert main(["tune", "digits", "--set", "detect.flip=true"]) == 2
