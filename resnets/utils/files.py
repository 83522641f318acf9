"""Files that appear whole or not at all, and folders that one process at a time writes into."""

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
from pathlib import Path

from resnets.utils.errors import BusyError, ConfigError, read_object
from resnets.utils.processes import environment_int

LOCK = ".lock"
RUNS = Path("runs")
# Seconds to wait for a folder: a killed process lets go of its locks one by one while it ends,
# which takes a while on a busy machine.
BRIEFLY = 2.0
PATIENCE = 10.0  # seconds that `atomic_write` waits for another process at the same file
DISK = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO}
# What file systems without locks answer; there two processes are not kept apart.
NO_LOCKS = {errno.ENOLCK, errno.EINVAL, errno.ENOTSUP, errno.ENOSYS}


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Yields where to write: a file beside `path`, which takes its place when the block ends well.

    It is on the disk, name included, before the block is left. After an error nothing is left of
    it, and what was at `path` stays as it was. Raises BlockingIOError where another process is
    writing the same file.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    with _naming(path, temporary):
        if path.is_dir():  # said before anything is computed
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
        with hold_file(temporary, PATIENCE):
            try:
                yield temporary
                with open(temporary, "rb") as file:
                    os.fsync(file.fileno())
                os.replace(temporary, path)
                sync_folder(path.parent)
            except BaseException:
                with suppress(OSError):
                    temporary.unlink()
                raise


@contextmanager
def _naming(path: Path, *hidden: Path) -> Iterator[None]:
    """Have errors about the `hidden` files name `path`, and those of a full or read-only disk,
    which come without a name."""
    try:
        yield
    except OSError as error:
        if error.filename in {str(each) for each in hidden} or (
            error.filename is None and error.errno in DISK
        ):
            error.filename, error.filename2 = str(path), None
        raise


def sync_folder(folder: Path) -> None:
    """Have the names in a folder on the disk too, so that a power cut does not undo a rename."""
    with suppress(OSError):  # not every file system lets folders be opened
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


@contextmanager
def hold_folder(folder: Path) -> Iterator[None]:
    """Make `folder` and keep other processes from writing into it; a killed holder lets go.

    Left again, a folder in which nothing was written is removed, and so are the folders around it
    that were made for it. Raises ConfigError that says who holds it, or that `folder` is a file.
    """
    if not folder.is_dir() and os.path.lexists(folder):
        kind = "link to nothing" if not folder.exists() else "file"
        raise ConfigError(f"{folder}: is a {kind}; give a folder")
    made = [folder, *(each for each in folder.parents if not each.exists())]
    with _held(folder / LOCK, folder):
        try:
            yield
        finally:
            with suppress(OSError):
                (folder / LOCK).unlink()
            with suppress(OSError):
                for each in made:
                    each.rmdir()  # only where it is empty


def is_held(folder: Path) -> bool:
    """Whether another process, or another part of this one, holds the folder now."""
    lock = folder / LOCK
    try:
        descriptor = os.open(lock, os.O_RDWR)
    except OSError:
        return False
    try:
        return not _locked(descriptor, lock)
    finally:
        os.close(descriptor)


@contextmanager
def hold_name(path: Path) -> Iterator[None]:
    """Keep other processes from writing the file or new folder `path`; a killed holder lets go.

    For what is made beside `path` and then renamed. Raises ConfigError that says who holds it.
    """
    place = path.absolute()
    lock = place.parent.resolve() / f".{place.name}.lock"
    made = [each for each in place.parents if not each.exists()]
    with _held(lock, path):
        try:
            yield
        finally:
            with suppress(OSError):
                lock.unlink()
            with suppress(OSError):
                for each in made:
                    each.rmdir()


@contextmanager
def _held(lock: Path, what: Path) -> Iterator[None]:
    """Make the folder of `lock` and hold it; ConfigError that `what` is being written."""
    with ExitStack() as held:
        while True:
            _make(lock.parent)
            with suppress(FileNotFoundError):  # its last holder has just removed the empty folder
                try:
                    with _naming(what, lock):
                        held.enter_context(hold_file(lock, BRIEFLY, note=json.dumps(_holder())))
                    break
                except BlockingIOError:
                    raise BusyError(
                        f"{what}: {_describe(lock)} is writing {'into ' * what.is_dir()}it; wait"
                        " for it to end, or choose another place"
                    ) from None
        yield


