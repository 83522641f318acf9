"""val1 and val2 of ImageNet's detection set: its lists, and halves of val by class."""

import dataclasses
import logging
from pathlib import Path

import pytest
from detect_sets import write_coco, write_voc

from resnets.config import ConfigError, DataSpec, DetectSpec
from resnets.detect.formats.records import RawImage, RawObject
from resnets.detect.formats.voc.lists import find_voc
from resnets.detect.images.store import open_store
from resnets.detect.loading.choose_splits import class_imbalances, halve_by_class
from resnets.detect.loading.sources import find_source, open_detection, open_set

DET = DetectSpec(train_set="train+val1", val_set="val2")


def image(name: str, labels: list[int]) -> RawImage:
    objects = tuple(RawObject("", label, "", (0, 0, 1, 1)) for label in labels)
    return RawImage(name, name, name, "", 10, 10, objects)


@pytest.fixture(scope="module")
def coco(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("det")
    write_coco(root, "train", [(64, 48)] * 3, 0)
    write_coco(root, "val", [(48 + n, 64) for n in range(12)], 1)
    return root


def names(split) -> set[str]:
    return {split.files.name(row).rpartition("/")[2] for row in range(len(split))}


def test_halves_are_disjoint_and_whole(coco: Path, caplog: pytest.LogCaptureFixture) -> None:
    data = DataSpec(source=str(coco), test_fraction=0.0)
    with caplog.at_level(logging.WARNING):
        splits = open_detection(data, DET, training=True)
    assert "halved by class" in caplog.text
    train, val = names(splits.train), names(splits.val)
    assert len(val) == 6
    assert len(train) == 3 + 6
    assert not train & val
    assert {f"val{n:04d}.png" for n in range(1, 13)} <= train | val
    assert splits.test() is None
    again = open_set(DataSpec(source=str(coco)), DetectSpec(), "detect", "val2")
    assert names(again) == val


def test_lists_that_the_set_has_are_used(tmp_path: Path) -> None:
    for number in range(4):
        write_voc(tmp_path, f"v{number}", (40, 40), [("cat", (2, 2, 20, 20), 0)])
    write_voc(tmp_path, "t", (40, 40), [("cat", (2, 2, 20, 20), 0)])
    lists = tmp_path / "ImageSets" / "Main"
    (lists / "train.txt").write_text("t\n")
    (lists / "val.txt").write_text("v0\nv1\nv2\nv3\n")
    (lists / "val1.txt").write_text("v0\n")
    (lists / "val2.txt").write_text("v1\nv2\nv3\n")
    splits = open_detection(DataSpec(source=str(tmp_path)), DET)
    assert names(splits.val) == {"v1.jpg", "v2.jpg", "v3.jpg"}


def test_the_training_lists_of_single_classes_are_one_set(tmp_path: Path) -> None:
    for number in range(3):
        write_voc(tmp_path, f"t{number}", (40, 40), [("cat", (2, 2, 20, 20), 0)])
    write_voc(tmp_path, "v0", (40, 40), [("dog", (2, 2, 20, 20), 0)])
    lists = tmp_path / "ImageSets" / "DET"
    lists.mkdir()
    (lists / "train_1.txt").write_text("t0 1\nextra -1\nt1 1\n")
    (lists / "train_2.txt").write_text("t2 1\nt1 0\n")
    (lists / "val.txt").write_text("v0 1\n")
    found = find_voc(open_store(str(tmp_path)))
    assert {title: sorted(paths) for title, paths in found.items()} == {
        "train": [f"Annotations/t{n}.xml" for n in range(3)],
        "val": ["Annotations/v0.xml"],
    }


def test_other_numbers_are_not_halves(coco: Path) -> None:
    for name in ("val3", "train1"):
        detect = dataclasses.replace(DET, val_set=name)
        with pytest.raises(ConfigError, match=name):
            open_detection(DataSpec(source=str(coco)), detect)


@pytest.mark.parametrize("name", ["val1", "val1+val2"])
def test_a_validation_set_that_is_trained_on_is_refused(coco: Path, name: str) -> None:
    with pytest.raises(ConfigError, match="val_set"):
        open_detection(DataSpec(source=str(coco)), dataclasses.replace(DET, val_set=name))


def test_rare_classes_are_in_both_halves() -> None:
    images = [
        image(f"{n}", [0] * 3 + [1 + n % 5] * (n % 3) + ([9] if n < 2 else [])) for n in range(40)
    ]
    images += [image(f"empty{n}", []) for n in range(10)]
    first, second = halve_by_class(images)
    assert abs(len(first) - len(second)) <= 2
    assert class_imbalances(first, second)[-1] == 0  # the two objects of class 9
    assert max(class_imbalances(first, second)) <= 0.25
    assert sorted(each.name for each in first + second) == sorted(each.name for each in images)
    assert halve_by_class(images) == (first, second)


def test_real_images_are_halved_by_class(shared_data: Path) -> None:
    images = find_source(str(shared_data / "bccd.tar"), "detect").load("val").images
    first, second = halve_by_class(images)
    assert (len(first), len(second)) == (44, 43)
    assert max(class_imbalances(first, second)) < 0.05  # R-CNN's halves of ImageNet's: 0.11
