"""The sizes that image files state in their headers, compared with those of the annotations.

An image may be stored turned (EXIF orientation): boxes then are for its stored or for its upright
pixels, as the tool that drew them showed it. The stated size tells which where a turn swaps width
and height; elsewhere only the other images of the set can.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal

from resnets.data.decode.decode import naming
from resnets.data.decode.exif import TURNS, Turn, turn_of
from resnets.data.decode.open_image import open_image
from resnets.data.errors import DataError
from resnets.detect.images.store import Store
from resnets.utils.cpu_count import cores

HEAD_BYTES = 1 << 16  # headers end before, but for those that hold a preview or a profile
Frame = Literal["upright", "stored"]


@dataclass(frozen=True, slots=True)
class StoredSize:
    """Width and height in px as stored, and the EXIF orientation, 1..8."""

    width: int
    height: int
    orientation: int = 1

    @property
    def turn(self) -> Turn:
        """What makes it upright."""
        return TURNS[self.orientation]

    @property
    def upright(self) -> tuple[int, int]:
        """Width and height of the upright image."""
        return self.turn.size(self.width, self.height)


def read_sizes(
    store: Store,
    paths: Sequence[str],
    workers: int = 0,
    watch: Callable[[Iterable[object], int], Iterable[object]] | None = None,
) -> dict[str, StoredSize | str]:
    """What the header of each image says, or why it cannot be read."""
    unique = list(dict.fromkeys(paths))
    with ThreadPoolExecutor(workers or cores()) as pool:
        read: Iterable[object] = pool.map(lambda path: _read_size(store, path), unique)
        read = watch(read, len(unique)) if watch else read
        return dict(zip(unique, read, strict=True))  # type: ignore[arg-type]


def _read_size(store: Store, path: str) -> StoredSize | str:
    name = store.called(path)
    try:
        head = store.head(path, HEAD_BYTES)
        if len(head) >= HEAD_BYTES:
            try:
                return stored_size(head, name)
            except DataError:
                head = store.read(path)
        return stored_size(head, name)
    except DataError as error:
        return str(error).removeprefix(f"{name}: ")


def stored_size(data: bytes, name: str) -> StoredSize:
    """The size that the header of an encoded image states; DataError where it cannot be read."""
    with naming(name), open_image(data) as image:
        return StoredSize(*image.size, turn_of(image.info.get("exif")).orientation)


def stated_frame(sizes: Iterable[tuple[tuple[int, int], StoredSize]]) -> Frame | None:
    """Which pixels the boxes of a set are for, from its (annotated size, stored size) pairs.

    Told by images that a turn makes another shape; None where there are none, or both kinds.
    """
    found: set[Frame] = set()
    for stated, size in sizes:
        plain = size.width, size.height
        if size.upright != plain:
            if stated == size.upright:
                found.add("upright")
            elif stated == plain:
                found.add("stored")
    return found.pop() if len(found) == 1 else None


def scale_between(stated: tuple[int, int], actual: tuple[int, int]) -> tuple[float, float] | None:
    """Factors (x, y) from the annotated to the actual size where the aspect is equal, else None.

    Equal: one factor gives both sides to within a pixel.
    """
    across, down = actual[0] / stated[0], actual[1] / stated[1]
    long_side = 0 if stated[0] >= stated[1] else 1  # it tells the factor best
    factor = (across, down)[long_side]
    other = 1 - long_side
    return (across, down) if abs(stated[other] * factor - actual[other]) <= 1 else None
