"""Tables of results in the pages, from JSON files in docs/results/.

A page has a marker, and the table of docs/results/NAME.json is written below it:

    <!-- result: NAME -->
    <!-- /result -->

`<!-- result: NAME, source -->` adds a line with command, hardware, date and commit; with `optional`
a missing file is "not run yet". Within a sentence, a cell of the table, or the difference of two:

    is <!-- value: NAME, ROW, COLUMN, .1f -->56.5<!-- /value -->%
    by <!-- value: NAME, ROW - OTHER ROW, COLUMN, +.1f -->+41.0<!-- /value --> points

ROW is the text of the first cell of a row (the first such row), COLUMN counts from 1. A line that
began with such a marker would end the paragraph in Markdown.

`make reference` writes tables and values; the tests and `make docs` (mkdocs calls `on_pre_build`)
fail where a page differs, where a file is in no page (as a table, a value, or a source in
docs/prose_figures.toml), and where a table that looks like results has no file. A table that is
none, such as another paper's figures, says so in the line above it: `<!-- not measured here: WHY
-->`. Figures in sentences without a marker: `prose_figures.py`.
"""

from __future__ import annotations

import datetime
import decimal
import itertools
import json
import os
import re
import subprocess
import tomllib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

DOCS = Path(__file__).resolve().parent
FOLDER = DOCS / "results"
MARKER = re.compile(r"<!-- result: ([^>]+?) -->\n(.*?)<!-- /result -->\n", re.DOTALL)
VALUE = re.compile(r"<!-- value: ([^>]+?) -->([^<\n]*)<!-- /value -->")
LEADING_NUMBER = re.compile(r"^[+-]?[\d,]*\.?\d+")
NOT_MEASURED = "<!-- not measured here: "
FENCE = re.compile(r"^(```.*?^```)$", re.DOTALL | re.MULTILINE)
FIGURE = re.compile(r"[*~≈<>+−-]*\s*\d")  # how a cell with a measured value begins
SHARE = 0.4  # of cells beside the first column that are figures, in a table of results
COLUMN_SHARE = 0.75  # the same of the filled cells of one of these columns


class ResultError(ValueError):
    """A file of docs/results/ or a page is not as it has to be."""


@dataclass(frozen=True)
class Result:
    """One measurement: how it was made, and the table that shows it.

    command: what was run, from the root of the repository. commit: of the code, as "1a2b3c4", or
    "1a2b3c4 or earlier" where the run did not record it. hardware: as a reader compares it.
    date: of the measurement. columns: headings.
    rows: cells, text (Markdown), numbers, or None for an empty one.
    """

    name: str
    command: str
    commit: str
    hardware: str
    date: str
    columns: list[str]
    rows: list[list[str | float | None]]

    def __post_init__(self) -> None:
        for field in ("command", "commit", "hardware"):
            if not getattr(self, field).strip():
                raise ResultError(f"{self.name}: {field} is empty")
        datetime.date.fromisoformat(self.date)
        if not self.rows or any(len(row) != len(self.columns) for row in self.rows):
            raise ResultError(f"{self.name}: each row needs {len(self.columns)} cells")

    def table(self) -> str:
        """The table in Markdown."""
        lines = [self.columns, ["---"] * len(self.columns)]
        lines += [[cell_text(value) for value in row] for row in self.rows]
        return "".join(_line(cells) for cells in lines)

    def source(self) -> str:
        """Command, hardware, date and commit as a line."""
        return f"\n`{self.command}`; {self.hardware}; {self.date}, commit {self.commit}.\n"


def head_commit() -> str:
    """The commit of the working tree."""
    command = ["git", "rev-parse", "--short", "HEAD"]
    return subprocess.run(
        command, cwd=DOCS, capture_output=True, text=True, check=True
    ).stdout.strip()