def new_folder(parent: Path, name: str) -> Path:
    """Make and return the first of parent/NAME-1, -2, ... that does not exist.

    Of several processes that ask at once each gets a folder of its own.
    """
    number = 1
    while True:
        _make(parent)
        with suppress(FileNotFoundError):  # another process has just removed the empty parent
            try:
                (folder := parent / f"{name}-{number}").mkdir()
                return folder
            except FileExistsError:
                number += 1


def _make(folder: Path) -> None:
    """Make a folder and those around it, also while others remove empty ones."""
    for _ in range(3):
        with suppress(FileNotFoundError):
            folder.mkdir(parents=True, exist_ok=True)
            return
    folder.mkdir(parents=True, exist_ok=True)


@contextmanager
def hold_file(path: Path, seconds: float | None = 0.0, note: str = "") -> Iterator[Path]:
    """Make `path` and hold a lock on it; the system frees it when its holder dies.

    A link or anything else than a file of this one name is removed first: written through it, a
    lock or temporary file could overwrite any other file of the user. seconds: how long to wait for
    another holder, None as long as it takes. note: what the file says then. Raises BlockingIOError.
    """
    deadline = None if seconds is None else time.monotonic() + seconds
    while True:
        descriptor = _opened(path)
        try:
            if _locked(descriptor, path):
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


def _opened(path: Path) -> int:
    """A descriptor of `path`, which is a file that no other name leads to."""
    while True:
        with suppress(FileNotFoundError):
            found = os.lstat(path)
            if not stat.S_ISDIR(found.st_mode) and not _is_plain(found):
                os.unlink(path)
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
        except OSError as error:
            if error.errno == errno.ELOOP:  # a link again, made meanwhile
                continue
            raise
        if _is_plain(os.fstat(descriptor)):
            return descriptor
        os.close(descriptor)


def _is_plain(found: os.stat_result) -> bool:
    """Whether it is a file of at most one name (none: its holder has just removed it)."""
    return stat.S_ISREG(found.st_mode) and found.st_nlink <= 1


def _locked(descriptor: int, path: Path) -> bool:
    """Whether the file is locked now, and still the one that has the name `path`."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno in NO_LOCKS
    try:
        found = os.stat(path)
    except FileNotFoundError:  # its holder has renamed or removed it meanwhile
        return False
    return os.path.samestat(found, os.fstat(descriptor))


def _holder() -> dict[str, str | int]:
    return {
        "pid": os.getpid(),
        "host": socket.gethostname(),
        "command": shlex.join(sys.argv)[:200],
        "since": datetime.datetime.now().isoformat(" ", "seconds"),
    }


def _describe(lock: Path) -> str:
    """Who holds a lock, as far as its file says."""
    try:
        held = read_object(lock)
        return f"process {held['pid']} on {held['host']} ({held['command']}, since {held['since']})"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"


@contextmanager
def run_folder(out: Path | None, name: str) -> Iterator[Path]:
    """`out`, or a new folder runs/NAME-N that no other process gets, removed again if unused."""
    if out is not None:
        yield out
        return
    made = [] if RUNS.exists() else [RUNS]
    folder = new_folder(RUNS, name)
    try:
        yield folder
    finally:
        for each in (folder, *made):
            with suppress(OSError):
                each.rmdir()  # only where it is empty


@contextmanager
def page_folder(out: Path | None, name: str) -> Iterator[Path]:
    """The same, held from the start: another process that would write into it is refused."""
    with run_folder(out, name) as folder, hold_folder(folder):
        yield folder


@contextmanager
def results_folder(out: Path | None) -> Iterator[None]:
    """Hold the folder that a command writes its results into, if it writes any.

    Of several processes that torchrun started, the first one does.
    """
    if out is None or environment_int("RANK", 0) > 0:
        yield
        return
    with hold_folder(out):
        yield
