"""WebDataset: tars whose neighbouring members are one sample, key.jpg and key.cls.

Nothing is unpacked or copied: the headers are read once, and each image by its offset. A label is
the text of key.cls (a number or a name), or "label" or "cls" of key.json; they have to agree where
there are several; classes.txt (or classnames.txt), beside the tars or in the folder above, names
numbered classes, one a line. The split of a shard is in its name, train-0000.tar, or that of its
folder, train/0000.tar; without, all are one. Numbers that are missing are warned of, and so are
shards that nshards.txt, which lies beside them in some sets, counts and that are not there.
"""

from __future__ import annotations

import json
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

from resnets.data.dataset.source import PART_NAMES, FilePart, Part, Rows, Source, by_role
from resnets.data.dataset.stream import StreamPart
from resnets.data.errors import DataError
from resnets.data.files.folder import Listing, read_file
from resnets.data.files.missing_shards import missing_shards
from resnets.data.files.tar import TarFiles, is_image_name, list_tar
from resnets.data.layout.folder_names import split_role
from resnets.data.tables.labels import NUMBER, class_names, is_list, number_labels
from resnets.utils.cpu_count import cores

LABELS = (".cls", ".json")
JSON_LABELS = ("label", "cls")
CLASS_FILES = ("classes.txt", "classnames.txt")
COUNT_FILE = "nshards.txt"
BLOCK = 256  # neighbouring images that streaming reads at once
TITLE = re.compile(rf"(?:.*[-_.])?({'|'.join(sorted(PART_NAMES))})(?=[-_.\d]|$)", re.IGNORECASE)


@dataclass(frozen=True, eq=False)
class ShardFiles:
    """Members of several tars; `spans` (N, 3) holds each one's shard, offset and size in bytes."""

    shards: Sequence[Path]
    names: Sequence[str]
    spans: NDArray[np.int64]

    def __len__(self) -> int:
        """How many there are."""
        return len(self.names)

    def name(self, index: int) -> str:
        """Shard and member, "train-0000.tar:00017.jpg"."""
        return f"{self.shards[self.spans[index, 0]]}:{self.names[index]}"

    def read(self, index: int) -> bytes:
        """The member's bytes; DataError when they cannot be read."""
        shard, offset, size = self.spans[index].tolist()
        return read_span(self.shards[shard], offset, size)

    def identities(self) -> tuple[Sequence[str], str]:
        """The samples' keys, with the shards' names where several have the same."""
        keys = [_key(name) for name in self.names]
        if len(set(keys)) == len(keys):
            return keys, "sample key"
        shards = [self.shards[shard].name for shard in self.spans[:, 0].tolist()]
        return [f"{shard}:{key}" for shard, key in zip(shards, keys, strict=True)], "shard and key"

    def take(self, rows: NDArray[np.int64]) -> ShardFiles:
        """The members of `rows`, renumbered from 0."""
        return ShardFiles(self.shards, [self.names[row] for row in rows], self.spans[rows])


@dataclass(frozen=True, eq=False)
class ShardBlocks:
    """Runs of neighbours of `files`; `starts` (blocks + 1,) is where each begins."""

    files: ShardFiles
    starts: NDArray[np.int64]

    def load(self, block: int) -> list[bytes]:
        """All images of a block, by one read; DataError when they cannot be read."""
        spans = self.files.spans[self.starts[block] : self.starts[block + 1]]
        first, end = int(spans[:, 1].min()), int(spans[:, 1:].sum(1).max())
        data = read_span(self.files.shards[spans[0, 0]], first, end - first)
        return [data[start - first : start - first + size] for _, start, size in spans.tolist()]

    def name(self, block: int, place: int) -> str:
        """Shard and member."""
        return self.files.name(int(self.starts[block]) + place)

    def identities(self, where: Rows) -> tuple[Sequence[str], str]:
        """The samples' keys."""
        return self.files.take(self.starts[where[:, 0]] + where[:, 1]).identities()


def find_shards(folder: Path) -> list[Path]:
    """The tars of samples of a folder, or of its folders train/, test/, ..., sorted.

    None where the first of them is something else.
    """
    tars = _tars(folder)
    if not tars:
        named = (each for each in folder.glob("*") if not each.suffix and split_role(each.name))
        tars = [tar for each in sorted(named) if each.is_dir() for tar in _tars(each)]
    return tars if tars and is_sharded(list_tar(tars[0], is_label)) else []


