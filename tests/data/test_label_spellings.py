"""Labels of tables that may mean something else than they seem to: refused, or warned of."""

from itertools import combinations

import pytest
from PIL import Image

from resnets.config import DataSpec
from resnets.data import DataError
from resnets.data.layout.class_spelling import check_spellings, class_key
from resnets.data.sources.open import find_source
from resnets.data.splits.label_warnings import class_warnings
from resnets.data.tables.multilabel import parse_labels


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("01", "1"),
        ("+1", "1"),
        ("1.0", "1"),
        ("1,5", "1.5"),
        ("١٢", "12"),  # Arabic digits
        ("cat", "cat\u200b"),  # a blank without width
        ("cat", "\ufeffcat"),
        ("cat", "c\u0430t"),  # a Cyrillic letter
        ("cat", "\uff43at"),  # a full-width letter
    ],
)
def test_labels_that_look_or_count_alike_are_refused(one: str, other: str) -> None:
    assert class_key(one) == class_key(other)
    with pytest.raises(DataError):
        check_spellings([one, "else", other], str)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        *[("-2", "2"), ("1.1", "1.10"), ("10", "1"), ("кот", "kot"), ("v01", "v1"), ("2", "²")],
        *[("1", "1,000"), ("1", "1.000")],  # a thousand
        ("\u09b0\u09cd\u09af", "\u09b0\u200d\u09cd\u09af"),  # two Bengali conjuncts
        ("🏴\U000e0067\U000e0062", "🏴\U000e0075\U000e0073"),  # flags
    ],
)
def test_labels_that_differ_in_value_or_script_are_classes(one: str, other: str) -> None:
    assert len(one) == 1 or class_key(one) != class_key(other)
    check_spellings([one, other], str)


@pytest.mark.parametrize(
    "cell",
    [
        '{"category": "cat"}',
        "{'category': 'cat'}",
        '[{"category": "cat"}]',
        '[["cat", "dog"]]',
        '["cat", null]',
        "['cat', nan]",
    ],
)
@pytest.mark.parametrize("form", ["auto", "multi"])
def test_cells_that_are_not_lists_of_labels_are_refused(cell: str, form) -> None:
    with pytest.raises(DataError, match="row 1"):
        parse_labels(['["cat", "dog"]', cell, '["dog"]'], "row {}".format, form)


def test_a_second_separator_is_refused() -> None:
    with pytest.raises(DataError, match="row 2"):
        parse_labels(["cat;dog", "cat", "dog|cat", "dog"], "row {}".format)
    read = parse_labels(["cat;and/or", "cat", "and/or"], str)
    assert read.labels == [("cat", "and/or"), ("cat",), ("and/or",)]


@pytest.mark.parametrize(
    "cells",
    [
        ["cat dog", "cat", "dog", "dog cat"],
        ["haze water", "haze road", "water road", "road water haze", "cloudy"],
    ],
)
def test_words_that_recur_are_warned_about_and_read_as_labels_on_request(cells: list[str]) -> None:
    read = parse_labels(cells, str)
    assert not read.multi
    assert read.warning
    several = parse_labels([*cells, ""], str, "multi")
    assert several.labels == [*(tuple(cell.split()) for cell in cells), ()]


@pytest.mark.parametrize("cells", [["hot dog", "dog"], ["fire truck", "pickup truck", "car"]])
def test_names_of_several_words_stay_whole(cells: list[str]) -> None:
    assert not parse_labels(cells, str).warning
    assert parse_labels(cells, str, "multi").labels == [(cell,) for cell in cells]


def test_names_of_one_grammar_stay_whole() -> None:
    cells = [f"{color} {thing}" for color in ("red", "blue", "big red") for thing in "ABCD"]
    assert not parse_labels(cells, str).warning
    assert parse_labels(cells, str, "multi").labels == [(cell,) for cell in cells]


@pytest.mark.parametrize("separator", [",", ";", "|"])
def test_a_separator_between_blanks_is_none_of_the_words(separator: str) -> None:
    pairs = list(combinations(("cat", "dog", "fox", "cow", "hen", "bee"), 2))
    cells = [f" {separator} ".join(pair) for pair in pairs]
    assert parse_labels(cells, str, "multi").labels == pairs
    cells = [f"{separator} ".join(pair) for pair in pairs]
    assert parse_labels(cells, str, "multi").labels == pairs


def test_usual_characters_of_names_are_not_a_second_separator() -> None:
    cells = ["Action|Adventure", "Action & Adventure|Drama", "Drama|Action", "Adventure"]
    assert parse_labels(cells, str).labels[1] == ("Action & Adventure", "Drama")
    lists = ['["black", "white"]', '["black/white"]', '["white"]']
    assert parse_labels(lists, str).labels[1] == ("black/white",)


def test_a_thousand_is_not_one(tmp_path) -> None:
    for number in range(6):
        Image.new("L", (8, 8), number).save(tmp_path / f"{number}.png")
    labels = ["1", "5", "1.000"] * 2
    lines = [f"{number}.png,{label}" for number, label in enumerate(labels)]
    (tmp_path / "labels.csv").write_text("path,label\n" + "\n".join(lines))
    classes = find_source(DataSpec(source=str(tmp_path / "labels.csv"))).classes
    assert set(classes) == {"1", "5", "1.000"}


def test_numbers_with_decimals_are_warned_about_as_quantities() -> None:
    assert len(class_warnings(("0.5", "1.5"), (90, 90))) == 1
    assert class_warnings(("1", "2"), (90, 90)) == []
    assert class_warnings(("0.5", "v1.5"), (90, 90)) == []
