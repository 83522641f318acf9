"""Simulate a disk that is full, or hangs, when one file is flushed."""

import errno
import os
import threading

import pytest


def fill_disk(
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    times: int = 1,
    released: threading.Event | None = None,
) -> None:
    """Have the first `times` writes of the file `name` fail with ENOSPC, as `fsync` may.

    released: what each of them waits for before.
    """
    real, left = os.fsync, [times]

    def fsync(descriptor: int) -> None:
        if left[0] and os.readlink(f"/proc/self/fd/{descriptor}").endswith(f".{name}.tmp"):
            left[0] -= 1
            if released is not None:
                released.wait(60)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
