"""Which split is measured, and classes of the data held against those of the net."""

import numpy as np
import pytest
import torch
from detect_sets import write_coco
from PIL import Image

from resnets.config import DataSpec, ModelSpec, Preprocess, Recipe
from resnets.data import Batch, DataError, open_data
from resnets.data.transforms.preprocess import Preprocessor
from resnets.detect.evaluate.splits import choose_split
from resnets.detect.loading.sources import open_detection
from resnets.evaluate.data.ground_truth import split_truth
from resnets.evaluate.data.match_classes import (
    class_number_note,
    map_targets,
    match_classes,
    open_labeled,
)
from resnets.models import build
from resnets.weights.heads import parse_classes


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
    assert parse_classes("ant, bee,cat", 3, "net") == ("ant", "bee", "cat")
    (tmp_path / "names.txt").write_text("ant\n\nred bee\n", encoding="utf-8")
    assert parse_classes(str(tmp_path / "names.txt"), 2, "net") == ("ant", "red bee")


NOTE = "not compared with training images"


@pytest.mark.parametrize("layout", ["classes", "loose"])
def test_a_model_without_a_record_of_its_images_says_so(layout, tmp_path, caplog):
    rng = np.random.default_rng(0)
    for number in range(8):
        folder = tmp_path / "set" / ("ab"[number % 2] if layout == "classes" else "")
        folder.mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(0, 255, (16, 16, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    labels = None
    if layout == "loose":
        labels = tmp_path / "labels.csv"
        labels.write_text("".join(f"{n}.png,{'ab'[n % 2]}\n" for n in range(8)))
    net = build(ModelSpec(depths=(1,), widths=(4,), stem="cifar", stem_width=4, num_classes=2))
    net.preprocess, net.classes = Preprocessor(Preprocess(size=16, resize=16)), ("a", "b")
    net.origin, net.recipe = "net.pth", None
    images, _ = open_labeled(net, str(tmp_path / "set"), "test", labels)
    assert NOTE in images.description
    assert [line for line in caplog.messages if NOTE in line]
    caplog.clear()
    if layout == "classes":
        net.fingerprint = open_data(DataSpec(source="digits"), training=True).fingerprint
        images, _ = open_labeled(net, str(tmp_path / "set"), "test")
        assert NOTE not in images.description
        assert not [line for line in caplog.messages if NOTE in line]


def test_a_detector_without_a_record_of_its_images_says_so(tmp_path, caplog):
    write_coco(tmp_path, "train", [(60, 40), (40, 60)], 0)
    write_coco(tmp_path, "test", [(60, 40)], 1)
    recipe = Recipe(task="detect", data=DataSpec(source=str(tmp_path)))
    colors = ("red", "green", "blue")
    split = choose_split(recipe, colors, str(tmp_path), "test")
    assert NOTE in split.description
    assert [line for line in caplog.messages if NOTE in line]
    known = open_detection(recipe.data, recipe.detect, "detect", training=True).fingerprint
    assert NOTE not in choose_split(recipe, colors, str(tmp_path), "test", known).description
    assert NOTE not in choose_split(recipe, colors, str(tmp_path), "train").description
