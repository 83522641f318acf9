"""Finding the pictures of a set, labels or not: their names, places and a fingerprint, in order.

Folders of any nesting, lists of paths (CSV or text), tars (of pictures, of WebDataset samples, of
tars; compressed ones are unpacked once), packed sets, Parquet, Arrow and the Hub. Nothing is
decoded, and what is found goes to the work folder as it comes.
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

from resnets.bulk.data_set import DatasetIndex
from resnets.bulk.images import NAMES, SPANS
from resnets.bulk.names import NamesWriter
from resnets.config import dump_json
from resnets.data.dataset.pack import PackFiles, is_pack, open_pack
from resnets.data.errors import DataError
from resnets.data.files.archives import is_zip, unzip_to_tar
from resnets.data.files.open import TarFiles, list_tar, unpack
from resnets.data.files.walk import LeftOut, is_hidden, walk_unlabelled
from resnets.data.sources.archive import inside
from resnets.data.sources.arrow_files import find_tabular
from resnets.data.sources.huggingface import HUB
from resnets.data.tables.paths import TablePaths
from resnets.data.tables.reader import SAMPLE, TABLE_SUFFIXES, open_table_file

Member = tuple[str, int, int, int]  # name, archive, offset, size


def find(source: str, work: Path) -> DatasetIndex:
    """List the set `source` means into `work`; DataError where there is none, or no pictures."""
    path, left_out = Path(source).expanduser().absolute(), LeftOut()
    home = None if source.startswith(HUB) or not path.exists() else find_tabular(path)
    if source.startswith(HUB) or home is not None:
        from resnets.bulk.arrow import find_tables
        from resnets.bulk.parquet import find_parquet

        where = source if source.startswith(HUB) else str(path)
        found = find_parquet(where) or find_tables(path)
        if home is not None:
            left_out.add_all(home.left_out)
    elif path.is_dir():
        found = _find_files(path, walk_unlabelled(path, left_out), work)
        tars = sorted(file for file in path.iterdir() if _is_archive(file))
        if not found.count and tars:
            left_out = LeftOut()
            found = _find_spans(tars, work, left_out)
    elif not path.is_file():
        raise DataError(f"{source}: no such folder or file (sets by name hold pixels, not files)")
    elif path.suffix.lower() in TABLE_SUFFIXES:
        found = _find_files(path.parent, _listed(path), work)
    elif is_pack(path):
        found = _find_pack(path, work)
    else:
        found = _find_spans([path], work, left_out)
    if not found.count:
        raise DataError(f"{source}: no images in it{left_out.said()}")
    found = replace(found, left_out=tuple(left_out.parts()), links=left_out.links)
    found.save(work)
    return found


def _is_archive(path: Path) -> bool:
    """Whether a file is called like a tar or zip, and is not hidden."""
    called = ".tar" in path.suffixes[-2:] or path.suffix.lower() in (".zip", ".tgz")
    return called and not is_hidden(path.name) and path.is_file()


def _listed(file: Path) -> Iterator[str]:
    """The paths that a list names, in its order; a table may have a header and other columns."""
    if file.suffix.lower() == ".txt":
        try:
            with open(file, encoding="utf-8-sig", newline="") as stream:
                yield from filter(None, map(str.strip, stream))
        except UnicodeDecodeError:
            raise DataError(f"{file}: not UTF-8; save the file as UTF-8") from None
        return
    paths = TablePaths(file.parent)
    table = open_table_file(file, paths.is_file, paths.is_known, labelled=False)
    if table is None:
        return
    rows = table.rows()
    first = list(islice(rows, SAMPLE))
    as_written = any(paths.is_file(row.path) for row in first)
    for row in chain(first, rows):
        known = None if as_written else paths.find(row.path, f"{file}: line {row.line}")
        yield known or row.path  # one that is missing becomes a row with an error


def _find_files(root: Path, paths: Iterable[str], work: Path) -> DatasetIndex:
    digest = hashlib.sha256()
    with NamesWriter(work / NAMES) as names:
        for path in paths:
            size = _size(root / path)
            if size is None:
                continue
            names.add(path)
            digest.update(os.fsencode(path) + b"\0%d\n" % size)
    return DatasetIndex("files", str(root), names.count, digest.hexdigest())


def _size(path: Path) -> int | None:
    """Bytes of a file, -1 where there is none, None for a pipe or device."""
    try:
        found = os.stat(path)
    except OSError:
        return -1
    wanted = stat.S_ISREG(found.st_mode) or stat.S_ISDIR(found.st_mode)
    return found.st_size if wanted else None


def _find_spans(archives: Sequence[Path], work: Path, left_out: LeftOut) -> DatasetIndex:
    """The pictures of tars, by offset; sorted within each."""
    plain = [_plain(archive, number, work) for number, archive in enumerate(archives)]

    def places() -> Iterator[Member]:
        for number, (archive, file) in enumerate(zip(archives, plain, strict=True)):
            listing = list_tar(file, lambda path: path.endswith(".tar"))
            if listing.paths and all(path.endswith(".tar") for path in listing.paths):
                listing = inside(listing)
            listing = listing.images()
            left_out.add_all(listing.left_out)
            files, several = listing.files, len(archives) > 1
            assert isinstance(files, TarFiles)
            for name, (offset, size) in zip(files.paths, files.spans.tolist(), strict=True):
                yield f"{archive.name}:{name}" if several else name, number, offset, size
            files.stream.close()

    return _write_spans(plain, places(), work)


def _plain(archive: Path, number: int, work: Path) -> Path:
    """The archive, or what it unpacks to, in `work`; kept while the archive stays as it is."""
    out, note = work / f"unpacked-{number}.tar", work / f"unpacked-{number}.json"
    known = archive.stat()
    told = f"[{known.st_size}, {known.st_mtime_ns}]"
    if note.is_file() and out.is_file() and note.read_text("utf-8").strip() == told:
        return out
    note.unlink(missing_ok=True)
    with open(out, "wb") as plain:
        if unpacked := is_zip(archive):
            unzip_to_tar(archive, plain)
        else:
            unpacked = unpack(archive, plain, str(work), "choose an --out with")
    if not unpacked:
        out.unlink()
        return archive
    dump_json([known.st_size, known.st_mtime_ns], note, indent=None)
    return out


def _find_pack(path: Path, work: Path) -> DatasetIndex:
    source = open_pack(path)
    parts = [source.train, source.val, source.test() if source.test else None]

    def places() -> Iterator[Member]:
        for files in (part.files for part in parts if part is not None):
            assert isinstance(files, PackFiles)
            for name, (offset, size) in zip(files.names, files.spans.tolist(), strict=True):
                if size:
                    yield name, 0, offset, size

    return _write_spans([path], places(), work)


def _write_spans(archives: Sequence[Path], places: Iterable[Member], work: Path) -> DatasetIndex:
    digest = hashlib.sha256()
    with NamesWriter(work / NAMES) as names, open(work / SPANS, "wb") as spans:
        for name, number, offset, size in places:
            names.add(name)
            span = np.array([number, offset, size], "<i8").tobytes()
            spans.write(span)
            digest.update(os.fsencode(name) + b"\0" + span)
    for archive in archives:
        digest.update(b"%d\n" % archive.stat().st_size)
    root, told = str(archives[0].parent), tuple(map(str, archives))
    return DatasetIndex("spans", root, names.count, digest.hexdigest(), told)
