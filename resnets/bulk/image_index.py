"""Index the images of a data set, with or without labels: names, offsets and a checksum.

Folders of any nesting, lists of paths (CSV or text), tars (of images, of WebDataset samples, of
tars; compressed ones are unpacked once), packed data sets, Parquet, Arrow and the Hub. Nothing is
decoded, and the index is streamed to the work folder.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import chain, islice
from pathlib import Path

import numpy as np

from resnets.bulk.dataset_index import DatasetIndex, NamesWriter
from resnets.bulk.images import NAMES, SPANS
from resnets.config import dump_json
from resnets.data.dataset.pack import PackFiles, is_pack, open_pack
from resnets.data.errors import DataError
from resnets.data.files.archives import is_zip, unzip_to_tar
from resnets.data.files.missing_shards import missing_shards
from resnets.data.files.tar import TarFiles, list_tar, unpack
from resnets.data.files.walk import SkippedFiles, is_hidden, walk_unlabeled
from resnets.data.sources.archive import list_inner_images
from resnets.data.sources.find_parquet import find_tabular
from resnets.data.sources.huggingface import HUB
from resnets.data.tables.paths import TablePaths
from resnets.data.tables.reader import SAMPLE_ROWS, TABLE_SUFFIXES, open_table_file
from resnets.utils.suggest import suggest_path

Member = tuple[str, int, int, int]  # name, archive, offset, size


def index_dataset(source: str, work: Path) -> DatasetIndex:
    """Index the data set `source` in `work`; DataError if it is missing or has no images."""
    path, skipped = Path(source).expanduser().absolute(), SkippedFiles()
    warnings: Sequence[str] = ()
    home = None if source.startswith(HUB) or not path.exists() else find_tabular(path)
    if source.startswith(HUB) or home is not None:
        from resnets.bulk.tables import index_arrow, index_parquet

        where = source if source.startswith(HUB) else str(path)
        index = index_parquet(where) or index_arrow(path)
        if home is not None:
            skipped.add_all(home.skipped)
            warnings = home.warnings({"": index.count})
    elif path.is_dir():
        index = _index_files(path, walk_unlabeled(path, skipped), work)
        tars = sorted(file for file in path.iterdir() if _is_archive(file))
        if not index.count and tars:
            skipped = SkippedFiles()
            index = _index_spans(tars, work, skipped)
            warnings = missing_shards([tar.name for tar in tars])
    elif not path.is_file():
        raise DataError(
            f"{source}: no such folder or file (built-in data sets are not supported here)"
            f"{suggest_path(path)}"
        )
    elif path.suffix.lower() in TABLE_SUFFIXES:
        index = _index_files(path.parent, _listed_paths(path), work)
    elif is_pack(path):
        index = _index_pack(path, work)
    else:
        index = _index_spans([path], work, skipped)
    if not index.count:
        raise DataError(f"{source}: contains no images{skipped.describe()}")
    index = replace(
        index,
        skipped=tuple(skipped.parts()),
        links=skipped.links,
        warnings=tuple(warnings),
    )
    index.save(work)
    return index


def _is_archive(path: Path) -> bool:
    """Whether a file has the suffix of a tar or zip and is not hidden."""
    has_suffix = ".tar" in path.suffixes[-2:] or path.suffix.lower() in (".zip", ".tgz")
    return has_suffix and not is_hidden(path.name) and path.is_file()


def _listed_paths(file: Path) -> Iterator[str]:
    """The paths of a list or table, in order; tables may have a header and other columns."""
    if file.suffix.lower() == ".txt":
        try:
            with open(file, encoding="utf-8-sig", newline="") as stream:
                yield from filter(None, map(str.strip, stream))
        except UnicodeDecodeError:
            raise DataError(f"{file}: not UTF-8; save the file as UTF-8") from None
        return
    paths = TablePaths(file.parent)
    table = open_table_file(file, paths.is_file, paths.is_known, labeled=False)
    if table is None:
        return
    rows = table.rows()
    first = list(islice(rows, SAMPLE_ROWS))
    as_written = any(paths.is_file(row.path) for row in first)
    for row in chain(first, rows):
        known = None if as_written else paths.find(row.path, f"{file}: line {row.line}")
        yield known or row.path  # a missing file becomes a row with an error


def _index_files(root: Path, paths: Iterable[str], work: Path) -> DatasetIndex:
    digest = hashlib.sha256()
    with NamesWriter(work / NAMES) as names:
        for path in paths:
            size = _file_size(root / path)
            if size is None:
                continue
            names.add(path)
            digest.update(os.fsencode(path) + b"\0%d\n" % size)
    return DatasetIndex("files", str(root), names.count, digest.hexdigest())


def _file_size(path: Path) -> int | None:
    """Return the size of a file in bytes, -1 if it is missing, None for a pipe or device."""
    try:
        status = os.stat(path)
    except OSError:
        return -1
    is_readable = stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode)
    return status.st_size if is_readable else None


def _index_spans(archives: Sequence[Path], work: Path, skipped: SkippedFiles) -> DatasetIndex:
    """Index the images of tar files by offset, sorted within each."""
    plain = [_uncompressed(archive, number, work) for number, archive in enumerate(archives)]

    def members() -> Iterator[Member]:
        for number, (archive, file) in enumerate(zip(archives, plain, strict=True)):
            listing = list_tar(file, lambda path: path.endswith(".tar"))
            if listing.paths and all(path.endswith(".tar") for path in listing.paths):
                listing = list_inner_images(listing)
            listing = listing.images()
            skipped.add_all(listing.skipped)
            files, is_prefixed = listing.files, len(archives) > 1
            assert isinstance(files, TarFiles)
            for name, (offset, size) in zip(files.paths, files.spans.tolist(), strict=True):
                yield f"{archive.name}:{name}" if is_prefixed else name, number, offset, size
            files.stream.close()

    return _write_spans(plain, members(), work)


def _uncompressed(archive: Path, number: int, work: Path) -> Path:
    """The archive itself, or its uncompressed copy in `work`, reused while it is unchanged."""
    out, record = work / f"unpacked-{number}.tar", work / f"unpacked-{number}.json"
    known = archive.stat()
    state = f"[{known.st_size}, {known.st_mtime_ns}]"
    if record.is_file() and out.is_file() and record.read_text("utf-8").strip() == state:
        return out
    record.unlink(missing_ok=True)
    with open(out, "wb") as plain:
        if unpacked := is_zip(archive):
            unzip_to_tar(archive, plain)
        else:
            unpacked = unpack(archive, plain, str(work), "choose an --out with")
    if not unpacked:
        out.unlink()
        return archive
    dump_json([known.st_size, known.st_mtime_ns], record, indent=None)
    return out


def _index_pack(path: Path, work: Path) -> DatasetIndex:
    source = open_pack(path)
    parts = [source.train, source.val, source.test() if source.test else None]

    def members() -> Iterator[Member]:
        for files in (part.files for part in parts if part is not None):
            assert isinstance(files, PackFiles)
            for name, (offset, size) in zip(files.names, files.spans.tolist(), strict=True):
                if size:
                    yield name, 0, offset, size

    return _write_spans([path], members(), work)


def _write_spans(archives: Sequence[Path], members: Iterable[Member], work: Path) -> DatasetIndex:
    digest = hashlib.sha256()
    with NamesWriter(work / NAMES) as names, open(work / SPANS, "wb") as spans:
        for name, number, offset, size in members:
            names.add(name)
            span = np.array([number, offset, size], "<i8").tobytes()
            spans.write(span)
            digest.update(os.fsencode(name) + b"\0" + span)
    for archive in archives:
        digest.update(b"%d\n" % archive.stat().st_size)
    root, paths = str(archives[0].parent), tuple(map(str, archives))
    return DatasetIndex("spans", root, names.count, digest.hexdigest(), paths)
