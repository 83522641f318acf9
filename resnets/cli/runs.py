"""Where runs go that nobody named a folder for."""

from __future__ import annotations

from pathlib import Path


def free_folder(name: str) -> Path:
    """The first of runs/NAME-1, -2, ... that does not exist."""
    number = 1
    while (folder := Path("runs") / f"{name}-{number}").exists():
        number += 1
    return folder
