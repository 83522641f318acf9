"""The table of a benchmark: printed, and with --record NAME written to docs/results/NAME.json.

The file has the command as it is run from the root of the repository, commit, hardware and date
(docs/result_tables.py). RESULTS_FOLDER=DIR writes it into another folder, for trial runs.
"""

from __future__ import annotations

import argparse
import datetime
import os
import re
import shlex
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "docs"))

import result_tables

Cell = str | float | None
OPTION = "--record"
VARIABLES = ("OMP_NUM_THREADS", "RESNETS_NATIVE")  # part of the command, if they are set


@dataclass(frozen=True)
class Recording:
    """Where a table is written, and command and commit as they were when the script started."""

    name: str
    command: str
    commit: str

    @classmethod
    def start(cls, name: str) -> Recording:
        """The value of the option; refuses a name that is no name of a file of results."""
        if not re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", name):
            raise argparse.ArgumentTypeError(f"{name!r}: expected a name such as train-step")
        return cls(name, command_line(sys.argv), result_tables.code_commit())


def make_parser(doc: str | None) -> argparse.ArgumentParser:
    """A parser of options that has --record; it is described by the first line of `doc`."""
    description = (doc or "").strip().partition("\n")[0]
    parser = argparse.ArgumentParser(description=description, allow_abbrev=False)
    into = "write the table to docs/results/NAME.json"
    parser.add_argument(OPTION, type=Recording.start, metavar="NAME", help=into)
    return parser


def command_line(words: Sequence[str]) -> str:
    """The command of sys.argv from the root of the repository, without --record.

    Paths with folders are reduced to the names of their files: where they are differs by machine.
    """
    script, *rest = words
    kept = [f"benchmarks/{Path(script).name}"]
    values = iter(rest)
    for word in values:
        if word == OPTION:
            next(values, None)
        elif not word.startswith(f"{OPTION}="):
            kept.append(_without_folder(word))
    variables = [f"{name}={os.environ[name]} " for name in VARIABLES if name in os.environ]
    return f"{''.join(variables)}python {shlex.join(kept)}"


def _without_folder(word: str) -> str:
    option, equals, value = word.rpartition("=") if word.startswith("--") else ("", "", word)
    path = Path(value)
    is_path = "/" in value and (path.is_absolute() or path.exists() or value.startswith("."))
    return option + equals + (Path(os.path.abspath(path)).name if is_path else value)


def report(
    recording: Recording | None,
    columns: Sequence[str],
    rows: Iterable[Sequence[Cell]],
    setup: str = "",
) -> None:
    """Print a table, and write it if it is recorded.

    setup: how it was measured, which the command does not say; printed above the table, and part
    of the hardware in the file.
    """
    found = [list(row) for row in rows]
    print(f"\n{setup}\n" if setup else "", text(columns, found), sep="", flush=True)
    if recording is None:
        return
    hardware = "; ".join(filter(None, (result_tables.hardware(), setup)))
    today = datetime.date.today().isoformat()
    result = result_tables.Result(
        recording.name, recording.command, recording.commit, hardware, today, list(columns), found
    )
    print(f"written: {result_tables.save(result)}")


def text(columns: Sequence[str], rows: Sequence[Sequence[Cell]]) -> str:
    """The table in aligned columns; a single row as a line for each column."""
    lines = [list(columns), *([result_tables.cell_text(cell) for cell in row] for row in rows)]
    if len(lines) == 2:
        lines = [list(pair) for pair in zip(*lines, strict=True)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    padded = ("  ".join(map(str.ljust, line, widths)).rstrip() for line in lines)
    return "\n".join(padded)
