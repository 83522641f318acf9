"""YOLO text, labelme JSON and CVAT XML, in folders, tars and zips: the records of the original."""

import contextlib
import json
import tarfile
import zipfile

import numpy as np
import pytest
from annotation_formats import records, same_records, write_cvat, write_labelme, write_yolo
from detect_batches import stream
from detect_sets import write_coco, write_voc
from PIL import Image

from resnets.cli.main import main
from resnets.config import DataSpec, DetectSpec
from resnets.data.errors import DataError
from resnets.detect.check.run import annotation_tasks, check_annotations
from resnets.detect.evaluate.splits import reorder
from resnets.detect.loading.sources import find_source, open_detection

WIDTH, HEIGHT = 80, 60


def image(path, size=(WIDTH, HEIGHT)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (90, 90, 90)).save(path)


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def part_of(root, task="detect", title=None):
    source = find_source(str(root), task)
    return source, source.load(source.titles[0] if title is None else title)


def train_split(root, task="detect", **fields):
    data = DataSpec(source=str(root), val_fraction=0, test_fraction=0)
    return open_detection(data, DetectSpec(**fields), task).train


@pytest.fixture(scope="module")
def coco(tmp_path_factory):
    root = tmp_path_factory.mktemp("coco")
    write_coco(root, "train", [(80, 60), (60, 80), (100, 50)] * 2)
    write_coco(root, "val", [(80, 60)] * 2, seed=5)
    return root


PARTS = {"train": "train", "val": "val"}


@pytest.mark.parametrize("flat", [False, True])
def test_yolo_boxes_are_those_of_the_original(coco, tmp_path, flat):
    original = find_source(str(coco), "instances")
    write_yolo(original, PARTS, tmp_path, flat=flat)
    found = find_source(str(tmp_path), "detect")
    assert found.classes == original.classes
    assert set(found.titles) == {"train", "val"}
    for title in found.titles:
        assert same_records(records(original, title), records(found, title))
    assert check_annotations(str(tmp_path), "instances").problems == []


def test_outlines_are_those_of_the_original(coco, tmp_path):
    original = find_source(str(coco), "instances")
    write_yolo(original, PARTS, tmp_path / "yolo", outlines=True)
    write_labelme(original, "train", tmp_path / "labelme", outlines=True)
    write_cvat(original, PARTS, tmp_path / "cvat", outlines=True)
    for name in ("yolo", "labelme", "cvat"):
        found = find_source(str(tmp_path / name), "instances")
        title = "train" if "train" in found.titles else ""
        same = same_records(records(original, "train"), records(found, title), outlines=True)
        assert same == 12
        split = train_split(tmp_path / name, "instances")
        assert len(split) == 6
        assert split.targets[0].areas[0] == pytest.approx(
            np.prod(split.targets[0].boxes[0, 2:] - split.targets[0].boxes[0, :2]), rel=0.01
        )


def test_real_boxes_of_bccd_survive_each_form(shared_data, tmp_path):
    voc = find_source(str(shared_data / "bccd.tar"), "detect")
    parts = {"val": "train", "test": "val"}
    write_yolo(voc, parts, tmp_path / "yolo")
    write_cvat(voc, parts, tmp_path / "cvat")
    write_labelme(voc, "val", tmp_path / "labelme")
    for name in ("yolo", "cvat", "labelme"):
        found = find_source(str(tmp_path / name), "detect")
        title = "train" if "train" in found.titles else ""
        assert same_records(records(voc, "val"), records(found, title), tolerance=0.02) > 1000


def test_real_outlines_of_coco_survive_labelme_and_cvat(shared_data, tmp_path):
    original = find_source(str(shared_data / "coco-tiny.tar"), "instances")
    write_labelme(original, "val2017", tmp_path / "labelme", outlines=True)
    found = find_source(str(tmp_path / "labelme"), "instances")
    one, other = records(original, "val2017"), records(found, "")
    assert {k: len(v[2]) for k, v in one.items()} == {k: len(v[2]) for k, v in other.items()}
    areas = [
        (target.image_id, round(float(area)))
        for split in (train_split(tmp_path / "labelme", "instances", skip_invalid=True),)
        for target in split.targets
        for area in target.areas
    ]
    assert len(areas) > 50


