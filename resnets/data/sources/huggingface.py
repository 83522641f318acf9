"""Parquet, Arrow and the Hugging Face Hub, with the library `datasets` (extra `hub`).

`datasets` finds columns, and on the Hub also files and their splits (locally `find_parquet` does);
it stores memory-mapped Arrow tables. It never decodes images; they are decoded like all others.
Parquet files are copied into its cache once (HF_HOME), which `data.streaming` avoids. Files of
`save_to_disk`, and .arrow files, are read in place.
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
from resnets.data.files.walk import NOT_IMAGE, SkippedFiles
from resnets.data.sources.builtin import find_connection_error
from resnets.data.sources.find_parquet import (
    TabularFiles,
    check_same_classes,
    escape_pattern,
    file_features,
    find_tabular,
    is_file_form,
)
from resnets.data.tables.arrow_columns import (
    ArrowColumns,
    ArrowTable,
    TableSplit,
    find_arrow_columns,
    source_from_tables,
)
from resnets.data.tables.multilabel import LabelForm

HUB = "hub:"
HUB_NAME = re.compile(r"([\w.-]+/[\w.-]+)(?:@([\w./-]+))?(?::(.+))?")

MAX_REASON = 300  # maximum length of another library's message


@dataclass(frozen=True, eq=False)
class ArrowFiles:
    """Images of an Arrow table: encoded bytes, or paths of files (relative ones below `root`)."""

    table: Any
    title: str
    rows: NDArray[np.int64]
    root: Path

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.rows)

    def name(self, index: int) -> str:
        """Return table and row, "pets/train:17"."""
        return f"{self.title}:{self.rows[index]}"

    def read(self, index: int) -> bytes:
        """Return the encoded bytes; raise DataError if they cannot be read."""
        try:
            cell = self.table[int(self.rows[index])].column(0)[0].as_py()
        except Exception as error:  # damaged tables raise anything
            raise DataError(f"{self.name(index)}: cannot be read ({root_cause(error)})") from error
        data, path = image_bytes(cell)
        if data is None and path:
            return read_file(self.root / path)
        if not data:
            raise DataError(f"{self.name(index)}: contains no image")
        return data

    def identities(self) -> tuple[Sequence[str], str] | None:
        """Return the paths that the table stores with the images; None if any is missing."""
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
        """Return the images of `rows`, renumbered from 0."""
        return ArrowFiles(self.table, self.title, self.rows[rows], self.root)


def image_bytes(cell: Any) -> tuple[bytes | None, str | None]:
    """Return bytes and path of a cell, which contains only bytes, both, or neither."""
    if isinstance(cell, Mapping):
        return cell.get("bytes"), cell.get("path")
    return cell, None


def is_tabular(path: Path) -> bool:
    """True if a file or folder is a data set that `datasets` reads."""
    return find_tabular(path) is not None


def open_tabular(source: str, group: str | None = None, labels: LabelForm = "auto") -> Source:
    """Open the data set "hub:ORG/NAME[@REVISION][:CONFIG]", or that of a file or folder.

    group: the name of the column of groups. labels: see `multilabel.parse_labels`. Raises
    ConfigError for a malformed name, and DataError if the data set cannot be downloaded or read.
    """
    datasets = import_datasets(source)
    name, root, skipped = format_source_name(source), Path(source), SkippedFiles()
    home = None if source.startswith(HUB) else find_tabular(root)
    with reading_dataset(source):
        if home is None:
            repository, revision, config = parse_hub_name(source)
            parts = dict(datasets.load_dataset(repository, config, revision=revision))
        else:
            skipped.add_all(home.skipped)
            parts = _load_saved(home, skipped) if home.kind == "saved" else _load_parts(home)
    parts = {str(title): part for title, part in parts.items() if len(part)}
    if not parts:
        raise DataError(f"{source}: no images in it")
    tables = {}
    with reading_dataset(source):
        for title, part in parts.items():
            columns = find_arrow_columns(part.features, name, group)
            tables[title] = _read_table(part, columns)

    def make_part(split: TableSplit) -> FilePart:
        images = parts[split.table].select_columns([tables[split.table].columns.image])
        folder = root if root.is_dir() else root.parent
        title = format_part_name(name, split.table)
        files = ArrowFiles(images.with_format("arrow"), title, split.rows, folder)
        return FilePart(split.title, files, split.labels, groups=split.groups)

    found = source_from_tables(name, source, tables, make_part, skipped, labels)
    if home is None:
        return found
    rows = {title: len(table.labels) for title, table in tables.items()}
    return replace(found, warnings=(*found.warnings, *home.warnings(rows)))


def _read_table(part: Any, columns: ArrowColumns) -> ArrowTable:
    """Read the labels, splits and groups of a part, without its images."""
    names = [columns.label, *columns.split_columns, *([columns.group] if columns.group else [])]
    stored = part.select_columns(list(dict.fromkeys(names))).with_format("arrow")[:]
    found = {name: stored.column(name).to_pylist() for name in names}
    split_columns = {name: found[name] for name in columns.split_columns}
    return ArrowTable(columns, found[columns.label], split_columns, found.get(columns.group or ""))


def _load_parts(home: TabularFiles) -> dict[str, Any]:
    """Load the tables of a file or folder by split.

    Each split is loaded separately, because `datasets` uses the columns, including the class
    numbers, of the first file for all files.
    """
    import datasets

    parts = {}
    for title, paths in home.splits().items():
        files = home.absolute(paths)
        features = [(file, file_features(file)) for file in files]
        check_same_classes(features, find_arrow_columns(features[0][1], files[0]).label)
        if home.kind == "arrow":
            parts[title] = datasets.concatenate_datasets(list(map(_open_arrow, files)))
        else:
            parts[title] = datasets.load_dataset(
                "parquet", data_files=list(map(escape_pattern, files)), split="train"
            )
    return parts


def _open_arrow(file: str) -> Any:
    """Open a memory-mapped Arrow file; `datasets` alone reads only the stream format."""
    import datasets
    import pyarrow as pa

    with reading_dataset(file):
        if is_file_form(file):
            table = pa.ipc.open_file(pa.memory_map(file)).read_all()  # views of the mapped file
            in_memory = datasets.table.InMemoryTable(table)
            found = datasets.Dataset(in_memory, fingerprint=datasets.fingerprint.Hasher.hash(file))
        else:
            found = datasets.Dataset.from_file(file)
        found.data.validate(full=True)  # offsets must not point beyond the file
    return found


def _load_saved(home: TabularFiles, skipped: SkippedFiles) -> dict[str, Any]:
    """Load the files of `save_to_disk` by part; other tables are counted as skipped."""
    import datasets

    found = datasets.load_from_disk(str(home.root))
    parts = {"": found} if isinstance(found, datasets.Dataset) else dict(found)
    with reading_dataset(str(home.root)):
        for part in parts.values():
            part.data.validate(full=True)
    used = {
        Path(file["filename"]).resolve() for part in parts.values() for file in part.cache_files
    }
    for path in home.paths:
        if (home.root / path).resolve() not in used:
            skipped.add(NOT_IMAGE, path)
    return parts


def parse_hub_name(source: str) -> tuple[str, str | None, str | None]:
    """Return repository, revision and configuration of "hub:ORG/NAME[@REVISION][:CONFIG]"."""
    found = HUB_NAME.fullmatch(source.removeprefix(HUB))
    if found is None:
        raise ConfigError(
            f"data.source: {source}: write it as hub:ORG/NAME, hub:ORG/NAME:CONFIG or"
            " hub:ORG/NAME@REVISION"
        )
    return found[1], found[2], found[3]


def format_source_name(source: str) -> str:
    """Return a data set's name for protocols: the Hub's name, or that of the file or folder."""
    return source.removeprefix(HUB) if source.startswith(HUB) else Path(source).resolve().name


def format_part_name(name: str, title: str) -> str:
    """Return the prefix of the names of a part's images, "pets/train"."""
    return f"{name}/{title}" if title else name


