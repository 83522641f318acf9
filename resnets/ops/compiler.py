"""Small C kernels, compiled on the user's machine if it has a compiler; none are required.

A kernel is one .c file without dependencies. It is compiled once and cached in the user's cache
folder under a name derived from everything the machine code depends on: source, flags, compiler,
instruction set and C library. So different machines can share a home directory.

A cached file is loaded only if this user owns it, nobody else can write it, and its bytes match the
checksum at its end: a file that was truncated, or planted by somebody else, is rebuilt.
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import logging
import os
import platform
import shlex
import shutil
import stat
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from resnets.utils import environment

log = logging.getLogger("resnets")

NAMES = ("norm", "conv_weights", "flip", "resize", "jpeg")
FLAGS = (
    *("-O3", "-march=native", "-mprefer-vector-width=512", "-fno-math-errno"),
    *("-fno-trapping-math", "-fopenmp", "-shared", "-fPIC"),
)
ENABLED = "RESNETS_NATIVE"  # environment variable; "0" disables the kernels
COMPILE_TIMEOUT = 120  # seconds
DIGEST = hashlib.sha256().digest_size

Signature = tuple[list[Any], Any]  # argument types and result type of a C function


@dataclass(frozen=True)
class Kernel:
    """A kernel file: the loaded `library`, or the `reason` why there is none.

    note: why it is not cached although it was built, "" if it is.
    """

    name: str
    library: ctypes.CDLL | None
    reason: str = ""
    note: str = ""


def load(name: str, **signatures: Signature) -> ctypes.CDLL | None:
    """The compiled kernel file `name` ("norm"), or None if it is not available; see `kernel`.

    signatures: for each function that is called, its argument types and result type.
    """
    library = kernel(name).library
    if library is not None:
        for function, (arguments, result) in signatures.items():
            getattr(library, function).argtypes = arguments
            getattr(library, function).restype = result
    return library


@lru_cache
def kernel(name: str) -> Kernel:
    """The kernel file `name`, compiled (about a second, once) or loaded from the cache.

    Only on Linux, where the kernels share torch's own OpenMP threads. A compiler that fails is
    reported with a warning; training then uses torch's operators alone.
    """
    if os.environ.get(ENABLED) == "0":
        return Kernel(name, None, f"disabled by {ENABLED}=0")
    if sys.platform != "linux":
        return Kernel(name, None, f"built on Linux only, not on {sys.platform}")
    command = shlex.split(os.environ.get("CC", "cc"))
    found = shutil.which(command[0]) if command else None
    if found is None:
        return Kernel(name, None, f"no C compiler: {command[0] if command else 'CC'} not found")
    try:
        return _built(name, [found, *command[1:]])
    except (OSError, subprocess.SubprocessError) as error:
        reason = _reason(error)
        log.warning("native/%s.c: not available, using torch's operators: %s", name, reason)
        return Kernel(name, None, reason)


def _built(name: str, compiler: list[str]) -> Kernel:
    """The kernel from the cache, or compiled now. Raises OSError and SubprocessError."""
    source = Path(__file__).parent / "native" / f"{name}.c"
    cache = environment.cache() / f"native-{os.geteuid()}"  # the folder above may be shared
    library = cache / f"{name}-{_key(source, compiler)}.so"
    problem = _unsafe(cache)
    if not problem and _intact(library):
        with contextlib.suppress(OSError):  # built on a machine with other libraries
            return Kernel(name, ctypes.CDLL(str(library)))
    # A private folder (mode 0700) in the cache, so that the rename stays on one file system.
    with tempfile.TemporaryDirectory(dir=None if problem else cache) as folder:
        built = Path(folder, library.name)
        command = [*compiler, *FLAGS, str(source), "-o", str(built), "-lm"]
        subprocess.run(command, capture_output=True, check=True, timeout=COMPILE_TIMEOUT)
        _seal(built)
        if not problem:
            try:
                os.replace(built, library)  # atomic: several processes may build at once
                _sync(cache)
                built = library
            except OSError as error:
                problem = f"{library} cannot be written ({error.strerror})"
        return Kernel(name, ctypes.CDLL(str(built)), note=problem)


def _key(source: Path, compiler: list[str]) -> str:
    """Hash of everything that determines the machine code and where it runs."""
    parts = (
        source.read_bytes(),
        _version(tuple(compiler)),
        "\0".join((*compiler, *FLAGS)).encode(),
        environment.cpu_flags().encode(),  # "-march=native"
        " ".join((platform.machine(), *platform.libc_ver())).encode(),
    )
    return hashlib.sha256(b"\0".join(parts)).hexdigest()[:16]


@lru_cache
def _version(compiler: tuple[str, ...]) -> bytes:
    """Output of the compiler's --version."""
    return subprocess.run(
        [*compiler, "--version"], capture_output=True, check=True, timeout=COMPILE_TIMEOUT
    ).stdout


def _unsafe(cache: Path) -> str:
    """Create the cache folder; returns why it cannot be used, "" if it can."""
    try:
        cache.mkdir(mode=0o700, parents=True, exist_ok=True)
        with contextlib.suppress(PermissionError):  # not ours; reported below
            cache.chmod(0o700)
        if problem := _foreign(os.stat(cache)):
            return f"{cache}: {problem}"
        if not os.access(cache, os.W_OK | os.X_OK):
            return f"{cache}: cannot be written"
    except OSError as error:
        return f"{cache}: {error.strerror}"
    return ""


def _foreign(status: os.stat_result) -> str:
    """Why other users may have changed a file or folder, "" if they cannot have."""
    if status.st_uid != os.geteuid():
        return f"belongs to user {status.st_uid}"
    return "other users can write it" if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH) else ""


def _intact(library: Path) -> bool:
    """Whether a cached library is ours and complete; loading a truncated one would crash later."""
    try:
        with open(library, "rb", opener=_no_links) as file:
            if _foreign(os.fstat(file.fileno())):
                return False
            content = file.read()
    except OSError:
        return False
    return hashlib.sha256(content[:-DIGEST]).digest() == content[-DIGEST:]


def _no_links(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW)


def _seal(built: Path) -> None:
    """Append the checksum (ELF loaders ignore what follows) and write everything to the disk."""
    with built.open("r+b") as file:
        digest = hashlib.sha256(file.read()).digest()
        file.write(digest)
        file.flush()
        os.fsync(file.fileno())
    built.chmod(0o700)


def _sync(folder: Path) -> None:
    """Make a rename in `folder` durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _reason(error: OSError | subprocess.SubprocessError) -> str:
    """One line: why compiling or loading failed."""
    if isinstance(error, subprocess.CalledProcessError):
        lines = error.stderr.decode(errors="replace").strip().splitlines()
        message = next((line for line in lines if "error" in line), lines[-1] if lines else "")
        return f"{error.cmd[0]} failed with exit code {error.returncode}: {message[:200]}"
    if isinstance(error, subprocess.TimeoutExpired):
        return f"the compiler took longer than {COMPILE_TIMEOUT} s"
    return str(error)
