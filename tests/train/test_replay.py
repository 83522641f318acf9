"""A step that is not finite is found again from the last checkpoint, kept, and repeated."""

from dataclasses import replace
from pathlib import Path

import pytest
from digit_trees import recipe, write_tree

from resnets.cli.main import main
from resnets.config import ConfigError, OptimSpec
from resnets.train.guards.divergence import Diverged
from resnets.train.replay import SETTINGS, TENSORS, replay
from resnets.train.run import run
from resnets.utils.errors import read_object
from resnets.weights.readers.safetensors_file import read_safetensors


@pytest.fixture(scope="module")
def diverged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that diverged: its rate is far too large."""
    root = tmp_path_factory.mktemp("diverged")
    chosen = recipe(write_tree(root / "set"), "40it")
    chosen = replace(chosen, optim=OptimSpec(lr=1e20), log_every="20it", checkpoint_every="20it")
    with pytest.raises(Diverged, match="resnets replay"):
        run(chosen, root / "run", device="cpu", quiet=True)
    return root / "run"


def test_the_step_is_kept_and_repeated(diverged: Path, capsys: pytest.CaptureFixture) -> None:
    first = replay(diverged, device="cpu")
    assert first.first or first.gradient or first.weight
    settings = read_object(first.folder / SETTINGS)
    assert settings["step"] == first.step < 20
    assert settings["precision"] == "float32"
    _, tensors = read_safetensors(first.folder / TENSORS)
    assert tensors["batch/images"].shape == (8, 3, 16, 16)
    assert tensors["batch/targets"].shape == tensors["batch/ids"].shape == (8,)
    assert any(name.startswith("model/") for name in tensors)
    again = replay(diverged, device="cpu")  # from what is kept
    assert (str(again), again.largest) == (str(first), first.largest)
    assert main(["replay", str(diverged), "--device", "cpu"]) == 0
    assert f"step {first.step:,}" in capsys.readouterr().out


def test_a_sound_run_has_no_such_step(tmp_path: Path) -> None:
    chosen = recipe(write_tree(tmp_path / "set"), "4it")
    run(chosen, tmp_path / "run", device="cpu", quiet=True)
    with pytest.raises(ConfigError, match="finite"):
        replay(tmp_path / "run", device="cpu")
    with pytest.raises(ConfigError):
        replay(tmp_path / "none")
