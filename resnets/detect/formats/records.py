"""`RawObject`, `RawImage`, `RawImageSet` and `RawDataset`: parsed annotations, not yet checked.

The formats create them; `problems` checks them; `loading` turns them into splits.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from resnets.data.layout.folder_names import Role, role_within
from resnets.detect.data.class_maps import Coding
from resnets.detect.data.types import Segmentation
from resnets.detect.data.values import Box
from resnets.detect.images.path_matching import Match
from resnets.detect.images.sizes import StoredSize
from resnets.detect.images.store import Store

Task = Literal["detect", "localize", "instances", "segment"]


@dataclass(frozen=True, slots=True)
class Problem:
    """Something wrong with a set: `where` is the file, `item` the entry in it, `kind` its kind."""

    where: str
    item: str
    kind: str
    message: str

    def __str__(self) -> str:
        return ": ".join(filter(None, (self.where, self.item, self.message)))


@dataclass(frozen=True, slots=True)
class Flaw:
    """Something wrong with how one object is written; `kind` and `message` as of `Problem`."""

    kind: str
    message: str


ID_TWICE = "id twice"  # kind of the only flaw with which an object is still used


@dataclass(frozen=True, slots=True)
class RawObject:
    """One annotated object.

    item: its name in messages ("annotation 17"). label: index into the classes, -1 = not one of
    them. category: its class as written. box: left, top, right, bottom in px. number: its index
    among the objects of its file.
    """

    item: str
    label: int
    category: str
    box: Box
    area: float | None = None
    crowd: bool = False
    difficult: bool = False
    segmentation: Segmentation | None = None
    number: int = 0
    flaws: tuple[Flaw, ...] = ()


@dataclass(frozen=True, slots=True)
class RawImage:
    """One annotated image; `path` is None if the store has no file for it.

    name: its name in messages. where: the file with its annotations. width, height: [px] as
    annotated; 0 = unspecified, -1 = invalid. class_map: path of its class map, or None. missing:
    why there is no path. stored: the size in the header of its file, None = not read. unreadable:
    why the header cannot be read. has_size: whether the annotations specify a size. file: its file
    in messages. original_id: its id as written in the file, for results; None = image_id.
    """

    image_id: int | str
    path: str | None
    name: str
    where: str
    width: int
    height: int
    objects: tuple[RawObject, ...] = ()
    class_map: str | None = None
    missing: Flaw | None = None
    stored: StoredSize | None = None
    unreadable: str = ""
    has_size: bool = True
    file: str = ""
    original_id: int | str | None = None


def set_image_paths(images: Sequence[RawImage], matches: Sequence[Match]) -> list[RawImage]:
    """Return the images with the path of their match, or why there is none."""
    return [
        replace(
            image,
            path=match.path,
            missing=None if match.path is not None else Flaw(match.kind, match.message),
        )
        for image, match in zip(images, matches, strict=True)
    ]


@dataclass(frozen=True)
class RawImageSet:
    """One image set as its files specify it.

    problems: those that belong to no image. orphans: a problem for each object without an image.
    objects: number of objects in the files, counted as they are read: those of `images` and the
    orphans. notes: how the files were interpreted, one line each.
    """

    images: Sequence[RawImage]
    problems: Sequence[Problem] = ()
    orphans: Sequence[Problem] = ()
    objects: int | None = None
    notes: Sequence[str] = ()


@dataclass(frozen=True, eq=False)
class RawDataset:
    """A stored data set; `load(title)` reads one of its image sets.

    category_ids: id of each class in the source. titles: names of the image sets ("train",
    "VOC2007:train"). coding: meaning of the pixels of class maps, if there are any. notes: as of
    `RawImageSet`. original_ids: category_ids as written in the file, for results; () = equal.
    caveat: what metrics on the set do not take into account, for their protocol.
    """

    name: str
    store: Store
    classes: tuple[str, ...]
    category_ids: tuple[int, ...]
    titles: tuple[str, ...]
    load: Callable[[str], RawImageSet]
    coding: Coding | None = None
    notes: Sequence[str] = ()
    original_ids: tuple[int | str, ...] = ()
    caveat: str = ""


def set_name(title: str) -> str:
    """Return the name of an image set without its folder or year: "train" of "VOC2007:train"."""
    return title.rpartition(":")[2]


def set_role(title: str) -> Role | None:
    """Return the split that an image set is for, by its name."""
    return role_within(set_name(title))


def is_training_set(title: str) -> bool:
    """Return whether an image set is for training, by its name."""
    return set_role(title) in ("train", "trainval")
