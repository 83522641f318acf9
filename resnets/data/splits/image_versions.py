"""Images that by their names were made of one source.

Roboflow exports several augmented copies of a photograph (NAME.rf.HASH.jpg), mirrored, turned or
cut; WordPress stores each upload in several sizes (NAME.jpg, NAME-300x225.jpg, NAME-scaled.jpg),
some of them cut. Pixels do not tell either. Where versions lie in two splits, one split knows what
the other is measured on.
"""

from __future__ import annotations

import posixpath
import re
from collections import Counter
from collections.abc import Hashable, Sequence

from resnets.data.splits.fingerprint import TEST, TRAIN, VAL
from resnets.data.splits.roles import Roles

HASHED = re.compile(r"(.+)\.rf\.[0-9A-Za-z]{8,}")
SIZED = re.compile(r"(.+)-(?:[1-9]\d{1,4}x[1-9]\d{1,4}|scaled)")


def source_name(path: str) -> str | None:
    """The name of the image that a version was made of, None where its name states none.

    >>> source_name("train/cat_jpg.rf.0a1b2c3d4e5f.jpg"), source_name("train/cat.jpg")
    ('cat_jpg', None)
    >>> source_name("train/cat-300x225.jpg")
    'cat'
    """
    stem = _stem(path)
    found = HASHED.fullmatch(stem) or SIZED.fullmatch(stem)
    return found[1] if found else None


def sources_by_name(paths: Sequence[str], labels: Sequence[Hashable]) -> dict[int, Hashable]:
    """What tells the source of each image, by its place in `paths`, where names state one.

    An image without a size in its name is the source of those of its class that have its name and
    a size. Sizes follow common names, so such versions are of one class.
    """
    found: dict[int, Hashable] = {}
    sized = set()
    for place, path in enumerate(paths):
        base = path.rpartition("/")[2]
        if "-" not in base and ".rf." not in base:  # quick, for sets of a million images
            continue
        if (name := source_name(path)) is None:
            continue
        if HASHED.fullmatch(_stem(path)):
            found[place] = name
        else:
            found[place] = labels[place], name
            sized.add(found[place])
    if sized:
        for place, path in enumerate(paths):
            if place not in found and (key := (labels[place], _stem(path))) in sized:
                found[place] = key
    return found


def versions_apart(roles: Roles) -> list[str]:
    """A warning where held-out images are versions of training images."""
    names: list[str] = []
    labels: list[int] = []
    sides: list[int] = []
    for role in (TRAIN, VAL, TEST):
        if (share := roles.share(role)) is None:
            continue
        if (files := share.part.files) is None:
            return []
        names += [files.name(row) for row in share.rows.tolist()]
        labels += share.part.labels[share.rows].tolist()
        sides += [role] * len(share.rows)
    if not any(sides):  # TRAIN is 0: nothing is held out
        return []
    sources = sources_by_name(names, labels)
    counts = Counter(sources.values())
    trained = {key for place, key in sources.items() if sides[place] == TRAIN}
    apart = [place for place, key in sources.items() if sides[place] != TRAIN and key in trained]
    if not apart:
        return []
    held = f"{len(apart):,} held-out image{'s are' if len(apart) > 1 else ' is'}"
    return [
        f"{len(sources) - len(counts):,} of {len(names):,} images are named as versions of another;"
        f" versions fall into training and held-out splits: {held} of the same source as a training"
        f" image, such as {posixpath.basename(names[apart[0]])}; keep versions together with --set"
        " data.group=regex:PATTERN, or run `resnets data check` with --leave-out same-source for a"
        " list of them"
    ]


def _stem(path: str) -> str:
    return posixpath.splitext(posixpath.basename(path.replace("\\", "/")))[0]