def test_zip_and_tar_of_every_form_are_the_folder(coco, tmp_path):
    original = find_source(str(coco), "instances")
    write_yolo(original, PARTS, tmp_path / "yolo")
    write_cvat(original, PARTS, tmp_path / "cvat")
    write_labelme(original, "train", tmp_path / "labelme")
    write_voc(tmp_path / "voc", "a", (60, 40), [("cat", (1, 1, 10, 20), 0)])
    folders = [coco, *(tmp_path / name for name in ("yolo", "cvat", "labelme", "voc"))]
    for folder in folders:
        expected = find_source(str(folder), "detect")
        with zipfile.ZipFile(tmp_path / "set.zip", "w") as packed:
            for path in sorted(folder.rglob("*")):
                packed.write(path, f"{folder.name}/{path.relative_to(folder)}")
        with tarfile.open(tmp_path / "set.tar.gz", "w:gz") as packed:
            packed.add(folder, folder.name)
        for name in ("set.zip", "set.tar.gz"):
            assert annotation_tasks(str(tmp_path / name))
            found = find_source(str(tmp_path / name), "detect")
            assert found.classes == expected.classes
            for title in expected.titles:
                same_records(records(expected, title), records(found, title))


def yolo(root, label="0 0.5 0.5 0.25 0.5\n", yaml=None, count=3):
    for number in range(count):
        image(root / f"images/train/p{number}.jpg")
        if label is not None:
            write(root / f"labels/train/p{number}.txt", label)
    write(root / "data.yaml", yaml or "train: images/train\nnames: [cat, dog]\n")


YAMLS = {
    "path and dict": "path: ../datasets/mine\ntrain: images/train\nval:\nnames: {0: cat, 1: dog}\n",
    "quoted numbers": "train: images/train\nnc: 2\nnames: {'0': cat, '1': dog}\n",
    "list of folders": "train: [images/train]\nnames: [cat, dog]\n",
    "absolute": "train: /home/me/mine/images/train\nnames: [cat, dog]\n",
    "up": "train: ../images/train\nnames: [cat, dog]\n",
    "backslashes": "train: 'C:\\me\\mine\\images\\train'\nnames: [cat, dog]\n",
    "dot": "path: .\ntrain: ./images/train/\nnames: [cat, dog]\nroboflow: {url: x}\n",
    "list file": "train: train.txt\nnames: [cat, dog]\n",
    "nested": "path: /data/set\ntrain: images/train\nnames:\n  0: cat\n  1: dog\n",
    "everything": "path: .\ntrain: .\nnames: [cat, dog]\n",
}


@pytest.mark.parametrize("form", YAMLS)
def test_yaml_in_its_forms(tmp_path, form):
    yolo(tmp_path, yaml=YAMLS[form])
    lines = [f"./images/train/p{number}.jpg" for number in range(3)]
    write(tmp_path / "train.txt", "\n".join(lines))
    split = train_split(tmp_path)
    assert len(split) == 3
    assert split.classes == ("cat", "dog")
    assert split.targets[0].boxes.tolist() == [[30, 15, 50, 45]]


BAD_YAMLS = {
    "count": "train: images/train\nnc: 3\nnames: [cat, dog]\n",
    "twice": "train: images/train\nnames: [cat, cat]\n",
    "folder": "train: photos/nowhere\nnames: [cat, dog]\n",
    "kind": "train: 7\nnames: [cat, dog]\n",
    "names": "train: images/train\nnames: 5\n",
    "no names": "train: images/train\nnc: 2\n",
    "alias": "train: images/train\nnames: &a [cat, *a]\n",
    "tag": "train: images/train\nnames: !!python/object/apply:os.getcwd []\n",
    "list": "train: list.txt\nnames: [cat, dog]\n",
}


