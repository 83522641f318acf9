"""CSV of run-length encoded masks, a row for each object, as Kaggle's competitions have them.

A column of image names (ImageId), one of run lengths (EncodedPixels: "start length start length
...", starts from 1, down the columns), and one of classes (ClassId) if there are several. A first
column ImageId_ClassId joins name and class ("a.jpg_1").

Some have runs that go along the rows (Sartorius). The order is told by the masks: in the right one
the runs of neighboring lines touch. Masks that fit the rows are refused unless
`detect.format` states the order.
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
from resnets.detect.data.masks import bounds_of
from resnets.detect.data.values import NAN, Box, read_name
from resnets.detect.formats.records import (
    Flaw,
    RawDataset,
    RawImage,
    RawImageSet,
    RawObject,
    with_matches,
)
from resnets.detect.formats.set_checks import with_form
from resnets.detect.images.entries import Stated
from resnets.detect.images.index import ImageIndex
from resnets.detect.images.sizes import StoredSize, read_sizes
from resnets.detect.images.store import Store

RUNS = frozenset({"encodedpixels", "rle", "encoded_pixels", "rlemask", "rle_mask", "annotation"})
IMAGES = ("imageid", "image_id", "image", "img_id", "id", "img", "filename", "file_name", "name")
CLASSES = ("classid", "class_id", "class", "label", "category", "category_id", "cell_type")
JOINED = "imageid_classid"
HEAD = 4096  # bytes of a file that its header lies in
ONE_CLASS = "object"
FEWEST_RUNS = 3  # of a mask that tells their order
Row = tuple[str, str, str]  # image, class, run lengths
Order = Literal["columns", "rows"]
Runs = tuple[NDArray[np.int64], NDArray[np.int64]]  # sorted first pixels, and those after the last


def find_rle_csv(store: Store) -> dict[str, str]:
    """Image set -> CSV with a column of run lengths; submissions are none."""
    found = {}
    for path in store.below("", ".csv"):
        stem = PurePosixPath(path).stem
        if "submission" in stem.lower() or _columns(_header(store, path)) is None:
            continue
        found[stem if role_within(stem) else ""] = path
    return found


def open_rle_csv(
    store: Store, files: dict[str, str], name: str, masks: bool, order: Order | None = None
) -> RawDataset:
    """The sets of `files` (from `find_rle_csv`); classes are those of the training sets' rows.

    order: what the runs go along. None = columns, and objects get a flaw where rows fit better.
    """
    rows = {title: _rows(store, path) for title, path in files.items()}
    training = [t for t in rows if role_within(t) in ("train", "trainval")] or list(rows)
    names = {row[1] for title in training for row in rows[title] if row[2]}
    if not names:
        raise DataError(f"{store.called(files[training[0]])}: no row has run lengths")
    numeric = all(each.isdecimal() for each in names)
    classes = tuple(sorted(names, key=lambda each: (int(each) if numeric else 0, each)))
    label_of = {each: label for label, each in enumerate(classes)}

    def load(title: str) -> RawImageSet:
        return _part(store, files[title], title, rows[title], label_of, masks, order)

    numbers = tuple(int(each) for each in classes) if numeric else tuple(range(1, len(classes) + 1))
    return RawDataset(name, store, classes, numbers, tuple(files), load)


def _part(
    store: Store,
    path: str,
    title: str,
    rows: Sequence[Row],
    label_of: dict[str, int],
    masks: bool,
    order: Order | None,
) -> RawImageSet:
    where = store.called(path)
    index = ImageIndex.of(store)
    of_image: dict[str, list[tuple[int, Row]]] = defaultdict(list)
    for number, row in enumerate(rows, start=2):  # lines of the file
        of_image[row[0]].append((number, row))
    matches = index.match([Stated((image,), path, title) for image in of_image])
    found = [match.path for match in matches if match.path is not None]
    sizes = read_sizes(store, found)
    images = []
    counts = _OrderCounts()
    for (image, listed), match in zip(of_image.items(), matches, strict=True):
        size = sizes.get(match.path or "")
        width, height = size.upright if isinstance(size, StoredSize) else (0, 0)
        objects = [
            _object(number, row, label_of, (height, width), masks, order or "columns", counts)
            for number, row in listed
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
                sized=False,
            )
        )
    folders = {PurePosixPath(each).parent for each in found}
    bare = [p for p in index.images if PurePosixPath(p).parent in folders and p not in set(found)]
    doubt = counts.doubt(order or "columns")
    if doubt and order is None:
        images = [replace(each, objects=tuple(with_form(each.objects, doubt))) for each in images]
    notes = [f"{path}: {_said_columns(_header(store, path))}; {order or 'columns'} order"]
    notes += [doubt] if doubt and order is not None else []
    if counts.square and not counts.columns + counts.rows and order is None:
        notes.append(
            "square images do not tell whether runs go down the columns or along the rows; they are"
            " read down the columns (detect.format=rle-rows for the other)"
        )
    if bare:
        notes.append(
            f"{len(bare):,} images without a row in {path} left out, such as {bare[0]}; give those"
            " without objects a row with empty run lengths"
        )
    return RawImageSet(
        with_matches(images, matches), (), (), sum(bool(row[2]) for row in rows), notes
    )


@dataclass
class _OrderCounts:
    """How many masks have runs that fit columns better, or rows; square images do not tell."""

    columns: int = 0
    rows: int = 0
    square: int = 0

    def add(self, runs: Runs, size: tuple[int, int]) -> None:
        """Count a mask in an image of `size` (H, W)."""
        if len(runs[0]) < FEWEST_RUNS:
            return
        down, across = (_touching(runs, side) for side in size)
        self.columns += down > across
        self.rows += across > down
        self.square += size[0] == size[1]

    def doubt(self, order: Order) -> str:
        """Why the masks seem to be in the other order, "" where they do not."""
        other: Order = "rows" if order == "columns" else "columns"
        against, whole = getattr(self, other), self.columns + self.rows
        if against <= whole - against:
            return ""
        return (
            f"the runs of {against:,} of {whole:,} masks are whole shapes if they go along the"
            f" {other}, and not if along the {order}; set detect.format=rle-{other}, or"
            f" rle-{order} if that is right"
        )


def _touching(runs: Runs, side: int) -> int:
    """Pixels of a mask whose neighbor in the next line, `side` pixels further, is of it, too."""
    starts, ends = runs
    before = np.concatenate(([0], np.cumsum(ends - starts)))

    def covered(place: NDArray[np.int64]) -> NDArray[np.int64]:  # pixels of the mask before it
        run = np.searchsorted(starts, place, "right") - 1
        inside = np.minimum(place - starts[run], ends[run] - starts[run])
        return np.where(run < 0, 0, before[run] + inside)

    return int((covered(ends + side) - covered(starts + side)).sum())


def _object(
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
        runs = _run_lengths(text, size)
        counts.add(runs, size)
        outline = _outline(runs, size, order)
        box, area = bounds_of(outline, size), float(sum(outline["counts"][1::2]))
    except ValueError as error:
        flaws = (Flaw("no number", f"its run lengths {error}"),)
    return RawObject(
        item=f"line {number}",
        label=label_of.get(category, -1),
        category=category,
        box=box,
        area=area,
        segmentation=outline if masks else None,
        number=number - 2,
        flaws=flaws,
        bare=outline is None,
    )


def _run_lengths(text: str, size: tuple[int, int]) -> Runs:
    """The runs of "start length ..." in an image of `size` (H, W).

    ValueError where they are none, overlap, or pass the end of the image.
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


