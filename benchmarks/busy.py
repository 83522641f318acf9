"""Training rate of `resnets train digits` alongside 0, 1, 3 and 7 busy processes.

    python benchmarks/busy.py [--others 0 1 3 7] [--rounds 3] [--seconds 10]

The others are endless loops in Python, one thread each. In each turn they start first, then a run
of one variant; after its first steps and SETTLE seconds, its steps within `--seconds` are counted.
Variants: resnets with its defaults, with the number of threads set to all cores by OMP_NUM_THREADS
(as for a run that was started before the others), the same with libgomp's default wait policy
(GOMP_SPINCOUNT=300000), and one thread. The fair share of a run with N threads alongside K others
on N cores is N / (N + K) of the rate of libgomp's default without others. CPU time of all other
programs is reported as "elsewhere", in cores; above QUIET the fair share is not printed. "no step":
the other variant finished no step in one of the rounds.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

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
    parser = argparse.ArgumentParser()
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
    report(rates, args.others, load)


def report(rates: dict[tuple[int, str], list[float]], counts: list[int], load: list[float]) -> None:
    """Print rates and ratios, medians and their spread, as a Markdown table."""
    print(
        f"{CORES} cores; elsewhere {statistics.median(load):.2f} cores"
        f" ({min(load):.2f} to {max(load):.2f})"
    )
    ours, *peers = ARMS
    default = "libgomp's default"
    ratios = [f"ratio to {name}" for name in peers]
    print("| " + " | ".join(["others", *ARMS, *ratios, "share of a fair share"]) + " |")
    print("|---" * (2 + len(ARMS) + len(peers)) + "|")
    quiet = statistics.median(rates[counts[0], default])
    for count in counts:
        cells = [spread(rates[count, name], "{:,.0f}") for name in ARMS]
        for name in peers:
            pairs = list(zip(rates[count, ours], rates[count, name], strict=True))
            values = [one / other for one, other in pairs if other]
            cells.append(spread(values, "{:.2f}") if len(values) == len(pairs) else "no step")
        share = quiet * min(1.0, CORES / (CORES + count))
        fair = [rate / max(share, 1.0) for rate in rates[count, ours]]
        cells.append(spread(fair, "{:.2f}") if max(load) <= QUIET else "not measured")
        print(f"| {count} | {' | '.join(cells)} |")


def spread(values: list[float], form: str) -> str:
    """Median (minimum to maximum)."""
    middle, least, most = (form.format(f(values)) for f in (statistics.median, min, max))
    return f"{middle} ({least} to {most})"


if __name__ == "__main__":
    sys.exit(main())
