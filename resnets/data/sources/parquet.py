"""Parquet for streaming: read in place, a row group at a time, here or on the Hub.

Opening reads each file's footer and its columns of labels and splits, and no images. Which files
there are and which split each is of says `tabular_files`, and on the Hub `datasets`.
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
from resnets.data.sources.find_tables import TabularFiles, check_same_classes, find_tabular
from resnets.data.sources.huggingface import (
    HUB,
    display_name,
    image_bytes,
    library,
    part_name,
    reading,
    reason,
    split_name,
)
from resnets.data.tables.arrow_columns import Columns, Piece, Table, find_columns, from_tables
from resnets.data.tables.label_sets import LabelForm

FOOTERS_AT_ONCE = 16  # requests to the Hub that wait beside each other


@dataclass(frozen=True, eq=False)
class _File:
    """A Parquet file, here or "hf://...", its footer, and labels, marks and paths of its rows.

    name: what the identities of its images begin with; no other file has it. groups: the values of
    the column of groups, where there is one.
    """

    url: str
    name: str
    footer: Any
    labels: Sequence[Any]
    marks: Mapping[str, Sequence[Any]]
    paths: Sequence[str | None]
    groups: Sequence[Any] | None


@dataclass(frozen=True, eq=False)
class RowGroups:
    """The row groups of `files` as blocks: block b is group `groups[b, 1]` of file `groups[b, 0]`.

    firsts: (blocks,) the row of the part, called `title`, that each begins with.
    """

    title: str
    files: Sequence[_File]
    groups: Rows
    firsts: Rows
    image: str

    def load(self, block: int) -> list[bytes]:
        """The images of a row group; empty bytes where a row has none."""
        file, group = self.groups[block].tolist()
        try:
            parquet = _open(self.files[file].url, self.files[file].footer)
            column = parquet.read_row_group(group, columns=[self.image]).column(0)
            return [image_bytes(cell)[0] or b"" for cell in column.to_pylist()]
        except Exception as error:  # network, disk, damage: each has its own kind
            raise DataError(
                f"{self.files[file].url}:row group {group}: cannot be read ({reason(error)})"
            ) from error

    def name(self, block: int, place: int) -> str:
        """Part and row, "pets/train:17", as where the set is not streamed."""
        return f"{self.title}:{int(self.firsts[block]) + place}"

    def identities(self, where: Rows) -> tuple[Sequence[str], str]:
        """The paths kept beside the images' bytes, else file and row: "train-0.parquet:17"."""
        paths = [path for file in self.files for path in file.paths]
        if all(paths) and len(set(paths)) == len(paths):
            at = self.firsts[where[:, 0]] + where[:, 1]
            return [str(paths[row]) for row in at.tolist()], "stored path"
        file = self.groups[:, 0]
        rows = self.firsts - self.firsts[np.searchsorted(file, file)]  # where each group begins
        return [
            f"{self.files[file[block]].name}:{rows[block] + place}"
            for block, place in where.tolist()
        ], "file and row"


def open_parquet(source: str, group: str | None = None, labels: LabelForm = "auto") -> Source:
    """The set of a Parquet file, a folder of them or "hub:ORG/NAME[@REVISION][:CONFIG]", streamed.

    group: name of the column of groups. labels: see `label_sets.read_label_sets`. DataError where
    it is not of Parquet, or cannot be read or fetched.
    """
    library(source)
    urls, home = _urls(source)
    every = [url for files in urls.values() for url in files]
    if other := next((url for url in every if not url.lower().endswith(".parquet")), None):
        raise DataError(
            f"{source}: holds {other.rpartition('/')[2]}; only Parquet and WebDataset files are"
            " streamed, others are read with data.streaming=false"
        )
    name, names = display_name(source), _names(every)
    read: dict[str, _File] = {}
    columns: dict[str, Columns] = {}
    with reading(source):
        known = builder_of(source).info.features if source.startswith(HUB) else None
        for title, found in urls.items():
            with ThreadPoolExecutor(FOOTERS_AT_ONCE) as pool:
                features = list(pool.map(features_of, found))
                columns[title] = find_columns(known or features[0], name, group)
                check_same_classes(list(zip(found, features, strict=True)), columns[title].label)
                read |= zip(
                    found,
                    pool.map(partial(_read, names=names, columns=columns[title]), found),
                    strict=True,
                )
    files = {title: [read[url] for url in found] for title, found in urls.items()}
    tables = {
        title: _table(columns[title], found)
        for title, found in files.items()
        if any(len(file.labels) for file in found)
    }
    if not tables:
        raise DataError(f"{source}: no images in it")

    def part_of(piece: Piece) -> StreamPart:
        return _part(name, files[piece.table], columns[piece.table].image, piece)

    if home is None:
        return from_tables(name, source, tables, part_of, form=labels)
    opened = from_tables(name, source, tables, part_of, home.left_out, labels)
    rows = {title: len(table.labels) for title, table in tables.items()}
    return replace(opened, warnings=(*opened.warnings, *home.warnings(rows)))


