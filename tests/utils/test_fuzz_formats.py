"""Damaged files of every format are read, or refused with one line that names the file."""

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
from fuzzing.attempts import Attempt
from fuzzing.readers import READERS, Reader

from resnets.data import DataError

pytest.importorskip("datasets")
pytest.importorskip("h5py")
HELPERS = Path(__file__).parents[1] / "helpers"


def run_fuzzer(out: Path, *arguments: str) -> list[dict]:
    """The rows that the fuzzer prints; AssertionError if a reader failed."""
    path = os.pathsep.join([str(HELPERS), *sys.path])
    done = subprocess.run(
        [sys.executable, "-m", "fuzzing", "--out", str(out), *arguments],
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


def count_files(rows: list[dict]) -> int:
    return sum(row.get("read", 0) + row.get("refused", 0) for row in rows)


@pytest.mark.ci
def test_150_damaged_files_and_the_kept_cases(tmp_path: Path) -> None:
    rows = run_fuzzer(tmp_path, "--count", "150")
    assert count_files(rows) >= 150
    assert sum(row.get("read", 0) for row in rows) > 15
    assert sum(row.get("refused", 0) for row in rows) > 50


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_ten_thousand_damaged_files(tmp_path: Path) -> None:
    """RESNETS_FUZZ_COUNT and RESNETS_FUZZ_SEED change count and seed."""
    count = os.environ.get("RESNETS_FUZZ_COUNT", "10000")
    seed = os.environ.get("RESNETS_FUZZ_SEED", "1")
    rows = run_fuzzer(tmp_path, "--count", count, "--seed", seed, "--processes", "2")
    print(*rows, sep="\n")
    assert count_files(rows) >= int(count)


def read_successfully(root: Path) -> None:
    pass


def refuse(root: Path) -> None:
    raise DataError(f"{root / 'file.bin'}: damaged")


def refuse_without_name(root: Path) -> None:
    raise DataError("damaged")


def raise_key_error(root: Path) -> None:
    raise KeyError("label")


def crash(root: Path) -> None:
    os.abort()


def hang(root: Path) -> None:
    while True:
        time.time()


def fill_memory(root: Path) -> None:
    # New pages: malloc may reuse freed ones of earlier tests, and then memory does not grow.
    pages = mmap.mmap(-1, attempts.BYTES + (1 << 27))
    np.frombuffer(pages, np.uint8)[:] = 1


def allocate_too_much(root: Path) -> None:
    try:
        bytearray(1 << 40)
    except MemoryError:
        raise DataError(f"{root / 'file.bin'}: too large") from None


def print_to_stderr(root: Path) -> None:
    os.write(2, b"a message of a library\n")


@pytest.mark.parametrize(
    ("read", "kind"),
    [
        (read_successfully, "read"),
        (refuse, "refused"),
        (refuse_without_name, "unnamed"),
        (raise_key_error, "exception"),
        (crash, "crash"),
        (hang, "hang"),
        (fill_memory, "memory"),
        (allocate_too_much, "memory"),
        (print_to_stderr, "output"),
    ],
)
def test_each_kind_of_failure_is_detected(read, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attempts, "BYTES", 1 << 27)
    if read is hang:
        monkeypatch.setattr(attempts, "SECONDS", 0.5)
    reader = Reader("test", lambda folder: None, (read,))
    monkeypatch.setitem(READERS, "test", reader)
    planned = [Attempt("test", "seed", "file.bin", b"data", number) for number in range(2)]
    results = list(attempts.run(planned, {"test": {"seed": {"file.bin": b""}}}))
    assert [outcome.kind for _, outcome in results] == [kind, kind]


def test_damage_is_a_function_of_the_seed() -> None:
    reader = Reader("test", lambda folder: None, ())
    seeds = {"a": {"x.json": b'{"a": [1, 2]}', "y.csv": b"path,label\na,b\n"}}
    damaged = [
        [attempts.make(reader, seeds, base, n).data for n in range(40)] for base in (1, 1, 2)
    ]
    assert damaged[0] == damaged[1]
    assert damaged[0] != damaged[2]
    assert len(set(damaged[0])) > 25
