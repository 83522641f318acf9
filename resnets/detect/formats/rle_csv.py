"""CSV of run-length encoded masks, one row per object, as in Kaggle's competitions.

A column of image names (ImageId), one of run lengths (EncodedPixels: "start length start length
...", starts from 1, down the columns), and one of classes (ClassId) if there are several. A first
column ImageId_ClassId joins name and class ("a.jpg_1").

In some sets the runs go along the rows (Sartorius). The masks show which: in the right order, runs
of neighboring lines touch. Masks that fit the rows are refused unless `detect.format` names the
order.
"""

from __future__ import annotations

import csv
import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from resnets.data.errors import DataError
from resnets.data.layout.folder_names import role_within
from resnets.detect.data.documents import decode_text
from resnets.detect.data.masks import encode_run_lengths, outline_box
from resnets.detect.data.values import NAN, Box, read_name
from resnets.detect.formats.box_format_check import add_form_flaw
from resnets.detect.formats.records import (
    Flaw,
    RawDataset,
    RawImage,
    RawImageSet,
    RawObject,
    is_training_set,
    set_image_paths,
)
from resnets.detect.images.index import ImageIndex
from resnets.detect.images.path_matching import ImageReference
from resnets.detect.images.sizes import StoredSize, read_sizes
from resnets.detect.images.store import Store

RUN_COLUMNS = frozenset(
    {"encodedpixels", "rle", "encoded_pixels", "rlemask", "rle_mask", "annotation"}
)
IMAGE_COLUMNS = (
    "imageid",
    "image_id",
    "image",
    "img_id",
    "id",
    "img",
    "filename",
    "file_name",
    "name",
)
CLASS_COLUMNS = ("classid", "class_id", "class", "label", "category", "category_id", "cell_type")
JOINED_COLUMN = "imageid_classid"
HEAD_BYTES = 4096  # bytes of a file that its header lies in
ONE_CLASS = "object"
MIN_RUNS = 3  # of a mask that can tell the order
Row = tuple[str, str, str]  # image, class, run lengths
Order = Literal["columns", "rows"]
Runs = tuple[NDArray[np.int64], NDArray[np.int64]]  # sorted first pixels, and those after the last


def find_rle_csv(store: Store) -> dict[str, str]:
    """Return the CSV files with a column of run lengths by image set, except submissions."""
    found = {}
    for path in store.find_files("", ".csv"):
        stem = PurePosixPath(path).stem
        if "submission" in stem.lower() or _find_columns(_read_header(store, path)) is None:
            continue
        found[stem if role_within(stem) else ""] = path
    return found


def open_rle_csv(
    store: Store, files: dict[str, str], name: str, masks: bool, order: Order | None = None
) -> RawDataset:
    """Open the image sets of `files` (from `find_rle_csv`); classes are those of the training sets.

    order: direction of the runs. None = columns, and objects get a flaw if rows fit better.
    """
    rows = {title: _read_rows(store, path) for title, path in files.items()}
    training = [t for t in rows if is_training_set(t)] or list(rows)
    names = {row[1] for title in training for row in rows[title] if row[2]}
    if not names:
        where = store.display_path(files[training[0]])
        raise DataError(f"{where}: no row has a run-length encoding")
    numeric = all(each.isdecimal() for each in names)
    classes = tuple(sorted(names, key=lambda each: (int(each) if numeric else 0, each)))
    label_of = {each: label for label, each in enumerate(classes)}

    def load(title: str) -> RawImageSet:
        return _read_image_set(store, files[title], title, rows[title], label_of, masks, order)

    numbers = tuple(int(each) for each in classes) if numeric else tuple(range(1, len(classes) + 1))
    return RawDataset(name, store, classes, numbers, tuple(files), load)


