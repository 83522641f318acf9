"""Running out of memory, on the CPU or a device, as an error of one line."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from resnets.utils.errors import ResnetsError

# Messages of errors other than torch.OutOfMemoryError: from CPU allocators, cuBLAS and cuDNN
# (CUBLAS_STATUS_ALLOC_FAILED), and oneDNN, which does not name its reason.
OOM_MESSAGES = (
    "can't allocate memory",
    "not enough memory",
    "ALLOC_FAILED",
    "out of memory",
    "could not create a primitive",
)


class OutOfMemory(ResnetsError):  # noqa: N818  (what it says)
    """Something does not fit into memory; the message says what, and what to do."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an allocator reported that memory ran out."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or any(
        message in str(error) for message in OOM_MESSAGES
    )


@contextmanager
def within_memory(what: str, remedy: str) -> Iterator[None]:
    """Context that raises OutOfMemory if memory runs out: "out of memory: WHAT; REMEDY"."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise OutOfMemory(f"out of memory: {what}; {remedy}") from None
