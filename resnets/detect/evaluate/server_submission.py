"""Images without annotations, and result files for test servers.

COCO's server expects one JSON file with the ids of `image_info_<set>.json`; VOC's server a text
file per class, `comp4_det_<set>_<class>.txt`.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from resnets.config import ConfigError, dump_json
from resnets.data.dataset.summary import DataSummary, summarize_images
from resnets.data.errors import DataError
from resnets.data.files.walk import SkippedFiles
from resnets.detect.data.documents import parse_json
from resnets.detect.data.types import Detections, DetectionSplit, Target
from resnets.detect.data.values import read_id, read_name
from resnets.detect.evaluate.write import coco_results
from resnets.detect.formats.coco.objects import to_result_id
from resnets.detect.formats.voc.lists import find_lists
from resnets.detect.images.index import ImageIndex
from resnets.detect.images.path_matching import ImageReference, is_in_image_folder
from resnets.detect.images.store import Store, open_store
from resnets.utils.files.write import atomic_write

LIST_FOLDER = "ImageSets/Main"


@dataclass(frozen=True, eq=False)
class Unlabeled:
    """A data set without annotations: its targets have no objects. voc: for VOC's server."""

    split: DetectionSplit
    title: str
    voc: bool

    @property
    def summary(self) -> DataSummary:
        """Summary of the data set."""
        return summarize_images(self.title, len(self.split), SkippedFiles())


def open_unlabeled(where: str, title: str, classes: Sequence[str]) -> Unlabeled:
    """Open the images of the set `title`: image_info_<title>.json, a list of VOC's, or a folder.

    Categories are matched to `classes` by name. Raises DataError if there is no such set, or images
    are missing.
    """
    store = open_store(where)
    for path in store.find_files("", ".json"):
        stem = PurePosixPath(path).stem
        if title in (stem, stem.removeprefix("image_info_"), stem.removeprefix("instances_")):
            return _open_json(store, path, title, classes)
    lists = find_lists(store, LIST_FOLDER)
    if title in lists:
        entries = [ImageReference((_image_path(stem),), "", "JPEGImages") for stem in lists[title]]
        ids = [PurePosixPath(stem).name for stem in lists[title]]
        return Unlabeled(_match_images(store, entries, ids, title, classes, None), title, True)
    image_paths = filter(is_in_image_folder, ImageIndex.of(store).paths)
    images = [path for path in image_paths if title in PurePosixPath(path).parts[:-1]]
    if not images:
        raise DataError(
            f"{where}: no image set {title}: neither annotations, image_info_{title}.json, a list"
            f" {LIST_FOLDER}/{title}.txt, nor a folder {title}/ with images"
        )
    ids = [posixpath.splitext(PurePosixPath(path).name)[0] for path in images]
    if len(set(ids)) < len(ids):
        ids = [posixpath.splitext(path)[0] for path in images]
    return Unlabeled(_make_split(store, images, ids, title, classes, None), title, False)


def save_results(unlabeled: Unlabeled, found: Sequence[Detections], out: Path) -> list[Path]:
    """Write detections to `out` in the format of the set's server; return the files."""
    out.mkdir(parents=True, exist_ok=True)
    split = unlabeled.split
    ids = [target.image_id for target in split.targets]
    if not unlabeled.voc:
        path = out / "detections.json"
        dump_json(coco_results(ids, found, split.category_ids), path, indent=None)
        return [path]
    paths = []
    for label, name in enumerate(split.classes):
        path = out / f"comp4_det_{unlabeled.title.rpartition(':')[2]}_{_safe_name(name)}.txt"
        lines = [
            line
            for image_id, each in zip(ids, found, strict=True)
            for line in _voc_lines(image_id, each, label)
        ]
        with atomic_write(path) as temporary:
            temporary.write_text("".join(lines), encoding="utf-8")
        paths.append(path)
    return paths


