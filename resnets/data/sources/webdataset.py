"""WebDataset: tar files in which consecutive members form a sample, key.jpg and key.cls.

Nothing is unpacked or copied: headers are read once, and each image by its offset. A label is the
text of key.cls (a number or a name), or "label" or "cls" of key.json; if there are several, they
must agree. classes.txt (or classnames.txt), next to the tar files or one folder up, contains the
names of numbered classes, one per line. The split of a shard is in its name, train-0000.tar, or in
that of its folder, train/0000.tar; otherwise all shards belong to one split. Missing shard numbers
cause a warning, and so does a number of shards that differs from nshards.txt, which some data sets
have.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resnets.data.dataset.source import PART_NAMES, FilePart, Part, Rows, Source, source_from_parts
from resnets.data.dataset.stream import StreamPart
from resnets.data.errors import DataError
from resnets.data.files.folder import Listing, read_file
from resnets.data.files.missing_shards import missing_shards
from resnets.data.files.tar import TarFiles, is_image_name, list_tar
from resnets.data.layout.folder_names import split_role
from resnets.data.tables.labels import NUMBER, class_names, encode_labels, is_list
from resnets.utils.errors import reason
from resnets.utils.files.json import parse_json
from resnets.utils.machine.cpu_count import cores

LABELS = (".cls", ".json")
JSON_LABELS = ("label", "cls")
CLASS_FILES = ("classes.txt", "classnames.txt")
COUNT_FILE = "nshards.txt"
BLOCK = 256  # consecutive images that streaming reads at once
TITLE = re.compile(rf"(?:.*[-_.])?({'|'.join(sorted(PART_NAMES))})(?=[-_.\d]|$)", re.IGNORECASE)


@dataclass(frozen=True, eq=False)
class ShardFiles:
    """Members of several tar files; spans: (N, 3) shard, offset and size of each in bytes."""

    shards: Sequence[Path]
    names: Sequence[str]
    spans: NDArray[np.int64]

    def __len__(self) -> int:
        """Return the number of members."""
        return len(self.names)

    def name(self, index: int) -> str:
        """Return shard and member, "train-0000.tar:00017.jpg"."""
        return f"{self.shards[self.spans[index, 0]]}:{self.names[index]}"

    def read(self, index: int) -> bytes:
        """Return the member's bytes; raise DataError if they cannot be read."""
        shard, offset, size = self.spans[index].tolist()
        return read_span(self.shards[shard], offset, size)

    def identities(self) -> tuple[Sequence[str], str]:
        """Return the samples' keys, with the shards' names if keys repeat."""
        keys = [_sample_key(name) for name in self.names]
        if len(set(keys)) == len(keys):
            return keys, "sample key"
        shards = [self.shards[shard].name for shard in self.spans[:, 0].tolist()]
        return [f"{shard}:{key}" for shard, key in zip(shards, keys, strict=True)], "shard and key"

    def take(self, rows: NDArray[np.int64]) -> ShardFiles:
        """Return the members of `rows`, renumbered from 0."""
        return ShardFiles(self.shards, [self.names[row] for row in rows], self.spans[rows])


@dataclass(frozen=True, eq=False)
class ShardBlocks:
    """Blocks of consecutive `files`; starts: (blocks + 1,) index of the first file of each."""

    files: ShardFiles
    starts: NDArray[np.int64]

    def load(self, block: int) -> list[bytes]:
        """Read all images of a block at once; raise DataError if they cannot be read."""
        spans = self.files.spans[self.starts[block] : self.starts[block + 1]]
        first, end = int(spans[:, 1].min()), int(spans[:, 1:].sum(1).max())
        data = read_span(self.files.shards[spans[0, 0]], first, end - first)
        return [data[start - first : start - first + size] for _, start, size in spans.tolist()]

    def name(self, block: int, position: int) -> str:
        """Return shard and member."""
        return self.files.name(int(self.starts[block]) + position)

    def identities(self, where: Rows) -> tuple[Sequence[str], str]:
        """Return the samples' keys."""
        return self.files.take(self.starts[where[:, 0]] + where[:, 1]).identities()


def find_shards(folder: Path) -> list[Path]:
    """Return the sorted tar files of samples in a folder, or in its folders train/, test/, ...

    Returns [] if the first tar file does not contain samples.
    """
    tars = _list_tars(folder)
    if not tars:
        named = (each for each in folder.glob("*") if not each.suffix and split_role(each.name))
        tars = [tar for each in sorted(named) if each.is_dir() for tar in _list_tars(each)]
    return tars if tars and is_sharded(list_tar(tars[0], is_label_member)) else []


def _list_tars(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("*.tar") if not path.name.startswith("."))


