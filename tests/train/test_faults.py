"""What a run does when its disk is full or read-only, or its checkpoints lost or damaged.

docs/reliability.md lists these by name.
"""

import os
import resource
import tempfile
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from checkpoint_runs import assert_is, files, payload, saved
from full_disk import fill_disk

from resnets.cli.main import main
from resnets.config import Recipe, replace_fields
from resnets.recipes import recipe
from resnets.train.log.run_log import RunLog, read_rows
from resnets.train.run import run_training
from resnets.weights.checkpoint.format import LAST, read_checkpoint, step_name
from resnets.weights.checkpoint.manager import CheckpointManager
from resnets.weights.errors import CheckpointError

STEPS = 12


def short(**changes):
    fields = {"duration": f"{STEPS}it", "checkpoint_every": "4it", "eval.every": "4it"}
    fields |= {"precision": "float32", "log_every": "1it"}
    return replace_fields(recipe("digits", "cifar-resnet8"), fields | changes)


@contextmanager
def files_limited_to(size):
    """Writing further into any file fails, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_disk_full_says_how_much_is_needed_and_what_is_intact(tmp_path):
    manager = saved(tmp_path, 10, 20)
    with files_limited_to(4_000_000), pytest.raises(CheckpointError) as raised:
        manager.save(LAST, payload(1030, size=2_000_000), 1030)
    last = tmp_path / "checkpoints" / LAST
    assert str(raised.value) == (
        f"{last}: cannot write the checkpoint of step 1,030 (File too large); free 8 MiB or choose "
        f"another --out; last good checkpoint: {last} (step 20)"
    )
    assert files(tmp_path)[0] == LAST  # and nothing half written
    assert_is(manager.latest(), 20)
    manager.save(LAST, payload(1030, size=2_000_000), 1030)
    assert files(tmp_path) == [LAST, step_name(20)]


def test_disk_full_ends_the_run_at_the_next_save(tmp_path, monkeypatch):
    out = tmp_path / "run"
    fill_disk(monkeypatch, LAST)
    plan = short(**{"eval.every": f"{STEPS}it"})
    with pytest.raises(CheckpointError, match="4.*1 MiB"):
        run_training(plan, out, device="cpu", quiet=True)
    assert max(row["step"] for row in read_rows(out)) == 8
    result = run_training(None, out, device="cpu", quiet=True)
    assert result["test"]["examples"] == 359


def test_disk_full_is_one_line_at_the_terminal(tmp_path, capsys):
    words = ["train", "digits", "--model", "cifar-resnet8", "--iterations", "3", "--device", "cpu"]
    with files_limited_to(400_000):
        assert main([*words, "--out", str(tmp_path / "run")]) == 1
    output = capsys.readouterr().err.strip().splitlines()[-1]
    last = tmp_path / "run" / "checkpoints" / LAST
    assert output.startswith(f"resnets train: {last}: cannot write the checkpoint of step 3 (")
    assert output.endswith("no checkpoint written yet")


def test_read_only_folder_keeps_what_was_there(caplog):
    nobody = os.geteuid() == 0
    with tempfile.TemporaryDirectory() as name:
        out = Path(name)
        manager = saved(out, 10, 20)
        out.chmod(0o755)
        (out / "checkpoints").chmod(0o555)
        if nobody:  # root may write anywhere
            os.seteuid(65534)
        try:
            with pytest.raises(
                CheckpointError,
                match="30.*checkpoint.*20",
            ):
                manager.save(LAST, payload(30), 30)
            assert_is(CheckpointManager(out, Recipe()).latest(), 20)
        finally:
            if nobody:
                os.seteuid(0)
            (out / "checkpoints").chmod(0o755)
        assert files(out) == [LAST, step_name(10)]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    out = tmp_path_factory.mktemp("whole") / "run"
    run_training(short(), out, device="cpu", quiet=True)
    return out


def flip(path):
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 1
    path.write_bytes(raw)


@pytest.mark.parametrize("harm", [flip, Path.unlink], ids=["flipped", "vanished"])
def test_without_its_last_checkpoint_a_run_ends_the_same(whole, tmp_path, caplog, harm):
    run_training(short(), tmp_path / "run", device="cpu", quiet=True)
    last = tmp_path / "run" / "checkpoints" / LAST
    harm(last)
    run_training(None, tmp_path / "run", device="cpu", quiet=True)
    assert f"{last}: " in caplog.text
    assert f"resuming from {last.with_name(step_name(8))} instead" in caplog.text
    ours, theirs = read_checkpoint(last), read_checkpoint(whole / "checkpoints" / LAST)
    assert ours.meta["step"] == STEPS
    assert all(torch.equal(ours.tensors[name], theirs.tensors[name]) for name in theirs.tensors)


def test_a_checkpoint_that_vanishes_while_training_is_written_again(tmp_path):
    manager = saved(tmp_path, 10, 20)
    (tmp_path / "checkpoints" / LAST).unlink()
    manager.save(LAST, payload(30), 30)
    assert_is(manager.latest(), 30)


def test_a_run_without_any_checkpoint_starts_again_and_says_so(whole, tmp_path, caplog):
    (tmp_path / "recipe.toml").write_text((whole / "recipe.toml").read_text())
    run_training(None, tmp_path, device="cpu", quiet=True)
    assert f"{LAST}: no such checkpoint; starting from the first step" in caplog.text
    ours = read_checkpoint(tmp_path / "checkpoints" / LAST)
    theirs = read_checkpoint(whole / "checkpoints" / LAST)
    assert all(torch.equal(ours.tensors[name], theirs.tensors[name]) for name in theirs.tensors)


def test_disk_full_while_only_rows_are_written_saves_and_names_the_file(tmp_path, monkeypatch):
    out, begin = tmp_path / "run", RunLog.__init__

    def full(log, *words, **more):
        begin(log, *words, **more)
        log._file = open("/dev/full", "a", buffering=1)  # noqa: SIM115

    with monkeypatch.context() as patch:
        patch.setattr(RunLog, "__init__", full)
        with pytest.raises(ValueError, match="metrics.jsonl.*2"):
            run_training(short(), out, device="cpu", quiet=True)
    assert read_checkpoint(out / "checkpoints" / LAST).meta["step"] == 2
    assert run_training(None, out, device="cpu", quiet=True)["test"]["examples"] == 359
