"""Drawings, curves, the sheet of misses, results files, and the commands that write them."""

import csv
import dataclasses
import io
import json

import numpy as np
import pytest
from detect_models import FPN, SEGMENT
from detect_runs import tiny_run
from detect_sets import bare_split, bare_target, detections, write_coco
from PIL import Image

import resnets
from resnets.cli.main import main
from resnets.config import DataSpec, Recipe
from resnets.detect.data.masks import decode_mask, encode_masks
from resnets.detect.draw import class_color, draw, draw_classes, drawn_objects, save_drawing
from resnets.detect.evaluate.curves import save_curves
from resnets.detect.evaluate.error_page import save_misses, worst_misses
from resnets.detect.evaluate.write import coco_results
from resnets.detect.loading.sources import open_detection
from resnets.detect.metrics.coco import coco_figures

GRAY = np.full((120, 160, 3), 128, np.uint8)


def test_boxes_are_drawn_where_they_are_in_their_class_color():
    found = detections([[40, 30, 120, 90], [0, 0, 20, 20]], [0.8, 0.3], [1, 0])
    page = draw(GRAY, drawn_objects(found, ("cat", "dog"), 0.5))
    assert page.size == (640, 480)  # enlarged four times
    pixels = np.asarray(page)
    for x, y in ((160, 240), (480, 240), (320, 359)):
        near = pixels[y - 2 : y + 3, x - 2 : x + 3].reshape(-1, 3)
        assert (near == class_color(1)).all(1).any()
    assert (pixels[200, 300] == 128).all()
    assert not (pixels == class_color(0)).all(2).any()  # below the threshold


def test_masks_are_tinted_inside_and_outlined():
    mask = np.zeros((1, 120, 160), np.uint8)
    mask[0, 50:80, 60:100] = 1
    found = detections([[55, 45, 105, 85]], [0.9], [0])
    found["masks"] = encode_masks(mask)
    large = np.kron(GRAY, np.ones((6, 6, 1), np.uint8))
    plain, tinted = (np.asarray(draw(GRAY, some)) for some in ([], drawn_objects(found, ["x"], 0)))
    assert plain.shape == tinted.shape
    assert large.shape == (720, 960, 3)
    assert (plain == 128).all()
    expected = 0.55 * 128 + 0.45 * np.array(class_color(0))
    assert np.abs(tinted[65 * 4, 80 * 4] - expected).max() < 2
    assert (tinted[20 * 4, 20 * 4] == 128).all()


def test_tags_do_not_cover_each_other(monkeypatch):
    from resnets.detect import draw as module

    places = []
    real = module._write_tag

    def noted(*args):
        places.append(real(*args))
        return places[-1]

    monkeypatch.setattr(module, "_write_tag", noted)
    boxes = [[300, 200, 420, 300], [305, 205, 425, 305]]
    draw(
        np.zeros((480, 640, 3), np.uint8),
        drawn_objects(detections(boxes, [0.9, 0.8], [0, 1]), "ab", 0),
    )
    one, other = places
    assert module._overlap_area(one, other) == 0
    assert all(p[0] >= 0 and p[2] <= 640 and p[1] >= 0 and p[3] <= 480 for p in places)


def test_class_maps_get_a_legend():
    classes = np.zeros((120, 160), np.uint8)
    classes[:30], classes[100:] = 1, 255
    page = draw_classes(GRAY, classes, ("sea", "sky"))
    assert page.width == 640
    assert page.height > 480
    pixels = np.asarray(page)
    assert (pixels[470, 300] == 128).all()  # counts for nothing: not tinted
    shown = set(map(tuple, pixels[480:].reshape(-1, 3).tolist()))
    assert {class_color(0), class_color(1)} <= shown


def test_the_kinds_of_misses():
    target = bare_target([[10, 10, 40, 40], [60, 60, 90, 90], [5, 60, 25, 80]], [0, 1, 2])
    found = detections(
        [[10, 10, 40, 40], [11, 11, 41, 41], [60, 60, 90, 75], [62, 62, 92, 92], [70, 5, 80, 15]],
        [0.9, 0.8, 0.7, 0.6, 0.5],
        [0, 0, 1, 2, 1],
    )
    found["boxes"][2] = [60, 60, 90, 72]  # overlap 0.4
    misses = worst_misses(bare_split([target]), [found])
    messages = [miss.message for miss in misses]
    assert messages == [
        ("class 0 80%", "found twice"),
        ("class 1 70%", "box off, overlap 0.40"),
        ("missed class 1", "9.0% of the image"),
        ("missed class 2", "4.0% of the image"),
    ]  # two of a kind from one image at most
    difficult = dataclasses.replace(target, difficult=np.ones(3, bool))
    left = worst_misses(bare_split([difficult]), [found])
    assert [miss.message[0] for miss in left] == ["class 1 50%"]


