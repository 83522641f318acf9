"""Run the fuzzer: prints one line of JSON for each reader and for each failure."""

from __future__ import annotations

import argparse
import gc
import hashlib
import json
import logging
import os
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

CASES = Path(__file__).parent / "cases"


def main(arguments: list[str] | None = None) -> int:
    """Run the fuzzer, or the share of one of its processes."""
    parser = argparse.ArgumentParser(prog="fuzzing", description=__doc__)
    parser.add_argument("--count", type=int, default=1000, help="damaged files over all readers")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--reader", help="run only this reader")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--share", type=int, help="number of this process")
    parser.add_argument("--out", type=Path, help="folder for inputs that fail")
    options = parser.parse_args(arguments)
    if options.processes > 1 and options.share is None:
        arguments = sys.argv[1:] if arguments is None else arguments
        running = [
            subprocess.Popen([sys.executable, "-m", "fuzzing", *arguments, "--share", str(share)])
            for share in range(options.processes)
        ]
        return max([process.wait() for process in running])
    return _run_share(options)


def _run_share(options: argparse.Namespace) -> int:
    os.environ["OMP_NUM_THREADS"] = "1"
    from fuzzing import attempts
    from fuzzing.readers import READERS, table

    READERS.update(table())
    _prepare()
    chosen = [
        reader
        for reader in READERS.values()
        if reader.name == options.reader
        or (options.reader is None and (options.count >= 2000 or not reader.slow))
    ]
    shares = sum(reader.share for reader in chosen)
    failures = 0
    with tempfile.TemporaryDirectory() as scratch:
        for reader in chosen:
            seeds = reader.seeds(Path(scratch) / reader.name.replace(" ", "-"))
            count = -(-options.count * reader.share // shares)
            numbers = range(options.share or 0, count, options.processes)
            planned = [] if options.share else [*_valid(reader, seeds), *_kept(reader.name)]
            planned += [attempts.make(reader, seeds, options.seed, each) for each in numbers]
            outcomes = attempts.run(planned, {reader.name: seeds})
            failures += _report(reader.name, outcomes, options.out)
    return 1 if failures else 0


def _valid(reader, seeds) -> list:
    """Attempts of the valid files, which have to be read: otherwise damage proves nothing."""
    from fuzzing.attempts import Attempt

    targets = {name: reader.targets(tree)[0] for name, tree in seeds.items()}
    return [
        Attempt(reader.name, name, target, seeds[name][target], whole=True)
        for name, target in targets.items()
    ]


def _prepare() -> None:
    """Import what readers import on first use; silence libraries and give them an empty cache."""
    import datasets
    import h5py  # noqa: F401
    import sklearn.datasets  # noqa: F401
    import torch
    import torch.utils.tensorboard
    import yaml  # noqa: F401

    from resnets.config import Recipe, from_dict, to_dict
    from resnets.study.grid.model_names import model_spec

    cache = tempfile.mkdtemp(prefix="fuzzing-cache-")
    datasets.config.HF_DATASETS_CACHE = Path(cache)
    os.environ["XDG_CACHE_HOME"] = cache
    datasets.disable_progress_bars()
    torch.set_num_threads(1)
    from_dict(Recipe, to_dict(Recipe()))
    model_spec("cifar-resnet8")
    gc.freeze()  # so that forked processes share what was imported
    logging.getLogger("resnets").addHandler(_Formatting())
    logging.getLogger("resnets").propagate = False


class _Formatting(logging.Handler):
    """Formats warnings as a terminal handler would, without printing them."""

    def emit(self, record: logging.LogRecord) -> None:
        self.format(record)


def _report(name: str, outcomes, out: Path | None) -> int:
    kinds: Counter[str] = Counter()
    slowest, largest, seconds, failures = 0.0, 0, 0.0, 0
    for attempt, outcome in outcomes:
        kinds[outcome.kind if attempt.number >= 0 else f"kept or whole: {outcome.kind}"] += 1
        seconds += outcome.seconds
        slowest, largest = max(slowest, outcome.seconds), max(largest, outcome.megabytes)
        if not outcome.good or (attempt.whole and outcome.kind != "read"):
            failures += 1
            path = "" if out is None else str(keep(attempt, out))
            row = {
                "failure": outcome.kind,
                "reader": name,
                "number": attempt.number,
                "seed": attempt.seed,
                "target": attempt.target,
                "message": outcome.message,
                "kept": path,
            }
            print(json.dumps(row), flush=True)
    row = {
        "reader": name,
        **dict(sorted(kinds.items())),
        "seconds": round(seconds, 1),
        "slowest": round(slowest, 2),
        "largest_MiB": largest,
    }
    print(json.dumps(row), flush=True)
    return failures


def keep(attempt, out: Path) -> Path:
    """Write the damaged file below `out`, at a path of reader, seed, digest and target."""
    digest = hashlib.sha256(attempt.data).hexdigest()[:12]
    path = out / attempt.reader / attempt.seed / digest / attempt.target
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(attempt.data)
    return path


def _kept(reader: str) -> list:
    """Attempts of the kept cases of a reader."""
    from fuzzing.attempts import Attempt

    found = []
    for path in sorted((CASES / reader).rglob("*")):
        if path.is_file():
            seed, _, *target = path.relative_to(CASES / reader).parts
            found.append(Attempt(reader, seed, "/".join(target), path.read_bytes()))
    return found


if __name__ == "__main__":
    sys.exit(main())
