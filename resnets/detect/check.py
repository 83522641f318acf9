"""What `resnets data check` finds in a set of annotated pictures, and its repair.

Annotations are judged as training judges them (`problems.check_part`), and their pictures and class
maps are held against them. A repair writes new annotation files and never touches the set.
"""

from __future__ import annotations

import tarfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from resnets.config import ConfigError, dump_json, whole_file
from resnets.config.csv_files import CsvWriter
from resnets.data.decode import picture_header
from resnets.data.errors import DataError
from resnets.data.memory import cores
from resnets.detect.coco import find_coco
from resnets.detect.masks import to_run
from resnets.detect.problems import check_part
from resnets.detect.records import Problem, RawPart, RawPicture, RawSource
from resnets.detect.semantic import find_semantic
from resnets.detect.sources import Task, find_source, to_target
from resnets.detect.store import open_store
from resnets.detect.types import IGNORE, ClassMap
from resnets.detect.voc import find_voc

Watch = Callable[[Iterable[list[Problem]], int], Iterable[list[Problem]]]


@dataclass(frozen=True, eq=False)
class AnnotationReport:
    """What a set holds and what is wrong with it, a line each.

    counts: for each image set its pictures, objects and pictures without objects, good ones only.
    by_kind: how many problems there are of each kind.
    """

    source: RawSource
    problems: Sequence[Problem]
    counts: dict[str, dict[str, int]]
    by_kind: Counter[str]

    def summary(self) -> str:
        """One line: what was looked at and how much of it is bad."""
        sets = ", ".join(
            f"{title or 'all'} {count['pictures']:,} pictures with {count['objects']:,} objects"
            for title, count in self.counts.items()
        )
        if not self.problems:
            return f"{self.source.name}: {sets}; nothing wrong"
        kinds = ", ".join(f"{number:,} {kind}" for kind, number in self.by_kind.most_common())
        return f"{self.source.name}: {sets}; {len(self.problems):,} problems: {kinds}"


def annotation_tasks(where: str) -> tuple[Task, ...]:
    """What the folder or tar at `where` has annotations for, of "instances" (boxes, with outlines
    or without) and "segment" (class maps); empty for a set of plain pictures, or no set at all."""
    path = Path(where).expanduser()
    if not path.is_dir() and not tarfile.is_tarfile(path):
        return ()
    try:
        store = open_store(where)
    except DataError:  # a set of pictures in a form of its own, such as CIFAR's
        return ()
    objects: tuple[Task, ...] = ("instances",) if find_coco(store) or find_voc(store) else ()
    return (*objects, "segment") if find_semantic(store) else objects


def check_annotations(
    where: str, task: Task, *, workers: int = 0, watch: Watch | None = None
) -> AnnotationReport:
    """Look at every annotation and at the header of every picture of the set at `where`.

    `watch(findings, total)` may show progress over pictures. DataError where there is no such set.
    """
    source = _source(where, task)
    parts = {title: source.load(title) for title in source.titles}
    problems: list[Problem] = []
    counts = {}
    for title, part in parts.items():
        checked = check_part(part, source.classes, masks=_outlined(part))
        problems += checked.problems
        counts[title] = {
            "pictures": len(checked.pictures),
            "objects": sum(len(picture.objects) for picture in checked.pictures),
            "empty": sum(not picture.objects for picture in checked.pictures),
        }
    pictures = {picture.path: picture for part in parts.values() for picture in part.pictures}
    problems += _against_pictures(source, list(pictures.values()), workers, watch)
    problems += _shared_pictures(source, parts)
    unique = list(dict.fromkeys(problems))  # trainval says again what train said
    return AnnotationReport(source, unique, counts, Counter(each.kind for each in unique))


def write_problems(problems: Iterable[Problem], path: Path) -> None:
    """Write a CSV of file, item, kind and what is wrong, a row for each problem."""
    with (
        whole_file(path) as temporary,
        temporary.open("w", encoding="utf-8", errors="surrogateescape", newline="") as file,
    ):
        writer = CsvWriter(file)
        writer.writerow(["file", "item", "kind", "problem"])
        writer.writerows([each.where, each.item, each.kind, each.said] for each in problems)


def repair_annotations(where: str, task: Task, out: Path) -> dict[str, int]:
    """Write the set's annotations anew as COCO JSON below `out`; pictures stay where they are.

    Boxes and polygons that pass the edge are cut there, wrong picture sizes are corrected from the
    pictures, and what cannot be mended is left out. `out` then opens as a set of its own. Returns
    how many objects were changed and how many left out, and pictures left out.
    """
    if task == "segment":
        raise ConfigError("class maps are pictures and cannot be repaired here; redraw them")
    if (out / "annotations").exists():
        raise ConfigError(f"{out}: holds annotations already; name a new folder")
    source = _source(where, task)
    done: Counter[str] = Counter(changed=0, objects_left_out=0, pictures_left_out=0)
    (out / "annotations").mkdir(parents=True)
    for title in source.titles:
        part = source.load(title)
        sized = [_true_size(source, picture) for picture in part.pictures]
        readable = RawPart([picture for picture in sized if picture is not None], part.problems)
        kept = check_part(readable, source.classes, masks=_outlined(part), repair=True)
        good = check_part(part, source.classes, masks=_outlined(part))
        done["pictures_left_out"] += len(part.pictures) - len(kept.pictures)
        before, after = _objects(part.pictures), _objects(kept.pictures)
        done["objects_left_out"] += before - after
        done["changed"] += after - _objects(good.pictures)
        name = f"instances_{title.replace(':', '_')}.json" if title else "instances.json"
        dump_json(_document(source, kept.pictures, where), out / "annotations" / name, None)
    return dict(done)


