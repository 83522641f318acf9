"""A step that is not finite is found again from the last checkpoint, stored, and repeated."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from checkpoint_files import save_checkpoint
from digit_folders import recipe, write_tree

import resnets
from resnets.cli.main import main
from resnets.config import ConfigError, OptimSpec, replace_fields
from resnets.train import replay as replaying
from resnets.train.guards.divergence import Diverged
from resnets.train.replay import FILE, replay
from resnets.train.run import run_training
from resnets.weights.checkpoint.format import read_checkpoint
from resnets.weights.errors import CheckpointError


@pytest.fixture(scope="module")
def diverged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that diverged: its rate is far too large."""
    root = tmp_path_factory.mktemp("diverged")
    chosen = recipe(write_tree(root / "set"), "40it")
    chosen = replace(chosen, optim=OptimSpec(lr=1e20), log_every="20it", checkpoint_every="20it")
    with pytest.raises(Diverged, match="resnets replay"):
        run_training(chosen, root / "run", device="cpu", quiet=True)
    return root / "run"


def test_the_step_is_stored_and_repeated(diverged: Path, capsys: pytest.CaptureFixture) -> None:
    first = replay(diverged, device="cpu")
    assert first.module or first.gradient or first.weight
    assert first.file == diverged / FILE
    stored = read_checkpoint(first.file)
    assert stored.step == first.step < 20
    assert stored.meta["precision"] == "float32"
    tensors = stored.tensors
    assert tensors["batch/images"].shape == (8, 3, 16, 16)
    assert tensors["batch/targets"].shape == tensors["batch/ids"].shape == (8,)
    assert any(name.startswith("model/") for name in tensors)
    again = resnets.replay(resnets.Run(diverged), device="cpu")  # from the stored step
    assert (str(again), again.max_outputs) == (str(first), first.max_outputs)
    assert main(["replay", str(diverged), "--device", "cpu"]) == 0
    assert f"step {first.step:,}" in capsys.readouterr().out


def test_a_stored_step_that_is_damaged_or_of_another_run_is_one_line(
    diverged: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    run_folder = Path(shutil.copytree(diverged, tmp_path / "run"))
    replay(run_folder, device="cpu")
    file = run_folder / FILE
    good = read_checkpoint(file)
    images, momentum = good.tensors["batch/images"], "optim/head.weight/momentum_buffer"
    odd: tuple[dict[str, torch.Tensor | None], ...] = (
        {"batch/images": None},
        {"batch/images": images[:, :1]},
        {"batch/targets": good.tensors["batch/targets"] + 1000},
        {"batch/unheard": images},
        {"model/head.weight": torch.zeros(2)},
        {momentum: torch.zeros(2)},
    )
    for changes in odd:
        tensors = {**good.tensors, **changes}
        changed = {name: each for name, each in tensors.items() if each is not None}
        save_checkpoint(file, changed, good.meta)
        with pytest.raises(CheckpointError, match=file.name):
            replay(run_folder, device="cpu")
    file.write_bytes(file.read_bytes()[:100])
    assert main(["replay", str(run_folder), "--device", "cpu"]) == 1
    assert str(file) in capsys.readouterr().err.strip().splitlines()[-1]


def test_a_finite_run_stores_no_step(tmp_path: Path) -> None:
    chosen = recipe(write_tree(tmp_path / "set"), "4it")
    run_training(chosen, tmp_path / "run", device="cpu", quiet=True)
    with pytest.raises(ConfigError, match="finite"):
        replay(tmp_path / "run", device="cpu")


@pytest.mark.parametrize("name", ["none", "folder", "folder/recipe.toml/file"])
def test_what_is_not_a_run_is_one_line(
    name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(ConfigError, match=str(tmp_path / name)):
        replay(tmp_path / name)
    assert not caplog.records


FLOAT16 = {"precision": "float16", "optim.clip_norm": "0.01", "micro_batch": "4"}


@pytest.mark.parametrize("scale", [2.0**16, 2.0**120])  # the larger one overflows
def test_a_step_in_float16_is_scaled_clipped_and_skipped_as_in_training(
    scale: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = replace_fields(recipe(write_tree(tmp_path / "set"), "4it"), FLOAT16)
    file = tmp_path / "step.safetensors"
    step, stream, plan = replaying.open_training(chosen, None, "cpu")
    assert step.state.scaler is not None
    step.state.scaler.scale.fill_(scale)
    before = {name: each.clone() for name, each in step.state.model.named_parameters()}
    with monkeypatch.context() as patched:
        patched.setattr(replaying, "find_nonfinite", lambda _: "any")
        assert replaying.find_step(step, stream, file, plan.precision)
    again, _, _ = replaying.open_training(chosen, None, "cpu")
    found = replaying.repeat_step(again, file)
    assert found.step == 0
    assert (found.gradient is not None) == (scale > 2.0**100)
    assert found.module is None
    expected, result = step.state.tensors(), again.state.tensors()
    assert result.keys() == expected.keys()
    assert all(torch.equal(result[name], each) for name, each in expected.items())
    changed = any(not torch.equal(result[f"model/{name}"], each) for name, each in before.items())
    assert changed == (scale < 2.0**100)
    assert result["scaler/skipped_steps"] == int(not changed)
