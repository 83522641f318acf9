"""Arrow tables on disk, read with `datasets`, with or without labels."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from functools import partial
from itertools import accumulate
from pathlib import Path

import numpy as np

from resnets.bulk.data_set import DatasetIndex, Item, require_exists
from resnets.data.sources.find_tables import find_tabular, is_saved
from resnets.data.sources.huggingface import ArrowFiles, display_name, library, part_name, reading
from resnets.data.tables.arrow_columns import find_image_column


class ArrowImages:
    """The images of a `save_to_disk` folder or of .arrow files, memory-mapped."""

    def __init__(self, path: Path) -> None:
        self.path, self.parts = path, _parts(path)
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


def _parts(path: Path) -> list[ArrowFiles]:
    where, name = str(path), display_name(str(path))
    datasets = library(where)
    with reading(where):
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
        parts.append(ArrowFiles(images, part_name(name, title), np.arange(len(table)), root))
    return parts
