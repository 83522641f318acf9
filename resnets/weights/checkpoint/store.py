"""Storage of checkpoints: a local folder, or any URL that fsspec opens (s3://, gs://, memory://).

Object stores write files atomically; elsewhere a file is uploaded under a temporary name and then
moved. Remote operations are retried a few times, because networks fail temporarily.
"""

from __future__ import annotations

import atexit
import errno
import logging
import os
import re
import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import BinaryIO, ClassVar, Protocol, TypeVar

from resnets.config import ConfigError
from resnets.utils.files.write import atomic_write
from resnets.weights.errors import StoreError

T = TypeVar("T")

# Seconds to wait before each retry of a remote operation; s3fs and gcsfs also retry themselves.
WAITS = (0.5, 2.0, 5.0)
# Errors that a retry does not fix.
FINAL = (
    FileNotFoundError,
    PermissionError,
    NotADirectoryError,
    IsADirectoryError,
    ValueError,
    TypeError,
    NotImplementedError,
    ImportError,
)
# Protocols whose uploads are atomic.
ATOMIC_PROTOCOLS = {"s3", "s3a", "gs", "gcs", "abfs", "abfss", "az", "oci", "oss", "memory"}
EXTRAS = {"s3": "s3", "s3a": "s3", "gs": "gs", "gcs": "gs"}

_URL = re.compile(r"([a-z][a-z0-9+.-]+):/+(.*)", re.DOTALL)
_log = logging.getLogger(__name__)
_urls: dict[Path, str] = {}
DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


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
            space = f"free {-(-payload.size >> 20)} MiB or " if error.errno in DISK_FULL else ""
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


def remote_url(where: str | Path) -> str | None:
    """Return the remote URL that `where` is; None for a local path or a file:// URL.

    `Path(url)` drops a slash, which is restored.
    """
    match = _URL.fullmatch(str(where))
    if match is None or match[1] in ("file", "local") or Path(where).exists():
        return None
    return f"{match[1]}://{match[2]}"


def local_path(where: str | Path) -> Path:
    """Return the local path that `where` is, also for file:// URLs."""
    match = _URL.fullmatch(str(where))
    if match is not None and match[1] in ("file", "local") and not Path(where).exists():
        return Path("/" + match[2])
    return Path(where)


def open_checkpoint_store(where: str | Path) -> CheckpointStore:
    """Open the store of a folder or URL; ConfigError for a URL without an installed driver."""
    url = remote_url(where)
    return FolderStore(local_path(where)) if url is None else UrlStore(url)


def display_path(path: Path) -> str:
    """Return the path of a file for messages: the URL it was downloaded from, if any."""
    return _urls.get(path, str(path))


class UrlStore:
    """Files below a URL; credentials and endpoints are configured as for its fsspec driver."""

    remote: ClassVar[bool] = True

    def __init__(self, url: str) -> None:
        import fsspec  # deferred: slow to import

        self.url = url.rstrip("/")
        protocol = url.partition(":")[0]
        try:
            self._files, self._root = fsspec.core.url_to_fs(self.url)
        except ImportError as error:
            extra = EXTRAS.get(protocol)
            remedy = f"pip install 'resnets[{extra}]'" if extra else str(error)
            raise ConfigError(f"{url}: needs a package that is not installed: {remedy}") from None
        except ValueError as error:
            raise ConfigError(f"{url}: cannot be opened: {error}") from None
        self._atomic = protocol in ATOMIC_PROTOCOLS

    def location(self, name: str) -> str:
        """URL of the file."""
        return f"{self.url}/{name}"

    def list_files(self) -> list[str]:
        """Sorted names of all files; empty if the folder does not exist."""

        def list_() -> list[str]:
            self._files.invalidate_cache()
            try:
                entries = self._files.ls(self._root, detail=True)
            except FileNotFoundError:
                return []
            files = [each["name"] for each in entries if each["type"] == "file"]
            return sorted(each.rpartition("/")[2] for each in files)

        return self._with_retries(list_)

    def upload(self, path: Path, name: str) -> None:
        """Upload the local file `path` as `name`."""
        size = path.stat().st_size

        def put() -> None:
            if self._atomic:
                self._files.put_file(str(path), self._key(name))
            else:
                self._make_folder()
                self._files.put_file(str(path), self._key(f".{name}.tmp"))
                self._files.mv(self._key(f".{name}.tmp"), self._key(name))
            self._files.invalidate_cache()
            if (uploaded := self._files.info(self._key(name))["size"]) != size:
                raise OSError(f"{uploaded:,} of {size:,} bytes arrived")

        self._with_retries(put)

    def write_text(self, name: str, text: str) -> None:
        """Write a short text as `name`."""

        def put() -> None:
            self._make_folder()
            self._files.pipe_file(self._key(name), text.encode())

        self._with_retries(put)

    def preserve(self, name: str, other: str) -> None:
        """Copy `name` to `other` on the server, or move it where copies are not supported."""

        def copy() -> None:
            try:
                self._files.cp_file(self._key(name), self._key(other))
            except FileNotFoundError:
                return
            except NotImplementedError:
                self._files.mv(self._key(name), self._key(other))

        self._with_retries(copy)

    def remove(self, name: str) -> None:
        """Delete a file if it exists."""

        def remove() -> None:
            try:
                self._files.rm_file(self._key(name))
            except FileNotFoundError:
                return

        self._with_retries(remove)

    def fetch(self, name: str) -> Path:
        """Download into a folder that is deleted at exit; earlier copies are deleted now."""

        def get() -> Path:
            self._files.invalidate_cache()
            version = self._files.ukey(self._key(name))
            path = _download_folder() / version / name
            if not path.exists():
                path.parent.mkdir(exist_ok=True)
                part = path.with_name(f".{name}.part")
                self._files.get_file(self._key(name), str(part))
                part.replace(path)
            _urls[path] = self.location(name)
            for other, url in list(_urls.items()):
                if url == self.location(name) and other != path:
                    shutil.rmtree(other.parent, ignore_errors=True)
            return path

        return self._with_retries(get)

    def _make_folder(self) -> None:
        """Create the folder; object stores have none, and missing buckets are a user's error."""
        if not self._atomic:
            self._files.makedirs(self._root, exist_ok=True)

    def _key(self, name: str) -> str:
        return f"{self._root}/{name}"

    def _with_retries(self, action: Callable[[], T]) -> T:
        for wait in (*WAITS, None):
            try:
                return action()
            except Exception as error:
                # the exceptions of fsspec's drivers have no common base class
                reason = " ".join(str(error).split()) or type(error).__name__
                if isinstance(error, FINAL) or "Credentials" in type(error).__name__:
                    raise StoreError(reason, "check the URL and its permissions") from None
                if wait is None:
                    break
                _log.info("%s: %s; retrying in %g s", self.url, reason, wait)
                time.sleep(wait)
        raise StoreError(f"{len(WAITS) + 1} attempts: {reason}", "check the network")


@cache
def _download_folder() -> Path:
    """Return the folder of downloaded files."""
    folder = Path(tempfile.mkdtemp(prefix="resnets-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder
