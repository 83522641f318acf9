"""All images of a stored set as one split, for uses that need neither classes nor held-out shares.

Images get classes from class folders, parts and label files where possible. All other images below
a folder (in no class folder, in one class alone, in any nesting, in an unlabeled test/) are
included without a class.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from resnets.config import DataSpec
from resnets.data.dataset.labeled_images import FileSplit, Split, TensorSplit
from resnets.data.dataset.probe_split import probe_images
from resnets.data.dataset.quarantine_list import Quarantine
from resnets.data.dataset.source import ArrayPart, Part, Source
from resnets.data.dataset.summary import DataSummary, SplitSummary, summarize_images
from resnets.data.errors import DataError
from resnets.data.files.archives import list_archive
from resnets.data.files.folder import Files, FolderFiles, Listing
from resnets.data.files.walk import SkippedFiles, walk_unlabeled
from resnets.data.layout.folder_layout import MASKS, NO_CLASS_FOLDER, NO_LABELS
from resnets.data.sources.open import find_source


@dataclass(frozen=True, eq=False)
class ConcatFiles:
    """Several `Files` concatenated.

    rows: indices of the used files in the concatenation.
    """

    parts: Sequence[Files]
    rows: NDArray[np.int64]

    @classmethod
    def of(cls, parts: Sequence[Files]) -> ConcatFiles:
        """Concatenate all files of `parts`."""
        return cls(parts, np.arange(sum(map(len, parts))))

    def __len__(self) -> int:
        """Return the number of files."""
        return len(self.rows)

    def name(self, index: int) -> str:
        """Return the name of an image for messages."""
        files, row = self._locate(index)
        return files.name(row)

    def read(self, index: int) -> bytes | memoryview:
        """Return the encoded bytes; raise DataError if they cannot be read."""
        files, row = self._locate(index)
        return files.read(row)

    def take(self, rows: NDArray[np.int64]) -> ConcatFiles:
        """Return the files of `rows`, renumbered from 0."""
        return ConcatFiles(self.parts, self.rows[rows])

    def _locate(self, index: int) -> tuple[Files, int]:
        row = int(self.rows[index])
        for files in self.parts:
            if row < len(files):
                return files, row
            row -= len(files)
        raise IndexError(index)


def open_all(spec: DataSpec) -> Split:
    """Open all images of `spec.source` with their classes, label -1 (or an empty set) without.

    Images are in the order of their parts and paths, without those in quarantine. A sample of them
    is compared with `spec.value_range`. Raises DataError if there are no images.
    """
    try:
        source = find_source(replace(spec, streaming=False))
    except DataError as error:
        unlabeled = _open_unlabeled(spec)
        if unlabeled is None:
            raise
        description = f"{unlabeled.description} without classes ({error})"
        return _with_probe_warnings(replace(unlabeled, description=description), spec)
    parts = [source.train, source.val, source.test() if source.test else None]
    return _with_probe_warnings(
        _concat_parts(source, [part for part in parts if part is not None], spec), spec
    )


def _with_probe_warnings(split: Split, spec: DataSpec) -> Split:
    """Return the split with warnings about a sample of its images."""
    if not isinstance(split, FileSplit) or split.summary is None:
        return split
    found = probe_images(split.files, np.arange(len(split)), spec.value_range).warnings
    summary = replace(split.summary, warnings=(*split.summary.warnings, *found))
    return replace(split, summary=summary)


def open_unlabeled(source: str) -> FileSplit | None:
    """Open every image of a folder or archive without classes, whatever folder it is in.

    Returns None for any other source, or if there are no images.
    """
    return _open_unlabeled(DataSpec(source=source))


def _open_unlabeled(spec: DataSpec) -> FileSplit | None:
    path = Path(spec.source).expanduser()
    files: Files
    skipped = SkippedFiles()
    if path.is_dir():
        files = FolderFiles(path, list(walk_unlabeled(path, skipped)))
    elif path.is_file() and (listing := _list_images(path)) is not None:
        files, skipped = listing.files, listing.skipped
    else:
        return None
    if not len(files):
        return None
    kept = Quarantine.of(spec).filter_rows(files, np.arange(len(files)))
    return FileSplit(
        files.take(kept),
        torch.full((len(kept),), -1),
        (),
        _describe(path.resolve().name, len(kept), len(files)),
        summary=summarize_images(path.resolve().name, len(kept), skipped),
    )


def _list_images(archive: Path) -> Listing | None:
    try:
        return list_archive(archive).images()
    except DataError:
        return None


def _concat_parts(source: Source, parts: Sequence[Part], spec: DataSpec) -> Split:
    if any(part.files is None for part in parts):
        return _concat_arrays(source, parts)
    quarantine = Quarantine.of(spec)
    files: list[Files] = []
    labels = []
    for part in parts:
        assert part.files is not None
        rows = quarantine.filter_rows(part.files, np.arange(len(part.labels)))
        files.append(part.files.take(rows))
        labels.append(part.labels[rows])
    remaining = _find_remaining_images(spec, files, quarantine)
    if remaining is not None:
        files.append(remaining)
        no_label = 0 if source.multilabel else -1
        labels.append(np.full((len(remaining), *labels[0].shape[1:]), no_label, labels[0].dtype))
    joined = ConcatFiles.of(files)
    total = sum(len(part.labels) for part in parts) + (0 if remaining is None else len(remaining))
    description = _describe(source.name, len(joined), total)
    if remaining is not None:
        description += f", {len(remaining):,} of them in no class"
    all_images = SplitSummary("images", len(joined), "all splits, with a class or without")
    skipped = source.skipped.without(
        (NO_CLASS_FOLDER, MASKS, NO_LABELS) if remaining is not None else ()
    )
    summary = DataSummary(
        source.name,
        source.classes,
        [all_images],
        None,
        skipped.parts(),
        skipped.links,
        source.notes,
        warnings=source.warnings,
    )
    all_labels = torch.from_numpy(np.concatenate(labels))
    return FileSplit(joined, all_labels, source.classes, description, summary=summary)


def _concat_arrays(source: Source, parts: Sequence[Part]) -> TensorSplit:
    arrays = [part for part in parts if isinstance(part, ArrayPart)]
    assert len(arrays) == len(parts)
    images = torch.from_numpy(np.concatenate([part.images for part in arrays]))
    labels = torch.from_numpy(np.concatenate([part.labels for part in arrays]))
    return TensorSplit(images, labels, source.classes, _describe(source.name, len(labels)))


def _find_remaining_images(
    spec: DataSpec, files: Sequence[Files], quarantine: Quarantine
) -> FolderFiles | None:
    """Return the images of a folder that are in none of its parts; None if there are none."""
    root = Path(spec.source).expanduser()
    if not root.is_dir() or not all(isinstance(each, FolderFiles) for each in files):
        return None
    known = {each.name(row) for each in files for row in range(len(each))}
    others = [path for path in walk_unlabeled(root) if str(root / path) not in known]
    if quarantine.paths:
        listed = quarantine.is_listed(others).tolist()
        others = [path for path, is_listed in zip(others, listed, strict=True) if not is_listed]
    return FolderFiles(root, others) if others else None


def _describe(name: str, num_kept: int, num_total: int | None = None) -> str:
    num_quarantined = (num_kept if num_total is None else num_total) - num_kept
    return f"{name}, all {num_kept:,} images" + (
        f" ({num_quarantined:,} in quarantine)" if num_quarantined else ""
    )