def test_no_misses_make_a_page_too(tmp_path):
    target = bare_target([[10, 10, 40, 40]], [0])
    perfect = [detections(target.boxes, [1.0], [0])]
    assert worst_misses(bare_split([target]), perfect) == []
    save_misses(bare_split([target]), [], "protocol", tmp_path / "none.png")
    assert Image.open(tmp_path / "none.png").width > 300


@pytest.mark.parametrize("suffix", ["png", "svg"])
@pytest.mark.parametrize("classes", [1, 30])
def test_curves(tmp_path, suffix, classes):
    rng = np.random.default_rng(0)
    targets = [bare_target(rng.uniform([0, 0, 50, 50], [40, 40, 99, 99], (9, 4)),
                           rng.integers(0, classes, 9)) for _ in range(9)]  # fmt: skip
    split = bare_split(targets, classes)
    found = [
        detections(t.boxes + rng.normal(0, 4, (9, 4)), rng.random(9), t.labels) for t in targets
    ]
    path = tmp_path / f"curves.{suffix}"
    save_curves(coco_figures(split, found), split.classes, "protocol", path)
    assert path.stat().st_size > 5000
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]
    if suffix == "svg":
        assert "class 0" in path.read_text()


def test_results_have_the_sources_numbers():
    found = detections([[1, 2, 4, 8]], [0.123456], [1])
    mask = np.zeros((1, 10, 10), np.uint8)
    mask[0, 2:8, 1:4] = 1
    found["masks"] = encode_masks(mask)
    (entry,) = json.loads(json.dumps(coco_results(["name"], [found], (4, 90))))
    assert entry["image_id"] == "name"
    assert entry["category_id"] == 90
    assert entry["bbox"] == [1, 2, 3, 6]
    assert entry["score"] == 0.12346
    assert (decode_mask(entry["segmentation"]) == mask[0]).all()


def test_jpeg_and_png_by_suffix(tmp_path):
    for name, kind in (("a.jpg", "JPEG"), ("b.png", "PNG")):
        save_drawing(Image.fromarray(GRAY), tmp_path / name)
        assert Image.open(tmp_path / name).format == kind


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    root = tmp_path_factory.mktemp("runs")
    write_coco(root / "set", "train", [(80, 60), (60, 80)] * 4)
    write_coco(root / "set", "val", [(80, 60)] * 3, seed=9)
    return root


@pytest.fixture(scope="module")
def masks_run(place):
    return tiny_run(place, "instances", FPN)


def test_python_gets_a_prediction_per_image_with_names(masks_run, place, tmp_path):
    good = sorted((place / "set").rglob("*.png"))[:2]
    bad = [tmp_path / "missing.png", tmp_path / "text.png"]
    bad[1].write_text("no image")
    paths = [bad[0], good[0], bad[1], bad[0], good[1], bad[1]]
    found = resnets.predict(masks_run, paths, device="cpu", threshold=0.0)
    assert [each.path for each in found] == paths
    assert [each.error is None for each in found] == [path in good for path in paths]
    assert [each.output is None for each in found] == [path in bad for path in paths]
    assert found[0].to_json() == {"path": str(bad[0]), "error": found[0].error}
    objects = found[1].to_json()["objects"]
    assert objects
    assert {each["class"] for each in objects} <= set(found[1].classes)
    assert found[1].draw().tobytes() != Image.open(good[0]).convert("RGB").tobytes()


def test_evaluate_writes_figures_curves_misses_and_results(masks_run, tmp_path, capsys):
    out = tmp_path / "evaluation"
    words = ["evaluate", str(masks_run), "--device", "cpu", "--out", str(out)]
    assert main(words) == 0
    text = capsys.readouterr().out
    for part in ("box mAP@[.5,.95]", "mask mAP@.5, @.75", "VOC mAP (area, 11-point)", "green"):
        assert part in text
    names = {path.name for path in out.iterdir()}
    images = {"precision.png", "mask_precision.png", "misses.png"}
    assert names == {"evaluation.json", "detections.json", *images}
    figures = json.loads((out / "evaluation.json").read_text())
    assert len(figures["boxes"]) == len(figures["masks"]) == 12
    assert figures["examples"] == 3
    results = json.loads((out / "detections.json").read_text())
    assert {entry["category_id"] for entry in results} <= {3, 7, 9}
    assert {entry["image_id"] for entry in results} <= {1, 2, 3}
    assert main([*words[:2], "--device", "cpu", "--json", "--split", "val"]) == 0
    assert "set train, validation share (seed 0), " in capsys.readouterr().out


