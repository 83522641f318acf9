"""Locks between processes, and new folders for runs."""

from __future__ import annotations

import datetime
import errno
import fcntl
import json
import os
import shlex
import socket
import stat
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from os import PathLike
from pathlib import Path

from resnets.utils.errors import BusyError, ConfigError, name_in_errors
from resnets.utils.files.json import read_object
from resnets.utils.files.local_paths import output_path
from resnets.utils.machine.processes import environment_int

LOCK = ".lock"
RUNS = Path("runs")
# Seconds to wait for a lock: a killed process releases its locks one by one while it ends, which
# takes a while on a busy machine.
LOCK_TIMEOUT = 2.0
# Errors of file systems without locks; there, processes do not exclude each other.
NO_LOCKS = {errno.ENOLCK, errno.EINVAL, errno.ENOTSUP, errno.ENOSYS}


@contextmanager
def lock_folder(folder: Path) -> Iterator[None]:
    """Create `folder` and lock it against other processes; a lock ends with its process.

    If nothing was written, the folder and parents created with it are removed at the end. Raises
    BusyError that names the process that has the lock, ConfigError if `folder` is a file.
    """
    if not folder.is_dir() and os.path.lexists(folder):
        kind = "link to nothing" if not folder.exists() else "file"
        raise ConfigError(f"{folder}: is a {kind}; give a folder")
    created = [folder, *(each for each in folder.parents if not each.exists())]
    with _lock(folder / LOCK, folder):
        try:
            yield
        finally:
            with suppress(OSError):
                (folder / LOCK).unlink()
            with suppress(OSError):
                for each in created:
                    each.rmdir()  # only where it is empty


def is_locked(folder: Path) -> bool:
    """Whether the folder is locked, by another process or by other code of this one."""
    lock = folder / LOCK
    try:
        descriptor = os.open(lock, os.O_RDWR)
    except OSError:
        return False
    try:
        return not _try_lock(descriptor, lock)
    finally:
        os.close(descriptor)


@contextmanager
def lock_path(path: Path) -> Iterator[None]:
    """Lock the file or new folder `path` against other processes; a lock ends with its process.

    For what is written next to `path` and then renamed. Raises BusyError that names the process
    that has the lock.
    """
    target = path.absolute()
    lock = target.parent.resolve() / f".{target.name}.lock"
    created = [each for each in target.parents if not each.exists()]
    with _lock(lock, path):
        try:
            yield
        finally:
            with suppress(OSError):
                lock.unlink()
            with suppress(OSError):
                for each in created:
                    each.rmdir()


@contextmanager
def _lock(lock: Path, what: Path) -> Iterator[None]:
    """Create the folder of `lock` and acquire it; BusyError if `what` is being written."""
    with ExitStack() as stack:
        while True:
            _make_folder(lock.parent)
            with suppress(FileNotFoundError):  # its last owner has just removed the empty folder
                stack.enter_context(_lock_or_name_owner(lock, what))
                break
        yield


@contextmanager
def _lock_or_name_owner(lock: Path, what: Path) -> Iterator[None]:
    """Acquire `lock`, in a folder that exists; BusyError if `what` is being written."""
    with ExitStack() as stack:
        try:
            with name_in_errors(what, lock):
                note = json.dumps(_describe_process())
                stack.enter_context(lock_file(lock, LOCK_TIMEOUT, note=note))
        except BlockingIOError:
            raise BusyError(
                f"{what}: {_describe_owner(lock)} is writing {'into ' * what.is_dir()}it;"
                " wait for it to end, or choose another path"
            ) from None
        yield


def new_folder(parent: Path, name: str) -> Path:
    """Create and return the first of parent/NAME-1, -2, ... that does not exist.

    Concurrent processes get different folders.
    """
    number = 1
    while True:
        _make_folder(parent)
        with suppress(FileNotFoundError):  # another process has just removed the empty parent
            try:
                (folder := parent / f"{name}-{number}").mkdir()
                return folder
            except FileExistsError:
                number += 1


