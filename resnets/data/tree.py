"""Class-folder trees: which file belongs to which part and class.

Accepted: root/<class>/*, and root/train/<class>/* with root/val and root/test in the same form.
With val/ but no test/ (ImageNet's layout) val/ is the test set. A val/ of pictures without class
folders takes its labels from a file (`ground_truth`); a test/ beside it that has none either is
ImageNet's own, whose labels are secret, and left alone. A single top folder is skipped, and so are
Kaggle's ILSVRC/Data/CLS-LOC/.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from resnets.data.errors import DataError
from resnets.data.files import Listing
from resnets.data.ground_truth import DEVKIT, flat_part
from resnets.data.parts import PART_NAMES, VAL_NAMES, FilePart, Source, by_role

KAGGLE = "ILSVRC/Data/CLS-LOC/"


def open_tree(listing: Listing, name: str, where: str, truth: str | None = None) -> Source:
    """Sort the pictures of a folder or tar `where` into parts and classes, sorted by name.

    `truth`: file with the labels of a flat val/, where it is not found beside it. DataError: no
    pictures, no class folders, a class without pictures, or a class in val/ or test/ that train/
    lacks.
    """
    if not listing.paths:
        said = listing.left_out.said()
        raise DataError(f"{where}: no images found; expected a folder of them for each class{said}")
    if not any("/" in path for path in listing.paths):
        raise DataError(
            f"{where}: its {len(listing.paths):,} images are in no class folders; sort them into"
            " one for each class"
        )
    top = _top_folder(listing)
    titles = set(_first_parts(listing.folders, top))
    if "train" not in titles or not any(_first_parts(listing.folders, f"{top}train/")):
        classes = _classes(listing, top, where)
        return Source(name, classes, _part(listing, "", top, classes, where))
    titles.discard(DEVKIT)
    if extra := sorted(titles - PART_NAMES):
        raise DataError(
            f"{where}: {extra[0]}/ beside train/; only val/ and test/ have a place there"
        )
    classes = _classes(listing, f"{top}train/", where)
    flat = {title for title in VAL_NAMES if title in titles and _is_flat(listing, f"{top}{title}/")}
    if flat and _is_flat(listing, f"{top}test/"):
        titles.discard("test")
    parts = {
        title: flat_part(listing, title, f"{top}{title}/", classes, where, truth)
        if title in flat
        else _part(listing, title, f"{top}{title}/", classes, where)
        for title in sorted(titles)
    }
    return by_role(name, classes, parts, where)


def _is_flat(listing: Listing, prefix: str) -> bool:
    """Whether there are pictures right below `prefix`, and no folders."""
    inside = any(path.startswith(prefix) for path in listing.paths)
    return inside and not any(_first_parts(listing.folders, prefix))


def _top_folder(listing: Listing) -> str:
    """The one folder that holds everything and no picture of its own, as "top/", else ""."""
    for top in (KAGGLE, KAGGLE.partition("/")[2], KAGGLE.partition("Data/")[2]):
        if any(path.startswith(f"{top}train/") for path in listing.paths):
            return top
    tops = set(_first_parts(listing.folders, ""))
    shallow = any(path.count("/") < 2 for path in listing.paths)
    return f"{tops.pop()}/" if len(tops) == 1 and not shallow else ""


def _classes(listing: Listing, prefix: str, where: str) -> tuple[str, ...]:
    names = tuple(sorted(set(_first_parts(listing.folders, prefix))))
    if not names:
        raise DataError(f"{where}/{prefix}: no class folders; sort its pictures into one for each")
    return names


def _part(
    listing: Listing, title: str, prefix: str, classes: tuple[str, ...], where: str
) -> FilePart:
    """The pictures below `prefix`, labelled by the folder they are in."""
    number = {name: label for label, name in enumerate(classes)}
    found = _classes(listing, prefix, where)
    if unknown := [name for name in found if name not in number]:
        raise DataError(f"{where}/{prefix}{unknown[0]}: a class that train/ does not have")
    rows, labels = [], []
    for row, path in enumerate(listing.paths):
        name, below, _ = path[len(prefix) :].partition("/")
        if below and path.startswith(prefix):
            rows.append(row)
            labels.append(number[name])
    counts = np.bincount(labels, minlength=len(classes))
    if empty := [name for name in found if counts[number[name]] == 0]:
        raise DataError(
            f"{where}/{prefix}{empty[0]}: a class without pictures; add some or remove the folder"
        )
    return FilePart(title, listing.files.take(np.array(rows)), np.array(labels, np.int64))


def _first_parts(paths: Sequence[str], prefix: str) -> Iterator[str]:
    """First part after `prefix` of each path below it."""
    return (path[len(prefix) :].split("/")[0] for path in paths if path.startswith(prefix))
