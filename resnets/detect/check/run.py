"""What `resnets data check` finds in a set of annotated images.

Annotations are judged as training judges them (`problems.check_part`), and their images and class
maps are held against them.
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
from resnets.data.layout.folder_names import role_within
from resnets.detect.class_maps.folders import find_semantic
from resnets.detect.class_maps.scan import MapScan
from resnets.detect.class_maps.source import scan_maps
from resnets.detect.formats.problems import NO_OUTLINE, check_part, same_but_case, with_sizes
from resnets.detect.formats.records import Problem, RawPart, RawPicture, RawSource, Task
from resnets.detect.formats.registry import offers
from resnets.detect.formats.unread import EXPECTED, foreign_annotations
from resnets.detect.images.sizes import StoredSize, read_sizes
from resnets.detect.images.store import open_store
from resnets.detect.loading.sources import find_source
from resnets.utils.csv_files import CsvWriter
from resnets.utils.terminal import counted

Watch = Callable[[Iterable[object], int], Iterable[object]]


@dataclass(frozen=True, eq=False)
class AnnotationReport:
    """What a set holds and what is wrong with it, a line each.

    counts: for each image set its images, objects and images without objects, good ones only.
    by_kind: how many problems there are of each kind. notes: what was understood, a line each.
    warnings: what may be wrong although no annotation by itself is.
    """

    source: RawSource
    problems: Sequence[Problem]
    counts: dict[str, dict[str, int]]
    by_kind: Counter[str]
    notes: Sequence[str] = ()
    warnings: Sequence[str] = ()

    def summary(self) -> str:
        """One line: what was looked at and how much of it is bad."""
        sets = ", ".join(
            f"{title or 'all'} {counted(count['images'], 'image')}"
            f" with {counted(count['objects'], 'object')}"
            for title, count in self.counts.items()
        )
        if not self.problems:
            warnings = counted(len(self.warnings), "warning")
            end = f"no bad ones, {warnings}" if self.warnings else "nothing wrong"
            return f"{self.source.name}: {sets}; {end}"
        kinds = ", ".join(f"{number:,} {kind}" for kind, number in self.by_kind.most_common())
        return f"{self.source.name}: {sets}; {counted(len(self.problems), 'problem')}: {kinds}"


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
    except DataError:  # a set of pictures in a form of its own, such as CIFAR's
        return ()
    objects: tuple[Task, ...] = ("instances",) if offers(store) else ()
    stated = detect.class_map or detect.class_map_folder
    return (*objects, "segment") if stated or find_semantic(store) else objects


def why_none(where: str) -> str:
    """Why a set has no annotations, with the first file in a form that is not read."""
    try:
        store = open_store(where)
    except DataError:
        return f"no annotations; {EXPECTED}"
    return f"no annotations; {EXPECTED}{foreign_annotations(store)}"


def check_annotations(
    where: str,
    task: Task,
    *,
    workers: int = 0,
    watch: Watch | None = None,
    detect: DetectSpec | None = None,
) -> AnnotationReport:
    """Look at every annotation and at the header of every picture of the set at `where`.

    Of class maps, encoded and placed as `detect` says, every pixel is looked at.
    `watch(findings, total)` may show progress over pictures. DataError where there is no such set.
    """
    source = with_all(where, task, detect)
    parts = {title: source.load(title) for title in source.titles}
    sizes = _sizes(source, parts.values(), workers, watch)
    parts = {title: with_sizes(part, source.store, sizes) for title, part in parts.items()}
    problems: list[Problem] = []
    notes, warnings = list(source.notes), list[str]()
    counts = {}
    for title, part in parts.items():
        checked = check_part(part, source.classes, masks=outlined(part))
        problems += [each for each in checked.problems if each.kind != NO_OUTLINE]
        notes += checked.notes
        warnings += [f"{title}: {each}".removeprefix(": ") for each in checked.warnings]
        if bare := sum(each.kind == NO_OUTLINE for each in checked.problems):
            notes.append(f"{title or 'all'}: {bare:,} objects without outline, for boxes only")
        counts[title] = {
            "images": len(checked.pictures),
            "objects": sum(len(picture.objects) for picture in checked.pictures),
            "empty": sum(not picture.objects for picture in checked.pictures),
        }
    pictures = {picture.path: picture for part in parts.values() for picture in part.pictures}
    problems += _unreadable(pictures.values())
    if source.coding is not None:
        scan, found = _scan(source, pictures.values())
        problems += found
        notes += scan.lines(most=256)
        warnings += scan.warnings()
    problems += _shared_pictures(source, parts)
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
        writer.writerows([each.where, each.item, each.kind, each.said] for each in problems)


def with_all(where: str, task: Task, detect: DetectSpec | None = None) -> RawSource:
    """The set with all that it has: outlines where its form has them, else boxes."""
    if task == "instances":
        found = offers(open_store(where))
        task = task if found and found[0].format.outlines else "detect"
    return find_source(where, task, detect)


def outlined(part: RawPart) -> bool:
    """Whether any object has an outline; then all need one."""
    return any(each.segmentation for picture in part.pictures for each in picture.objects)


def _sizes(
    source: RawSource, parts: Iterable[RawPart], workers: int, watch: Watch | None
) -> dict[str, StoredSize | str]:
    """What the header of each image says."""
    paths = [each.path for part in parts for each in part.pictures if each.path is not None]
    return read_sizes(source.store, paths, workers, watch)


def _unreadable(pictures: Iterable[RawPicture]) -> Iterator[Problem]:
    for picture in pictures:
        if picture.unreadable and picture.width and picture.height:  # said already where not
            yield Problem(picture.file, "", "unreadable", picture.unreadable)


def _scan(source: RawSource, pictures: Iterable[RawPicture]) -> tuple[MapScan, list[Problem]]:
    """What all class maps hold, and those that cannot be read or have values of no class."""
    maps = [picture.class_map for picture in pictures if picture.class_map is not None]
    scan = scan_maps(source, maps, limit=None)
    found = [
        Problem(name, "", kind, said.removeprefix(f"{name}: "))
        for kind, bad in (
            ("mask", scan.unreadable),
            ("lossy mask", scan.lossy),
            ("category", scan.unknown),
        )
        for name, said in sorted(bad.items())
    ]
    if (wrong := scan.suspicious()) is not None:
        found.append(Problem(source.store.where, "", "class maps", wrong))
    return scan, found


def _shared_pictures(source: RawSource, parts: dict[str, RawPart]) -> Iterator[Problem]:
    """Images that a test or validation set shares with a training set."""
    seen: dict[str, dict[str, str]] = defaultdict(dict)  # role -> path -> title
    for title, part in parts.items():
        role = role_within(title.rpartition(":")[2]) or ""
        seen[role].update({each.path: title for each in part.pictures if each.path is not None})
    for one, other in (("train", "test"), ("trainval", "test"), ("train", "val")):
        for path in sorted(seen[one].keys() & seen[other].keys()):
            said = f"is in both {seen[one][path]} and {seen[other][path]}"
            yield Problem(source.store.called(path), "", "in two sets", said)


def _class_notes(source: RawSource, parts: Iterable[RawPart]) -> Iterator[str]:
    """Classes that no object is of, and those whose names differ by case only."""
    pictures = [picture for part in parts for picture in part.pictures]
    used = {each.label for picture in pictures for each in picture.objects}
    unused = [name for label, name in enumerate(source.classes) if label not in used]
    if unused and used:
        more = f" and {len(unused) - 5} more" if len(unused) > 5 else ""
        yield f"{len(unused):,} classes without an object: {', '.join(unused[:5])}{more}"
    yield from same_but_case(source.classes)
