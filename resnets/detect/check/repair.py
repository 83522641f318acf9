"""`resnets data check --repair`: corrected annotations, as COCO JSON in a new folder.

Only what can be corrected without a guess is: boxes and outlines of an image that was rescaled with
its aspect kept are scaled, those drawn on the stored pixels of a turned image (EXIF) are turned,
what passes the edge is cut there, ids are renumbered, empty or broken outlines are dropped where
the box stands by itself. All else is left out, and every object is accounted for: it is in the new
files, or in repair.csv with the reason. The set itself is never touched.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from resnets.config import ConfigError, DetectSpec, atomic_write, dump_json
from resnets.data.files.folder import FolderFiles
from resnets.detect.check.run import with_all
from resnets.detect.check.upright_boxes import (
    IDENTITY,
    NOT_PROVED,
    Move,
    Rescaled,
    are_proved_scaled,
    kept_outline,
    why_not_scaled,
)
from resnets.detect.data.masks import encode_outline, outline_box
from resnets.detect.formats.problems import (
    TOLERANCE,
    clip_box,
    find_image_problems,
    find_object_problems,
    flag_normalized_boxes,
    infer_box_frame,
    read_stored_sizes,
)
from resnets.detect.formats.records import (
    ID_TWICE,
    Problem,
    RawDataset,
    RawImage,
    RawImageSet,
    RawObject,
    Task,
)
from resnets.detect.formats.set_checks import flag_wrong_box_form
from resnets.detect.images.sizes import Frame, uniform_scale
from resnets.detect.loading.split_opener import to_target
from resnets.utils.csv_files import CsvWriter

LIST = "repair.csv"
LEFT_OUT, CHANGED = "left out", "changed"


@dataclass
class RepairReport:
    """What became of every object and image of a set, counted over its files.

    objects, images: how many the files state. kept: of them, with those `changed`. rows: what was
    changed or left out: file, item, outcome, reason. partly: kept images that lost an object.
    unread: annotation files that cannot be read. unproved: kept objects that were scaled although
    their image may have been cut.
    """

    objects: int = 0
    kept: int = 0
    changed: int = 0
    images: int = 0
    kept_images: int = 0
    partly: int = 0
    unread: int = 0
    unproved: int = 0
    rows: list[tuple[str, str, str, str]] = field(default_factory=list)

    @property
    def left_out(self) -> int:
        """Objects left out."""
        return self.objects - self.kept

    @property
    def images_left_out(self) -> int:
        """Images left out."""
        return self.images - self.kept_images

    def summary(self) -> str:
        """One line of all counts."""
        partly = f" ({self.partly:,} of them without an object left out)" if self.partly else ""
        unread = f"; {self.unread:,} annotation files cannot be read" if self.unread else ""
        unproved = (
            f"; {self.unproved:,} kept objects were scaled, not proved (their images may have been"
            " cut to the same shape)"
            if self.unproved
            else ""
        )
        return (
            f"{self.objects:,} objects: {self.kept:,} kept ({self.changed:,} of them corrected),"
            f" {self.left_out:,} left out; {self.images:,} images: {self.kept_images:,} kept"
            f"{partly}, {self.images_left_out:,} left out{unread}{unproved}"
        )


def repair_annotations(
    where: str, task: Task, out: Path, detect: DetectSpec | None = None
) -> RepairReport:
    """Write the set's annotations anew below `out`; its images stay where they are.

    `detect` says which format is read, where there are several.
    `out` then opens as a set of its own; repair.csv in it lists what was changed and left out.
    ConfigError: `out` holds annotations already, or the set has class maps, which are images.
    """
    if task == "segment":
        raise ConfigError("class maps are images and cannot be repaired here; redraw them")
    if (out / "annotations").exists():
        raise ConfigError(f"{out}: holds annotations already; name a new folder")
    source = with_all(where, task, detect)
    report = RepairReport()
    documents = {}
    for title in source.titles:
        part = flag_wrong_box_form(
            flag_normalized_boxes(read_stored_sizes(source.load(title), source.store))
        )
        documents[title] = _document(source, _repaired(part, source.classes, report))
    for path, document in zip(_paths(out, source.titles), documents.values(), strict=True):
        path.parent.mkdir(parents=True, exist_ok=True)
        dump_json(document, path, None)
        written = json.loads(path.read_bytes())
        assert len(written["annotations"]) == len(document["annotations"])
    _write_rows(report.rows, out / LIST)
    return report


def _repaired(part: RawImageSet, classes: Sequence[str], report: RepairReport) -> list[RawImage]:
    """The images of a part that can be kept, corrected; `report` gets an account of all."""
    stated = part.objects
    assert stated is not None
    frame = infer_box_frame(part)
    images, outcomes = [], Counter[str]()
    for problem in part.orphans:
        report.rows.append((problem.where, problem.item, LEFT_OUT, problem.message))
        outcomes[LEFT_OUT] += 1
    for problem in part.problems:
        report.rows.append((problem.where, problem.item, LEFT_OUT, problem.message))
        report.unread += problem.kind == "annotations"
    moves = [_move_of(image, frame) for image in part.images]
    scales = _Scales.of(part.images, moves)
    for image, move in zip(part.images, moves, strict=True):
        if not isinstance(move, str) and move.is_scaled and scales.refused:
            move = scales.refused
        if isinstance(move, str):
            report.rows.append((image.where, image.name, LEFT_OUT, move))
            for each in image.objects:
                report.rows.append((image.where, _item(image, each), LEFT_OUT, move))
            outcomes[LEFT_OUT] += len(image.objects)
            continue
        assert image.stored is not None
        width, height = image.stored.upright
        upright = replace(image, width=width, height=height, stored=None)
        kept = []
        for each in image.objects:
            found = _corrected(each, image, upright, move, classes)
            if found.kept is not None and move.is_scaled and not scales.proved:
                found = replace(found, message=f"{found.message}; {NOT_PROVED}")
                report.unproved += 1
            outcomes[LEFT_OUT if found.kept is None else "kept"] += 1
            if found.message:
                outcome = LEFT_OUT if found.kept is None else CHANGED
                report.rows.append((image.where, _item(image, each), outcome, found.message))
                report.changed += found.kept is not None
            if found.kept is not None:
                kept.append(found.kept)
        if image.objects and not kept:
            message = "none of its objects can be kept"
            report.rows.append((image.where, image.name, LEFT_OUT, message))
            continue
        report.partly += len(kept) < len(image.objects)
        images.append(replace(upright, objects=tuple(kept)))
    assert outcomes["kept"] + outcomes[LEFT_OUT] == stated, "every object has one outcome"
    report.objects += stated
    report.kept += outcomes["kept"]
    report.images += len(part.images) + sum(p.kind != "annotations" for p in part.problems)
    report.kept_images += len(images)
    return images


@dataclass(frozen=True)
class _Scales:
    """Why no image of a set may be scaled, "" where they may be, and whether its sizes prove it."""

    refused: str
    proved: bool

    @classmethod
    def of(cls, images: Sequence[RawImage], moves: Sequence[Move | str]) -> _Scales:
        scaled, other_shapes = [], 0
        for image, move in zip(images, moves, strict=True):
            if image.stored is None or not image.has_size:
                continue
            stated, stored = (image.width, image.height), image.stored
            if isinstance(move, str):
                known = min(stated) > 0
                sizes = (stored.upright, (stored.width, stored.height))
                other_shapes += known and all(uniform_scale(stated, each) is None for each in sizes)
            elif move.is_scaled:
                actual = (round(stated[0] * move.scale[0]), round(stated[1] * move.scale[1]))
                boxes = [each.box for each in image.objects if _is_box(each.box)]
                scaled.append(Rescaled(stated, actual, boxes))
        return cls(why_not_scaled(scaled, other_shapes), are_proved_scaled(scaled))


def _move_of(image: RawImage, frame: Frame | None) -> Move | str:
    """What takes the annotations of an image to its upright pixels, or why nothing known does."""
    if image.path is None or image.stored is None:
        problem = next(iter(find_image_problems(image)), None)
        return problem.message if problem else image.unreadable
    stored, upright = image.stored, image.stored.upright
    plain = stored.width, stored.height
    stated: tuple[int, int] | None = (image.width, image.height)
    mismatch = f"is {upright[0]}x{upright[1]}, its annotations are for {image.width}x{image.height}"
    if not image.has_size or min(image.width, image.height) <= 0:
        sides = zip((image.width, image.height), upright, strict=True)
        if any(side > 0 and side != own for side, own in sides):
            return mismatch
        stated = None
    chosen: Frame | None = "upright"
    if stored.orientation != 1:
        chosen = _frame_by_size(stated, upright, plain) if stated and upright != plain else frame
    if chosen is None and not image.objects and stated in (None, upright):
        return IDENTITY
    if chosen is None:
        return f"its size does not tell which pixels its boxes are for (EXIF {stored.orientation})"
    actual = upright if chosen == "upright" else plain
    scale = uniform_scale(stated or actual, actual)
    if scale is None:
        return mismatch
    return Move(stated or actual, scale, stored if chosen == "stored" else None)


def _frame_by_size(
    stated: tuple[int, int], upright: tuple[int, int], plain: tuple[int, int]
) -> Frame | None:
    """Which pixels boxes for an image of size `stated` are for, where a turn changes its shape."""
    if stated in (upright, plain):
        return "upright" if stated == upright else "stored"
    fits = [uniform_scale(stated, size) is not None for size in (upright, plain)]
    if all(fits) or not any(fits):
        return None
    return "upright" if fits[0] else "stored"


@dataclass(frozen=True)
class _Outcome:
    """An object as it is kept, or None; what was done to it, or why it is left out."""

    kept: RawObject | None
    message: str = ""


def _corrected(
    each: RawObject, image: RawImage, upright: RawImage, move: Move, classes: Sequence[str]
) -> _Outcome:
    done = [] if move.is_identity else [move.message]
    if any(flaw.kind == ID_TWICE for flaw in each.flaws):
        done.append("given an id of its own")
        each = replace(each, flaws=tuple(f for f in each.flaws if f.kind != ID_TWICE))
    outline, message = kept_outline(each.segmentation, image, move, upright)
    if message:
        done.append(message)
    box = move.box(each.box)
    if isinstance(outline, list) and not _is_box(box):
        box = outline_box(outline, (upright.height, upright.width))
        done.append("box taken from its outline")
        each = replace(each, flaws=tuple(f for f in each.flaws if f.kind != "no number"))
    cut = clip_box(box, upright)
    beyond = max(abs(a - b) for a, b in zip(box, cut, strict=True)) if _is_box(box) else 0
    if beyond > TOLERANCE:
        done.append("box cut at the edge")
    area = None if each.area is None or outline is None else each.area * move.factor
    if area is not None:
        area = min(area, (cut[2] - cut[0]) * (cut[3] - cut[1]))
    if each.area is not None and outline is None and not done:
        area = each.area
    moved = replace(
        each,
        box=cut if _is_box(box) else box,
        segmentation=outline,
        area=area,
    )
    wrong: list[Problem] = list(find_object_problems(moved, upright, classes, masks=False))
    if wrong:
        return _Outcome(None, "; ".join(problem.message for problem in wrong))
    return _Outcome(moved, "; ".join(done))


def _is_box(box: Sequence[float]) -> bool:
    left, top, right, bottom = box
    return right > left and bottom > top  # false for NaN


def _item(image: RawImage, each: RawObject) -> str:
    return f"{image.name}, {each.item}"


def _paths(out: Path, titles: Iterable[str]) -> list[Path]:
    """Where each set is written, no two in one file."""
    paths: list[Path] = []
    for title in titles:
        folder, _, name = title.rpartition(":")
        below = out / "annotations" / folder.replace(":", "/") if folder else out / "annotations"
        stem = f"instances_{name.replace('/', '_')}" if name else "instances"
        path, number = below / f"{stem}.json", 1
        while path in paths:
            number += 1
            path = below / f"{stem}_{number}.json"
        paths.append(path)
    return paths


def _document(source: RawDataset, images: Sequence[RawImage]) -> dict[str, Any]:
    """COCO JSON of corrected images; `info.pictures` says where they lie."""
    ids = [image.image_id for image in images]
    whole = all(isinstance(each, int) for each in ids) and len(set(ids)) == len(ids)
    numbers = ids if whole else list(range(1, len(ids) + 1))
    annotations: list[dict[str, Any]] = []
    for number, image in zip(numbers, images, strict=True):
        target = to_target(image, masks=False)
        for row, each in enumerate(image.objects):
            left, top, right, bottom = each.box
            entry: dict[str, Any] = {
                "id": len(annotations) + 1,
                "image_id": number,
                "category_id": source.category_ids[each.label],
                "bbox": [left, top, right - left, bottom - top],
                "area": float(target.areas[row]),
                "iscrowd": int(each.crowd),
            }
            if each.difficult:
                entry["difficult"] = 1
            if each.segmentation is not None:
                entry["segmentation"] = _plain(each.segmentation, image)
            annotations.append(entry)
    return {
        "info": {"description": f"{source.name}, repaired", "pictures": _folder(source)},
        "images": [
            {
                "id": number,
                "file_name": _path_below(source, str(image.path)),
                "width": image.width,
                "height": image.height,
            }
            for number, image in zip(numbers, images, strict=True)
        ],
        "annotations": annotations,
        "categories": [
            {"id": number, "name": name}
            for number, name in zip(source.category_ids, source.classes, strict=True)
        ],
    }


def _folder(source: RawDataset) -> str:
    """Absolute path of the folder or archive that holds the images."""
    files = source.store.files
    where = files.root if isinstance(files, FolderFiles) else Path(source.store.where)
    return str(where.expanduser().resolve())


def _path_below(source: RawDataset, path: str) -> str:
    """The path of an image below that folder."""
    files = source.store.files
    return files.paths[source.store.rows[path]] if isinstance(files, FolderFiles) else path


def _plain(outline: Any, image: RawImage) -> Any:
    """A segmentation as JSON holds it."""
    if not isinstance(outline, dict):
        return [list(points) for points in outline]
    run = encode_outline(outline, (image.height, image.width))
    return {"size": list(run["size"]), "counts": run["counts"].decode("ascii")}


def _write_rows(rows: Sequence[tuple[str, str, str, str]], path: Path) -> None:
    with (
        atomic_write(path) as temporary,
        temporary.open("w", encoding="utf-8", errors="surrogateescape", newline="") as file,
    ):
        writer = CsvWriter(file)
        writer.writerow(["file", "item", "outcome", "reason"])
        writer.writerows(rows)
