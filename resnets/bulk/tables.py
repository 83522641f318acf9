"""Tables of images: Parquet files, local or on the Hub, and Arrow files, which are memory-mapped.

Parquet is read sequentially, a few rows at a time. Row groups can have a hundred images or all of
them, so a group is never held in memory as a whole: pages are streamed, and rows before the
requested range are skipped.
"""

from __future__ import annotations

import hashlib
import time
from bisect import bisect_right
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np

from resnets.bulk.dataset_index import DatasetIndex, Item, require_exists
from resnets.data.errors import DataError
from resnets.data.files.folder import read_file
from resnets.data.sources.find_parquet import find_tabular, is_saved
from resnets.data.sources.huggingface import (
    HUB,
    ArrowFiles,
    format_part_name,
    format_source_name,
    image_bytes,
    import_datasets,
    reading_dataset,
    root_cause,
)
from resnets.data.sources.parquet import MAX_CONCURRENT_READS, load_builder, read_features
from resnets.data.tables.arrow_columns import find_image_column

ROWS = 32  # per batch read from a file
BUFFER = 1 << 20  # bytes read from a column at once
RETRY_DELAYS = (0, 2, 10, 30)  # seconds before each attempt to read from the Hub

Part = dict[str, Any]  # url; title that its rows' names start with; first row's number; groups


def index_parquet(source: str) -> DatasetIndex | None:
    """Index the Parquet files of a path or "hub:ORG/NAME[@REVISION][:CONFIG]"; None if none.

    Reads the footers only. Rows of the Hub are numbered within their split, as in `datasets`, rows
    of local files within the file. DataError for unreadable files.
    """
    import_datasets(source)
    if source.startswith(HUB):
        files = _hub_files(source)
    else:
        home = find_tabular(Path(source))
        if home is None or home.kind != "parquet":
            return None
        files = [(name, str(home.root / name)) for name in home.paths]
    if not files:
        return None
    digest = hashlib.sha256()
    parts: list[Part] = []
    with reading_dataset(source):
        column = find_image_column(read_features(files[0][1]), format_source_name(source))
        with ThreadPoolExecutor(MAX_CONCURRENT_READS) as pool:
            footers = list(pool.map(lambda pair: _groups(pair[1], column), files))
    rows: dict[str, int] = {}
    for (title, url), groups in zip(files, footers, strict=True):
        counts = [count for count, _ in groups]
        parts.append({"url": url, "title": title, "first": rows.get(title, 0), "groups": counts})
        rows[title] = rows.get(title, 0) + sum(counts)
        digest.update(f"{title}\0{groups}\n".encode())
    return DatasetIndex(
        "parquet", source, sum(rows.values()), digest.hexdigest(), column=column, parts=tuple(parts)
    )


def _hub_files(source: str) -> list[tuple[str, str]]:
    """Title and URL of each file; URLs contain the commit, so that all workers read the same."""
    with reading_dataset(source):
        data_files = load_builder(source).config.data_files
    urls = [
        (format_part_name(format_source_name(source), str(title)), url)
        for title in data_files
        for url in data_files[title]
    ]
    if other := next((url for _, url in urls if not url.endswith(".parquet")), None):
        raise DataError(
            f"{source}: contains {other.rpartition('/')[2]}, but only Parquet files are read "
            "from the Hub in bulk; download the data set (`hf download --repo-type dataset`) "
            "and pass its folder"
        )
    return urls


def _groups(url: str, column: str) -> list[tuple[int, int]]:
    """Rows and bytes of each row group; ValueError if the column is missing."""
    with _open(url) as parquet:
        if column not in parquet.schema_arrow.names:
            raise ValueError(f"{url} has no column {column}, which the first file has")
        metadata = parquet.metadata
        groups = [metadata.row_group(number) for number in range(metadata.num_row_groups)]
        return [(group.num_rows, group.total_byte_size) for group in groups]


def _open(url: str) -> Any:
    import pyarrow.parquet as pq

    if "://" not in url:
        return pq.ParquetFile(url, buffer_size=BUFFER, pre_buffer=False)
    import fsspec

    system, path = fsspec.core.url_to_fs(url)
    return pq.ParquetFile(system.open(path), buffer_size=BUFFER, pre_buffer=False)


class ParquetImages:
    """The rows of several Parquet files, read sequentially by one thread."""

    def __init__(self, index: DatasetIndex) -> None:
        self.source = index.root
        here = Path("" if index.root.startswith(HUB) else index.root)
        folder = here.parent if here.is_file() else here
        self.files = [_File(part, index.column, folder) for part in index.parts]
        self.ends = list(accumulate(file.count for file in self.files))

    def items(self, start: int, stop: int) -> Iterator[Item]:
        """Rows `start` up to `stop`."""
        for file, end in zip(self.files, self.ends, strict=True):
            first = end - file.count
            if start < end and first < stop:
                yield from file.items(max(start, first) - first, min(stop, end) - first)
            else:
                file.close()

    def check(self) -> None:
        """DataError if the data set is gone."""
        if not self.source.startswith(HUB):
            require_exists(Path(self.source))


