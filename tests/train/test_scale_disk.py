"""A disk that is full under several processes: one line that names the file, and nothing lost."""

import os
import resource
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from compare_runs import difference
from scale_runs import TRAIN, finish

from resnets.weights.checkpoint.format import LAST, read_checkpoint

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two processes on a disk with room for it."""
    out = tmp_path_factory.mktemp("disk") / "whole"
    code, _, err = finish(*TRAIN, "--devices", "2", "--out", str(out))
    assert code == 0, err
    return out


@contextmanager
def small_disk(folder: Path, size: int) -> Iterator[None]:
    """A file system of `size` bytes in `folder`; only root can have one."""
    if os.geteuid() != 0:
        pytest.skip("only root mounts a file system")
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True).returncode != 0:
        pytest.skip("no file system can be mounted here")
    try:
        yield
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def ends_with_one_line(err: str, last: Path) -> None:
    """The first process names the file; the others have nothing to add to it."""
    lines = [line for line in err.splitlines() if line.startswith("resnets train")]
    assert len(lines) == 2, err
    assert lines[0].startswith(f"resnets train: rank 0: {last}: cannot write the checkpoint of ")
    assert lines[1].startswith("resnets train: rank 0 failed first, with exit code 1")
    assert "Traceback" not in err


def test_a_full_disk_ends_all_with_one_line_and_the_run_resumes(whole, tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    with small_disk(disk, 8 << 20):
        out = disk / "run"
        last = out / "checkpoints" / LAST
        room = 5 * (whole / "checkpoints" / LAST).stat().st_size // 2
        (disk / "other").write_bytes(bytes((8 << 20) - room))
        code, _, err = finish(*TRAIN, "--devices", "2", "--out", str(out))
        assert code == 1
        ends_with_one_line(err, last)
        assert "No space left on device" in err
        assert read_checkpoint(last).step > 0
        (disk / "other").unlink()
        code, _, err = finish("train", "--resume", str(out), "--devices", "2", "--device", "cpu")
        assert code == 0, err
        assert difference(whole, out) == ""


def test_a_limit_on_files_ends_all_with_one_line_and_the_run_resumes(whole, tmp_path):
    out = tmp_path / "run"
    limit = (whole / "checkpoints" / LAST).stat().st_size // 2
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))  # children inherit it
    try:
        code, _, err = finish(*TRAIN, "--devices", "2", "--out", str(out))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert code == 1
    ends_with_one_line(err, out / "checkpoints" / LAST)
    assert "File too large" in err
    code, _, err = finish("train", "--resume", str(out), "--devices", "2", "--device", "cpu")
    assert code == 0, err
    assert difference(whole, out) == ""


def test_rows_that_cannot_be_written_end_all_with_one_line(whole, tmp_path):
    out = tmp_path / "run"
    words = ("--devices", "2", "--out", str(out))
    code, _, err = finish(*TRAIN, *words, fault="rows rank 0 at step 8")
    assert code == 1
    lines = [line for line in err.splitlines() if line.startswith("resnets train")]
    assert len(lines) == 2, err
    assert lines[0].startswith(f"resnets train: rank 0: {out / 'metrics.jsonl'}: ")
    assert "Traceback" not in err
    step = read_checkpoint(out / "checkpoints" / LAST).step
    assert 8 <= step < 12
    code, _, err = finish("train", "--resume", str(out), "--devices", "2", "--device", "cpu")
    assert code == 0, err
    ends = [read_checkpoint(run / "checkpoints" / LAST).tensors for run in (whole, out)]
    assert ends[0].keys() == ends[1].keys()
    assert all(torch.equal(tensor, ends[1][name]) for name, tensor in ends[0].items())
