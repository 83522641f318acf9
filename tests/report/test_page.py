"""Pages: one self-contained file, figures that fit phone and desktop, tables with raw numbers."""

import csv
import io
import re
from pathlib import Path

import pytest
from html_elements import Elements
from matplotlib.figure import Figure as Plot

from resnets.report.figure_style import (
    THEME,
    figure_style,
    inline_plot,
    integer_ticks,
    subplots,
    to_svg,
)
from resnets.report.page import Figure, Numbers, Table, write_page
from resnets.report.render import _environment, format_cell, format_significant, minus_signs

TEMPLATE = """
{% extends "base.html.j2" %}
{% from "macros.html.j2" import figure, section, table %}
{% block title %}{{ "Title & <more>" }}{% endblock %}
{% block lead %}<p>A &lt; B.</p><p>Lead.</p>{% endblock %}
{% block body %}
{% call section("All of it") %}
{% for each in figures.values() %}
{% call figure(each, alts[each.name]) %}Caption.{% endcall %}
{% endfor %}
{% for each in tables.values() %}{% call table(each) %}Errors.{% endcall %}{% endfor %}
{% endcall %}
{% endblock %}
"""


def write(folder: Path, figures: list[Figure], alts: list[str], tables: list[Table]) -> Path:
    template = _environment().overlay(autoescape=True).from_string(TEMPLATE)
    names = [figure.name for figure in figures]
    report = write_page(
        folder, template, figures=figures, tables=tables, alts=dict(zip(names, alts, strict=True))
    )
    assert report.lead == "A < B.\nLead."
    return report.report


def read_csv(folder: Path, name: str) -> list[dict[str, str]]:
    with open(folder / "numbers" / f"{name}.csv", encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def plot(*values: float) -> Plot:
    with figure_style():
        figure, (first, second) = subplots(2)
        first.plot(values, marker="o", color=THEME["series-1"][0], label="line")
        first.set_title("a < b & c")
        second.imshow([[0, 1], [2, 3]])
        figure.legend(loc="outside upper right")
    return figure


def test_same_plot_twice_keeps_ids_apart_and_needs_nothing_from_outside(tmp_path: Path) -> None:
    figures = [
        Figure("one", plot(1, 2)),
        Figure("two", plot(1, 2)),
        Figure("three", '<svg width="9" viewBox="0 0 9 9"><path id="p"/></svg>'),
    ]
    alts = ["A line.", 'Quotes " and <tags>.', "Box."]
    path = write(tmp_path / "deep" / "out", figures, alts, [])
    text = path.read_text(encoding="utf-8")
    page = Elements(text)
    ids = [attributes["id"] for _, attributes in page.found if "id" in attributes]
    assert len(ids) == len(set(ids)) > 20
    used = set(re.findall(r'url\(#([^)]+)\)|href="#([^"]+)"', text))
    assert {one or two for one, two in used} <= set(ids)
    assert not page.of("script")
    assert not page.of("link")
    assert "http://" not in text
    assert "https://" not in text
    assert all(each["href"].startswith("data:") for each in page.of("image"))
    assert [each["aria-label"] for each in page.of("div") if "role" in each] == alts
    assert "Title & <more>" in page.text
    assert {file.name for file in (path.parent / "figures").iterdir()} == {
        "one.svg",
        "one.png",
        "two.svg",
        "two.png",
        "three.svg",
    }


def test_each_panel_and_the_legend_has_a_window_on_one_drawing(tmp_path: Path) -> None:
    text = write(tmp_path, [Figure("one", plot(1, 2))], ["A."], []).read_text(encoding="utf-8")
    page = Elements(text)
    windows = [svg for svg in page.of("svg") if svg["class"] == "plot"]
    assert len(windows) == 3  # legend, two panels
    assert [each["href"] for each in page.of("use") if "figure_1" in each["href"]] == [
        "#one-figure_1"
    ] * 2
    boxes = [tuple(map(float, svg["viewbox"].split())) for svg in windows]
    _, (left, top, width, height), (right, level, _, same) = boxes
    assert left + width < right + 7  # a margin of 3 points around each
    assert (top, height) == (level, same)


def test_inline_colors_follow_the_theme_and_files_keep_theirs(tmp_path: Path) -> None:
    text = write(tmp_path, [Figure("one", plot(1, 2))], ["A."], []).read_text(encoding="utf-8")
    inline = text[text.index("<svg") :]
    assert "var(--series-1)" in inline
    assert "#000000" not in inline
    assert "DejaVu" not in inline
    alone = (tmp_path / "figures" / "one.svg").read_text(encoding="utf-8")
    assert THEME["series-1"][0] in alone
    assert "var(" not in alone


def test_writing_twice_gives_the_same_bytes(tmp_path: Path) -> None:
    paths = [write(tmp_path / name, [Figure("one", plot(1))], ["A."], []) for name in "ab"]
    first, second = (path.read_bytes() for path in paths)
    assert first == second


def test_table_shows_gaps_and_its_csv_has_the_raw_numbers(tmp_path: Path) -> None:
    shown = Table("pretty", ("Model", "Error"), (("a", "1.23 ± 0.10"), ("b", None)))
    numbers = Numbers(("model", "mean"), (("a", 1.23456), ("b", None)))
    raw = Table("raw", ("Model", "Error"), (("a", "1.23"),), numbers)
    path = write(tmp_path, [], [], [shown, raw])
    assert read_csv(tmp_path, "pretty") == [
        {"Model": "a", "Error": "1.23 ± 0.10"},
        {"Model": "b", "Error": ""},
    ]
    assert read_csv(tmp_path, "raw")[0] == {"model": "a", "mean": "1.23456"}
    assert '<td class="n gap">–</td>' in path.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("value", "digits", "text"),
    [
        (42137.0, 2, "42,000"), (0.0614, 3, "0.0614"), (3.0, 2, "3.0"), (0.0, 3, "0"),
        (-1234.5, 3, "−1,230"), (1.234e-5, 2, "1.2 × 10⁻⁵"), (9.96, 2, "10"),
        (4.2e7, 2, "4.2 × 10⁷"), (float("nan"), 3, "nan"),
    ],
)  # fmt: skip
def test_values_have_significant_digits_and_no_exponent(
    value: float, digits: int, text: str
) -> None:
    assert format_significant(value, digits) == text


