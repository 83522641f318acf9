"""A run's checkpoints: which are kept, which is the newest intact one, and none lost on the way."""

import io
import json
import os
import random
import signal
import time

import pytest
import safetensors.torch
import torch
from checkpoint_runs import (
    FORKS,
    assert_is,
    die_at,
    files,
    payload,
    resume_from,
    save_until_killed,
    saved,
)

from resnets.config import ConfigError, Recipe, replace_fields
from resnets.weights.checkpoint.find import find_checkpoint
from resnets.weights.checkpoint.format import (
    BEST,
    LAST,
    EncodedCheckpoint,
    read_checkpoint,
    step_name,
)
from resnets.weights.checkpoint.manager import CheckpointManager
from resnets.weights.checkpoint.store import FolderStore
from resnets.weights.errors import CheckpointError


@pytest.mark.parametrize("count", [1, 2, 5])
def test_last_is_the_newest_and_a_limited_number_is_kept(tmp_path, count):
    kept = saved(tmp_path, 10, 20, 30, 40, 50, 60, recipe=Recipe(keep_checkpoints=count))
    older = [step_name(step) for step in (20, 30, 40, 50)][5 - count :]
    assert files(tmp_path) == [LAST, *older]
    for step, name in zip((60, 50), (LAST, *older[::-1]), strict=False):
        assert_is(read_checkpoint(tmp_path / "checkpoints" / name), step)
    assert kept.last_good().endswith("last.safetensors (step 60)")
    assert_is(kept.latest(), 60)


def test_a_resumed_run_continues_pruning(tmp_path):
    saved(tmp_path, 10, 20, recipe=Recipe(keep_checkpoints=3))
    kept = resume_from(tmp_path, Recipe(keep_checkpoints=3))
    kept.save(LAST, payload(30), 30)
    assert files(tmp_path) == [LAST, step_name(10), step_name(20)]
    kept.save(LAST, payload(40), 40)
    assert files(tmp_path) == [LAST, step_name(20), step_name(30)]


def test_bytes_are_those_of_safetensors():
    kinds = (torch.float32, torch.int64, torch.bool, torch.bfloat16, torch.uint8, torch.float64)
    kinds += (torch.float16, torch.int32, torch.int16, torch.int8)
    each = [(n, i, kind) for n in "ba" for i, kind in enumerate(kinds)]
    tensors = {f"{n}/ä\n{i}": torch.ones(3, i, dtype=kind) for n, i, kind in each}
    tensors["n"] = torch.tensor(7)
    file, ours = io.BytesIO(), EncodedCheckpoint(tensors, {"step": 3, "classes": ["ä", '"b"']})
    ours.write(file)
    with_header = safetensors.torch.load(file.getvalue())
    assert with_header.keys() == tensors.keys()
    length = int.from_bytes(file.getvalue()[:8], "little")
    header = json.loads(file.getvalue()[8 : 8 + length])["__metadata__"]
    assert file.getvalue() == safetensors.torch.save(tensors, metadata=header)
    assert ours.size == len(file.getvalue())


def damage(path, how):
    raw = bytearray(path.read_bytes())
    if how == "flipped":
        raw[-5] ^= 1
    path.unlink()
    if how != "vanished":
        path.write_bytes(raw[: len(raw) // 2] if how == "cut" else raw)


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("flipped", "last.safetensors: checksum mismatch; the file is damaged; resuming from"),
        ("cut", "last.safetensors: truncated or not a safetensors file"),
        ("vanished", "last.safetensors: no such checkpoint; resuming from"),
    ],
)
def test_the_newest_intact_one_is_taken_and_both_are_named(tmp_path, caplog, how, said):
    saved(tmp_path, 10, 20, 30, recipe=Recipe(keep_checkpoints=3))
    damage(tmp_path / "checkpoints" / LAST, how)
    kept = resume_from(tmp_path, Recipe(keep_checkpoints=3))
    (line,) = [each.message for each in caplog.records]
    assert said in line
    assert line.endswith(f"{step_name(20)} instead")
    # The damaged one is not kept; the one gone on from is.
    kept.save(LAST, payload(25), 25)
    assert files(tmp_path) == [LAST, step_name(10), step_name(20)]
    assert_is(CheckpointManager(tmp_path, Recipe()).latest(), 25)


def test_damaged_older_ones_are_skipped_and_removed(tmp_path, caplog):
    recipe = Recipe(keep_checkpoints=3)
    saved(tmp_path, 10, 20, 30, recipe=recipe)
    damage(tmp_path / "checkpoints" / LAST, "cut")
    damage(tmp_path / "checkpoints" / step_name(20), "flipped")
    kept = resume_from(tmp_path, recipe)
    assert "checksum mismatch" in caplog.text
    assert_is(kept.latest(), 10)
    kept.save(LAST, payload(15), 15)
    assert files(tmp_path) == [LAST, step_name(10)]


