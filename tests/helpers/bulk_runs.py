"""Data sets and runs for the tests of bulk prediction."""

import csv
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow.parquet as pq
from digit_sets import digit_files

from resnets.bulk.plan import lock_output
from resnets.bulk.pool import ShardDone
from resnets.bulk.run import BulkOptions, BulkRun, prepare_run
from resnets.bulk.worker import ShardWorker

DIGITS = digit_files(12)  # 48 images of the digits 0 to 3


def save_digits(folder: Path) -> list[str]:
    """Save the digits as PNGs in nested folders; returns their sorted paths."""
    paths = []
    for number, (data, digit) in enumerate(DIGITS):
        below = ("", "deep/down/", "deep/")[number % 3]
        path = folder / f"{below}{digit}-{number:02}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        paths.append(path.relative_to(folder).as_posix())
    return sorted(paths)


def save_list(folder: Path, count: int) -> Path:
    """Save a CSV of `count` lines that name the digits in `folder` repeatedly."""
    paths = save_digits(folder / "digits")
    file = folder / "list.csv"
    lines = (f"digits/{paths[row % len(paths)]},{row}\n" for row in range(count))
    file.write_text("path,row\n" + "".join(lines), encoding="utf-8")
    return file


def predict_here(model: Path, data: Path | str, out: Path, **options) -> BulkRun:
    """Predict all shards by one worker in this process; returns the run."""
    bulk_options = BulkOptions(str(model), str(data), out, **{"backend": "torch", **options})
    with lock_output(out):
        run = prepare_run(bulk_options, print)
        worker = ShardWorker(run.job)
        for shard in run.missing:
            assert isinstance(worker.process_shard(shard, lambda count: None), ShardDone)
        run.summarize()
    return run


def rows(out: Path) -> list[dict]:
    """Read the rows of all shards, in order."""
    found: list[dict] = []
    for part in sorted(out.glob("part-*")):
        if part.suffix == ".parquet":
            found += pq.read_table(part).to_pylist()
            continue
        with open(part, encoding="utf-8", newline="") as stream:
            found += csv.DictReader(stream)
    return found


def contents(out: Path) -> dict[str, bytes]:
    """All files of a finished run except the manifest, which contains paths of the run."""
    return {
        path.name: path.read_bytes() for path in out.rglob("*") if path.name != "_manifest.json"
    }


def command(model: Path, data: Path | str, out: Path, *more: str) -> list[str]:
    words = ["predict", str(model), "--data", str(data), "--out", str(out), "--backend", "torch"]
    return [sys.executable, "-m", "resnets", *words, *more]


def start(*words: Path | str) -> subprocess.Popen:
    """Start `command` in a process group of its own."""
    return subprocess.Popen(
        command(*words), stderr=subprocess.PIPE, text=True, start_new_session=True
    )


def wait_for_shards(process: subprocess.Popen, out: Path, count: int) -> None:
    """Wait until `out` has `count` shards or the process has ended."""
    while process.poll() is None and len(list(out.glob("part-*"))) < count:
        time.sleep(0.01)


def children(pid: int) -> list[int]:
    """Descendants of the process `pid`, children first."""
    parents = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                stat = (entry / "stat").read_text("ascii", "replace")
            except OSError:
                continue
            parents[int(entry.name)] = int(stat.rpartition(")")[2].split()[1])
    found = [pid]
    for each in found:
        found += [child for child, parent in parents.items() if parent == each]
    return found[1:]


def kill(process: subprocess.Popen, *, group: bool) -> None:
    """SIGKILL the first process, or its whole group."""
    if group:
        os.killpg(process.pid, signal.SIGKILL)
    else:
        process.kill()
    process.communicate()
