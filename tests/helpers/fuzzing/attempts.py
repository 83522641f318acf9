"""One reader on one damaged file, in a process of its own that is watched.

A file is read, or refused by one line of the package's own errors that names it. All else is a
failure: another exception, a crash, more than SECONDS of processor time or BYTES of memory, an
output of a library on stderr.
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
from fuzzing.readers import HOME, READERS, Reader, Tree

BYTES = 1 << 30  # above what the process holds already
SECONDS = (
    40.0  # of the processor: 89 million pixels, the most that is decoded, take 6 on a busy one
)
IDLE = 120.0  # seconds without any use of the processor
CHUNK = 40  # attempts of one process
TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Attempt:
    """A damaged file: `number` of a reader's, made of `seed`; -1 of one kept, or `whole`."""

    reader: str
    seed: str
    target: str
    data: bytes
    number: int = -1
    whole: bool = False


@dataclass(frozen=True)
class Outcome:
    """kind: "read", "refused", or what went wrong; said: the message; megabytes: above the base."""

    kind: str
    said: str = ""
    seconds: float = 0.0
    megabytes: int = 0

    @property
    def good(self) -> bool:
        return self.kind in ("read", "refused")


def make(reader: Reader, seeds: dict[str, Tree], base: int, number: int) -> Attempt:
    """The damaged file `number` of a reader; the same for the same `base`."""
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
    """Each attempt with its outcome, in order; processes of CHUNK attempts, one at a time."""
    scratch = Path(tempfile.mkdtemp(prefix="fuzzing-", dir=_memory_disk()))
    waiting = list(attempts)
    try:
        while waiting:
            chunk = waiting[:CHUNK]
            done = 0
            for outcome in _watched(chunk, seeds, scratch):
                yield chunk[done], outcome
                done += 1
            waiting = waiting[done:]
            for left in scratch.iterdir():
                shutil.rmtree(left, ignore_errors=True)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _memory_disk() -> str | None:
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else None


def _watched(
    chunk: list[Attempt], seeds: dict[str, dict[str, Tree]], scratch: Path
) -> Iterator[Outcome]:
    """Outcomes of the attempts up to the end of the process, whatever ended it."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reading)
        _work(chunk, seeds, scratch, writing)
    os.close(writing)
    why, answers = "", 0
    with os.fdopen(reading, "rb", buffering=0) as pipe:
        text, spent, moved = b"", 0.0, time.monotonic()
        started = 0.0
        while True:
            ready, _, _ = select.select([pipe], [], [], 0.1)
            if ready:
                piece = pipe.read(1 << 16)
                if not piece:
                    break
                *lines, text = (text + piece).split(b"\n")
                for line in lines:
                    answers += 1
                    yield Outcome(**json.loads(line))
                started = _processor_time(pid)
                continue
            now = _processor_time(pid)
            if now != spent:
                spent, moved = now, time.monotonic()
            if now - started > SECONDS:
                why = f"more than {SECONDS:.0f} s of processor time"
            elif time.monotonic() - moved > IDLE:
                why = f"{IDLE:.0f} s without any work"
            if why:
                os.kill(pid, signal.SIGKILL)
                break
    status = os.waitpid(pid, 0)[1]
    if answers < len(chunk):
        yield Outcome("hang" if why else "crash", why or f"wait status {status}")


def _processor_time(pid: int) -> float:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / TICKS
    except (OSError, IndexError):
        return 0.0


def _memory(field: str) -> int:
    """Bytes of this process by a field of /proc/self/status."""
    with open("/proc/self/status", "rb") as status:
        found = next(line for line in status if line.startswith(field.encode()))
    return int(found.split()[1]) << 10


def _work(
    chunk: list[Attempt], seeds: dict[str, dict[str, Tree]], scratch: Path, pipe: int
) -> None:
    """The process itself: never returns."""
    try:
        faulthandler.disable()
        said = os.open(scratch / "stderr", os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
        os.dup2(said, 1)
        os.dup2(said, 2)
        limit = _memory("VmSize") + (4 << 30)
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_FSIZE, (4 << 30, 4 << 30))
        for number, attempt in enumerate(chunk):
            root = scratch / f"case{number}"
            write_tree(root, {**seeds[attempt.reader][attempt.seed], attempt.target: attempt.data})
            os.ftruncate(said, 0)
            os.lseek(said, 0, os.SEEK_SET)
            outcome = _try(attempt, root)
            printed = os.pread(said, 300, 0)
            if outcome.good and printed:
                outcome = Outcome("output", repr(printed), outcome.seconds, outcome.megabytes)
            os.write(pipe, json.dumps(asdict(outcome)).encode() + b"\n")
            shutil.rmtree(root, ignore_errors=True)
    finally:
        os._exit(0)


def write_tree(root: Path, tree: Tree) -> None:
    """The files of a tree below `root`."""
    for path, data in tree.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(data)


def _try(attempt: Attempt, root: Path) -> Outcome:
    """Every way of a reader to read the file: the first that goes wrong, else what they said."""
    with open("/proc/self/clear_refs", "w") as peak:
        peak.write("5")  # the peak counts from here
    base, before = _memory("VmRSS"), time.process_time()
    names = (attempt.target.rpartition("/")[2], str(root), HOME)
    reader = READERS[attempt.reader]
    kind, said = "read", ""
    for way in reader.ways:
        found, text = _one_way(way, root, names if reader.names else ())
        if found not in ("read", "refused"):
            kind, said = found, f"{way.__name__}: {text}"
            break
        if found == "refused":
            kind, said = found, text
    grown = _memory("VmHWM") - base
    if grown > BYTES and kind in ("read", "refused"):
        kind, said = "memory", f"{grown >> 20:,} MiB; {said}"
    return Outcome(kind, said[:1000], time.process_time() - before, grown >> 20)


def _one_way(way, root: Path, names: tuple[str, ...]) -> tuple[str, str]:
    try:
        way(root)
        return "read", ""
    except BaseException as error:
        said = f"{type(error).__name__}: {error}"
        if _out_of_memory(error):
            return "memory", said
        if not (isinstance(error, Exception) and type(error).__module__.startswith("resnets.")):
            return "exception", f"{said} at {_place(error)}"
        if "\n" in str(error) or "\r" in str(error):
            return "several lines", said
        if names and not any(name in str(error) for name in names):
            return "unnamed", said
        return "refused", said


def _out_of_memory(error: BaseException | None) -> bool:
    """Whether anything behind an error is a lack of memory: an attempt has 4 GiB."""
    seen = 0
    while error is not None and seen < 20:
        text = str(error)
        if isinstance(error, MemoryError) or "can't allocate memory" in text or "bad_alloc" in text:
            return True
        error, seen = error.__cause__ or error.__context__, seen + 1
    return False


def _place(error: BaseException) -> str:
    """The innermost line of the package that an exception went through."""
    trace, found = error.__traceback__, ""
    while trace is not None:
        file = trace.tb_frame.f_code.co_filename
        if "/resnets/" in file or not found:
            found = f"{file.rpartition('/resnets/')[2]}:{trace.tb_lineno}"
        trace = trace.tb_next
    return found
