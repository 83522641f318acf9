"""`resnets data check --repair`: write corrected annotations as COCO JSON to a new folder.

Only unambiguous problems are corrected: boxes and outlines of an image that was rescaled with its
aspect ratio are scaled, those drawn on the stored pixels of a rotated image (EXIF) are rotated,
boxes that exceed the image are clipped, ids are renumbered, and empty or damaged outlines are
removed if the box is valid by itself. All other objects are excluded. Each object is either in the
new files, or in repair.csv with the reason. The data set itself is never changed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from resnets.config import ConfigError, DetectSpec, dump_json
from resnets.data.files.folder import FolderFiles
from resnets.detect.check.run import open_full_set
from resnets.detect.check.upright_boxes import (
    IDENTITY,
    NOT_VERIFIED,
    Rescaled,
    ToUpright,
    are_verified_scaled,
    explain_not_scalable,
    transform_outline,
)
from resnets.detect.data.masks import encode_outline, outline_box
from resnets.detect.formats.box_format_check import flag_wrong_box_form
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
from resnets.detect.images.sizes import Frame, uniform_scale
from resnets.detect.loading.split_opener import to_target
from resnets.utils.files.csv import write_csv

REPORT_FILE = "repair.csv"
EXCLUDED, CHANGED = "excluded", "changed"


@dataclass
class RepairReport:
    """Outcome of a repair: numbers of objects and images kept, changed and excluded.

    objects, images: number in the files. kept: those kept, including `changed`. rows: file, item,
    outcome ("changed" or "excluded") and reason of each change. partly: number of kept images that
    lost an object. unread: number of annotation files that cannot be read. unverified: number of
    kept objects that were scaled although their image may have been cropped.
    """

    objects: int = 0
    kept: int = 0
    changed: int = 0
    images: int = 0
    kept_images: int = 0
    partly: int = 0
    unread: int = 0
    unverified: int = 0
    rows: list[tuple[str, str, str, str]] = field(default_factory=list)

    @property
    def excluded(self) -> int:
        """Number of objects excluded."""
        return self.objects - self.kept

    @property
    def images_excluded(self) -> int:
        """Number of images excluded."""
        return self.images - self.kept_images

    def summary(self) -> str:
        """Return one line with all counts."""
        partly = f" ({self.partly:,} of them without an object excluded)" if self.partly else ""
        unread = f"; {self.unread:,} annotation files cannot be read" if self.unread else ""
        unverified = (
            f"; {self.unverified:,} kept objects were scaled, not verified (their images may"
            " have been cropped to the same shape)"
            if self.unverified
            else ""
        )
        return (
            f"{self.objects:,} objects: {self.kept:,} kept ({self.changed:,} of them corrected),"
            f" {self.excluded:,} excluded; {self.images:,} images: {self.kept_images:,} kept"
            f"{partly}, {self.images_excluded:,} excluded{unread}{unverified}"
        )


def repair_annotations(
    where: str, task: Task, out: Path, detect: DetectSpec | None = None
) -> RepairReport:
    """Write the corrected annotations of a set below `out`; its images stay where they are.

    detect: specifies the format if there are several. `out` can then be opened as a data set;
    repair.csv in it lists the changed and excluded objects and images. Raises ConfigError if `out`
    already contains annotations, and for class maps, which are images.
    """
    check_repairable(task, out)
    source = open_full_set(where, task, detect)
    report = RepairReport()
    documents = {}
    for title in source.titles:
        image_set = flag_wrong_box_form(
            flag_normalized_boxes(read_stored_sizes(source.load(title), source.store))
        )
        documents[title] = _to_coco(source, _repair_images(image_set, source.classes, report))
    for path, document in zip(_output_paths(out, source.titles), documents.values(), strict=True):
        path.parent.mkdir(parents=True, exist_ok=True)
        dump_json(document, path, None)
    write_csv(out / REPORT_FILE, ("file", "item", "outcome", "reason"), report.rows)
    return report


def check_repairable(task: Task, out: Path) -> None:
    """Raise ConfigError for class maps, and for a folder that contains annotations."""
    if task == "segment":
        raise ConfigError("class maps are images and cannot be repaired here; redraw them")
    if (out / "annotations").exists():
        raise ConfigError(f"{out}: already contains annotations; give a new folder")


def _repair_images(
    image_set: RawImageSet, classes: Sequence[str], report: RepairReport
) -> list[RawImage]:
    """Return the corrected images that can be kept; record the outcome of all in `report`."""
    num_objects = image_set.objects
    assert num_objects is not None
    frame = infer_box_frame(image_set)
    images, outcomes = [], Counter[str]()
    for problem in image_set.orphans:
        report.rows.append((problem.where, problem.item, EXCLUDED, problem.message))
        outcomes[EXCLUDED] += 1
    for problem in image_set.problems:
        report.rows.append((problem.where, problem.item, EXCLUDED, problem.message))
        report.unread += problem.kind == "annotations"
    affines = [_find_transform(image, frame) for image in image_set.images]
    scales = _ScaleEvidence.of(image_set.images, affines)
    for image, affine in zip(image_set.images, affines, strict=True):
        if not isinstance(affine, str) and affine.is_scaled and scales.refused:
            affine = scales.refused
        if isinstance(affine, str):
            report.rows.append((image.where, image.name, EXCLUDED, affine))
            for each in image.objects:
                report.rows.append((image.where, _describe_object(image, each), EXCLUDED, affine))
            outcomes[EXCLUDED] += len(image.objects)
            continue
        assert image.stored is not None
        width, height = image.stored.upright
        upright = replace(image, width=width, height=height, stored=None)
        objects = []
        for each in image.objects:
            outcome = _correct_object(each, image, upright, affine, classes)
            if outcome.kept is not None and affine.is_scaled and not scales.verified:
                outcome = replace(outcome, message=f"{outcome.message}; {NOT_VERIFIED}")
                report.unverified += 1
            outcomes[EXCLUDED if outcome.kept is None else "kept"] += 1
            if outcome.message:
                action = EXCLUDED if outcome.kept is None else CHANGED
                report.rows.append(
                    (image.where, _describe_object(image, each), action, outcome.message)
                )
                report.changed += outcome.kept is not None
            if outcome.kept is not None:
                objects.append(outcome.kept)
        if image.objects and not objects:
            message = "none of its objects can be kept"
            report.rows.append((image.where, image.name, EXCLUDED, message))
            continue
        report.partly += len(objects) < len(image.objects)
        images.append(replace(upright, objects=tuple(objects)))
    assert outcomes["kept"] + outcomes[EXCLUDED] == num_objects, "every object has one outcome"
    report.objects += num_objects
    report.kept += outcomes["kept"]
    report.images += len(image_set.images) + sum(
        p.kind != "annotations" for p in image_set.problems
    )
    report.kept_images += len(images)
    return images


@dataclass(frozen=True)
class _ScaleEvidence:
    """Why no image of a set may be scaled ("" if they may), and whether its sizes prove scaling."""

    refused: str
    verified: bool

    @classmethod
    def of(cls, images: Sequence[RawImage], affines: Sequence[ToUpright | str]) -> _ScaleEvidence:
        scaled, num_other_shapes = [], 0
        for image, affine in zip(images, affines, strict=True):
            if image.stored is None or not image.has_size:
                continue
            annotated, stored = (image.width, image.height), image.stored
            if isinstance(affine, str):
                is_known = min(annotated) > 0
                sizes = (stored.upright, (stored.width, stored.height))
                num_other_shapes += is_known and all(
                    uniform_scale(annotated, each) is None for each in sizes
                )
            elif affine.is_scaled:
                width, height = (a * b for a, b in zip(annotated, affine.scale, strict=True))
                actual = (round(width), round(height))
                boxes = [each.box for each in image.objects if _is_box(each.box)]
                scaled.append(Rescaled(annotated, actual, boxes))
        return cls(explain_not_scalable(scaled, num_other_shapes), are_verified_scaled(scaled))


def _find_transform(image: RawImage, frame: Frame | None) -> ToUpright | str:
    """Return the transform of an image's annotations to upright pixels, or why there is none."""
    if image.path is None or image.stored is None:
        problem = next(iter(find_image_problems(image)), None)
        return problem.message if problem else image.unreadable
    stored, upright = image.stored, image.stored.upright
    stored_size = stored.width, stored.height
    annotated: tuple[int, int] | None = (image.width, image.height)
    mismatch = f"is {upright[0]}x{upright[1]}, its annotations are for {image.width}x{image.height}"
    if not image.has_size or min(image.width, image.height) <= 0:
        sides = zip((image.width, image.height), upright, strict=True)
        if any(side > 0 and side != actual for side, actual in sides):
            return mismatch
        annotated = None
    frame_used: Frame | None = "upright"
    if stored.orientation != 1:
        frame_used = (
            _frame_by_size(annotated, upright, stored_size)
            if annotated and upright != stored_size
            else frame
        )
    if frame_used is None and not image.objects and annotated in (None, upright):
        return IDENTITY
    if frame_used is None:
        return f"its size does not tell which pixels its boxes are for (EXIF {stored.orientation})"
    actual = upright if frame_used == "upright" else stored_size
    scale = uniform_scale(annotated or actual, actual)
    if scale is None:
        return mismatch
    return ToUpright(annotated or actual, scale, stored if frame_used == "stored" else None)