def _read_image_set(
    store: Store,
    path: str,
    title: str,
    rows: Sequence[Row],
    label_of: dict[str, int],
    masks: bool,
    order: Order | None,
) -> RawImageSet:
    where = store.display_path(path)
    index = ImageIndex.of(store)
    rows_of_image: dict[str, list[tuple[int, Row]]] = defaultdict(list)
    for number, row in enumerate(rows, start=2):  # lines of the file
        rows_of_image[row[0]].append((number, row))
    matches = index.match([ImageReference((image,), path, title) for image in rows_of_image])
    paths = [match.path for match in matches if match.path is not None]
    sizes = read_sizes(store, paths)
    images = []
    counts = _OrderCounts()
    for (image, image_rows), match in zip(rows_of_image.items(), matches, strict=True):
        size = sizes.get(match.path or "")
        width, height = size.upright if isinstance(size, StoredSize) else (0, 0)
        objects = [
            _parse_object(number, row, label_of, (height, width), masks, order or "columns", counts)
            for number, row in image_rows
            if row[2]
        ]
        images.append(
            RawImage(
                PurePosixPath(image).stem,
                None,
                image,
                where,
                width,
                height,
                tuple(objects),
                has_size=False,
            )
        )
    folders = {PurePosixPath(each).parent for each in paths}
    unannotated = [
        p for p in index.images if PurePosixPath(p).parent in folders and p not in set(paths)
    ]
    wrong_order = counts.explain_other_order(order or "columns")
    if wrong_order and order is None:
        images = [
            replace(each, objects=tuple(add_form_flaw(each.objects, wrong_order)))
            for each in images
        ]
    notes = [f"{path}: {_format_columns(_read_header(store, path))}; {order or 'columns'} order"]
    notes += [wrong_order] if wrong_order and order is not None else []
    if counts.square and not counts.columns + counts.rows and order is None:
        notes.append(
            "square images do not tell whether runs go down the columns or along the rows; they are"
            " read down the columns (detect.format=rle-rows for the other)"
        )
    if unannotated:
        notes.append(
            f"{len(unannotated):,} images without a row in {path} excluded, such as"
            f" {unannotated[0]}; give those without objects a row with an empty encoding"
        )
    return RawImageSet(
        set_image_paths(images, matches), (), (), sum(bool(row[2]) for row in rows), notes
    )


@dataclass
class _OrderCounts:
    """Number of masks whose runs fit columns better, or rows, and of square images (unclear)."""

    columns: int = 0
    rows: int = 0
    square: int = 0

    def add(self, runs: Runs, size: tuple[int, int]) -> None:
        """Count a mask in an image of `size` (H, W)."""
        if len(runs[0]) < MIN_RUNS:
            return
        down, across = (_count_touching_pixels(runs, side) for side in size)
        self.columns += down > across
        self.rows += across > down
        self.square += size[0] == size[1]

    def explain_other_order(self, order: Order) -> str:
        """Return why the masks seem to be in the other order, or ""."""
        other: Order = "rows" if order == "columns" else "columns"
        others, total = getattr(self, other), self.columns + self.rows
        if others <= total - others:
            return ""
        return (
            f"the runs of {others:,} of {total:,} masks are whole shapes if they go along the"
            f" {other}, and not if along the {order}; set detect.format=rle-{other}, or"
            f" rle-{order} if that is right"
        )


