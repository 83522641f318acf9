"""Parquet, Arrow and the Hugging Face Hub, through the library `datasets` (extra `hub`).

`datasets` finds columns, and on the Hub the files and their parts (`tabular_files` does so here);
it keeps Arrow tables on the disk that are read by memory map. It never decodes, so images are read
as all others are. Parquet is copied into its cache once (HF_HOME says where), which
`data.streaming` avoids; what `save_to_disk` wrote, and .arrow files, are read where they are.
"""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resnets.config import ConfigError
from resnets.data.dataset.source import FilePart, Source
from resnets.data.errors import DataError
from resnets.data.files.folder import read_file
from resnets.data.files.walk import NOT_IMAGE, LeftOut
from resnets.data.sources.builtin import why_away
from resnets.data.sources.find_tables import (
    TabularFiles,
    check_same_classes,
    escaped,
    file_features,
    find_tabular,
    is_file_form,
)
from resnets.data.tables.arrow_columns import Columns, Piece, Table, find_columns, from_tables
from resnets.data.tables.label_sets import LabelForm

HUB = "hub:"
HUB_NAME = re.compile(r"([\w.-]+/[\w.-]+)(?:@([\w./-]+))?(?::(.+))?")

REASON = 300  # characters of another library's message that are shown


@dataclass(frozen=True, eq=False)
class ArrowFiles:
    """Images of an Arrow table: encoded bytes, or paths of files (relative ones below `root`)."""

    table: Any
    title: str
    rows: NDArray[np.int64]
    root: Path

    def __len__(self) -> int:
        """How many there are."""
        return len(self.rows)

    def name(self, index: int) -> str:
        """Table and row, "pets/train:17"."""
        return f"{self.title}:{self.rows[index]}"

    def read(self, index: int) -> bytes:
        """The encoded bytes; DataError when they cannot be had."""
        try:
            cell = self.table[int(self.rows[index])].column(0)[0].as_py()
        except Exception as error:  # damaged tables raise anything
            raise DataError(f"{self.name(index)}: cannot be read ({reason(error)})") from error
        data, path = image_bytes(cell)
        if data is None and path:
            return read_file(self.root / path)
        if not data:
            raise DataError(f"{self.name(index)}: contains no image")
        return data

    def identities(self) -> tuple[Sequence[str], str] | None:
        """The paths that the table keeps beside the images' bytes; None where any is missing."""
        import pyarrow as pa

        column = self.table[:].column(0)
        kind = column.type
        if not pa.types.is_struct(kind) or kind.get_field_index("path") < 0:
            return None
        paths = [path for chunk in column.chunks for path in chunk.field("path").to_pylist()]
        if not all(paths):
            return None
        return [paths[row] for row in self.rows.tolist()], "stored path"

    def take(self, rows: NDArray[np.int64]) -> ArrowFiles:
        """The images of `rows`, renumbered from 0."""
        return ArrowFiles(self.table, self.title, self.rows[rows], self.root)


def image_bytes(cell: Any) -> tuple[bytes | None, str | None]:
    """Bytes and path of a cell, which holds the bytes alone, both, or nothing."""
    if isinstance(cell, Mapping):
        return cell.get("bytes"), cell.get("path")
    return cell, None


def is_tabular(path: Path) -> bool:
    """Whether a file or folder is a data set that `datasets` reads."""
    return find_tabular(path) is not None


def open_tabular(source: str, group: str | None = None, labels: LabelForm = "auto") -> Source:
    """The set "hub:ORG/NAME[@REVISION][:CONFIG]", or of a file or folder.

    group: name of the column of groups. labels: see `label_sets.read_label_sets`.

    Raises ConfigError for a malformed name, DataError for what cannot be fetched or read.
    """
    datasets = library(source)
    name, root, left_out = display_name(source), Path(source), LeftOut()
    home = None if source.startswith(HUB) else find_tabular(root)
    with reading(source):
        if home is None:
            repository, revision, config = split_name(source)
            parts = dict(datasets.load_dataset(repository, config, revision=revision))
        else:
            left_out.add_all(home.left_out)
            parts = _saved(home, left_out) if home.kind == "saved" else _load(home)
    parts = {str(title): part for title, part in parts.items() if len(part)}
    if not parts:
        raise DataError(f"{source}: no images in it")
    tables = {}
    with reading(source):
        for title, part in parts.items():
            columns = find_columns(part.features, name, group)
            tables[title] = _table(part, columns)

    def part_of(piece: Piece) -> FilePart:
        images = parts[piece.table].select_columns([tables[piece.table].columns.image])
        folder = root if root.is_dir() else root.parent
        title = part_name(name, piece.table)
        files = ArrowFiles(images.with_format("arrow"), title, piece.rows, folder)
        return FilePart(piece.title, files, piece.labels, groups=piece.groups)

    found = from_tables(name, source, tables, part_of, left_out, labels)
    if home is None:
        return found
    rows = {title: len(table.labels) for title, table in tables.items()}
    return replace(found, warnings=(*found.warnings, *home.warnings(rows)))


def _table(part: Any, columns: Columns) -> Table:
    """Labels and marks of a part; the images are not read."""
    names = [columns.label, *columns.marks, *([columns.group] if columns.group else [])]
    stored = part.select_columns(list(dict.fromkeys(names))).with_format("arrow")[:]
    found = {name: stored.column(name).to_pylist() for name in names}
    marks = {name: found[name] for name in columns.marks}
    return Table(columns, found[columns.label], marks, found.get(columns.group or ""))


