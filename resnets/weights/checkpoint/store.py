"""Storage of checkpoints in a local folder; `store_url` has remote storage."""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, ClassVar, Protocol

from resnets.config import atomic_write
from resnets.weights.errors import StoreError

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class Payload(Protocol):
    """Contents of a file to be written."""

    @property
    def size(self) -> int:
        """Bytes."""
        ...

    def write(self, file: BinaryIO) -> None:
        """Write all of it."""
        ...


class CheckpointStore(Protocol):
    """A place for files, each complete or absent. All methods but `location` raise StoreError."""

    remote: ClassVar[bool]

    def location(self, name: str) -> str:
        """Path or URL of a file, for messages."""
        ...

    def list_files(self) -> list[str]:
        """Names of all files, temporary ones included."""
        ...

    def preserve(self, name: str, other: str) -> None:
        """Make `other` have the contents that `name` has now; does nothing if `name` is missing."""
        ...

    def remove(self, name: str) -> None:
        """Delete a file if it exists."""
        ...

    def fetch(self, name: str) -> Path:
        """Path of a local file with the contents of `name`."""
        ...


@dataclass(frozen=True)
class FolderStore:
    """A local folder; it is created with the first file."""

    path: Path
    remote: ClassVar[bool] = False

    def location(self, name: str) -> str:
        """Path of the file."""
        return str(self.path / name)

    def list_files(self) -> list[str]:
        """Sorted names of all files; empty if the folder does not exist."""
        try:
            return sorted(each.name for each in os.scandir(self.path) if each.is_file())
        except FileNotFoundError:
            return []
        except OSError as error:
            raise StoreError(_reason(error), f"make {self.path} readable") from None

    def write(self, name: str, payload: Payload) -> None:
        """Write `name` atomically; it is on disk when this returns."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            with atomic_write(self.path / name) as temporary, open(temporary, "wb") as file:
                payload.write(file)
        except OSError as error:
            space = f"free {-(-payload.size >> 20)} MiB or " if error.errno in FULL else ""
            raise StoreError(_reason(error), f"{space}choose another --out") from None

    def preserve(self, name: str, other: str) -> None:
        """Hard-link `name` as `other`, or rename it where the file system has no links."""
        old, new = self.path / name, self.path / other
        try:
            new.unlink(missing_ok=True)
            try:
                os.link(old, new)
            except FileNotFoundError:
                return
            except OSError:  # FAT and some network disks
                os.replace(old, new)
        except OSError as error:
            raise StoreError(_reason(error), f"make {self.path} writable") from None

    def remove(self, name: str) -> None:
        """Delete a file if it exists."""
        try:
            (self.path / name).unlink(missing_ok=True)
        except OSError as error:
            raise StoreError(_reason(error), f"make {self.path} writable") from None

    def fetch(self, name: str) -> Path:
        """Path of the file itself."""
        return self.path / name


def _reason(error: OSError) -> str:
    return error.strerror or str(error)
