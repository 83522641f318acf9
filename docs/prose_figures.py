"""Figures of results in the sentences and tables of the pages, and in the docstrings of recipes,
which `resnets train --list` shows: each comes from a cell, or has another reason.

A figure is a number with a unit of results (UNITS), the decimal number that follows the name of a
metric (METRICS: "AUROC is 0.973"), and in pages any other decimal number (1.02, 9.5e-07) and
integers that are compared (COMPARED: "10 of the 27", "260 against 1,550", "2,283 (2,016 to
2,336)"); a code span of nothing else (`97.5%`) is one, too. Each lies within a phrase of
docs/prose_figures.toml, by page, which names the cells of docs/results/ that its figures are,
rounded, subtracted or divided, or says why there is none (another source, a limit, a command
beside it):

    ["docs/guides/fine-tuning.md"]
    "from 79% to 51%" = [["fine-tuning", "random weights", 2], ["fine-tuning", "pretrained", 2]]
    "95% of the test images" = "the threshold's definition"

A cell is [NAME, ROW, COLUMN] as in the markers of `result_tables`; "ROW - OTHER ROW" is a
difference and "ROW / OTHER ROW" a quotient, and so with columns ("4 - 3", "4 / 3"). "FIRST CELL |
SECOND CELL" tells rows with equal first cells apart, and a fourth item is which of the numbers in
the cell it is. A figure that changes, in the sentence or in the file, fails in the tests and in
`make docs`.

Cells of tables are sentences, too. Not checked: tables and values that are rendered from
docs/results/, tables that say that they are not measured here, other code, levels of intervals,
versions, sections, learning rates, values behind the name of an option ("`--margin` (0.5)"), other
integers without a unit, in other units (px, epochs, images), or in words ("half a minute"). A
phrase of such integers may still have an entry with cells ("93, 97 and 96 of them"). A reason is
for what is no result: one that says "measured" (MEASURED) is refused, since that needs a row.

    python docs/prose_figures.py    (lists what is missing)
"""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
from result_tables import DOCS, FENCE, MARKER, NOT_MEASURED, VALUE, load, pages

SOURCES = DOCS / "prose_figures.toml"
SKIPPED = "docs/reference/"  # of the code, not measured
RECIPES = DOCS.parent / "resnets" / "recipes"
NUMBER = r"[+−-]?\d(?:[\d,]*\d)?(?:\.\d+)?(?:e[+−-]?\d+)?"
UNITS = {
    "shares": r"%(?! (?:\w+ )?interval)|percent|(?:percentage )?points?",
    "rates": r"[A-Za-z]*/s(?:ec)?|(?:[a-z]+ )?per second|images? a second",
    "times": r"days?|h|hours?|min|minutes?|s|seconds?|(?:milli|micro)seconds?|[mnuµμ]s",
    "sizes": r"[kKMGT]i?B",
    "factors": r"times|-?fold|[x×](?! ?\d)",  # 3.4x, not 3x3 nor 3 x 3
    "metrics": r"mAP|AUROC|AUC|ECE|m?IoU|NLL",  # 91.7 mAP
}
METRICS = (
    r"(?:m?AP|AUROC|AUC|ECE|m?IoU|NLL|F1|Brier|accuracy|error|loss|precision|recall|cosine"
    r"|correlation)s?(?:@\S+)?"
)
UNIT = rf"\*{{0,2}} ?(?:{'|'.join(UNITS.values())})(?!\w)"
JOINED = r"(?:%?(?: to | and | or | against | → | ± |, |–))"
VALUES = rf"(?<![\w.,/=−-])(?<!\d [x×] )(?P<values>{NUMBER}(?:{JOINED}{NUMBER})*)"
FIGURE = re.compile(VALUES + UNIT)
WORDS = r"(?: \(|:?(?: [A-Za-z][\w-]*| =| →){0,4} )[*~≈]*"  # between a metric's name and value
SCORE = re.compile(rf"\b{METRICS}{WORDS}(?=[+−-]?\d+\.\d)(?>{VALUES})(?!{UNIT})")
DECIMAL = re.compile(r"\d(?:\.|e[+−-]?)\d")
OTHER_UNITS = r" ?(?:million|billion|[MGT]|px|epochs|megapixels)\b"  # of sizes
BARE = re.compile(rf"{VALUES}(?![\w.]*\w|{OTHER_UNITS})")
INTEGER = r"(?<![\w.,/=−-])[+−-]?\d(?:[\d,]*\d)?(?![\d.,]*\d| [x×] )"
COMPARED = re.compile(
    rf"(?P<values>{INTEGER} (?:of (?:the |its |all )?(?!25[56]\b)|against |in place of ){INTEGER}"
    rf"|{INTEGER} \({INTEGER} to {INTEGER}\)|factors? of {INTEGER})"
)
PRODUCTS = r"(?:Python|torch|OpenVINO|Runtime|onnx|h11|Ray|learn|PyTorch|CUDA|CC BY)"
PLACES = r"(?:[Ss]ections?|Fig\.|Tables?)"
RATES = r"(?:rates?|lr|momentum|decay)(?: of)?"
SETTINGS = re.compile(  # and the default of an option, in parentheses behind its code span
    rf"(?:\b(?:{PRODUCTS}|{PLACES}|{RATES}) |\0 \(){NUMBER}(?:(?: to | and |, ){NUMBER})*"
)
HIDDEN = re.compile(r"`([^`]*)`|\]\([^)]*\)|<!--.*?-->")  # code, links, comments
UNMEASURED_TABLE = re.compile(rf"^{NOT_MEASURED}.*?-->\n\n(?:\|.*\n?)+", re.MULTILINE)
MEASURED = re.compile(r"\b(?:measured|counted|observed|profiled?|seeds?|scripts?)\b")
OPERATOR = re.compile(r" ([-/]) ")
Source = str | list[list[Any]]  # a reason, or cells
DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef)


