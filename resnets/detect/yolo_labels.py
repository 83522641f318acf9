"""YOLO's label files: which belongs to which image, and their lines as objects."""

from __future__ import annotations

import posixpath
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

import numpy as np

from resnets.data.errors import DataError
from resnets.detect.documents import decode_text
from resnets.detect.image_sizes import StoredSize, read_sizes
from resnets.detect.records import Flaw, Problem, RawObject, RawPart, RawPicture
from resnets.detect.shapes import area_of, box_around, flat
from resnets.detect.store import Store, is_text_path
from resnets.detect.values import NAN, Box, read_number

NAME_FILES = ("classes.txt", "obj.names", "class.names", "classes.names", "_darknet.labels")
NOT_LABELS = frozenset({*NAME_FILES, "readme.txt", "train.txt", "val.txt", "valid.txt", "test.txt"})
FAR_OUTSIDE = 2.0  # a number from which on shares cannot be meant
_ROW = re.compile(r"\d+(?:\.0*)?(?:[ \t,]+-?[\d.]+(?:e-?\d+)?){4,}\s*", re.IGNORECASE)


@dataclass(frozen=True, eq=False)
class Layout:
    """A set's images by title, the names of its classes by number, and what was understood.

    points: numbers of key points that follow each box (`kpt_shape`), which are not read.
    """

    images: dict[str, list[str]]
    names: dict[int, str]
    notes: tuple[str, ...] = ()
    points: int = 0


def label_paths(image: str) -> Iterator[str]:
    """Where the label file of an image may lie, the likeliest first."""
    stem = posixpath.splitext(image)[0]
    parts = stem.split("/")
    for place in range(len(parts) - 2, -1, -1):
        name = parts[place].lower()
        if name in ("images", "image", "imgs", "img", "jpegimages"):
            for folder in ("labels", "label", "Labels"):
                yield "/".join([*parts[:place], folder, *parts[place + 1 :]]) + ".txt"
    yield f"{stem}.txt"
    folder, name = posixpath.split(stem)
    yield (
        posixpath.join(posixpath.dirname(folder), "labels", posixpath.basename(folder), name)
        + ".txt"
    )
    yield posixpath.join(folder, "labels", f"{name}.txt")


def read_part(
    store: Store, title: str, layout: Layout, label_of: dict[int, int], masks: bool
) -> RawPart:
    """The images of a part and what their label files say; DataError where all lack theirs."""
    images = layout.images[title]
    labels = {image: next(filter(store.__contains__, label_paths(image)), None) for image in images}
    bare = [image for image, label in labels.items() if label is None]
    notes, problems = [], []
    called = title or "all"
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
    for path in _unused(store, labels):
        said = "its image is not in the set"
        problems.append(Problem(store.called(path), "", "no image", said))
    sizes = read_sizes(store, images)
    stems = Counter(PurePosixPath(image).stem for image in images)
    counts: Counter[str] = Counter()
    pictures = []
    for image, label in labels.items():
        stem = PurePosixPath(image).stem
        size = sizes[image]
        width, height = size.upright if isinstance(size, StoredSize) else (0, 0)
        where = store.called(label) if label is not None else store.called(image)
        objects: tuple[RawObject, ...] = ()
        if label is not None:
            try:
                text = decode_text(store.read(label), where)
            except DataError as error:
                said = str(error).removeprefix(f"{where}: ")
                problems.append(Problem(where, "", "annotations", said))
                continue
            rows = _Rows(label_of, width, height, layout.points, masks, counts)
            objects = tuple(rows.read(text))
        counts["empty"] += label is not None and not objects
        whole = str(PurePosixPath(image).with_suffix(""))
        pictures.append(
            RawPicture(
                stem if stems[stem] == 1 else whole,
                image,
                image,
                where,
                width,
                height,
                objects,
                sized=False,
            )
        )
    texts = {
        "empty": "empty label files: images without objects",
        "repeated": "lines that occur twice in their file, read once",
        "confidence": "lines with a sixth value (a confidence or track), which is not read",
    }
    notes += [f"{called}: {counts[kind]:,} {text}" for kind, text in texts.items() if counts[kind]]
    return RawPart(pictures, problems, (), sum(len(each.objects) for each in pictures), notes)


def _unused(store: Store, labels: Mapping[str, str | None]) -> list[str]:
    """Label files in the folders of those that are read whose image is missing."""
    used = {path for path in labels.values() if path is not None}
    folders = {posixpath.dirname(path) for path in used}
    images = {posixpath.splitext(path)[0] for path in store.rows if not is_text_path(path)}
    return [
        path
        for path in sorted(store.rows)
        if posixpath.dirname(path) in folders
        and path not in used
        and path.lower().endswith(".txt")
        and posixpath.basename(path).lower() not in NOT_LABELS
        and posixpath.splitext(path)[0] not in images
        and is_label_file(store, path)
        and not _has_image(path, images)
    ]


def _has_image(label: str, images: set[str]) -> bool:
    """Whether an image elsewhere in the set, of another part, has this label file."""
    parts = label.split("/")
    for place, part in enumerate(parts[:-1]):
        if part.lower() in ("labels", "label"):
            for folder in ("images", "image", "imgs"):
                moved = "/".join([*parts[:place], folder, *parts[place + 1 :]])
                if posixpath.splitext(moved)[0] in images:
                    return True
    return False


@dataclass(frozen=True, eq=False)
class _Rows:
    """Turns the lines of label files of one image of width x height px into objects."""

    label_of: Mapping[int, int]
    width: int
    height: int
    points: int
    masks: bool
    counts: Counter[str]

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
        if len(values) == 5:
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
            parts = [values.reshape(-1, 2) * (self.width, self.height)]
            box = box_around(parts)
        else:
            said = f"has {len(words)} values; a box has 5, an outline 7 or more, an odd number"
            flaws.append(Flaw("no number", said))
        finite = values[np.isfinite(values)]
        if not flaws and len(finite) and np.abs(finite).max() > FAR_OUTSIDE:
            said = f"its value {np.abs(finite).max():g} is no share of the image's sides (0..1)"
            flaws.append(Flaw("not normalized", said))
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


def is_label_file(store: Store, path: str) -> bool:
    """Whether the first line of a text file is that of an object."""
    try:
        lines: Iterable[str] = store.lines(path)
    except DataError:
        return False
    return any(_ROW.fullmatch(line) for line in list(lines)[:1])
