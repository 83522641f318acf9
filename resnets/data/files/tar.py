"""Images in a tar, read by offset.

A compressed tar is decompressed once into an unnamed temporary file (in TMPDIR), so that any image
can be read at any time without keeping the set in memory.
"""

from __future__ import annotations

import bz2
import gzip
import lzma
import os
import posixpath
import shutil
import tarfile
import tempfile
import zlib
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TypeVar

import numpy as np
from numpy.typing import NDArray

from resnets.data.errors import DataError
from resnets.data.files.folder import Listing, select_images
from resnets.data.files.unsupported_file import describe_file
from resnets.data.files.walk import (
    BROKEN_LINK,
    HEAD_BYTES,
    LOOP,
    OLDER_MEMBER,
    SkippedFiles,
    filter_visible,
    is_visible,
    read_suffixes,
    suffix_of,
)
from resnets.utils.errors import reading

Member = TypeVar("Member")

MAX_LINKED = 5_000_000  # members that links of an archive may add
MAX_LINK_DEPTH = 40  # links to links that are followed
COMPRESSIONS = ((b"\x1f\x8b", gzip.open), (b"BZh", bz2.open), (b"\xfd7zXZ\x00", lzma.open))


@dataclass(frozen=True)
class TarFiles:
    """Members of a tar; spans: (N, 2) offset and size in bytes of each in `stream`."""

    archive: Path
    stream: IO[bytes]
    paths: Sequence[str]
    spans: NDArray[np.int64]

    def __len__(self) -> int:
        """Return the number of members."""
        return len(self.paths)

    def name(self, index: int) -> str:
        """Return archive and member, "set.tar:cat/1.jpg"."""
        return f"{self.archive}:{self.paths[index]}"

    def read(self, index: int) -> bytes:
        """Return the member's bytes; raise DataError if they cannot be read."""
        offset, size = self.spans[index].tolist()
        try:
            return os.pread(self.stream.fileno(), size, offset)
        except OSError as error:
            raise DataError(f"{self.name(index)}: cannot be read ({error.strerror})") from error

    def take(self, rows: NDArray[np.int64]) -> TarFiles:
        """Return the members of `rows`, renumbered from 0."""
        paths = [self.paths[row] for row in rows]
        return TarFiles(self.archive, self.stream, paths, self.spans[rows])


def list_tar(archive: Path, include: Callable[[str], bool] | None = None) -> Listing:
    """List images in a tar, plain or gzip, bzip2 or xz, and files for which `include(path)`."""
    with reading(archive, DataError, "as a tar", "is it whole?"):
        return _list_tar(archive, include)


def _list_tar(archive: Path, include: Callable[[str], bool] | None) -> Listing:
    spans: dict[str, tuple[int, int]] = {}
    links: dict[str, str] = {}
    folders: set[str] = set()
    sparse: set[str] = set()
    skipped = SkippedFiles()
    stream = _open_uncompressed(archive)
    with reading_tar(archive), tarfile.open(fileobj=stream, mode="r:") as tar:
        while (member := tar.next()) is not None:
            tar.members.clear()  # type: ignore[attr-defined]  # a kilobyte each
            path = posixpath.normpath(member.name).lstrip("/")
            if member.isdir():
                folders.add(path)
            elif member.isreg():
                if path in spans:
                    skipped.add(OLDER_MEMBER, path)
                spans[path] = (member.offset_data, member.size)
                if is_sparse(member):
                    sparse.add(path)
            elif member.islnk() or member.issym():
                start = posixpath.dirname(path) if member.issym() else ""
                links[path] = posixpath.normpath(posixpath.join(start, member.linkname))
        check_end(tar, stream)
    follow_links(spans, links, skipped, str(archive))

    def head(path: str) -> bytes:
        offset, size = spans[path]
        return os.pread(stream.fileno(), min(HEAD_BYTES, size), offset)

    paths, all_folders, others = sort_members(spans, folders, head, include, skipped)
    refuse_sparse([path for path in paths if path in sparse], str(archive))
    span_array = np.array([spans[path] for path in paths], np.int64).reshape(-1, 2)
    return Listing(
        TarFiles(archive, stream, paths, span_array), paths, all_folders, others, skipped
    )


@contextmanager
def reading_tar(archive: Path | str) -> Iterator[None]:
    """Raise DataError for a damaged tar, with the kind of the file if it is another known one."""
    with reading(archive, DataError, "as a tar", "is it whole?"):
        try:
            yield
        except (tarfile.TarError, OSError) as error:
            if (kind := describe_file(Path(archive))) is not None:
                raise DataError(f"{archive}: {kind}") from error
            raise


def sort_members(
    members: Iterable[str],
    folders: Iterable[str],
    head: Callable[[str], bytes],
    include: Callable[[str], bool] | None,
    skipped: SkippedFiles,
) -> tuple[list[str], list[str], frozenset[str]]:
    """Return an archive's images and files by `include`, folders, and which are not images.

    See `select_images`.
    """
    visible = filter_visible(sorted(members), skipped)
    paths, others = select_images(visible, head, include, skipped)
    found = set(folders)
    for path in paths:
        found.update(_parents(path))
    return paths, sorted(filter(is_visible, found - {".", ""})), others


