"""CSV of run-length encoded masks, a row for each object, as Kaggle's competitions have them.

A column of image names (ImageId), one of run lengths (EncodedPixels: "start length start length
...", starts from 1, down the columns), and one of classes (ClassId) if there are several. A first
column ImageId_ClassId joins name and class ("a.jpg_1").
"""

from __future__ import annotations

import csv
import re
from collections import defaultdict
from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import Any

import numpy as np

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
Row = tuple[str, str, str]  # image, class, run lengths


def find_rle_csv(store: Store) -> dict[str, str]:
    """Image set -> CSV with a column of run lengths; submissions are none."""
    found = {}
    for path in store.below("", ".csv"):
        stem = PurePosixPath(path).stem
        if "submission" in stem.lower() or _columns(_header(store, path)) is None:
            continue
        found[stem if role_within(stem) else ""] = path
    return found


def open_rle_csv(store: Store, files: dict[str, str], name: str, masks: bool) -> RawDataset:
    """The sets of `files` (from `find_rle_csv`); classes are those of the training sets' rows."""
    rows = {title: _rows(store, path) for title, path in files.items()}
    training = [t for t in rows if role_within(t) in ("train", "trainval")] or list(rows)
    names = {row[1] for title in training for row in rows[title] if row[2]}
    if not names:
        raise DataError(f"{store.called(files[training[0]])}: no row has run lengths")
    numeric = all(each.isdecimal() for each in names)
    classes = tuple(sorted(names, key=lambda each: (int(each) if numeric else 0, each)))
    label_of = {each: label for label, each in enumerate(classes)}

    def load(title: str) -> RawImageSet:
        return _part(store, files[title], title, rows[title], label_of, masks)

    numbers = tuple(int(each) for each in classes) if numeric else tuple(range(1, len(classes) + 1))
    return RawDataset(name, store, classes, numbers, tuple(files), load)


def _part(
    store: Store,
    path: str,
    title: str,
    rows: Sequence[Row],
    label_of: dict[str, int],
    masks: bool,
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
    for (image, listed), match in zip(of_image.items(), matches, strict=True):
        size = sizes.get(match.path or "")
        width, height = size.upright if isinstance(size, StoredSize) else (0, 0)
        objects = [
            _object(number, row, label_of, (height, width), masks)
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
    notes = []
    if bare:
        notes.append(
            f"{len(bare):,} images without a row in {path} left out, such as {bare[0]}; give those"
            " without objects a row with empty run lengths"
        )
    return RawImageSet(
        with_matches(images, matches), (), (), sum(bool(row[2]) for row in rows), notes
    )


def _object(
    number: int, row: Row, label_of: dict[str, int], size: tuple[int, int], masks: bool
) -> RawObject:
    _, category, text = row
    flaws: tuple[Flaw, ...] = ()
    box: Box = (NAN, NAN, NAN, NAN)
    outline: dict[str, Any] | None = None
    area = None
    try:
        outline = _run_lengths(text, size)
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


def _run_lengths(text: str, size: tuple[int, int]) -> dict[str, Any]:
    """COCO's run lengths of "start length ..." in an image of `size` (H, W).

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
    bounds = np.column_stack((starts, ends)).reshape(-1)
    edges = np.concatenate(([0], bounds, [size[0] * size[1]]))
    return {"size": list(size), "counts": np.diff(edges).tolist()}


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


def _columns(header: Sequence[str]) -> tuple[int, int, int | None] | None:
    """Places of the columns of images, run lengths and classes; None where it has none of them."""
    names = [read_name(each).lower() for each in header]
    runs = next((names.index(each) for each in names if each in RUNS), None)
    images = next((names.index(each) for each in (JOINED, *IMAGES) if each in names), None)
    if runs is None or images is None:
        return None
    return images, runs, next((names.index(each) for each in CLASSES if each in names), None)