def _outline(runs: Runs, size: tuple[int, int], order: Order) -> dict[str, Any]:
    """COCO's run lengths, which go down the columns, of runs in any order."""
    total = size[0] * size[1]
    if order == "rows":
        drawn = np.zeros(total + 1, np.int8)
        np.add.at(drawn, runs[0], 1)
        np.add.at(drawn, runs[1], -1)
        down = np.cumsum(drawn[:-1], dtype=np.int8).reshape(size).T.reshape(-1)
        edges = np.flatnonzero(np.diff(down, prepend=0, append=0))
        runs = edges[::2], edges[1::2]
    bounds = np.column_stack(runs).reshape(-1)
    return {"size": list(size), "counts": np.diff(bounds, prepend=0, append=total).tolist()}


def _rows(store: Store, path: str) -> list[Row]:
    where = store.called(path)
    lines = list(csv.reader(decode_text(store.read(path), where).splitlines()))
    columns = _columns(lines[0])
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
        if read_name(lines[0][image]).lower() == JOINED:
            joined = re.fullmatch(r"(.+)_(\w+)", name)
            if joined is None:
                raise DataError(f"{where}: line {number}: {name!r} is no image and class")
            name, kind = joined[1], joined[2]
        found.append((name, kind, text))
    return found


def _header(store: Store, path: str) -> list[str]:
    first = store.head(path, HEAD)[:HEAD].decode("utf-8-sig", "replace").splitlines()[:1]
    return next(csv.reader(first), [])


def _said_columns(header: Sequence[str]) -> str:
    """Which columns were taken for what, for a note."""
    columns = _columns(header)
    assert columns is not None  # as `find_rle_csv` has seen
    image, runs, category = columns
    classes = "one class" if category is None else f"class in {header[category]!r}"
    return f"image in {header[image]!r}, run lengths in {header[runs]!r}, {classes}"


def _columns(header: Sequence[str]) -> tuple[int, int, int | None] | None:
    """Places of the columns of images, run lengths and classes; None where it has none of them."""
    names = [read_name(each).lower() for each in header]
    runs = next((names.index(each) for each in names if each in RUNS), None)
    images = next((names.index(each) for each in (JOINED, *IMAGES) if each in names), None)
    if runs is None or images is None:
        return None
    return images, runs, next((names.index(each) for each in CLASSES if each in names), None)
