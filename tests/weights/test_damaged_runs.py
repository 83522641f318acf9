"""Damaged and odd checkpoints: another intact one of the run is used and said, or one line."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from checkpoint_files import save_checkpoint
from checkpoint_runs import payload, saved
from PIL import Image

from resnets import load
from resnets.cli.main import main
from resnets.config import ConfigError, Recipe, replace_fields
from resnets.recipes import recipe
from resnets.serve.models import fingerprint
from resnets.train.log.run_log import read_rows
from resnets.train.run import run_training
from resnets.weights.checkpoint.find import find_checkpoint, open_checkpoint, read_task
from resnets.weights.checkpoint.format import BEST, LAST, read_checkpoint, step_name
from resnets.weights.checkpoint.manager import CheckpointManager
from resnets.weights.errors import CheckpointError


def flip(path: Path) -> None:
    raw = bytearray(path.read_bytes())
    raw[-9] ^= 1
    path.write_bytes(raw)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:100])


def strip(path: Path) -> None:
    """A file with a valid checksum that says nothing of its network."""
    save_checkpoint(path, read_checkpoint(path).tensors, {"step": 3})


HARMS = pytest.mark.parametrize("harm", [flip, cut, strip])


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    fields = {"duration": "12it", "checkpoint_every": "4it", "eval.every": "4it"}
    out = tmp_path_factory.mktemp("finished") / "run"
    plan = replace_fields(recipe("digits", "cifar-resnet8"), fields | {"precision": "float32"})
    run_training(plan, out, device="cpu", quiet=True)
    assert (out / "checkpoints" / BEST).exists()
    return out


@pytest.fixture
def run(finished, tmp_path):
    return Path(shutil.copytree(finished, tmp_path / "run"))


@pytest.fixture
def image(tmp_path):
    path = tmp_path / "digit.png"
    Image.fromarray(np.full((8, 8), 128, np.uint8)).save(path)
    return str(path)


@HARMS
def test_without_its_best_a_run_is_used_by_its_last(run, image, caplog, capsys, harm):
    best, last = (run / "checkpoints" / name for name in (BEST, LAST))
    harm(best)
    assert load(run).origin.startswith(f"{LAST} (step 12")
    (line,) = [each.message for each in caplog.records if str(best) in each.message]
    assert str(last) in line
    assert find_checkpoint(run) == last
    assert fingerprint(str(run)) == fingerprint(str(last))
    for words in (["predict", str(run), image, "--json"], ["evaluate", str(run), "--json"]):
        assert main([*words, "--device", "cpu"]) == 0, capsys.readouterr().err
    assert f"{LAST} (step 12" in json.loads(capsys.readouterr().out.splitlines()[-1])["protocol"]


@HARMS
def test_a_finished_run_resumes_without_its_best(run, caplog, harm):
    harm(run / "checkpoints" / BEST)
    rows = read_rows(run)
    result = run_training(None, run, device="cpu", quiet=True)
    assert result["checkpoint"] == LAST
    assert read_rows(run) == rows
    assert f"{run / 'checkpoints' / BEST}: " in caplog.text


def test_without_both_an_older_one_is_used(run, caplog):
    for name in (BEST, LAST):
        flip(run / "checkpoints" / name)
    assert load(run).origin.startswith(f"{step_name(8)} (step 8")
    assert all(f"{run / 'checkpoints' / name}: " in caplog.text for name in (BEST, LAST))


def test_without_any_all_are_named(run):
    for path in (run / "checkpoints").glob("*.safetensors"):
        cut(path)
    with pytest.raises(CheckpointError) as raised:
        load(run)
    assert all(name in str(raised.value) for name in (BEST, LAST, step_name(8)))


def test_a_file_that_is_named_is_never_replaced_by_another(run):
    flip(run / "checkpoints" / BEST)
    with pytest.raises(CheckpointError, match=BEST):
        load(run / "checkpoints" / BEST)


def test_the_task_is_read_past_a_damaged_header(tmp_path):
    meta = {"step": 1, "recipe": {"task": "detect"}, "classes": ["a"]}
    for name in (BEST, LAST):
        save_checkpoint(tmp_path / "checkpoints" / name, {}, meta)
    cut(tmp_path / "checkpoints" / BEST)
    assert read_task(tmp_path) == "detect"


def test_best_copied_over_last_is_skipped(run, caplog):
    shutil.copyfile(run / "checkpoints" / BEST, run / "checkpoints" / LAST)
    result = run_training(None, run, device="cpu", quiet=True)
    assert result["test"]["examples"] == 359
    assert f"{step_name(8)} instead" in caplog.text
    assert read_checkpoint(run / "checkpoints" / LAST).step == 12


def test_best_alone_is_not_a_run_to_resume(tmp_path):
    saved(tmp_path, 10)
    last = tmp_path / "checkpoints" / LAST
    save_checkpoint(last, {}, {"step": 10, "recipe": {}, "classes": ["a"]})
    with pytest.raises(CheckpointError, match=LAST):
        CheckpointManager(tmp_path, Recipe()).latest()


ODD = {
    "no step": {"step": None},
    "a step in words": {"step": "12"},
    "a negative step": {"step": -1},
    "no recipe": {"recipe": None},
    "a list as recipe": {"recipe": [1]},
    "an unknown field": {"recipe": {"unheard": 1}},
    "a network in words": {"recipe": {"model": "resnet50"}},
    "a network that is none": {"recipe": {"model": {"depth": "many"}}},
    "an endless network": {"recipe": {"model": {"num_classes": -3}}},
    "a network of billions of blocks": {"recipe": {"model": {"depths": [10**9] * 4}}},
    "a network of billions of channels": {"recipe": {"model": {"widths": [2**32 - 1] * 4}}},
    "a gate's bias without a gate": {"recipe": {"model": {"gate_bias": 5.0}}},
    "data of another kind": {"recipe": {"data": [1, 2]}},
    "no classes": {"classes": None},
    "classes in one text": {"classes": "0123456789"},
    "numbers as classes": {"classes": list(range(10))},
    "too few classes": {"classes": ["a"]},
    "no preprocessing": {"preprocess": None},
    "preprocessing in words": {"preprocess": "as usual"},
    "a size in words": {"preprocess": {"size": "big"}},
    "no size": {"preprocess": {"size": 0, "resize": 0}},
    "many channels": {"preprocess": {"channels": 40}},
    "too many means": {"preprocess": {"mean": [0.5] * 7}},
    "a mean image that is not there": {"preprocess": {"mean_image": True}},
    "a temperature that overflows": {"postprocess": {"temperature": 1e-40}},
    "a temperature beyond float32": {"postprocess": {"temperature": 1e300}},
    "too few thresholds": {"postprocess": {"activation": "sigmoid", "thresholds": [0.5]}},
}


@pytest.mark.parametrize("changes", ODD.values(), ids=ODD)
def test_odd_contents_are_one_line(digits_run, image, tmp_path, changes, capsys):
    good = read_checkpoint(find_checkpoint(digits_run))
    meta = {name: value for name, value in good.meta.items() if name not in changes}
    meta |= {name: value for name, value in changes.items() if value is not None}
    path = tmp_path / "odd.safetensors"
    save_checkpoint(path, good.tensors, meta)
    with pytest.raises((CheckpointError, ConfigError), match="odd.safetensors"):
        load(path)
    for words in (["predict", str(path), image], ["evaluate", str(path)]):
        assert main([*words, "--device", "cpu"]) in (1, 2)
        (line,) = capsys.readouterr().err.strip().splitlines()
        assert str(path) in line


@pytest.mark.parametrize("state", [7, [], {}, {"schedule": 1}, "on"])
def test_odd_training_states_are_one_line(run, capsys, state):
    last = run / "checkpoints" / LAST
    good = read_checkpoint(last)
    for path in (run / "checkpoints").iterdir():
        path.unlink()
    save_checkpoint(last, good.tensors, {**good.meta, "state": state})
    assert main(["train", "--resume", str(run), "--device", "cpu"]) in (1, 2)
    assert str(last) in capsys.readouterr().err.strip().splitlines()[-1]


@pytest.mark.parametrize("name", ["head.weight/momentum_buffer", "other/momentum_buffer"])
def test_optimizer_tensors_that_do_not_fit_are_refused(run, capsys, name):
    """A fused step trusts their sizes, and would read and write beyond a smaller one."""
    last = run / "checkpoints" / LAST
    good = read_checkpoint(last)
    for path in (run / "checkpoints").iterdir():
        path.unlink()
    save_checkpoint(last, {**good.tensors, f"optim/{name}": torch.zeros(2)}, good.meta)
    words = ["train", "--resume", str(run), "--iterations", "16", "--device", "cpu"]
    assert main(words) in (1, 2)
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert str(last) in error
    assert name in error


def test_a_header_that_says_true_for_its_format_is_refused(tmp_path):
    path = tmp_path / LAST
    payload(1).write(path.open("wb"))
    raw = path.read_bytes()
    length = int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8 : 8 + length])
    meta = json.loads(header["__metadata__"]["resnets"])
    header["__metadata__"]["resnets"] = json.dumps({**meta, "format": True})
    head = json.dumps(header).encode()
    path.write_bytes(len(head).to_bytes(8, "little") + head + raw[8 + length :])
    with pytest.raises(CheckpointError, match="format"):
        open_checkpoint(path)