def _tars(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("*.tar") if not path.name.startswith("."))


def is_sharded(listing: Listing) -> bool:
    """Whether a listing of a tar, with its label files, is of WebDataset samples."""
    images = {_key(path) for path in listing.paths if is_image_name(path)}
    return any(path.lower().endswith(LABELS) and _key(path) in images for path in listing.paths)


def _key(path: str) -> str:
    """What the members of a sample have in common: the path up to its name's first dot."""
    folder, _, base = path.rpartition("/")
    return f"{folder}/{base.partition('.')[0]}"


def is_label(path: str) -> bool:
    """Whether a member is called like the label of a sample."""
    return path.lower().endswith(LABELS)


def open_shards(shards: Sequence[Path], name: str, *, streaming: bool) -> Source:
    """The set in `shards`, in one folder or in one for each split.

    DataError names a sample without a label.
    """
    shards = sorted(shards)
    with ThreadPoolExecutor(cores()) as pool:
        found = list(pool.map(_index, shards))
    titles = [_title(shard) for shard in shards]
    if "" in titles and len(set(titles)) > 1:
        raise DataError(f"{shards[titles.index('')]}: its name says no part, train, val or test")
    written: dict[str, list[tuple[int, _Sample]]] = {title: [] for title in sorted(set(titles))}
    for number, (title, samples) in enumerate(zip(titles, found, strict=True)):
        written[title] += [(number, sample) for sample in samples]
    _check_aliases(shards, chain.from_iterable(written.values()))
    training = written.get("train", next(iter(written.values())))
    labels = [sample.label for _, sample in training]
    listed = _listed(shards[0].parent, labels)
    classes = listed or class_names(labels)
    parts: dict[str, Part] = {}
    for title, chosen in written.items():
        files = _files(shards, chosen)
        given = [sample.label for _, sample in chosen]
        numbers = number_labels(given, classes, files.name, by_place=listed is not None)
        make = _streamed if streaming else FilePart
        parts[title] = make(title, files, numbers)
    return by_role(name, classes, parts, str(shards[0].parent))


def open_shard_folder(folder: Path, *, streaming: bool) -> Source | None:
    """The set of all shards that `find_shards` finds; None where there are none."""
    shards = find_shards(folder)
    if not shards:
        return None
    source = open_shards(shards, folder.resolve().name, streaming=streaming)
    return replace(source, warnings=(*source.warnings, *_missing(shards)))


def _missing(shards: Sequence[Path]) -> Iterator[str]:
    """Warnings of shards that are not there, by the numbers of others or by nshards.txt."""
    folders = sorted({shard.parent for shard in shards})
    for folder in folders:
        here = [shard.name for shard in shards if shard.parent == folder]
        found = missing_shards(here)
        yield from (f"{folder.name}: {each}" for each in found)
        count = folder / COUNT_FILE
        if found or not count.is_file():
            continue
        stated = read_file(count).strip()
        if stated.isdigit() and int(stated) != len(here):
            yield f"{folder.name}/{COUNT_FILE} counts {int(stated):,} shards, not {len(here):,}"


@dataclass(frozen=True)
class _Sample:
    path: str
    span: tuple[int, int]  # offset and size in bytes
    label: str
    alias: str


def _files(shards: Sequence[Path], samples: Sequence[tuple[int, _Sample]]) -> ShardFiles:
    spans = np.array([(shard, *each.span) for shard, each in samples], np.int64)
    return ShardFiles(shards, [each.path for _, each in samples], spans.reshape(-1, 3))


def _streamed(title: str, files: ShardFiles, labels: Rows) -> StreamPart:
    """A part in blocks: samples are in the order of their offsets, so a run of them is one read."""
    shard, rows = files.spans[:, 0], np.arange(len(files))
    place = rows - np.searchsorted(shard, shard)  # within the shard
    starts = np.append(np.flatnonzero(place % BLOCK == 0), len(files))
    block = np.searchsorted(starts, rows, side="right") - 1
    where = np.stack([block, rows - starts[block]], 1)
    return StreamPart(title, ShardBlocks(files, starts), where, labels)