@pytest.mark.parametrize("form", BAD_YAMLS)
def test_yaml_that_is_wrong_is_refused_with_one_line(tmp_path, form):
    yolo(tmp_path, yaml=BAD_YAMLS[form])
    write(tmp_path / "list.txt", "images/train/p0.jpg\nimages/train/gone.jpg\n")
    with pytest.raises(DataError) as caught:
        train_split(tmp_path)
    assert "\n" not in str(caught.value)


ROWS = {
    "5 0.5 0.5 0.2 0.2": "category",
    "0.5 0.5 0.5 0.2 0.2": "category",
    "cat 0.5 0.5 0.2 0.2": "category",
    "0 40 30 20 20": "not normalized",
    "0 0.5 0.5 0.2": "no number",
    "0 0.5 0.5 0.2 x": "no number",
    "0 0.5 0.5 nan 0.2": "no number",
    "0 0.5 0.5 0 0.2": "no area",
    "0 0.95 0.5 0.4 0.2": "outside",
    "0 0.1 0.1 0.2 0.1 0.2 0.2 0.3": "no number",
}


@pytest.mark.parametrize("row", ROWS)
def test_bad_rows_are_named_by_file_and_line(tmp_path, row):
    yolo(tmp_path, label=f"1 0.5 0.5 0.25 0.5\n{row}\n", count=1)
    report = check_annotations(str(tmp_path), "instances")
    assert ROWS[row] in report.by_kind
    assert any("p0.txt" in each.where and each.item == "line 2" for each in report.problems)
    with pytest.raises(DataError):
        train_split(tmp_path)
    assert len(train_split(tmp_path, skip_invalid=True).targets[0]) == 1


def test_empty_missing_repeated_and_orphan_label_files_are_counted(tmp_path):
    yolo(tmp_path, label="0 0.5 0.5 0.25 0.5 0.9\n0 0.5 0.5 0.25 0.5 0.9\n")
    write(tmp_path / "labels/train/p0.txt", "")
    (tmp_path / "labels/train/p1.txt").unlink()
    _, part = part_of(tmp_path)
    notes = "\n".join(part.notes)
    for text in ("1 images without a label file", "1 empty", "1 lines that occur", "1 lines with"):
        assert text in notes, text
    assert [len(each.objects) for each in part.images] == [0, 0, 1]
    write(tmp_path / "labels/train/gone.txt", "0 0.5 0.5 0.25 0.5\n")
    assert dict(check_annotations(str(tmp_path), "instances").by_kind) == {"no image": 1}
    for path in (tmp_path / "labels").rglob("*.txt"):
        path.unlink()
    with pytest.raises(DataError, match="none of its 3 images has a label file"):
        train_split(tmp_path)


def test_yolo_without_yaml(tmp_path):
    yolo(tmp_path)
    (tmp_path / "data.yaml").unlink()
    with pytest.raises(DataError, match="without names"):
        train_split(tmp_path)
    write(tmp_path / "classes.txt", "cat\ndog\n")
    assert train_split(tmp_path).classes == ("cat", "dog")
    for number in range(3):  # beside the images, as darknet has them
        image(tmp_path / f"flat/obj_train_data/p{number}.jpg")
        write(tmp_path / f"flat/obj_train_data/p{number}.txt", "1 0.5 0.5 0.25 0.5\n")
    write(
        tmp_path / "flat/obj.data", "classes = 2\ntrain = data/train.txt\nnames = data/obj.names\n"
    )
    write(tmp_path / "flat/obj.names", "cat\ndog\n")
    lines = [f"data/obj_train_data/p{number}.jpg" for number in range(3)]
    write(tmp_path / "flat/train.txt", "\n".join(lines))
    split = train_split(tmp_path / "flat")
    assert [target.labels.tolist() for target in split.targets] == [[1]] * 3


def test_key_points_are_reported_not_read(tmp_path):
    yaml = "train: images/train\nnames: [cat, dog]\nkpt_shape: [2, 3]\n"
    yolo(tmp_path, label="0 0.5 0.5 0.25 0.5 0.1 0.1 2 0.2 0.2 2\n", yaml=yaml)
    source, part = part_of(tmp_path)
    assert part.images[0].objects[0].box == (30, 15, 50, 45)
    assert any("key points" in note for note in source.notes)