def _source(where: str, task: Task) -> RawSource:
    """The set with all that it has: outlines where it is COCO's, boxes where it is VOC's."""
    has_outlines = bool(find_coco(open_store(where)))
    return find_source(where, "detect" if task == "instances" and not has_outlines else task)


def _outlined(part: RawPart) -> bool:
    """Whether any object has an outline; then all need one."""
    return any(each.segmentation for picture in part.pictures for each in picture.objects)


def _objects(pictures: Iterable[RawPicture]) -> int:
    return sum(len(picture.objects) for picture in pictures)


def _against_pictures(
    source: RawSource, pictures: Sequence[RawPicture], workers: int, watch: Watch | None
) -> list[Problem]:
    """Problems of the pictures themselves: unreadable, or of another size than annotated."""
    with ThreadPoolExecutor(workers or cores()) as pool:
        findings: Iterable[list[Problem]] = pool.map(
            lambda picture: list(_picture_problems(source, picture)), pictures, chunksize=1
        )
        findings = watch(findings, len(pictures)) if watch else findings
        return [problem for found in findings for problem in found]


def _picture_problems(source: RawSource, picture: RawPicture) -> Iterator[Problem]:
    if picture.path is None:
        return  # said already
    name = source.store.called(picture.path)
    try:
        width, height, _ = picture_header(source.store.read(picture.path), name)
    except DataError as error:
        yield Problem(name, "", "unreadable", str(error).removeprefix(f"{name}: "))
        return
    if (width, height) != (picture.width, picture.height) and picture.width and picture.height:
        said = f"is {width}x{height}, its annotations are for {picture.width}x{picture.height}"
        yield Problem(name, "", "picture size", said)
    if picture.class_map is not None:
        yield from _map_problems(source, picture.class_map)


def _map_problems(source: RawSource, path: str) -> Iterator[Problem]:
    """Values of a class map that no class has; 255 and those called unlabelled or void may be."""
    store, name = source.store, source.store.called(path)
    plain = ClassMap(store.take([path]), 0, np.arange(256, dtype=np.uint8))
    try:
        values = np.unique(plain.read()).tolist()
    except DataError as error:
        yield Problem(name, "", "mask", str(error).removeprefix(f"{name}: "))
        return
    unknown = [value for value in values if value not in {*source.values, *source.void, IGNORE}]
    if unknown:
        listed = ", ".join(map(str, unknown[:5]))
        yield Problem(name, "", "category", f"has pixels of value {listed}, which no class has")


def _shared_pictures(source: RawSource, parts: dict[str, RawPart]) -> Iterator[Problem]:
    """Pictures that a test set shares with a training set."""
    roles: dict[str, dict[str | None, str]] = {"train": {}, "test": {}}
    for title, part in parts.items():
        for role, seen in roles.items():
            if title.rsplit(":")[-1].startswith(role):
                seen.update({picture.path: title for picture in part.pictures})
    for path in sorted(filter(None, set(roles["train"]) & set(roles["test"]))):
        said = f"is in both {roles['train'][path]} and {roles['test'][path]}"
        yield Problem(source.store.called(path), "", "in two sets", said)


def _true_size(source: RawSource, picture: RawPicture) -> RawPicture | None:
    """The picture with its own size; None where it cannot be read."""
    if picture.path is None:
        return None
    try:
        width, height, _ = picture_header(source.store.read(picture.path), picture.path)
    except DataError:
        return None
    return replace(picture, width=width, height=height)


def _document(source: RawSource, pictures: Sequence[RawPicture], where: str) -> dict[str, Any]:
    """COCO JSON of checked pictures; `info.pictures` says where they lie."""
    numbers = {picture.image_id: row for row, picture in enumerate(pictures, start=1)}
    whole = all(isinstance(picture.image_id, int) for picture in pictures)
    ids = {each: each if whole else number for each, number in numbers.items()}
    annotations: list[dict[str, Any]] = []
    for picture in pictures:
        target = to_target(picture, masks=False)
        for row, each in enumerate(picture.objects):
            left, top, right, bottom = each.box
            entry: dict[str, Any] = {
                "id": len(annotations) + 1,
                "image_id": ids[picture.image_id],
                "category_id": source.category_ids[each.label],
                "bbox": [left, top, right - left, bottom - top],
                "area": float(target.areas[row]),
                "iscrowd": int(each.crowd),
            }
            if each.difficult:
                entry["difficult"] = 1
            if each.segmentation is not None:
                entry["segmentation"] = _plain(each.segmentation, picture)
            annotations.append(entry)
    return {
        "info": {"description": f"{source.name}, repaired", "pictures": _absolute(where)},
        "images": [
            {
                "id": ids[picture.image_id],
                "file_name": picture.path,
                "width": picture.width,
                "height": picture.height,
            }
            for picture in pictures
        ],
        "annotations": annotations,
        "categories": [
            {"id": number, "name": name}
            for number, name in zip(source.category_ids, source.classes, strict=True)
        ],
    }


def _plain(outline: Any, picture: RawPicture) -> Any:
    """A segmentation as JSON holds it."""
    if not isinstance(outline, dict):
        return [list(points) for points in outline]
    run = to_run(outline, (picture.height, picture.width))
    return {"size": list(run["size"]), "counts": run["counts"].decode("ascii")}


def _absolute(where: str) -> str:
    return str(Path(where).expanduser().resolve())
