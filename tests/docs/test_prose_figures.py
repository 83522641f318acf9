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
    "commit": "1a2b3c4",
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
        ("2.0 times as many", [["speed", "resnets / torch", 3]], True),
        ("2.1 times as many", [["speed", "resnets / torch", 3]], False),
        ("241.2 images/s each", [["speed", "resnets", "3 / 4"]], True),
        ("1,633.2 images/s more", [["speed", "resnets", "3 - 4"]], True),
        ("about 1,600 images/s", [["speed", "resnets", 3]], True),
        ("about 1,700 images/s", [["speed", "resnets", 3]], False),
        ("about 2,000 images/s", [["speed", "resnets", 3]], False),
        ("a ratio of 2.0", [["speed", "resnets / torch", 3]], True),
        ("a ratio of 1.9", [["speed", "resnets / torch", 3]], False),
        ("820 of 1,640 images", [["speed", "torch", 3], ["speed", "resnets", 3]], True),
        ("up to 820 images/s more", [["speed", "jax", 3]], False),
        ("up to 820 images/s more", [["speed", "torch", 9]], False),
        ("1,640 images and 820", [["speed", "resnets", 3], ["speed", "torch", 3]], True),
        ("1,640 images and 830", [["speed", "resnets", 3], ["speed", "torch", 3]], False),
        ("no figure at all", [["speed", "torch", 3]], False),
    ],
)
def test_cells_of_a_figure(sentence, cells, agrees):
    assert (not list(problems_of(f"{sentence}.", {sentence: cells}))) is agrees


@pytest.mark.parametrize(
    ("reason", "refused"),
    [
        ("a limit in the code", False),
        ("a setting of the measurement", False),
        ("measured by the command in its paragraph", True),
        ("of single seeds, whose mean the table has", True),
        ("the profile that the sentence names", True),
    ],
)
def test_a_reason_is_for_what_was_not_measured(reason, refused):
    assert bool(list(problems_of("It has 12%.", {"has 12%": reason}))) is refused


@pytest.mark.parametrize(
    "figure",
    [
        "12%",
        "7.3 %",
        "41 percent",
        "2 percentage points",
        "1.2 points",
        "12.3 ± 0.4%",
        "1,234 images per second",
        "375 per second",
        "600 requests/s",
        "24,000/s",
        "59.2 GB/s",
        "2 h",
        "3 days",
        "5 minutes",
        "2 min",
        "41 s",
        "20 to 40 s",
        "43ms",
        "13 us",
        "13 µs",
        "12 GB",
        "912 KB",
        "20 kB",
        "1.5 MiB",
        "3.4x",
        "0.83x",
        "7.7×",
        "3.4 x",
        "1.3 times",
        "`97.5%`",
        "`3.4x`",
        "**41** s",
        "**3.4x**",
        "~41 s",
        "91.7 mAP",
        "0.973 AUROC",
        "mAP@.5 is 91.7",
        "AUROC is 0.973",
        "AUROC: 0.973",
        "AUROC (0.973)",
        "ECE of **0.02**",
        "IoU 0.81",
        "accuracy of ResNet-20 is 0.91",
        "F1 → 0.73",
        "cosine of −0.15",
        "1.02",
        "9.5e-07",
        "**1.02**",
        "3.34, 3.26 and 3.27",
        "0.54 against 1.28",
        "260 against 1,550",
        "12 in place of 300",
        "10 of the 27 blocks",
        "6 of its 9 blocks",
        "2,283 (2,016 to 2,336)",
        "a factor of 511",
        "between +1.26 and +1.40",
        "bits: -1.22",
    ],
)
def test_a_figure_without_a_source(figure):
    (problem,) = problems_of(f"It has {figure}, as measured.\n", {})
    assert "has no source" in problem


@pytest.mark.parametrize(
    "text",
    [
        "`--margin 5%`, `python bench.py --seconds 5`, `data.size=0.5x`",
        "a 90% interval, a 95% confidence interval, 90 % intervals",
        "224 x 224, 32x32 and 3 × 3 px, 500 x 375 per second, 24 px, 2 cores, 16 bits",
        "torch 2.14.1, Python 3.11 to 3.13, 2026-12-01, ResNet-50, section 3.2, Fig. 2, k=3",
        "60,000 images of 1,000 classes, 64k iterations, seeds 1 to 3, 90 epochs",
        "mAP by the rules of 2010, errors after 3,000 iterations, 3 of these runs, 4 against us",
        "OpenVINO 2026.4, sections 3.2 and 4.2, Fig. 5.1, `--margin` (0.5), Kaiming 2015 and 2016",
        "a learning rate of 0.1, lr 0.3, weight decay 0.01, momentum 0.9, rates 0.1, 0.3 and 0.5",
        "0.27 million parameters, 25.6 M gradients, 7.7 epochs, 0.4 megapixels, within 1 of 255",
        "```\n12% done\n```\n",
        "[a link](page.md#12%-less)",
        "<!-- value: speed, torch, 3, .0f -->820<!-- /value --> images",
    ],
)
def test_what_is_not_a_figure_of_a_sentence(text):
    assert list(problems_of(text, {})) == []


def test_settings_of_recipes_are_not_figures():
    settings = "Label smoothing 0.1, stochastic depth 0.05, 2 of 3 repeats."
    assert list(problems_of(settings, {}, without_units=False)) == []
    assert len(list(problems_of(settings, {}))) == 3


def test_a_quotient_of_rows_and_columns_at_once():
    sources = {"is 2.0": [["speed", "resnets / torch", "3 / 4"]]}
    (problem,) = problems_of("The ratio is 2.0.\n", sources)
    assert "rows or columns" in problem


def test_a_page_that_is_not_there(tmp_path, monkeypatch):
    monkeypatch.setattr(result_tables, "FOLDER", ROOT / "docs" / "results")
    sources = tmp_path / "sources.toml"
    sources.write_text(prose_figures.SOURCES.read_text() + '["docs/none.md"]\n"1%" = "none"\n')
    monkeypatch.setattr(prose_figures, "SOURCES", sources)
    assert list(problems()) == ["sources.toml: docs/none.md: no such page"]


def test_cells_of_tables_are_checked_unless_they_say_why_not():
    table = "| run | result |\n|---|---|\n| a | about 12.5% error |\n"
    (problem,) = problems_of(f"Text.\n\n{table}", {})
    assert "12.5%" in problem
    excused = f"<!-- not measured here: an example -->\n\n{table}\nIt is 7.5%.\n"
    (problem,) = problems_of(excused, {})
    assert "7.5%" in problem
