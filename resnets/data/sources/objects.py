"""Data sets given as Python objects: arrays, tensors, torch data sets and iterables of pairs."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps

from resnets.config import ConfigError, DataSpec
from resnets.data.dataset.in_memory import MEMORY_LIMIT
from resnets.data.dataset.labeled_images import Split
from resnets.data.dataset.labels import Labels, is_multilabel, multi_hot
from resnets.data.dataset.source import ArrayPart, FilePart, Part, Rows, Source
from resnets.data.decode.decode import encode
from resnets.data.errors import DataError
from resnets.utils.imports import PREFIX, qualified_name

PARTS = ("train", "val", "test")
COMPARED = 16  # images read twice to see whether they are the same each time
Pixels = NDArray[np.uint8]


def source_of(data: Any) -> Source:
    """The data set `data`: training images, or a mapping with "train" and "val", "test" or both.

    Each part is a pair (images, labels) of arrays or tensors; a data set with `len()` and `[row]`
    that gives (image, label), such as torch's; or an iterable of such pairs, which is read once.
    The mapping may also name the classes ("classes": [...]); else a data set's `classes` do,
    labels that are text are their own names, and numbers are called "0", "1", .... Where images
    have sets of labels, each label is a list, tuple or set of these, or a row of 0 and 1 of an
    array (N, K).

    Images are uint8, or floating point from 0 to 1, of shape (H, W), (H, W, 1 or 3) or (1 or 3, H,
    W); of a data set also PIL images. The recipe normalizes and augments them. Images that are
    another each time they are read (random transforms) are read anew in each epoch and have no
    fingerprint. Raises DataError for anything else.
    """
    given = dict(data) if isinstance(data, Mapping) else {"train": data}
    names = given.pop("classes", None)
    if len(given) == 1 and given.keys() <= set(PARTS):  # to be measured on, for instance
        given = {"train": next(iter(given.values()))}
    if "train" not in given or not given.keys() <= set(PARTS):
        raise DataError(
            f"data: has the parts {', '.join(map(str, given)) or 'none'}; give a mapping with"
            " 'train', and 'val' and 'test' where there are such images"
        )
    pairs = isinstance(given["train"], tuple | list)
    name = PREFIX + ("arrays" if pairs else qualified_name(given["train"]))
    if names is None:
        names = getattr(given["train"], "classes", None)
    opened = {title: _open_part(part, title) for title, part in given.items()}
    classes = _classes(names, opened["train"])
    parts = {title: each.part(classes) for title, each in opened.items()}
    notes = [
        f"the {title} images are read anew each time and differ (random transforms?): they have no"
        " fingerprint, and a resumed run is not bit-identical"
        for title, each in opened.items()
        if each.changing
    ]
    if len({is_multilabel(part.labels) for part in parts.values()}) > 1:
        raise DataError("data: one part has one label for each image, another sets of labels")
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
class _Opened:
    """One part: its labels as given (a set of them as a tuple), images in memory or read when
    needed, and whether they change. columns: of labels (N, K)."""

    title: str
    labels: list[Any]
    images: Sequence[Pixels] | None
    read: Callable[[int], Pixels] | None = None
    changing: bool = False
    columns: int = 0

    def part(self, classes: tuple[str, ...]) -> Part:
        labels = _numbers(self.labels, classes, self.title)
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
        """How many there are."""
        return len(self.rows)

    def name(self, index: int) -> str:
        """What messages call the image."""
        return f"{self.title} image {self.rows[index]}"

    def read(self, index: int) -> bytes:
        """The image as a PPM or PGM file."""
        return encode(self.read_pixels(int(self.rows[index])))

    def take(self, rows: Rows) -> ObjectFiles:
        """The images of `rows`, renumbered from 0."""
        return replace(self, rows=self.rows[rows])


class ChangingPart(FilePart):
    """Images that are another each time they are read, so never kept in memory."""

    def open(
        self, rows: Rows, classes: tuple[str, ...], description: str, spec: DataSpec, training: bool
    ) -> Split:
        """The images of `rows`, read anew each time."""
        spec = replace(spec, in_memory="never")
        return super().open(rows, classes, description, spec, training)


def _open_part(part: Any, title: str) -> _Opened:
    if isinstance(part, tuple | list) and len(part) == 2 and not _is_pair(part[0]):
        images, labels = (_array(each) for each in part)
        if images.ndim not in (3, 4) or labels.ndim not in (1, 2) or len(images) != len(labels):
            raise DataError(
                f"data: {title} images of shape {images.shape} and labels of shape {labels.shape}"
                " do not go together; give (N, H, W[, C]) and (N,), or (N, K) of 0 and 1"
            )
        if labels.ndim == 2 and not np.isin(labels, (0, 1)).all():
            raise DataError(f"data: {title} labels (N, K) have other values than 0 and 1")
        pixels = list(_pixels(images, f"{title} images", batch=True))
        if labels.ndim == 2:
            sets = [tuple(np.flatnonzero(row).tolist()) for row in labels]
            return _Opened(title, sets, pixels, columns=labels.shape[1])
        return _Opened(title, labels.tolist(), pixels)
    if hasattr(part, "__getitem__") and hasattr(part, "__len__"):
        return _open_dataset(part, title)
    if not isinstance(part, Iterable):
        raise DataError(f"data: {title} is a {type(part).__name__}, not a data set of images")
    found = [
        (_pixels(image, f"{title} image {row}"), label)
        for row, (image, label) in enumerate(_bounded(part, title))
    ]
    if not found:
        raise DataError(f"data: {title} has no images")
    given = [_as_given(label) for _, label in found]
    return _Opened(title, given, [image for image, _ in found])


def _open_dataset(part: Any, title: str) -> _Opened:
    """A data set that is read by row: once where it fits into memory and stays the same."""
    count, lock = len(part), threading.Lock()
    if not count:
        raise DataError(f"data: {title} has no images")

    def read(row: int) -> tuple[Pixels, Any]:
        with lock:  # data sets of torch are not made to be read from several threads
            pair = part[row]
        if not _is_pair(pair):
            raise DataError(f"data: {title}[{row}] is not a pair (image, label)")
        return _pixels(pair[0], f"{title} image {row}"), pair[1]

    rows = np.unique(np.linspace(0, count - 1, COMPARED).astype(np.int64)).tolist()
    changing = any(not np.array_equal(read(row)[0], read(row)[0]) for row in rows)
    labels, images, size = [], [], 0
    for row in range(count):
        pixels, label = read(row)
        labels.append(_as_given(label))
        size += pixels.nbytes
        if not changing and size <= MEMORY_LIMIT:
            images.append(pixels)
    if len(images) == count:
        return _Opened(title, labels, images)
    return _Opened(title, labels, None, lambda row: read(row)[0], changing)


def _is_pair(item: Any) -> bool:
    return isinstance(item, tuple | list) and len(item) == 2


def _bounded(pairs: Iterable[Any], title: str) -> Iterator[Any]:
    """The pairs of an iterable; DataError for what is none, or too much to be held."""
    size = 0
    for row, pair in enumerate(pairs):
        if not _is_pair(pair):
            raise DataError(f"data: item {row} of {title} is not a pair (image, label)")
        yield pair
        size += getattr(pair[0], "nbytes", 0)
        if size > 4 * MEMORY_LIMIT:
            raise DataError(
                f"data: {title} is an iterable of more images than are held in memory; give a data"
                " set with len() and [row], or a path"
            )


def _array(value: Any) -> NDArray[Any]:
    return value.detach().cpu().numpy() if isinstance(value, torch.Tensor) else np.asarray(value)


def _pixels(image: Any, name: str, *, batch: bool = False) -> Pixels:
    """Pixels (H, W, 1 or 3) of one image, or (N, H, W, 1 or 3) of a batch."""
    if isinstance(image, Image.Image):
        upright = ImageOps.exif_transpose(image)
        return _pixels(np.asarray(upright.convert("L" if upright.mode in "1L" else "RGB")), name)
    values = _array(image)
    start = 1 if batch else 0
    if values.ndim == start + 2:
        values = values[..., None]
    shape = values.shape[start:]
    if len(shape) == 3 and shape[2] not in (1, 3) and shape[0] in (1, 3):
        values = np.moveaxis(values, start, -1)
    if len(shape) != 3 or values.shape[-1] not in (1, 3):
        raise DataError(
            f"data: {name}: shape {shape}; an image is (H, W), (H, W, 1 or 3) or (1 or 3, H, W)"
        )
    if values.dtype == np.uint8:
        return np.ascontiguousarray(values)
    if not np.issubdtype(values.dtype, np.floating):
        raise DataError(f"data: {name}: {values.dtype}; give uint8, or floats from 0 to 1")
    low, high = float(values.min()), float(values.max())
    if not 0 <= low <= high <= 1:
        raise DataError(
            f"data: {name}: values from {low:.4g} to {high:.4g}; give uint8, or floats from 0 to 1,"
            " before any normalization (the recipe's data.normalize does that)"
        )
    return np.ascontiguousarray(np.round(values * 255).astype(np.uint8))


def _as_given(label: Any) -> Any:
    """A label, and a set of them as a tuple; a row of 0 and 1 as the tuple of its places."""
    if isinstance(label, list | tuple | set | frozenset):
        return tuple(label)
    if getattr(label, "ndim", 0) == 1:
        row = _array(label)
        if not np.isin(row, (0, 1)).all():
            raise DataError(f"data: label {row.tolist()}: a row of labels is of 0 and 1")
        return tuple(np.flatnonzero(row).tolist())
    return label


def _names(label: Any) -> tuple[Any, ...]:
    return label if isinstance(label, tuple) else (label,)


def _classes(names: Any, part: _Opened) -> tuple[str, ...]:
    """Class names: as given, the labels themselves where they are text, or their numbers."""
    if names is not None:
        return tuple(map(str, names))
    found = [name for label in part.labels for name in _names(label)]
    if all(isinstance(name, str) for name in found):
        return tuple(sorted(set(found)))
    return tuple(str(number) for number in range(max(part.columns, max(map(_number, found)) + 1)))


def _numbers(labels: Sequence[Any], classes: tuple[str, ...], title: str) -> Labels:
    """(N,) int64, or (N, K) where labels are sets."""
    place = {name: number for number, name in enumerate(classes)}
    found = []
    for row, label in enumerate(labels):
        numbers = []
        for name in _names(label):
            number = place.get(name, -1) if isinstance(name, str) else _number(name)
            if not 0 <= number < len(classes):
                raise DataError(
                    f"data: {title} label {row} is {name!r}, which is none of the {len(classes)}"
                    " classes"
                )
            numbers.append(number)
        found.append(numbers)
    several = {isinstance(label, tuple) for label in labels}
    if len(several) > 1:
        raise DataError(f"data: {title} has labels that are sets and labels that are not")
    if several == {True}:
        return multi_hot(found, len(classes))
    return np.array([number for (number,) in found], np.int64)


def _number(label: Any) -> int:
    try:
        number = label.item() if hasattr(label, "item") else label
        if isinstance(number, bool) or int(number) != number:
            raise ValueError
        return int(number)
    except (TypeError, ValueError):
        raise DataError(f"data: label {label!r} is neither a class number nor a name") from None


def refuse_name(source: str) -> None:
    """Raise ConfigError for the name that a recipe has of a data set given as a Python object."""
    if source.startswith(PREFIX):
        raise ConfigError(
            f"data: {source.removeprefix(PREFIX)} was given as a Python object; give it again, or"
            " name another data set"
        )