def is_sharded(listing: Listing) -> bool:
    """True if a listing of a tar file, with its label files, consists of WebDataset samples."""
    images = {_sample_key(path) for path in listing.paths if is_image_name(path)}
    return any(
        path.lower().endswith(LABELS) and _sample_key(path) in images for path in listing.paths
    )


def _sample_key(path: str) -> str:
    """Return the common part of a sample's member names: the path up to its name's first dot."""
    folder, _, base = path.rpartition("/")
    return f"{folder}/{base.partition('.')[0]}"


def is_label_member(path: str) -> bool:
    """True if a member name is that of a sample's label."""
    return path.lower().endswith(LABELS)


def open_shards(shards: Sequence[Path], name: str, *, streaming: bool) -> Source:
    """Open the data set in `shards`, in one folder or one folder per split.

    Raises DataError for a sample without a label.
    """
    shards = sorted(shards)
    with ThreadPoolExecutor(cores()) as pool:
        samples_of_shard = list(pool.map(_index_shard, shards))
    titles = [_shard_split(shard) for shard in shards]
    if "" in titles and len(set(titles)) > 1:
        raise DataError(f"{shards[titles.index('')]}: its name has no split: train, val or test")
    by_split: dict[str, list[tuple[int, _Sample]]] = {title: [] for title in sorted(set(titles))}
    for number, (title, samples) in enumerate(zip(titles, samples_of_shard, strict=True)):
        by_split[title] += [(number, sample) for sample in samples]
    _check_aliases(shards, chain.from_iterable(by_split.values()))
    training = by_split.get("train", next(iter(by_split.values())))
    labels = [sample.label for _, sample in training]
    class_list = _read_class_names(shards[0].parent, labels)
    classes = class_list or class_names(labels)
    parts: dict[str, Part] = {}
    for title, samples_of_split in by_split.items():
        files = _make_files(shards, samples_of_split)
        labels_of_split = [sample.label for _, sample in samples_of_split]
        numbers = encode_labels(
            labels_of_split, classes, files.name, by_index=class_list is not None
        )
        make_part = _make_stream_part if streaming else FilePart
        parts[title] = make_part(title, files, numbers)
    return source_from_parts(name, classes, parts, str(shards[0].parent))


def open_shard_folder(folder: Path, *, streaming: bool) -> Source | None:
    """Open the data set of all shards that `find_shards` returns; None if there are none."""
    shards = find_shards(folder)
    if not shards:
        return None
    source = open_shards(shards, folder.resolve().name, streaming=streaming)
    return replace(source, warnings=(*source.warnings, *_missing_shard_warnings(shards)))


def _missing_shard_warnings(shards: Sequence[Path]) -> Iterator[str]:
    """Yield warnings about missing shards, from their numbers or nshards.txt."""
    folders = sorted({shard.parent for shard in shards})
    for folder in folders:
        names = [shard.name for shard in shards if shard.parent == folder]
        found = missing_shards(names)
        yield from (f"{folder.name}: {each}" for each in found)
        count = folder / COUNT_FILE
        if found or not count.is_file():
            continue
        stated = read_file(count).strip()
        if stated.isdigit() and int(stated) != len(names):
            yield f"{folder.name}/{COUNT_FILE} counts {int(stated):,} shards, not {len(names):,}"


@dataclass(frozen=True)
class _Sample:
    path: str
    span: tuple[int, int]  # offset and size in bytes
    label: str
    alias: str


def _make_files(shards: Sequence[Path], samples: Sequence[tuple[int, _Sample]]) -> ShardFiles:
    spans = np.array([(shard, *each.span) for shard, each in samples], np.int64)
    return ShardFiles(shards, [each.path for _, each in samples], spans.reshape(-1, 3))


def _make_stream_part(title: str, files: ShardFiles, labels: Rows) -> StreamPart:
    """Create a part of blocks; samples are sorted by offset, so that a block is one read."""
    shard, rows = files.spans[:, 0], np.arange(len(files))
    position = rows - np.searchsorted(shard, shard)  # within the shard
    starts = np.append(np.flatnonzero(position % BLOCK == 0), len(files))
    block = np.searchsorted(starts, rows, side="right") - 1
    where = np.stack([block, rows - starts[block]], 1)
    return StreamPart(title, ShardBlocks(files, starts), where, labels)


def _read_class_names(folder: Path, labels: Sequence[str]) -> tuple[str, ...] | None:
    """Read the names of numbered classes from a file next to or above the shards, or None."""
    folders = (folder, folder.parent) if split_role(folder.name) else (folder,)
    files = [directory / name for directory in folders for name in CLASS_FILES]
    file = next((each for each in files if each.is_file()), None)
    if file is None or not all(map(NUMBER.fullmatch, labels)):
        return None
    text = read_file(file).decode("utf-8", "replace")
    names = tuple(filter(None, map(str.strip, text.splitlines())))
    if len(set(names)) < len(names) or max(map(int, labels)) >= len(names):
        raise DataError(
            f"{file}: names {len(set(names)):,} different classes in {len(names):,} lines, but"
            f" labels go up to {max(map(int, labels)):,}"
        )
    return names


