"""Groups of images that belong together (`data.group`): frames of a video, images of a patient."""

from __future__ import annotations

import re

import numpy as np

from resnets.config import DataSpec, parse_group
from resnets.data.dataset.image_hash import Keys
from resnets.data.dataset.image_identity import Named, hash_names
from resnets.data.dataset.quarantine import path_within, prefixes
from resnets.data.dataset.source import Part
from resnets.data.errors import DataError


def group_keys(part: Part, spec: DataSpec) -> Keys | None:
    """(N,) uint64 hash of the name of each image's group, never 0; None where none are asked for.

    Groups of one name are one group, in whatever part they are. DataError where the set has no such
    column, or where the pattern does not match an image.
    """
    if spec.group is None:
        return None
    kind, text = parse_group(spec.group)
    if kind == "regex":
        names = _by_pattern(re.compile(text), part, spec)
    else:
        given = getattr(part, "groups", None)
        if given is None:
            title = f" ({part.title})" if part.title else ""
            raise DataError(
                f"data.group: {spec.source}{title} has no table of labels with a column {text!r};"
                " name one of its columns, or give regex:PATTERN, which is searched for in the"
                " images' paths"
            )
        names = list(given)
    return np.maximum(hash_names(names), np.uint64(1))


def _by_pattern(pattern: re.Pattern[str], part: Part, spec: DataSpec) -> list[str]:
    """The first group, or the whole, of what the pattern finds in each path within the source."""
    if part.files is None:
        raise DataError(f"data.group: {spec.source} has arrays of images, which have no paths")
    files, starts = part.files, prefixes(spec.source)
    stored = files.identities() if isinstance(files, Named) else None
    paths = [files.name(row) for row in range(len(files))] if stored is None else stored[0]
    names: list[str] = []
    missed: list[str] = []
    for path in paths:
        found = pattern.search(path_within(path, starts))
        name = found and found[1 if pattern.groups else 0]
        names.append(name or "")
        missed += [] if name else [path]
    if missed:
        raise DataError(
            f"data.group: {pattern.pattern!r} matches nothing in {len(missed):,} of"
            f" {len(paths):,} paths, such as {missed[0]}; write a pattern that names a group for"
            " each image"
        )
    return names
