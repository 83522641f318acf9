"""Parquet for streaming: read in place, one row group at a time, locally or on the Hub.

Opening reads each file's footer and its columns of labels and splits, but no images. The files and
their splits are found by `find_parquet`, on the Hub by `datasets`.
"""

from __future__ import annotations

import posixpath
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from resnets.data.dataset.source import Rows, Source
from resnets.data.dataset.stream import StreamPart
from resnets.data.errors import DataError
from resnets.data.sources.find_parquet import TabularFiles, check_same_classes, find_tabular
from resnets.data.sources.huggingface import (
    HUB,
    format_part_name,
    format_source_name,
    image_bytes,
    import_datasets,
    parse_hub_name,
    reading_dataset,
    root_cause,
)
from resnets.data.tables.arrow_columns import (
    ArrowColumns,
    ArrowTable,
    TableSplit,
    find_arrow_columns,
    source_from_tables,
)
from resnets.data.tables.multilabel import LabelForm

MAX_CONCURRENT_READS = 16  # concurrent requests to the Hub


@dataclass(frozen=True, eq=False)
class _File:
    """A Parquet file, local or "hf://...", with its footer and its columns without images.

    The columns are labels, splits, paths and groups (if any). name: prefix of its images'
    identities, unique among the files.
    """

    url: str
    name: str
    footer: Any
    labels: Sequence[Any]
    split_columns: Mapping[str, Sequence[Any]]
    paths: Sequence[str | None]
    groups: Sequence[Any] | None


@dataclass(frozen=True, eq=False)
class RowGroups:
    """The row groups of `files` as blocks: block b is group `groups[b, 1]` of file `groups[b, 0]`.

    title: name of the part. firsts: (blocks,) the part's row that each begins with.
    """

    title: str
    files: Sequence[_File]
    groups: Rows
    firsts: Rows
    image: str

    def load(self, block: int) -> list[bytes]:
        """Read the images of a row group; rows without an image give empty bytes."""
        file, group = self.groups[block].tolist()
        try:
            parquet = _open_parquet(self.files[file].url, self.files[file].footer)
            column = parquet.read_row_group(group, columns=[self.image]).column(0)
            return [image_bytes(cell)[0] or b"" for cell in column.to_pylist()]
        except Exception as error:  # network, disk, damage: each has its own kind
            raise DataError(
                f"{self.files[file].url}:row group {group}: cannot be read ({root_cause(error)})"
            ) from error

    def name(self, block: int, position: int) -> str:
        """Return part and row, "pets/train:17", as for a data set that is not streamed."""
        return f"{self.title}:{int(self.firsts[block]) + position}"

    def identities(self, where: Rows) -> tuple[Sequence[str], str]:
        """Return the paths stored with the images, otherwise file and row: "train-0.parquet:17"."""
        paths = [path for file in self.files for path in file.paths]
        if all(paths) and len(set(paths)) == len(paths):
            part_rows = self.firsts[where[:, 0]] + where[:, 1]
            return [str(paths[row]) for row in part_rows.tolist()], "stored path"
        file = self.groups[:, 0]
        rows = self.firsts - self.firsts[np.searchsorted(file, file)]  # where each group begins
        return [
            f"{self.files[file[block]].name}:{rows[block] + position}"
            for block, position in where.tolist()
        ], "file and row"


def open_parquet(source: str, group: str | None = None, labels: LabelForm = "auto") -> Source:
    """Open a Parquet file, a folder of them or "hub:ORG/NAME[@REVISION][:CONFIG]" for streaming.

    group: the name of the column of groups. labels: see `multilabel.parse_labels`. Raises
    DataError if it is not Parquet, or cannot be read or downloaded.
    """
    import_datasets(source)
    urls, home = _find_urls(source)
    all_urls = [url for files in urls.values() for url in files]
    if other := next((url for url in all_urls if not url.lower().endswith(".parquet")), None):
        raise DataError(
            f"{source}: contains {other.rpartition('/')[2]}; only Parquet and WebDataset files can "
            "be streamed, set data.streaming=false"
        )
    name, names = format_source_name(source), _unique_names(all_urls)
    read: dict[str, _File] = {}
    columns: dict[str, ArrowColumns] = {}
    with reading_dataset(source):
        hub_features = load_builder(source).info.features if source.startswith(HUB) else None
        for title, found in urls.items():
            with ThreadPoolExecutor(MAX_CONCURRENT_READS) as pool:
                features = list(pool.map(read_features, found))
                columns[title] = find_arrow_columns(hub_features or features[0], name, group)
                check_same_classes(list(zip(found, features, strict=True)), columns[title].label)
                read |= zip(
                    found,
                    pool.map(partial(_read_file, names=names, columns=columns[title]), found),
                    strict=True,
                )
    files = {title: [read[url] for url in found] for title, found in urls.items()}
    tables = {
        title: _join_tables(columns[title], found)
        for title, found in files.items()
        if any(len(file.labels) for file in found)
    }
    if not tables:
        raise DataError(f"{source}: no images in it")

    def make_part(split: TableSplit) -> StreamPart:
        return _make_part(name, files[split.table], columns[split.table].image, split)

    if home is None:
        return source_from_tables(name, source, tables, make_part, form=labels)
    opened = source_from_tables(name, source, tables, make_part, home.skipped, labels)
    rows = {title: len(table.labels) for title, table in tables.items()}
    return replace(opened, warnings=(*opened.warnings, *home.warnings(rows)))