def import_datasets(source: str) -> Any:
    """Import `datasets`; raise DataError with how to install it."""
    try:
        import datasets
    except ImportError as error:
        raise DataError(
            f"{source}: needs the library `datasets` ({error}): pip install 'resnets[hub]'"
        ) from None
    datasets.logging.set_verbosity(logging.CRITICAL)  # it raises what it logs
    if not sys.stderr.isatty():
        datasets.disable_progress_bars()
    return datasets


@contextmanager
def reading_dataset(source: str) -> Iterator[None]:
    """Convert all errors of `datasets` and the Hub to a one-line DataError that names `source`.

    If the Hub cannot be reached, only the cache is read, because `datasets` would retry for most of
    a minute. The cache does not store revisions, so a source with a revision is then refused.
    """
    from datasets import config

    failure = None
    if source.startswith(HUB):
        revision = parse_hub_name(source)[1]
        failure = find_connection_error(config.HF_ENDPOINT)
        if failure and revision:
            raise DataError(_format_offline(source, config.HF_ENDPOINT, failure))
    earlier, config.HF_HUB_OFFLINE = config.HF_HUB_OFFLINE, config.HF_HUB_OFFLINE or bool(failure)
    try:
        yield
    except (ConfigError, DataError):
        raise
    except Exception as error:  # network, disk, Parquet, metadata: each has its own kind
        if config.HF_HUB_OFFLINE and source.startswith(HUB):
            why = failure or "offline mode"
            raise DataError(_format_offline(source, config.HF_ENDPOINT, why)) from error
        raise DataError(f"{source}: cannot be read ({root_cause(error)})") from error
    finally:
        config.HF_HUB_OFFLINE = earlier


def _format_offline(source: str, endpoint: str, why: str) -> str:
    repository, revision, _ = parse_hub_name(source)
    cached = "which revision is in the cache is not known" if revision else "it is not in the cache"
    return (
        f"{source}: cannot be fetched from {endpoint}/datasets/{repository} ({why}), and {cached};"
        " fetch it where there is a network (`hf download --repo-type dataset`) and give its folder"
        " as --data"
    )


def root_cause(error: BaseException) -> str:
    """Return the message of the root cause of an error, on one line."""
    while error.__cause__ is not None:
        error = error.__cause__
    return (" ".join(str(error).split()) or type(error).__name__)[:MAX_REASON]
