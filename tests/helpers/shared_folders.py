"""Folders that the worker processes of a test session share, each made once."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from filelock import FileLock


def make_once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], object]) -> Path:
    """The folder `name`, which `make` fills for whichever process asks first; for reading only."""
    root = factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        root = root.parent
    with FileLock(root / f"{name}.lock"):
        if not (root / name).exists():
            make(root / name)
    return root / name