def _load(home: TabularFiles) -> dict[str, Any]:
    """The tables of a file or folder by split, each file used.

    Split by split: `datasets` takes the columns, and so the numbers of the classes, of the first
    file of all that it is given.
    """
    import datasets

    parts = {}
    for title, paths in home.splits().items():
        files = home.absolute(paths)
        every = [(file, file_features(file)) for file in files]
        check_same_classes(every, find_columns(every[0][1], files[0]).label)
        if home.kind == "arrow":
            parts[title] = datasets.concatenate_datasets(list(map(_arrow_dataset, files)))
        else:
            parts[title] = datasets.load_dataset(
                "parquet", data_files=list(map(escaped, files)), split="train"
            )
    return parts


def _arrow_dataset(file: str) -> Any:
    """An Arrow file, memory-mapped; `datasets` reads the stream form alone."""
    import datasets
    import pyarrow as pa

    with reading(file):
        if is_file_form(file):
            table = pa.ipc.open_file(pa.memory_map(file)).read_all()  # views of the mapped file
            in_memory = datasets.table.InMemoryTable(table)
            found = datasets.Dataset(in_memory, fingerprint=datasets.fingerprint.Hasher.hash(file))
        else:
            found = datasets.Dataset.from_file(file)
        found.data.validate(full=True)  # offsets beyond the file would be followed
    return found


def _saved(home: TabularFiles, left_out: LeftOut) -> dict[str, Any]:
    """What `save_to_disk` wrote, by part; tables beside it are counted as left out."""
    import datasets

    found = datasets.load_from_disk(str(home.root))
    parts = {"": found} if isinstance(found, datasets.Dataset) else dict(found)
    with reading(str(home.root)):
        for part in parts.values():
            part.data.validate(full=True)
    used = {
        Path(file["filename"]).resolve() for part in parts.values() for file in part.cache_files
    }
    for path in home.paths:
        if (home.root / path).resolve() not in used:
            left_out.add(NOT_IMAGE, path)
    return parts


def split_name(source: str) -> tuple[str, str | None, str | None]:
    """Repository, revision and configuration of "hub:ORG/NAME[@REVISION][:CONFIG]"."""
    found = HUB_NAME.fullmatch(source.removeprefix(HUB))
    if found is None:
        raise ConfigError(
            f"data.source: {source}: write it as hub:ORG/NAME, hub:ORG/NAME:CONFIG or"
            " hub:ORG/NAME@REVISION"
        )
    return found[1], found[2], found[3]


def display_name(source: str) -> str:
    """What protocols call a set: the Hub's name, or that of the file or folder."""
    return source.removeprefix(HUB) if source.startswith(HUB) else Path(source).resolve().name


def part_name(name: str, title: str) -> str:
    """What the names of a part's images start with, "pets/train"."""
    return f"{name}/{title}" if title else name


def library(source: str) -> Any:
    """The module `datasets`; DataError says how to install it."""
    try:
        import datasets
    except ImportError as error:
        raise DataError(
            f"{source}: needs the library `datasets` ({error}): pip install 'resnets[hub]'"
        ) from None
    datasets.logging.set_verbosity(logging.CRITICAL)  # what it logs it raises too
    if not sys.stderr.isatty():
        datasets.disable_progress_bars()
    return datasets


@contextmanager
def reading(source: str) -> Iterator[None]:
    """Turn whatever `datasets` and the Hub raise into a DataError of one line that names `source`.

    Where the Hub cannot be reached, only the cache is read: `datasets` would try for
    most of a minute. The cache does not say of which revision it is, so none may be named then.
    """
    from datasets import config

    away = None
    if source.startswith(HUB):
        revision = split_name(source)[1]
        away = why_away(config.HF_ENDPOINT)
        if away and revision:
            raise DataError(_unreachable(source, config.HF_ENDPOINT, away))
    before, config.HF_HUB_OFFLINE = config.HF_HUB_OFFLINE, config.HF_HUB_OFFLINE or bool(away)
    try:
        yield
    except (ConfigError, DataError):
        raise
    except Exception as error:  # network, disk, Parquet, metadata: each has its own kind
        if config.HF_HUB_OFFLINE and source.startswith(HUB):
            why = away or "offline mode"
            raise DataError(_unreachable(source, config.HF_ENDPOINT, why)) from error
        raise DataError(f"{source}: cannot be read ({reason(error)})") from error
    finally:
        config.HF_HUB_OFFLINE = before


def _unreachable(source: str, endpoint: str, why: str) -> str:
    repository, revision, _ = split_name(source)
    cached = "which revision is in the cache is not known" if revision else "it is not in the cache"
    return (
        f"{source}: cannot be fetched from {endpoint}/datasets/{repository} ({why}), and {cached};"
        " fetch it where there is a network (`hf download --repo-type dataset`) and give its folder"
        " as --data"
    )


def reason(error: BaseException) -> str:
    """What is at the root of an error, on one line."""
    while error.__cause__ is not None:
        error = error.__cause__
    return (" ".join(str(error).split()) or type(error).__name__)[:REASON]
