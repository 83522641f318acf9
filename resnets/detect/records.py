"""Annotations as a source states them: parsed, not yet believed."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath

from resnets.detect.store import TEXT_SUFFIXES, Store
from resnets.detect.types import Segmentation

Box = tuple[float, float, float, float]
MAP_FOLDERS = frozenset({"SegmentationClass", "SegmentationObject", "masks", "stuffthingmaps"})


@dataclass(frozen=True, slots=True)
class Problem:
    """Something wrong with a set: `where` is a file, `item` what in it, `kind` one of a few."""

    where: str
    item: str
    kind: str
    said: str

    def __str__(self) -> str:
        return ": ".join(filter(None, (self.where, self.item, self.said)))


@dataclass(frozen=True, slots=True)
class RawObject:
    """One annotated object.

    item: what messages call it ("annotation 17"). label: index into the classes, -1 = a category
    that is not among them, which `category` then names. box: left, top, right, bottom in px.
    """

    item: str
    label: int
    category: str
    box: Box
    area: float | None = None
    crowd: bool = False
    difficult: bool = False
    segmentation: Segmentation | None = None


@dataclass(frozen=True, slots=True)
class RawPicture:
    """One picture and what is said of it; `path` is None where the store has no such file.

    where: the file with its annotations. class_map: path of its map of classes, or None.
    """

    image_id: int | str
    path: str | None
    called: str
    where: str
    width: int
    height: int
    objects: tuple[RawObject, ...] = ()
    class_map: str | None = None


@dataclass(frozen=True)
class RawPart:
    """One image set; `problems` are those of no single picture (annotations without pictures)."""

    pictures: Sequence[RawPicture]
    problems: Sequence[Problem] = ()


@dataclass(frozen=True, eq=False)
class RawSource:
    """A stored set: `load(title)` reads one of its image sets, and only that.

    category_ids: the source's own number of each class. has_masks: its objects have outlines.
    values: (value of a class map's pixel -> class) where the set has class maps; void: the
    values of pixels that count for nothing.
    """

    name: str
    store: Store
    classes: tuple[str, ...]
    category_ids: tuple[int, ...]
    titles: tuple[str, ...]
    load: Callable[[str], RawPart]
    has_masks: bool = False
    values: dict[int, int] = field(default_factory=dict)
    void: frozenset[int] = frozenset()


class PictureFinder:
    """Finds pictures that annotations name, whichever folder of the set they lie in."""

    def __init__(self, store: Store, paths: Sequence[str]) -> None:
        self._store = store
        self._by_stem: dict[str, list[str]] = defaultdict(list)
        for path in paths:
            self._by_stem[PurePosixPath(path).stem].append(path)

    def find(self, name: str, hints: Sequence[str] = ()) -> str | None:
        """The picture called `name`, with or without folders and suffix; None where there is none.

        Of several, the first that has the folder of the earliest of `hints`, else of the others.
        """
        name = name.replace("\\", "/").removeprefix("./")
        wanted = PurePosixPath(name)
        found = self._by_stem.get(wanted.stem, []) or self._by_stem.get(wanted.name, [])
        exact = [path for path in found if path == name or path.endswith(f"/{name}")]
        found = exact or [path for path in found if _same_name(path, wanted)]
        for hint in hints:
            near = [path for path in found if hint in PurePosixPath(path).parts]
            if near:
                return near[0]
        return found[0] if found else None


def _same_name(path: str, wanted: PurePosixPath) -> bool:
    """Same file name, where `wanted` has a suffix; same stem where it has none."""
    return PurePosixPath(path).name == wanted.name or path.rsplit("/", 1)[-1].startswith(
        f"{wanted.name}."
    )


def picture_paths(store: Store) -> list[str]:
    """Paths of the set's pictures: all picture files but those in folders of class maps."""
    return [path for path in store.rows if not _is_text(path) and not _in_map_folder(path)]


def _is_text(path: str) -> bool:
    return PurePosixPath(path).suffix.lower() in TEXT_SUFFIXES


def _in_map_folder(path: str) -> bool:
    folders = PurePosixPath(path).parts[:-1]
    return any(
        folder in MAP_FOLDERS or folder.startswith(("semantic_", "panoptic_")) for folder in folders
    )
