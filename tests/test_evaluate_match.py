"""Which split is measured, and classes of the data held against those of the net."""

import pytest
import torch

from resnets.data import Batch, DataError
from resnets.evaluate.match import match_classes, relabel
from resnets.weights.heads import read_classes


def test_classes_are_matched_by_name():
    outputs = match_classes(("ant", "bee", "cat"), ("cat", "ant", "bee"), "here")
    assert outputs.tolist() == [1, 2, 0]
    batch = Batch(torch.zeros(4, 3, 2, 2), torch.tensor([0, 1, 2, 2]), torch.arange(4))
    (changed,) = relabel([batch], outputs)
    assert changed.targets.tolist() == [1, 2, 0, 0]
    assert changed.ids is batch.ids


def test_other_classes_are_named_in_one_line():
    with pytest.raises(DataError) as caught:
        match_classes(("ant", "dog"), ("ant", "bee", "cat"), "zoo test")
    assert str(caught.value) == (
        "zoo test: its 2 classes are not the net's 3; the data lacks: bee, cat; "
        "the net does not know: dog"
    )


def test_many_missing_classes_are_cut_short():
    net = tuple(f"c{k}" for k in range(100))
    with pytest.raises(DataError, match="c2, c3, c4, c5, c6 and 93 more$"):
        match_classes(("c0", "c1"), net, "zoo")


def test_class_names_from_a_list_and_from_a_file(tmp_path):
    assert read_classes("ant, bee,cat", 3, "net") == ("ant", "bee", "cat")
    (tmp_path / "names.txt").write_text("ant\n\nred bee\n", encoding="utf-8")
    assert read_classes(str(tmp_path / "names.txt"), 2, "net") == ("ant", "red bee")
