"""The table of readers: valid files of each, and the ways in which the package reads them."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

HOME = "fuzzed-set"  # the folder that is opened, where that is one

Tree = dict[str, bytes]  # path below a folder -> bytes
Way = Callable[[Path], object]  # reads what lies in a folder


@dataclass(frozen=True)
class Reader:
    """What reads one kind of file.

    write: writes folders with valid files of the kind into a folder. ways: functions that read what
    lies in one of them. files: patterns of the paths to be damaged, of equal chance each. share:
    of all attempts, relative to other readers. names: whether its errors name the file (a server's
    do not). slow: valid files take long to make, so that only the long form has it.
    """

    name: str
    write: Callable[[Path], None]
    ways: tuple[Way, ...]
    files: tuple[str, ...] = ("*",)
    share: int = 20
    names: bool = True
    slow: bool = False

    def targets(self, tree: Tree) -> list[str]:
        """Paths that may be damaged, those of each pattern together as often as of another."""
        found = [
            sorted(path for path in tree if fnmatch.fnmatch(path, each)) for each in self.files
        ]
        most = max(map(len, found), default=0)
        return [path for paths in found if paths for path in paths * -(-most // len(paths))]

    def seeds(self, folder: Path) -> dict[str, Tree]:
        """The valid files, written below `folder`, by the name of the folder that each lies in."""
        folder.mkdir(parents=True)
        self.write(folder)
        found = {
            place.name: {
                path.relative_to(place).as_posix(): path.read_bytes()
                for path in sorted(place.rglob("*"))
                if path.is_file() and path.name != ".lock"
            }
            for place in sorted(folder.iterdir())
        }
        return {name: tree for name, tree in found.items() if self.targets(tree)}


def table() -> dict[str, Reader]:
    """All readers by name."""
    from fuzzing import (
        readers_annotations,
        readers_images,
        readers_runs,
        readers_sets,
        readers_weights,
    )

    modules = (readers_images, readers_sets, readers_annotations, readers_weights, readers_runs)
    return {reader.name: reader for module in modules for reader in module.READERS}


READERS: dict[str, Reader] = {}
