"""What annotation entries state of their images, and which file each was matched with."""

from __future__ import annotations

import posixpath
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from resnets.detect.images.names import plain_path, stem_of


@dataclass(frozen=True)
class Stated:
    """What one annotation entry says of its image.

    names: paths or file names in order of preference, as written. beside: path of the annotation
    file in the store. title: its image set. hints: further paths, that only choose among several.
    own: the one of `names` that follows from the annotation file's name, "" where none does; the
    others have to mean the same image. own_first: of names that do not, `own` is used where
    the image that the others mean has an entry of its own.
    """

    names: tuple[str, ...]
    beside: str
    title: str = ""
    hints: tuple[str, ...] = ()
    own: str = ""
    own_first: bool = False

    @property
    def agrees(self) -> bool:
        """Whether its names differ by folder and format at most."""
        return not self.own or len({stem_of(name) for name in self.names}) == 1


@dataclass(frozen=True)
class Match:
    """The image of an entry, or why there is none: `kind` and `said` as a `Problem` has them.

    renamed: the folder that the entry states, where the image lies in one of another name.
    """

    path: str | None
    kind: str = ""
    message: str = ""
    renamed: str = ""


def renamed_folders(matches: Iterable[Match]) -> list[str]:
    """What to note of folders that are stated by another name than they have."""
    pairs = Counter(
        (match.renamed, posixpath.dirname(match.path) or ".")
        for match in matches
        if match.path is not None and match.renamed
    )
    return [
        f"{count:,} images stated in {stated}/, which is not there, are taken from {folder}/"
        for (stated, folder), count in pairs.items()
    ]


def bare_folders(entries: Sequence[Stated], matches: Sequence[Match]) -> list[str]:
    """What to note where bare file names are found in several folders, or far from their file.

    An image of that name may be lost in one folder, and another of the same name lie elsewhere.
    """
    folders = Counter(
        posixpath.dirname(match.path) or "."
        for entry, match in zip(entries, matches, strict=True)
        if match.path is not None and "/" not in plain_path(entry.names[0])
    )
    if len(folders) < 2:
        return []
    listed = ", ".join(f"{count:,} from {folder}/" for folder, count in folders.most_common(5))
    return [f"images stated without a folder are taken from {len(folders)} folders: {listed}"]