def test_a_label_file_for_two_images_belongs_to_neither(tmp_path):
    yolo(tmp_path)
    Image.new("RGB", (WIDTH, HEIGHT), (9, 9, 9)).save(tmp_path / "images/train/p0.png")
    report = check_annotations(str(tmp_path), "detect")
    assert dict(report.by_kind) == {"several images": 1}
    with pytest.raises(DataError, match=r"p0\.txt"):
        train_split(tmp_path)
    assert len(train_split(tmp_path, skip_invalid=True)) == 2
    (tmp_path / "images/train/p0.png").write_bytes((tmp_path / "images/train/p0.jpg").read_bytes())
    assert len(train_split(tmp_path)) == 3


@pytest.mark.parametrize("name", ["data (1).yaml", "sub/data.yaml", "obj.data"])
def test_files_that_state_different_sets_are_refused(tmp_path, name):
    yolo(tmp_path)
    same = "train: images/train\nnames: {0: cat, 1: dog}\n"
    if name.endswith(".data"):
        same = "train = train.txt\nnames = names.list.txt\n"
        write(tmp_path / "names.list.txt", "cat\ndog\n")
        lines = [f"images/train/p{number}.jpg" for number in range(3)]
        write(tmp_path / "train.txt", "\n".join(lines))
    write(tmp_path / name, same)
    assert train_split(tmp_path).classes == ("cat", "dog")
    write(tmp_path / "names.list.txt", "dog\ncat\n")
    write(tmp_path / name, same.replace("0: cat, 1: dog", "0: dog, 1: cat"))
    with pytest.raises(DataError, match="keep one"):
        train_split(tmp_path)


@pytest.mark.parametrize("place", ["classes.txt", "labels/train/classes.txt", "obj.names"])
def test_names_that_disagree_with_a_file_of_names_are_refused(tmp_path, place):
    yolo(tmp_path)
    write(tmp_path / place, "cat\ndog\nbird\n\n")  # of more classes, but none is another
    assert train_split(tmp_path).classes == ("cat", "dog")
    write(tmp_path / place, "dog\ncat\n")
    with pytest.raises(DataError, match="class 0 is cat"):
        train_split(tmp_path)


def test_files_of_names_that_disagree_are_refused(tmp_path):
    yolo(tmp_path)
    (tmp_path / "data.yaml").unlink()
    write(tmp_path / "classes.txt", "cat\n")
    write(tmp_path / "labels/classes.txt", "cat\ndog\n")
    assert train_split(tmp_path).classes == ("cat", "dog")
    write(tmp_path / "labels/classes.txt", "dog\ncat\n")
    with pytest.raises(DataError, match=r"labels/classes\.txt"):
        train_split(tmp_path)


def test_a_blank_line_between_names_is_refused(tmp_path):
    yolo(tmp_path)
    (tmp_path / "data.yaml").unlink()
    write(tmp_path / "classes.txt", "cat\n\ndog\n")
    with pytest.raises(DataError, match=r"classes\.txt.*2"):
        train_split(tmp_path)


def test_two_label_files_of_one_image_have_to_agree(tmp_path):
    yolo(tmp_path)
    write(tmp_path / "images/train/p0.txt", "0  0.5 0.5 0.25 0.5\n")
    write(tmp_path / "images/train/p1.txt", "a caption\n")
    assert len(train_split(tmp_path)) == 3
    write(tmp_path / "images/train/p0.txt", "1 0.5 0.5 0.25 0.5\n")
    report = check_annotations(str(tmp_path), "detect")
    assert dict(report.by_kind) == {"annotations": 1}
    write(tmp_path / "labels/train/p0.txt", "")
    assert dict(check_annotations(str(tmp_path), "detect").by_kind) == {"annotations": 1}


def test_label_files_in_upper_case_are_read(tmp_path):
    yolo(tmp_path)
    labels = tmp_path / "labels/train"
    (labels / "p0.txt").rename(labels / "p0.TXT")
    (labels / "p1.txt").rename(labels / "P1.Txt")
    split = train_split(tmp_path)
    assert [len(target) for target in split.targets] == [1] * 3