def _voc_lines(image_id: int | str, found: Detections, label: int) -> list[str]:
    """Return VOC's lines: image, score and corners, counted from 1 with the last pixel included."""
    lines = []
    for index in np.flatnonzero(np.asarray(found["labels"]) == label).tolist():
        left, top, right, bottom = np.asarray(found["boxes"], np.float64)[index].tolist()
        box = f"{left + 1:.2f} {top + 1:.2f} {right:.2f} {bottom:.2f}"
        lines.append(f"{image_id} {float(found['scores'][index]):.6f} {box}\n")
    return lines


def _open_json(store: Store, path: str, title: str, classes: Sequence[str]) -> Unlabeled:
    where = store.display_path(path)
    document = parse_json(store.read(path), where)
    parts = [
        document.get(key) if isinstance(document, dict) else None
        for key in ("images", "categories")
    ]
    lists = [each for each in parts if isinstance(each, list)]
    if len(lists) < 2 or not all(isinstance(each, dict) for part in lists for each in part):
        raise DataError(f"{where}: needs lists called images and categories")
    if document.get("annotations"):
        raise DataError(f"{where}: has annotations, but they are not read as those of {title}")
    images, categories = lists
    entries = [
        ImageReference((read_name(each.get("file_name")) or "?",), path, title) for each in images
    ]
    ids = [each.get("id") for each in images]
    if any(read_id(each) is None for each in ids):
        raise DataError(f"{where}: images: one has no id")
    numbers: dict[str, Any] = {
        read_name(e.get("name")): to_result_id(e.get("id")) for e in categories
    }
    split = _match_images(
        store, entries, [to_result_id(each) for each in ids], title, classes, numbers
    )
    return Unlabeled(split, title, False)


def _match_images(
    store: Store,
    entries: Sequence[ImageReference],
    ids: Sequence[int | str],
    title: str,
    classes: Sequence[str],
    numbers: dict[str, Any] | None,
) -> DetectionSplit:
    matches = ImageIndex.of(store).match(list(entries))
    missing = [e.names[0] for e, match in zip(entries, matches, strict=True) if match.path is None]
    if missing:
        raise DataError(
            f"{store.where}: {len(missing):,} images of {title} are missing, such as {missing[0]};"
            " a result file needs all"
        )
    paths = [match.path for match in matches if match.path is not None]
    return _make_split(store, paths, ids, title, classes, numbers)


def _make_split(
    store: Store,
    paths: Sequence[str],
    ids: Sequence[int | str],
    title: str,
    classes: Sequence[str],
    numbers: dict[str, Any] | None,
) -> DetectionSplit:
    if numbers is None:
        category_ids: tuple[Any, ...] = tuple(range(1, len(classes) + 1))
    else:
        category_ids = tuple(numbers.get(name) for name in classes)
    num_shared = sum(number is not None for number in category_ids)
    if not num_shared:
        names = ", ".join(list(numbers or {})[:5])
        raise ConfigError(f"{store.where}: {title}: the model knows none of its classes ({names})")
    note = "" if num_shared == len(classes) else f", {num_shared} of {len(classes)} classes"
    return DetectionSplit(
        files=store.take(list(paths)),
        targets=[_empty_target(image_id) for image_id in ids],
        classes=tuple(classes),
        description=f"{store.name} {title}, {len(paths):,} images without ground truth{note}",
        category_ids=category_ids,
    )


def _empty_target(image_id: int | str) -> Target:
    none = np.zeros(0, np.float32)
    return Target(
        boxes=none.reshape(0, 4),
        labels=np.zeros(0, np.int64),
        crowd=np.zeros(0, np.bool_),
        difficult=np.zeros(0, np.bool_),
        areas=none,
        masks=None,
        semantic=None,
        image_id=image_id,
        width=0,
        height=0,
    )


def _image_path(stem: str) -> str:
    return stem.replace("Annotations/", "JPEGImages/")


def _safe_name(name: str) -> str:
    return re.sub(r"[^\w.-]", "_", name)
