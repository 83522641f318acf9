"""Labels of a flat folder of images, as ImageNet's validation set has them: in a file beside it.

Known files: the devkit's ILSVRC2012_validation_ground_truth.txt, numbers that its meta.mat explains
(the devkit unpacked, or as its .tar.gz); Kaggle's LOC_val_solution.csv (ImageId,PredictionString);
Caffe's val.txt ("ILSVRC2012_val_00000001.JPEG 65", places in the sorted classes); Tiny ImageNet's
val_annotations.txt (image, class and a box, with tabs); val.csv of path,label. Any of these by
another name with `data.ground_truth`.
"""

from __future__ import annotations

import io
import logging
import posixpath
import re
import tarfile
from collections.abc import Sequence
from importlib import resources
from pathlib import Path

import numpy as np

from resnets.data.errors import DataError
from resnets.data.files.folder import read_file
from resnets.data.files.walk import IMAGE_SUFFIXES
from resnets.data.tables.label_sets import single_label
from resnets.data.tables.labels import NUMBER, Label, first_pair, order_by_name
from resnets.data.tables.reader import TABLE_SUFFIXES, open_table_file

log = logging.getLogger("resnets")

DEVKIT = "ILSVRC2012_devkit_t12"
DEVKIT_TRUTH = "ILSVRC2012_validation_ground_truth.txt"
KAGGLE_TRUTH = "LOC_val_solution.csv"
BESIDE = (f"{DEVKIT}/data/{DEVKIT_TRUTH}", DEVKIT_TRUTH, f"{DEVKIT}.tar.gz", KAGGLE_TRUTH)
GENERIC = (
    "val.txt",
    "val.csv",
    "val_annotations.txt",
)  # only where the images are, or the folder that was named
LEVELS = 4  # folders upwards that are searched: Kaggle's CLS-LOC lies three below its CSV
REAL = re.compile(r"[+-]?\d+(\.\d*)?|")
IMAGENET_NAME = re.compile(r"ILSVRC2012_val_(\d{8})")


def find_labels(where: Path, prefix: str, truth: str | None) -> Path | None:
    """The file `truth`, or a known one with labels for the images below `prefix` of `where`."""
    if truth is not None:
        file = Path(truth).expanduser()
        if not file.is_file():
            raise DataError(f"data.ground_truth: {truth}: no such file")
        return file
    return next(iter(_candidates(where, prefix)), None)


def imagenet_names(given: Sequence[Label], names: Sequence[str]) -> list[Label]:
    """Labels of images called ILSVRC2012_val_* that are numbers, as WordNet ids; others as is."""
    places = {str(number): wnid for number, wnid in enumerate(WNIDS)}
    called = bool(names) and IMAGENET_NAME.match(posixpath.basename(names[0])) is not None
    if called and places.keys() >= set(given):
        return [places[str(number)] for number in given]
    return list(given)


def _candidates(where: Path, prefix: str) -> list[Path]:
    """Files with labels for the images below `prefix` of the folder or tar `where`."""
    root = (where if where.is_dir() else where.parent).resolve()
    near = [root / prefix, (root / prefix).parent, root]
    above = [root, *root.parents][:LEVELS]
    places = [
        *(place / name for place in near for name in (*BESIDE, *GENERIC)),
        *(place / name for place in above for name in BESIDE),
    ]
    return [place for place in places if place.is_file()]


def read_labels(file: Path, names: Sequence[str]) -> tuple[list[str], str]:
    """A class name or a place in the sorted classes for each of the images `names`, and how labels
    without names were paired with them; empty where names tell.

    DataError: damaged, without a label for an image, or by an order that may be either of two.
    """
    if file.suffixes[-2:] == [".tar", ".gz"]:
        numbers, meta = _from_devkit_tar(file)
        return _in_order(file, _explained(file, numbers, meta), names)
    if file.suffix.lower() in TABLE_SUFFIXES and file.suffix.lower() != ".txt":
        return _by_name(file, _table_cells(file, names), names), ""
    try:
        text = read_file(file).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{file}: is not UTF-8 text (byte {error.start:,})") from None
    lines = text.splitlines()
    if (tabbed := _tabbed(file, lines)) is not None:
        return _by_name(file, tabbed, names), ""
    cells = [line.rsplit(maxsplit=1) for line in lines if line.strip()]
    if cells and all(len(parts) == 2 for parts in cells):
        return _by_name(file, [(path, label) for path, label in cells], names), ""
    values = [line.strip() for line in lines if line.strip()]
    beside = file.with_name("meta.mat")
    if beside.is_file():
        values = _explained(file, values, read_file(beside))
    elif all(map(NUMBER.fullmatch, values)) and "0" not in values:
        raise DataError(
            f"{file}: its numbers count from 1, as the devkit's do; put meta.mat of {DEVKIT}/data"
            " beside it, which says what they mean"
        )
    return _in_order(file, values, names)


