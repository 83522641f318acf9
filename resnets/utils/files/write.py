"""Atomic writes and checksums of files."""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from resnets.utils.errors import name_in_errors
from resnets.utils.files.locks import lock_file

WRITE_TIMEOUT = 10.0  # seconds, while another process writes the same file


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Context with a temporary file next to `path`, which replaces `path` when the block succeeds.

    The file and its name are flushed to disk before the block ends. On an error the temporary file
    is removed and `path` is unchanged. Raises BlockingIOError if another process keeps writing the
    same file.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    with name_in_errors(path, temporary):
        if path.is_dir():  # raised before anything is computed
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
        with lock_file(temporary, WRITE_TIMEOUT):
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


def sync_folder(folder: Path) -> None:
    """Flush the entries of a folder to disk, so that a power failure does not undo a rename."""
    with suppress(OSError):  # not all file systems can open folders
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file, as hex digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
