"""Folders of runs and pages: new ones under runs/, and one writer at a time in each."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from resnets.utils.environment_variables import environment_int
from resnets.utils.files import hold_folder, new_folder

RUNS = Path("runs")


@contextmanager
def run_folder(out: Path | None, name: str) -> Iterator[Path]:
    """`out`, or a new folder runs/NAME-N that no other process gets, removed again if unused."""
    if out is not None:
        yield out
        return
    made = [] if RUNS.exists() else [RUNS]
    folder = new_folder(RUNS, name)
    try:
        yield folder
    finally:
        for each in (folder, *made):
            with suppress(OSError):
                each.rmdir()  # only where it is empty


@contextmanager
def page_folder(out: Path | None, name: str) -> Iterator[Path]:
    """The same, held from the start: another process that would write into it is refused."""
    with run_folder(out, name) as folder, hold_folder(folder):
        yield folder


@contextmanager
def results_folder(out: Path | None) -> Iterator[None]:
    """Hold the folder that a command writes its results into, if it writes any.

    Of several processes that torchrun started, the first one does.
    """
    if out is None or environment_int("RANK", 0) > 0:
        yield
        return
    with hold_folder(out):
        yield
