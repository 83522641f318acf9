"""Write a packed data set: each image is decoded and resized once, by a thread pool."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import zlib
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from resnets.config import ConfigError
from resnets.config.ranges import check_range
from resnets.data.dataset.image_hash import content_keys
from resnets.data.dataset.image_identity import identify_part
from resnets.data.dataset.pack import HEADER, MAGIC, ROLES, VERSION, encode_numbers
from resnets.data.dataset.probe_split import probe_images
from resnets.data.dataset.quarantine_list import Quarantine
from resnets.data.dataset.source import Part, Source
from resnets.data.decode.bad_samples import BadSamples
from resnets.data.decode.decode import decode_whole, encode_pnm, image_header, scaled_size
from resnets.data.decode.pixel_values import Levels
from resnets.data.errors import DataError
from resnets.data.files.folder import Files
from resnets.data.order import evenly_spaced
from resnets.data.prefetch import prefetch
from resnets.utils.files.source_paths import path_within, prefixes
from resnets.utils.files.write import atomic_write
from resnets.utils.machine.cpu_count import cores
from resnets.utils.printable import show_progress

log = logging.getLogger("resnets")

MAX_AHEAD = 8  # images per thread that are read ahead
NUM_PROBES = 64  # images from which the size of the file is estimated


@dataclass
class PackReport:
    """The result of packing.

    Attributes:
        path: The file.
        images: Number of images by part.
        unreadable: One message per unreadable image.
        value_range: Values that became 0 and 255 in all images of more than 8 bits.
    """

    path: Path
    images: dict[str, int] = field(default_factory=dict)
    size: int = 0
    unreadable: list[str] = field(default_factory=list)
    value_range: Levels | None = None


def pack(
    source: Source,
    out: Path,
    size: int,
    *,
    quarantine: Quarantine,
    workers: int = 0,
    max_unreadable: float = 0.01,
) -> PackReport:
    """Write all parts of `source` to the new file `out`, atomically.

    Images are rotated upright and stored as 8-bit gray or RGB. Images whose shorter side exceeds
    `size` px are resized to it (antialiased, bilinear). Images in `quarantine` are excluded, and
    unreadable images are logged and skipped; both keep their rows in the index, so that the same
    images are held out of the packed data set as of the original one. Raises DataError if more than
    the fraction `max_unreadable` of a part is unreadable, a class of a part has no images left, or
    the disk is too full; ConfigError if the source cannot be packed.
    """
    check_range("--size", size, "[1, inf)")
    if source.multilabel:
        raise ConfigError(
            f"{source.name}: multi-label data sets cannot be packed; train on the files"
        )
    parts = _parts_by_role(source)
    assert source.train.files is not None
    probe = probe_images(source.train.files, np.arange(len(source.train.labels)))
    levels = probe.levels
    for warning in probe.warnings:
        log.warning("%s", warning)
    _check_disk_space(parts, size, out)
    report, entries, workers = PackReport(out, value_range=levels), {}, workers or cores()
    with atomic_write(out) as temporary:
        with temporary.open("wb") as file:
            file.write(bytes(HEADER.size))
            for role, part in parts.items():
                unreadable = BadSamples(
                    format_part_name(source, part), len(part.labels), max_unreadable
                )
                load_image = partial(read_shrunk, size=size, levels=levels)
                entries[role] = _write_part(file, workers, part, load_image, quarantine, unreadable)
                written = np.flatnonzero(entries[role]["bytes"])
                _check_classes(source, part, written)
                report.images[role] = len(written)
                report.unreadable += unreadable.messages
            index = {"name": source.name, "size": size, "classes": source.classes, "parts": entries}
            if levels is not None:
                index["value_range"] = levels
            _write_index(file, index)
        report.size = temporary.stat().st_size
    return report


def format_part_name(source: Source, part: Part) -> str:
    """Return the name of a part for messages: "imagenette160.tar train"."""
    return f"{source.name} {part.title}".strip()


def _parts_by_role(source: Source) -> dict[str, Part]:
    """Return the parts by role."""
    test = None if source.test is None else source.test()
    given = zip(ROLES, (source.train, source.val, test), strict=True)
    parts = {role: part for role, part in given if part is not None}
    if any(part.files is None for part in parts.values()):
        raise ConfigError(
            f"{source.name}: is not stored as encoded images; packing would gain nothing"
        )
    return parts


def _write_part(
    file: IO[bytes],
    workers: int,
    part: Part,
    load_image: Callable[[Files, int], NDArray[np.uint8]],
    quarantine: Quarantine,
    unreadable: BadSamples,
) -> dict[str, Any]:
    """Write the images of a part; return its entry of the index."""
    files, start, count = part.files, file.tell(), len(part.labels)
    assert files is not None
    starts = prefixes(quarantine.source)
    names = [path_within(files.name(row), starts) for row in range(count)]
    sizes, checksums = [0] * count, [0] * count

    def work(row: int) -> bytes | DataError:
        try:
            return encode_pnm(load_image(files, row))
        except DataError as error:
            return error

    rows = quarantine.filter_rows(files, np.arange(count)).tolist()
    with closing(prefetch(work, rows, workers=workers, ahead=MAX_AHEAD * workers)) as done:
        for row, data in show_progress(done, f"packing {unreadable.name}", len(rows)):
            if isinstance(data, DataError):
                unreadable.add(row, data)
            else:
                file.write(data)
                sizes[row], checksums[row] = len(data), zlib.crc32(data)
    columns = {"names": names, "labels": part.labels.tolist(), "bytes": sizes, "crc32": checksums}
    content = content_keys(part)
    keys = {"ids": encode_numbers(identify_part(part, content).ids)}
    if content is not None:
        keys["content"] = encode_numbers(content)
    return {"title": part.title, "start": start, **columns, **keys}


def read_shrunk(
    files: Files, row: int, size: int, levels: Levels | None = None
) -> NDArray[np.uint8]:
    """Read an image (H, W, 1 or 3), upright, with a shorter side of at most `size` px.

    levels: see `Crop`.
    """
    data, name = files.read(row), files.name(row)
    width, height, gray = image_header(data, name)
    pixels = decode_whole(data, name, levels)
    if min(width, height) > size:
        scaled = scaled_size(width, height, size)
        pixels = np.array(Image.fromarray(pixels).resize(scaled, Image.Resampling.BILINEAR))
    return np.ascontiguousarray(pixels[:, :, :1]) if gray else pixels


def _write_index(file: IO[bytes], index: dict[str, Any]) -> None:
    """Write the index and the header, and sync the file to disk."""
    text = json.dumps(index, separators=(",", ":")).encode()
    offset = file.tell()
    file.write(text)
    file.seek(0)
    checksum = hashlib.sha256(text).digest()
    file.write(HEADER.pack(MAGIC, VERSION, 0, offset, len(text), checksum))
    file.flush()
    os.fsync(file.fileno())


def _check_disk_space(parts: dict[str, Part], size: int, out: Path) -> None:
    """Raise DataError if the disk has less space than needed, estimated from a sample of images."""
    needed = 0.0
    for part in parts.values():
        assert part.files is not None
        rows = evenly_spaced(len(part.labels), NUM_PROBES).tolist()
        found = [_stored_bytes(part.files, row, size) for row in rows]
        needed += sum(found) / len(found) * len(part.labels)
    free = shutil.disk_usage(out.parent).free
    if needed > free:
        raise DataError(
            f"{out}: about {needed / 1e9:,.1f} GB are needed at --size {size}, but"
            f" {out.parent.resolve()} has {free / 1e9:,.1f} GB left; name another --out or a"
            " smaller --size"
        )


def _stored_bytes(files: Files, row: int, size: int) -> int:
    """Return the size of a packed image in bytes; 0 for an unreadable one."""
    try:
        width, height, gray = image_header(files.read(row), files.name(row))
    except DataError:
        return 0
    wide, high = scaled_size(width, height, min(size, width, height))
    return wide * high * (1 if gray else 3)


def _check_classes(source: Source, part: Part, written: NDArray[np.int64]) -> None:
    if absent := np.setdiff1d(part.labels, part.labels[written]).tolist():
        raise DataError(
            f"{format_part_name(source, part)}: no image of class {source.classes[absent[0]]} is"
            " left"
        )
