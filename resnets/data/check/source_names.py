"""Images of which another part has a version, by their names; see `splits.source_names`."""

from __future__ import annotations

from collections.abc import Hashable, Iterator

from resnets.data.check.source import Contents
from resnets.data.splits.check_findings import SAME_SOURCE, Finding
from resnets.data.splits.source_names import sources_by_name


def copies_by_name(contents: Contents) -> Iterator[Finding]:
    """Images of which a part that is kept apart has another version of the same source."""
    first: dict[Hashable, tuple[str, str]] = {}
    paths = [contents.path(number) for number in range(len(contents))]
    labels = [contents.part_and_label(number)[1] for number in range(len(contents))]
    for number, source in sorted(sources_by_name(paths, labels).items()):
        path, (part, label) = paths[number], contents.part_and_label(number)
        twin, twin_part = first.setdefault(source, (path, part))
        if twin_part != part:
            detail = f"of the same source as {twin} in {twin_part}"
            yield Finding(SAME_SOURCE, path, detail, part, label, twin, twin_part)
