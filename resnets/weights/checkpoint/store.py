"""Where checkpoints lie: a folder of this machine; `store_url` has the places behind a URL."""

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
    """Contents of a file to be."""

    @property
    def size(self) -> int:
        """Bytes."""
        ...

    def write(self, file: BinaryIO) -> None:
        """Write all of it."""
        ...


class Store(Protocol):
    """A place with files in it, each there whole or not at all. All but `at` raise StoreError."""

    remote: ClassVar[bool]

    def at(self, name: str) -> str:
        """How people name a file of it."""
        ...

    def names(self) -> list[str]:
        """Files there are, temporary ones included."""
        ...

    def keep(self, name: str, other: str) -> None:
        """Let `other` hold what `name` holds now; nothing happens where `name` is missing."""
        ...

    def remove(self, name: str) -> None:
        """Take a file away, if it is there."""
        ...

    def fetch(self, name: str) -> Path:
        """A file of this machine with the contents of `name`."""
        ...


@dataclass(frozen=True)
class Folder:
    """A folder of this machine; it is made when the first file comes."""

    path: Path
    remote: ClassVar[bool] = False

    def at(self, name: str) -> str:
        """The file's path."""
        return str(self.path / name)

    def names(self) -> list[str]:
        """Files there are, in order; none where there is no such folder."""
        try:
            return sorted(each.name for each in os.scandir(self.path) if each.is_file())
        except FileNotFoundError:
            return []
        except OSError as error:
            raise StoreError(_reason(error), f"make {self.path} readable") from None

    def put(self, name: str, payload: Payload) -> None:
        """Write `name` whole, on the disk when this returns, or not at all."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            with atomic_write(self.path / name) as temporary, open(temporary, "wb") as file:
                payload.write(file)
        except OSError as error:
            space = f"free {-(-payload.size >> 20)} MiB or " if error.errno in FULL else ""
            raise StoreError(_reason(error), f"{space}choose another --out") from None

    def keep(self, name: str, other: str) -> None:
        """A hard link, so that the file never lacks a name; a rename where there are no links."""
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
        """Take a file away, if it is there."""
        try:
            (self.path / name).unlink(missing_ok=True)
        except OSError as error:
            raise StoreError(_reason(error), f"make {self.path} writable") from None

    def fetch(self, name: str) -> Path:
        """The file itself."""
        return self.path / name


def _reason(error: OSError) -> str:
    return error.strerror or str(error)
