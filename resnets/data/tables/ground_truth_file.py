"""Read the labels of a flat folder of images (ImageNet's validation set) from a file.

Known files: the devkit's ILSVRC2012_validation_ground_truth.txt, numbers that its meta.mat explains
(the devkit unpacked, or as its .tar.gz); Kaggle's LOC_val_solution.csv (ImageId,PredictionString);
Caffe's val.txt ("ILSVRC2012_val_00000001.JPEG 65", indices of the sorted classes); Tiny ImageNet's
val_annotations.txt (image, class and a box, separated by tabs); val.csv of path,label.
`data.ground_truth` gives any of these by another name.
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
from resnets.data.tables.labels import NUMBER, Label, argsort_by_name, format_first_pair
from resnets.data.tables.multilabel import single_label
from resnets.data.tables.reader import TABLE_SUFFIXES, open_table_file

log = logging.getLogger("resnets")

DEVKIT = "ILSVRC2012_devkit_t12"
DEVKIT_TRUTH = "ILSVRC2012_validation_ground_truth.txt"
KAGGLE_TRUTH = "LOC_val_solution.csv"
KNOWN_FILES = (f"{DEVKIT}/data/{DEVKIT_TRUTH}", DEVKIT_TRUTH, f"{DEVKIT}.tar.gz", KAGGLE_TRUTH)
GENERIC_FILES = (
    "val.txt",
    "val.csv",
    "val_annotations.txt",
)  # only in the folder of the images or the one given
MAX_LEVELS = 4  # parent folders that are searched: Kaggle's CLS-LOC is three below its CSV
REAL = re.compile(r"[+-]?\d+(\.\d*)?|")
IMAGENET_NAME = re.compile(r"ILSVRC2012_val_(\d{8})")


def find_ground_truth(where: Path, prefix: str, truth: str | None) -> Path | None:
    """Return the file `truth`, or a known file with labels of the images below `prefix`."""
    if truth is not None:
        file = Path(truth).expanduser()
        if not file.is_file():
            raise DataError(f"data.ground_truth: {truth}: no such file")
        return file
    return next(iter(_list_candidates(where, prefix)), None)


def imagenet_wnids(labels: Sequence[Label], names: Sequence[str]) -> list[Label]:
    """Convert numeric labels of ILSVRC2012_val_* images to WordNet ids; keep others."""
    wnid_by_number = {str(number): wnid for number, wnid in enumerate(WNIDS)}
    is_imagenet = bool(names) and IMAGENET_NAME.match(posixpath.basename(names[0])) is not None
    if is_imagenet and wnid_by_number.keys() >= set(labels):
        return [wnid_by_number[str(number)] for number in labels]
    return list(labels)


def _list_candidates(where: Path, prefix: str) -> list[Path]:
    """List existing files that may label the images below `prefix` of the folder or tar `where`."""
    root = (where if where.is_dir() else where.parent).resolve()
    folders = [root / prefix, (root / prefix).parent, root]
    parents = [root, *root.parents][:MAX_LEVELS]
    files = [
        *(folder / name for folder in folders for name in (*KNOWN_FILES, *GENERIC_FILES)),
        *(folder / name for folder in parents for name in KNOWN_FILES),
    ]
    return [file for file in files if file.is_file()]


def read_labels(file: Path, names: Sequence[str]) -> tuple[list[str], str]:
    """Return a class name, or an index of the sorted classes, for each of the images `names`.

    The second value says how labels were paired with images if the file has no names, else it is
    empty. Raises DataError if the file is damaged, lacks an image, or if the order of images is
    ambiguous.
    """
    if file.suffixes[-2:] == [".tar", ".gz"]:
        numbers, meta = _read_devkit_tar(file)
        return _match_by_order(file, _numbers_to_wnids(file, numbers, meta), names)
    if file.suffix.lower() in TABLE_SUFFIXES and file.suffix.lower() != ".txt":
        return _match_by_name(file, _read_table_cells(file, names), names), ""
    try:
        text = read_file(file).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{file}: is not UTF-8 text (byte {error.start:,})") from None
    lines = text.splitlines()
    if (rows := _parse_tabbed(file, lines)) is not None:
        return _match_by_name(file, rows, names), ""
    cells = [line.rsplit(maxsplit=1) for line in lines if line.strip()]
    if cells and all(len(parts) == 2 for parts in cells):
        return _match_by_name(file, [(path, label) for path, label in cells], names), ""
    values = [line.strip() for line in lines if line.strip()]
    meta_file = file.with_name("meta.mat")
    if meta_file.is_file():
        values = _numbers_to_wnids(file, values, read_file(meta_file))
    elif all(map(NUMBER.fullmatch, values)) and "0" not in values:
        raise DataError(
            f"{file}: its numbers count from 1, as the devkit's do; put meta.mat of {DEVKIT}/data"
            " next to it, which gives their classes"
        )
    return _match_by_order(file, values, names)


def _parse_tabbed(file: Path, lines: Sequence[str]) -> list[tuple[str, str]] | None:
    """Parse path and label of lines of three or more cells with tabs; None for other lines.

    Raises DataError if the cells after the label are not numbers.
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