def _make_folder(folder: Path) -> None:
    """Create a folder and its parents, also while other processes remove empty ones."""
    for _ in range(3):
        with suppress(FileNotFoundError):
            folder.mkdir(parents=True, exist_ok=True)
            return
    folder.mkdir(parents=True, exist_ok=True)


@contextmanager
def lock_file(path: Path, seconds: float | None = 0.0, note: str = "") -> Iterator[Path]:
    """Create `path` and lock it; the system releases the lock when its process ends.

    A link, or a file with several names, is removed first: writing through it could overwrite any
    other file of the user. seconds: timeout, None to wait without limit. note: text to write into
    the file. Raises BlockingIOError on timeout.
    """
    deadline = None if seconds is None else time.monotonic() + seconds
    while True:
        descriptor = _open_plain(path)
        try:
            if _try_lock(descriptor, path):
                if note:
                    os.ftruncate(descriptor, 0)
                    os.pwrite(descriptor, note.encode(), 0)
                yield path
                return
        finally:
            os.close(descriptor)
        if deadline is not None and time.monotonic() >= deadline:
            raise BlockingIOError(errno.EAGAIN, "another process is writing it", str(path))
        time.sleep(0.05)


def _open_plain(path: Path) -> int:
    """Open `path` as a regular file without other names; returns its descriptor."""
    while True:
        with suppress(FileNotFoundError):
            status = os.lstat(path)
            if not stat.S_ISDIR(status.st_mode) and not _is_plain(status):
                os.unlink(path)
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
        except OSError as error:
            if error.errno == errno.ELOOP:  # replaced by a link meanwhile
                continue
            raise
        if _is_plain(os.fstat(descriptor)):
            return descriptor
        os.close(descriptor)


def _is_plain(status: os.stat_result) -> bool:
    """Whether a file is regular and has at most one name (none: just removed by its owner)."""
    return stat.S_ISREG(status.st_mode) and status.st_nlink <= 1


def _try_lock(descriptor: int, path: Path) -> bool:
    """Try to lock the file; False if another has the lock, or `path` is now another file."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno in NO_LOCKS
    try:
        status = os.stat(path)
    except FileNotFoundError:  # renamed or removed by its owner meanwhile
        return False
    return os.path.samestat(status, os.fstat(descriptor))


def _describe_process() -> dict[str, str | int]:
    return {
        "pid": os.getpid(),
        "host": socket.gethostname(),
        "command": shlex.join(sys.argv)[:200],
        "since": datetime.datetime.now().isoformat(" ", "seconds"),
    }


def _describe_owner(lock: Path) -> str:
    """Describe the process that has a lock, if its file names it."""
    try:
        owner = read_object(lock)
        return (
            f"process {owner['pid']} on {owner['host']} ({owner['command']}, since"
            f" {owner['since']})"
        )
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"


@contextmanager
def run_folder(out: str | PathLike[str] | None, name: str) -> Iterator[Path]:
    """Context with `out`, or a new folder runs/NAME-N, removed at the end if it is empty."""
    if out is not None:
        yield output_path(out)
        return
    created = [] if RUNS.exists() else [RUNS]
    folder = new_folder(RUNS, name)
    try:
        yield folder
    finally:
        for each in (folder, *created):
            with suppress(OSError):
                each.rmdir()  # only where it is empty


@contextmanager
def page_folder(out: str | PathLike[str] | None, name: str) -> Iterator[Path]:
    """`run_folder`, locked: BusyError if another process is writing into it."""
    with run_folder(out, name) as folder, lock_folder(folder):
        yield folder


@contextmanager
def results_folder(out: Path | None) -> Iterator[None]:
    """Lock the output folder of a command, if it has one; under torchrun in rank 0 only."""
    if out is None or environment_int("RANK", 0) > 0:
        yield
        return
    with lock_folder(out):
        yield
