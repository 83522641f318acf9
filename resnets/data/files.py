"""Encoded pictures by number, whatever holds them: a folder or a tar.

A tar is read by offset. A compressed one is decompressed once into an unnamed temporary file
(TMPDIR says where), so that any picture can be read at any time without holding the set in memory.
"""

from __future__ import annotations

import bz2
import gzip
import lzma
import os
import posixpath
import shutil
import stat
import tarfile
import tempfile
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Protocol

import numpy as np
from numpy.typing import NDArray

from resnets.data.errors import DataError

PICTURE_SUFFIXES = frozenset(
    f".{suffix}"
    for suffix in (
        *("jpg", "jpeg", "jpe", "jp2", "png", "bmp", "gif", "webp", "avif", "tif", "tiff"),
        *("ppm", "pgm", "pbm", "pnm"),
    )
)
COMPRESSED = ((b"\x1f\x8b", gzip.open), (b"BZh", bz2.open), (b"\xfd7zXZ\x00", lzma.open))


class Files(Protocol):
    """A numbered set of encoded pictures; safe to read from several threads."""

    def __len__(self) -> int:
        """How many there are."""

    def name(self, index: int) -> str:
        """What messages call the picture: a path, or "tar:member"."""

    def read(self, index: int) -> bytes | memoryview:
        """The encoded bytes; DataError when they cannot be had."""

    def take(self, rows: NDArray[np.int64]) -> Files:
        """The files of `rows`, renumbered from 0."""


@dataclass(frozen=True)
class FolderFiles:
    """Files below `root`; `paths` are relative to it, with forward slashes."""

    root: Path
    paths: Sequence[str]

    def __len__(self) -> int:
        """How many there are."""
        return len(self.paths)

    def name(self, index: int) -> str:
        """Path of the file."""
        return str(self.root / self.paths[index])

    def read(self, index: int) -> bytes:
        """The file's bytes; DataError when it cannot be read."""
        return read_file(self.root / self.paths[index])

    def take(self, rows: NDArray[np.int64]) -> FolderFiles:
        """The files of `rows`, renumbered from 0."""
        return FolderFiles(self.root, [self.paths[row] for row in rows])


@dataclass(frozen=True)
class TarFiles:
    """Members of a tar; `spans` (N, 2) holds each one's offset and size in bytes in `stream`."""

    archive: Path
    stream: IO[bytes]
    paths: Sequence[str]
    spans: NDArray[np.int64]

    def __len__(self) -> int:
        """How many there are."""
        return len(self.paths)

    def name(self, index: int) -> str:
        """Archive and member, "set.tar:cat/1.jpg"."""
        return f"{self.archive}:{self.paths[index]}"

    def read(self, index: int) -> bytes:
        """The member's bytes; DataError when they cannot be read."""
        offset, size = self.spans[index].tolist()
        try:
            return os.pread(self.stream.fileno(), size, offset)
        except OSError as error:
            raise DataError(f"{self.name(index)}: cannot be read ({error.strerror})") from error

    def take(self, rows: NDArray[np.int64]) -> TarFiles:
        """The members of `rows`, renumbered from 0."""
        paths = [self.paths[row] for row in rows]
        return TarFiles(self.archive, self.stream, paths, self.spans[rows])


@dataclass(frozen=True)
class Listing:
    """What a folder or tar holds: its pictures in sorted path order, and its folders.

    `paths` (one for each of `files`) and `folders` are relative, with forward slashes; hidden
    entries and files whose suffix is no picture's are left out.
    """

    files: Files
    paths: Sequence[str]
    folders: Sequence[str]


def read_file(path: Path) -> bytes:
    """The bytes of a file; DataError when it cannot be read, or is a pipe, device or folder."""
    try:
        with open(path, "rb", opener=_without_waiting) as stream:
            if not stat.S_ISREG(os.fstat(stream.fileno()).st_mode):
                raise DataError(f"{path}: cannot be read (a pipe or device, not a file)")
            return stream.read()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); restore it") from error


