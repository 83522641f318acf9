"""The index of a data set for bulk prediction, and one image of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from resnets.config import dump_json
from resnets.data.errors import DataError

INDEX_FILE = "source.json"
Kind = Literal["files", "spans", "parquet", "arrow"]


@dataclass(frozen=True)
class DatasetIndex:
    """Everything needed to open a data set again.

    kind: "files" (below `root`), "spans" (of the files `archives`), "parquet" (see `parquet.py`),
    "arrow" (read by `datasets`). count: of images. sha256: of their names, offsets and sizes, in
    order. column: that of the images. parts: of a Parquet data set, see `parquet.Part`. left_out,
    links: ignored files, and the number of links to folders followed (`data.files.walk`).
    warnings: where images may be missing.
    """

    kind: Kind
    root: str
    count: int
    sha256: str
    archives: tuple[str, ...] = ()
    column: str = ""
    parts: tuple[dict[str, Any], ...] = ()
    left_out: tuple[str, ...] = ()
    links: int = 0
    warnings: tuple[str, ...] = ()

    def save(self, work: Path) -> None:
        """Write the index to the work folder."""
        dump_json(asdict(self), work / INDEX_FILE, indent=None)


@dataclass(frozen=True)
class Item:
    """One image: its name, a function that reads its bytes (DataError), and its location."""

    name: str
    read: Callable[[], bytes | memoryview]
    where: str = ""


class ImageSet(Protocol):
    """A set of encoded images in a fixed order."""

    def items(self, start: int, stop: int) -> Iterator[Item]:
        """Rows `start` up to `stop`; reading may be done by several threads."""

    def check(self) -> None:
        """DataError if the whole data set is gone, rather than single images."""


def require_exists(path: Path) -> None:
    """DataError if a file or folder no longer exists."""
    if not path.exists():
        raise DataError(f"{path}: no longer exists; restore it and run the same command again")