class _File:
    """One file, kept open at the end of the last range, since the next one is often near."""

    def __init__(self, part: Part, column: str, folder: Path) -> None:
        self.url, self.title, self.first = part["url"], part["title"], part["first"]
        self.column, self.folder = column, folder
        self.groups: list[int] = part["groups"]
        self.ends = list(accumulate(self.groups))
        self.count = self.ends[-1] if self.ends else 0
        self.cells: Iterator[Any] | None = None
        self.next_row = 0  # the row of the cell that comes next

    def items(self, start: int, stop: int) -> Iterator[Item]:
        """Rows `start` up to `stop`; reading those of a damaged row group raises DataError."""
        row, failures = start, 0
        while row < stop:
            try:
                for cell in self._cells(row):
                    yield Item(self._name(row), partial(self._bytes, cell.as_py()))
                    row, failures = row + 1, 0
                    if row == stop:
                        break
                else:
                    raise EOFError(f"the file ends before row {row}")
            except Exception as error:  # disk, network and damage raise different types
                self.close()
                failure = DataError(f"{self.url}: cannot be read ({root_cause(error)})")
                if "://" not in self.url:
                    end = min(stop, self.ends[bisect_right(self.ends, row)])
                    for missing_row in range(row, end):
                        yield Item(self._name(missing_row), partial(_fail, failure), self.url)
                    row = end
                    continue
                failures += 1
                if failures == len(RETRY_DELAYS):
                    raise failure from error
                time.sleep(RETRY_DELAYS[failures])
        if row == self.count:
            self.close()

    def close(self) -> None:
        """Close the file."""
        self.cells = None

    def _cells(self, row: int) -> Iterator[Any]:
        """The cells from `row` on."""
        group = bisect_right(self.ends, row)
        first = self.ends[group - 1] if group else 0
        if self.cells is None or not first <= self.next_row <= row:
            self.cells, self.next_row = self._read(group), first
        for cell in self.cells:
            self.next_row += 1
            if self.next_row > row:
                yield cell

    def _read(self, group: int) -> Iterator[Any]:
        """The cells from row group `group` on, with read-ahead."""
        with _open(self.url) as parquet, ThreadPoolExecutor(1, "parquet") as pool:
            metadata = parquet.metadata
            groups = [
                metadata.row_group(number).num_rows for number in range(metadata.num_row_groups)
            ]
            if groups != self.groups:  # rows would get wrong names
                raise ValueError("the file has changed since it was indexed")
            # Group by group, so that a damaged group does not affect the others.
            batches = (
                batch
                for number in range(group, len(self.ends))
                for batch in parquet.iter_batches(
                    ROWS, [number], columns=[self.column], use_threads=False
                )
            )
            upcoming = pool.submit(next, batches, None)
            while (batch := upcoming.result()) is not None:
                upcoming = pool.submit(next, batches, None)
                yield from batch.column(0)

    def _bytes(self, cell: Any) -> bytes:
        data, path = image_bytes(cell)
        if data is None and path:
            return read_file(self.folder / path)
        if not data:
            raise DataError("contains no image")
        return data

    def _name(self, row: int) -> str:
        return f"{self.title}:{self.first + row}"


def _fail(failure: DataError) -> bytes:
    raise failure


class ArrowImages:
    """The images of a `save_to_disk` folder or of .arrow files, memory-mapped."""

    def __init__(self, path: Path) -> None:
        self.path, self.parts = path, _open_parts(path)
        self.ends = list(accumulate(map(len, self.parts)))

    def items(self, start: int, stop: int) -> Iterator[Item]:
        """Rows `start` up to `stop`."""
        for part, end in zip(self.parts, self.ends, strict=True):
            first = end - len(part)
            for row in range(max(start, first) - first, min(stop, end) - first):
                yield Item(part.name(row), partial(part.read, row))

    def check(self) -> None:
        """DataError if the data set is gone."""
        require_exists(self.path)


def index_arrow(path: Path) -> DatasetIndex:
    """Index a data set; its checksum is of file names and sizes."""
    images = ArrowImages(path)
    digest = hashlib.sha256()
    for file in [path] if path.is_file() else sorted(path.rglob("*.arrow")):
        digest.update(f"{file.name}\0{file.stat().st_size}\n".encode())
    return DatasetIndex("arrow", str(path), images.ends[-1], digest.hexdigest())


def _open_parts(path: Path) -> list[ArrowFiles]:
    where, name = str(path), format_source_name(str(path))
    datasets = import_datasets(where)
    with reading_dataset(where):
        if path.is_file():
            tables = {"": datasets.Dataset.from_file(where)}
        elif is_saved(path):
            loaded = datasets.load_from_disk(where)
            tables = {"": loaded} if isinstance(loaded, datasets.Dataset) else dict(loaded)
        else:
            home = find_tabular(path)
            names = () if home is None else home.paths
            tables = {name: datasets.Dataset.from_file(str(path / name)) for name in names}
        for table in tables.values():
            table.data.validate(full=True)  # offsets beyond the file would be followed
    root = path if path.is_dir() else path.parent
    parts = []
    for title, table in sorted(tables.items()):
        column = find_image_column(table.features, name)
        images = table.select_columns([column]).with_format("arrow")
        parts.append(ArrowFiles(images, format_part_name(name, title), np.arange(len(table)), root))
    return parts