def _listed(folder: Path, labels: Sequence[str]) -> tuple[str, ...] | None:
    """Names of numbered classes, where a file beside or above the shards has them."""
    places = (folder, folder.parent) if split_role(folder.name) else (folder,)
    files = [place / name for place in places for name in CLASS_FILES]
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


def _title(shard: Path) -> str:
    found = TITLE.match(shard.name.removesuffix(".tar"))
    return found[1].lower() if found else split_role(shard.parent.name) or ""


def _index(shard: Path) -> list[_Sample]:
    """The samples of a shard, in the order they are stored in."""
    listing = list_tar(shard, is_label)
    files = listing.files
    assert isinstance(files, TarFiles)
    plain = os.fstat(files.stream.fileno()).st_ino == shard.stat().st_ino
    files.stream.close()
    if not plain:
        raise DataError(f"{shard}: compressed; unpack it to a plain .tar, images are so already")
    spans = dict(zip(listing.paths, files.spans.tolist(), strict=True))
    members: dict[str, dict[str, str]] = {}
    for path in listing.paths:
        field = path.rpartition("/")[2].partition(".")[2]
        members.setdefault(_key(path), {})[f".{field.lower()}"] = path
    samples = []
    for fields in members.values():
        images = [path for suffix, path in fields.items() if path not in listing.others]
        if not images:
            continue
        if len(images) > 1:
            raise DataError(f"{shard}:{images[0]}: more than one image of its name")
        label, alias = _label(shard, images[0], fields, spans)
        offset, size = spans[images[0]]
        samples.append(_Sample(images[0], (offset, size), label, alias))
    if not samples:
        raise DataError(f"{shard}: no images in it")
    return sorted(samples, key=lambda sample: sample.span)


def _label(
    shard: Path, image: str, fields: dict[str, str], spans: dict[str, list[int]]
) -> tuple[str, str]:
    """The label of a sample, and what another of its fields calls it, a name where it is a number
    or a number where it is a name ("" without one).

    DataError where it has none, or where two fields differ otherwise.
    """
    said: dict[str, str] = {}  # by where it is written
    for file in (fields[suffix] for suffix in LABELS if suffix in fields):
        place = f"{shard}:{file}"
        data = read_span(shard, *spans[file])
        try:
            value: Any = data.decode("utf-8").strip()
            is_json = file.lower().endswith(".json")
            entry = json.loads(value) if is_json else {"": value}
        except (ValueError, RecursionError):
            raise DataError(f"{place}: not UTF-8 text, or not JSON") from None
        entry = entry if isinstance(entry, dict) else {}
        names = [name for name in JSON_LABELS if name in entry] if is_json else [""]
        if not names and said:  # of captions and sizes, beside a .cls
            continue
        for name in names or [JSON_LABELS[0]]:
            where = f"{place}: {name}" if name else place
            said[where] = _one_label(entry.get(name), place)
    if not said:
        raise DataError(f"{shard}:{image}: has no label; expected .cls or .json beside it")
    (first, label), *others = said.items()
    alias = ""
    for place, other in others:
        if bool(NUMBER.fullmatch(other)) != bool(NUMBER.fullmatch(label)):
            alias = other
        elif other != label:
            raise DataError(
                f"{place} is {other!r}, but {first.rpartition(':')[2].strip()} says {label!r};"
                " remove one of them"
            )
    return label, alias


def _check_aliases(shards: Sequence[Path], samples: Iterable[tuple[int, _Sample]]) -> None:
    """DataError where one number stands for two names, or one name for two numbers."""
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


def _one_label(value: Any, place: str) -> str:
    if isinstance(value, list) or (isinstance(value, str) and is_list(value)):
        raise DataError(
            f"{place}: holds several labels; sets of labels are not read from WebDataset: use a"
            " table or Parquet"
        )
    if not isinstance(value, str | int) or value == "":
        raise DataError(f"{place}: holds no label")
    return str(value)


def read_span(path: Path, offset: int, size: int) -> bytes:
    """`size` bytes from `offset` on of a file; DataError when they cannot be had."""
    try:
        # Opened anew each time: a set may have more shards than a process may have open files.
        with open(path, "rb", buffering=0) as stream:
            data = os.pread(stream.fileno(), size, offset)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from error
    if len(data) < size:
        raise DataError(f"{path}: cut short while it was in use; restore it")
    return data
