"""What `resnets data check` finds in a set of annotated images.

Annotations are checked as in training (`problems.check_image_set`), and compared with their
images and class maps.
"""

from __future__ import annotations

import tarfile
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from resnets.config import DetectSpec, atomic_write
from resnets.data.errors import DataError
from resnets.data.files.archives import is_zip
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
from resnets.utils.csv_files import CsvWriter
from resnets.utils.printable import format_count

Watch = Callable[[Iterable[object], int], Iterable[object]]


@dataclass(frozen=True, eq=False)
class AnnotationReport:
    """What a set holds and what is wrong with it, a line each.

    counts: for each image set its images, objects and images without objects, good ones only.
    by_kind: how many problems there are of each kind. notes: what was understood, a line each.
    warnings: what may be wrong although no annotation by itself is.
    """

    source: RawDataset
    problems: Sequence[Problem]
    counts: dict[str, dict[str, int]]
    by_kind: Counter[str]
    notes: Sequence[str] = ()
    warnings: Sequence[str] = ()

    def summary(self) -> str:
        """One line: what was looked at and how much of it is bad."""
        sets = ", ".join(
            f"{title or 'all'} {format_count(count['images'], 'image')}"
            f" with {format_count(count['objects'], 'object')}"
            for title, count in self.counts.items()
        )
        if not self.problems:
            warnings = format_count(len(self.warnings), "warning")
            end = f"no bad ones, {warnings}" if self.warnings else "nothing wrong"
            return f"{self.source.name}: {sets}; {end}"
        kinds = ", ".join(f"{number:,} {kind}" for kind, number in self.by_kind.most_common())
        return f"{self.source.name}: {sets}; {format_count(len(self.problems), 'problem')}: {kinds}"


def annotation_tasks(where: str, detect: DetectSpec | None = None) -> tuple[Task, ...]:
    """What the folder or tar at `where` has annotations for, of "instances" (boxes, with outlines
    or without) and "segment" (class maps); empty for a set of plain images, or no set at all.

    Where `detect` states how class maps are encoded, or their folder, the set has some.
    """
    detect = detect or DetectSpec()
    path = Path(where).expanduser()
    if not path.is_dir() and not is_zip(path) and not tarfile.is_tarfile(path):
        return ()
    try:
        store = open_store(where)
    except DataError:  # a set of images in a form of its own, such as CIFAR's
        return ()
    objects: tuple[Task, ...] = ("instances",) if find_formats(store, detect.format) else ()
    stated = detect.class_map or detect.class_map_folder
    return (*objects, "segment") if stated or find_class_maps(store) else objects


def why_none(where: str) -> str:
    """Why a set has no annotations, with the first file in a form that is not read."""
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
    watch: Watch | None = None,
    detect: DetectSpec | None = None,
) -> AnnotationReport:
    """Look at every annotation and at the header of every image of the set at `where`.

    Of class maps, encoded and placed as `detect` says, every pixel is looked at.
    `watch(findings, total)` may show progress over images. DataError where there is no such set.
    """
    source = with_all(where, task, detect)
    parts = {title: source.load(title) for title in source.titles}
    sizes = _sizes(source, parts.values(), workers, watch)
    parts = {title: set_stored_sizes(part, source.store, sizes) for title, part in parts.items()}
    problems: list[Problem] = []
    notes, warnings = list(source.notes), list[str]()
    counts = {}
    for title, part in parts.items():
        checked = check_image_set(part, source.classes, masks=outlined(part))
        problems += [each for each in checked.problems if each.kind != NO_OUTLINE]
        notes += checked.notes
        warnings += [f"{title}: {each}".removeprefix(": ") for each in checked.warnings]
        if bare := sum(each.kind == NO_OUTLINE for each in checked.problems):
            notes.append(f"{title or 'all'}: {bare:,} objects without outline, for boxes only")
        counts[title] = {
            "images": len(checked.images),
            "objects": sum(len(image.objects) for image in checked.images),
            "empty": sum(not image.objects for image in checked.images),
        }
    images = {image.path: image for part in parts.values() for image in part.images}
    problems += _unreadable(images.values())
    if source.coding is not None:
        scan, found = _scan(source, images.values())
        problems += found
        notes += scan.lines(most=256)
        warnings += scan.warnings()
    problems += _shared_images(source, parts)
    warnings += find_name_warnings(source.classes)
    notes += _class_notes(source, parts.values())
    unique = list(dict.fromkeys(problems))  # trainval says again what train said
    kinds = Counter(each.kind for each in unique)
    return AnnotationReport(
        source, unique, counts, kinds, tuple(dict.fromkeys(notes)), tuple(dict.fromkeys(warnings))
    )


