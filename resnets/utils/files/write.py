"""Atomic writes and checksums of files, and the check that a path is not a URL."""

from __future__ import annotations

import errno
import hashlib
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from resnets.utils.errors import ConfigError, name_in_errors
from resnets.utils.files.locks import lock_file

URL = re.compile(r"[a-z][a-z0-9+.-]+:/{2,}", re.IGNORECASE)
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


def check_path(path: str, read: str = "files and folders") -> None:
    """Raise ConfigError if `path` is a URL and no existing file; read: what is supported."""
    if (scheme := URL.match(path)) is not None and not os.path.lexists(path):
        raise ConfigError(f"{path}: URLs ({scheme[0]}) are not supported here; give {read}")