def test_label_files_in_another_folder_than_their_image_are_problems(tmp_path):
    yolo(tmp_path)
    write(tmp_path / "labels/q0.txt", "0 0.5 0.5 0.25 0.5\n")
    write(tmp_path / "labels/train/deeper/q1.txt", "0 0.5 0.5 0.25 0.5\n")
    assert check_annotations(str(tmp_path), "detect").by_kind["no image"] == 2
    write(tmp_path / "labels/val/q2.txt", "0 0.5 0.5 0.25 0.5\n")
    assert any("labels/val/" in note for note in part_of(tmp_path)[1].notes)


@pytest.mark.parametrize(
    "row", ["0.5 0.5 0.25 0.5 -0.78", "0.5 0.5 0.25 0.5 45", "0.5 0.5 0.25 0.5 0.9 1"]
)
def test_boxes_with_an_angle_or_a_track_are_problems(tmp_path, row):
    yolo(tmp_path, label=f"0 {row}\n1 {row}\n")
    write(tmp_path / "labels/train/p1.txt", "0 0.5 0.5 0.25 0.5 0.7\n")
    in_doubt = {5: 5, 6: 4}[len(row.split())]  # all boxes with a sixth value, or with two more
    wrong = [p for p in check_annotations(str(tmp_path), "detect").problems if p.kind == "box form"]
    assert len(wrong) == 1
    assert f"{in_doubt} objects" in wrong[0].message


def test_triangles_are_outlines(tmp_path):
    yolo(tmp_path, label="0 0.1 0.1 0.5 0.1 0.5 0.5\n")
    assert train_split(tmp_path, "instances").targets[0].boxes[0].tolist() == [8, 6, 40, 30]


def test_only_polygons_of_one_group_are_one_object(tmp_path):
    boxes = [[[1, 1], [9, 9]], [[20, 20], [30, 30]], [[40, 10], [50, 30]]]
    shapes = [shape("rectangle", box, group_id=1) for box in boxes]
    shapes += [shape("polygon", [[x, 40], [x + 9, 40], [x, 50]], group_id=1) for x in (1, 30)]
    labelme(tmp_path, shapes)
    _, part = part_of(tmp_path, "instances")
    assert [each.box for each in part.images[0].objects] == [
        (1, 1, 9, 9),
        (20, 20, 30, 30),
        (40, 10, 50, 30),
        (1, 40, 39, 50),
    ]
    assert any("3 shapes" in note for note in part.notes)
    assert any("2 shapes" in note for note in part.notes)


def labelme(root, shapes, name="p0", **fields):
    image(root / f"{name}.jpg")
    document = {"shapes": shapes, "imagePath": f"{name}.jpg"} | fields
    write(root / f"{name}.json", json.dumps(document))


def shape(kind, points, label="cat", **fields):
    return {"label": label, "points": points, "shape_type": kind} | fields


def test_labelme_shapes(tmp_path):
    shapes = [
        shape("rectangle", [[50, 40], [10, 5]]),
        shape("circle", [[30, 30], [40, 30]], "dog"),
        shape("polygon", [[1, 1], [9, 1], [9, 9]], group_id=3),
        shape("polygon", [[20, 20], [30, 20], [30, 30]], group_id=3),
        shape("line", [[1, 1], [9, 9]]),
        shape("point", [[1, 1]]),
        shape("points", [[1, 1], [4, 4]]),
        {"label": "cat", "points": [[0, 0], [5, 0], [5, 5]]},
    ]
    labelme(tmp_path, shapes, imageHeight=HEIGHT, imageWidth=WIDTH)
    source, part = part_of(tmp_path, "instances")
    boxes = [each.box for each in part.images[0].objects]
    assert boxes == [(10, 5, 50, 40), (20, 20, 40, 40), (1, 1, 30, 30), (0, 0, 5, 5)]
    assert part.images[0].objects[1].area == pytest.approx(np.pi * 100, rel=0.01)
    assert len(part.images[0].objects[2].segmentation) == 2
    assert "1 line" in part.notes[0]
    assert "1 point" in part.notes[0]
    assert source.classes == ("cat", "dog")
    assert check_annotations(str(tmp_path), "instances").problems == []


