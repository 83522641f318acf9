"""Run one reader on one damaged file in a monitored process.

The file must be read, or refused with one line of the package's own errors that names it. Anything
else is a failure: another exception, a crash, more than SECONDS of processor time or BYTES of
memory, output of a library on stderr.
"""

from __future__ import annotations

import faulthandler
import json
import os
import random
import resource
import select
import shutil
import signal
import tempfile
import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from fuzzing.mutate import mutate
from fuzzing.readers import HOME, READERS, Reader, Tree, Way

BYTES = 1 << 30  # of memory, above that of the process at the start
SECONDS = 40.0  # of processor time; 89 million pixels, the most that is decoded, take 6
IDLE = 120.0  # seconds without processor time
CHUNK = 40  # attempts per process
TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Attempt:
    """A damaged file of a reader: the valid tree `seed` with `data` as its file `target`.

    number: -1 for a kept case or a valid file. whole: a valid file, which has to be read.
    """

    reader: str
    seed: str
    target: str
    data: bytes
    number: int = -1
    whole: bool = False


@dataclass(frozen=True)
class Outcome:
    """Result of an attempt.

    kind: "read", "refused", or the kind of failure. message: of the error. seconds: of processor
    time. megabytes: peak memory above that at the start, in MiB.
    """

    kind: str
    message: str = ""
    seconds: float = 0.0
    megabytes: int = 0

    @property
    def good(self) -> bool:
        return self.kind in ("read", "refused")


def make(reader: Reader, seeds: dict[str, Tree], base: int, number: int) -> Attempt:
    """Damage file `number` of a reader, a function of `base`, the reader's name and `number`."""
    draw = random.Random(f"{base}/{reader.name}/{number}")
    name = draw.choice(sorted(seeds))
    tree = seeds[name]
    target = draw.choice(reader.targets(tree))
    others = [
        other[path]
        for other in seeds.values()
        for path in reader.targets(other)
        if other[path] != tree[target]
    ][:40]
    return Attempt(reader.name, name, target, mutate(tree[target], target, others, draw), number)


def run(
    attempts: Iterable[Attempt], seeds: dict[str, dict[str, Tree]]
) -> Iterator[tuple[Attempt, Outcome]]:
    """Yield each attempt with its outcome, in order, from one process per CHUNK attempts."""
    scratch = Path(tempfile.mkdtemp(prefix="fuzzing-", dir=_memory_disk()))
    pending = list(attempts)
    try:
        while pending:
            chunk = pending[:CHUNK]
            done = 0
            for outcome in _monitor(chunk, seeds, scratch):
                yield chunk[done], outcome
                done += 1
            pending = pending[done:]
            for path in scratch.iterdir():
                shutil.rmtree(path, ignore_errors=True)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _memory_disk() -> str | None:
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else None


