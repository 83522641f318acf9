"""Kinds of files that are given as a data set but are not readable archives."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from resnets.data.file_kinds import NOT_THE_FILE, Group, describe_kind
from resnets.data.files.walk import MAGIC, SkippedFiles

UNPACK = "unpack it into a folder, or make a zip or tar of it"
AS_IMAGES = "save its images as files"
REMEDIES: Mapping[Group, str] = {
    **NOT_THE_FILE,
    "archive": UNPACK,
    "arrays": AS_IMAGES,
    "array": AS_IMAGES,
    "table": "give its name the suffix .parquet or .arrow",
    "document": "give a set of images",
}
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
        return f"an image of a disc (ISO 9660); {UNPACK}"
    if MAGIC.match(head):
        return "one image, not a set of them; give the folder that contains the class folders"
    return describe_kind(head, REMEDIES)


def describe_inner_archives(skipped: SkippedFiles) -> str:
    """Return what to do if a set without images has archives in it; "" if it has none."""
    counts = {suffix: count for (_, suffix), count in skipped.counts.items() if suffix in ARCHIVES}
    if not counts:
        return ""
    return "; archives within it are not opened: unpack them there, or give one of them as the data"
