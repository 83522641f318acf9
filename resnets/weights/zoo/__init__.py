"""Models of this project: small ones are in this folder, larger ones at the URL that it states.

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
    `protocol` describes. data: what it was trained on. command: what trained it.
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
        """Where a model of the package has its files."""
        return FOLDER / self.name


def entries() -> dict[str, ZooEntry]:
    """All models by name, in order."""
    found: dict[str, Any] = json.loads((FOLDER / INDEX).read_text(encoding="utf-8"))
    return {name: ZooEntry(name, **found[name]) for name in sorted(found)}
