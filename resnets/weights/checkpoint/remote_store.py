"""Remote storage of checkpoints: any URL that fsspec opens (s3://, gs://, memory://, ...).

Object stores write files atomically; elsewhere a file is uploaded under a temporary name and then
moved. Each operation is retried a few times, because networks fail temporarily.
"""

from __future__ import annotations

import atexit
import logging
import re
import shutil
import tempfile
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import ClassVar, TypeVar

from resnets.config import ConfigError
from resnets.weights.checkpoint.store import CheckpointStore, FolderStore
from resnets.weights.errors import StoreError

T = TypeVar("T")

# Seconds to wait before each retry. s3fs and gcsfs retry on their own, too.
WAITS = (0.5, 2.0, 5.0)
# Errors that a retry would not fix.
FINAL = (
    *(FileNotFoundError, PermissionError, NotADirectoryError, IsADirectoryError),
    *(ValueError, TypeError, NotImplementedError, ImportError),
)
# Protocols whose uploads are atomic.
WHOLE = {"s3", "s3a", "gs", "gcs", "abfs", "abfss", "az", "oci", "oss", "memory"}
EXTRAS = {"s3": "s3", "s3a": "s3", "gs": "gs", "gcs": "gs"}

_URL = re.compile(r"([a-z][a-z0-9+.-]+):/+(.*)", re.DOTALL)
_log = logging.getLogger(__name__)
_urls: dict[Path, str] = {}


def remote_url(where: str | Path) -> str | None:
    """The remote URL that `where` is; None for a local path, file:// included.

    `Path(url)` drops a slash, which is restored.
    """
    match = _URL.fullmatch(str(where))
    if match is None or match[1] in ("file", "local") or Path(where).exists():
        return None
    return f"{match[1]}://{match[2]}"


def local_path(where: str | Path) -> Path:
    """The local path that `where` is, also for file:// URLs."""
    match = _URL.fullmatch(str(where))
    if match is not None and match[1] in ("file", "local") and not Path(where).exists():
        return Path("/" + match[2])
    return Path(where)


def open_checkpoint_store(where: str | Path) -> CheckpointStore:
    """The store of a folder or URL; ConfigError for a URL without an installed driver."""
    url = remote_url(where)
    return FolderStore(local_path(where)) if url is None else UrlStore(url)


def display_path(path: Path) -> str:
    """Path of a file for messages: the URL that it was downloaded from, if any."""
    return _urls.get(path, str(path))


class UrlStore:
    """Files below a URL. Credentials and endpoints are configured as its fsspec driver expects."""

    remote: ClassVar[bool] = True

    def __init__(self, url: str) -> None:
        import fsspec  # deferred: slow to import

        self.url = url.rstrip("/")
        protocol = url.partition(":")[0]
        try:
            self._files, self._root = fsspec.core.url_to_fs(self.url)
        except ImportError as error:
            extra = EXTRAS.get(protocol)
            how = f"pip install 'resnets[{extra}]'" if extra else str(error)
            raise ConfigError(f"{url}: needs a package that is not installed: {how}") from None
        except ValueError as error:
            raise ConfigError(f"{url}: cannot be opened: {error}") from None
        self._whole = protocol in WHOLE

    def location(self, name: str) -> str:
        """URL of the file."""
        return f"{self.url}/{name}"

    def list_files(self) -> list[str]:
        """Sorted names of all files; empty if the place does not exist."""

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
            if self._whole:
                self._files.put_file(str(path), self._key(name))
            else:
                self._make_folder()
                self._files.put_file(str(path), self._key(f".{name}.tmp"))
                self._files.mv(self._key(f".{name}.tmp"), self._key(name))
            self._files.invalidate_cache()
            if (there := self._files.info(self._key(name))["size"]) != size:
                raise OSError(f"{there:,} of {size:,} bytes arrived")

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
            path = _copies() / version / name
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
        """Create the folder. Object stores have none, and a missing bucket is a user's mistake."""
        if not self._whole:
            self._files.makedirs(self._root, exist_ok=True)

    def _key(self, name: str) -> str:
        return f"{self._root}/{name}"

    def _with_retries(self, action: Callable[[], T]) -> T:
        for wait in (*WAITS, None):
            try:
                return action()
            except Exception as error:
                # drivers raise types of their own, without a common base
                reason = " ".join(str(error).split()) or type(error).__name__
                if isinstance(error, FINAL) or "Credentials" in type(error).__name__:
                    raise StoreError(reason, "check the URL and its permissions") from None
                if wait is None:
                    break
                _log.info("%s: %s; retrying in %g s", self.url, reason, wait)
                time.sleep(wait)
        raise StoreError(f"{len(WAITS) + 1} attempts: {reason}", "check the network")


@cache
def _copies() -> Path:
    """Folder of downloaded files."""
    folder = Path(tempfile.mkdtemp(prefix="resnets-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder
