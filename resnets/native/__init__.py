"""Small C kernels, compiled on the user's machine where that has a compiler; none are needed.

A kernel is one .c file without dependencies. It is compiled once for this processor and kept in
the user's cache under a name that follows from source, flags, compiler and processor.
"""

from __future__ import annotations

import ctypes
import hashlib
import logging
import os
import shutil
import subprocess
import sys
import tempfile
from functools import lru_cache
from pathlib import Path

from resnets import host

log = logging.getLogger("resnets")

FLAGS = (
    *("-O3", "-march=native", "-mprefer-vector-width=512", "-fno-math-errno"),
    *("-fno-trapping-math", "-fopenmp", "-shared", "-fPIC"),
)
SWITCH = "RESNETS_NATIVE"  # "0" leaves the kernels out
SECONDS = 120


@lru_cache
def load(name: str) -> ctypes.CDLL | None:
    """The compiled kernel file `name` ("norm"), or None where it cannot be had.

    Only on Linux, where torch's own OpenMP threads serve the kernels too. Compiling takes about a
    second, once. A compiler that fails is named on the log at debug level, and nothing is lost.
    """
    compiler = shutil.which(os.environ.get("CC", "cc"))
    if sys.platform != "linux" or compiler is None or os.environ.get(SWITCH) == "0":
        return None
    source = Path(__file__).with_name(f"{name}.c")
    try:
        return ctypes.CDLL(str(_compiled(source, compiler)))
    except (OSError, subprocess.SubprocessError) as error:
        log.debug("native/%s.c is left out: %s", name, error)
        return None


def _compiled(source: Path, compiler: str) -> Path:
    cache = host.cache() / "native"
    processor = host.processor_flags()  # "-march=native"; unlike machines may share a cache
    parts = (source.read_bytes(), _version(compiler), " ".join(FLAGS).encode(), processor.encode())
    key = hashlib.sha256(b"\0".join(parts)).hexdigest()[:16]
    library = cache / f"{source.stem}-{key}.so"
    if not library.exists():
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache) as folder:
            built = Path(folder, library.name)
            command = [compiler, *FLAGS, str(source), "-o", str(built), "-lm"]
            subprocess.run(command, capture_output=True, check=True, timeout=SECONDS)
            built.replace(library)  # several processes may build at once; each finds a whole file
    return library


@lru_cache
def _version(compiler: str) -> bytes:
    """What the compiler says of itself."""
    return subprocess.run(
        [compiler, "--version"], capture_output=True, check=True, timeout=SECONDS
    ).stdout
