"""Archives of images, tar or zip; members of a zip are read in place, never unpacked."""

from __future__ import annotations

import logging
import posixpath
import stat
import tarfile
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray

from resnets.data.errors import DataError
from resnets.data.files.folder import Files, Listing
from resnets.data.files.tar import follow_links, list_tar, sort_members
from resnets.data.files.walk import HEAD_BYTES, OLDER_MEMBER, SkippedFiles
from resnets.utils.errors import reading
from resnets.utils.printable import printable

log = logging.getLogger("resnets")

ENCRYPTED, UTF8 = 0x1, 0x800  # bits of a member's flags
READ_METHODS = frozenset(
    {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA}
)
MAX_BYTES = 1 << 30  # of one member; an image is smaller


@dataclass(frozen=True, eq=False)
class ZipFiles:
    """Members of a zip, stored or compressed; thread-safe."""

    archive: Path
    zip: zipfile.ZipFile
    paths: Sequence[str]
    members: Sequence[zipfile.ZipInfo]

    def __len__(self) -> int:
        """Return the number of members."""
        return len(self.paths)

    def name(self, index: int) -> str:
        """Return archive and member, "set.zip:cat/1.jpg"."""
        return f"{self.archive}:{self.paths[index]}"

    def read(self, index: int) -> bytes:
        """Return the member's bytes; raises DataError if they are unreadable or of another size."""
        member = self.members[index]
        if member.file_size > MAX_BYTES:
            raise DataError(f"{self.name(index)}: {member.file_size:,} bytes, too large to read")
        with (
            reading(self.name(index), DataError, remedy="restore it"),
            self.zip.open(member) as stream,
        ):
            # One byte more than expected, so that the checksum is verified at the end.
            data = stream.read(member.file_size + 1)
        if len(data) != member.file_size:
            raise DataError(f"{self.name(index)}: cut short or damaged; restore it")
        return data

    def take(self, rows: NDArray[np.int64]) -> ZipFiles:
        """Return the members of `rows`, renumbered from 0."""
        paths, members = [self.paths[row] for row in rows], [self.members[row] for row in rows]
        return ZipFiles(self.archive, self.zip, paths, members)


def is_zip(path: Path) -> bool:
    """True if a file begins like a zip file; self-extracting ones are not supported."""
    try:
        with path.open("rb") as stream:
            return stream.read(4) in (b"PK\x03\x04", b"PK\x05\x06", b"PK\x07\x08")
    except OSError:
        return False


def is_archive(path: Path) -> bool:
    """True if a file exists and is a tar or zip by its content."""
    return path.is_file() and (is_zip(path) or tarfile.is_tarfile(path))


def list_archive(archive: Path, include: Callable[[str], bool] | None = None) -> Listing:
    """List images in a tar or zip, and files for which `include(path)` is true.

    Raises DataError if it is damaged or encrypted.
    """
    return list_zip(archive, include) if is_zip(archive) else list_tar(archive, include)


def list_zip(archive: Path, include: Callable[[str], bool] | None = None) -> Listing:
    """List images in a zip, as `list_archive`."""
    zip_file = open_zip(archive)
    skipped = SkippedFiles()
    members, links, folders = _read_members(zip_file, archive, skipped)
    follow_links(members, links, skipped, str(archive))

    def head(path: str) -> bytes:
        with reading(f"{archive}:{path}", DataError), zip_file.open(members[path]) as stream:
            return stream.read(HEAD_BYTES)

    paths, all_folders, others = sort_members(members, folders, head, include, skipped)
    _check_readable(archive, [(path, members[path]) for path in paths])
    files: Files = ZipFiles(archive, zip_file, paths, [members[path] for path in paths])
    return Listing(files, paths, all_folders, others, skipped)


def open_zip(archive: Path) -> zipfile.ZipFile:
    """Open a zip, which stays open while its members are read; raise DataError if it is damaged."""
    with reading(archive, DataError, "as a zip", "is it whole?"):
        return zipfile.ZipFile(archive)


def _read_members(
    zip_file: zipfile.ZipFile, archive: Path, skipped: SkippedFiles
) -> tuple[dict[str, zipfile.ZipInfo], dict[str, str], set[str]]:
    """Return a zip's files by path, its links (path -> target), and its folders.

    Of members of one name the last counts, as where an archive is unpacked.
    """
    members: dict[str, zipfile.ZipInfo] = {}
    links: dict[str, str] = {}
    folders: set[str] = set()
    names = _decode_names(zip_file.infolist(), archive)
    for member, name in zip(zip_file.infolist(), names, strict=True):
        path = posixpath.normpath(name).lstrip("/")
        if name.endswith("/"):
            folders.add(path)
        elif stat.S_ISLNK(member.external_attr >> 16) and not member.flag_bits & ENCRYPTED:
            with reading(f"{archive}:{path}", DataError), zip_file.open(member) as stream:
                target = stream.read(4096).decode("utf-8", "surrogateescape")
            links[path] = posixpath.normpath(posixpath.join(posixpath.dirname(path), target))
        else:
            if path in members:
                skipped.add(OLDER_MEMBER, path)
            members[path] = member
    return members, links, folders


def unzip_to_tar(archive: Path, out: IO[bytes]) -> None:
    """Write a zip's files as a plain tar; raise DataError if one cannot be read or is encrypted."""
    zip_file = open_zip(archive)
    skipped = SkippedFiles()
    members, links, _ = _read_members(zip_file, archive, skipped)
    follow_links(members, links, skipped, str(archive))
    _check_readable(archive, list(members.items()))
    with zip_file, tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for path, member in members.items():
            entry = tarfile.TarInfo(path)
            entry.size = member.file_size
            try:
                with zip_file.open(member) as stream:
                    tar.addfile(entry, stream)
            except OSError:  # from writing to the disk
                raise
            except Exception as error:
                raise DataError(f"{archive}:{path}: cannot be read ({error})") from error


def _decode_names(members: Sequence[zipfile.ZipInfo], archive: Path) -> list[str]:
    """Decode member names: UTF-8 without its flag, and backslashes."""
    names = [member.filename for member in members]
    unflagged = [row for row, member in enumerate(members) if not member.flag_bits & UTF8]
    try:
        decoded = [names[row].encode("cp437").decode("utf-8") for row in unflagged]
        for row, name in zip(unflagged, decoded, strict=True):
            names[row] = name
    except UnicodeError:
        guessed = [names[row] for row in unflagged if not names[row].isascii()]
        log.warning(
            "%s: names that are not UTF-8 (%s) are read in the encoding of DOS, cp437, such as %s;"
            " if that is wrong, unpack it where it was made",
            archive,
            f"{len(guessed):,}",
            printable(guessed[0]),
        )
    if not any("/" in name for name in names):
        names = [name.replace("\\", "/") for name in names]
    return names


def _check_readable(archive: Path, members: Sequence[tuple[str, zipfile.ZipInfo]]) -> None:
    """Raise DataError if a member is encrypted, or compressed by an unsupported method."""
    for path, member in members:
        if member.flag_bits & ENCRYPTED:
            raise DataError(f"{archive}:{path}: encrypted; unpack the zip with its password")
        if member.compress_type not in READ_METHODS:
            raise DataError(
                f"{archive}:{path}: compressed by method {member.compress_type}, which is not"
                " read here; unpack the zip"
            )
