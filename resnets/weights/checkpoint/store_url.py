"""Checkpoints behind a URL: any place that fsspec reaches (s3://, gs://, memory://, ...).

Object stores put a file in place whole; elsewhere it goes under a temporary name first and is then
moved. Each operation is tried a few times, since networks fail for moments.
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
from resnets.weights.checkpoint.store import Folder, Store
from resnets.weights.errors import StoreError

T = TypeVar("T")

# Seconds to wait before each further attempt. s3fs and gcsfs have attempts of their own besides.
WAITS = (0.5, 2.0, 5.0)
# What another attempt would not mend.
FINAL = (
    *(FileNotFoundError, PermissionError, NotADirectoryError, IsADirectoryError),
    *(ValueError, TypeError, NotImplementedError, ImportError),
)
# Where a file that is being uploaded cannot be seen before it is whole.
WHOLE = {"s3", "s3a", "gs", "gcs", "abfs", "abfss", "az", "oci", "oss", "memory"}
EXTRAS = {"s3": "s3", "s3a": "s3", "gs": "gs", "gcs": "gs"}

_URL = re.compile(r"([a-z][a-z0-9+.-]+):/+(.*)", re.DOTALL)
_log = logging.getLogger(__name__)
_names: dict[Path, str] = {}


def url_of(where: str | Path) -> str | None:
    """The URL that `where` is, or None for a path of this machine (file:// is none either).

    A `Path` made of a URL has lost a slash, which is put back.
    """
    match = _URL.fullmatch(str(where))
    if match is None or match[1] in ("file", "local") or Path(where).exists():
        return None
    return f"{match[1]}://{match[2]}"


def path_of(where: str | Path) -> Path:
    """The path of this machine that `where` is, also written as file://."""
    match = _URL.fullmatch(str(where))
    if match is not None and match[1] in ("file", "local") and not Path(where).exists():
        return Path("/" + match[2])
    return Path(where)


def open_store(where: str | Path) -> Store:
    """The folder or remote place that a path or URL names; ConfigError where nothing opens it."""
    url = url_of(where)
    return Folder(path_of(where)) if url is None else UrlStore(url)


def named(path: Path) -> str:
    """How people know a file: the URL it was fetched from, or its path."""
    return _names.get(path, str(path))


class UrlStore:
    """A place behind a URL. Credentials and endpoints are those of its fsspec driver."""

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

    def at(self, name: str) -> str:
        """The file's URL."""
        return f"{self.url}/{name}"

    def names(self) -> list[str]:
        """Files there are, in order; none where there is no such place."""

        def look() -> list[str]:
            self._files.invalidate_cache()
            try:
                entries = self._files.ls(self._root, detail=True)
            except FileNotFoundError:
                return []
            files = [each["name"] for each in entries if each["type"] == "file"]
            return sorted(each.rpartition("/")[2] for each in files)

        return self._try(look)

    def upload(self, path: Path, name: str) -> None:
        """Put the file `path` there as `name`."""
        size = path.stat().st_size

        def put() -> None:
            if self._whole:
                self._files.put_file(str(path), self._key(name))
            else:
                self._make_room()
                self._files.put_file(str(path), self._key(f".{name}.tmp"))
                self._files.mv(self._key(f".{name}.tmp"), self._key(name))
            self._files.invalidate_cache()
            if (there := self._files.info(self._key(name))["size"]) != size:
                raise OSError(f"{there:,} of {size:,} bytes arrived")

        self._try(put)

    def write_text(self, name: str, text: str) -> None:
        """Put a small text there."""

        def put() -> None:
            self._make_room()
            self._files.pipe_file(self._key(name), text.encode())

        self._try(put)

    def keep(self, name: str, other: str) -> None:
        """A copy, made over there; a move where the place cannot copy."""

        def copy() -> None:
            try:
                self._files.cp_file(self._key(name), self._key(other))
            except FileNotFoundError:
                return
            except NotImplementedError:
                self._files.mv(self._key(name), self._key(other))

        self._try(copy)

    def remove(self, name: str) -> None:
        """Take a file away, if it is there."""

        def remove() -> None:
            try:
                self._files.rm_file(self._key(name))
            except FileNotFoundError:
                return

        self._try(remove)

    def fetch(self, name: str) -> Path:
        """A copy of the file, in a folder that goes when this process ends; earlier ones go now."""

        def get() -> Path:
            self._files.invalidate_cache()
            version = self._files.ukey(self._key(name))
            path = _copies() / version / name
            if not path.exists():
                path.parent.mkdir(exist_ok=True)
                part = path.with_name(f".{name}.part")
                self._files.get_file(self._key(name), str(part))
                part.replace(path)
            _names[path] = self.at(name)
            for other, url in list(_names.items()):
                if url == self.at(name) and other != path:
                    shutil.rmtree(other.parent, ignore_errors=True)
            return path

        return self._try(get)

    def _make_room(self) -> None:
        """Make the folder. Object stores have none, and a missing bucket is a mistake."""
        if not self._whole:
            self._files.makedirs(self._root, exist_ok=True)

    def _key(self, name: str) -> str:
        return f"{self._root}/{name}"

    def _try(self, action: Callable[[], T]) -> T:
        for wait in (*WAITS, None):
            try:
                return action()
            except Exception as error:
                # Each driver has errors of its own, with no common base.
                reason = " ".join(str(error).split()) or type(error).__name__
                if isinstance(error, FINAL) or "Credentials" in type(error).__name__:
                    raise StoreError(reason, "look at the address and what it allows") from None
                if wait is None:
                    break
                _log.info("%s: %s; trying again in %g s", self.url, reason, wait)
                time.sleep(wait)
        raise StoreError(f"{len(WAITS) + 1} attempts: {reason}", "look at the network")


@cache
def _copies() -> Path:
    """Folder of what was fetched."""
    folder = Path(tempfile.mkdtemp(prefix="resnets-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder
