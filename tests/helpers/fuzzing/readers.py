"""The table of readers: functions of the package that read files, and valid files of each kind."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

HOME = "fuzzed-set"  # the folder that is opened, if a folder is opened

Tree = dict[str, bytes]  # path below a folder -> bytes
Way = Callable[[Path], object]  # reads the files of a folder


@dataclass(frozen=True)
class Reader:
    """Functions that read one kind of file, and valid files of it.

    write: writes folders of valid files into a folder. ways: functions that read one of these
    folders. files: patterns of paths to damage, chosen with equal probability. share: of all
    attempts, relative to other readers. names: whether errors name the file (a server's do not).
    slow: valid files take long to create, so the reader runs with 2,000 files or more only.
    """

    name: str
    write: Callable[[Path], None]
    ways: tuple[Way, ...]
    files: tuple[str, ...] = ("*",)
    share: int = 20
    names: bool = True
    slow: bool = False

    def targets(self, tree: Tree) -> list[str]:
        """Paths that may be damaged, repeated so that each pattern is about equally frequent."""
        matches = [
            sorted(path for path in tree if fnmatch.fnmatch(path, each)) for each in self.files
        ]
        most = max(map(len, matches), default=0)
        return [path for paths in matches if paths for path in paths * -(-most // len(paths))]

    def seeds(self, folder: Path) -> dict[str, Tree]:
        """Write the valid files below `folder`; returns them by the name of their folder."""
        folder.mkdir(parents=True)
        self.write(folder)
        trees = {
            root.name: {
                path.relative_to(root).as_posix(): path.read_bytes()
                for path in sorted(root.rglob("*"))
                if path.is_file() and path.name != ".lock"
            }
            for root in sorted(folder.iterdir())
        }
        return {name: tree for name, tree in trees.items() if self.targets(tree)}


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