def test_evaluate_on_other_data_matches_classes_by_name(masks_run, place, tmp_path, capsys):
    write_coco(tmp_path, "test", [(80, 60)] * 2, seed=4)
    path = tmp_path / "annotations/instances_test.json"
    document = json.loads(path.read_text())
    turned = {3: 9, 7: 7, 9: 3}  # red and blue change numbers, and so places
    for entry in [*document["annotations"], *document["categories"]]:
        key = "category_id" if "category_id" in entry else "id"
        entry[key] = turned[entry[key]]
    path.write_text(json.dumps(document))
    recipe = Recipe(task="instances", data=DataSpec(source="elsewhere"))
    from resnets.detect.evaluate.splits import choose_split

    split = choose_split(recipe, ("red", "green", "blue"), str(tmp_path), "test")
    plain = open_detection(DataSpec(source=str(tmp_path), test_fraction=0, val_fraction=0)).train
    assert split.classes == ("red", "green", "blue")
    assert split.category_ids == (9, 7, 3)
    for one, other in zip(split.targets, plain.targets, strict=True):
        named = [split.classes[label] for label in one.labels]
        assert named == [plain.classes[label] for label in other.labels]
    assert main(["evaluate", str(masks_run), "--device", "cpu", "--data", str(tmp_path)]) == 0
    used = document["annotations"][0]["category_id"]
    next(each for each in document["categories"] if each["id"] == used)["name"] = "violet"
    path.write_text(json.dumps(document))
    assert main(["evaluate", str(masks_run), "--data", str(tmp_path)]) == 1
    assert "the model does not know violet" in capsys.readouterr().err


def test_an_unreadable_image_is_excluded_and_named(masks_run, place, tmp_path, capsys):
    import shutil

    shutil.copytree(place / "set", tmp_path / "set")
    (tmp_path / "set/val/val0002.png").write_bytes(b"gone")
    words = ["--device", "cpu", "--data", str(tmp_path / "set")]
    assert main(["evaluate", str(masks_run), *words, "--json"]) == 1
    printed = capsys.readouterr()
    assert json.loads(printed.out)["examples"] == 2
    assert "val0002.png" in printed.err
    assert "1 unreadable skipped" in printed.out


def test_predict_draws_and_writes_coco_json(masks_run, place, tmp_path, capsys):
    images = [str(place / "set/val"), str(tmp_path / "none.jpg")]
    words = ["predict", str(masks_run), *images, "--device", "cpu", "--threshold", "0.1"]
    assert main([*words, "--draw", str(tmp_path / "drawn")]) == 1
    printed = capsys.readouterr()
    assert "none.jpg" in printed.err
    assert "val0001.png" in printed.out
    names = {path.name for path in (tmp_path / "drawn").iterdir()}
    assert names == {"detections.json", *(f"val000{n}.png.seen.png" for n in (1, 2, 3))}
    document = json.loads((tmp_path / "drawn/detections.json").read_text())
    assert [entry["name"] for entry in document["categories"]] == ["red", "green", "blue"]
    assert len(document["images"]) == 3
    assert all(entry["score"] >= 0.1 for entry in document["annotations"])
    assert all("segmentation" in entry for entry in document["annotations"])
    assert main([*words[:3], "--device", "cpu", "--threshold", "0.1", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["annotations"] == document["annotations"]
    assert main([*words[:3], "--device", "cpu", "--threshold", "0.1", "--csv"]) == 0
    rows = list(csv.reader(io.StringIO(capsys.readouterr().out)))
    assert len(rows) == 1 + len(document["annotations"])


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["evaluate", "RUN", "--flip"], "--flip: "),
        (["evaluate", "RUN", "--views", "ten-crop"], "--views: "),
        (["predict", "RUN", "x.jpg", "--explain", "e"], "--explain"),
        (["predict", "RUN", "x.jpg", "--threshold", "2"], "--threshold 2"),
    ],
)
def test_flags_of_classifiers_are_refused(masks_run, words, says, capsys):
    assert main([str(masks_run) if word == "RUN" else word for word in words]) == 2
    assert says in capsys.readouterr().err


def test_a_segmenter_is_measured_and_drawn(place, tmp_path, capsys):
    for title in ("train", "val"):
        (place / f"set/semantic_{title}").mkdir()
        for path in (place / "set" / title).iterdir():
            pixels = np.asarray(Image.open(path)).astype(int)
            classes = np.where(pixels.max(2) > 180, pixels.argmax(2), 3).astype(np.uint8)
            Image.fromarray(classes).save(place / f"set/semantic_{title}" / path.name)
    (place / "set/classes.txt").write_text("red\ngreen\nblue\nnoise\n")
    folder = tiny_run(place, "segment", SEGMENT)
    assert main(["evaluate", str(folder), "--device", "cpu", "--json"]) == 0
    figures = json.loads(capsys.readouterr().out)
    assert 0 <= figures["semantic"]["mean_iou"] <= 1
    assert len(figures["per_class"]) == 4
    words = ["predict", str(folder), str(place / "set/val/val0001.png"), "--device", "cpu"]
    assert main([*words, "--csv", "--draw", str(tmp_path)]) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert sum(int(row["pixels"]) for row in rows) == 80 * 60
    assert Image.open(tmp_path / "val0001.png.seen.png").width == 640
