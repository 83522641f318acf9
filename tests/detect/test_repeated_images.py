"""Images that occur several times in lists or joined image sets are read once and reported."""

import json
import shutil

import pytest
from colored_sets import voc

from resnets.config import DataSpec, DetectSpec
from resnets.data.errors import DataError
from resnets.detect.loading.sources import open_detection

SAID = "listed more than once"


def opened(root, **fields):
    data = DataSpec(source=str(root), val_fraction=0, test_fraction=0)
    return open_detection(data, DetectSpec(**fields))


@pytest.fixture
def six(tmp_path):
    voc(tmp_path)
    names = sorted(path.stem for path in (tmp_path / "Annotations").iterdir())
    return tmp_path, names


def listed(root, lists):
    folder = root / "ImageSets/Main"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for title, names in lists.items():
        (folder / f"{title}.txt").write_text("".join(f"{name}\n" for name in names))


@pytest.mark.parametrize("joined", ["one+two", "train+trainval", "train+train", "repeated"])
def test_voc_lists(six, joined):
    root, names = six
    lists = {
        "one": names[:4],
        "two": names[2:],
        "train": names[:4],
        "trainval": names,
        "repeated": [*names, *names[:2]],
    }
    listed(root, {title: lists[title] for title in dict.fromkeys(joined.split("+"))})
    splits = opened(root, train_set=joined)
    assert len(splits.train) == (4 if joined == "train+train" else 6)
    assert any(SAID in note for note in splits.summary.notes) == (joined != "train+train")


def coco_entries(root, title, numbers, label=1):
    return {
        "images": [{"id": n, "file_name": f"{n}.png", "width": 32, "height": 24} for n in numbers],
        "annotations": [
            {"id": n, "image_id": n, "category_id": label, "bbox": [2, 2, 9, 9]} for n in numbers
        ],
        "categories": [{"id": 1, "name": "disc"}, {"id": 2, "name": "square"}],
    }


def write_coco(root, sets):
    from PIL import Image

    (root / "images").mkdir(parents=True)
    (root / "annotations").mkdir()
    for number in range(6):
        Image.new("RGB", (32, 24), (40 * number, 0, 0)).save(root / f"images/{number}.png")
    for title, (numbers, label) in sets.items():
        document = coco_entries(root, title, numbers, label)
        (root / f"annotations/instances_{title}.json").write_text(json.dumps(document))


def test_documents_of_the_same_images(tmp_path):
    write_coco(tmp_path, {"a": (range(4), 1), "b": (range(2, 6), 1)})
    splits = opened(tmp_path, train_set="a+b")
    assert len(splits.train) == 6
    assert sum(len(target) for target in splits.train.targets) == 6
    assert any(SAID in note for note in splits.summary.notes)


def test_documents_that_annotate_an_image_in_two_ways_are_refused(tmp_path):
    write_coco(tmp_path, {"a": (range(4), 1), "b": (range(2, 6), 2)})
    with pytest.raises(DataError, match="one image for two"):
        opened(tmp_path, train_set="a+b")
    assert len(opened(tmp_path, train_set="a+b", skip_invalid=True).train) == 6


def test_yolo_lists_and_folders(tmp_path):
    from PIL import Image

    for folder in ("images/a", "labels/a"):
        (tmp_path / folder).mkdir(parents=True)
    for number in range(4):
        Image.new("RGB", (32, 24), (40 * number, 0, 0)).save(tmp_path / f"images/a/{number}.png")
        (tmp_path / f"labels/a/{number}.txt").write_text("0 0.5 0.5 0.25 0.25\n")
    lines = [f"./images/a/{number}.png\n" for number in (0, 1, 2, 3, 2, 0)]
    (tmp_path / "train.txt").write_text("".join(lines))
    for train in ("train.txt", "[images/a, train.txt]"):
        (tmp_path / "data.yaml").write_text(f"train: {train}\nnames: [disc]\n")
        splits = opened(tmp_path)
        assert len(splits.train) == 4
        assert any(SAID in note for note in splits.summary.notes)


def test_a_listed_image_without_xml_is_named_where_it_would_lie(six):
    root, names = six
    (root / "Annotations/DET/train").mkdir(parents=True)
    for name in names:
        (root / f"Annotations/{name}.xml").rename(root / f"Annotations/DET/train/{name}.xml")
    (root / f"Annotations/DET/train/{names[0]}.xml").unlink()
    listed(root, {"train": names})
    with pytest.raises(DataError, match=f"Annotations/DET/train/{names[0]}.xml.*without <object>"):
        opened(root)
