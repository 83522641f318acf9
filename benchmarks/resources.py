"""CPU time and memory of reading and evaluating data sets: writes docs/results/resources.json.

    python benchmarks/resources.py [--scale 1] [--folder FOLDER]

Content keys of files, the list of 100,000 images for bulk prediction, and one batch of
`evaluate` on a CPU. Each case runs in a process of its own on files in the page cache; memory is
the peak of the process minus its memory before. --scale 0.01 tests the script with a hundredth of
the files and writes no results. The files take 3 GB of --folder (the system's by default).
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "docs"))

import result_tables

FOLDERS = 1000  # of the listed data set
COLUMNS = ["what", "processor time, s", "memory, MiB"]


def write_files(folder: Path, count: int, size: int) -> None:
    """Write files of `size` random bytes in `count // FOLDERS` or more subfolders."""
    block = os.urandom(size + count)
    for number in range(count):
        path = folder / f"{number % FOLDERS:03d}" / f"{number:07d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(block[number : number + size])


def write_tar(path: Path, count: int, size: int) -> None:
    """Write a tar of `count` members of `size` random bytes."""
    block = os.urandom(size + count)
    padding = bytes(-size % tarfile.BLOCKSIZE)
    with path.open("wb") as file:
        for number in range(count):
            info = tarfile.TarInfo(f"{number % FOLDERS:03d}/{number:07d}.jpg")
            info.size = size
            file.write(info.tobuf(tarfile.USTAR_FORMAT))
            file.write(block[number : number + size] + padding)
        file.write(bytes(2 * tarfile.BLOCKSIZE))


def write_csv(path: Path, count: int) -> None:
    """Write a table of the paths that `write_files` creates, next to their folder `list`."""
    lines = (f"list/{number % FOLDERS:03d}/{number:07d}.jpg\n" for number in range(count))
    path.write_text("path\n" + "".join(lines), encoding="utf-8")


def keys_of(path: str) -> Callable[[], object]:
    """Return the computation of the content keys of a folder or a tar."""
    from resnets.data.dataset.image_hash import file_keys
    from resnets.data.files.folder import FolderFiles
    from resnets.data.files.tar import list_tar

    if path.endswith(".tar"):
        files: Any = list_tar(Path(path)).files
    else:
        found = sorted(each.relative_to(path).as_posix() for each in Path(path).rglob("*.jpg"))
        files = FolderFiles(Path(path), found)
    return lambda: file_keys(files)


def list_of(path: str) -> Callable[[], object]:
    """Return the listing of a data set for bulk prediction."""
    from resnets.bulk.image_index import index_dataset

    work = Path(tempfile.mkdtemp(dir=Path(path).parent))
    return lambda: index_dataset(path, work)


def batch_of(model: str) -> Callable[[], object]:
    """Return the forward pass of as many images as `evaluate` computes at once on a CPU."""
    import torch

    import resnets
    from resnets.evaluate.batched_inference import CPU_PIXELS

    network = resnets.create_model(model).eval()
    network(torch.zeros(1, 3, 224, 224))
    images = torch.zeros(CPU_PIXELS // 224**2, 3, 224, 224)

    def forward() -> None:
        with torch.inference_mode():
            network(images)

    return forward


KINDS = {"keys": keys_of, "list": list_of, "batch": batch_of}


def measure(kind: str, argument: str) -> dict[str, float]:
    """Return processor seconds and MiB of one case, in this process."""
    work = KINDS[kind](argument)
    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")  # the peak begins here
    before, start = _memory("VmRSS"), time.process_time()
    work()
    return {"seconds": time.process_time() - start, "mib": _memory("VmHWM") - before}


def _memory(name: str) -> float:
    """Return the memory of this process in MiB, or its peak; getrusage's includes the parent's."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return int(next(line for line in lines if line.startswith(name)).split()[1]) / 1024


def main() -> None:
    """Measure all cases."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--scale", type=float, default=1)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--measure", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(measure(*options.measure)))
        return
    with tempfile.TemporaryDirectory(dir=options.folder) as temporary:
        rows = [
            _measure_apart(title, kind, argument)
            for title, kind, argument in _cases(Path(temporary), options.scale)
        ]
    if options.scale == 1:
        result_tables.record("resources", "python benchmarks/resources.py", COLUMNS, rows)


def _cases(folder: Path, scale: float) -> list[tuple[str, str, str]]:
    """Write the files, and return title, kind and argument of each case."""

    def number(count: int) -> int:
        return max(2, round(count * scale))

    write_files(folder / "large", number(10_000), 110_000)
    write_files(folder / "small", number(10_000), 10_000)
    write_tar(folder / "small.tar", number(50_000), 2300)
    write_files(folder / "one", 1, number(1_000_000_000))
    write_files(folder / "list", number(100_000), 0)
    write_csv(folder / "list.csv", number(100_000))
    write_tar(folder / "list.tar", number(100_000), 1)
    return [
        ("content keys of 10,000 files of 110 KB", "keys", str(folder / "large")),
        ("content keys of 10,000 files of 10 KB", "keys", str(folder / "small")),
        ("content keys of 50,000 members of a tar, 2.3 KB each", "keys", str(folder / "small.tar")),
        ("content key of a file of 1 GB", "keys", str(folder / "one")),
        ("list of 100,000 images: folder of 1,000 folders", "list", str(folder / "list")),
        ("list of 100,000 images: CSV", "list", str(folder / "list.csv")),
        ("list of 100,000 images: tar", "list", str(folder / "list.tar")),
        ("a batch of `evaluate`, resnet50, float32", "batch", "resnet50"),
        ("a batch of `evaluate`, vgg16, float32", "batch", "vgg16"),
    ]


def _measure_apart(title: str, kind: str, argument: str) -> list[str | float | None]:
    command = [sys.executable, __file__, "--measure", kind, argument]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    found = json.loads(done.stdout.splitlines()[-1])
    row = [title, round(found["seconds"], 1), round(found["mib"])]
    print(*row, sep="\t", flush=True)
    return row


if __name__ == "__main__":
    main()
