"""What bulk prediction knows of a data set, and one image of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from resnets.config import dump_json
from resnets.data.errors import DataError

FOUND = "source.json"
Kind = Literal["files", "spans", "parquet", "arrow"]


@dataclass(frozen=True)
class DatasetIndex:
    """What a set is, for whoever opens it.

    kind: "files" (named ones below `root`), "spans" (of the files `archives`), "parquet" (see
    `bulk_parquet`), "arrow" (read by `datasets`). count: pictures. sha256: of their names, places
    and sizes, in order. column: of the pictures. parts: of a Parquet set, see `bulk_parquet.Part`.
    left_out, links: what is not among them, and links to folders followed (`data.files.walk`).
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

    def save(self, work: Path) -> None:
        """Leave it in the work folder."""
        dump_json(asdict(self), work / FOUND, indent=None)


@dataclass(frozen=True)
class Item:
    """One picture: its name, how to get its bytes (DataError), and how that calls it."""

    name: str
    read: Callable[[], bytes | memoryview]
    where: str = ""


class Pictures(Protocol):
    """A set of encoded pictures in a fixed order."""

    def items(self, start: int, stop: int) -> Iterator[Item]:
        """Rows `start` up to `stop`; reading may be done by several threads."""

    def check(self) -> None:
        """DataError where the whole set has gone, so that no picture is to blame."""


def require(path: Path) -> None:
    """DataError where a file or folder is no longer there."""
    if not path.exists():
        raise DataError(f"{path}: has gone; bring it back and start the same command again")
