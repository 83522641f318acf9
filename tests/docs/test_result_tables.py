"""Tables of results in the pages are those of docs/results/."""

import json
import runpy

import pytest
from paths import ROOT

TABLES = runpy.run_path(str(ROOT / "docs" / "result_tables.py"))
FIELDS = {
    "name": "speed",
    "command": "python benchmarks/speed.py",
    "commit": "1a2b3c4",
    "hardware": "one core",
    "date": "2026-11-30",
    "columns": ["", "images/s"],
    "rows": [["resnets", 1640], ["torch", 2.5], ["other", None]],
}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setitem(TABLES["load"].__globals__, "FOLDER", tmp_path)
    return tmp_path


def test_pages_and_files_agree():
    assert list(TABLES["problems"]()) == []


def test_a_marker_becomes_the_table_of_its_file(folder):
    (folder / "speed.json").write_text(json.dumps(FIELDS))
    page = "before\n\n<!-- result: speed, source -->\n<!-- /result -->\nafter\n"
    once = TABLES["rendered"](page)
    assert "| resnets | 1,640 |\n| torch | 2.5 |\n| other | |\n" in once
    for field in ("command", "hardware", "date"):
        assert FIELDS[field] in once
    assert TABLES["rendered"](once) == once


@pytest.mark.parametrize(
    ("page", "sources", "unused"),
    [
        ("<!-- result: speed -->\n<!-- /result -->\n", "", False),
        ("makes <!-- value: speed, resnets, 2, .0f -->1<!-- /value -->", "", False),
        ("makes 1,640 images/s", '"makes 1,640 images/s" = [["speed", "resnets", 2]]', False),
        ("makes 1,640 images/s", '"makes 1,640 images/s" = "speed"', True),
    ],
)
def test_a_file_is_in_a_page(folder, monkeypatch, page, sources, unused):
    monkeypatch.setitem(TABLES["load"].__globals__, "DOCS", folder)
    monkeypatch.setitem(TABLES["load"].__globals__, "pages", lambda: [folder / "page.md"])
    (folder / "speed.json").write_text(json.dumps(FIELDS))
    (folder / "page.md").write_text(TABLES["rendered"](page))
    (folder / "prose_figures.toml").write_text(f'["page.md"]\n{sources}\n')
    found = [line for line in TABLES["problems"]() if "is in no page" in line]
    assert bool(found) == unused


def test_a_file_that_was_saved_is_read_as_it_was(folder):
    result = TABLES["Result"](**FIELDS)
    TABLES["save"](result)
    assert TABLES["load"]("speed") == result


@pytest.mark.parametrize(
    "fields",
    [
        {"hardware": ""},
        {"commit": ""},
        {"date": "yesterday"},
        {"rows": [["resnets"]]},
        {"rows": []},
        {"name": "other"},
        {"unknown": 1},
    ],
)
def test_a_file_that_says_too_little_is_refused(folder, fields):
    (folder / "speed.json").write_text(json.dumps(FIELDS | fields))
    with pytest.raises(ValueError, match="speed"):
        TABLES["rendered"]("<!-- result: speed -->\n<!-- /result -->\n")


def test_a_missing_file_is_refused_unless_it_is_optional(folder):
    with pytest.raises(ValueError, match=r"speed\.json"):
        TABLES["rendered"]("<!-- result: speed -->\n<!-- /result -->\n")
    TABLES["rendered"]("<!-- result: speed, optional -->\n<!-- /result -->\n")


@pytest.mark.parametrize(
    ("marker", "value"),
    [
        ("speed, resnets, 2, ,.0f", None),  # a comma divides fields
        ("speed, resnets, 2, .1f", "1640.0"),
        ("speed, resnets - torch, 2, +.1f", "+1637.5"),
        ("speed, torch - resnets, 2, .0f", "−1638"),
        ("speed, text, 2, .2f", "41.41"),
        ("speed, other, 2, .1f", None),
        ("speed, resnets, 1, .1f", None),
        ("speed, resnets, 3, .1f", None),
        ("speed, resnets, 0, .1f", None),
        ("speed, nobody, 2, .1f", None),
        ("nowhere, resnets, 2, .1f", None),
    ],
)
def test_values_in_sentences_are_those_of_the_file(folder, marker, value):
    rows = [*FIELDS["rows"], ["text", "41.41 (42.30, 40.13)"]]
    (folder / "speed.json").write_text(json.dumps(FIELDS | {"rows": rows}))
    page = f"are <!-- value: {marker} -->9<!-- /value --> per second\n"
    if value is None:
        with pytest.raises(ValueError, match="speed|nowhere"):
            TABLES["rendered"](page)
    else:
        expected = page.replace("9", value)
        assert TABLES["rendered"](page) == TABLES["rendered"](expected) == expected


TABLE = "| | images/s | ratio |\n|---|---|---|\n| resnets | 1,640 | **2.0** |\n"


@pytest.mark.parametrize(
    ("page", "count"),
    [
        (f"Rates:\n\n{TABLE}\n", 1),
        (f"<!-- not measured here: an estimate -->\n\n{TABLE}\n", 0),
        (f"```\n{TABLE}```\n", 0),
        ("| a | b | c | error |\n|---|---|---|---|\n| x | y | z | 3% |\n| x | y | z | |\n", 1),
        ("| option | meaning |\n|---|---|\n| `--seed` | the seed |\n", 0),
    ],
)
def test_a_table_of_figures_needs_a_file(page, count):
    assert len(list(TABLES["unsupported_tables"](page))) == count
