"""Kinds of files that are given as a data set but are not readable archives."""

from __future__ import annotations

from pathlib import Path

from resnets.data.files.walk import MAGIC, LeftOut

UNPACK = "unpack it into a folder, or make a zip or tar of it"
KINDS: tuple[tuple[bytes, str], ...] = (
    (b"7z\xbc\xaf\x27\x1c", f"a 7-Zip archive, which is not read; {UNPACK}"),
    (b"Rar!\x1a\x07", f"a RAR archive, which is not read; {UNPACK}"),
    (b"\x28\xb5\x2f\xfd", f"compressed with Zstandard, which is not read; {UNPACK}"),
    (b"\x04\x22\x4d\x18", f"compressed with LZ4, which is not read; {UNPACK}"),
    (b"LZIP", f"compressed with lzip, which is not read; {UNPACK}"),
    (b"\x1f\x9d", f"compressed with compress (.Z), which is not read; {UNPACK}"),
    (b"MSCF", f"a Windows cabinet, which is not read; {UNPACK}"),
    (b"hsqs", f"a SquashFS image, which is not read; {UNPACK}"),
    (b"xar!", f"a xar archive, which is not read; {UNPACK}"),
    (b"!<arch>", f"an ar archive, which is not read; {UNPACK}"),
    (b"\x89HDF\r\n\x1a\n", "an HDF5 file, which is not read; save its images as files"),
    (b"MATLAB 5.0", "a MATLAB file, which is not read; save its images as files"),
    (b"\x93NUMPY", "a NumPy array, which is not read; save its images as files"),
    (b"SQLite format 3\0", "an SQLite database, which is not read; save its images as files"),
    (b"%PDF", "a PDF, not a set of images"),
    (b"PAR1", "a Parquet file; rename it to NAME.parquet"),
    (b"ARROW1", "an Arrow file; rename it to NAME.arrow"),
    (b"version https://git-lfs", "a Git LFS pointer, not the data; run git lfs pull"),
    (b"<!DOCTYPE", "an HTML page, not the data; fetch the file again"),
    (b"<!doctype", "an HTML page, not the data; fetch the file again"),
    (b"<html", "an HTML page, not the data; fetch the file again"),
)
ISO_OFFSET, ISO_MAGIC = 32769, b"CD001"
ARCHIVES = frozenset(
    f".{suffix}" for suffix in ("zip", "tar", "tgz", "gz", "bz2", "xz", "zst", "7z", "rar", "iso")
)


def describe_file(path: Path) -> str | None:
    """Return the kind of a file by its first bytes, and what to do; None if it is unknown."""
    try:
        with path.open("rb") as stream:
            head = stream.read(64)
            stream.seek(ISO_OFFSET)
            disc = stream.read(len(ISO_MAGIC)) == ISO_MAGIC
    except OSError:
        return None
    if not head:
        return "an empty file"
    if disc:
        return f"an image of a disc (ISO 9660), which is not read; {UNPACK}"
    if MAGIC.match(head):
        return "one image, not a set of them; give the folder that holds the class folders"
    return next((text for magic, text in KINDS if head.startswith(magic)), None)


def describe_inner_archives(left_out: LeftOut) -> str:
    """Return what to do if a set without images has archives in it; "" if it has none."""
    counts = {suffix: count for (_, suffix), count in left_out.counts.items() if suffix in ARCHIVES}
    if not counts:
        return ""
    return "; archives within it are not opened: unpack them there, or give one of them as the data"
