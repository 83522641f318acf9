"""Write shards of predictions as Parquet or CSV, atomically.

Columns: path, then class1, id1, probability1, class2, ... in order of probability; `labels` of
multi-label models (a list in Parquet, JSON in CSV), `unknown` of models that detect unknown images;
then error: why an image could not be read; its other cells are empty.
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
from resnets.utils.csv_files import CsvWriter, read_rows

Format = Literal["parquet", "csv"]
ROW_GROUP = 8192  # rows per row group, which are buffered
MAX_ERRORS = 20  # quoted in the summary


@dataclass(frozen=True)
class Row:
    """An image and its most likely classes, their indices and probabilities; or an error.

    labels, unknown: see `evaluate.predict.Prediction`.
    """

    path: str
    classes: Sequence[str] = ()
    ids: Sequence[int] = ()
    probabilities: Sequence[float] = ()
    error: str | None = None
    labels: Sequence[str] | None = None
    unknown: bool | None = None

    def values(self, top: int, spec: Postprocess) -> list[Any]:
        """One value per column; None for an empty cell."""
        ranked = zip(self.classes, self.ids, self.probabilities, strict=True)
        cells: list[Any] = [cell for group in ranked for cell in group] or [None] * (3 * top)
        labels = None if self.labels is None else list(self.labels)
        decisions = {"labels": labels, "unknown": self.unknown}
        return [
            self.path,
            *cells,
            *(decisions[name] for name in decision_columns(spec)),
            self.error,
        ]


def decision_columns(spec: Postprocess) -> list[str]:
    """Names of the columns of decisions: labels of multi-label models, unknown if detected."""
    labels = ["labels"] if spec.multilabel else []
    return labels + (["unknown"] if spec.min_score is not None else [])


def columns(top: int, spec: Postprocess = SOFTMAX) -> list[str]:
    """Column names for `top` classes per image."""
    ranks = range(1, top + 1)
    ranked = [f"{name}{k}" for k in ranks for name in ("class", "id", "probability")]
    return ["path", *ranked, *decision_columns(spec), "error"]


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
        top: int,
        spec: Postprocess = SOFTMAX,
    ) -> None:
        self.path, self.kind, self.top, self.spec = path, kind, top, spec
        # Not `atomic_write`: another process may write the same shard, for example one that a
        # cluster considers dead, or one that has not yet noticed that its parent ended.
        self.temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")

    def __enter__(self) -> _Writer:
        make = _ParquetWriter if self.kind == "parquet" else _CsvWriter
        self._writer: _Writer = make(self.temporary, self.top, self.spec)
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
    def __init__(self, path: Path, top: int, spec: Postprocess) -> None:
        pa, pq = _arrow()
        kinds = {"class": pa.string(), "id": pa.int32(), "probability": pa.float32()}
        kinds |= {"labels": pa.list_(pa.string()), "unknown": pa.bool_()}
        self.schema = pa.schema(
            [
                (name, kinds.get(name.rstrip("0123456789"), pa.string()))
                for name in columns(top, spec)
            ]
        )
        self.top, self.spec, self.buffer = top, spec, list[list[Any]]()
        self.writer = pq.ParquetWriter(path, self.schema)

    def add(self, rows: Sequence[Row]) -> None:
        self.buffer += [row.values(self.top, self.spec) for row in rows]
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
    def __init__(self, path: Path, top: int, spec: Postprocess) -> None:
        self.top, self.spec = top, spec
        self.file = open(path, "w", encoding="utf-8", newline="")  # noqa: SIM115
        self.writer = CsvWriter(self.file)
        self.writer.writerow(columns(top, spec))

    def add(self, rows: Sequence[Row]) -> None:
        for row in rows:
            self.writer.writerow(map(_csv_cell, row.values(self.top, self.spec)))

    def close(self) -> None:
        self.file.close()


def _csv_cell(value: Any) -> Any:
    """A number with six digits, a list as JSON, true and false in lower case."""
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, list | bool):
        return json.dumps(value, ensure_ascii=False)
    return value


def _arrow() -> tuple[Any, Any]:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError:
        raise ConfigError(
            "--format parquet: needs pyarrow; pip install 'resnets[hub]', or --format csv"
        ) from None
    return pa, pq


@dataclass
class Summary:
    """Counts over shards: images by most likely class, and unreadable images."""

    rows: int = 0
    unreadable: int = 0
    classes: Counter[str] = field(default_factory=Counter)
    errors: list[str] = field(default_factory=list)

    def add(self, path: Path, kind: Format) -> None:
        """Add a shard; ValueError or OSError if it is damaged."""
        for name, top_class, error in _read(path, kind):
            self.rows += 1
            if not error:
                self.classes[top_class] += 1
                continue
            self.unreadable += 1
            if len(self.errors) < MAX_ERRORS:
                self.errors.append(f"{name}: {error}")

    def to_json(self) -> dict[str, Any]:
        """JSON-compatible values, classes sorted by name."""
        return {
            "images": self.rows,
            "unreadable": self.unreadable,
            "top_classes": dict(sorted(self.classes.items())),
            "first_errors": self.errors,
        }


def _read(path: Path, kind: Format) -> Iterator[tuple[str, str, str]]:
    """Path, most likely class and error of each row; "" for an empty cell."""
    if kind == "parquet":
        _, pq = _arrow()
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(ROW_GROUP, columns=["path", "class1", "error"]):
                cells = (column.to_pylist() for column in batch.columns)
                for name, top_class, error in zip(*cells, strict=True):
                    yield name, top_class or "", error or ""
        return
    with open(path, encoding="utf-8", newline="") as stream:
        rows = read_rows(stream)
        header = next(rows, [])
        for values in rows:
            if len(values) != len(header):
                raise ValueError(f"{path}: truncated")
            yield values[0], values[1], values[-1]