def name_of(page: Path) -> str:
    """The path of a page from the root of the repository."""
    return page.relative_to(DOCS.parent).as_posix()


def docstrings(module: Path) -> str:
    """The docstrings of a module, without those of methods."""
    tree = ast.parse(module.read_text(encoding="utf-8"))
    nodes = (each for each in [tree, *tree.body] if isinstance(each, DOCUMENTED))
    return "\n\n".join(ast.get_docstring(each) or "" for each in nodes)


def prose(text: str) -> str:
    """The sentences and cells of a page on one line, without rendered ones and tables of others."""
    for pattern in (MARKER, FENCE, VALUE, UNMEASURED_TABLE):
        text = pattern.sub(" ", text)
    return " ".join(text.split())


def figures(sentences: str, without_units: bool = True) -> list[re.Match[str]]:
    """The figures in sentences in their order, without those in code and links."""
    visible = HIDDEN.sub(_without_code, sentences)
    found = [*FIGURE.finditer(visible), *SCORE.finditer(visible)]
    if without_units:
        for pattern in (FIGURE, SCORE, SETTINGS):
            visible = pattern.sub(lambda match: "\1" * len(match[0]), visible)
        bare = [match for match in BARE.finditer(visible) if DECIMAL.search(match["values"])]
        found += bare
        found += (match for match in COMPARED.finditer(visible) if not DECIMAL.search(match[0]))
    return sorted(found, key=lambda match: match.start("values"))


def _without_code(match: re.Match[str]) -> str:
    """Of a match of HIDDEN only a code span that is a figure, in as many characters."""
    code = match[1] or ""
    return f" {code} " if FIGURE.fullmatch(code) else "\0" * len(match[0])


def numbers(text: str) -> list[str]:
    """The numbers in a text, without signs and commas."""
    return [each.replace(",", "").lstrip("+−-") for each in re.findall(NUMBER, text)]


def cell_value(name: str, rows: str, columns: int | str, place: int = 1) -> float:
    """The number of a cell, or the difference or quotient of two; `place`: which in the cell."""
    row, *other_row = OPERATOR.split(rows)
    column, *other_column = OPERATOR.split(str(columns))
    first = _number(name, row, int(column), place)
    match other_row, other_column:
        case [], []:
            return first
        case [operator, row], []:
            pass
        case [], [operator, column]:
            pass
        case _:
            raise ValueError("one difference or quotient, of rows or columns")
    second = _number(name, row, int(column), place)
    return first / second if operator == "/" else abs(first - second)


