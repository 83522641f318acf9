"""Results: lines of a JSON file, which are appended one by one, and tables of docs/results/."""

from __future__ import annotations

import datetime
import hashlib
import json
import os
import re
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from gpu_checks.case import FAILED, Row, is_right
from resnets.utils.machine.environment import source_commit

ROOT = Path(__file__).resolve().parents[2]
DISCLAIMER = re.compile(r"not (been |yet )*(run|measured) on a GPU")


class Record:
    """The file of results. Each line is one case: its rows, or its error.

    A line has `section`, `case`, `commit`, `hardware`, `tiny` (whether of the smallest sizes),
    `date`, `command`, `seconds`, and `rows` (a list of {column: value}) or `error` and `traceback`.
    A case is done if a line of this commit, hardware and size has rows of it, all of them right;
    with `any_commit` also a line of another commit.
    failed: "section/case" of those that failed in this run, or are wrong.
    """

    def __init__(
        self, path: Path, hardware: str, tiny: bool = False, failed: Iterable[str] = ()
    ) -> None:
        self.path, self.hardware, self.commit, self.tiny = path, hardware, commit(), tiny
        self.failed = set(failed)
        self._lines = read(path)

    def is_done(self, section: str, case: str, *, any_commit: bool = False) -> bool:
        """Whether there are right rows of the case, of this hardware, size and commit."""
        key = self._key(section, case)
        if any_commit:
            del key["commit"]
        return any(
            key.items() <= line.items() and is_right(line["rows"]) for line in self._finished
        )

    @property
    def _finished(self) -> list[dict[str, Any]]:
        return [line for line in self._lines if "rows" in line]

    def _key(self, section: str, case: str) -> dict[str, Any]:
        return {
            "section": section,
            "case": case,
            "commit": self.commit,
            "hardware": self.hardware,
            "tiny": self.tiny,
        }

    def add(
        self,
        section: str,
        case: str,
        seconds: float,
        rows: list[Row] | None,
        error: str | None,
        traceback: str = "",
    ) -> None:
        """Append one case and flush it to the disk."""
        line = self.line(section, case) | {"seconds": round(seconds, 1)}
        line |= {"rows": rows} if rows is not None else {"error": error, "traceback": traceback}
        self.failed |= failures([line])
        self._lines.append(line)
        append(self.path, line)

    def line(self, section: str, case: str) -> dict[str, Any]:
        """Return what the line of a case says besides its seconds and its rows or error."""
        tiny = " --tiny" if self.tiny else ""
        return self._key(section, case) | {
            "date": datetime.date.today().isoformat(),
            "command": f"python benchmarks/gpu.py --only {section}{tiny}",
        }


def append(path: Path, line: dict[str, Any]) -> None:
    """Append a line to a file of results and flush it to the disk."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab+") as file:
        cut = file.tell() and os.pread(file.fileno(), 1, file.tell() - 1) != b"\n"
        text = json.dumps(line, ensure_ascii=False) + "\n"
        file.write(b"\n" * cut + text.encode())
        file.flush()
        os.fsync(file.fileno())


def failures(lines: Iterable[dict[str, Any]]) -> set[str]:
    """Return "section/case" of the lines with an error, or with rows that are not all right."""
    return {
        f"{line['section']}/{line['case']}"
        for line in lines
        if "rows" not in line or not is_right(line["rows"])
    }


def read(path: Path, start: int = 0) -> list[dict[str, Any]]:
    """Read the lines of a file of results from byte `start` on; incomplete lines are ignored."""
    lines = []
    stored = path.read_bytes()[start:] if path.exists() else b""
    for text in stored.decode(errors="replace").split("\n"):
        try:
            lines.append(json.loads(text))
        except json.JSONDecodeError:
            continue
    return lines


def commit() -> str:
    """Return the commit, with "-changed" if files differ; without git a hash of the package."""
    if found := source_commit(ROOT):
        return found["commit"]
    digest = hashlib.sha256()
    for path in sorted((ROOT / "resnets").rglob("*.py")):
        digest.update(path.read_bytes())
    return f"tree {digest.hexdigest()[:10]}"


def _completeness(line: dict[str, Any]) -> int:
    """Return 2 for a line whose rows are right or wrong, 1 if one says FAILED, 0 for an error."""
    if "rows" not in line:
        return 0
    cells = [str(cell) for row in line["rows"] for cell in row.values()]
    return 1 if any(cell.startswith(FAILED) for cell in cells) else 2


def publish(path: Path) -> list[Path]:
    """Write docs/results/gpu-SECTION.json for each section, from the newest line of each case.

    A failed case is a row with its error, unless an older line has rows of it; a line in which a
    contender failed is replaced by an older one in which none failed. A table is of one machine,
    that of the last line of the file; lines of others are reported and excluded, and so are those
    of `--tiny` or without that field. If cases are of several commits, the table lists all of them.
    """
    sys.path.insert(0, str(ROOT / "docs"))
    import result_tables

    lines = read(path)
    every = [line for line in lines if line.get("tiny") is False]
    if tiny := len(lines) - len(every):
        print(f"not published: {tiny} of {len(lines)} lines, of --tiny")
    hardware = every[-1]["hardware"] if every else ""
    for other in dict.fromkeys(line["hardware"] for line in every):
        if other != hardware:
            print(f"not published: lines of {other}; the last line is of {hardware}")
    cases: dict[tuple[str, str], dict[str, Any]] = {}
    for line in (each for each in every if each["hardware"] == hardware):
        key = (line["section"], line["case"])
        if key not in cases or _completeness(line) >= _completeness(cases[key]):
            cases[key] = line
    written = []
    for section in dict.fromkeys(section for section, _ in cases):
        lines = [line for (name, _), line in cases.items() if name == section]
        rows = [row for line in lines for row in line.get("rows", ())]
        columns = list(dict.fromkeys(column for row in rows for column in row)) or ["", "error"]
        cells = [[row.get(column) for column in columns] for row in rows]
        for line in lines:
            if "error" in line:
                failed = [line["case"], f"failed: {line['error']}"]
                cells.append([*failed, *[None] * (len(columns) - 2)][: len(columns)])
        result = result_tables.Result(
            f"gpu-{section}",
            command=lines[-1]["command"],
            commit=", ".join(dict.fromkeys(line["commit"] for line in lines)),
            hardware=hardware,
            date=max(line["date"] for line in lines),
            columns=columns,
            rows=cells,
        )
        written.append(result_tables.save(result))
    result_tables.write_pages()
    for sentence in _find_disclaimers():
        print(f"edit, now that results exist: {sentence}")
    return written


def _find_disclaimers() -> list[str]:
    """Return the lines of the docs that say that something was not run on a GPU."""
    pages = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
    return [
        f"{page.relative_to(ROOT)}:{number}: {line.strip()}"
        for page in pages
        for number, line in enumerate(page.read_text().splitlines(), 1)
        if DISCLAIMER.search(line)
    ]
