"""Training rate of `resnets train digits` alongside 0, 1, 3 and 7 busy processes.

    python benchmarks/busy.py [--others 0 1 3 7] [--rounds 3] [--seconds 10]
        [--record busy-machine]

The others are endless loops in Python, one thread each. In each turn they start first, then a run
of one variant; after its first steps and SETTLE seconds, its steps within `--seconds` are counted.
Variants: resnets with its defaults, with the number of threads set to all cores by OMP_NUM_THREADS
(as for a run that was started before the others), the same with libgomp's default wait policy
(GOMP_SPINCOUNT=300000), and one thread. The fair share of a run with N threads alongside K others
on N cores is N / (N + K) of the rate of libgomp's default without others. CPU time of all other
programs is reported as "elsewhere", in cores; above QUIET the fair share is left out. "no step":
the other variant finished no step in one of the rounds.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from recording import Cell, Recording, make_parser, report
from timing import format_spread, ratios

CORES = len(os.sched_getaffinity(0))
FIXED = {"OMP_NUM_THREADS": str(CORES)}
ARMS = {
    "resnets": {},
    "all threads": FIXED,
    "libgomp's default": FIXED | {"GOMP_SPINCOUNT": "300000"},
    "one thread": {"OMP_NUM_THREADS": "1"},
}
SETTLE = 2.0
QUIET = 0.1  # cores elsewhere, at most
BATCH = 64
NEVER = "1000000it"


def start(out: Path, environment: dict[str, str]) -> subprocess.Popen[bytes]:
    """Start a run that lasts longer than it is measured, and wait for its first steps."""
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("OMP", "GOMP"))}
    words = ["train", "digits", "--iterations", "1000000", "--out", str(out)]
    for field in ("eval.every", "checkpoint_every"):
        words += ["--set", f"{field}={NEVER}"]
    process = subprocess.Popen(
        [sys.executable, "-m", "resnets", *words, "--set", "log_every=1it"],
        env=clean | environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    while steps(out) < 2:
        assert process.poll() is None, "resnets train has ended"
        time.sleep(0.2)
    return process


def steps(out: Path) -> int:
    """Number of steps that a run has finished."""
    try:
        return (out / "metrics.jsonl").read_text().count('"kind": "train"')
    except OSError:
        return 0


def ticks() -> float:
    """CPU seconds used on this machine."""
    words = Path("/proc/stat").read_text().split("\n")[0].split()[1:]
    return (sum(map(int, words[:8])) - int(words[3]) - int(words[4])) / os.sysconf("SC_CLK_TCK")


def spent(processes: list[subprocess.Popen[bytes]]) -> float:
    """CPU seconds used by these processes."""
    found = 0
    for each in processes:
        words = Path(f"/proc/{each.pid}/stat").read_text().rpartition(")")[2].split()
        found += int(words[11]) + int(words[12])
    return found / os.sysconf("SC_CLK_TCK")


def turn(arm: str, out: Path, others: int, seconds: float) -> tuple[float, float]:
    """Images per second of one variant, and cores used elsewhere."""
    loops = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(others)]
    run = None
    try:
        run = start(out, ARMS[arm])
        time.sleep(SETTLE)
        first, begin, all_before, counted = steps(out), time.perf_counter(), ticks(), [run, *loops]
        ours = spent(counted)
        time.sleep(seconds)
        took = time.perf_counter() - begin
        rate = BATCH * (steps(out) - first) / took
        elsewhere = (ticks() - all_before - spent(counted) + ours) / took
    finally:
        for each in [*loops, *([run] if run else [])]:
            each.kill()
            each.wait()
    return rate, max(0.0, elsewhere)


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--others", type=int, nargs="+", default=[0, 1, 3, 7])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=10.0)
    args = parser.parse_args()
    rates: dict[tuple[int, str], list[float]] = {}
    load: list[float] = []
    for number in range(args.rounds):
        for count in args.others:
            for arm in ARMS:
                with tempfile.TemporaryDirectory() as folder:
                    rate, elsewhere = turn(arm, Path(folder) / "run", count, args.seconds)
                rates.setdefault((count, arm), []).append(rate)
                load.append(elsewhere)
                line = f"round {number + 1}: {count} others, {arm}: {rate:,.0f} images/s"
                print(f"{line}, elsewhere {elsewhere:.2f} cores", file=sys.stderr)
    show(args.record, rates, args.others, load)


def show(
    recording: Recording | None,
    rates: dict[tuple[int, str], list[float]],
    counts: list[int],
    load: list[float],
) -> None:
    """Report rates and ratios, medians and their spread."""
    ours, *peers = ARMS
    names = [name.removeprefix("libgomp's ") for name in peers]
    columns = ["other processes", *ARMS, *(f"ratio to {name}" for name in names)]
    quiet = statistics.median(rates[counts[0], "libgomp's default"])
    rows: list[list[Cell]] = []
    for count in counts:
        row: list[Cell] = [count, *(format_spread(rates[count, name], ",.0f") for name in ARMS)]
        for name in peers:
            other = rates[count, name]
            row.append(
                format_spread(ratios(rates[count, ours], other)) if all(other) else "no step"
            )
        share = quiet * min(1.0, CORES / (CORES + count))
        fair = [rate / max(share, 1.0) for rate in rates[count, ours]]
        row.append(format_spread(fair) if max(load) <= QUIET else None)
        rows.append(row)
    setup = f"{CORES} cores; elsewhere {format_spread(load)} cores"
    report(recording, [*columns, "share of a fair share"], rows, setup)


if __name__ == "__main__":
    main()