def _shard_split(shard: Path) -> str:
    found = TITLE.match(shard.name.removesuffix(".tar"))
    return found[1].lower() if found else split_role(shard.parent.name) or ""


def _index_shard(shard: Path) -> list[_Sample]:
    """Return the samples of a shard in stored order."""
    listing = list_tar(shard, is_label_member)
    files = listing.files
    assert isinstance(files, TarFiles)
    is_uncompressed = os.fstat(files.stream.fileno()).st_ino == shard.stat().st_ino
    files.stream.close()
    if not is_uncompressed:
        raise DataError(
            f"{shard}: compressed; unpack it to a plain .tar; images are compressed already"
        )
    spans = dict(zip(listing.paths, files.spans.tolist(), strict=True))
    members: dict[str, dict[str, str]] = {}
    for path in listing.paths:
        field = path.rpartition("/")[2].partition(".")[2]
        members.setdefault(_sample_key(path), {})[f".{field.lower()}"] = path
    samples = []
    for fields in members.values():
        images = [path for suffix, path in fields.items() if path not in listing.others]
        if not images:
            continue
        if len(images) > 1:
            raise DataError(f"{shard}:{images[0]}: more than one image of its name")
        label, alias = _read_label(shard, images[0], fields, spans)
        offset, size = spans[images[0]]
        samples.append(_Sample(images[0], (offset, size), label, alias))
    if not samples:
        raise DataError(f"{shard}: no images in it")
    return sorted(samples, key=lambda sample: sample.span)


def _read_label(
    shard: Path, image: str, fields: dict[str, str], spans: dict[str, list[int]]
) -> tuple[str, str]:
    """Return the label of a sample, and an alternative for it ("" if there is none).

    The alternative is a name if the label is a number, and a number if it is a name. Raises
    DataError if there is no label, or if fields contradict each other.
    """
    labels: dict[str, str] = {}  # by location
    for file in (fields[suffix] for suffix in LABELS if suffix in fields):
        location = f"{shard}:{file}"
        data = read_span(shard, *spans[file])
        try:
            value: Any = data.decode("utf-8").strip()
            is_json = file.lower().endswith(".json")
            entry = parse_json(value) if is_json else {"": value}
        except (ValueError, RecursionError) as error:
            why = f"not UTF-8 text, or not JSON ({reason(error)})"
            raise DataError(f"{location}: {why}") from None
        entry = entry if isinstance(entry, dict) else {}
        names = [name for name in JSON_LABELS if name in entry] if is_json else [""]
        if not names and labels:  # other metadata, next to a .cls
            continue
        for name in names or [JSON_LABELS[0]]:
            where = f"{location}: {name}" if name else location
            labels[where] = _parse_label(entry.get(name), location)
    if not labels:
        raise DataError(f"{shard}:{image}: has no label; expected .cls or .json next to it")
    (first, label), *others = labels.items()
    alias = ""
    for location, other in others:
        if bool(NUMBER.fullmatch(other)) != bool(NUMBER.fullmatch(label)):
            alias = other
        elif other != label:
            raise DataError(
                f"{location} is {other!r}, but {first.rpartition(':')[2].strip()} says {label!r};"
                " remove one of them"
            )
    return label, alias


def _check_aliases(shards: Sequence[Path], samples: Iterable[tuple[int, _Sample]]) -> None:
    """Raise DataError if one number has two names, or one name has two numbers."""
    known: dict[str, str] = {}
    for shard, sample in samples:
        if not sample.alias:
            continue
        for one, other in ((sample.label, sample.alias), (sample.alias, sample.label)):
            if known.setdefault(one, other) != other:
                raise DataError(
                    f"{shards[shard]}:{sample.path}: its fields say {one!r} and {other!r}, but"
                    f" those of others say {one!r} and {known[one]!r}; correct them"
                )


def _parse_label(value: Any, location: str) -> str:
    if isinstance(value, list) or (isinstance(value, str) and is_list(value)):
        raise DataError(
            f"{location}: several labels per image are not supported for WebDataset; use a"
            " table or Parquet"
        )
    if not isinstance(value, str | int) or value == "":
        raise DataError(f"{location}: contains no label")
    return str(value)


def read_span(path: Path, offset: int, size: int) -> bytes:
    """Read `size` bytes of a file from `offset`; raise DataError if they cannot be read."""
    try:
        # Opened for each read: there may be more shards than a process may have open files.
        with open(path, "rb", buffering=0) as stream:
            data = os.pread(stream.fileno(), size, offset)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from error
    if len(data) < size:
        raise DataError(f"{path}: cut short while it was in use; restore it")
    return data
