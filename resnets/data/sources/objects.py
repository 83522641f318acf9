"""Data sets given as Python objects: arrays, tensors, torch data sets, and iterables of pairs."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from resnets.config import ConfigError, DataSpec
from resnets.data.dataset.in_memory import MEMORY_LIMIT
from resnets.data.dataset.labeled_images import Split
from resnets.data.dataset.labels import Labels, is_multilabel, multi_hot
from resnets.data.dataset.source import ArrayPart, FilePart, Part, Rows, Source
from resnets.data.decode.arrays import describe_array, to_array, to_pixels
from resnets.data.decode.decode import encode_pnm
from resnets.data.errors import DataError
from resnets.data.order import evenly_spaced
from resnets.utils.imports import PREFIX, qualified_name

PARTS = ("train", "val", "test")
NUM_COMPARED = 16  # images read twice to detect random transforms
MAX_CLASSES = 1_000_000  # more are a mistake, such as identifiers given as labels
Pixels = NDArray[np.uint8]


def open_objects(data: Any) -> Source:
    """Open the data set `data`: training images, or a mapping of "train" and "val", "test" or both.

    Each part is a pair (images, labels) of arrays or tensors; a data set with `len()` and `[row]`
    that returns (image, label), such as torch's; or an iterable of such pairs, which is read once.
    The mapping may also contain the class names ("classes": [...]). Otherwise these are the data
    set's `classes`; string labels are their own class names, and integers are named "0", "1", ....
    For multi-label data, each label is a list, tuple or set of these, or a 0/1 row of an array (N,
    K).

    Images are as `data.decode.arrays.to_pixels` understands them: uint8, or floating point from 0
    to 1, of shape (H, W), (H, W, 1 or 3) or (1 or 3, H, W). Data sets may also return PIL images.
    The recipe normalizes and augments them. Images that differ each time they are read (random
    transforms) are read again in each epoch and have no fingerprint. Raises DataError for any other
    object.
    """
    parts_given = dict(data) if isinstance(data, Mapping) else {"train": data}
    names = parts_given.pop("classes", None)
    if len(parts_given) == 1 and parts_given.keys() <= set(PARTS):  # such as only a test split
        parts_given = {"train": next(iter(parts_given.values()))}
    if "train" not in parts_given or not parts_given.keys() <= set(PARTS):
        raise DataError(
            f"data: got the splits {', '.join(map(str, parts_given)) or 'none'}; give a mapping "
            "with 'train', and optionally 'val' and 'test'"
        )
    is_pair = isinstance(parts_given["train"], tuple | list)
    name = PREFIX + ("arrays" if is_pair else qualified_name(parts_given["train"]))
    if names is None:
        names = getattr(parts_given["train"], "classes", None)
    object_parts = {title: _open_part(part, title) for title, part in parts_given.items()}
    classes = _find_classes(names, object_parts["train"])
    parts = {title: each.make_part(classes) for title, each in object_parts.items()}
    notes = [f"{title} images: {each.form}" for title, each in object_parts.items() if each.form]
    notes += [
        f"the {title} images are read again each time and differ (random transforms?): they have no"
        " fingerprint, and a resumed run is not bit-identical"
        for title, each in object_parts.items()
        if each.changing
    ]
    if len({is_multilabel(part.labels) for part in parts.values()}) > 1:
        raise DataError(
            "data: one split is single-label, another multi-label; use one form for all"
        )
    test = parts.get("test")
    return Source(
        name,
        classes,
        parts["train"],
        parts.get("val"),
        None if test is None else lambda: test,
        "test",
        None if test is None else len(test.labels),
        notes=tuple(notes),
    )


@dataclass(frozen=True, eq=False)
class _ObjectPart:
    """A part: its labels as given (sets as tuples), and its images in memory or a function.

    form: how the first image was understood; "" for PIL images. changing: whether images differ
    each time they are read. columns: K of multi-hot labels (N, K).
    """

    title: str
    labels: list[Any]
    images: Sequence[Pixels] | None
    form: str
    read: Callable[[int], Pixels] | None = None
    changing: bool = False
    columns: int = 0

    def make_part(self, classes: tuple[str, ...]) -> Part:
        labels = _encode_labels(self.labels, classes, self.title)
        if self.images is not None and len({image.shape for image in self.images}) == 1:
            return ArrayPart(self.title, np.stack(self.images), labels)
        read = self.read
        if self.images is not None:
            read = self.images.__getitem__
        assert read is not None
        files = ObjectFiles(self.title, read, np.arange(len(labels)))
        if not self.changing:
            return FilePart(self.title, files, labels)
        return ChangingPart(self.title, files, labels, content=np.zeros(len(labels), np.uint64))


@dataclass(frozen=True, eq=False)
class ObjectFiles:
    """Images of a Python object as files: `read_pixels(row)` for each of `rows`, as PPM."""

    title: str
    read_pixels: Callable[[int], Pixels]
    rows: Rows

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.rows)

    def name(self, index: int) -> str:
        """Return the name of the image for messages."""
        return f"{self.title} image {self.rows[index]}"

    def read(self, index: int) -> bytes:
        """Return the image as a PPM or PGM file."""
        return encode_pnm(self.read_pixels(int(self.rows[index])))

    def take(self, rows: Rows) -> ObjectFiles:
        """Return the images of `rows`, renumbered from 0."""
        return replace(self, rows=self.rows[rows])


class ChangingPart(FilePart):
    """Images that differ each time they are read, so that they are never kept in memory."""

    def open(
        self, rows: Rows, classes: tuple[str, ...], description: str, spec: DataSpec, training: bool
    ) -> Split:
        """Return the images of `rows`, read again each time."""
        spec = replace(spec, in_memory="never")
        return super().open(rows, classes, description, spec, training)


def _open_part(part: Any, title: str) -> _ObjectPart:
    if isinstance(part, tuple | list) and len(part) == 2 and not _is_pair(part[0]):
        try:
            images, labels = (to_array(each) for each in part)
        except ValueError:  # rows of different lengths
            raise DataError(
                f"data: {title} images or labels differ in shape; give a list of (image, label)"
                " pairs, in which sizes and numbers of labels may differ"
            ) from None
        if images.ndim not in (3, 4) or labels.ndim not in (1, 2) or len(images) != len(labels):
            raise DataError(
                f"data: {title} images of shape {images.shape} do not match labels of shape "
                f"{labels.shape}; give (N, H, W[, C]) and (N,), or (N, K) of 0 and 1"
            )
        if labels.ndim == 2 and not np.isin(labels, (0, 1)).all():
            raise DataError(f"data: {title} labels of shape (N, K) must be 0 or 1")
        pixels = list(to_pixels(images, f"data: {title} images", batch=True))
        form = _describe(images, f"{title} images", batch=True)
        if labels.ndim == 2:
            sets = [tuple(np.flatnonzero(row).tolist()) for row in labels]
            return _ObjectPart(title, sets, pixels, form, columns=labels.shape[1])
        return _ObjectPart(title, labels.tolist(), pixels, form)
    if hasattr(part, "__getitem__") and hasattr(part, "__len__"):
        return _open_dataset(part, title)
    if not isinstance(part, Iterable):
        raise DataError(f"data: {title} must be a data set of images, got {type(part).__name__}")
    given: list[Any] = []
    pixels, form = [], ""
    for row, (image, label) in enumerate(_iter_pairs(part, title)):
        name = f"{title} image {row}"
        pixels.append(_to_pixels(image, name))
        given.append(_normalize_label(label))
        form = form or _describe(image, name)
    if not given:
        raise DataError(f"data: {title} has no images")
    return _ObjectPart(title, given, pixels, form)


def _open_dataset(part: Any, title: str) -> _ObjectPart:
    """Open an indexable data set; it is read once if it fits into memory and does not change."""
    count, lock = len(part), threading.Lock()
    if not count:
        raise DataError(f"data: {title} has no images")

    def get(row: int) -> tuple[Any, Any]:
        with lock:  # torch data sets may not be thread-safe
            pair = part[row]
        if not _is_pair(pair):
            raise DataError(f"data: {title}[{row}] is not a pair (image, label)")
        return pair[0], pair[1]

    def read(row: int) -> tuple[Pixels, Any]:
        image, label = get(row)
        return _to_pixels(image, f"{title} image {row}"), label

    form = _describe(get(0)[0], f"{title} image 0")

    rows = evenly_spaced(count, NUM_COMPARED).tolist()
    changing = any(not np.array_equal(read(row)[0], read(row)[0]) for row in rows)
    labels, images, size = [], [], 0
    for row in range(count):
        pixels, label = read(row)
        labels.append(_normalize_label(label))
        size += pixels.nbytes
        if not changing and size <= MEMORY_LIMIT:
            images.append(pixels)
    if len(images) == count:
        return _ObjectPart(title, labels, images, form)
    return _ObjectPart(title, labels, None, form, lambda row: read(row)[0], changing)


def _is_pair(item: Any) -> bool:
    return isinstance(item, tuple | list) and len(item) == 2


def _iter_pairs(pairs: Iterable[Any], title: str) -> Iterator[Any]:
    """Yield the pairs of an iterable; raises DataError for other items or too little memory."""
    size = 0
    for row, pair in enumerate(pairs):
        if not _is_pair(pair):
            raise DataError(f"data: item {row} of {title} is not a pair (image, label)")
        yield pair
        size += getattr(pair[0], "nbytes", 0)
        if size > 4 * MEMORY_LIMIT:
            raise DataError(
                f"data: {title} is an iterable of too many images to keep in memory; give a data "
                "set with len() and [row], or a path"
            )


def _to_pixels(image: Any, name: str) -> Pixels:
    """Return pixels (H, W, 1 or 3) of a PIL image, array or tensor."""
    if isinstance(image, Image.Image):
        upright = ImageOps.exif_transpose(image)
        image = np.asarray(upright.convert("L" if upright.mode in "1L" else "RGB"))
        return image[..., None] if image.ndim == 2 else image
    return to_pixels(image, f"data: {name}")


def _describe(image: Any, name: str, *, batch: bool = False) -> str:
    """Return how the images of a part are understood; "" for PIL images."""
    if isinstance(image, Image.Image):
        return ""
    return describe_array(image, f"data: {name}", batch=batch)


def _normalize_label(label: Any) -> Any:
    """Return a label, with a set as a tuple; a 0/1 row becomes a tuple of indices."""
    if isinstance(label, list | tuple | set | frozenset):
        return tuple(label)
    if getattr(label, "ndim", 0) == 1:
        row = to_array(label)
        if not np.isin(row, (0, 1)).all():
            raise DataError(
                f"data: label {row.tolist()}: a row of labels must contain only 0 and 1"
            )
        return tuple(np.flatnonzero(row).tolist())
    return label


def _label_names(label: Any) -> tuple[Any, ...]:
    return label if isinstance(label, tuple) else (label,)


def _find_classes(names: Any, part: _ObjectPart) -> tuple[str, ...]:
    """Return the class names: as given, string labels, or the class numbers."""
    if names is not None:
        return tuple(map(str, names))
    found = [name for label in part.labels for name in _label_names(label)]
    if all(isinstance(name, str) for name in found):
        return tuple(sorted(set(found)))
    highest = max(map(_class_number, found))
    if highest >= MAX_CLASSES:
        raise DataError(
            f"data: {part.title} has label {highest}; class numbers must be 0 to K - 1 for K"
            f" classes (at most {MAX_CLASSES:,})"
        )
    return tuple(str(number) for number in range(max(part.columns, highest + 1)))


def _encode_labels(labels: Sequence[Any], classes: tuple[str, ...], title: str) -> Labels:
    """Return (N,) int64, or (N, K) uint8 for multi-label data."""
    class_index = {name: number for number, name in enumerate(classes)}
    encoded = []
    for row, label in enumerate(labels):
        numbers = []
        for name in _label_names(label):
            number = class_index.get(name, -1) if isinstance(name, str) else _class_number(name)
            if not 0 <= number < len(classes):
                raise DataError(
                    f"data: {title} label {row} is {name!r}, which is not one of the {len(classes)}"
                    " classes"
                )
            numbers.append(number)
        encoded.append(numbers)
    is_set = {isinstance(label, tuple) for label in labels}
    if len(is_set) > 1:
        raise DataError(f"data: {title} mixes single labels and lists of labels; use one form")
    if is_set == {True}:
        return multi_hot(encoded, len(classes))
    return np.array([number for (number,) in encoded], np.int64)


def _class_number(label: Any) -> int:
    try:
        number = label.item() if hasattr(label, "item") else label
        if isinstance(number, bool) or int(number) != number:
            raise ValueError
        return int(number)
    except (TypeError, ValueError):
        raise DataError(f"data: label {label!r} is neither a class number nor a name") from None


def check_not_object(source: str) -> None:
    """Raise ConfigError for a recipe whose data set was given as a Python object."""
    if source.startswith(PREFIX):
        raise ConfigError(
            f"data: {source.removeprefix(PREFIX)} was given as a Python object; give it again, or"
            " name another data set"
        )
