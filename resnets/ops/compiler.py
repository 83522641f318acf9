"""Small C kernels, compiled on the user's machine if it has a compiler; none are required.

A kernel is one .c file without dependencies. It is compiled once and cached in the user's cache
folder. Its name there is a hash of everything that the machine code depends on (source, flags,
compiler, instruction set, C library), so that different machines can share a home directory.

A cached file is loaded only if this user owns it, no other user can write it, and its bytes match
the checksum at its end; otherwise it is built again.
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

from resnets.utils.files.write import sync_folder
from resnets.utils.machine import environment

log = logging.getLogger("resnets")

KERNELS = ("norm", "conv_weights", "conv_weights_avx512", "flip", "resize", "jpeg")
FLAGS = (
    "-O3",
    "-march=native",
    "-mprefer-vector-width=512",
    "-fno-math-errno",
    "-fno-trapping-math",
    "-fopenmp",
    "-shared",
    "-fPIC",
)
ENABLED = "RESNETS_NATIVE"  # environment variable; "0" disables the kernels
COMPILE_TIMEOUT = 120  # seconds
DIGEST = hashlib.sha256().digest_size

Signature = tuple[list[Any], Any]  # argument types and result type of a C function


@dataclass(frozen=True)
class Kernel:
    """A kernel: the loaded `library`, or the `reason` why it is not available.

    note: why the built library is not cached, "" if it is.
    """

    name: str
    library: ctypes.CDLL | None
    reason: str = ""
    note: str = ""


def load_library(name: str, **signatures: Signature) -> ctypes.CDLL | None:
    """Return the library of the kernel `name` ("norm"), None if not available; see `load_kernel`.

    signatures: argument types and result type of each function that is called.
    """
    library = load_kernel(name).library
    if library is not None:
        for function, (arguments, result) in signatures.items():
            getattr(library, function).argtypes = arguments
            getattr(library, function).restype = result
    return library


@lru_cache
def load_kernel(name: str) -> Kernel:
    """Compile the kernel `name` (about a second, once) or load it from the cache.

    Only on Linux, where the kernels share torch's own OpenMP threads. A compiler that fails is
    reported with a warning; training then uses torch's operators alone.
    """
    if os.environ.get(ENABLED) == "0":
        return Kernel(name, None, f"disabled by {ENABLED}=0")
    if sys.platform != "linux":
        return Kernel(name, None, f"built on Linux only, not on {sys.platform}")
    command = shlex.split(os.environ.get("CC", "cc"))
    path = shutil.which(command[0]) if command else None
    if path is None:
        return Kernel(name, None, f"no C compiler: {command[0] if command else 'CC'} not found")
    try:
        return _load_or_compile(name, [path, *command[1:]])
    except (OSError, subprocess.SubprocessError) as error:
        reason = _describe_error(error)
        log.warning("native/%s.c: not available, using torch's operators: %s", name, reason)
        return Kernel(name, None, reason)


def _load_or_compile(name: str, compiler: list[str]) -> Kernel:
    """Return the kernel from the cache, or compile it. Raises OSError and SubprocessError."""
    source = Path(__file__).parent / "native" / f"{name}.c"
    cache = environment.cache_folder() / f"native-{os.geteuid()}"  # the folder above may be shared
    library = cache / f"{name}-{_cache_key(source, compiler)}.so"
    problem = _prepare_cache(cache)
    if not problem and _is_intact(library):
        with contextlib.suppress(OSError):  # built on a machine with other libraries
            return Kernel(name, ctypes.CDLL(str(library)))
    # A private folder (mode 0700) in the cache, so that the rename stays on one file system.
    with tempfile.TemporaryDirectory(dir=None if problem else cache) as folder:
        built = Path(folder, library.name)
        command = [*compiler, *FLAGS, str(source), "-o", str(built), "-lm"]
        subprocess.run(command, capture_output=True, check=True, timeout=COMPILE_TIMEOUT)
        _append_checksum(built)
        if not problem:
            try:
                os.replace(built, library)  # atomic: several processes may build at once
                sync_folder(cache)
                built = library
            except OSError as error:
                problem = f"{library} cannot be written ({error.strerror})"
        return Kernel(name, ctypes.CDLL(str(built)), note=problem)


def _cache_key(source: Path, compiler: list[str]) -> str:
    """Return a hash of everything that determines the machine code and where it runs."""
    parts = (
        source.read_bytes(),
        _compiler_version(tuple(compiler)),
        "\0".join((*compiler, *FLAGS)).encode(),
        environment.cpu_flags().encode(),  # "-march=native"
        " ".join((platform.machine(), *platform.libc_ver())).encode(),
    )
    return hashlib.sha256(b"\0".join(parts)).hexdigest()[:16]


@lru_cache
def _compiler_version(compiler: tuple[str, ...]) -> bytes:
    """Return the output of the compiler's --version."""
    return subprocess.run(
        [*compiler, "--version"], capture_output=True, check=True, timeout=COMPILE_TIMEOUT
    ).stdout


def _prepare_cache(cache: Path) -> str:
    """Create the cache folder; return why it cannot be used, "" if it can."""
    try:
        cache.mkdir(mode=0o700, parents=True, exist_ok=True)
        with contextlib.suppress(PermissionError):  # not ours; reported below
            cache.chmod(0o700)
        if problem := _ownership_problem(os.stat(cache)):
            return f"{cache}: {problem}"
        if not os.access(cache, os.W_OK | os.X_OK):
            return f"{cache}: cannot be written"
    except OSError as error:
        return f"{cache}: {error.strerror}"
    return ""


def _ownership_problem(status: os.stat_result) -> str:
    """Return why another user may have changed a file or folder, "" if none can."""
    if status.st_uid != os.geteuid():
        return f"belongs to user {status.st_uid}"
    return "other users can write it" if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH) else ""


def _is_intact(library: Path) -> bool:
    """Return whether a cached library is this user's and complete; loading others could crash."""
    try:
        with open(library, "rb", opener=_open_without_links) as file:
            if _ownership_problem(os.fstat(file.fileno())):
                return False
            content = file.read()
    except OSError:
        return False
    return hashlib.sha256(content[:-DIGEST]).digest() == content[-DIGEST:]


def _open_without_links(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW)


def _append_checksum(built: Path) -> None:
    """Append the SHA-256, which ELF loaders ignore, and flush the file to disk."""
    with built.open("r+b") as file:
        digest = hashlib.sha256(file.read()).digest()
        file.write(digest)
        file.flush()
        os.fsync(file.fileno())
    built.chmod(0o700)


def _describe_error(error: OSError | subprocess.SubprocessError) -> str:
    """Return one line that says why compiling or loading failed."""
    if isinstance(error, subprocess.CalledProcessError):
        lines = error.stderr.decode(errors="replace").strip().splitlines()
        message = next((line for line in lines if "error" in line), lines[-1] if lines else "")
        return f"{error.cmd[0]} failed with exit code {error.returncode}: {message[:200]}"
    if isinstance(error, subprocess.TimeoutExpired):
        return f"the compiler took longer than {COMPILE_TIMEOUT} s"
    return str(error)