def test_where_none_is_intact_all_are_named(tmp_path):
    saved(tmp_path, 10, 20)
    for name in files(tmp_path):
        damage(tmp_path / "checkpoints" / name, "cut")
    with pytest.raises(CheckpointError, match="step-00000010"):
        CheckpointManager(tmp_path, Recipe()).latest()


def test_every_flipped_byte_of_the_tensors_is_noticed(tmp_path):
    path = tmp_path / LAST
    FolderStore(tmp_path).write(LAST, payload(3, size=20))
    raw = path.read_bytes()
    for place in range(len(raw) - 80, len(raw)):
        path.write_bytes(raw[:place] + bytes([raw[place] ^ 16]) + raw[place + 1 :])
        with pytest.raises(CheckpointError, match="checksum mismatch"):
            read_checkpoint(path)


def test_no_flipped_bit_of_the_header_changes_what_is_read(tmp_path):
    path = tmp_path / LAST
    FolderStore(tmp_path).write(LAST, payload(3, size=20))
    raw, whole = path.read_bytes(), read_checkpoint(path)
    passed = 0
    for place in range(len(raw) - 80):
        for bit in range(8):
            path.write_bytes(raw[:place] + bytes([raw[place] ^ 1 << bit]) + raw[place + 1 :])
            try:
                found = read_checkpoint(path)
            except CheckpointError:
                continue
            passed += 1
            assert found.meta == whole.meta
            assert found.tensors.keys() == whole.tensors.keys()
            assert (found.tensors["model/a"] == 3).all()
    assert passed < 0.01 * 8 * len(raw)  # spaces at the end of the header


def test_find_takes_an_older_one_where_the_last_is_lost(tmp_path):
    saved(tmp_path, 10, 20)
    (tmp_path / "checkpoints" / LAST).unlink()
    assert find_checkpoint(tmp_path).name == step_name(10)


def test_another_runs_checkpoints_are_not_overwritten(tmp_path):
    saved(tmp_path, 10)
    with pytest.raises(ConfigError, match="has checkpoints of another run"):
        CheckpointManager(tmp_path, Recipe()).check_free()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"keep_checkpoints": 0}, "keep_checkpoints"),
        ({"checkpoint_url": "bucket/runs"}, "checkpoint_url: 'bucket/runs' is not a URL"),
    ],
)
def test_bad_fields_are_refused(changes, message):
    with pytest.raises(ConfigError, match=message):
        replace_fields(Recipe(), changes)


@pytest.mark.parametrize("links", [True, False], ids=["links", "no-links"])
def test_a_kill_at_any_file_operation_leaves_the_newest(tmp_path, links):
    """SIGKILL before each opening, linking, renaming and removing of one save, in turn."""
    for number in range(1, 30):
        out = tmp_path / str(number)
        saved(out, 10, 20)
        child = FORKS.Process(target=die_at, args=(number, out, links))
        child.start()
        child.join()
        assert not links or LAST in files(out)
        found = CheckpointManager(out, Recipe()).latest()
        assert found.meta["step"] in (20, 30)
        assert_is(found, found.meta["step"])
        if child.exitcode == 0:
            break
        assert child.exitcode == -signal.SIGKILL
        resume_from(out).save(LAST, payload(40), 40)
        assert files(out) == [LAST, step_name(found.meta["step"])]
    assert number > 5
    assert found.meta["step"] == 30


def test_kills_at_random_times_lose_no_saved_checkpoint(tmp_path):
    """A process that saves 8 MB over and over is killed again and again, mostly while writing."""
    randoms, told, kills, halves = random.Random(0), 0, 0, 0
    while kills < 10 or (halves == 0 and kills < 200):  # a busy machine needs more to hit one
        ours, theirs = FORKS.Pipe(duplex=False)
        child = FORKS.Process(target=save_until_killed, args=(tmp_path, theirs, 2_000_000))
        child.start()
        theirs.close()
        assert ours.poll(30)
        time.sleep(randoms.uniform(0, 0.1))
        child.kill()
        child.join()
        kills += 1
        while ours.poll():
            try:
                told = ours.recv()
            except EOFError:
                break
        halves += f".{LAST}.tmp" in files(tmp_path)
        found = CheckpointManager(tmp_path, Recipe()).latest()
        assert_is(found, found.meta["step"])
        assert found.meta["step"] in (told, told + 1)
    assert halves > 0  # at least one kill hit a half-written file
    resume_from(tmp_path).save(LAST, payload(10**6), 10**6)
    assert len(files(tmp_path)) == 2


def test_best_is_replaced_whole(tmp_path):
    kept = saved(tmp_path, 10)
    kept.save(BEST, payload(10), 10)
    kept.save(BEST, payload(20), 20)
    assert files(tmp_path) == [BEST, LAST]
    assert_is(read_checkpoint(find_checkpoint(tmp_path)), 20)
    assert os.stat(find_checkpoint(tmp_path)).st_nlink == 1
