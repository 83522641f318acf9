"""Write shards of predictions as Parquet or CSV, atomically.

Columns: path, then of classifiers class1, id1, probability1, class2, ... in order of probability,
`labels` of multi-label models and `unknown` of models that detect unknown images; of others width,
height and objects or areas, as in responses of the server; then error: why an image could not be
read; its other cells are empty. Lists are nested in Parquet and JSON in CSV.
"""

from __future__ import annotations

import hashlib
import json
import os
import uuid
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Protocol

from resnets.config import SOFTMAX, ConfigError, Postprocess
from resnets.utils.files.csv import CsvWriter, read_rows

Format = Literal["parquet", "csv"]
ROW_GROUP = 8192  # rows per row group, which are buffered
MAX_ERRORS = 20  # quoted in the summary


ColumnType = Literal["text", "int", "float", "bool", "texts", "objects", "masked objects", "areas"]


@dataclass(frozen=True)
class Layout:
    """Columns of the rows between path and error, and the one whose classes the summary counts."""

    columns: tuple[tuple[str, ColumnType], ...]
    counted: str

    @property
    def names(self) -> list[str]:
        """Names of all columns."""
        return ["path", *(name for name, _ in self.columns), "error"]


@dataclass(frozen=True)
class Row:
    """An image and its cells, as named in the layout, or the reason why it could not be read."""

    path: str
    cells: Sequence[Any] = ()
    error: str | None = None

    def values(self, layout: Layout) -> list[Any]:
        """One value per column; None for an empty cell."""
        cells = list(self.cells) or [None] * len(layout.columns)
        return [self.path, *cells, self.error]


def classes_layout(top: int, spec: Postprocess = SOFTMAX) -> Layout:
    """Return the columns of a classifier with `top` classes per image."""
    columns: list[tuple[str, ColumnType]] = []
    for k in range(1, top + 1):
        columns += [(f"class{k}", "text"), (f"id{k}", "int"), (f"probability{k}", "float")]
    if spec.multilabel:
        columns.append(("labels", "texts"))
    if spec.min_score is not None:
        columns.append(("unknown", "bool"))
    return Layout(tuple(columns), "class1")


def vision_layout(task: str) -> Layout:
    """Return the columns of a detector, localizer or segmenter."""
    found: ColumnType = "areas" if task == "segment" else "objects"
    name = found
    if task == "instances":
        found = "masked objects"
    return Layout((("width", "int"), ("height", "int"), (name, found)), name)


class _Writer(Protocol):
    def add(self, rows: Sequence[Row]) -> None: ...

    def close(self) -> None: ...


class ShardWriter:
    """Context manager that writes `path` and moves it into place on success.

    `sha256` is then the checksum of the file.
    """

    sha256: str

    def __init__(
        self,
        path: Path,
        kind: Format,
        layout: Layout,
    ) -> None:
        self.path, self.kind, self.layout = path, kind, layout
        # Not `atomic_write`: another process may write the same shard, for example one that a
        # cluster considers dead, or one that has not yet noticed that its parent ended.
        self.temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")

    def __enter__(self) -> _Writer:
        make = _ParquetWriter if self.kind == "parquet" else _CsvWriter
        self._writer: _Writer = make(self.temporary, self.layout)
        return self._writer

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        try:
            self._writer.close()
            if error is None:
                with open(self.temporary, "rb") as file:
                    self.sha256 = hashlib.file_digest(file, "sha256").hexdigest()
                    os.fsync(file.fileno())
                os.replace(self.temporary, self.path)
        finally:
            self.temporary.unlink(missing_ok=True)


class _ParquetWriter:
    def __init__(self, path: Path, layout: Layout) -> None:
        pa, pq = _arrow()
        kinds = _arrow_types(pa)
        columns = [("path", "text"), *layout.columns, ("error", "text")]
        self.schema = pa.schema([(name, kinds[kind]) for name, kind in columns])
        self.layout, self.buffer = layout, list[list[Any]]()
        self.writer = pq.ParquetWriter(path, self.schema)

    def add(self, rows: Sequence[Row]) -> None:
        self.buffer += [row.values(self.layout) for row in rows]
        while len(self.buffer) >= ROW_GROUP:
            self._flush()

    def _flush(self) -> None:
        pa, _ = _arrow()
        values, self.buffer = self.buffer[:ROW_GROUP], self.buffer[ROW_GROUP:]
        arrays = [
            pa.array(column, entry.type)
            for column, entry in zip(zip(*values, strict=True), self.schema, strict=True)
        ]
        self.writer.write_batch(pa.record_batch(arrays, schema=self.schema))

    def close(self) -> None:
        if self.buffer:
            self._flush()
        self.writer.close()