def test_labelme_files_that_are_wrong(tmp_path):
    labelme(tmp_path, [shape("polygon", [[1, 1], [9, 9]])], "p0")
    labelme(tmp_path, [shape("polygon", [[1, "x"], [9, 1], [9, 9]])], "p1")
    labelme(tmp_path, [shape("mask", [[0, 0], [9, 9]], mask="????")], "p2")
    labelme(tmp_path, [shape("rectangle", [[1, 1], [9, 9]])], "p3", imageHeight=10**9, imageWidth=9)
    labelme(tmp_path, [shape("rectangle", [[1, 1], [9, 9]])], "p4", imagePath="D:\\a\\p4.jpg")
    labelme(tmp_path, [shape("rectangle", [[1, 1], [9, 9]])], "p5")
    (tmp_path / "p5.jpg").unlink()
    write(tmp_path / "p6.json", '{"shapes": 5, "imagePath": "p6.jpg"}')
    report = check_annotations(str(tmp_path), "instances")
    assert dict(report.by_kind) == {
        "no number": 3,
        "image size": 1,
        "missing image": 1,
        "annotations": 1,
    }
    split = train_split(tmp_path, skip_invalid=True)
    assert [len(target) for target in split.targets if len(target)] == [1]


def cvat(root, shapes, extra="", attributes=f'width="{WIDTH}" height="{HEIGHT}"'):
    image(root / "images/p0.jpg")
    labels = "<label><name>cat</name></label><label><name>dog</name></label>"
    meta = f"<meta><job><labels>{labels}</labels></job></meta>"
    whole = f'<image id="7" name="p0.jpg" {attributes}>{shapes}</image>'
    write(root / "annotations.xml", f"<annotations>{meta}{whole}{extra}</annotations>")


def test_cvat_shapes(tmp_path):
    cvat(
        tmp_path,
        '<box label="cat" xtl="10" ytl="5" xbr="50" ybr="40">'
        '<attribute name="a">1</attribute></box>'
        '<box label="cat" xtl="10" ytl="10" xbr="30" ybr="20" rotation="90"/>'
        '<polygon label="dog" points="1,1;9,1;9,9"/>'
        '<ellipse label="dog" cx="30" cy="30" rx="10" ry="5"/>'
        '<mask label="dog" rle="1, 2, 1" left="4" top="6" width="2" height="2"/>'
        '<polyline label="dog" points="1,1;9,1"/><points label="dog" points="1,1"/>'
        '<tag label="cat"/>',
    )
    source, part = part_of(tmp_path, "instances")
    boxes = [tuple(round(v, 6) for v in each.box) for each in part.images[0].objects]
    assert boxes[:3] == [(10, 5, 50, 40), (15, 5, 25, 25), (1, 1, 9, 9)]
    assert boxes[3:] == [(20, 25, 40, 35), (4, 6, 6, 8)]
    assert part.images[0].image_id == 7
    for text in ("1 polyline", "1 points", "1 tag", "1 attributes"):
        assert text in part.notes[0]
    assert source.classes == ("cat", "dog")


def test_maps_are_drawn_in_the_order_of_cvats_z_order(tmp_path, caplog):
    """Shapes of one z_order lie in the order of the file; what each class covers is said."""
    square = "points='20,10;40,10;40,30;20,30'"
    cvat(
        tmp_path,
        f'<polygon label="cat" {square} z_order="2"/>'
        f'<polygon label="dog" {square} z_order="1"/>'
        "<polygon label='dog' points='0,0;60,0;60,40;0,40'/>"
        "<polygon label='cat' points='0,0;10,0;10,10;0,10' z_order='0'/>",
    )
    data = DataSpec(source=str(tmp_path), val_fraction=0, test_fraction=0)
    splits = open_detection(data, DetectSpec(), "segment")
    classes = splits.train.targets[0].semantic.read()
    assert splits.classes == ("background", "cat", "dog")
    assert (classes[20, 30], classes[20, 50], classes[5, 5]) == (1, 2, 1)
    cat = 100 * (classes == 1).mean()
    assert f"1 cat {cat:.1f}%" in caplog.text
    assert any(f"1 cat {cat:.1f}%" in note for note in splits.summary.notes)


