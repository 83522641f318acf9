"""Which split is measured, and classes of the data held against those of the net."""

import pytest
import torch

from resnets.data import Batch, DataError
from resnets.evaluate.ground_truth import split_truth
from resnets.evaluate.match import class_number_note, map_targets, match_classes
from resnets.weights.heads import read_classes


def test_classes_are_matched_by_name():
    outputs = match_classes(("ant", "bee", "cat"), ("cat", "ant", "bee"), "here")
    assert outputs.tolist() == [1, 2, 0]
    batch = Batch(torch.zeros(4, 3, 2, 2), torch.tensor([0, 1, 2, 2]), torch.arange(4))
    (changed,) = map_targets([batch], outputs)
    assert changed.targets.tolist() == [1, 2, 0, 0]
    assert changed.ids is batch.ids


def test_other_classes_are_named_in_one_line():
    with pytest.raises(DataError) as caught:
        match_classes(("ant", "dog"), ("ant", "bee", "cat"), "zoo test")
    assert "zoo test: 1 of its 2 classes are unknown to the network; dog;" in str(caught.value)
    assert "the network's 3 are ant, bee, cat" in str(caught.value)


def test_some_of_the_classes_are_enough():
    net = ("cat", "ant", "bee")
    assert match_classes(("ant", "bee"), net, "zoo").tolist() == [1, 2]
    truth = split_truth(torch.tensor([0, 1, 1]), torch.tensor([1, 2]), 3)
    assert truth.note.startswith("2 of 3 classes")
    assert truth.labels == [(1,), (2,), (2,)]


def test_names_match_however_they_are_composed_and_case_is_hinted_at():
    assert match_classes(("cafe\u0301",), ("tea", "caf\u00e9"), "bar").tolist() == [1]
    with pytest.raises(DataError, match="did you mean ant"):
        match_classes(("Ant",), ("ant", "bee"), "zoo")


def test_numbers_are_places_only_where_they_cannot_be_names():
    assert match_classes(("0", "1", "2"), ("ant", "bee", "cat"), "zoo").tolist() == [0, 1, 2]
    assert "1 is bee" in class_number_note(("0", "1", "2"), ("ant", "bee", "cat"))
    assert class_number_note(("ant", "bee"), ("ant", "bee", "cat")) == ""
    assert class_number_note(("0", "1"), ("1", "0")) == ""
    with pytest.raises(DataError, match="0 to 2"):
        match_classes(("0", "1", "2"), ("1", "2", "3"), "zoo")


def test_many_unknown_classes_are_cut_short():
    data = tuple(f"c{k}" for k in range(100))
    with pytest.raises(DataError, match="c2, c3, c4, c5, c6 and 93 more;"):
        match_classes(data, ("c0", "c1"), "zoo")


def test_class_names_from_a_list_and_from_a_file(tmp_path):
    assert read_classes("ant, bee,cat", 3, "net") == ("ant", "bee", "cat")
    (tmp_path / "names.txt").write_text("ant\n\nred bee\n", encoding="utf-8")
    assert read_classes(str(tmp_path / "names.txt"), 2, "net") == ("ant", "red bee")