def follow_links(
    members: dict[str, Member], links: Mapping[str, str], skipped: SkippedFiles, archive: str
) -> None:
    """Add the targets of an archive's `links` (path -> target) to its `members`.

    A link to a folder adds all files in it. Raises DataError for a broken link named like an image,
    and if links to links add too many files; other broken links are counted in `skipped`.
    """
    unresolved = dict(links)
    limit = len(members) + MAX_LINKED
    for _ in range(MAX_LINK_DEPTH):
        sorted_members = sorted(members)
        resolvable = [
            path  # not reached through another link
            for path, target in sorted(unresolved.items())
            if not any(part in unresolved for part in (*_parents(target), target))
        ]
        for path in resolvable:
            target = unresolved[path]
            inside = sorted_members[
                bisect_left(sorted_members, f"{target}/") : bisect_left(
                    sorted_members, f"{target}0"
                )
            ]
            if target in members:
                members[path] = members[target]
            elif f"{path}/".startswith(f"{target}/") or target == ".":
                skipped.add(LOOP, path, suffix="")
            elif inside:  # "0" follows "/", so these are what is in the folder
                members.update({path + name[len(target) :]: members[name] for name in inside})
                skipped.links += 1
            elif is_image_name(path):
                raise DataError(
                    f"{archive}:{path}: is a link to {target}, which is not a file in the archive"
                )
            else:
                skipped.add(BROKEN_LINK, path)
            if len(members) > limit:
                raise DataError(
                    f"{archive}: links to folders add more than {MAX_LINKED:,} files; unpack the "
                    "archive and remove such links"
                )
        for path in resolvable:
            del unresolved[path]
        if not resolvable:
            break
    for path in sorted(unresolved):
        skipped.add(LOOP, path, suffix="")


def is_sparse(member: tarfile.TarInfo) -> bool:
    """Return whether a member is stored without its zeros, so that it cannot be read by offset.

    This covers GNU's format, the three in PAX headers, and star's, which `tarfile` does not know.
    """
    headers = member.pax_headers
    return (
        member.issparse()
        or any(key.startswith("GNU.sparse.") for key in headers)
        or "SCHILY.realsize" in headers
    )


def refuse_sparse(paths: Sequence[str], archive: str) -> None:
    """Raise DataError if there are any `paths` of sparse members."""
    if paths:
        more = f" and {len(paths) - 1:,} more" if len(paths) > 1 else ""
        raise DataError(
            f"{archive}:{paths[0]}{more}: stored as sparse files, whose bytes cannot be read in"
            " place; make the tar again without --sparse (-S)"
        )


def check_end(tar: tarfile.TarFile, stream: IO[bytes], end: int | None = None) -> None:
    """Raise ReadError if a tar file does not end at its end marker, or another one follows.

    `tarfile` takes a damaged header other than the first for the end, and does not see a second tar
    that was appended. end: the end of a tar that is within another.
    """
    stream.seek(tar.offset)
    if any(stream.read(tarfile.BLOCKSIZE)):
        raise tarfile.ReadError(f"damaged at byte {tar.offset:,}")
    while block := stream.read(tarfile.BLOCKSIZE):
        position = stream.tell() - len(block)
        if end is not None and position >= end:
            return
        if not any(block):
            continue
        try:
            tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
        except tarfile.HeaderError:  # bytes of something else, as tar too ignores them
            return
        raise tarfile.ReadError(
            f"a second tar begins at byte {position:,}, as where tars are joined by cat; unpack"
            " each into one folder"
        )


def _open_uncompressed(archive: Path) -> IO[bytes]:
    """Return the plain tar: the archive itself, or a temporary file that is deleted when closed."""
    plain = tempfile.TemporaryFile()  # noqa: SIM115 (lives as long as the images are read)
    if not unpack(archive, plain, tempfile.gettempdir(), "set TMPDIR to a folder with"):
        plain.close()
        return archive.open("rb")
    plain.seek(0)
    return plain


def unpack(archive: Path, plain: IO[bytes], where: str, remedy: str) -> bool:
    """Decompress gzip, bzip2 or xz into `plain`; return False, without writing, for other files.

    Raises DataError if the file is damaged, or if there is no space in `where` (`remedy` more
    room).
    """
    with archive.open("rb") as stream:
        head = stream.read(6)
    opener = next((opener for magic, opener in COMPRESSIONS if head.startswith(magic)), None)
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


def is_image_name(path: str) -> bool:
    """Return whether a file name is that of a readable image, and not hidden."""
    return suffix_of(path) in read_suffixes() and is_visible(path)


def _parents(path: str) -> list[str]:
    parts = path.split("/")[:-1]
    return ["/".join(parts[: count + 1]) for count in range(len(parts))]
