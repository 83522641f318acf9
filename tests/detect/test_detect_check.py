"""Bad annotations: found, named in one line each, refused in training, repaired when told to."""

import csv
import json
import shutil

import numpy as np
import pytest
from detect_sets import save, write_coco, write_voc
from PIL import Image

from resnets.cli.main import main
from resnets.config import ConfigError, DataSpec, DetectSpec
from resnets.data.errors import DataError
from resnets.detect.check.repair import repair_annotations
from resnets.detect.check.run import annotation_tasks, check_annotations
from resnets.detect.data.masks import MaskError, check_segmentation, encode_masks
from resnets.detect.loading.sources import open_detection

NAN = float("nan")


@pytest.fixture
def broken(tmp_path):
    """A COCO set with one problem of each kind, and the document it was made from."""
    root = tmp_path / "set"
    document = write_coco(root, "train", [(80, 60)] * 8)
    entries = document["annotations"]
    entries[0]["bbox"] = [70, 10, 30, 20]  # passes the edge
    entries[1]["bbox"] = [10, 10, 0, 20]  # no area
    entries[2]["bbox"] = [NAN, 1, 5, 5]
    entries[3]["category_id"] = 4
    entries[4]["image_id"] = 99
    entries[5]["segmentation"] = {"size": [10, 10], "counts": [100]}
    entries[6]["segmentation"] = [[1, 1, 2, 2]]
    entries[7]["bbox"] = [200, 200, 10, 10]  # wholly outside
    entries[9]["id"] = entries[8]["id"]
    entries[10]["bbox"] = "none"
    document["images"][6]["file_name"] = "gone.png"
    document["images"][7]["width"] = 0
    save(root, "train", document)
    return root


KINDS = {
    "outside": 2,
    "no area": 1,
    "no number": 2,
    "category": 1,
    "no image": 1,
    "mask": 2,
    "id twice": 1,
    "missing image": 1,
    "image size": 1,
}


def test_every_kind_of_problem_is_found_and_named(broken):
    report = check_annotations(str(broken), "instances")
    assert dict(report.by_kind) == KINDS
    lines = [str(problem) for problem in report.problems]
    assert all("instances_train.json" in line and "\n" not in line for line in lines)
    text = "\n".join(lines)
    for problem in (
        "train0001.png, annotation 1: its box (70, 10, 100, 30) passes the edge of 80x60",
        "annotation 2: its box (10, 10, 10, 30) has no area",
        "annotation 3: its bbox [NaN, 1, 5, 5] is not four numbers",
        "annotation 4: category 4 is not one of the 3 known",
        "annotation 5: image_id 99: no such image in the file",
        "annotation 6: its segmentation is for (height, width) [10, 10], not [60, 80]",
        "annotation 7: its segmentation has a polygon of fewer than three corners",
        "annotation 9: id occurs twice",
        "gone.png: its image is missing",
        "train0008.png: gives its image as 0x60, an invalid size",
    ):
        assert problem in text, problem


def test_training_refuses_with_one_line_and_can_be_told_to_skip(broken, caplog):
    data = DataSpec(source=str(broken), val_fraction=0, test_fraction=0)
    with pytest.raises(DataError, match=r"11.*detect\.skip_invalid=true") as caught:
        open_detection(data, task="instances")
    assert "\n" not in str(caught.value)
    split = open_detection(data, DetectSpec(skip_invalid=True), "instances").train
    assert len(split) == 6
    assert "excluded 12 bad" in caplog.text
    for target in split.targets:
        assert (target.boxes >= 0).all()
        assert (target.boxes <= [80, 60, 80, 60]).all()


def test_a_repaired_set_opens_as_its_own(broken, tmp_path):
    before = {path: path.read_bytes() for path in broken.rglob("*") if path.is_file()}
    out = tmp_path / "repaired"
    done = repair_annotations(str(broken), "instances", out)
    assert done.images_excluded == 1
    assert done.changed >= 2
    assert check_annotations(str(out), "instances").problems == []
    split = open_detection(DataSpec(source=str(out), val_fraction=0, test_fraction=0)).train
    assert len(split) == 7
    cut = split.targets[0].boxes
    assert [70, 10, 80, 30] in cut.tolist()
    assert split.read(6)[0].shape == (60, 80, 3)  # its size was corrected from the image
    assert {path: path.read_bytes() for path in before} == before
    with pytest.raises(ConfigError, match="already contains annotations"):
        repair_annotations(str(broken), "instances", out)


def test_images_are_compared_with_their_annotations(tmp_path):
    write_coco(tmp_path, "train", [(80, 60)] * 4)
    Image.new("RGB", (60, 80)).save(tmp_path / "train/train0001.png")
    (tmp_path / "train/train0002.png").write_bytes(b"no image")
    report = check_annotations(str(tmp_path), "instances")
    assert dict(report.by_kind) == {"image size": 1, "unreadable": 1}
    assert "train0001.png: is 60x80, its annotations are for 80x60" in str(report.problems[0])


def test_voc_problems(tmp_path):
    write_voc(tmp_path, "a", (60, 40), [("cat", (1, 1, 10, 20), 0), ("cat", (5, 5, 5, 5), 0)])
    write_voc(tmp_path, "b", (60, 40), [("cat", (1, 1, 70, 20), 0)])
    write_voc(tmp_path, "c", (60, 40), [("bus", (1, 1, 20, 20), 1)])
    (tmp_path / "JPEGImages/c.jpg").unlink()
    (tmp_path / "Annotations/d.xml").write_text("<annotation>")
    (tmp_path / "ImageSets/Main/train.txt").write_text("a\nb\nc\nd\ne\n")
    (tmp_path / "ImageSets/Main/test.txt").write_text("a\n")
    report = check_annotations(str(tmp_path), "instances")
    kinds = {"no area": 1, "outside": 1, "missing image": 1, "annotations": 2, "in two sets": 1}
    assert dict(report.by_kind) == kinds
    assert any("Annotations/e.xml" in str(each) for each in report.problems)
    out = tmp_path / "out"
    repair_annotations(str(tmp_path), "instances", out)
    document = json.loads((out / "annotations/instances_train.json").read_text())
    assert [entry["bbox"] for entry in document["annotations"]] == [[0, 0, 10, 20], [0, 0, 60, 20]]