class _CsvWriter:
    def __init__(self, path: Path, layout: Layout) -> None:
        self.layout = layout
        self.file = open(path, "w", encoding="utf-8", newline="")  # noqa: SIM115
        self.writer = CsvWriter(self.file)
        self.writer.writerow(layout.names)

    def add(self, rows: Sequence[Row]) -> None:
        for row in rows:
            self.writer.writerow(map(_csv_cell, row.values(self.layout)))

    def close(self) -> None:
        self.file.close()


def _csv_cell(value: Any) -> Any:
    """A number with six digits, a list as JSON, true and false in lower case."""
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, list | bool):
        return json.dumps(value, ensure_ascii=False)
    return value


def _arrow_types(pa: Any) -> dict[str, Any]:
    """Map each kind of column to its type."""
    box = ("box", pa.list_(pa.float32(), 4))
    mask = ("mask", pa.struct([("size", pa.list_(pa.int32(), 2)), ("counts", pa.string())]))
    found = [("class", pa.string()), ("score", pa.float32()), box]
    area = [("class", pa.string()), ("share", pa.float32())]
    return {
        "text": pa.string(),
        "int": pa.int32(),
        "float": pa.float32(),
        "bool": pa.bool_(),
        "texts": pa.list_(pa.string()),
        "objects": pa.list_(pa.struct(found)),
        "masked objects": pa.list_(pa.struct([*found, mask])),
        "areas": pa.list_(pa.struct(area)),
    }


def _arrow() -> tuple[Any, Any]:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError:
        raise ConfigError(
            "--format parquet: pyarrow is not installed; pip install 'resnets[hub]', or use "
            "--format csv"
        ) from None
    return pa, pq


@dataclass
class Summary:
    """Counts over shards: images by most likely class, or objects by class, and unreadable images.

    counted: the column of the classes; of areas, images are counted by the classes in them.
    """

    counted: str = "class1"
    rows: int = 0
    unreadable: int = 0
    classes: Counter[str] = field(default_factory=Counter)
    errors: list[str] = field(default_factory=list)

    def add(self, path: Path, kind: Format) -> None:
        """Add a shard; ValueError or OSError if it is damaged."""
        for name, classes, error in _read(path, kind, self.counted):
            self.rows += 1
            if not error:
                self.classes.update(classes)
                continue
            self.unreadable += 1
            if len(self.errors) < MAX_ERRORS:
                self.errors.append(f"{name}: {error}")

    def to_json(self) -> dict[str, Any]:
        """JSON-compatible values, classes sorted by name."""
        title = {"class1": "top_classes"}.get(self.counted, self.counted)
        return {
            "images": self.rows,
            "unreadable": self.unreadable,
            title: dict(sorted(self.classes.items())),
            "first_errors": self.errors,
        }


def _read(path: Path, kind: Format, counted: str) -> Iterator[tuple[str, list[str], str]]:
    """Path, classes and error of each row; "" for an empty cell."""
    if kind == "parquet":
        _, pq = _arrow()
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(ROW_GROUP, columns=["path", counted, "error"]):
                cells = (batch.column(name).to_pylist() for name in ("path", counted, "error"))
                for name, cell, error in zip(*cells, strict=True):
                    yield name, _classes(cell), error or ""
        return
    with open(path, encoding="utf-8", newline="") as stream:
        rows = read_rows(stream)
        header = next(rows, [])
        column = header.index(counted)
        for values in rows:
            if len(values) != len(header):
                raise ValueError(f"{path}: truncated")
            cell = values[column]
            found = json.loads(cell) if counted != "class1" and cell else cell
            yield values[0], _classes(found), values[-1]


def _classes(cell: Any) -> list[str]:
    """Return the classes in a cell: a name, or a list of objects or areas."""
    if isinstance(cell, list):
        return [each["class"] for each in cell]
    return [cell or ""]
