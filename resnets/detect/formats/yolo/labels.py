"""Lines of YOLO's label files as objects, and forms of lines that are ambiguous."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resnets.data.errors import DataError
from resnets.detect.data.documents import decode_text
from resnets.detect.data.values import NAN, Box, read_number
from resnets.detect.formats.box_format_check import FORM
from resnets.detect.formats.records import Flaw, Problem, RawImage, RawImageSet, RawObject
from resnets.detect.formats.shapes import bounding_box, polygon_area, to_coco_polygons
from resnets.detect.formats.yolo.files import LabelFiles, label_paths
from resnets.detect.images.sizes import StoredSize, read_sizes
from resnets.detect.images.store import Store

MIN_LINES = 10  # that can tell key points of two values
MIN_LINES_VISIBLE = 3  # that can tell key points with a visibility
NEARLY_ALL = 0.98
SLACK = 0.15  # of a box's sides, by which points may lie outside
EDGE = 0.01  # share of an image's sides by which boxes may pass its edge
MAX_NORMALIZED = 2.0  # larger values cannot be normalized coordinates
# Of what a set's label files have, in notes: by the key of its count.
NOTE_TEXTS = {
    "empty": "empty label files: images without objects",
    "repeated": "lines that occur twice in their file, read once",
    "confidence": "lines with a sixth value (a confidence), which is not read",
}


@dataclass(frozen=True, eq=False)
class Layout:
    """A set's images by title, its class names by number, and notes.

    points: number of values of the key points that follow each box (`kpt_shape`), which are not
    read; None = not stated, 0 = stated that there are none.
    """

    images: dict[str, list[str]]
    names: dict[int, str]
    notes: tuple[str, ...] = ()
    points: int | None = None


def read_image_set(
    store: Store,
    title: str,
    layout: Layout,
    files: LabelFiles,
    label_of: dict[int, int],
    masks: bool,
) -> RawImageSet:
    """Read the labels of the images of a set; DataError if none has a label file."""
    images, name = layout.images[title], title or "all"
    labels, notes = _choose_label_files(store, name, images, files)
    problems = [
        Problem(store.display_path(path), "", "no image", "its image is not in the set")
        for path in files.orphans.get(title, ())
    ]
    if title == next(iter(layout.images)):
        notes += [
            f"{count:,} label files of {folder}/, where no image belongs to one, are not read"
            for folder, count in files.unpaired_folders.items()
        ]
    sizes = read_sizes(store, images)
    stems = Counter(PurePosixPath(image).stem for image in images)
    counts: Counter[str] = Counter()
    ambiguous = _AmbiguousLines()
    records = []
    seen_shared: set[str] = set()
    for image, label in labels.items():
        where = store.display_path(image if label is None else label)
        if image in files.conflicting:
            names = " and ".join(files.conflicting[image][:3])
            message = f"{names} have other objects for {image}; keep one"
            problems.append(Problem(where, "", "annotations", message))
            continue
        missing = None
        if label is not None and label in files.shared:
            if label in seen_shared:
                continue
            seen_shared.add(label)
            message = f"its image may be {' or '.join(files.shared[label][:3])}; remove the others"
            missing = Flaw("several images", message)
        size = sizes[image]
        width, height = size.upright if isinstance(size, StoredSize) else (0, 0)
        parser = _LineParser(
            label_of, width, height, layout.points, masks, counts, where, ambiguous
        )
        try:
            objects = () if label is None else parser.read_file(store, label)
        except DataError as error:
            message = str(error).removeprefix(f"{where}: ")
            problems.append(Problem(where, "", "annotations", message))
            continue
        path = PurePosixPath(image)
        records.append(
            RawImage(
                path.stem if stems[path.stem] == 1 else str(path.with_suffix("")),
                None if missing else image,
                image,
                where,
                width,
                height,
                objects,
                missing=missing,
                has_size=False,
            )
        )
    notes += [
        f"{name}: {counts[kind]:,} {text}" for kind, text in NOTE_TEXTS.items() if counts[kind]
    ]
    pose = "" if layout.points is not None else explain_key_points(ambiguous.outlines.values())
    records = _flag_ambiguous(records, ambiguous, pose)
    return RawImageSet(records, problems, (), sum(len(each.objects) for each in records), notes)


def _choose_label_files(
    store: Store, name: str, images: list[str], files: LabelFiles
) -> tuple[dict[str, str | None], list[str]]:
    """Return the label file of each image of the set `name` that is not a copy, and notes.

    None for images without; DataError if no image has one.
    """
    notes = []
    labels = {image: files.by_image[image] for image in images if image not in files.copies}
    if copies := len(images) - len(labels):
        notes.append(f"{name}: {copies:,} images are copies of another with the same label file")
    shared_label = {image: label for label, sharing in files.shared.items() for image in sharing}
    labels = {image: shared_label.get(image, label) for image, label in labels.items()}
    unlabeled = [image for image, label in labels.items() if label is None]
    if images and len(unlabeled) == len(images):
        raise DataError(
            f"{store.where}: {name}: none of its {len(images):,} images has a label file, such as"
            f" {next(label_paths(images[0]))}"
        )
    if unlabeled:
        notes.append(
            f"{name}: {len(unlabeled):,} images without a label file, such as {unlabeled[0]}; read"
            " as images without objects"
        )
    return labels, notes


def _flag_ambiguous(
    images: Sequence[RawImage], lines: _AmbiguousLines, key_points: str
) -> list[RawImage]:
    """Return the images, with a flaw for each object whose form the other lines make doubtful.

    key_points: why all polygons are boxes with key points, or "".
    """
    flaws: dict[tuple[str, int], Flaw] = {}
    if any(not 0 <= value <= 1 for value in lines.six_values.values()):
        message = (
            "has 6 values, and in some such lines the sixth is not a confidence (0..1); boxes that"
            " are turned or have a track are not read"
        )
        flaws |= dict.fromkeys(lines.six_values, Flaw(FORM, message))
    pairs = list(lines.seven_values.values())
    if key_points:
        flaws |= dict.fromkeys(lines.outlines, Flaw(FORM, key_points))
    elif any(all(pair[index].is_integer() for pair in pairs) for index in (0, 1)):
        message = (
            "has 7 values, a whole number in all such lines: a triangle, or a box with a confidence"
            " and a track"
        )
        flaws |= dict.fromkeys(lines.seven_values, Flaw(FORM, message))
    if not flaws:
        return list(images)
    return [
        replace(
            image,
            objects=tuple(
                replace(each, flaws=(*each.flaws, flaws[key]))
                if (key := (image.where, each.number)) in flaws
                else each
                for each in image.objects
            ),
        )
        for image in images
    ]


@dataclass(frozen=True)
class _AmbiguousLines:
    """Lines that may mean several things, by (label file, index).

    six_values: the value after a box. seven_values: the last two of seven values. outlines: all
    values of lines that are read as polygons.
    """

    six_values: dict[tuple[str, int], float] = field(default_factory=dict)
    seven_values: dict[tuple[str, int], tuple[float, float]] = field(default_factory=dict)
    outlines: dict[tuple[str, int], NDArray[np.float64]] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class _LineParser:
    """Parses the lines of the label file of one image of width x height px."""

    label_of: Mapping[int, int]
    width: int
    height: int
    points: int | None
    masks: bool
    counts: Counter[str]
    where: str
    ambiguous: _AmbiguousLines

    def read_file(self, store: Store, label: str) -> tuple[RawObject, ...]:
        """Return the objects of a label file; DataError if it cannot be read."""
        objects = tuple(self._read(decode_text(store.read(label), self.where)))
        self.counts["empty"] += not objects
        return objects

    def _read(self, text: str) -> Iterator[RawObject]:
        """Yield an object for each line; errors become its flaws."""
        seen: set[str] = set()
        for number, line in enumerate(text.splitlines(), start=1):
            if not line.strip():
                continue
            words = line.replace(",", " ").split()
            if " ".join(words) in seen:
                self.counts["repeated"] += 1
                continue
            seen.add(" ".join(words))
            yield self._parse_line(words, number)

    def _parse_line(self, words: Sequence[str], number: int) -> RawObject:
        kind = read_number(words[0])
        label = self.label_of.get(int(kind), -1) if kind.is_integer() else -1
        values = np.array([read_number(word) for word in words[1:]])
        flaws: list[Flaw] = []
        parts: list[Any] = []
        box: Box = (NAN, NAN, NAN, NAN)
        if self.points and len(values) == 4 + self.points:
            values = values[:4]
        if len(values) == 6:
            self.ambiguous.seven_values[self.where, number - 1] = float(values[4]), float(values[5])
        if len(values) == 5:
            self.ambiguous.six_values[self.where, number - 1] = float(values[4])
            self.counts["confidence"] += 1
            values = values[:4]
        if len(values) == 4:
            x, y, width, height = values.tolist()
            image_width, image_height = self.width, self.height
            box = (
                (x - width / 2) * image_width,
                (y - height / 2) * image_height,
                (x + width / 2) * image_width,
                (y + height / 2) * image_height,
            )
        elif len(values) >= 6 and len(values) % 2 == 0:
            self.ambiguous.outlines[self.where, number - 1] = values
            parts = [values.reshape(-1, 2) * (self.width, self.height)]
            box = bounding_box(parts)
        else:
            message = f"has {len(words)} values; a box has 5, a polygon 7 or more, an odd number"
            flaws.append(Flaw("no number", message))
        finite = values[np.isfinite(values)]
        if not flaws and len(finite) and np.abs(finite).max() > MAX_NORMALIZED:
            message = (
                f"its value {np.abs(finite).max():g} is not normalized by the image's sides (0..1)"
            )
            flaws.append(Flaw("not normalized", message))
        return RawObject(
            item=f"line {number}",
            label=label,
            category=words[0],
            box=box,
            area=polygon_area(parts) if parts else None,
            segmentation=to_coco_polygons(parts) if parts and self.masks else None,
            number=number - 1,
            flaws=tuple(flaws),
        )


def explain_key_points(lines: Iterable[NDArray[np.float64]]) -> str:
    """Return why the values of all `lines`, read as polygons, are boxes with key points, or "".

    YOLO's pose labels are a box (center, width, height) and points of two or three values. Without
    `kpt_shape` in data.yaml, an even number of values would be read as a polygon. They are poses
    if all have the same number of values, their first four are boxes within the image, and the
    points are in them, or every third value is 0, 1 or 2 (visible). Rectangles of four corners do
    neither unless objects are in the lower right.
    """
    values = list(lines)
    if len(values) < MIN_LINES_VISIBLE or len({len(line) for line in values}) > 1:
        return ""
    rows = np.stack(values)
    are_poses = len(rows) >= MIN_LINES and not _are_parallelograms(rows) and _are_in_boxes(rows, 2)
    if rows.shape[1] % 3 == 1 and np.isin(rows[:, 6::3], (0, 1, 2)).all():
        are_poses = are_poses or _are_in_boxes(rows, 3)
    if not are_poses:
        return ""
    return (
        f"all {len(rows):,} polygons have {rows.shape[1]} values, and read as a box with key points"
        " these lie in the box; write kpt_shape: [points, values of each] into data.yaml, or"
        " kpt_shape: [0, 0] where they are polygons"
    )


def _are_in_boxes(rows: NDArray[np.float64], size: int) -> bool:
    """Return whether points of `size` values, except zeros, are in the box before them."""
    center, sides = rows[:, None, :2], rows[:, None, 2:4]
    points = rows[:, 4:].reshape(len(rows), -1, size)[..., :2]
    inside = (np.abs(points - center) <= (0.5 + SLACK) * sides + EDGE).all(-1)
    inside |= (points == 0).all(-1)
    within = np.abs(center - 0.5) + sides / 2 <= 0.5 + EDGE
    return bool(inside.mean() >= NEARLY_ALL and within.mean() >= NEARLY_ALL)


def _are_parallelograms(rows: NDArray[np.float64]) -> bool:
    """Return whether nearly all are corners of a parallelogram, as rotated boxes are written."""
    if rows.shape[1] != 8:
        return False
    corners = rows.reshape(-1, 4, 2)
    off = np.abs(corners[:, 0] + corners[:, 2] - corners[:, 1] - corners[:, 3]).max(-1)
    return bool((off <= EDGE).mean() >= NEARLY_ALL)
