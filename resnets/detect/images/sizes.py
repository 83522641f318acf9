"""Image sizes from file headers, compared with those of the annotations.

An image may be stored rotated (EXIF orientation). Boxes are then for its stored or its upright
pixels, depending on the tool that drew them. The annotated size tells which if the rotation swaps
width and height; otherwise only other images of the set can tell.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal

from resnets.data.decode.decode import reading_image
from resnets.data.decode.exif import ORIENTATIONS, Orientation, read_orientation
from resnets.data.decode.open_image import open_image
from resnets.data.errors import DataError
from resnets.detect.images.store import Store
from resnets.utils.machine.cpu_count import cores

HEAD_BYTES = 1 << 16  # enough for headers, except those with a preview or a profile
Frame = Literal["upright", "stored"]


@dataclass(frozen=True, slots=True)
class StoredSize:
    """Width and height in px as stored, and the EXIF orientation, 1..8."""

    width: int
    height: int
    orientation: int = 1

    @property
    def turn(self) -> Orientation:
        """The flips and transposition that make it upright."""
        return ORIENTATIONS[self.orientation]

    @property
    def upright(self) -> tuple[int, int]:
        """Width and height of the upright image."""
        return self.turn.size(self.width, self.height)


def read_sizes(
    store: Store,
    paths: Sequence[str],
    workers: int = 0,
    progress: Callable[[Iterable[object], int], Iterable[object]] | None = None,
) -> dict[str, StoredSize | str]:
    """Return the size in the header of each image, or why it cannot be read, by path.

    workers: threads, 0 = one per core. progress(results, total): may show progress.
    """
    unique = list(dict.fromkeys(paths))
    with ThreadPoolExecutor(workers or cores()) as pool:
        read: Iterable[object] = pool.map(lambda path: _read_size(store, path), unique)
        read = progress(read, len(unique)) if progress else read
        return dict(zip(unique, read, strict=True))  # type: ignore[arg-type]


def _read_size(store: Store, path: str) -> StoredSize | str:
    name = store.display_path(path)
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
    """Read the size from the header of an encoded image; DataError if it cannot be read."""
    with reading_image(name), open_image(data) as image:
        return StoredSize(*image.size, read_orientation(image.info.get("exif")).orientation)


def infer_frame(sizes: Iterable[tuple[tuple[int, int], StoredSize]]) -> Frame | None:
    """Infer which pixels the boxes of a set are for, from its (annotated, stored) sizes.

    Only images that are not square and stored rotated by 90 degrees tell. None if there are none,
    or they contradict each other.
    """
    frames: set[Frame] = set()
    for annotated, stored in sizes:
        plain = stored.width, stored.height
        if stored.upright != plain:
            if annotated == stored.upright:
                frames.add("upright")
            elif annotated == plain:
                frames.add("stored")
    return frames.pop() if len(frames) == 1 else None


def uniform_scale(
    annotated: tuple[int, int], actual: tuple[int, int]
) -> tuple[float, float] | None:
    """Return the factors (x, y) from the annotated to the actual size, or None.

    None if the aspect differs: one factor must give both sides to within a pixel.
    """
    x_factor, y_factor = actual[0] / annotated[0], actual[1] / annotated[1]
    long_side = 0 if annotated[0] >= annotated[1] else 1  # it tells the factor best
    factor = (x_factor, y_factor)[long_side]
    shorter_side = 1 - long_side
    return (
        (x_factor, y_factor)
        if abs(annotated[shorter_side] * factor - actual[shorter_side]) <= 1
        else None
    )
