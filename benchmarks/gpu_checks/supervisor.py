"""Run the cases of benchmarks/gpu.py in a child process; after a crash or a hang start a new one.

An error of CUDA makes a process unusable, a bad kernel can end it, and a call outside of Python
cannot be interrupted: none of these may prevent the following cases from running.
"""

from __future__ import annotations

import contextlib
import faulthandler
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

# Environment variables of a child: the folder of `CASE` and `TRACE`, and the cases of this run that
# have failed, which it skips and reports.
FOLDER, FAILED = "GPU_CHECKS_FOLDER", "GPU_CHECKS_FAILED"
CASE, TRACE = "case.json", "trace.txt"
UNUSABLE = 75  # exit code of a child in which no other case can run
NORMAL = (0, 1, 2)
GRACE = 60.0  # seconds after its limit from which a case is hung; a compilation delays its end
POLL = 0.1


def is_child() -> bool:
    """Whether this process runs the cases."""
    return FOLDER in os.environ


def failed_before() -> list[str]:
    """Return "section/case" of those that failed in earlier children of this run."""
    return [each for each in os.environ.get(FAILED, "").split("\n") if each]


def enable_traces() -> None:
    """Write the stack of all threads to `TRACE` when this child crashes or is ended as hung."""
    if is_child():
        file = (Path(os.environ[FOLDER]) / TRACE).open("w")
        faulthandler.enable(file)
        faulthandler.register(signal.SIGUSR1, file)


def note_case(line: dict[str, Any] | None, seconds: float = 0.0) -> None:
    """Set what to record if this child ends before the next call; None: nothing is running.

    seconds: after which the case will have stopped.
    """
    if not is_child():
        return
    path = Path(os.environ[FOLDER]) / CASE
    note = {"line": line, "until": time.monotonic() + seconds}
    path.with_suffix(".new").write_text(json.dumps(note), encoding="utf-8")
    path.with_suffix(".new").replace(path)


def supervise(results: Path, deadline: float) -> int:
    """Run `sys.argv` in a child until it ends by itself; returns the exit code.

    results: the file to which a case is added that crashed or hung. deadline: time.monotonic() when
    the limit is reached.
    """
    start, failed = _size(results), set[str]()
    while True:
        before = _size(results)
        with tempfile.TemporaryDirectory() as folder:
            code, note = _run_child(Path(folder), deadline, failed)
            if code in NORMAL:
                return code
            from gpu_checks import record  # deferred: imports torch

            if note["line"] is not None:
                trace = Path(folder, TRACE)
                text = trace.read_text(errors="replace") if trace.exists() else ""
                error = _describe(code, hung=time.monotonic() > note["until"] + GRACE)
                record.append(results, note["line"] | {"error": error, "traceback": text})
                print(
                    f"{note['line']['section']}/{note['line']['case']}: {error}\n{text}", flush=True
                )
        if _size(results) == before or time.monotonic() > deadline:
            print(f"{results}: the process of the cases ended with code {code}", flush=True)
            return 1
        failed = record.failures(record.read(results, start))


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _run_child(folder: Path, deadline: float, failed: set[str]) -> tuple[int, dict[str, Any]]:
    """Run the cases in a new process; returns its exit code and its last note."""
    environment = os.environ | {FOLDER: str(folder), FAILED: "\n".join(sorted(failed))}
    limit = f"--limit={deadline - time.monotonic():.1f}"
    child = subprocess.Popen([sys.executable, *sys.argv, limit], env=environment)
    note: dict[str, Any] = {"line": None, "until": deadline}
    try:
        while child.poll() is None:
            time.sleep(POLL)
            with contextlib.suppress(OSError):
                note = json.loads((folder / CASE).read_text(encoding="utf-8"))
            until = deadline if note["line"] is None else note["until"]
            if time.monotonic() > until + GRACE:
                _end(child)
    finally:
        child.kill()
        child.wait()
    with contextlib.suppress(OSError):
        note = json.loads((folder / CASE).read_text(encoding="utf-8"))
    return child.returncode, note


def _end(child: subprocess.Popen[bytes]) -> None:
    """End a child that hangs; it writes where."""
    child.send_signal(signal.SIGUSR1)
    time.sleep(1)
    child.kill()
    child.wait()


def _describe(code: int, hung: bool) -> str:
    if hung:
        return "Hung: the case did not stop at its limit, and its process was ended"
    if code < 0:
        return f"Crashed: the process ended by signal {signal.Signals(-code).name}"
    return f"Crashed: the process ended with exit code {code}"
