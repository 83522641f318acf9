"""Models of this project: small ones are in this folder, larger ones at a URL.

index.json lists them by name, DATA/NET, with the SHA-256 of each of their files. A model is a
folder as `resnets push` writes it; `benchmarks/zoo.py` adds one from a run.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent
INDEX = "index.json"


@dataclass(frozen=True)
class ZooEntry:
    """A model of the zoo.

    sha256: by the name of the file. url: folder that has these files; None if they are in the
    package, in `folder`. top1_error: [percent] of the stored weights, on `examples` images that
    `protocol` describes. data: what it was trained on. command: the command that trained it.
    """

    name: str
    sha256: dict[str, str]
    url: str | None
    top1_error: float
    examples: int
    protocol: str
    data: str
    command: str
    license: str

    @property
    def folder(self) -> Path:
        """Folder of a model in the package."""
        return FOLDER / self.name


def read_index() -> dict[str, ZooEntry]:
    """Return all models by name, in order."""
    entries: dict[str, Any] = json.loads((FOLDER / INDEX).read_text(encoding="utf-8"))
    return {name: ZooEntry(name, **entries[name]) for name in sorted(entries)}
