"""What may be wrong with all annotations of a set at once: said in the check and in training."""

import json

import pytest
from colored_sets import document, draw, opened, put
from detect_batches import stream

from resnets.cli.data.check import Check
from resnets.config import ConfigError
from resnets.data.errors import DataError
from resnets.detect.check.run import check_annotations
from resnets.detect.formats.problems import find_name_warnings
from resnets.detect.formats.voc.dataset import COORDINATES

WIDTH, HEIGHT = 640, 480


def boxes(unit=(1.0, 1.0)):
    """Boxes (left, top, right, bottom) all over images of WIDTH x HEIGHT, in `unit`s of px."""
    across, down = unit
    return [
        (x / across, y / down, (x + 160) / across, (y + 120) / down)
        for x, y in ((0, 0), (480, 0), (480, 360), (240, 200), (0, 360), (100, 300), (470, 100))
    ]


def coco_set(root, unit=(1.0, 1.0), size=(WIDTH, HEIGHT), **changes):
    found = document({n: f"p{n}.png" for n in range(4)})
    entries = []
    for n, image in enumerate(found["images"]):
        image |= {"width": size[0], "height": size[1]}
        draw(root / f"p{n}.png", n, size=size)
        for left, top, right, bottom in boxes(unit):
            box = [left, top, right - left, bottom - top]
            entry = {"id": len(entries), "image_id": n + 1, "category_id": 1 + n % 2, "bbox": box}
            entries.append(entry | changes)
    put(root / "annotations.json", found | {"annotations": entries})
    return root


def voc_set(root, unit=(1.0, 1.0), size=(WIDTH, HEIGHT)):
    for n in range(4):
        draw(root / f"JPEGImages/p{n}.jpg", n, size=size)
        objects = ""
        for box in boxes(unit):
            values = zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True)
            corners = "".join(f"<{key}>{value:.3f}</{key}>" for key, value in values)
            objects += f"<object><name>cat</name><bndbox>{corners}</bndbox></object>"
        head = f"<size><width>{size[0]}</width><height>{size[1]}</height></size>"
        text = f"<annotation><filename>p{n}.jpg</filename>{head}{objects}</annotation>"
        put(root / f"Annotations/p{n}.xml", text)
    return root


WRITERS = {"coco": coco_set, "voc": voc_set}


@pytest.mark.parametrize("form", WRITERS)
def test_boxes_of_other_units_are_warned_about(tmp_path, form):
    """In percent of the sides, or for images of half the size."""
    for name, unit, size in (
        ("percent", (WIDTH / 100, HEIGHT / 100), (WIDTH, HEIGHT)),
        ("enlarged", (1.0, 1.0), (2 * WIDTH, 2 * HEIGHT)),
    ):
        root = WRITERS[form](tmp_path / name, unit, size)
        report = check_annotations(str(root), "detect")
        assert len(report.warnings) == 1, name
        assert set(report.warnings) <= set(opened(root).summary.notes), name
    right = WRITERS[form](tmp_path / "right")
    assert not check_annotations(str(right), "detect").warnings


@pytest.mark.parametrize("form", WRITERS)
def test_boxes_in_shares_of_the_sides_are_refused(tmp_path, form):
    root = WRITERS[form](tmp_path, (WIDTH, HEIGHT))
    assert check_annotations(str(root), "detect").by_kind["no pixels"] == 28
    with pytest.raises(DataError):
        opened(root)


def test_a_set_of_crowds_only_is_refused(tmp_path):
    root = coco_set(tmp_path, iscrowd=1)
    assert check_annotations(str(root), "detect").by_kind == {"all crowd": 1}
    with pytest.raises(DataError):
        opened(root)
    with pytest.raises(DataError, match="crowd"):
        next(stream(root, skip_invalid=True).batches())


def test_fields_that_are_not_read_are_reported(tmp_path):
    root = coco_set(tmp_path, ignore=1, attributes={})
    found = json.loads((root / "annotations.json").read_text())
    for number, image in enumerate(found["images"]):
        image["split"] = "train" if number else "val"
    put(root / "annotations.json", found)
    for notes in (check_annotations(str(root), "detect").notes, opened(root).summary.notes):
        assert sum("ignore (in 28)" in note for note in notes) == 1
        assert sum("4 images state a split" in note for note in notes) == 1
        assert not any("attributes" in note for note in notes)
    plain = coco_set(tmp_path / "plain", iscrowd=0, area=4, segmentation=[])
    assert not check_annotations(str(plain), "detect").notes


def test_lists_that_are_not_read_are_reported(tmp_path):
    root = coco_set(tmp_path)
    put(root / "train.txt", "p0.png\np1.png\n")
    put(root / "readme.txt", "cats and dogs\n")
    (note,) = check_annotations(str(root), "detect").notes
    assert "train.txt" in note
    assert "readme.txt" not in note


def test_panoptic_annotations_are_refused_in_one_line(tmp_path):
    root = coco_set(tmp_path, segments_info=[])
    with pytest.raises(DataError, match="panoptic"):
        opened(root)


