"""YOLO's label files: which belongs to which image, and their lines as objects."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resnets.data.errors import DataError
from resnets.detect.data.documents import decode_text
from resnets.detect.data.values import NAN, Box, read_number
from resnets.detect.formats.records import Flaw, Problem, RawImage, RawImageSet, RawObject
from resnets.detect.formats.set_checks import FORM
from resnets.detect.formats.shapes import area_of, box_around, flat
from resnets.detect.formats.yolo.files import LabelFiles, label_paths
from resnets.detect.formats.yolo.key_points import pose_form
from resnets.detect.images.sizes import StoredSize, read_sizes
from resnets.detect.images.store import Store

FAR_OUTSIDE = 2.0  # a number from which on shares cannot be meant


@dataclass(frozen=True, eq=False)
class Layout:
    """A set's images by title, the names of its classes by number, and what was understood.

    points: numbers of key points that follow each box (`kpt_shape`), which are not read; None =
    not stated, 0 = stated that there are none.
    """

    images: dict[str, list[str]]
    names: dict[int, str]
    notes: tuple[str, ...] = ()
    points: int | None = None


def read_part(
    store: Store,
    title: str,
    layout: Layout,
    files: LabelFiles,
    label_of: dict[int, int],
    masks: bool,
) -> RawImageSet:
    """The images of a part and what their label files say; DataError where all lack theirs."""
    images = layout.images[title]
    notes, problems = [], []
    called = title or "all"
    labels = {image: files.of[image] for image in images if image not in files.copies}
    if copies := len(images) - len(labels):
        notes.append(f"{called}: {copies:,} images are copies of another with the same label file")
    owners = {image: label for label, mine in files.shared.items() for image in mine}
    labels = {image: owners.get(image, label) for image, label in labels.items()}
    bare = [image for image, label in labels.items() if label is None]
    if images and len(bare) == len(images):
        raise DataError(
            f"{store.where}: {called}: none of its {len(images):,} images has a label file, such as"
            f" {next(label_paths(images[0]))}"
        )
    if bare:
        notes.append(
            f"{called}: {len(bare):,} images without a label file, such as {bare[0]}; taken as"
            " images without objects"
        )
    for path in files.orphans.get(title, ()):
        message = "its image is not in the set"
        problems.append(Problem(store.called(path), "", "no image", message))
    if title == next(iter(layout.images)):
        notes += [
            f"{count:,} label files of {folder}/, where no image belongs to one, are not read"
            for folder, count in files.beside.items()
        ]
    sizes = read_sizes(store, images)
    stems = Counter(PurePosixPath(image).stem for image in images)
    counts: Counter[str] = Counter()
    forms = _Forms()
    records = []
    seen: set[str] = set()
    for image, label in labels.items():
        stem = PurePosixPath(image).stem
        size = sizes[image]
        width, height = size.upright if isinstance(size, StoredSize) else (0, 0)
        where = store.called(label) if label is not None else store.called(image)
        objects: tuple[RawObject, ...] = ()
        if image in files.several:
            message = (
                f"{' and '.join(files.several[image][:3])} have other objects for {image}; keep one"
            )
            problems.append(Problem(where, "", "annotations", message))
            continue
        if label is not None and label in files.shared:
            if label in seen:
                continue
            seen.add(label)
        if label is not None:
            try:
                text = decode_text(store.read(label), where)
            except DataError as error:
                message = str(error).removeprefix(f"{where}: ")
                problems.append(Problem(where, "", "annotations", message))
                continue
            rows = _Rows(label_of, width, height, layout.points, masks, counts, where, forms)
            objects = tuple(rows.read(text))
        counts["empty"] += label is not None and not objects
        whole = str(PurePosixPath(image).with_suffix(""))
        lacking = None
        if label is not None and label in files.shared:
            message = f"its image may be {' or '.join(files.shared[label][:3])}; remove the others"
            lacking = Flaw("several images", message)
        records.append(
            RawImage(
                stem if stems[stem] == 1 else whole,
                None if lacking else image,
                image,
                where,
                width,
                height,
                objects,
                lacking=lacking,
                sized=False,
            )
        )
    texts = {
        "empty": "empty label files: images without objects",
        "repeated": "lines that occur twice in their file, read once",
        "confidence": "lines with a sixth value (a confidence), which is not read",
    }
    notes += [f"{called}: {counts[kind]:,} {text}" for kind, text in texts.items() if counts[kind]]
    pose = "" if layout.points is not None else pose_form(forms.outlines.values())
    records = _doubtful(records, forms, pose)
    return RawImageSet(records, problems, (), sum(len(each.objects) for each in records), notes)


def _doubtful(images: Sequence[RawImage], forms: _Forms, pose: str) -> list[RawImage]:
    """The images, with a flaw for each object whose form the other lines put in doubt.

    pose: why all outlines are boxes with key points, or "".
    """
    flaws: dict[tuple[str, int], Flaw] = {}
    if any(not 0 <= value <= 1 for value in forms.sixth.values()):
        message = (
            "has 6 values, and in some such lines the sixth is no confidence (0..1); boxes that are"
            " turned or have a track are not read"
        )
        flaws |= dict.fromkeys(forms.sixth, Flaw(FORM, message))
    pairs = list(forms.seven.values())
    if pose:
        flaws |= dict.fromkeys(forms.outlines, Flaw(FORM, pose))
    elif any(all(pair[place].is_integer() for pair in pairs) for place in (0, 1)):
        message = (
            "has 7 values, a whole number in all such lines: a triangle, or a box with a confidence"
            " and a track"
        )
        flaws |= dict.fromkeys(forms.seven, Flaw(FORM, message))
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
class _Forms:
    """Lines of forms that may mean several things, by label file and number.

    sixth: the value after a box. seven: the last two of seven values. outlines: all values of what
    is read as an outline.
    """

    sixth: dict[tuple[str, int], float] = field(default_factory=dict)
    seven: dict[tuple[str, int], tuple[float, float]] = field(default_factory=dict)
    outlines: dict[tuple[str, int], NDArray[np.float64]] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class _Rows:
    """Turns the lines of label files of one image of width x height px into objects."""

    label_of: Mapping[int, int]
    width: int
    height: int
    points: int | None
    masks: bool
    counts: Counter[str]
    where: str
    forms: _Forms

    def read(self, text: str) -> Iterator[RawObject]:
        """An object for each line; what is wrong with one is a flaw of it."""
        seen: set[str] = set()
        for number, line in enumerate(text.splitlines(), start=1):
            if not line.strip():
                continue
            words = line.replace(",", " ").split()
            if " ".join(words) in seen:
                self.counts["repeated"] += 1
                continue
            seen.add(" ".join(words))
            yield self._object(words, number)

    def _object(self, words: Sequence[str], number: int) -> RawObject:
        kind = read_number(words[0])
        label = self.label_of.get(int(kind), -1) if kind.is_integer() else -1
        values = np.array([read_number(word) for word in words[1:]])
        flaws: list[Flaw] = []
        parts: list[Any] = []
        box: Box = (NAN, NAN, NAN, NAN)
        if self.points and len(values) == 4 + self.points:
            values = values[:4]
        if len(values) == 6:
            self.forms.seven[self.where, number - 1] = float(values[4]), float(values[5])
        if len(values) == 5:
            self.forms.sixth[self.where, number - 1] = float(values[4])
            self.counts["confidence"] += 1
            values = values[:4]
        if len(values) == 4:
            x, y, wide, high = values.tolist()
            across, down = self.width, self.height
            box = (
                (x - wide / 2) * across,
                (y - high / 2) * down,
                (x + wide / 2) * across,
                (y + high / 2) * down,
            )
        elif len(values) >= 6 and len(values) % 2 == 0:
            self.forms.outlines[self.where, number - 1] = values
            parts = [values.reshape(-1, 2) * (self.width, self.height)]
            box = box_around(parts)
        else:
            message = f"has {len(words)} values; a box has 5, an outline 7 or more, an odd number"
            flaws.append(Flaw("no number", message))
        finite = values[np.isfinite(values)]
        if not flaws and len(finite) and np.abs(finite).max() > FAR_OUTSIDE:
            message = f"its value {np.abs(finite).max():g} is no share of the image's sides (0..1)"
            flaws.append(Flaw("not normalized", message))
        return RawObject(
            item=f"line {number}",
            label=label,
            category=words[0],
            box=box,
            area=area_of(parts) if parts else None,
            segmentation=flat(parts) if parts and self.masks else None,
            number=number - 1,
            flaws=tuple(flaws),
            bare=not parts,
        )