def _find_urls(source: str) -> tuple[dict[str, list[str]], TabularFiles | None]:
    """Return the files by split, and the folder that they are in; None on the Hub."""
    if source.startswith(HUB):
        with reading_dataset(source):
            found = load_builder(source).config.data_files
        return {str(title): list(files) for title, files in found.items()}, None
    home = find_tabular(Path(source))
    assert home is not None
    return {title: home.absolute(paths) for title, paths in home.splits().items()}, home


def _unique_names(urls: Sequence[str]) -> dict[str, str]:
    """Return the files' names, with their folders if names repeat."""
    short = {url: url.rpartition("/")[2] for url in urls}
    if len(set(short.values())) == len(short):
        return short
    start = len(posixpath.commonpath(urls)) + 1
    return {url: url[start:] for url in urls}


def _join_tables(columns: ArrowColumns, files: Sequence[_File]) -> ArrowTable:
    split_columns = {
        name: [cell for file in files for cell in file.split_columns[name]]
        for name in columns.split_columns
    }
    groups = None
    if columns.group is not None:
        groups = [cell for file in files for cell in file.groups or ()]
    return ArrowTable(
        columns, [label for file in files for label in file.labels], split_columns, groups
    )


def _make_part(name: str, files: Sequence[_File], image: str, split: TableSplit) -> StreamPart:
    groups = [
        (number, group)
        for number, file in enumerate(files)
        for group in range(file.footer.num_row_groups)
    ]
    sizes = [files[number].footer.row_group(group).num_rows for number, group in groups]
    firsts = np.cumsum([0, *sizes])[:-1]
    block = np.repeat(np.arange(len(groups)), sizes)
    position = np.arange(len(block)) - firsts[block]
    title = format_part_name(name, split.table)
    blocks = RowGroups(title, files, np.array(groups), firsts, image)
    where = np.stack([block, position], 1)[split.rows]
    largest = max(sizes, default=0)
    return StreamPart(split.title, blocks, where, split.labels, largest, split.groups)


def load_builder(source: str) -> Any:
    """Load the builder of `datasets`, which lists the files and splits of a data set on the Hub."""
    import datasets

    repository, revision, config = parse_hub_name(source)
    return datasets.load_dataset_builder(repository, config, revision=revision)


def read_features(url: str) -> Any:
    """Return the columns of a Parquet file as `datasets` features."""
    from datasets import Features

    return Features.from_arrow_schema(_open_parquet(url).schema_arrow)


def _read_file(url: str, names: Mapping[str, str], columns: ArrowColumns) -> _File:
    parquet = _open_parquet(url)
    found: dict[str, Any] = {}
    group_columns = [columns.group] if columns.group else []
    for column in (columns.label, f"{columns.image}.path", *columns.split_columns, *group_columns):
        # A test part with secret labels lacks them; paths are not always stored.
        is_stored = column in parquet.schema_arrow.names or column in _column_paths(parquet)
        values = parquet.read(columns=[column]).column(0).to_pylist() if is_stored else None
        found[column] = values or [None] * parquet.metadata.num_rows
    labels, cells = found[columns.label], found[f"{columns.image}.path"]
    paths = [cell.get("path") if isinstance(cell, Mapping) else None for cell in cells]
    split_columns = {column: found[column] for column in columns.split_columns}
    groups = found.get(columns.group or "")
    return _File(url, names[url], parquet.metadata, labels, split_columns, paths, groups)


def _column_paths(parquet: Any) -> set[str]:
    """Return the names of the stored columns; nested names have dots."""
    schema = parquet.metadata.schema
    return {schema.column(number).path for number in range(len(schema))}


def _open_parquet(url: str, footer: Any = None) -> Any:
    """Open a `ParquetFile`; each use opens its own, because they are not thread-safe."""
    import fsspec
    import pyarrow.parquet as pq

    system, path = fsspec.core.url_to_fs(url)
    return pq.ParquetFile(system.open(path), metadata=footer, pre_buffer=True)
