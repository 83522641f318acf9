"""A folder whose images are described by one table in it or beside it.

`images/` with labels.csv beside it, a flat folder whose labels.csv has a column of splits or lies
in the folder above: what has no class folders. A flat folder with labels alone is `flat_labels`'.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

from resnets.data.dataset.parts import FilePart, Part, Source
from resnets.data.files.open import FolderFiles, Listing
from resnets.data.files.walk import LeftOut
from resnets.data.layout.folder_layout import Layout
from resnets.data.sources.class_folders import Tree
from resnets.data.sources.csv_table import open_table
from resnets.data.tables.flat_labels import TABLE_NAMES, UNNAMED
from resnets.data.tables.paths import TablePaths
from resnets.data.tables.reader import open_table_file

SUFFIXES = (".csv", ".tsv")
IMAGE_FOLDERS = frozenset(
    {"images", "image", "imgs", "img", "pictures", "photos", "jpg", "jpeg", "jpegs", "png", "all"}
)


def open_folder_table(folder: Path, listing: Listing, name: str) -> Source | None:
    """The set that a table of the images of `folder` makes; None where there is no such table.

    Images that it does not name are counted as left out. Raises as `open_table`.
    """
    images = [path for path in listing.paths if path not in listing.others]
    tops = {path.partition("/")[0] for path in images if "/" in path}
    if not images or any(top.lower() not in IMAGE_FOLDERS for top in tops):
        return None
    for file, inside in _candidates(folder.resolve()):
        paths = TablePaths(folder)
        table = open_table_file(file, paths.is_file, paths.is_known)
        if table is None:
            continue
        if inside and not tops and not table.columns.splits:
            return None  # labels alone
        found = open_table(file, name, root=folder)
        return replace(found, left_out=_left_out(found, listing, images))
    return None


def _candidates(folder: Path) -> Iterator[tuple[Path, bool]]:
    """Tables by their names, and whether they are in the folder or beside it."""
    own = (folder.name, f"{folder.name}_labels", f"{folder.name}labels")
    for place, names in ((folder, (*TABLE_NAMES, *own)), (folder.parent, ("labels", *own))):
        for stem in names:
            for suffix in SUFFIXES:
                file = place / f"{stem}{suffix}"
                if file.is_file():
                    yield file, place == folder


def described_tree(source: Source, listing: Listing) -> Tree:
    """What `open_folder_table` found, with its parts by role and the images that it leaves out."""
    found = {
        "train": source.train,
        "val": source.val,
        "test": source.test() if source.test else None,
    }
    parts = {role: part for role, part in found.items() if isinstance(part, FilePart)}
    named = _named(parts.values())
    paths = listing.images().paths
    left_out = {row: UNNAMED for row, path in enumerate(paths) if path not in named}
    return Tree(source, Layout([], left_out=left_out), parts)


def _named(parts: Iterable[Part | None]) -> set[str]:
    named: set[str] = set()
    for part in parts:
        if part is not None and isinstance(part.files, FolderFiles):
            named.update(part.files.paths)
    return named


def _left_out(source: Source, listing: Listing, images: list[str]) -> LeftOut:
    named = _named((source.train, source.val, source.test() if source.test else None))
    left_out = LeftOut()
    left_out.add_all(listing.left_out)
    for path in images:
        if path not in named:
            left_out.add(UNNAMED, path)
    return left_out
