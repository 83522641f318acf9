"""Damaged files of every format: each is read, or rejected by one line that names it."""

import json
import mmap
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from fuzzing import attempts
from fuzzing.attempts import Attempt, Outcome
from fuzzing.readers import READERS, Reader

from resnets.data import DataError

pytest.importorskip("datasets")
pytest.importorskip("h5py")
HELPERS = Path(__file__).parents[1] / "helpers"


def fuzz(out: Path, *words: str) -> list[dict]:
    """The rows that the fuzzer prints; AssertionError where a reader failed."""
    path = os.pathsep.join([str(HELPERS), *sys.path])
    done = subprocess.run(
        [sys.executable, "-m", "fuzzing", "--out", str(out), *words],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    failures = [row for row in rows if "failure" in row]
    assert failures == []
    assert done.returncode == 0, done.stderr
    return rows


def counted(rows: list[dict]) -> int:
    return sum(row.get("read", 0) + row.get("refused", 0) for row in rows)


def test_some_hundred_damaged_files_and_those_that_were_kept(tmp_path: Path) -> None:
    rows = fuzz(tmp_path, "--count", "150")
    assert counted(rows) >= 150
    assert sum(row.get("read", 0) for row in rows) > 15
    assert sum(row.get("refused", 0) for row in rows) > 50


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_ten_thousand_damaged_files(tmp_path: Path) -> None:
    """RESNETS_FUZZ_COUNT and RESNETS_FUZZ_SEED ask for others; failing inputs are kept."""
    count = os.environ.get("RESNETS_FUZZ_COUNT", "10000")
    seed = os.environ.get("RESNETS_FUZZ_SEED", "1")
    rows = fuzz(tmp_path, "--count", count, "--seed", seed, "--processes", "2")
    assert counted(rows) >= int(count)


def nothing(root: Path) -> None:
    pass


def refuses(root: Path) -> None:
    raise DataError(f"{root / 'file.bin'}: damaged")


def names_no_file(root: Path) -> None:
    raise DataError("damaged")


def raises(root: Path) -> None:
    raise KeyError("label")


def crashes(root: Path) -> None:
    os.abort()


def hangs(root: Path) -> None:
    while True:
        time.time()


def fills_memory(root: Path) -> None:
    # Pages of its own: malloc may hold freed ones of earlier tests, and then nothing grows.
    pages = mmap.mmap(-1, attempts.BYTES + (1 << 27))
    np.frombuffer(pages, np.uint8)[:] = 1


def asks_for_memory(root: Path) -> None:
    try:
        bytearray(1 << 40)
    except MemoryError:
        raise DataError(f"{root / 'file.bin'}: too large") from None


def prints(root: Path) -> None:
    os.write(2, b"a library says something\n")


@pytest.mark.parametrize(
    ("way", "kind"),
    [
        (nothing, "read"),
        (refuses, "refused"),
        (names_no_file, "unnamed"),
        (raises, "exception"),
        (crashes, "crash"),
        (hangs, "hang"),
        (fills_memory, "memory"),
        (asks_for_memory, "memory"),
        (prints, "output"),
    ],
)
def test_what_goes_wrong_is_noticed(way, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attempts, "BYTES", 1 << 27)
    if way is hangs:
        monkeypatch.setattr(attempts, "SECONDS", 0.5)
    reader = Reader("test", lambda folder: None, (way,))
    monkeypatch.setitem(READERS, "test", reader)
    todo = [Attempt("test", "seed", "file.bin", b"data", number) for number in range(2)]
    found = list(attempts.run(todo, {"test": {"seed": {"file.bin": b""}}}))
    assert [outcome.kind for _, outcome in found] == [kind, kind]
    assert all(isinstance(outcome, Outcome) for _, outcome in found)


def test_damage_follows_from_the_seed() -> None:
    reader = Reader("test", lambda folder: None, ())
    seeds = {"a": {"x.json": b'{"a": [1, 2]}', "y.csv": b"path,label\na,b\n"}}
    made = [[attempts.make(reader, seeds, base, n).data for n in range(40)] for base in (1, 1, 2)]
    assert made[0] == made[1]
    assert made[0] != made[2]
    assert len(set(made[0])) > 25