def _number(name: str, label: str, column: int, place: int) -> float:
    cells = label.split(" | ")
    rows = load(name).rows
    row = next((row for row in rows if list(map(str, row[: len(cells)])) == cells), None)
    if row is None:
        raise ValueError(f"docs/results/{name}.json has no row {label!r}")
    cell = row[column - 1]
    return float(numbers(str(cell))[place - 1])


def is_rounded(number: str, value: float) -> bool:
    """Whether a number in a sentence is `value`, rounded to its digits.

    The last zeros of an integer are no digits, but for those within the first two: 5,100 is 5,110
    rounded, 0.50 is not 0.51.
    """
    _, digits, exponent = Decimal(number).as_tuple()
    zeros = len(number) - len(number.rstrip("0")) if number.isdigit() else 0
    power = int(exponent) + max(0, min(zeros, len(digits) - 2))
    return abs(float(number) - value) <= 0.5 * 10.0**power + 1e-9 * 10.0 ** min(power, 0)


def problems_of(
    text: str, sources: Mapping[str, Source], without_units: bool = True
) -> Iterator[str]:
    """What is wrong with the figures of a page, one line each; sources: by phrase."""
    sentences = prose(text)
    found = figures(sentences, without_units)
    spans = [
        (match.start(), match.end(), phrase)
        for phrase in sources
        for match in re.finditer(re.escape(phrase), sentences)
    ]
    for figure in found:
        first = figure.start("values")
        if not any(start <= first and figure.end() <= end for start, end, _ in spans):
            context = sentences[max(0, first - 50) : figure.end() + 20]
            yield f"{figure[0]!r} has no source in {SOURCES.name}: ...{context}..."
    for phrase, source in sources.items():
        within = next(((start, end) for start, end, each in spans if each == phrase), None)
        if within is None:
            yield f"{SOURCES.name}: {phrase!r} is not in the page"
            continue
        covered = [f for f in found if within[0] <= f.start("values") and f.end() <= within[1]]
        if isinstance(source, str):
            if not covered:
                yield f"{SOURCES.name}: {phrase!r} has no figure"
            elif MEASURED.search(source):
                yield f"{SOURCES.name}: {phrase!r}: a result needs a row of docs/results/"
        else:
            found_here = [f["values"] for f in covered] or re.findall(INTEGER, phrase)
            yield from _compare(phrase, numbers(" ".join(found_here)), source)


def _compare(phrase: str, given: Sequence[str], cells: Sequence[Sequence[Any]]) -> Iterator[str]:
    try:
        values = [cell_value(*cell) for cell in cells]
    except (ValueError, IndexError, TypeError) as error:
        yield f"{SOURCES.name}: {phrase!r}: {error}"
        return
    agree = len(given) == len(values) and all(map(is_rounded, given, values))
    if not agree:
        shown = ", ".join(f"{value:g}" for value in values)
        yield f"{phrase!r} differs from docs/results/: {shown}"


def problems() -> Iterator[str]:
    """Figures in sentences without a source or unlike it, and sources of none, one line each."""
    sources = tomllib.loads(SOURCES.read_text(encoding="utf-8"))
    texts = {name_of(page): page.read_text(encoding="utf-8") for page in pages()}
    texts = {name: text for name, text in texts.items() if not name.startswith(SKIPPED)}
    texts |= {name_of(module): docstrings(module) for module in sorted(RECIPES.glob("*.py"))}
    for name in sources.keys() - texts.keys():
        yield f"{SOURCES.name}: {name}: no such page"
    for name, text in texts.items():
        of_recipes = name.endswith(".py")  # whose decimal numbers are their settings
        for problem in problems_of(text, sources.get(name, {}), without_units=not of_recipes):
            yield f"{name}: {problem}"


def on_pre_build(config: Any) -> None:
    """Called by mkdocs before it builds the site; stops it where there are problems."""
    from mkdocs.exceptions import PluginError

    if found := list(problems()):
        raise PluginError("\n".join(found))


if __name__ == "__main__":
    sys.stdout.writelines(f"{problem}\n" for problem in problems())
