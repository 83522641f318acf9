"""Annotations as a source states them: parsed, not yet checked."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from resnets.detect.data.class_maps import Coding
from resnets.detect.data.types import Segmentation
from resnets.detect.data.values import Box
from resnets.detect.images.entries import Match
from resnets.detect.images.sizes import StoredSize
from resnets.detect.images.store import Store

Task = Literal["detect", "localize", "instances", "segment"]


@dataclass(frozen=True, slots=True)
class Problem:
    """Something wrong with a set: `where` is a file, `item` what in it, `kind` one of a few."""

    where: str
    item: str
    kind: str
    message: str

    def __str__(self) -> str:
        return ": ".join(filter(None, (self.where, self.item, self.message)))


@dataclass(frozen=True, slots=True)
class Flaw:
    """Something wrong with how one object is written; `kind` and `said` as a `Problem` has them."""

    kind: str
    message: str


ID_TWICE = "id twice"  # the kind of the one flaw that leaves an object as good as it was


@dataclass(frozen=True, slots=True)
class RawObject:
    """One annotated object.

    item: what messages call it ("annotation 17"). label: index into the classes, -1 = a category
    that is not among them, which `category` then names. box: left, top, right, bottom in px.
    number: its place among the objects of its file. bare: the file states no outline for it.
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
    bare: bool = True


@dataclass(frozen=True, slots=True)
class RawImage:
    """One image and what is said of it; `path` is None where the store has no file for it.

    where: the file with its annotations. width, height: as annotated; 0 = not stated, -1 = no
    number. lacking: why there is no path. class_map: path of its map of classes, or None.
    stored: what the header of its file says (`image_sizes`), None = not looked at; unreadable:
    why it says nothing. sized: the annotations state a size. file: what messages call its file.
    stated_id: its id as the file spells it, for results; None = image_id.
    """

    image_id: int | str
    path: str | None
    called: str
    where: str
    width: int
    height: int
    objects: tuple[RawObject, ...] = ()
    class_map: str | None = None
    lacking: Flaw | None = None
    stored: StoredSize | None = None
    unreadable: str = ""
    sized: bool = True
    file: str = ""
    stated_id: int | str | None = None


def with_matches(images: Sequence[RawImage], matches: Sequence[Match]) -> list[RawImage]:
    """The images, each with the file that it was matched with, or why there is none."""
    return [
        replace(
            image,
            path=match.path,
            lacking=None if match.path is not None else Flaw(match.kind, match.message),
        )
        for image, match in zip(images, matches, strict=True)
    ]


@dataclass(frozen=True)
class RawImageSet:
    """One image set as its files state it.

    problems: those of no single image. orphans: objects of no image that is there, a problem for
    each. objects: how many objects the files state, counted as they are read: those of `images`
    and the orphans. notes: what was understood that a user may want to know, a line each.
    """

    images: Sequence[RawImage]
    problems: Sequence[Problem] = ()
    orphans: Sequence[Problem] = ()
    objects: int | None = None
    notes: Sequence[str] = ()


@dataclass(frozen=True, eq=False)
class RawDataset:
    """A stored set: `load(title)` reads one of its image sets, and only that.

    category_ids: the source's own number of each class.
    coding: what the pixels of class maps mean, where the set has some. notes: as a part has them.
    stated_ids: category_ids as the file spells them, for results; () = as they are. caveat: what
    figures of the set do not take into account, for their protocol.
    """

    name: str
    store: Store
    classes: tuple[str, ...]
    category_ids: tuple[int, ...]
    titles: tuple[str, ...]
    load: Callable[[str], RawImageSet]
    coding: Coding | None = None
    notes: Sequence[str] = ()
    stated_ids: tuple[int | str, ...] = ()
    caveat: str = ""