def _tabbed(file: Path, lines: Sequence[str]) -> list[tuple[str, str]] | None:
    """Path and label of lines of three cells or more with tabs between; None for other lines.

    DataError where what follows the label is no box or other numbers.
    """
    rows = [line.split("\t") for line in lines if line.strip()]
    if not rows or any(len(row) < 3 for row in rows):
        return None
    for number, row in enumerate(rows, start=1):
        if other := next((cell for cell in row[2:] if not REAL.fullmatch(cell.strip())), None):
            raise DataError(
                f"{file}: line {number}: {len(row)} cells, of which {other!r} is neither path, nor"
                " label, nor part of a box; expected image and label, or a CSV with a header"
            )
    return [(row[0].strip(), row[1].strip()) for row in rows]


def _table_cells(file: Path, names: Sequence[str]) -> list[tuple[str, str]]:
    """Path and label of each row. Of Kaggle's "n01 1 2 3 4 n01 ..." the first box is taken."""
    known = set(map(_stem, names))
    table = open_table_file(file, lambda cell: _stem(cell) in known)
    if table is not None:
        table.warn_of_unused()
        if table.columns.splits:
            log.warning(
                "%s: its splits are not used, only its labels (%s); to use both, give the table by"
                " --data",
                file,
                table.said(),
            )
    cells = []
    for row in () if table is None else table.rows():
        parts = row.label.split() if isinstance(row.label, str) else []
        boxes = len(parts) >= 5 and len(parts) % 5 == 0
        place = f"{file}: line {row.line}"
        cells.append((row.path, parts[0] if boxes else single_label(row.label, place)))
    return cells


def _by_name(file: Path, cells: Sequence[tuple[str, str]], names: Sequence[str]) -> list[str]:
    """Labels by the name of the image, with or without folders and suffix."""
    known = {_stem(path): label for path, label in cells}
    given = [known.get(_stem(name)) for name in names]
    if missing := [name for name, label in zip(names, given, strict=True) if label is None]:
        raise DataError(
            f"{file}: has no label for {len(missing):,} of {len(names):,} images, among them"
            f" {missing[0]}"
        )
    return [label for label in given if label is not None]


def _in_order(file: Path, values: Sequence[str], names: Sequence[str]) -> tuple[list[str], str]:
    """Labels by line, and how they were paired: line k is of ILSVRC2012_val_k, or of the k-th
    image by name."""
    numbers = [int(match[1]) for name in names if (match := IMAGENET_NAME.match(name))]
    if len(numbers) == len(names) and max(numbers) <= len(values):
        return [values[number - 1] for number in numbers], ""
    if len(values) != len(names):
        raise DataError(
            f"{file}: labels {len(values):,} images, but there are {len(names):,}; only a file"
            " with their names may label others"
        )
    order_by_name(file, [(name,) for name in names])
    return list(values), f"by position: {first_pair(names[0], values[0])}, ..."


def _explained(file: Path, numbers: Sequence[str], meta: bytes) -> list[str]:
    """WordNet ids of the devkit's numbers (ILSVRC2012_ID), by the bytes of its meta.mat."""
    from scipy.io import loadmat

    try:
        synsets = loadmat(io.BytesIO(meta), squeeze_me=True)["synsets"]
        ids = np.atleast_1d(synsets["ILSVRC2012_ID"]).tolist()
        wnids = dict(zip(map(str, ids), np.atleast_1d(synsets["WNID"]).tolist(), strict=True))
    except Exception as error:  # damaged ones raise anything
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DataError(f"{file}: its meta.mat cannot be read ({reason}); fetch it again") from None
    for line, number in enumerate(numbers, start=1):
        if number not in wnids:
            raise DataError(f"{file}: line {line}: {number!r} is not a class that meta.mat knows")
    return [str(wnids[number]) for number in numbers]


def _from_devkit_tar(file: Path) -> tuple[list[str], bytes]:
    """Lines of the ground truth, and meta.mat's bytes, of the devkit as it is downloaded."""

    def member(tar: tarfile.TarFile, name: str) -> bytes:
        stream = tar.extractfile(f"{DEVKIT}/data/{name}")
        assert stream is not None
        return stream.read()

    try:
        with tarfile.open(file, "r:gz") as tar:
            return member(tar, DEVKIT_TRUTH).decode("ascii").split(), member(tar, "meta.mat")
    except (tarfile.TarError, OSError, EOFError, KeyError, ValueError) as error:
        raise DataError(f"{file}: not the devkit, or damaged ({error}); fetch it again") from None


def _stem(path: str) -> str:
    base = posixpath.basename(path.replace("\\", "/"))
    stem, suffix = posixpath.splitext(base)
    return stem if suffix.lower() in IMAGE_SUFFIXES else base


# One a line, sorted: the classes of ILSVRC 2012, as its devkit and every training folder name them.
WNIDS: tuple[str, ...] = tuple(
    resources.files("resnets.data.tables").joinpath("imagenet_wnids.txt").read_text("ascii").split()
)
