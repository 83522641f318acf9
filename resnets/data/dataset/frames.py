"""Images of several frames or pages, of which only the first is read."""

from __future__ import annotations

import numpy as np

from resnets.data.dataset.parts import Rows
from resnets.data.decode.open_image import open_image
from resnets.data.files.open import Files
from resnets.data.files.walk import IMAGE_SUFFIXES, suffix_of

LISTED = 4096  # images whose names are looked at, evenly spaced
SAMPLE = 64  # of these, files that are opened
MANY = frozenset({".tif", ".tiff", ".gif", ".webp", ".apng", ".png", ".avif", ".avifs"})


def frames_left_out(files: Files, rows: Rows) -> tuple[str, ...]:
    """A warning where images of a sample have frames or pages that are not read, else nothing.

    Headers alone are read, of up to 64 files of formats that can hold several frames. MPO is a
    photograph with its previews.
    """
    places = np.unique(np.linspace(0, len(rows) - 1, min(LISTED, len(rows))).astype(np.int64))
    found = [row for row in rows[places].tolist() if _may_hold_many(files.name(row))]
    places = np.unique(np.linspace(0, len(found) - 1, min(SAMPLE, len(found))).astype(np.int64))
    several: list[tuple[int, int]] = []
    for row in (found[place] for place in places):
        try:
            with open_image(files.read(row)) as image:
                count = 1 if image.format == "MPO" else int(getattr(image, "n_frames", 1))
        except Exception:  # whatever a damaged file makes Pillow raise: named when its turn comes
            continue
        if count > 1:
            several.append((row, count))
    if not several:
        return ()
    row, count = several[0]
    return (
        f"only the first frame or page of an image is read: {len(several)} of {len(places)} images"
        f" looked at have more, such as {files.name(row)} with {count:,}; save each as a file of"
        " its own if they are to be used",
    )


def _may_hold_many(name: str) -> bool:
    suffix = suffix_of(name)
    return suffix in MANY or suffix not in IMAGE_SUFFIXES