def test_classes_that_differ_by_case_are_warned_about(tmp_path):
    root = coco_set(tmp_path)
    found = json.loads((root / "annotations.json").read_text())
    first, second = (each["name"] for each in found["categories"][:2])
    found["categories"][1]["name"] = first.upper()
    put(root / "annotations.json", found)
    report = check_annotations(str(root), "detect")
    assert any(first in each and first.upper() in each for each in report.warnings)
    assert second


@pytest.mark.parametrize(
    "box", [{"x": 1, "y": 2, "width": 3, "height": 4}, [1, 2, 3, 4, 5], [1, 2, 3], None, "none"]
)
def test_boxes_that_are_none_are_shown_as_the_file_has_them(tmp_path, box):
    report = check_annotations(str(coco_set(tmp_path, bbox=box)), "detect")
    assert report.by_kind == {"no number": 28}
    assert json.dumps(box) in report.problems[0].message
    assert "nan" not in report.problems[0].message


def test_corners_that_are_not_numbers_are_shown_as_the_file_has_them(tmp_path):
    root = voc_set(tmp_path)
    path = root / "Annotations/p0.xml"
    path.write_text(path.read_text().replace("<xmin>0.000</xmin>", "<xmin>left</xmin>"))
    (problem, *_) = check_annotations(str(root), "detect").problems
    assert problem.kind == "no number"
    assert "left" in problem.message
    assert "nan" not in problem.message


FOREIGN = {
    "KITTI": ("label_2/p0.txt", "Car 0.00 0 -1.57 1.00 2.00 30.00 40.00 1.5 1.6 3.7 1 1.7 46 -1.5"),
    "VisDrone": ("annotations/p0.txt", "1,2,30,40,1,4,0,0"),
    "DOTA": ("labelTxt/p0.txt", "1.0 2.0 30.0 2.0 30.0 40.0 1.0 40.0 ship 0"),
    "DOTA with its source": ("labelTxt/p0.txt", "imagesource:GoogleEarth\ngsd:0.1"),
    "lines": (
        "train/metadata.jsonl",
        '{"file_name": "p0.jpg", "objects": {"bbox": [[1, 2, 3, 4]]}}',
    ),
    "a table": ("_annotations.csv", "filename,width,height,class,xmin,ymin,xmax,ymax"),
}


@pytest.mark.parametrize("form", FOREIGN)
def test_files_of_forms_that_are_not_read_are_named(tmp_path, form):
    path, line = FOREIGN[form]
    root = tmp_path / "set"
    draw(root / "images/p0.jpg", 0)
    put(root / path, f"{line}\n")
    with pytest.raises(DataError) as caught:
        opened(root)
    assert path in str(caught.value)
    assert form.split()[0] in str(caught.value)
    with pytest.raises(ConfigError) as caught:
        Check(str(root), repair=tmp_path / "new").run()
    assert path in str(caught.value)


def test_classes_are_named_and_those_that_number_objects_warned_about():
    (warning,) = find_name_warnings(("cat-1", "cat-2", "dog-1", "dog-2"))
    assert "4 of 4 classes" in warning
    (warning,) = find_name_warnings(("cat", "Cat", "cats", "dog"))
    assert "'Cat', 'cat', 'cats'" in warning
    (warning,) = find_name_warnings(("traffic light", "traffic_light", "bus"))
    assert "'traffic light', 'traffic_light'" in warning
    (warning,) = find_name_warnings(("cat", "c\u0430t", "dog"))
    assert "'c\\u0430t'" in warning
    assert not find_name_warnings(("A", "a", "B"))
    assert not find_name_warnings(("class_1", "class_2", "class_3"))
    assert not find_name_warnings(("A320", "A330", "bus"))


def test_voc_objects_with_two_boxes_and_elements_that_are_not_read_are_reported(tmp_path):
    voc_set(tmp_path)
    first, second, *_ = sorted(tmp_path.rglob("*.xml"))
    box = "<bndbox><xmin>1</xmin><ymin>1</ymin><xmax>9</xmax><ymax>9</ymax></bndbox>"
    part = f"<part><name>head</name>{box}</part>"
    for path, added in ((first, part * 2), (second, box)):
        path.write_text(path.read_text().replace("</object>", f"{added}</object>", 1))
    report = check_annotations(str(tmp_path), "detect")
    assert any("part (in 1)" in each for each in report.notes)
    (problem,) = report.problems
    assert second.name in problem.where
    assert problem.kind == "value"
    assert "2 bndbox" in problem.message
    with pytest.raises(DataError, match="2 bndbox"):
        opened(tmp_path)


def test_voc_boxes_that_begin_at_zero_are_reported(tmp_path):
    voc_set(tmp_path)
    notes = check_annotations(str(tmp_path), "detect").notes
    assert any("12 of " in each and "begin at 0" in each for each in notes)
    assert notes.count(COORDINATES) == 1  # of all image sets
    for path in (tmp_path / "Annotations").iterdir():
        path.write_text(path.read_text().replace(">0.000<", ">1.000<"))
    assert check_annotations(str(tmp_path), "detect").notes == (COORDINATES,)
