"""What README.md and docs/ name exists: linked pages and headings, files, tests, recipe fields."""

import dataclasses
import re
import typing
from pathlib import Path

import pytest
from paths import ROOT

from resnets.config import aliases
from resnets.config.recipe import Recipe

PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]
LINK = re.compile(r"\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#+ (.*)$", re.MULTILINE)
FENCED = re.compile(r"^ *```.*?^ *```", re.MULTILINE | re.DOTALL)
CODE = re.compile(r"`([^`\n]+)`")
# Files in backticks: from the root, from resnets/, or from tests/ (reliability.md)
SOURCE = re.compile(r"(?:[a-z_]+/)+[a-z_0-9]+\.(?:py|c)")
TEST = re.compile(r"((?:[a-z_]+/)*test_[a-z_0-9]+\.py)?(?:::(test_[a-z_0-9]+))?(?:\[\w+\])?")
SUFFIXES = ("md", "py", "json", "jsonl", "yaml", "txt", "safetensors", "pth", "h5", "onnx")


def anchor(heading: str) -> str:
    """The fragment that GitHub and MkDocs give to a heading."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-")


def fields(spec: type, prefix: str = "") -> typing.Iterator[str]:
    """Paths of all fields of a recipe, as `--set` takes them."""
    hints = typing.get_type_hints(spec)
    for field in dataclasses.fields(spec):
        yield prefix + field.name
        for kind in (hints[field.name], *typing.get_args(hints[field.name])):
            if dataclasses.is_dataclass(kind) and isinstance(kind, type):
                yield from fields(kind, f"{prefix}{field.name}.")


FIELDS = set(fields(Recipe))
LISTS_RENAMES = ("CHANGELOG.md", "recipe.md")
OF_PYTHON = {"model.preprocess", "model.stages", "model.spec", "model.reshape", "model._orig_mod"}
PARTS = {path.split(".")[0] for path in FIELDS if "." in path}


def code_spans(page: Path) -> list[str]:
    """What stands between backticks in prose and tables."""
    return CODE.findall(FENCED.sub("", page.read_text(encoding="utf-8")))


@pytest.fixture(params=PAGES, ids=lambda page: page.name)
def page(request: pytest.FixtureRequest) -> Path:
    return request.param


def test_links_lead_to_pages_and_headings(page):
    wrong = []
    for link in LINK.findall(page.read_text(encoding="utf-8")):
        if link.startswith(("http:", "https:")):
            continue
        name, _, fragment = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        if not target.exists():
            wrong.append(link)
        elif fragment:
            headings = HEADING.findall(target.read_text(encoding="utf-8"))
            if fragment not in map(anchor, headings):
                wrong.append(link)
    assert not wrong


def test_source_files_exist(page):
    places = (ROOT, ROOT / "resnets", ROOT / "tests")
    named = {path for code in code_spans(page) for path in SOURCE.findall(code)}
    assert not [path for path in sorted(named) if not any((at / path).exists() for at in places)]


def test_tests_exist(page):
    wrong, file = [], ""
    for code in code_spans(page):
        named = TEST.fullmatch(code)
        if named is None or not (named[1] or named[2]):
            continue
        # `::name` is of the file named before
        file = (named[1] or file).removeprefix("tests/")
        source = ROOT / "tests" / file
        if not source.is_file() or (
            named[2] and f"def {named[2]}(" not in source.read_text(encoding="utf-8")
        ):
            wrong.append(code)
    assert not wrong


def test_recipe_fields_exist(page):
    text = page.read_text(encoding="utf-8")
    named = set(re.findall(r"--set ([a-z_]+(?:\.[a-z_]+)*)=", text)) - {"path"}
    for code in code_spans(page):
        path = code.split("=")[0].rstrip(".")
        if re.fullmatch(r"[a-z_]+(\.[a-z_]+)+", path) and path.split(".")[0] in PARTS:
            named.add(path)
    named = {path for path in named if path.split(".")[-1] not in SUFFIXES}
    earlier = set(aliases.FIELDS["recipe"]) if page.name in LISTS_RENAMES else set()
    assert not named - FIELDS - OF_PYTHON - earlier


def test_every_page_is_in_the_index():
    index = (ROOT / "docs" / "index.md").read_text(encoding="utf-8")
    linked = {link.partition("#")[0] for link in LINK.findall(index)}
    pages = {
        path.relative_to(ROOT / "docs").as_posix()
        for path in PAGES
        if path.is_relative_to(ROOT / "docs")
    }
    assert not pages - linked - {"index.md"}