def code_commit() -> str:
    """The commit, with "-changed" if tracked files differ, except for results and pages."""
    paths = [".", ":(exclude)docs/results", ":(exclude)*.md"]
    command = ["git", "diff", "--quiet", "HEAD", "--", *paths]
    differs = subprocess.run(command, cwd=DOCS.parent, check=False).returncode
    return head_commit() + ("-changed" if differs else "")


def hardware() -> str:
    """What computes here: "AMD EPYC, 1 thread, AVX-512, bf16, no GPU", or the name of the GPU."""
    import torch

    from resnets.utils.machine.environment import cpu_flags, device_name

    if torch.cuda.is_available():
        return device_name(torch.device("cuda"))
    flags = cpu_flags().split()
    units = {"avx2": "AVX2", "avx512f": "AVX-512", "avx512_bf16": "bf16", "amx_bf16": "AMX"}
    found = [unit for flag, unit in units.items() if flag in flags]
    if "AVX-512" in found:
        found.remove("AVX2")
    return ", ".join([device_name(torch.device("cpu")), *found, "no GPU"])


def load(name: str) -> Result:
    """The result docs/results/NAME.json."""
    path = FOLDER / f"{name}.json"
    try:
        found = Result(**json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        raise ResultError(f"docs/results/{name}.json: no such file") from None
    except (TypeError, ValueError) as error:
        raise ResultError(f"docs/results/{name}.json: {error}") from None
    if found.name != name:
        raise ResultError(f"docs/results/{name}.json: its name is {found.name!r}")
    return found


def record(
    name: str, command: str, columns: list[str], rows: list[list[str | float | None]]
) -> None:
    """Write docs/results/NAME.json: rows that this commit gave on this machine today."""
    today = datetime.date.today().isoformat()
    save(Result(name, command, code_commit(), hardware(), today, columns, rows))


def save(result: Result) -> Path:
    """Write docs/results/NAME.json, a row a line; the variable RESULTS_FOLDER names another folder.

    Trial runs of benchmarks use that variable.
    """
    fields = {key: value for key, value in vars(result).items() if key != "rows"}
    head = json.dumps(fields, indent=2, ensure_ascii=False).removesuffix("\n}")
    rows = ",\n".join(f"    {json.dumps(row, ensure_ascii=False)}" for row in result.rows)
    path = Path(os.environ.get("RESULTS_FOLDER", FOLDER)) / f"{result.name}.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(f'{head},\n  "rows": [\n{rows}\n  ]\n}}\n', encoding="utf-8")
    return path


def pages() -> list[Path]:
    """The pages that may have results: README.md and those of docs/."""
    return [DOCS.parent / "README.md", *sorted(DOCS.rglob("*.md"))]


def rendered(text: str) -> str:
    """A page with the tables and values of its markers."""
    text = MARKER.sub(lambda match: _block(match[1]), text)
    return VALUE.sub(lambda match: _value(match[1]), text)


def write_pages() -> None:
    """Bring the tables of all pages up to date."""
    for page in pages():
        text = page.read_text(encoding="utf-8")
        if (new := rendered(text)) != text:
            page.write_text(new, encoding="utf-8")


def problems() -> Iterator[str]:
    """What keeps the pages from showing docs/results/, one line each."""
    used = cited()
    for page in pages():
        text = page.read_text(encoding="utf-8")
        try:
            if rendered(text) != text:
                yield f"{page.name}: differs from docs/results/; run: make reference"
            if re.search(r"^<!-- value:", text, re.MULTILINE):
                yield f"{page.name}: a line begins with the marker of a value"
        except ResultError as error:
            yield f"{page.name}: {error}"
        for pattern in (MARKER, VALUE):
            used |= {match[1].split(",")[0] for match in pattern.finditer(text)}
        for line in unsupported_tables(text):
            yield (
                f"{page.name}: no file of docs/results/ has the figures of the table {line!r};"
                " see CONTRIBUTING.md, 'Results'"
            )
    for path in sorted(FOLDER.glob("*.json")):
        if path.stem not in used:
            yield f"docs/results/{path.name}: is in no page"


def cited() -> set[str]:
    """The results that docs/prose_figures.toml names as sources of sentences."""
    path = DOCS / "prose_figures.toml"
    sources = tomllib.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    lists = [each for page in sources.values() for each in page.values() if isinstance(each, list)]
    return {str(cell[0]) for cells in lists for cell in cells}


def unsupported_tables(text: str) -> Iterator[str]:
    """First lines of tables that look like results but are below no marker."""
    text = FENCE.sub("", MARKER.sub("", text))
    before, block = "", list[str]()
    for line in [*text.splitlines(), ""]:
        if line.startswith("|"):
            block.append(line)
            continue
        if block and not before.startswith(NOT_MEASURED) and _has_figures(block):
            yield block[0]
        before, block = (line if line.strip() else before) if not block else "", []


def _has_figures(lines: list[str]) -> bool:
    rows = [re.split(r"(?<!\\)\|", line.strip().strip("|"))[1:] for line in lines[2:]]
    columns = [
        [cell.strip() for cell in column] for column in itertools.zip_longest(*rows, fillvalue="")
    ]
    filled = [[cell for cell in column if cell] for column in columns]
    return _is_share(SHARE, itertools.chain(*columns)) or any(
        _is_share(COLUMN_SHARE, column) for column in filled
    )


def _is_share(share: float, cells: Iterable[str]) -> bool:
    """Whether that share of the cells, at least one, are figures."""
    found = [bool(FIGURE.match(cell)) for cell in cells]
    return any(found) and sum(found) >= share * len(found)


def _block(marker: str) -> str:
    name, *options = (word.strip() for word in marker.split(","))
    if unknown := set(options) - {"source", "optional"}:
        raise ResultError(f"result: {marker}: unknown option {sorted(unknown)[0]!r}")
    if "optional" in options and not (FOLDER / f"{name}.json").exists():
        body = "\nNot run yet.\n\n"
    else:
        result = load(name)
        body = "\n" + result.table() + (result.source() if "source" in options else "") + "\n"
    return f"<!-- result: {marker} -->\n{body}<!-- /result -->\n"


def _value(marker: str) -> str:
    """A marker of a value with the value."""
    words = [word.strip() for word in marker.split(",")]
    if len(words) != 4:
        raise ResultError(f"value: {marker}: needs a file, rows, a column and a format")
    name, rows, column, form = words
    result = load(name)
    try:
        first, *others = [_number(result, row, int(column)) for row in rows.split(" - ")]
        with decimal.localcontext(rounding=decimal.ROUND_HALF_UP):  # 7.85 is 7.9, as readers round
            number = format(first - sum(others), form).replace("-", "\N{MINUS SIGN}")
    except (IndexError, StopIteration, ValueError):
        raise ResultError(f"value: {marker}: no such number in docs/results/{name}.json") from None
    return f"<!-- value: {marker} -->{number}<!-- /value -->"


def _number(result: Result, row: str, column: int) -> Decimal:
    cells = next(cells for cells in result.rows if cells[0] == row)
    cell = cells[column - 1]
    if isinstance(cell, str):  # "41.41 (42.30, 40.13)", "24.15%"
        cell = LEADING_NUMBER.findall(cell)[0].replace(",", "")
    if column < 1 or cell is None:
        raise IndexError(column)
    return Decimal(str(cell))


def _line(cells: list[str]) -> str:
    padded = (cell if cell == "---" else f" {cell} " if cell else " " for cell in cells)
    return f"|{'|'.join(padded)}|\n"


def cell_text(value: str | float | None) -> str:
    """A cell as it is shown: 1,640."""
    if value is None:
        return ""
    return value if isinstance(value, str) else f"{value:,}"


def on_pre_build(config: Any) -> None:
    """Called by mkdocs before it builds the site; stops it where there are problems."""
    from mkdocs.exceptions import PluginError

    if found := list(problems()):
        raise PluginError("\n".join(found))