def test_cvat_that_is_wrong(tmp_path):
    shapes = (
        '<box label="cat" xtl="1" ytl="5" xbr="5"/><polygon label="dog" points="1,1;9,1"/>'
        '<mask label="dog" rle="1, 2" left="4" top="6" width="2" height="2"/>'
        '<mask label="dog" rle="0, 4" left="79" top="6" width="2" height="2"/>'
        '<box label="bird" xtl="1" ytl="5" xbr="5" ybr="9"/>'
    )
    cvat(tmp_path, shapes)
    report = check_annotations(str(tmp_path), "instances")
    assert dict(report.by_kind) == {"no number": 4, "category": 1}
    cvat(tmp_path, "", extra='<track id="0" label="cat"></track>')
    with pytest.raises(DataError, match="CVAT for video"):
        find_source(str(tmp_path), "detect")


def test_several_forms_in_one_set_are_reported_and_chosen(coco, tmp_path):
    original = find_source(str(coco), "instances")
    write_yolo(original, PARTS, tmp_path)
    write_cvat(original, PARTS, tmp_path)
    source = find_source(str(tmp_path), "detect")
    assert "detect.format=yolo" in source.notes[0]
    assert "VOC" not in source.notes[0]
    detect = DetectSpec(format="yolo")
    assert find_source(str(tmp_path), "detect", detect).classes == source.classes
    with pytest.raises(DataError, match=r"detect\.format=labelme"):
        find_source(str(tmp_path), "detect", DetectSpec(format="labelme"))


@pytest.mark.parametrize("form", ["yolo", "labelme", "cvat"])
def test_commands_take_them(coco, tmp_path, form, capsys):
    original = find_source(str(coco), "instances")
    root = tmp_path / "set"
    root.mkdir()
    if form == "labelme":
        write_labelme(original, "train", root)
    else:
        (write_yolo if form == "yolo" else write_cvat)(original, PARTS, root)
    assert main(["data", "check", str(root), "--out", str(tmp_path / "check")]) == 0
    repaired = tmp_path / "repaired"
    words = ["--out", str(tmp_path / "check"), "--repair", str(repaired)]
    assert main(["data", "check", str(root), *words]) == 0
    assert len(train_split(repaired)) == len(train_split(root))


def test_random_bytes_and_values_never_raise_anything_but_data_errors(coco, tmp_path):
    """Documents damaged anywhere are DataErrors or problems, whichever form they are of."""
    original = find_source(str(coco), "instances")
    rng = np.random.default_rng(0)
    write_yolo(original, PARTS, tmp_path / "yolo")
    write_labelme(original, "train", tmp_path / "labelme", outlines=True)
    write_cvat(original, PARTS, tmp_path / "cvat", outlines=True)
    targets = [
        tmp_path / "yolo/data.yaml",
        next((tmp_path / "yolo/labels/train").iterdir()),
        next((tmp_path / "labelme").glob("*.json")),
        tmp_path / "cvat/annotations.xml",
    ]
    for path in targets:
        whole = path.read_bytes()
        root = tmp_path / path.relative_to(tmp_path).parts[0]
        for _ in range(25):
            data = bytearray(whole)
            for _ in range(rng.integers(1, 4)):
                place = rng.integers(len(data))
                data[place : place + rng.integers(0, 4)] = (
                    rng.integers(32, 127, 2).astype(np.uint8).tobytes()
                )
            path.write_bytes(bytes(data))
            with contextlib.suppress(DataError):
                check_annotations(str(root), "instances")
        path.write_bytes(whole)


