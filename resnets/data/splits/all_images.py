"""Every image of a stored set, in one split: for what needs no classes and no held-out shares.

Class folders, parts and label files name classes where they can; whatever else lies below a folder
(images in no class folder, one class alone, any nesting, an unlabelled test/) is there too, without
a class.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from resnets.config import DataSpec
from resnets.data.dataset.image_probe import probe_images
from resnets.data.dataset.labeled_images import FileSplit, Split, TensorSplit
from resnets.data.dataset.quarantine import Quarantine
from resnets.data.dataset.source import ArrayPart, Part, Source
from resnets.data.dataset.summary import DataSummary, SplitSummary, summarize_images
from resnets.data.errors import DataError
from resnets.data.files.archives import list_archive
from resnets.data.files.folder import Files, FolderFiles, Listing
from resnets.data.files.walk import LeftOut, walk_unlabeled
from resnets.data.layout.folder_layout import MASKS, NO_LABELS, STRAY
from resnets.data.sources.open import find_source


@dataclass(frozen=True, eq=False)
class JoinedFiles:
    """Several `Files` one after the other; `rows`, numbers in that order, are those that count."""

    each: Sequence[Files]
    rows: NDArray[np.int64]

    @classmethod
    def of(cls, each: Sequence[Files]) -> JoinedFiles:
        """All files of `each`."""
        return cls(each, np.arange(sum(map(len, each))))

    def __len__(self) -> int:
        """How many there are."""
        return len(self.rows)

    def name(self, index: int) -> str:
        """What messages call the image."""
        files, row = self._find(index)
        return files.name(row)

    def read(self, index: int) -> bytes | memoryview:
        """The encoded bytes; DataError when they cannot be had."""
        files, row = self._find(index)
        return files.read(row)

    def take(self, rows: NDArray[np.int64]) -> JoinedFiles:
        """The files of `rows`, renumbered from 0."""
        return JoinedFiles(self.each, self.rows[rows])

    def _find(self, index: int) -> tuple[Files, int]:
        row = int(self.rows[index])
        for files in self.each:
            if row < len(files):
                return files, row
            row -= len(files)
        raise IndexError(index)


def open_all(spec: DataSpec) -> Split:
    """All images of `spec.source` with their classes where they have any (label -1 where not).

    In the order of their parts and paths; those in quarantine are left out. A sample of them is
    compared with `spec.value_range`. DataError where there are none.
    """
    try:
        source = find_source(replace(spec, streaming=False))
    except DataError as error:
        loose = _unlabeled(spec)
        if loose is None:
            raise
        without = f"{loose.description} without classes ({error})"
        return _probed(replace(loose, description=without), spec)
    parts = [source.train, source.val, source.test() if source.test else None]
    return _probed(_joined(source, [part for part in parts if part is not None], spec), spec)


def _probed(split: Split, spec: DataSpec) -> Split:
    """The split with warnings of what a sample of its images holds."""
    if not isinstance(split, FileSplit) or split.summary is None:
        return split
    found = probe_images(split.files, np.arange(len(split)), spec.value_range).warnings
    summary = replace(split.summary, warnings=(*split.summary.warnings, *found))
    return replace(split, summary=summary)


def open_unlabeled(source: str) -> FileSplit | None:
    """Every image of a folder or archive, whatever folders they are in, without classes.

    None for any other source, or where there are none.
    """
    return _unlabeled(DataSpec(source=source))


def _unlabeled(spec: DataSpec) -> FileSplit | None:
    path = Path(spec.source).expanduser()
    files: Files
    left_out = LeftOut()
    if path.is_dir():
        files = FolderFiles(path, list(walk_unlabeled(path, left_out)))
    elif path.is_file() and (listing := _listing(path)) is not None:
        files, left_out = listing.files, listing.left_out
    else:
        return None
    if not len(files):
        return None
    kept = Quarantine.of(spec).keep(files, np.arange(len(files)))
    return FileSplit(
        files.take(kept),
        torch.full((len(kept),), -1),
        (),
        _described(path.resolve().name, len(kept), len(files)),
        summary=summarize_images(path.resolve().name, len(kept), left_out),
    )


def _listing(archive: Path) -> Listing | None:
    try:
        return list_archive(archive).images()
    except DataError:
        return None


def _joined(source: Source, parts: Sequence[Part], spec: DataSpec) -> Split:
    if any(part.files is None for part in parts):
        return _pixels(source, parts)
    quarantine = Quarantine.of(spec)
    files: list[Files] = []
    labels = []
    for part in parts:
        assert part.files is not None
        rows = quarantine.keep(part.files, np.arange(len(part.labels)))
        files.append(part.files.take(rows))
        labels.append(part.labels[rows])
    beside = _beside(spec, files, quarantine)
    if beside is not None:
        files.append(beside)
        none = 0 if source.multilabel else -1
        labels.append(np.full((len(beside), *labels[0].shape[1:]), none, labels[0].dtype))
    joined = JoinedFiles.of(files)
    total = sum(len(part.labels) for part in parts) + (0 if beside is None else len(beside))
    about = _described(source.name, len(joined), total)
    if beside is not None:
        about += f", {len(beside):,} of them in no class"
    every = SplitSummary("images", len(joined), "all splits, with a class or without")
    left_out = source.left_out.without((STRAY, MASKS, NO_LABELS) if beside is not None else ())
    summary = DataSummary(
        source.name,
        source.classes,
        [every],
        None,
        left_out.parts(),
        left_out.links,
        source.notes,
        warnings=source.warnings,
    )
    given = torch.from_numpy(np.concatenate(labels))
    return FileSplit(joined, given, source.classes, about, summary=summary)


def _pixels(source: Source, parts: Sequence[Part]) -> TensorSplit:
    arrays = [part for part in parts if isinstance(part, ArrayPart)]
    assert len(arrays) == len(parts)
    images = torch.from_numpy(np.concatenate([part.images for part in arrays]))
    labels = torch.from_numpy(np.concatenate([part.labels for part in arrays]))
    return TensorSplit(images, labels, source.classes, _described(source.name, len(labels)))


def _beside(spec: DataSpec, files: Sequence[Files], quarantine: Quarantine) -> FolderFiles | None:
    """Images of a folder that none of its parts has."""
    root = Path(spec.source).expanduser()
    if not root.is_dir() or not all(isinstance(each, FolderFiles) for each in files):
        return None
    known = {each.name(row) for each in files for row in range(len(each))}
    others = [path for path in walk_unlabeled(root) if str(root / path) not in known]
    if quarantine.paths:
        listed = quarantine.listed(others).tolist()
        others = [path for path, out in zip(others, listed, strict=True) if not out]
    return FolderFiles(root, others) if others else None


def _described(name: str, kept: int, total: int | None = None) -> str:
    out = (kept if total is None else total) - kept
    return f"{name}, all {kept:,} images" + (f" ({out:,} in quarantine)" if out else "")