def _urls(source: str) -> tuple[dict[str, list[str]], TabularFiles | None]:
    """The files by split, and the folder that they are in; None on the Hub."""
    if source.startswith(HUB):
        with reading(source):
            found = builder_of(source).config.data_files
        return {str(title): list(files) for title, files in found.items()}, None
    home = find_tabular(Path(source))
    assert home is not None
    return {title: home.absolute(paths) for title, paths in home.splits().items()}, home


def _names(urls: Sequence[str]) -> dict[str, str]:
    """The files' own names, with their folders where two have the same."""
    short = {url: url.rpartition("/")[2] for url in urls}
    if len(set(short.values())) == len(short):
        return short
    start = len(posixpath.commonpath(urls)) + 1
    return {url: url[start:] for url in urls}


def _table(columns: Columns, files: Sequence[_File]) -> Table:
    marks = {name: [cell for file in files for cell in file.marks[name]] for name in columns.marks}
    groups = None
    if columns.group is not None:
        groups = [cell for file in files for cell in file.groups or ()]
    return Table(columns, [label for file in files for label in file.labels], marks, groups)


def _part(name: str, files: Sequence[_File], image: str, piece: Piece) -> StreamPart:
    groups = [
        (number, group)
        for number, file in enumerate(files)
        for group in range(file.footer.num_row_groups)
    ]
    sizes = [files[number].footer.row_group(group).num_rows for number, group in groups]
    firsts = np.cumsum([0, *sizes])[:-1]
    block = np.repeat(np.arange(len(groups)), sizes)
    place = np.arange(len(block)) - firsts[block]
    title = part_name(name, piece.table)
    blocks = RowGroups(title, files, np.array(groups), firsts, image)
    where = np.stack([block, place], 1)[piece.rows]
    largest = max(sizes, default=0)
    return StreamPart(piece.title, blocks, where, piece.labels, largest, piece.groups)


def builder_of(source: str) -> Any:
    """The builder of `datasets` that knows which files a set of the Hub has, and of which part."""
    import datasets

    repository, revision, config = split_name(source)
    return datasets.load_dataset_builder(repository, config, revision=revision)


def features_of(url: str) -> Any:
    """The columns of a Parquet file as `datasets` sees them."""
    from datasets import Features

    return Features.from_arrow_schema(_open(url).schema_arrow)


def _read(url: str, names: Mapping[str, str], columns: Columns) -> _File:
    parquet = _open(url)
    found: dict[str, Any] = {}
    grouped = [columns.group] if columns.group else []
    for column in (columns.label, f"{columns.image}.path", *columns.marks, *grouped):
        # Labels are missing of a test part where they are secret; paths where none were kept.
        known = column in parquet.schema_arrow.names or column in _leaves(parquet)
        values = parquet.read(columns=[column]).column(0).to_pylist() if known else None
        found[column] = values or [None] * parquet.metadata.num_rows
    labels, cells = found[columns.label], found[f"{columns.image}.path"]
    paths = [cell.get("path") if isinstance(cell, Mapping) else None for cell in cells]
    marks = {column: found[column] for column in columns.marks}
    groups = found.get(columns.group or "")
    return _File(url, names[url], parquet.metadata, labels, marks, paths, groups)


def _leaves(parquet: Any) -> set[str]:
    """Names of the stored columns, nested ones with dots."""
    schema = parquet.metadata.schema
    return {schema.column(number).path for number in range(len(schema))}


def _open(url: str, footer: Any = None) -> Any:
    """A `ParquetFile` of its own for each use: they are not safe to share between threads."""
    import fsspec
    import pyarrow.parquet as pq

    system, path = fsspec.core.url_to_fs(url)
    return pq.ParquetFile(system.open(path), metadata=footer, pre_buffer=True)
