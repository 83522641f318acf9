"""Checkpoints: written atomically, verified when read, one line for each kind of damage."""

import os

import pytest
import torch
from checkpoint_files import save_checkpoint
from full_disk import fill_disk

from resnets.weights.checkpoint import format as ckpt
from resnets.weights.checkpoint.find import find_checkpoint
from resnets.weights.checkpoint.format import read_checkpoint
from resnets.weights.errors import CheckpointError, StoreError

TENSORS = {
    "model/a": torch.randn(4, 3, 2, 2).to(memory_format=torch.channels_last),
    "model/n": torch.tensor(7),
    "optim/a/momentum_buffer": torch.randn(4, 3, 2, 2),
}


def test_round_trip_is_exact(tmp_path):
    path = tmp_path / "checkpoints" / "last.safetensors"
    save_checkpoint(path, TENSORS, {"step": 3, "classes": ["ä", "b"], "recipe": {}})
    read = read_checkpoint(path)
    assert read.meta["step"] == 3
    assert read.meta["classes"] == ["ä", "b"]
    assert read.tensors.keys() == TENSORS.keys()
    assert all(torch.equal(read.tensors[name], TENSORS[name]) for name in TENSORS)
    assert read.group("model").keys() == {"a", "n"}
    assert find_checkpoint(tmp_path) == path
    assert os.listdir(path.parent) == ["last.safetensors"]


@pytest.mark.parametrize("keep", [0, 5, 200, -20])
def test_cut_checkpoint_is_refused(tmp_path, keep):
    path = tmp_path / "cut.safetensors"
    save_checkpoint(path, TENSORS, {"step": 1})
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(CheckpointError, match="cut.safetensors"):
        read_checkpoint(path)


def test_flipped_bit_is_noticed(tmp_path):
    path = tmp_path / "bit.safetensors"
    save_checkpoint(path, TENSORS, {"step": 1})
    raw = bytearray(path.read_bytes())
    raw[-3] ^= 1
    path.write_bytes(raw)
    with pytest.raises(CheckpointError, match="checksum mismatch"):
        read_checkpoint(path)


def test_full_disk_keeps_what_was_there(tmp_path, monkeypatch):
    path = tmp_path / "last.safetensors"
    save_checkpoint(path, TENSORS, {"step": 1})
    fill_disk(monkeypatch, path.name)
    with pytest.raises(StoreError):
        save_checkpoint(path, TENSORS, {"step": 2})
    assert read_checkpoint(path).meta["step"] == 1
    assert os.listdir(tmp_path) == ["last.safetensors"]


def test_missing_and_unrelated_files(tmp_path):
    with pytest.raises(CheckpointError, match="no such run or checkpoint"):
        find_checkpoint(tmp_path / "nothing")
    with pytest.raises(CheckpointError, match="no checkpoint in this folder"):
        find_checkpoint(tmp_path)
    import safetensors.torch

    safetensors.torch.save_file({"x": torch.zeros(2)}, tmp_path / "foreign.safetensors")
    with pytest.raises(CheckpointError, match="not a checkpoint"):
        read_checkpoint(tmp_path / "foreign.safetensors")
    assert ckpt.FORMAT == 2


def test_a_checkpoint_made_from_another_ones_meta_is_whole(tmp_path):
    save_checkpoint(tmp_path / "a.safetensors", TENSORS, {"step": 1})
    save_checkpoint(
        tmp_path / "b.safetensors", TENSORS, read_checkpoint(tmp_path / "a.safetensors").meta
    )
    assert read_checkpoint(tmp_path / "b.safetensors").meta["step"] == 1


def test_files_whose_checksum_is_of_the_tensors_alone_are_read(tmp_path):
    import json

    import safetensors.torch

    flat = {name: tensor.contiguous() for name, tensor in TENSORS.items()}
    meta = {"format": 1, "step": 3, "sha256": ckpt.digest_of(flat)}
    path = tmp_path / "old.safetensors"
    safetensors.torch.save_file(flat, path, {"resnets": json.dumps(meta)})
    assert read_checkpoint(path).meta["step"] == 3
    raw = path.read_bytes()
    path.write_bytes(raw[:-1] + bytes([raw[-1] ^ 1]))
    with pytest.raises(CheckpointError):
        read_checkpoint(path)