def test_images_in_quarantine_are_excluded(tmp_path):
    write_coco(tmp_path, "train", [(80, 60)] * 4)
    (tmp_path / "train/train0002.png").write_bytes(b"no image")
    (tmp_path / "quarantine.txt").write_text("# list\ntrain/train0002.png\tno image\n")
    split = open_detection(DataSpec(source=str(tmp_path), val_fraction=0, test_fraction=0)).train
    assert [target.image_id for target in split.targets] == [1, 3, 4]


def test_class_map_problems(tmp_path):
    write_coco(tmp_path, "train", [(40, 30)] * 3)
    (tmp_path / "semantic_train").mkdir()
    values = np.zeros((30, 40), np.uint8)
    for number, plane in enumerate((values, values + 9, values[:20]), start=1):
        Image.fromarray(plane).save(tmp_path / f"semantic_train/train000{number}.png")
    (tmp_path / "classes.txt").write_text("sky\nsea\n")
    assert annotation_tasks(str(tmp_path)) == ("instances", "segment")
    report = check_annotations(str(tmp_path), "segment")
    assert dict(report.by_kind) == {"category": 1, "mask size": 1}
    assert any("of value 9, which no class has" in str(each) for each in report.problems)
    with pytest.raises(ConfigError, match="cannot be repaired"):
        repair_annotations(str(tmp_path), "segment", tmp_path / "out")


@pytest.mark.parametrize(
    ("outline", "says"),
    [
        ("abc", "neither polygons"),
        ([[0, 0, 1, NAN, 2, 2]], "not a finite number"),
        ([[0, 0, 50, 0, 50, 9]], "passes the edge of 20x10 by 30 px"),
        ({"size": [10, 20], "counts": [100, 50]}, "do not add up"),
        ({"size": [10, 20], "counts": [-1, 201]}, "do not add up"),
        ({"size": [10, 20], "counts": "zz!"}, "an invalid character"),
        ({"size": [10, 20], "counts": "o"}, "cut short"),
        ({"size": [10, 20], "counts": 5}, "has no run-length encoding"),
    ],
)
def test_bad_outlines_are_distinguished(outline, says):
    with pytest.raises(MaskError, match=says):
        check_segmentation(outline, 10, 20, 1.0)


def test_compressed_runs_are_read_as_the_c_library_writes_them():
    rng = np.random.default_rng(0)
    for density in (0.0, 0.02, 0.5, 1.0):
        run = encode_masks((rng.random((1, 37, 53)) < density).astype(np.uint8))[0]
        check_segmentation({"size": [37, 53], "counts": run["counts"]}, 37, 53, 1.0)
        check_segmentation({"size": [37, 53], "counts": run["counts"].decode()}, 37, 53, 1.0)
        short = run["counts"][: len(run["counts"]) // 2]
        with pytest.raises(MaskError):
            check_segmentation({"size": [37, 53], "counts": short}, 37, 53, 1.0)


def test_random_documents_never_raise_anything_but_data_errors(tmp_path):
    """Values of wrong types anywhere are problems or DataErrors, not tracebacks."""
    rng = np.random.default_rng(3)
    base = write_coco(tmp_path / "base", "train", [(40, 30)] * 3)
    odd = (None, -1, 1e300, "x", [], {}, [1], True, NAN, [[1, 2]], "9" * 50)
    named = 0
    for trial in range(120):
        document = json.loads(json.dumps(base))
        for _ in range(rng.integers(1, 4)):
            part = document[("images", "annotations", "categories")[rng.integers(3)]]
            entry = part[rng.integers(len(part))]
            entry[list(entry)[rng.integers(len(entry))]] = odd[rng.integers(len(odd))]
        root = tmp_path / "trial"
        shutil.rmtree(root, ignore_errors=True)
        shutil.copytree(tmp_path / "base", root)
        save(root, "train", document)
        try:
            lines = [str(each) for each in check_annotations(str(root), "instances").problems]
        except DataError as error:
            lines = [str(error)]
        assert not any("\n" in line for line in lines), trial
        named += bool(lines)
    assert named > 90


def test_command_prints_lines_and_repairs(broken, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    out = tmp_path / "new"
    words = ["data", "check", str(broken), "--out", "report"]
    assert main([*words, "--repair", str(out)]) == 1
    printed = capsys.readouterr().out
    assert printed.count("instances_train.json: ") == 12
    assert "12 problems: 2 outside" in printed
    with open("report/annotations.csv", newline="") as file:
        assert len(list(csv.reader(file))) == 13
    assert f"train on it with --data {out}" in printed
    assert "empty-class" not in printed
    capsys.readouterr()
    assert check_annotations(str(out), "instances").counts["train"]["images"] == 7


def test_bccd_has_its_two_known_bad_boxes(shared_data):
    source = str(shared_data / "bccd.tar")
    report = check_annotations(source, "instances")
    assert [problem.kind for problem in report.problems] == ["no area"] * 2
    assert annotation_tasks(str(shared_data / "imagenette160.tar")) == ()