def _frame_by_size(
    annotated: tuple[int, int], upright: tuple[int, int], stored_size: tuple[int, int]
) -> Frame | None:
    """Return which pixels boxes are for, by the annotated size of an image that is not square."""
    if annotated in (upright, stored_size):
        return "upright" if annotated == upright else "stored"
    fits = [uniform_scale(annotated, size) is not None for size in (upright, stored_size)]
    if all(fits) or not any(fits):
        return None
    return "upright" if fits[0] else "stored"


@dataclass(frozen=True)
class _Outcome:
    """A kept object, or None; what was changed, or why it is excluded."""

    kept: RawObject | None
    message: str = ""


def _correct_object(
    each: RawObject, image: RawImage, upright: RawImage, affine: ToUpright, classes: Sequence[str]
) -> _Outcome:
    changes = [] if affine.is_identity else [affine.message]
    if any(flaw.kind == ID_TWICE for flaw in each.flaws):
        changes.append("given an id of its own")
        each = replace(each, flaws=tuple(f for f in each.flaws if f.kind != ID_TWICE))
    outline, message = transform_outline(each.segmentation, image, affine, upright)
    if message:
        changes.append(message)
    box = affine.box(each.box)
    if isinstance(outline, list) and not _is_box(box):
        box = outline_box(outline, (upright.height, upright.width))
        changes.append("box taken from its segmentation")
        each = replace(each, flaws=tuple(f for f in each.flaws if f.kind != "no number"))
    clipped = clip_box(box, upright)
    overhang = max(abs(a - b) for a, b in zip(box, clipped, strict=True)) if _is_box(box) else 0
    if overhang > TOLERANCE:
        changes.append("box cut at the edge")
    area = None if each.area is None or outline is None else each.area * affine.factor
    if area is not None:
        area = min(area, (clipped[2] - clipped[0]) * (clipped[3] - clipped[1]))
    if each.area is not None and outline is None and not changes:
        area = each.area
    corrected = replace(
        each,
        box=clipped if _is_box(box) else box,
        segmentation=outline,
        area=area,
    )
    problems: list[Problem] = list(find_object_problems(corrected, upright, classes, masks=False))
    if problems:
        return _Outcome(None, "; ".join(problem.message for problem in problems))
    return _Outcome(corrected, "; ".join(changes))


