"""What other programs on the same cores cost a run: `resnets train` beside 0, 1, 3 and 7 of them.

    python benchmarks/busy.py [--others 0 1 3 7] [--rounds 3] [--seconds 10]

Arms are real `resnets train digits` processes, started once and stopped (SIGSTOP) while they have
no turn: as it comes, with the way libgomp waits by itself (GOMP_SPINCOUNT=300000, its default), and
with one thread. Each turn is SETTLE seconds uncounted, then --seconds in which finished steps are
counted. Others are endless loops in Python, one thread each. The fair share of a run with T threads
beside K others on N cores is T / (T + K) of these cores where T + K > N; it is taken of the rate of
the default arm beside none. Programs that the machine runs besides are counted as "elsewhere", in
cores. Where they are not few, nothing was measured on a quiet machine and no fair share is printed;
one thread, which waits for no other, then shows what the scheduler leaves to a run. "no step": the
other arm finished none in one of the rounds.
"""

from __future__ import annotations

import argparse
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ARMS = {
    "follows load": {},
    "libgomp's default": {"GOMP_SPINCOUNT": "300000"},
    "one thread": {"OMP_NUM_THREADS": "1"},
}
SETTLE = 2.0
QUIET = 0.1  # cores elsewhere, at most
BATCH = 64
NEVER = "1000000it"


def start(out: Path, environment: dict[str, str]) -> subprocess.Popen[bytes]:
    """A run that goes on for longer than it is measured, stopped after its first steps."""
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
    process.send_signal(signal.SIGSTOP)
    return process


def steps(out: Path) -> int:
    """Steps that a run has finished."""
    try:
        return (out / "metrics.jsonl").read_text().count('"kind": "train"')
    except OSError:
        return 0


def ticks() -> float:
    """Seconds that the processors of this machine have worked."""
    words = Path("/proc/stat").read_text().split("\n")[0].split()[1:]
    return (sum(map(int, words[:8])) - int(words[3]) - int(words[4])) / os.sysconf("SC_CLK_TCK")


def spent(processes: list[subprocess.Popen[bytes]]) -> float:
    """Seconds of them that these processes had."""
    found = 0
    for each in processes:
        words = Path(f"/proc/{each.pid}/stat").read_text().rpartition(")")[2].split()
        found += int(words[11]) + int(words[12])
    return found / os.sysconf("SC_CLK_TCK")


def turn(
    process: subprocess.Popen[bytes],
    out: Path,
    others: list[subprocess.Popen[bytes]],
    seconds: float,
) -> tuple[float, float]:
    """Images a second of one arm, and cores that went elsewhere."""
    process.send_signal(signal.SIGCONT)
    time.sleep(SETTLE)
    counted = [process, *others]
    first, begin, all_before, ours = steps(out), time.perf_counter(), ticks(), spent(counted)
    time.sleep(seconds)
    took = time.perf_counter() - begin
    rate = BATCH * (steps(out) - first) / took
    elsewhere = (ticks() - all_before - spent(counted) + ours) / took
    process.send_signal(signal.SIGSTOP)
    return rate, max(0.0, elsewhere)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--others", type=int, nargs="+", default=[0, 1, 3, 7])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=10.0)
    given = parser.parse_args()
    found: dict[tuple[int, str], list[float]] = {}
    load: list[float] = []
    runs: dict[str, subprocess.Popen[bytes]] = {}
    with tempfile.TemporaryDirectory() as folder:
        outs = {name: Path(folder) / str(place) for place, name in enumerate(ARMS)}
        others: list[subprocess.Popen[bytes]] = []
        try:
            for name, environment in ARMS.items():
                runs[name] = start(outs[name], environment)
            for number in range(given.rounds):
                for count in given.others:
                    for name, process in runs.items():
                        endless = [sys.executable, "-c", "while True: pass"]
                        others = [subprocess.Popen(endless) for _ in range(count)]
                        rate, elsewhere = turn(process, outs[name], others, given.seconds)
                        for each in others:
                            each.kill()
                            each.wait()
                        others = []
                        found.setdefault((count, name), []).append(rate)
                        load.append(elsewhere)
                        line = f"round {number + 1}: {count} others, {name}: {rate:,.0f} images/s"
                        print(f"{line}, elsewhere {elsewhere:.2f} cores", file=sys.stderr)
        finally:
            for each in [*runs.values(), *others]:
                each.kill()
        report(found, given.others, load)


def report(found: dict[tuple[int, str], list[float]], counts: list[int], load: list[float]) -> None:
    """Rates and ratios, medians and their spread, as a table of Markdown."""
    cores = len(os.sched_getaffinity(0))
    print(
        f"{cores} cores; elsewhere {statistics.median(load):.2f} cores"
        f" ({min(load):.2f} to {max(load):.2f})"
    )
    ours, default, _ = ARMS
    print(f"| others | {' | '.join(ARMS)} | x libgomp's default | x one thread | of fair share |")
    print("|---" * (4 + len(ARMS)) + "|")
    quiet = statistics.median(found[counts[0], default])
    for count in counts:
        cells = [spread(found[count, name], "{:,.0f}") for name in ARMS]
        for name in list(ARMS)[1:]:
            pairs = list(zip(found[count, ours], found[count, name], strict=True))
            ratios = [one / other for one, other in pairs if other]
            cells.append(spread(ratios, "{:.2f}") if len(ratios) == len(pairs) else "no step")
        share = quiet * min(1.0, cores / (cores + count))
        fair = [rate / max(share, 1.0) for rate in found[count, ours]]
        cells.append(spread(fair, "{:.2f}") if max(load) <= QUIET else "not measured")
        print(f"| {count} | {' | '.join(cells)} |")


def spread(values: list[float], form: str) -> str:
    """Median (least to most)."""
    middle, least, most = (form.format(f(values)) for f in (statistics.median, min, max))
    return f"{middle} ({least} to {most})"


if __name__ == "__main__":
    sys.exit(main())