def _monitor(
    chunk: list[Attempt], seeds: dict[str, dict[str, Tree]], scratch: Path
) -> Iterator[Outcome]:
    """Yield outcomes of the attempts until their process ends, whatever ends it."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reading)
        _run_chunk(chunk, seeds, scratch, writing)
    os.close(writing)
    reason, count = "", 0
    with os.fdopen(reading, "rb", buffering=0) as pipe:
        text, processor_time, last_progress = b"", 0.0, time.monotonic()
        started = 0.0
        while True:
            ready, _, _ = select.select([pipe], [], [], 0.1)
            if ready:
                data = pipe.read(1 << 16)
                if not data:
                    break
                *lines, text = (text + data).split(b"\n")
                for line in lines:
                    count += 1
                    yield Outcome(**json.loads(line))
                started = _processor_time(pid)
                continue
            now = _processor_time(pid)
            if now != processor_time:
                processor_time, last_progress = now, time.monotonic()
            if now - started > SECONDS:
                reason = f"more than {SECONDS:.0f} s of processor time"
            elif time.monotonic() - last_progress > IDLE:
                reason = f"{IDLE:.0f} s without processor time"
            if reason:
                os.kill(pid, signal.SIGKILL)
                break
    status = os.waitpid(pid, 0)[1]
    if count < len(chunk):
        yield Outcome("hang" if reason else "crash", reason or f"wait status {status}")


def _processor_time(pid: int) -> float:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / TICKS
    except (OSError, IndexError):
        return 0.0


def _memory(field: str) -> int:
    """A field of /proc/self/status in bytes."""
    with open("/proc/self/status", "rb") as status:
        line = next(line for line in status if line.startswith(field.encode()))
    return int(line.split()[1]) << 10


def _run_chunk(
    chunk: list[Attempt], seeds: dict[str, dict[str, Tree]], scratch: Path, pipe: int
) -> None:
    """Run attempts and write their outcomes to `pipe`; ends the process."""
    try:
        faulthandler.disable()
        output = os.open(scratch / "stderr", os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
        os.dup2(output, 1)
        os.dup2(output, 2)
        limit = _memory("VmSize") + (4 << 30)
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_FSIZE, (4 << 30, 4 << 30))
        for number, attempt in enumerate(chunk):
            root = scratch / f"case{number}"
            write_tree(root, {**seeds[attempt.reader][attempt.seed], attempt.target: attempt.data})
            os.ftruncate(output, 0)
            os.lseek(output, 0, os.SEEK_SET)
            outcome = _run_attempt(attempt, root)
            printed = os.pread(output, 300, 0)
            if outcome.good and printed:
                outcome = Outcome("output", repr(printed), outcome.seconds, outcome.megabytes)
            os.write(pipe, json.dumps(asdict(outcome)).encode() + b"\n")
            shutil.rmtree(root, ignore_errors=True)
    finally:
        os._exit(0)


def write_tree(root: Path, tree: Tree) -> None:
    """Write the files of a tree below `root`."""
    for path, data in tree.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(data)


def _run_attempt(attempt: Attempt, root: Path) -> Outcome:
    """Read the file with each function of the reader, up to the first that fails."""
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")  # resets the peak of memory
    base, before = _memory("VmRSS"), time.process_time()
    names = (attempt.target.rpartition("/")[2], str(root), HOME)
    reader = READERS[attempt.reader]
    kind, message = "read", ""
    for read in reader.ways:
        result, text = _read_once(read, root, names if reader.names else ())
        if result not in ("read", "refused"):
            kind, message = result, f"{read.__name__}: {text}"
            break
        if result == "refused":
            kind, message = result, text
    growth = _memory("VmHWM") - base
    if growth > BYTES and kind in ("read", "refused"):
        kind, message = "memory", f"{growth >> 20:,} MiB; {message}"
    return Outcome(kind, message[:1000], time.process_time() - before, growth >> 20)


def _read_once(read: Way, root: Path, names: tuple[str, ...]) -> tuple[str, str]:
    """The kind of outcome of one function, and its message."""
    try:
        read(root)
        return "read", ""
    except BaseException as error:
        message = f"{type(error).__name__}: {error}"
        if _is_out_of_memory(error):
            return "memory", message
        if not (isinstance(error, Exception) and type(error).__module__.startswith("resnets.")):
            return "exception", f"{message} at {_find_line(error)}"
        if "\n" in str(error) or "\r" in str(error):
            return "several lines", message
        if names and not any(name in str(error) for name in names):
            return "unnamed", message
        return "refused", message


def _is_out_of_memory(error: BaseException | None) -> bool:
    """Whether an error or one of its causes is a lack of memory: an attempt has 4 GiB."""
    depth = 0
    while error is not None and depth < 20:
        text = str(error)
        if isinstance(error, MemoryError) or "can't allocate memory" in text or "bad_alloc" in text:
            return True
        error, depth = error.__cause__ or error.__context__, depth + 1
    return False


def _find_line(error: BaseException) -> str:
    """The innermost line of the package in a traceback."""
    trace, line = error.__traceback__, ""
    while trace is not None:
        file = trace.tb_frame.f_code.co_filename
        if "/resnets/" in file or not line:
            line = f"{file.rpartition('/resnets/')[2]}:{trace.tb_lineno}"
        trace = trace.tb_next
    return line
