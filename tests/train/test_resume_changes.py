"""A resumed run with an edited recipe, a new length, or a damaged recipe.toml."""

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from digit_folders import recipe, write_tree

from resnets.cli.main import main
from resnets.config import ConfigError, Recipe, ScheduleSpec, from_toml
from resnets.train.resume import (
    describe_differences,
    describe_extension,
    differences,
    merge_recipes,
)
from resnets.train.run import run_training
from resnets.weights.checkpoint.format import read_checkpoint


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of 8 steps; not to be changed."""
    root = tmp_path_factory.mktemp("finished")
    cosine = replace(recipe(write_tree(root / "set")), schedule=ScheduleSpec(kind="cosine"))
    run_training(cosine, root / "run", device="cpu", quiet=True)
    return root / "run"


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "run"))


def notes(run: Path) -> list[str]:
    return [each["note"] for each in json.loads((run / "result.json").read_text())["history"]]


def test_the_checkpoint_decides_and_each_difference_is_reported() -> None:
    original = Recipe()
    edited = replace(original, batch_size=64, duration="60ep", log_every="7it", seed=3)
    edited = replace(edited, optim=replace(edited.optim, lr=0.5))
    assert differences(edited, original)["optim.lr"] == ("0.5", "0.1")
    used, lines = merge_recipes(edited, original)
    assert used == replace(original, log_every="7it")
    assert [line.split()[1] for line in lines] == [
        "batch_size", "duration", "log_every", "optim.lr", "seed",
    ]  # fmt: skip
    assert "--epochs or --iterations" in lines[1]
    assert merge_recipes(original, original) == (original, [])


def test_differences_from_the_recipe_of_an_existing_run_are_reported() -> None:
    original = replace(recipe(Path("set")), duration="8it")
    (line,) = describe_differences(replace(original, duration="12it"), original)
    assert line.startswith("duration is '12it', but the existing run uses '8it'")
    assert (
        describe_differences(replace(original, data=replace(original.data, size=None)), original)
        == []
    )


def test_an_edited_recipe_is_reported_and_kept_out_of_training(run: Path) -> None:
    path = run / "recipe.toml"
    text = path.read_text()
    path.write_text(re.sub(r"^lr = .*", "lr = 0.7", text, flags=re.M))
    run_training(None, run, duration="10it", device="cpu", quiet=True)
    assert any("optim.lr is 0.7" in line and "using 0.1" in line for line in notes(run))
    assert from_toml(path).optim.lr == 0.1  # what the run is trained by
    history = read_checkpoint(run / "checkpoints" / "last.safetensors").meta["history"]
    assert [each["note"] for each in history] == notes(run)
    assert all(each["step"] == 8 for each in history)
    page = (run / "report.html").read_text()
    assert "optim.lr is 0.7" in page


def test_a_run_is_extended_and_says_what_the_schedule_does(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert main(["train", "--resume", str(run), "--iterations", "16", "--device", "cpu"]) == 0
    assert "learning rate at step 8 jumps from" in " ".join(capsys.readouterr().err.split())
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert rows[: len(before)] == before
    assert max(row["step"] for row in rows) == 16
    assert from_toml(run / "recipe.toml").duration == "16it"
    assert any("ends at step 16 (16it) instead of 8 (8it)" in line for line in notes(run))
    meta = read_checkpoint(run / "checkpoints" / "last.safetensors").meta
    assert (meta["step"], meta["recipe"]["duration"]) == (16, "16it")
    # Resumed again it goes by its new length, and has nothing more to say.
    before = notes(run)
    assert main(["train", "--resume", str(run), "--device", "cpu"]) == 0
    assert notes(run) == before


def test_a_length_that_is_past_is_refused(run: Path) -> None:
    before = sorted(path.name for path in run.rglob("*"))
    with pytest.raises(ConfigError, match="--epochs/--iterations.*6it.*8"):
        run_training(None, run, duration="6it", device="cpu", quiet=True)
    assert sorted(path.name for path in run.rglob("*")) == before
    assert from_toml(run / "recipe.toml").duration == "8it"


@pytest.mark.parametrize("kind", ["constant", "cosine", "linear", "one-cycle", "steps", "plateau"])
def test_every_schedule_says_where_it_goes(kind: str) -> None:
    plan = replace(Recipe(), duration="100it", schedule=ScheduleSpec(kind=kind, milestones=(0.5,)))
    line = describe_extension(plan, "400it", 1000, 100, None)
    assert ("jumps" in line) == (kind not in ("constant", "plateau"))
    assert "jumps" not in describe_extension(plan, "400it", 1000, 0, None)


def test_a_damaged_recipe_gives_way_to_the_checkpoint(run: Path) -> None:
    path = run / "recipe.toml"
    whole = from_toml(path)
    path.write_text(path.read_text()[:100] + "\n[[[")
    run_training(None, run, device="cpu", quiet=True)
    assert any("using the checkpoint's own recipe" in line for line in notes(run))
    assert from_toml(path) == whole
    shutil.rmtree(run / "checkpoints")
    path.write_text("[[[")
    with pytest.raises(ConfigError, match=r"recipe\.toml"):
        run_training(None, run, device="cpu", quiet=True)


def test_other_flags_are_still_refused(run: Path) -> None:
    assert main(["train", "--resume", str(run), "--seed", "3"]) == 2


def test_some_classes_are_measured_and_few_have_no_top5(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    some = write_tree(tmp_path / "some", first=12, count=4)
    shutil.rmtree(some / "digit1")
    assert main(["evaluate", str(run), "--data", str(some), "--device", "cpu", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert "2 of 3 classes" in found["protocol"]
    assert found["examples"] == 8
    shutil.rmtree(some / "digit2")
    assert main(["evaluate", str(run), "--data", str(some), "--device", "cpu"]) == 0
    output = capsys.readouterr().out
    assert "1 of 3 classes" in output
    assert "top-5" not in output
    for name in ("result.json", "metrics.jsonl", "report.html", "curves.svg"):
        assert "top5" not in (run / name).read_text(), name
        assert "top-5" not in (run / name).read_text(), name
    (some / "digit0").rename(some / "digit9")
    assert main(["evaluate", str(run), "--data", str(some), "--device", "cpu"]) == 1
    assert "digit9" in capsys.readouterr().err
