"""Check the annotations of a data set, for `resnets data check`.

Annotations are checked as in training (`problems.check_image_set`), and compared with their
images and class maps.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from resnets.config import DetectSpec
from resnets.data.dataset.probe_split import unread_frames_warning
from resnets.data.errors import DataError
from resnets.data.files.archives import is_archive
from resnets.detect.class_maps.folders import find_class_maps
from resnets.detect.class_maps.scan import MapScan
from resnets.detect.class_maps.source import scan_maps
from resnets.detect.formats.problems import (
    NO_OUTLINE,
    check_image_set,
    find_name_warnings,
    set_stored_sizes,
)
from resnets.detect.formats.records import (
    Problem,
    RawDataset,
    RawImage,
    RawImageSet,
    Task,
    set_role,
)
from resnets.detect.formats.registry import find_formats
from resnets.detect.formats.unread import SUPPORTED, describe_unsupported_files
from resnets.detect.images.sizes import StoredSize, read_sizes
from resnets.detect.images.store import open_store
from resnets.detect.loading.sources import find_source
from resnets.utils.files.csv import write_csv
from resnets.utils.printable import format_count, join_names

Progress = Callable[[Iterable[object], int], Iterable[object]]


@dataclass(frozen=True, eq=False)
class AnnotationReport:
    """The contents of a set and its problems.

    counts: for each image set, number of good images and objects, and images without objects.
    by_kind: number of problems of each kind. notes: how the set was interpreted, a line each.
    warnings: what may be wrong with the set as a whole.
    """

    source: RawDataset
    problems: Sequence[Problem]
    counts: dict[str, dict[str, int]]
    by_kind: Counter[str]
    notes: Sequence[str] = ()
    warnings: Sequence[str] = ()

    def summary(self) -> str:
        """Return one line: numbers of images and objects, and of problems."""
        sets = ", ".join(
            f"{title or 'all'} {format_count(count['images'], 'image')}"
            f" with {format_count(count['objects'], 'object')}"
            for title, count in self.counts.items()
        )
        if not self.problems:
            warnings = format_count(len(self.warnings), "warning")
            result = f"no bad ones, {warnings}" if self.warnings else "nothing wrong"
            return f"{self.source.name}: {sets}; {result}"
        kinds = ", ".join(f"{number:,} {kind}" for kind, number in self.by_kind.most_common())
        return f"{self.source.name}: {sets}; {format_count(len(self.problems), 'problem')}: {kinds}"


@dataclass(frozen=True)
class AnnotationCheck:
    """The problems of the annotations of a data set, with a report for each task.

    refusals: why training refuses them. notes: what was not checked.
    """

    reports: Sequence[AnnotationReport] = ()
    refusals: Sequence[str] = ()
    notes: Sequence[str] = ()

    @property
    def problems(self) -> list[Problem]:
        """All problems; those that both train and trainval have are named once."""
        return list(dict.fromkeys(each for report in self.reports for each in report.problems))

    @property
    def warnings(self) -> list[str]:
        """Warnings about all annotations, without repetitions."""
        return list(dict.fromkeys(text for each in self.reports for text in each.warnings))


def annotation_tasks(where: str, detect: DetectSpec | None = None) -> tuple[Task, ...]:
    """Return the tasks that the folder or archive at `where` has annotations for.

    "instances" (boxes, with outlines or without) and "segment" (class maps); empty for a set of
    plain images, or no set. "segment" is included if `detect` specifies an encoding or folder of
    class maps.
    """
    detect = detect or DetectSpec()
    path = Path(where).expanduser()
    if not path.is_dir() and not is_archive(path):
        return ()
    try:
        store = open_store(where)
    except DataError:  # a set of images in another format, such as CIFAR's
        return ()
    tasks: tuple[Task, ...] = ("instances",) if find_formats(store, detect.format) else ()
    is_stated = detect.class_map or detect.class_map_folder
    return (*tasks, "segment") if is_stated or find_class_maps(store) else tasks


def explain_no_annotations(where: str) -> str:
    """Return why a set has no annotations, with the first file in an unsupported format."""
    try:
        store = open_store(where)
    except DataError:
        return f"no annotations; {SUPPORTED}"
    return f"no annotations; {SUPPORTED}{describe_unsupported_files(store)}"


def check_annotations(
    where: str,
    task: Task,
    *,
    workers: int = 0,
    progress: Progress | None = None,
    detect: DetectSpec | None = None,
) -> AnnotationReport:
    """Check every annotation and the header of every image of the set at `where`.

    Every pixel of class maps is checked, encoded and placed as specified by `detect`.
    `progress(findings, total)` may show progress over images. DataError if there is no such set.
    """
    source = open_full_set(where, task, detect)
    image_sets = {title: source.load(title) for title in source.titles}
    sizes = _read_sizes(source, image_sets.values(), workers, progress)
    image_sets = {
        title: set_stored_sizes(image_set, source.store, sizes)
        for title, image_set in image_sets.items()
    }
    problems: list[Problem] = []
    notes, warnings = list(source.notes), list[str]()
    counts = {}
    for title, image_set in image_sets.items():
        checked = check_image_set(image_set, source.classes, masks=has_outlines(image_set))
        problems += [each for each in checked.problems if each.kind != NO_OUTLINE]
        notes += checked.notes
        warnings += [f"{title}: {each}".removeprefix(": ") for each in checked.warnings]
        if num_without := sum(each.kind == NO_OUTLINE for each in checked.problems):
            notes.append(
                f"{title or 'all'}: {num_without:,} objects without segmentation, for boxes only"
            )
        counts[title] = {
            "images": len(checked.images),
            "objects": sum(len(image.objects) for image in checked.images),
            "empty": sum(not image.objects for image in checked.images),
        }
    images = {image.path: image for image_set in image_sets.values() for image in image_set.images}
    problems += _find_unreadable(images.values())
    if source.coding is not None:
        scan, map_problems = _scan_class_maps(source, images.values())
        problems += map_problems
        notes += scan.lines(limit=256)
        maps = [path for image in images.values() if (path := image.class_map) is not None]
        warnings += unread_frames_warning(source.store.take(maps), np.arange(len(maps)))
        warnings += scan.warnings()
    problems += _find_shared_images(source, image_sets)
    warnings += find_name_warnings(source.classes)
    notes += _note_unused_classes(source, image_sets.values())
    unique = list(dict.fromkeys(problems))  # trainval repeats those of train
    kinds = Counter(each.kind for each in unique)
    return AnnotationReport(
        source, unique, counts, kinds, tuple(dict.fromkeys(notes)), tuple(dict.fromkeys(warnings))
    )


def check_all_annotations(
    where: str,
    tasks: Sequence[Task],
    detect: DetectSpec,
    *,
    workers: int = 0,
    progress: Progress | None = None,
) -> AnnotationCheck:
    """Check the annotations of the set at `where` for each of `tasks`, as `check_annotations`."""
    reports, refusals, notes = [], [], []
    for task in tasks:
        try:
            reports.append(
                check_annotations(where, task, workers=workers, progress=progress, detect=detect)
            )
        except DataError as error:
            if task == "segment" and len(tasks) > 1:
                notes.append(f"class maps are not checked: {error}")
            else:
                refusals.append(str(error))
    return AnnotationCheck(reports, refusals, notes)


def write_problems(problems: Iterable[Problem], path: Path) -> None:
    """Write a CSV file with a row for each problem: file, item, kind, message."""
    rows = ([each.where, each.item, each.kind, each.message] for each in problems)
    write_csv(path, ("file", "item", "kind", "problem"), rows)


def open_full_set(where: str, task: Task, detect: DetectSpec | None = None) -> RawDataset:
    """Open the set with all of its annotations: outlines if its format has them, else boxes."""
    if task == "instances":
        found = find_formats(open_store(where), detect.format if detect else "")
        task = task if found and found[0].format.outlines else "detect"
    return find_source(where, task, detect)


def has_outlines(image_set: RawImageSet) -> bool:
    """Return whether any object has an outline; then all need one."""
    return any(each.segmentation for image in image_set.images for each in image.objects)


def _read_sizes(
    source: RawDataset, image_sets: Iterable[RawImageSet], workers: int, progress: Progress | None
) -> dict[str, StoredSize | str]:
    """Read the size in the header of each image."""
    paths = [
        each.path for image_set in image_sets for each in image_set.images if each.path is not None
    ]
    return read_sizes(source.store, paths, workers, progress)


def _find_unreadable(images: Iterable[RawImage]) -> Iterator[Problem]:
    for image in images:
        if image.unreadable and image.width and image.height:  # reported already otherwise
            yield Problem(image.file, "", "unreadable", image.unreadable)


def _scan_class_maps(
    source: RawDataset, images: Iterable[RawImage]
) -> tuple[MapScan, list[Problem]]:
    """Scan all class maps; also return those that are unreadable or have unknown values."""
    maps = [image.class_map for image in images if image.class_map is not None]
    scan = scan_maps(source, maps, limit=None)
    problems = [
        Problem(name, "", kind, message.removeprefix(f"{name}: "))
        for kind, bad in (
            ("mask", scan.unreadable),
            ("lossy mask", scan.lossy),
            ("category", scan.unknown),
        )
        for name, message in sorted(bad.items())
    ]
    if (error := scan.find_error()) is not None:
        problems.append(Problem(source.store.where, "", "class maps", error))
    return scan, problems


def _find_shared_images(
    source: RawDataset, image_sets: dict[str, RawImageSet]
) -> Iterator[Problem]:
    """Yield images that a test or validation set shares with a training set."""
    titles_by_role: dict[str, dict[str, str]] = defaultdict(dict)  # role -> path -> title
    for title, image_set in image_sets.items():
        role = set_role(title) or ""
        titles_by_role[role].update(
            {each.path: title for each in image_set.images if each.path is not None}
        )
    for first, second in (("train", "test"), ("trainval", "test"), ("train", "val")):
        for path in sorted(titles_by_role[first].keys() & titles_by_role[second].keys()):
            message = f"is in both {titles_by_role[first][path]} and {titles_by_role[second][path]}"
            yield Problem(source.store.display_path(path), "", "in two sets", message)


def _note_unused_classes(source: RawDataset, image_sets: Iterable[RawImageSet]) -> Iterator[str]:
    """Yield a note on classes without an object."""
    images = [image for image_set in image_sets for image in image_set.images]
    used = {each.label for image in images for each in image.objects}
    unused = [name for label, name in enumerate(source.classes) if label not in used]
    if unused and used:
        classes = f"{len(unused):,} class{'es' * (len(unused) > 1)}"
        yield f"{classes} without an object: {join_names(unused, 5)}"
