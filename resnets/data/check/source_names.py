"""Images that by their names were made of one source: Roboflow's NAME.rf.HASH.jpg.

Its exports hold several augmented copies of a photograph, mirrored, turned or cut, which pixels do
not tell. Where they lie in two parts, one part knows what the other is measured on.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import PurePosixPath

from resnets.data.check.source import Contents
from resnets.data.splits.check_findings import SAME_SOURCE, Finding

HASHED = re.compile(r"(.+)\.rf\.[0-9A-Za-z]{8,}")


def source_name(path: str) -> str | None:
    """The name of the image that a copy was made of, None where its name states none.

    >>> source_name("train/cat_jpg.rf.0a1b2c3d4e5f.jpg"), source_name("train/cat.jpg")
    ('cat_jpg', None)
    """
    found = HASHED.fullmatch(PurePosixPath(path).stem)
    return found[1] if found else None


def copies_by_name(contents: Contents) -> Iterator[Finding]:
    """Images of which a part that is kept apart has another copy of the same source."""
    first: dict[str, tuple[str, str]] = {}
    for number in range(len(contents)):
        path = contents.path(number)
        if (name := source_name(path)) is None:
            continue
        part, label = contents.part_and_label(number)
        twin, twin_part = first.setdefault(name, (path, part))
        if twin_part != part:
            detail = f"of the same source as {twin} in {twin_part}"
            yield Finding(SAME_SOURCE, path, detail, part, label, twin, twin_part)