def test_headings_with_names_of_fields_can_break(tmp_path: Path) -> None:
    table = Table("trials", ("data.augment.policy_magnitude", "a<b"), ((1, 2),))
    page = write(tmp_path, [], [], [table]).read_text(encoding="utf-8")
    assert "data.<wbr>augment.<wbr>policy_<wbr>magnitude</th>" in page
    assert "a&lt;b</th>" in page


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "–"),
        (12345, "12,345"),
        (0.0, "0.00"),
        (-1.234, "−1.23"),
        (0.00012345, "0.00012"),
        ("as is", "as is"),
    ],
)
def test_format_cell(value: float | str | None, text: str) -> None:
    assert format_cell(value) == text


def luminance(color: str) -> float:
    parts = [int(color[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    red, green, blue = (p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


@pytest.mark.parametrize("setting", [0, 1], ids=["light", "dark"])
def test_colors_of_text_and_lines_stand_out_from_the_card(setting: int) -> None:
    card = luminance(THEME["card"][setting])
    for name, colors in THEME.items():
        if name in ("card", "line"):
            continue
        low, high = sorted((card, luminance(colors[setting])))
        assert (high + 0.05) / (low + 0.05) >= 4.5, name


def test_numbers_have_minus_signs() -> None:
    assert minus_signs("-14.80 points (-21.1 to -8.5) of cifar-plain56 on 2026-11-21") == (
        "−14.80 points (−21.1 to −8.5) of cifar-plain56 on 2026-11-21"
    )


def test_ticks_of_layers_are_integers() -> None:
    for last in (1, 3, 7, 19, 110):
        with figure_style():
            _, (axes,) = subplots(1)
            axes.set_xlim(0, last + 1)
            integer_ticks(axes)
            assert all(tick == round(tick) for tick in axes.get_xticks()), last


def test_panels_of_a_fixed_aspect_stay_where_the_svg_has_them() -> None:
    with figure_style():
        plot, (axes,) = subplots(1)
        axes.set(title="title", xlabel="x", ylabel="y", aspect="equal")
    svg = to_svg(plot, "square")
    markup = inline_plot(plot, svg, "square")
    plot.savefig(io.BytesIO(), format="png")  # as when the PNG is written
    assert to_svg(plot, "square") == svg
    assert inline_plot(plot, svg, "square") == markup
