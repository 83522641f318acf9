"""Kinds of files that are given as an image, a data set or weights but are none, by first bytes.

`describe_kind` names a file's kind. What to do about it differs between readers, which give the
remedies by group of kinds; a reader that can read a group excludes it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

Group = Literal[
    "tar stream",
    "archive",
    "arrays",
    "array",
    "table",
    "network",
    "program",
    "document",
    "drawing",
    "pointer",
    "page",
    "xml",
]
KINDS: tuple[tuple[bytes, str, Group], ...] = (
    (b"\x1f\x8b", "a gzip archive", "tar stream"),
    (b"BZh", "a bzip2 archive", "tar stream"),
    (b"\xfd7zXZ", "an xz archive", "tar stream"),
    (b"7z\xbc\xaf\x27\x1c", "a 7-Zip archive", "archive"),
    (b"Rar!\x1a\x07", "a RAR archive", "archive"),
    (b"\x28\xb5\x2f\xfd", "a Zstandard archive", "archive"),
    (b"\x04\x22\x4d\x18", "an LZ4 archive", "archive"),
    (b"LZIP", "an lzip archive", "archive"),
    (b"\x1f\x9d", "an archive of compress (.Z)", "archive"),
    (b"MSCF", "a Windows cabinet", "archive"),
    (b"hsqs", "a SquashFS image", "archive"),
    (b"xar!", "a xar archive", "archive"),
    (b"!<arch>", "an ar archive", "archive"),
    (b"\x89HDF\r\n\x1a\n", "an HDF5 file", "arrays"),
    (b"MATLAB 5.0", "a MATLAB file", "arrays"),
    (b"SQLite format 3\0", "an SQLite database", "arrays"),
    (b"\x93NUMPY", "a NumPy array", "array"),
    (b"PAR1", "a Parquet file", "table"),
    (b"ARROW1", "an Arrow file", "table"),
    (b"GGUF", "a GGUF file", "network"),
    (b"ptrt", "an engine of TensorRT", "network"),
    (b"\xc5\xd0\xd3\xc6", "an EPS file, which is a program", "program"),
    # Text, in lower case: compared without case and without white space before it.
    (b"%!ps", "an EPS or PostScript file, which is a program", "program"),
    (b"%pdf", "a PDF", "document"),
    (b"<svg", "an SVG drawing", "drawing"),
    (b"version https://git-lfs", "a Git LFS pointer", "pointer"),
    (b"<!doctype", "a web page (HTML)", "page"),
    (b"<html", "a web page (HTML)", "page"),
    (b"<?xml", "an XML file", "xml"),
)
NOT_THE_FILE: Mapping[Group, str] = {
    "pointer": "run git lfs pull",
    "page": "download the file again",
}


def describe_kind(start: bytes, remedies: Mapping[Group, str]) -> str | None:
    """Return the kind of a file that begins with `start`, and the remedy.

    For example "a web page (HTML); download the file again". None if the kind is of no group in
    `remedies`.
    """
    text = start.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    for magic, name, group in KINDS:
        if group in remedies and (start.startswith(magic) or text.startswith(magic)):
            return f"{name}; {remedies[group]}" if remedies[group] else name
    return None
