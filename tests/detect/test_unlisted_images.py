"""Images without annotations, and objects with one box only, are reported in training."""

import pytest
from colored_sets import document, draw, put, voc

from resnets.config import DataSpec
from resnets.detect.loading.sources import open_detection

YAML = "train: images/train\nval: images/val\nnames: [cat, dog]\n"


def coco_set(root):
    names = {number: f"p{number}.jpg" for number in range(4)}
    for number, name in names.items():
        draw(root / "images" / name, number)
    put(root / "annotations.json", document(names))
    return root / "images"


def voc_set(root):
    voc(root)
    return root / "JPEGImages"


def yolo_set(root):
    put(root / "data.yaml", YAML)
    for number in range(6):
        split = "train" if number < 4 else "val"
        draw(root / "images" / split / f"p{number}.jpg", number)
        put(root / "labels" / split / f"p{number}.txt", f"{number % 2} .5 .5 .2 .2\n")
    return root / "images" / "test"  # not in the YAML file


@pytest.mark.parametrize("write", [coco_set, voc_set, yolo_set])
def test_images_in_no_set_are_counted(tmp_path, write) -> None:
    folder = write(tmp_path)
    data = DataSpec(source=str(tmp_path))
    assert not open_detection(data, training=True).summary.skipped
    for number in (20, 21):
        draw(folder / f"p{number}.jpg", number)
    (skipped,) = open_detection(data, training=True).summary.skipped
    assert skipped.startswith("2 .jpg ")


@pytest.mark.parametrize(
    ("category", "counts"), [(1, "1 of its class, 0"), (2, "0 of its class, 1")]
)
def test_objects_with_one_box_are_counted(tmp_path, category: int, counts: str) -> None:
    coco_set(tmp_path)
    found = document({number: f"p{number}.jpg" for number in range(4)})
    twice = found["annotations"][0] | {"id": 9, "category_id": category}
    put(tmp_path / "annotations.json", found | {"annotations": [*found["annotations"], twice]})
    splits = open_detection(DataSpec(source=str(tmp_path)), training=True)
    assert any(counts in note for note in splits.summary.notes)


def test_notes_on_sets_without_a_name_begin_with_a_word(tmp_path) -> None:
    voc(tmp_path)
    notes = open_detection(DataSpec(source=str(tmp_path)), training=True).summary.notes
    assert notes
    assert all(note[0].isalnum() for note in notes)