def _is_box(box: Sequence[float]) -> bool:
    left, top, right, bottom = box
    return right > left and bottom > top  # false for NaN


def _describe_object(image: RawImage, each: RawObject) -> str:
    return f"{image.name}, {each.item}"


def _output_paths(out: Path, titles: Iterable[str]) -> list[Path]:
    """Return a distinct output file for each image set."""
    paths: list[Path] = []
    for title in titles:
        folder, _, name = title.rpartition(":")
        parent = out / "annotations" / folder.replace(":", "/") if folder else out / "annotations"
        stem = f"instances_{name.replace('/', '_')}" if name else "instances"
        path, number = parent / f"{stem}.json", 1
        while path in paths:
            number += 1
            path = parent / f"{stem}_{number}.json"
        paths.append(path)
    return paths


def _to_coco(source: RawDataset, images: Sequence[RawImage]) -> dict[str, Any]:
    """Convert corrected images to COCO JSON; `info.pictures` is the folder of the images."""
    ids = [image.image_id for image in images]
    unique_ids = all(isinstance(each, int) for each in ids) and len(set(ids)) == len(ids)
    numbers = ids if unique_ids else list(range(1, len(ids) + 1))
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
                entry["segmentation"] = _segmentation_to_json(each.segmentation, image)
            annotations.append(entry)
    return {
        "info": {"description": f"{source.name}, repaired", "pictures": _image_folder(source)},
        "images": [
            {
                "id": number,
                "file_name": _relative_path(source, str(image.path)),
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


def _image_folder(source: RawDataset) -> str:
    """Return the absolute path of the folder or archive with the images."""
    files = source.store.files
    where = files.root if isinstance(files, FolderFiles) else Path(source.store.where)
    return str(where.expanduser().resolve())


def _relative_path(source: RawDataset, path: str) -> str:
    """Return the path of an image in that folder."""
    files = source.store.files
    return files.paths[source.store.rows[path]] if isinstance(files, FolderFiles) else path


def _segmentation_to_json(outline: Any, image: RawImage) -> Any:
    """Convert a segmentation to JSON values."""
    if not isinstance(outline, dict):
        return [list(points) for points in outline]
    run = encode_outline(outline, (image.height, image.width))
    return {"size": list(run["size"]), "counts": run["counts"].decode("ascii")}
