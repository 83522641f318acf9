"""Figures in the sentences of the pages have a source, and equal it."""

import json
import sys

import pytest
from paths import ROOT

sys.path.insert(0, str(ROOT / "docs"))
import prose_figures
import result_tables
from prose_figures import problems, problems_of

RESULT = {
    "name": "speed",
    "command": "python benchmarks/speed.py",
    "commit": "",
    "hardware": "one core",
    "date": "2026-12-01",
    "columns": ["", "what", "images/s", "error"],
    "rows": [
        ["resnets", "float32", 1640, "6.8% ± 0.4"],
        ["resnets", "int8", 3200, "7.1% ± 0.2"],
        ["torch", "float32", 820.4, "9.04%"],
    ],
}
PAGE = "It makes 1,640 images/s,\n2.0 times as many as torch, at an error of 6.8%.\n"
SOURCES = {
    "makes 1,640 images/s": [["speed", "resnets", 3]],
    "2.0 times as many": "the quotient of two cells",
    "error of 6.8%": [["speed", "resnets", 4]],
}


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    (tmp_path / "speed.json").write_text(json.dumps(RESULT))
    monkeypatch.setattr(result_tables, "FOLDER", tmp_path)
    return tmp_path


def test_figures_in_the_pages_agree_with_the_results(monkeypatch):
    monkeypatch.setattr(result_tables, "FOLDER", ROOT / "docs" / "results")
    assert list(problems()) == []


def test_a_figure_with_its_source():
    assert list(problems_of(PAGE, SOURCES)) == []


@pytest.mark.parametrize("figure", ["1,640", "2.0", "6.8"])
def test_a_figure_that_changes_in_the_sentence(figure):
    changed = PAGE.replace(figure, figure[:-1] + "1")
    without_source, not_there = problems_of(changed, SOURCES)
    assert "has no source" in without_source
    assert "is not in the page" in not_there


def test_a_figure_that_changes_in_the_file(folder):
    text = json.dumps(RESULT).replace("1640", "1650")
    (folder / "speed.json").write_text(text)
    (problem,) = problems_of(PAGE, SOURCES)
    assert "'makes 1,640 images/s' differs from docs/results/: 1650" in problem


@pytest.mark.parametrize(
    ("sentence", "cells", "agrees"),
    [
        ("up to 820 images/s more", [["speed", "torch", 3]], True),
        ("by 2.2 points less", [["speed", "torch - resnets", 4]], True),
        ("of 3,200 images/s in int8", [["speed", "resnets | int8", 3]], True),
        ("deviates by 0.4 points", [["speed", "resnets", 4, 2]], True),
        ("between 6.8% and 9.0%", [["speed", "resnets", 4], ["speed", "torch", 4]], True),
        ("between 6.8% and 9.1%", [["speed", "resnets", 4], ["speed", "torch", 4]], False),
        ("between 6.8% and 9.0%", [["speed", "resnets", 4]], False),
        ("up to 820 images/s more", [["speed", "jax", 3]], False),
        ("up to 820 images/s more", [["speed", "torch", 9]], False),
        ("no figure at all", [["speed", "torch", 3]], False),
    ],
)
def test_cells_of_a_figure(sentence, cells, agrees):
    assert (not list(problems_of(f"{sentence}.", {sentence: cells}))) is agrees


@pytest.mark.parametrize(
    "text",
    [
        "| resnets | 12% |\n",
        "`--margin 5%` and a 90% interval of 128 px images",
        "```\n12% done\n```\n",
        "[a link](page.md#12%-less)",
        "<!-- value: speed, torch, 3, .0f -->820<!-- /value --> images",
    ],
)
def test_what_is_no_figure_of_a_sentence(text):
    assert list(problems_of(text, {})) == []


def test_a_page_that_is_not_there(tmp_path, monkeypatch):
    monkeypatch.setattr(result_tables, "FOLDER", ROOT / "docs" / "results")
    sources = tmp_path / "sources.toml"
    sources.write_text(prose_figures.SOURCES.read_text() + '["docs/none.md"]\n"1%" = "none"\n')
    monkeypatch.setattr(prose_figures, "SOURCES", sources)
    assert list(problems()) == ["sources.toml: docs/none.md: no such page"]
