"""Annotated sets: COCO JSON, VOC XML and class maps, from folders and tars."""

import json
import tarfile

import numpy as np
import pytest
from colored_sets import draw, put, right, xml
from detect_sets import save, write_coco, write_voc
from PIL import Image

from resnets.config import ConfigError, DataSpec, DetectSpec
from resnets.data.errors import DataError
from resnets.detect.check.run import check_annotations
from resnets.detect.loading.sources import open_detection


def opened(root, task="detect", **fields):
    return open_detection(DataSpec(source=str(root)), DetectSpec(**fields), task)


def test_coco_folder_and_tar_agree(tmp_path):
    root = tmp_path / "set"
    document = write_coco(root, "train2017", [(40, 30)] * 10)
    write_coco(root, "val2017", [(40, 30)] * 4, seed=5)
    with tarfile.open(tmp_path / "set.tar", "w") as tar:
        tar.add(root, "deep/set")
    for source in (root, tmp_path / "set.tar"):
        splits = opened(source, "instances")
        assert splits.classes == ("red", "green", "blue")
        assert splits.train.category_ids == (3, 7, 9)
        assert (len(splits.train), len(splits.val), len(splits.test())) == (9, 1, 4)
        pixels, target = splits.train.read(0)
        assert pixels.shape == (30, 40, 3)
        mine = [e for e in document["annotations"] if e["image_id"] == target.image_id]
        x, y, w, h = mine[0]["bbox"]
        assert target.boxes[0].tolist() == [x, y, x + w, y + h]
        color = pixels[y + h // 2, x + w // 2]
        assert color.argmax() == target.labels[0]
        assert len(target.masks) == len(target) == 2


def test_own_validation_and_test_sets_are_respected(tmp_path):
    for title, count in (("train", 5), ("val", 3), ("test", 2)):
        write_coco(tmp_path, title, [(40, 30)] * count)
    splits = opened(tmp_path)
    assert (len(splits.train), len(splits.val), len(splits.test())) == (5, 3, 2)


def test_custom_json_next_to_its_images(tmp_path):
    write_coco(tmp_path, "train", [(40, 30)] * 20)
    text = (tmp_path / "annotations" / "instances_train.json").read_text()
    (tmp_path / "train" / "_annotations.coco.json").write_text(text)
    (tmp_path / "annotations" / "instances_train.json").unlink()
    splits = open_detection(
        DataSpec(source=str(tmp_path), val_fraction=0.1, test_fraction=0.2, split_seed=3)
    )
    assert (len(splits.train), len(splits.val), len(splits.test())) == (16, 1, 3)
    names = [
        {part.files.name(row) for row in range(len(part))}
        for part in (splits.train, splits.val, splits.test())
    ]
    assert not names[0] & names[1]
    assert not names[0] & names[2]
    assert len(set.union(*names)) == 20


def test_test_images_are_opened_only_when_asked_for(tmp_path):
    write_coco(tmp_path, "train", [(40, 30)] * 4)
    write_coco(tmp_path, "test", [(40, 30)] * 2)
    (tmp_path / "annotations" / "instances_test.json").write_text("{")
    splits = opened(tmp_path)
    with pytest.raises(DataError, match="instances_test.json.*JSON"):
        splits.test()


def test_voc_boxes_start_at_one_and_include_the_last_pixel(tmp_path):
    objects = [("cat", (1, 1, 10, 20), 0), ("dog", (31, 5, 60, 40), 1)]
    write_voc(tmp_path, "a", (60, 40), objects)
    write_voc(tmp_path, "b", (60, 40), [("dog", (3, 4, 9, 9), 0)])
    (tmp_path / "ImageSets/Main/train.txt").write_text("a\n")
    (tmp_path / "ImageSets/Main/val.txt").write_text("b\n")
    (tmp_path / "ImageSets/Main/cat_train.txt").write_text("a 1\nb -1\n")
    splits = open_detection(DataSpec(source=str(tmp_path), val_fraction=0.0))
    target = splits.train.targets[0]
    assert target.boxes.tolist() == [[0, 0, 10, 20], [30, 4, 60, 40]]
    assert target.difficult.tolist() == [False, True]
    assert splits.classes == ("cat", "dog")
    assert splits.val is None
    assert splits.test().targets[0].image_id == "b"


def test_two_years_of_voc_are_joined(tmp_path):
    for year, names in (("VOC2007", "abc"), ("VOC2012", "de")):
        for name in names:
            write_voc(tmp_path / year, name, (60, 40), [("mine", (1, 1, 10, 20), 0)])
        (tmp_path / year / "ImageSets/Main/trainval.txt").write_text("\n".join(names[:2]))
    (tmp_path / "VOC2007/ImageSets/Main/test.txt").write_text("c\n")
    (tmp_path / "VOC2012/ImageSets/Main/test.txt").write_text("no_such_annotations\n")
    splits = open_detection(DataSpec(source=str(tmp_path), val_fraction=0.25))
    assert (len(splits.train), len(splits.val), len(splits.test())) == (3, 1, 1)
    only = open_detection(
        DataSpec(source=str(tmp_path), val_fraction=0), DetectSpec(train_set="VOC2012:trainval")
    )
    assert [each.image_id for each in only.train.targets] == ["d", "e"]
    with pytest.raises(ConfigError, match=r"detect\.train_set.*VOC"):
        opened(tmp_path, train_set="train")


def test_trainval_gives_up_a_share_and_never_trains_on_test(tmp_path):
    for name in "abcd":
        write_voc(tmp_path, name, (60, 40), [("mine", (1, 1, 10, 20), 0)])
    lists = {"train": "ab", "val": "c", "trainval": "abc", "test": "cd"}
    for title, names in lists.items():
        (tmp_path / f"ImageSets/Main/{title}.txt").write_text("\n".join(names))
    splits = open_detection(
        DataSpec(source=str(tmp_path), val_fraction=0.4), DetectSpec(train_set="trainval")
    )
    assert (len(splits.train), len(splits.val)) == (1, 2)
    with pytest.raises(DataError, match="test shares images with trainval"):
        splits.test()


def test_xml_next_to_images_in_part_folders(tmp_path):
    for part, names in (("train", "ab"), ("valid", "c"), ("test", "d")):
        for name in names:
            write_voc(tmp_path / "new", name, (60, 40), [("x", (1, 1, 10, 20), 0)])
            (tmp_path / "set" / part).mkdir(parents=True, exist_ok=True)
            for folder, suffix in (("JPEGImages", "jpg"), ("Annotations", "xml")):
                source = tmp_path / "new" / folder / f"{name}.{suffix}"
                source.rename(tmp_path / "set" / part / source.name)
    splits = opened(tmp_path / "set")
    assert (len(splits.train), len(splits.val), len(splits.test())) == (2, 1, 1)


def test_an_image_of_another_size_than_annotated_is_refused(tmp_path):
    write_coco(tmp_path, "train", [(40, 30)] * 2)
    Image.new("RGB", (41, 30)).save(tmp_path / "train" / "train0001.png")
    with pytest.raises(DataError, match="train0001.png.*41x30.*40"):
        opened(tmp_path)


def test_class_maps_with_a_list_of_values(tmp_path):
    for title, count in (("train", 3), ("val", 1)):
        write_coco(tmp_path, title, [(40, 30)] * count)
        (tmp_path / f"semantic_{title}").mkdir()
        for row in range(count):
            values = np.full((30, 40), 0, np.uint8)
            values[:10], values[10:20] = 5, 9
            Image.fromarray(values).save(tmp_path / f"semantic_{title}/{title}{row + 1:04d}.png")
    (tmp_path / "semantic_classes.yaml").write_text("classes:\n 0: unlabeled\n 5: sky\n 9: sea\n")
    splits = open_detection(DataSpec(source=str(tmp_path), val_fraction=0.3), task="segment")
    assert splits.classes == ("sky", "sea")
    classes = splits.test().targets[0].semantic.read()
    assert classes[:, 0].tolist() == [0] * 10 + [1] * 10 + [255] * 10


@pytest.mark.parametrize(
    ("document", "says"),
    [
        ("[]", "not COCO JSON; it needs lists called images"),
        (
            '{"images": [3], "annotations": [], "categories": []}',
            r"images\[0\]: is not a COCO object",
        ),
        ('{"images": [], "annotations": [], "categories": []}', "categories: is empty"),
        ('{"images": [], "annotations": [], "categories": [{"id": "a"}]}', "lacks a whole number"),
    ],
)
def test_malformed_json_gets_one_line(tmp_path, document, says):
    write_coco(tmp_path, "train", [(40, 30)])
    (tmp_path / "annotations" / "instances_train.json").write_text(document)
    with pytest.raises(DataError, match=says) as caught:
        opened(tmp_path)
    assert "instances_train.json" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_sets_without_annotations_are_named(tmp_path):
    with pytest.raises(DataError, match="no such folder, tar or zip"):
        opened(tmp_path / "none")
    Image.new("RGB", (5, 5)).save(tmp_path / "a.png")
    with pytest.raises(DataError, match="COCO JSON"):
        opened(tmp_path)


def test_validation_with_other_categories_is_refused(tmp_path):
    write_coco(tmp_path, "train", [(40, 30)] * 2)
    document = write_coco(tmp_path, "val", [(40, 30)] * 2)
    document["categories"] = [{"id": 3, "name": "green"}]
    save(tmp_path, "val", document)
    with pytest.raises(DataError, match=r"category 3 \(green\) is not what it is in the training"):
        opened(tmp_path).test()


def test_bccd_keeps_its_own_split(shared_data):
    source = str(shared_data / "bccd.tar")
    with pytest.raises(DataError, match="BloodImage_00343.xml.*4"):
        opened(source)
    splits = opened(source, skip_invalid=True)
    assert splits.classes == ("Platelets", "RBC", "WBC")
    assert (len(splits.train), len(splits.val), len(splits.test())) == (205, 87, 72)
    assert sum(len(target) for target in splits.train.targets) == 2804


def test_coco_tiny_matches_its_json(shared_data):
    splits = opened(shared_data / "coco-tiny.tar", "instances")
    with tarfile.open(shared_data / "coco-tiny.tar") as tar:
        member = tar.extractfile("coco-tiny/annotations/instances_val2017.json")
        document = json.load(member)
    test = splits.test()
    assert sum(len(target) for target in test.targets) == len(document["annotations"])
    by_id = {entry["id"]: entry for entry in document["categories"]}
    first = document["annotations"][0]
    target = next(each for each in test.targets if each.image_id == first["image_id"])
    assert by_id[first["category_id"]]["name"] == test.classes[target.labels[0]]
    assert target.areas[0] == first["area"]


def test_voc_is_known_by_name_where_it_is_in_the_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("RESNETS_CACHE", str(tmp_path))
    for year, names in (("VOC2007", "abc"), ("VOC2012", "de")):
        root = tmp_path / "VOCdevkit" / year
        for name in names:
            write_voc(root, name, (60, 40), [("cat", (1, 1, 10, 20), 0)])
        (root / "ImageSets/Main/trainval.txt").write_text("\n".join(names[:2]))
    (tmp_path / "VOCdevkit/VOC2007/ImageSets/Main/test.txt").write_text("c\n")
    for source, train, test in (("voc2007", 2, 1), ("voc2012", 1, 1), ("voc0712", 4, 1)):
        data = DataSpec(source=source, val_fraction=0, test_fraction=0.5)
        splits = open_detection(data)
        assert (len(splits.train), len(splits.test())) == (train, test), source


@pytest.mark.parametrize("lists", [("train_cls", "train_loc"), ("train_cls",)])
def test_imagenets_lists_of_images_with_boxes_are_the_training_set(tmp_path, lists):
    """Kaggle's layout: "path number" lines; train_cls lists images without boxes too."""
    root, stems = tmp_path / "ILSVRC", []
    for number in range(5):
        part = "train/n01" if number < 4 else "val"
        stem = f"n01_{number}" if number < 4 else "ILSVRC2012_val_00000001"
        draw(root / f"Data/CLS-LOC/{part}/{stem}.JPEG", number)
        if number != 3:
            put(root / f"Annotations/CLS-LOC/{part}/{stem}.xml", xml(number, stem))
        stems.append(stem)
    for name in lists:
        listed = stems[: 3 if name == "train_loc" else 4]
        lines = [f"n01/{stem} {number}" for number, stem in enumerate(listed, 1)]
        put(root / f"ImageSets/CLS-LOC/{name}.txt", "\n".join(lines))
    put(root / "ImageSets/CLS-LOC/val.txt", "ILSVRC2012_val_00000001 1\n")
    put(tmp_path / "LOC_synset_mapping.txt", "n01 a fish\n")
    splits = open_detection(DataSpec(source=str(tmp_path), val_fraction=0))
    assert (right(splits.train), right(splits.test())) == (3, 1)
    report = check_annotations(str(tmp_path), "detect")
    assert {title: each["images"] for title, each in report.counts.items()} == {
        "train": 3,
        "val": 1,
    }
    assert not report.problems