def _count_touching_pixels(runs: Runs, side: int) -> int:
    """Count pixels of a mask whose neighbor in the next line, `side` pixels on, is in it too."""
    starts, ends = runs
    totals = np.concatenate(([0], np.cumsum(ends - starts)))

    def count_before(pixel: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the number of pixels of the mask before `pixel`."""
        run = np.searchsorted(starts, pixel, "right") - 1
        offset = np.minimum(pixel - starts[run], ends[run] - starts[run])
        return np.where(run < 0, 0, totals[run] + offset)

    return int((count_before(ends + side) - count_before(starts + side)).sum())


def _parse_object(
    number: int,
    row: Row,
    label_of: dict[str, int],
    size: tuple[int, int],
    masks: bool,
    order: Order,
    counts: _OrderCounts,
) -> RawObject:
    _, category, text = row
    flaws: tuple[Flaw, ...] = ()
    box: Box = (NAN, NAN, NAN, NAN)
    outline: dict[str, Any] | None = None
    area = None
    try:
        runs = _parse_runs(text, size)
        counts.add(runs, size)
        outline = _encode_runs(runs, size, order)
        box, area = outline_box(outline, size), float(sum(outline["counts"][1::2]))
    except ValueError as error:
        flaws = (Flaw("no number", f"its run-length encoding {error}"),)
    return RawObject(
        item=f"line {number}",
        label=label_of.get(category, -1),
        category=category,
        box=box,
        area=area,
        segmentation=outline if masks else None,
        number=number - 2,
        flaws=flaws,
    )


def _parse_runs(text: str, size: tuple[int, int]) -> Runs:
    """Parse "start length ..." for an image of `size` (H, W) into first pixels and ends.

    ValueError if they are invalid, overlap, or pass the end of the image.
    """
    words = text.split()
    if len(words) % 2 or not all(word.isdecimal() and len(word) < 12 for word in words):
        raise ValueError("are not pairs of whole numbers: start, length")
    pairs = np.array(words, np.int64).reshape(-1, 2)
    pairs = pairs[np.argsort(pairs[:, 0], kind="stable")]
    starts, lengths = pairs[:, 0] - 1, pairs[:, 1]
    ends = starts + lengths
    if (starts < 0).any() or (lengths < 1).any() or (starts[1:] < ends[:-1]).any():
        raise ValueError("overlap, or have a start or length below 1")
    if ends[-1] > size[0] * size[1]:
        raise ValueError(f"pass the last pixel of {size[1]}x{size[0]}")
    return starts, ends


def _encode_runs(runs: Runs, size: tuple[int, int], order: Order) -> dict[str, Any]:
    """Convert runs in any order to COCO's run lengths, which go down the columns."""
    if order == "rows":
        changes = np.zeros(size[0] * size[1] + 1, np.int8)
        np.add.at(changes, runs[0], 1)
        np.add.at(changes, runs[1], -1)
        return encode_run_lengths(np.cumsum(changes[:-1], dtype=np.int8).reshape(size))
    bounds = np.column_stack(runs).reshape(-1)
    counts = np.diff(bounds, prepend=0, append=size[0] * size[1]).tolist()
    return {"size": list(size), "counts": counts}


def _read_rows(store: Store, path: str) -> list[Row]:
    where = store.display_path(path)
    lines = list(csv.reader(decode_text(store.read(path), where).splitlines()))
    columns = _find_columns(lines[0])
    assert columns is not None  # as `find_rle_csv` has seen
    image, runs, category = columns
    found = []
    for number, cells in enumerate(lines[1:], start=2):
        if not cells:
            continue
        if len(cells) != len(lines[0]):
            raise DataError(f"{where}: line {number}: has {len(cells)} cells, not {len(lines[0])}")
        name, text = read_name(cells[image]), cells[runs].strip()
        text = "" if text.lower() in ("-1", "nan", "none") else text
        kind = ONE_CLASS if category is None else read_name(cells[category])
        if read_name(lines[0][image]).lower() == JOINED_COLUMN:
            joined = re.fullmatch(r"(.+)_(\w+)", name)
            if joined is None:
                raise DataError(f"{where}: line {number}: {name!r} is not IMAGE_CLASS")
            name, kind = joined[1], joined[2]
        found.append((name, kind, text))
    return found


def _read_header(store: Store, path: str) -> list[str]:
    first = (
        store.head(path, HEAD_BYTES)[:HEAD_BYTES].decode("utf-8-sig", "replace").splitlines()[:1]
    )
    return next(csv.reader(first), [])


def _format_columns(header: Sequence[str]) -> str:
    """Return which columns are read as what, for a note."""
    columns = _find_columns(header)
    assert columns is not None  # as `find_rle_csv` has seen
    image, runs, category = columns
    classes = "one class" if category is None else f"class in {header[category]!r}"
    return f"image in {header[image]!r}, run-length encoding in {header[runs]!r}, {classes}"


def _find_columns(header: Sequence[str]) -> tuple[int, int, int | None] | None:
    """Return the indices of the columns of images, run lengths and classes, or None."""
    names = [read_name(each).lower() for each in header]
    runs = next((names.index(each) for each in names if each in RUN_COLUMNS), None)
    images = next(
        (names.index(each) for each in (JOINED_COLUMN, *IMAGE_COLUMNS) if each in names), None
    )
    if runs is None or images is None:
        return None
    return images, runs, next((names.index(each) for each in CLASS_COLUMNS if each in names), None)