def test_class_maps_are_drawn_from_outlines(tmp_path):
    shapes = [
        shape("rectangle", [[10, 10], [40, 30]], "dog"),
        shape("polygon", [[20, 20], [60, 20], [60, 50], [20, 50]], "cat"),
    ]
    for name in ("p0", "p1"):
        labelme(tmp_path, shapes, name, imageHeight=HEIGHT, imageWidth=WIDTH)
    split = train_split(tmp_path, "segment")
    assert split.classes == ("background", "cat", "dog")
    expected = np.zeros((HEIGHT, WIDTH), np.uint8)
    expected[10:30, 10:40], expected[20:50, 20:60] = 2, 1
    assert (split.targets[0].semantic.read() != expected).mean() < 0.01
    turned = reorder(split, ("dog", "background", "sky", "cat"))
    assert set(np.unique(turned.targets[0].semantic.read())) == {0, 1, 3}
    batch = next(stream(tmp_path, task="segment", train_sizes=(60,), crop=64).batches())
    assert set(batch.targets.unique().tolist()) == {0, 1, 2, 255}
    with pytest.raises(DataError, match="no label maps"):
        train_split(tmp_path, "segment", class_map="binary")


def pose_line(rng, values, points=4):
    """A box somewhere in the image with `points` of `values` values in it."""
    sides = rng.uniform(0.05, 0.3, 2)
    center = rng.uniform(sides / 2, 1 - sides / 2)
    inside = center + sides * rng.uniform(-0.5, 0.5, (points, 2))
    rows = np.column_stack([inside, rng.integers(0, 3, points)])[:, :values]
    return "0 " + " ".join(f"{v:.5f}" for v in (*center, *sides, *rows.ravel()))


def outline_line(rng, corners):
    """A star around some center, of `corners` corners."""
    center, angles = rng.uniform(0.2, 0.8, 2), np.sort(rng.uniform(0, 2 * np.pi, corners))
    reach = rng.uniform(0.05, 0.2, (corners, 1))
    points = center + reach * np.stack([np.cos(angles), np.sin(angles)], 1)
    return "0 " + " ".join(f"{v:.5f}" for v in points.ravel())


def turned_line(rng):
    """Four corners of a turned rectangle in the upper left, where it reads as a box with points."""
    center, angle = rng.uniform(0.3, 0.5, 2), rng.uniform(0, np.pi)
    along = 0.1 * np.array([np.cos(angle), np.sin(angle)])
    across = 0.5 * np.array([-along[1], along[0]])
    corners = [center + along + across, center + along - across]
    corners += [center - along - across, center - along + across]
    return "0 " + " ".join(f"{v:.5f}" for v in np.ravel(corners))


@pytest.mark.parametrize("values", [2, 3])  # of each point
def test_key_points_without_their_shape_are_not_outlines(tmp_path, values):
    rng = np.random.default_rng(values)
    yolo(tmp_path, label="\n".join(pose_line(rng, values) for _ in range(6)), count=3)
    assert check_annotations(str(tmp_path), "instances").by_kind == {"box form": 1}
    for task in ("detect", "instances"):
        with pytest.raises(DataError, match="kpt_shape"):
            train_split(tmp_path, task)
    yaml = f"train: images/train\nnames: [cat, dog]\nkpt_shape: [4, {values}]\n"
    write(tmp_path / "data.yaml", yaml)
    assert len(train_split(tmp_path)) == 3
    if values == 2:  # stated to be outlines
        write(tmp_path / "data.yaml", yaml.replace("[4, 2]", "[0, 0]"))
        assert len(train_split(tmp_path)) == 3


def test_outlines_of_one_number_of_corners_are_outlines(tmp_path):
    rng = np.random.default_rng(0)
    for name, line in (
        ("4", lambda: outline_line(rng, 4)),
        ("6", lambda: outline_line(rng, 6)),
        ("8", lambda: outline_line(rng, 8)),
        ("turned", lambda: turned_line(rng)),
    ):
        yolo(tmp_path / name, label="\n".join(line() for _ in range(8)), count=3)
        assert not check_annotations(str(tmp_path / name), "instances").problems, name