def _without_waiting(path: str, flags: int) -> int:
    """Open a file; a pipe that nobody writes to would otherwise be waited for without end."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def list_folder(
    root: Path,
    wanted: Callable[[str], bool] | None = None,
    onerror: Callable[[OSError], None] | None = None,
) -> Listing:
    """Pictures below `root`, or the files `wanted`.

    Links to files and to folders at the top are followed, others not. A folder that may not be
    listed raises DataError, unless `onerror` takes it.
    """
    paths: list[str] = []
    folders: list[str] = []
    try:
        for top in sorted(entry.name for entry in root.iterdir() if entry.is_dir()):
            # Links deeper down are not followed, so that a loop of links ends.
            for place, _, names in os.walk(root / top, onerror=onerror or _raise):
                below = Path(place).relative_to(root).as_posix()
                folders.append(below)
                paths.extend(f"{below}/{name}" for name in names)
    except OSError as error:
        raise DataError(f"{error.filename}: cannot be listed ({error.strerror})") from error
    paths = sorted(filter(wanted or is_picture, paths))
    return Listing(FolderFiles(root, paths), paths, sorted(filter(is_visible, folders)))


def list_tar(archive: Path, wanted: Callable[[str], bool] | None = None) -> Listing:
    """Pictures in a tar, plain or compressed with gzip, bzip2 or xz; or the files `wanted`."""
    wanted = wanted or is_picture
    spans: dict[str, tuple[int, int]] = {}
    links: dict[str, str] = {}
    folders: set[str] = set()
    stream = _uncompressed(archive)
    try:
        with tarfile.open(fileobj=stream, mode="r:") as tar:
            while (member := tar.next()) is not None:
                tar.members.clear()  # type: ignore[attr-defined]  # a kilobyte each
                path = posixpath.normpath(member.name)
                if member.isdir():
                    folders.add(path)
                elif member.isreg():
                    spans[path] = (member.offset_data, member.size)
                elif member.islnk() or member.issym():
                    start = posixpath.dirname(path) if member.issym() else ""
                    links[path] = posixpath.normpath(posixpath.join(start, member.linkname))
            check_end(tar, stream)
    except (tarfile.TarError, OSError) as error:
        raise DataError(f"{archive}: cannot be read as a tar ({error}); is it whole?") from error
    for path in filter(wanted, links):
        if links[path] not in spans:
            raise DataError(f"{archive}:{path}: a link to {links[path]}, which is no file in it")
        spans[path] = spans[links[path]]
    paths = sorted(filter(wanted, spans))
    for path in paths:
        folders.update(_parents(path))
    where = np.array([spans[path] for path in paths], np.int64).reshape(-1, 2)
    files = TarFiles(archive, stream, paths, where)
    return Listing(files, paths, sorted(filter(is_visible, folders - {"."})))


def check_end(tar: tarfile.TarFile, stream: IO[bytes]) -> None:
    """ReadError unless a tar that was gone through ends where it says so.

    `tarfile` takes a damaged header anywhere but at the start for the end.
    """
    stream.seek(tar.offset)
    if any(stream.read(tarfile.BLOCKSIZE)):
        raise tarfile.ReadError(f"damaged at byte {tar.offset:,}")


def _uncompressed(archive: Path) -> IO[bytes]:
    """The plain tar: the archive itself, or a temporary file that vanishes when closed."""
    plain = tempfile.TemporaryFile()  # noqa: SIM115 (lives as long as the pictures are read)
    if not unpack(archive, plain, tempfile.gettempdir(), "set TMPDIR to a folder with"):
        plain.close()
        return archive.open("rb")
    plain.seek(0)
    return plain


def unpack(archive: Path, plain: IO[bytes], where: str, remedy: str) -> bool:
    """Decompress gzip, bzip2 or xz into `plain`; False, and nothing done, for another file.

    DataError: damaged, or no room `where` that is (`remedy` more room).
    """
    with archive.open("rb") as stream:
        head = stream.read(6)
    opener = next((opener for magic, opener in COMPRESSED if head.startswith(magic)), None)
    if opener is None:
        return False
    try:
        with opener(archive, "rb") as packed:
            shutil.copyfileobj(packed, plain, 1 << 20)
        plain.flush()
    except (EOFError, OSError, lzma.LZMAError, zlib.error) as error:
        if isinstance(error, OSError) and error.errno:  # a damaged gzip or bzip2 has none
            raise DataError(
                f"{archive}: cannot be unpacked into {where} ({error.strerror}); {remedy} more room"
            ) from error
        raise DataError(f"{archive}: damaged or cut short ({error}); fetch it again") from error
    return True


def _raise(error: OSError) -> None:
    raise error


def is_picture(path: str) -> bool:
    """Whether a file is called like a picture, and is not hidden."""
    return posixpath.splitext(path)[1].lower() in PICTURE_SUFFIXES and is_visible(path)


def is_visible(path: str) -> bool:
    """Whether neither a file nor a folder it is in is hidden."""
    return not any(part.startswith(".") for part in path.split("/"))


def _parents(path: str) -> list[str]:
    parts = path.split("/")[:-1]
    return ["/".join(parts[: count + 1]) for count in range(len(parts))]
