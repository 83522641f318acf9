"""The exceptions of this package, and contexts that convert exceptions of libraries to them.

Each message is one line: what is wrong, where, and what to do.
"""

from __future__ import annotations

import errno
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING

from resnets.utils.printable import printable
from resnets.utils.suggest import suggest_path

if TYPE_CHECKING:
    import torch

# Messages of errors other than torch.OutOfMemoryError: from CPU allocators, cuBLAS and cuDNN
# (CUBLAS_STATUS_ALLOC_FAILED, and of cuDNN 9 CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED),
# and oneDNN, which does not name its reason.
CPU_MESSAGE = "can't allocate memory"
OOM_MESSAGES = (
    CPU_MESSAGE,
    "not enough memory",
    "ALLOC_FAILED",
    "ALLOCATION_FAILED",
    "out of memory",
    "could not create a primitive",
)
# What cuBLAS and cuDNN say on a full GPU, without room for a handle or for the workspace of any
# algorithm, and also for other reasons.
FULL_GPU_MESSAGES = (
    "CUBLAS_STATUS_NOT_INITIALIZED",
    "CUDNN_STATUS_NOT_INITIALIZED",
    "unable to find an engine to execute this computation",
    "Unable to find a valid cuDNN algorithm",
)
FULL_GPU_BYTES = 256 << 20  # more than a handle of either library takes
DISK_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO}


class ResnetsError(ValueError):
    """Base class of all errors of the package that are reported to the user.

    Messages contain names of files, archive members and classes, which may contain any characters;
    `str(error)` is one printable line.
    """

    def __str__(self) -> str:
        return printable(super().__str__())


class ConfigError(ResnetsError):
    """An invalid recipe, spec or option; the message gives the field and the reason."""


def refuse_options(why: str, **options: object) -> None:
    """Raise ConfigError for the first option that is set."""
    for name, value in options.items():
        if value:
            raise ConfigError(f"--{name.replace('_', '-')}: {why}")


class RemoteError(ResnetsError):
    """Another process of the run failed, and reports the error itself."""


class OutOfMemory(ResnetsError):  # noqa: N818  (as torch's)
    """Memory ran out; the message gives the cause and the remedy."""


class BusyError(ConfigError):
    """Another process is writing the folder or file; the message identifies the process."""


@contextmanager
def reading(
    name: Path | str,
    error: type[ResnetsError] = ConfigError,
    what: str = "",
    remedy: str = "",
) -> Iterator[None]:
    """Context that converts any exception while reading file `name` to `error`.

    Damaged files can raise exceptions of any type in a library, so all are caught. Errors of this
    package keep their type, with the name added if it is missing; KeyboardInterrupt and SystemExit
    pass. what: the format ("as a tar"). remedy: what to do.
    """
    end = f"; {remedy}" if remedy else ""
    read = f"read {what}" if what else "read"
    try:
        yield
    except OutOfMemory:  # the file is not at fault
        raise
    except ResnetsError as caught:
        if printable(Path(name).name) in str(caught):
            raise
        raise type(caught)(f"{name}: {caught}") from caught
    except MemoryError:
        raise error(f"{name}: does not fit into memory{end}") from None
    except Exception as caught:
        if isinstance(caught, RuntimeError) and CPU_MESSAGE in str(caught):  # torch's MemoryError
            raise error(f"{name}: does not fit into memory{end}") from None
        if isinstance(caught, RuntimeError) and "torch" in sys.modules and is_out_of_memory(caught):
            raise  # of a device to which the file is read: the file is not at fault
        why = caught.strerror if isinstance(caught, OSError) and caught.strerror else reason(caught)
        if isinstance(caught, FileNotFoundError):
            end = suggest_path(Path(name)) or end
        raise error(f"{name}: cannot be {read} ({why}){end}") from caught


@contextmanager
def name_in_errors(path: Path, *hidden: Path) -> Iterator[None]:
    """Context in which errors about `hidden` files or without a file name are about `path`."""
    try:
        yield
    except OSError as error:
        named = error.filename
        inside = isinstance(named, str | PathLike) and any(
            Path(named).is_relative_to(each) for each in hidden
        )
        if inside or (named is None and error.errno in DISK_ERRORS):
            error.filename, error.filename2 = str(path), None
        raise


def reason(error: BaseException) -> str:
    """Return the first line of an exception's message, with its type where that is needed."""
    line = next(iter(str(error).splitlines()), "") or type(error).__name__
    if isinstance(error, TypeError | AttributeError | LookupError | RecursionError):
        line = f"damaged ({type(error).__name__}: {line})"
    return line[:300]


def is_out_of_memory(error: BaseException, device: torch.device | str | None = None) -> bool:
    """Whether memory ran out, by the type of the error or its message.

    device: where it was computed; None is the current GPU of this thread. The free memory of a GPU
    decides on messages that cuBLAS and cuDNN have for other errors, too.
    """
    import torch  # deferred: commands that need no torch import this module

    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    if any(message in str(error) for message in FULL_GPU_MESSAGES):
        return _is_full(device)
    return any(message in str(error) for message in OOM_MESSAGES)


def _is_full(device: torch.device | str | None) -> bool:
    import torch

    if device is not None and torch.device(device).type != "cuda":
        return False
    try:
        free, _ = torch.cuda.mem_get_info(device)
    except (RuntimeError, AssertionError):  # CUDA is unusable, or torch has none
        return False
    return free < FULL_GPU_BYTES


@contextmanager
def within_memory(
    what: str, remedy: str, device: torch.device | str | None = None
) -> Iterator[None]:
    """Context that raises OutOfMemory if memory runs out: "out of memory: WHAT; REMEDY".

    device: see `is_out_of_memory`.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error, device):
            raise
        raise OutOfMemory(f"out of memory: {what}; {remedy}") from None
