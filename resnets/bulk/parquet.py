"""Parquet for bulk prediction, here or on the Hub: read from front to back, a few rows at a time.

What wrote a file says how large its row groups are: a hundred pictures, or all of them. So a group
is never held as a whole: pages are read as they come, and of a run of rows that begins within a
group those before it are passed over.
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

from resnets.bulk.data_set import DatasetIndex, Item, require
from resnets.data.errors import DataError
from resnets.data.files.open import read_file
from resnets.data.sources.arrow_files import find_tabular
from resnets.data.sources.huggingface import (
    HUB,
    called,
    library,
    part_name,
    picture_bytes,
    reading,
    reason,
)
from resnets.data.sources.parquet import FOOTERS_AT_ONCE, builder_of, features_of
from resnets.data.tables.label_columns import find_picture

ROWS = 32  # rows that are taken from a file at once
BUFFER = 1 << 20  # bytes of a column that are read at once
WAITS = (0, 2, 10, 30)  # seconds before each attempt to read from the Hub

Part = dict[str, Any]  # url; title that its rows' names start with; first row's number; groups


def find_parquet(source: str) -> DatasetIndex | None:
    """The set of Parquet files at a path or "hub:ORG/NAME[@REVISION][:CONFIG]"; None without any.

    Reads the footers. Rows of the Hub are numbered within their part, as `datasets` does, those of
    files within the file. DataError for what cannot be read.
    """
    library(source)
    if source.startswith(HUB):
        named = _on_the_hub(source)
    else:
        home = find_tabular(Path(source))
        if home is None or home.kind != "parquet":
            return None
        named = [(name, str(home.root / name)) for name in home.paths]
    if not named:
        return None
    digest = hashlib.sha256()
    parts: list[Part] = []
    with reading(source):
        column = find_picture(features_of(named[0][1]), called(source))
        with ThreadPoolExecutor(FOOTERS_AT_ONCE) as pool:
            footers = list(pool.map(lambda pair: _groups(pair[1], column), named))
    rows: dict[str, int] = {}
    for (title, url), groups in zip(named, footers, strict=True):
        counts = [count for count, _ in groups]
        parts.append({"url": url, "title": title, "first": rows.get(title, 0), "groups": counts})
        rows[title] = rows.get(title, 0) + sum(counts)
        digest.update(f"{title}\0{groups}\n".encode())
    return DatasetIndex(
        "parquet", source, sum(rows.values()), digest.hexdigest(), column=column, parts=tuple(parts)
    )


def _on_the_hub(source: str) -> list[tuple[str, str]]:
    """Title and url of each file; the urls name the commit, so that all workers read the same."""
    with reading(source):
        found = builder_of(source).config.data_files
    urls = [(part_name(called(source), str(title)), url) for title in found for url in found[title]]
    if other := next((url for _, url in urls if not url.endswith(".parquet")), None):
        raise DataError(
            f"{source}: holds {other.rpartition('/')[2]}; of the Hub only Parquet is read in bulk;"
            " fetch it (`hf download --repo-type dataset`) and give its folder as --data"
        )
    return urls


def _groups(url: str, column: str) -> list[tuple[int, int]]:
    """Rows and bytes of each row group; ValueError where the file lacks the column."""
    with _open(url) as parquet:
        if column not in parquet.schema_arrow.names:
            raise ValueError(f"{url} has no column {column}, which the first file has")
        footer = parquet.metadata
        groups = [footer.row_group(number) for number in range(footer.num_row_groups)]
        return [(group.num_rows, group.total_byte_size) for group in groups]


def _open(url: str) -> Any:
    import pyarrow.parquet as pq

    if "://" not in url:
        return pq.ParquetFile(url, buffer_size=BUFFER, pre_buffer=False)
    import fsspec

    system, path = fsspec.core.url_to_fs(url)
    return pq.ParquetFile(system.open(path), buffer_size=BUFFER, pre_buffer=False)


class ParquetPictures:
    """The rows of several Parquet files; one thread asks for them, from front to back."""

    def __init__(self, found: DatasetIndex) -> None:
        self.source = found.root
        here = Path("" if found.root.startswith(HUB) else found.root)
        folder = here.parent if here.is_file() else here
        self.files = [_File(part, found.column, folder) for part in found.parts]
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
        """DataError where the set has gone."""
        if not self.source.startswith(HUB):
            require(Path(self.source))


class _File:
    """One file. It stays open where the last run of rows ended, since the next may be near."""

    def __init__(self, part: Part, column: str, folder: Path) -> None:
        self.url, self.title, self.first = part["url"], part["title"], part["first"]
        self.column, self.folder = column, folder
        self.groups: list[int] = part["groups"]
        self.ends = list(accumulate(self.groups))
        self.count = self.ends[-1] if self.ends else 0
        self.cells: Iterator[Any] | None = None
        self.at = 0  # the row of the cell that comes next

    def items(self, start: int, stop: int) -> Iterator[Item]:
        """Its rows `start` up to `stop`; those of a damaged row group say that it is."""
        row, failed = start, 0
        while row < stop:
            try:
                for cell in self._cells(row):
                    yield Item(self._name(row), partial(self._bytes, cell.as_py()))
                    row, failed = row + 1, 0
                    if row == stop:
                        break
                else:
                    raise EOFError(f"it ends before row {row}")
            except Exception as error:  # disk, network, damage: each has its own kind
                self.close()
                problem = DataError(f"{self.url}: cannot be read ({reason(error)})")
                if "://" not in self.url:
                    end = min(stop, self.ends[bisect_right(self.ends, row)])
                    for bad in range(row, end):
                        yield Item(self._name(bad), partial(_fail, problem), self.url)
                    row = end
                    continue
                failed += 1
                if failed == len(WAITS):
                    raise problem from error
                time.sleep(WAITS[failed])
        if row == self.count:
            self.close()

    def close(self) -> None:
        """Let go of the file."""
        self.cells = None

    def _cells(self, row: int) -> Iterator[Any]:
        """The cells from `row` on."""
        group = bisect_right(self.ends, row)
        first = self.ends[group - 1] if group else 0
        if self.cells is None or not first <= self.at <= row:
            self.cells, self.at = self._read(group), first
        for cell in self.cells:
            self.at += 1
            if self.at > row:
                yield cell

    def _read(self, group: int) -> Iterator[Any]:
        """The cells from row group `group` on; the coming rows are read meanwhile."""
        with _open(self.url) as parquet, ThreadPoolExecutor(1, "parquet") as pool:
            footer = parquet.metadata
            groups = [footer.row_group(number).num_rows for number in range(footer.num_row_groups)]
            if groups != self.groups:  # its rows would get other rows' names
                raise ValueError("it has changed since it was found")
            # Group by group: a batch that reached into a damaged one would be lost with it.
            batches = (
                batch
                for number in range(group, len(self.ends))
                for batch in parquet.iter_batches(
                    ROWS, [number], columns=[self.column], use_threads=False
                )
            )
            coming = pool.submit(next, batches, None)
            while (batch := coming.result()) is not None:
                coming = pool.submit(next, batches, None)
                yield from batch.column(0)

    def _bytes(self, cell: Any) -> bytes:
        data, path = picture_bytes(cell)
        if data is None and path:
            return read_file(self.folder / path)
        if not data:
            raise DataError("has no picture in it")
        return data

    def _name(self, row: int) -> str:
        return f"{self.title}:{self.first + row}"


def _fail(problem: DataError) -> bytes:
    raise problem