def write_problems(problems: Iterable[Problem], path: Path) -> None:
    """Write a CSV of file, item, kind and what is wrong, a row for each problem."""
    with (
        atomic_write(path) as temporary,
        temporary.open("w", encoding="utf-8", errors="surrogateescape", newline="") as file,
    ):
        writer = CsvWriter(file)
        writer.writerow(["file", "item", "kind", "problem"])
        writer.writerows([each.where, each.item, each.kind, each.message] for each in problems)


def with_all(where: str, task: Task, detect: DetectSpec | None = None) -> RawDataset:
    """The set with all that it has: outlines where its form has them, else boxes."""
    if task == "instances":
        found = find_formats(open_store(where), detect.format if detect else "")
        task = task if found and found[0].format.outlines else "detect"
    return find_source(where, task, detect)


def outlined(part: RawImageSet) -> bool:
    """Whether any object has an outline; then all need one."""
    return any(each.segmentation for image in part.images for each in image.objects)


def _sizes(
    source: RawDataset, parts: Iterable[RawImageSet], workers: int, watch: Watch | None
) -> dict[str, StoredSize | str]:
    """What the header of each image says."""
    paths = [each.path for part in parts for each in part.images if each.path is not None]
    return read_sizes(source.store, paths, workers, watch)


def _unreadable(images: Iterable[RawImage]) -> Iterator[Problem]:
    for image in images:
        if image.unreadable and image.width and image.height:  # said already where not
            yield Problem(image.file, "", "unreadable", image.unreadable)


def _scan(source: RawDataset, images: Iterable[RawImage]) -> tuple[MapScan, list[Problem]]:
    """What all class maps hold, and those that cannot be read or have values of no class."""
    maps = [image.class_map for image in images if image.class_map is not None]
    scan = scan_maps(source, maps, limit=None)
    found = [
        Problem(name, "", kind, message.removeprefix(f"{name}: "))
        for kind, bad in (
            ("mask", scan.unreadable),
            ("lossy mask", scan.lossy),
            ("category", scan.unknown),
        )
        for name, message in sorted(bad.items())
    ]
    if (wrong := scan.find_error()) is not None:
        found.append(Problem(source.store.where, "", "class maps", wrong))
    return scan, found


def _shared_images(source: RawDataset, parts: dict[str, RawImageSet]) -> Iterator[Problem]:
    """Images that a test or validation set shares with a training set."""
    seen: dict[str, dict[str, str]] = defaultdict(dict)  # role -> path -> title
    for title, part in parts.items():
        role = set_role(title) or ""
        seen[role].update({each.path: title for each in part.images if each.path is not None})
    for one, other in (("train", "test"), ("trainval", "test"), ("train", "val")):
        for path in sorted(seen[one].keys() & seen[other].keys()):
            message = f"is in both {seen[one][path]} and {seen[other][path]}"
            yield Problem(source.store.display_path(path), "", "in two sets", message)


def _class_notes(source: RawDataset, parts: Iterable[RawImageSet]) -> Iterator[str]:
    """Classes that no object is of."""
    images = [image for part in parts for image in part.images]
    used = {each.label for image in images for each in image.objects}
    unused = [name for label, name in enumerate(source.classes) if label not in used]
    if unused and used:
        more = f" and {len(unused) - 5} more" if len(unused) > 5 else ""
        classes = f"{len(unused):,} class{'es' * (len(unused) > 1)}"
        yield f"{classes} without an object: {', '.join(unused[:5])}{more}"