def _read_table_cells(file: Path, names: Sequence[str]) -> list[tuple[str, str]]:
    """Read path and label of each row.

    Of Kaggle's "n01 1 2 3 4 n01 ..." the label is the class of the first box.
    """
    known = set(map(_stem, names))
    table = open_table_file(file, lambda cell: _stem(cell) in known)
    if table is not None:
        table.warn_of_unused_columns()
        if table.columns.has_splits:
            log.warning(
                "%s: its splits are not used, only its labels (%s); to use both, give the table by"
                " --data",
                file,
                table.describe(),
            )
    cells = []
    for row in () if table is None else table.rows():
        parts = row.label.split() if isinstance(row.label, str) else []
        boxes = len(parts) >= 5 and len(parts) % 5 == 0
        place = f"{file}: line {row.line}"
        cells.append((row.path, parts[0] if boxes else single_label(row.label, place)))
    return cells


def _match_by_name(file: Path, cells: Sequence[tuple[str, str]], names: Sequence[str]) -> list[str]:
    """Return the labels of `names`, matched with or without folders and suffix.

    Rows without an image are counted in a warning. Raises DataError if two rows of an image differ
    or an image has none.
    """
    label_by_stem: dict[str, str] = {}
    for path, label in cells:
        if (first := label_by_stem.setdefault(_stem(path), label)) != label:
            raise DataError(f"{file}: labels {path} twice, as {first} and {label}; keep one")
    labels = [label_by_stem.get(_stem(name)) for name in names]
    if absent := sorted(label_by_stem.keys() - set(map(_stem, names))):
        _warn_of_missing_images(file, len(absent), len(label_by_stem), absent[0])
    if missing := [name for name, label in zip(names, labels, strict=True) if label is None]:
        raise DataError(
            f"{file}: has no label for {len(missing):,} of {len(names):,} images, among them"
            f" {missing[0]}"
        )
    return [label for label in labels if label is not None]


def _match_by_order(
    file: Path, values: Sequence[str], names: Sequence[str]
) -> tuple[list[str], str]:
    """Return labels by line, and how they were paired.

    Line k labels ILSVRC2012_val_k, or the k-th image by name.
    """
    numbers = [int(match[1]) for name in names if (match := IMAGENET_NAME.match(name))]
    if len(numbers) == len(names) and max(numbers) <= len(values):
        if absent := sorted(set(range(1, len(values) + 1)) - set(numbers)):
            first = f"ILSVRC2012_val_{absent[0]:08d}"
            _warn_of_missing_images(file, len(absent), len(values), first)
        return [values[number - 1] for number in numbers], ""
    if len(values) != len(names):
        raise DataError(
            f"{file}: labels {len(values):,} images, but there are {len(names):,}; only a file"
            " with their names may label others"
        )
    argsort_by_name(file, [(name,) for name in names])
    return list(values), f"by position: {format_first_pair(names[0], values[0])}, ..."


def _warn_of_missing_images(file: Path, missing: int, total: int, first: str) -> None:
    log.warning(
        "%s: %s of its %s labels have no image here, such as that of %s; images may be missing",
        file,
        f"{missing:,}",
        f"{total:,}",
        first,
    )


def _numbers_to_wnids(file: Path, numbers: Sequence[str], meta: bytes) -> list[str]:
    """Convert the devkit's numbers (ILSVRC2012_ID) to WordNet ids by the bytes of its meta.mat."""
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


def _read_devkit_tar(file: Path) -> tuple[list[str], bytes]:
    """Return the lines of the ground truth and the bytes of meta.mat from the downloaded devkit."""

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


# The classes of ILSVRC 2012, sorted, as its devkit and training folders name them.
WNIDS: tuple[str, ...] = tuple(
    resources.files("resnets.data.tables").joinpath("imagenet_wnids.txt").read_text("ascii").split()
)
