"""See the package's docstring. One line of JSON for each reader, and one for each failure."""

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


def main(words: list[str] | None = None) -> int:
    """Run the fuzzer, or one share of it."""
    parser = argparse.ArgumentParser(prog="fuzzing", description=__doc__)
    parser.add_argument("--count", type=int, default=1000, help="damaged files over all readers")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--reader", help="this one alone")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--share", type=int, help="which of the processes this is")
    parser.add_argument("--out", type=Path, help="where inputs that fail are kept")
    options = parser.parse_args(words)
    if options.processes > 1 and options.share is None:
        given = sys.argv[1:] if words is None else words
        running = [
            subprocess.Popen([sys.executable, "-m", "fuzzing", *given, "--share", str(share)])
            for share in range(options.processes)
        ]
        return max([process.wait() for process in running])
    return _share(options)


def _share(options: argparse.Namespace) -> int:
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
    whole = sum(reader.share for reader in chosen)
    bad = 0
    with tempfile.TemporaryDirectory() as scratch:
        for reader in chosen:
            seeds = reader.seeds(Path(scratch) / reader.name.replace(" ", "-"))
            count = -(-options.count * reader.share // whole)
            numbers = range(options.share or 0, count, options.processes)
            todo = [] if options.share else [*_undamaged(reader, seeds), *_kept(reader.name)]
            todo += [attempts.make(reader, seeds, options.seed, each) for each in numbers]
            bad += _report(reader.name, attempts.run(todo, {reader.name: seeds}), options.out)
    return 1 if bad else 0


def _undamaged(reader, seeds) -> list:
    """The valid files themselves, which are to be read: else damage to them proves nothing."""
    from fuzzing.attempts import Attempt

    targets = {name: reader.targets(tree)[0] for name, tree in seeds.items()}
    return [
        Attempt(reader.name, name, target, seeds[name][target], whole=True)
        for name, target in targets.items()
    ]


def _prepare() -> None:
    """Import what readers import on first use, say nothing, and write into no one's cache."""
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
    """Takes warnings as a terminal would, and prints none."""

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
            place = "" if out is None else str(keep(attempt, out))
            row = {
                "failure": outcome.kind,
                "reader": name,
                "number": attempt.number,
                "seed": attempt.seed,
                "target": attempt.target,
                "said": outcome.said,
                "kept": place,
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
    """The damaged file below `out`, at a path that says reader, seed and target."""
    digest = hashlib.sha256(attempt.data).hexdigest()[:12]
    path = out / attempt.reader / attempt.seed / digest / attempt.target
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(attempt.data)
    return path


def _kept(reader: str) -> list:
    """The kept inputs of a reader."""
    from fuzzing.attempts import Attempt

    found = []
    for path in sorted((CASES / reader).rglob("*")):
        if path.is_file():
            seed, _, *target = path.relative_to(CASES / reader).parts
            found.append(Attempt(reader, seed, "/".join(target), path.read_bytes()))
    return found


if __name__ == "__main__":
    sys.exit(main())
