"""`data check --repair`: what it writes is right, and every object is accounted for."""

import csv
import json

import numpy as np
import pytest
from colored_sets import (
    HEIGHT,
    WIDTH,
    document,
    draw,
    object_of,
    opened,
    put,
    right,
    voc,
    xml,
)
from PIL import Image

from resnets.data.errors import DataError
from resnets.detect.check.repair import REPORT_FILE, repair_annotations
from resnets.detect.check.run import check_annotations
from resnets.detect.data.masks import decode_mask, encode_masks, encode_outline
from resnets.detect.loading.sources import find_source

JSON = "annotations/instances_train.json"


def coco(root, count=6, **drawing):
    for number in range(count):
        draw(root / f"images/p{number}.jpg", number, **drawing)
    return document({number: f"p{number}.jpg" for number in range(count)})


def repaired(root, out):
    """The report, after a look that objects of the old files are in the new ones or in the list."""
    report = repair_annotations(str(root), "instances", out)
    with (out / REPORT_FILE).open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    written = sum(len(json.loads(path.read_text())["annotations"]) for path in out.rglob("*.json"))
    excluded = [row for row in rows if row["outcome"] == "excluded"]
    objects = [row for row in excluded if "annotation" in row["item"] or "object" in row["item"]]
    assert written == report.kept
    assert len(objects) == report.excluded
    assert written + len(objects) == report.objects
    assert all(row["reason"] for row in rows)
    if written:
        assert check_annotations(str(out), "instances").problems == []
    return report


@pytest.mark.parametrize("form", ["coco", "voc"])
@pytest.mark.parametrize("factor", [0.5, 2, 1.5])
def test_boxes_of_rescaled_images_are_scaled(tmp_path, form, factor):
    if form == "voc":
        voc(tmp_path / "set")
    else:
        put(tmp_path / "set" / JSON, coco(tmp_path / "set"))
    for path in (tmp_path / "set").rglob("*.jpg"):
        number = int(path.stem[1:])
        draw(path, number, size=(int(WIDTH * factor), int(HEIGHT * factor)))
    report = repaired(tmp_path / "set", tmp_path / "out")
    assert (report.objects, report.kept, report.changed) == (6, 6, 6)
    assert right(opened(tmp_path / "out").train) == 6


def test_images_of_another_shape_are_excluded(tmp_path):
    put(tmp_path / "set" / JSON, coco(tmp_path / "set"))
    draw(tmp_path / "set/images/p2.jpg", 2, size=(WIDTH, WIDTH))
    report = repaired(tmp_path / "set", tmp_path / "out")
    assert (report.kept, report.excluded, report.images_excluded) == (5, 1, 1)
    assert right(opened(tmp_path / "out").train) == 5


@pytest.mark.parametrize("form", ["coco", "voc"])
@pytest.mark.parametrize("orientation", [5, 6, 7, 8])
def test_boxes_for_the_stored_pixels_are_turned(tmp_path, form, orientation):
    if form == "voc":
        voc(tmp_path / "set")
    put(tmp_path / "set" / JSON, coco(tmp_path / "set", orientation=orientation))
    if form == "voc":
        (tmp_path / "set" / JSON).unlink()
        for number in range(6):
            draw(tmp_path / f"set/JPEGImages/p{number}.jpg", number, orientation=orientation)
            (tmp_path / f"set/images/p{number}.jpg").unlink()
    report = repaired(tmp_path / "set", tmp_path / "out")
    assert (report.kept, report.changed) == (6, 6)
    assert right(opened(tmp_path / "out").train) == 6


@pytest.mark.parametrize("orientation", [2, 3, 4])
def test_a_turn_that_keeps_the_size_is_inferred_from_the_other_images(tmp_path, orientation):
    put(tmp_path / "set" / JSON, coco(tmp_path / "set", orientation=orientation))
    report = repaired(tmp_path / "set", tmp_path / "out")
    assert (report.kept, report.excluded) == (0, 6)
    draw(tmp_path / "set/images/p0.jpg", 0, orientation=6)  # annotated as stored
    report = repaired(tmp_path / "set", tmp_path / "again")
    assert (report.kept, report.excluded) == (6, 0)
    assert right(opened(tmp_path / "again").train) == 6
    with pytest.raises(DataError, match="EXIF orientation"):
        opened(tmp_path / "set")


def test_a_user_can_say_that_boxes_are_for_upright_images(tmp_path):
    made = coco(tmp_path, orientation=3)
    for entry in made["annotations"]:
        x, y, width, height = entry["bbox"]
        entry["bbox"] = [WIDTH - x - width, HEIGHT - y - height, width, height]
    put(tmp_path / JSON, made)
    with pytest.raises(DataError, match="p0.jpg.*EXIF.*3"):
        opened(tmp_path)
    assert right(opened(tmp_path, apply_exif=True).train) == 6


def test_outlines_move_with_their_boxes(tmp_path):
    made = coco(tmp_path / "set")
    for entry in made["annotations"][::2]:
        left, top, width, height = entry["bbox"]
        mask = np.zeros((1, HEIGHT, WIDTH), np.uint8)
        mask[0, top : top + height, left : left + width] = 1
        run = encode_masks(mask)[0]
        entry["segmentation"] = {"size": [HEIGHT, WIDTH], "counts": run["counts"].decode()}
    put(tmp_path / "set" / JSON, made)
    for number in range(6):
        draw(tmp_path / f"set/images/p{number}.jpg", number, orientation=8)
    draw(tmp_path / "set/images/p0.jpg", 0, size=(WIDTH // 2, HEIGHT // 2))
    repaired(tmp_path / "set", tmp_path / "out")
    part = find_source(str(tmp_path / "out"), "instances").load("train")
    for image in part.images:
        for each in image.objects:
            mask = decode_mask(encode_outline(each.segmentation, (image.height, image.width)))
            rows, columns = np.nonzero(mask)
            around = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
            assert np.abs(np.array(each.box) - around).max() <= 1.5
            assert each.area == pytest.approx(mask.sum(), rel=0.1)


def test_ids_are_renumbered_and_exact_copies_excluded(tmp_path):
    made = coco(tmp_path / "set", 8)
    for entry in made["annotations"]:
        entry["id"] = 0
    made["annotations"].append(dict(made["annotations"][0]))
    put(tmp_path / "set" / JSON, made)
    report = repaired(tmp_path / "set", tmp_path / "out")
    assert (report.objects, report.kept, report.changed) == (9, 8, 7)
    assert right(opened(tmp_path / "out").train) == 8


def test_ids_of_text_become_numbers(tmp_path):
    made = coco(tmp_path / "set")
    for entry in (*made["images"], *made["annotations"]):
        entry["id"] = f"img-{entry['id']}"
    for entry in made["annotations"]:
        entry["image_id"] = f"img-{entry['image_id']}"
    put(tmp_path / "set" / JSON, made)
    report = repaired(tmp_path / "set", tmp_path / "out")
    assert report.kept == report.objects == 6
    new = json.loads((tmp_path / "out" / JSON).read_text())
    assert all(isinstance(entry["image_id"], int) for entry in new["annotations"])
    assert right(opened(tmp_path / "out").train) == 6


def test_outlines_without_area_go_and_their_boxes_stay(tmp_path):
    made = coco(tmp_path / "set")
    bad = ([], None, [[]], [[1, 2, 3, 4]], {"size": [9, 9], "counts": [81]}, "none")
    for entry, outline in zip(made["annotations"], bad, strict=True):
        entry["segmentation"] = outline
    put(tmp_path / "set" / JSON, made)
    report = repaired(tmp_path / "set", tmp_path / "out")
    assert (report.kept, report.excluded) == (6, 0)
    assert right(opened(tmp_path / "out").train) == 6


def test_an_image_that_loses_all_its_objects_is_excluded_with_them(tmp_path):
    made = coco(tmp_path / "set")
    made["annotations"][2]["bbox"] = [200, 200, 5, 5]
    del made["annotations"][2]["segmentation"]
    put(tmp_path / "set" / JSON, made)
    report = repaired(tmp_path / "set", tmp_path / "out")
    assert (report.excluded, report.images_excluded) == (1, 1)
    assert right(opened(tmp_path / "out").train) == 5


def test_two_images_of_one_id_are_excluded_with_their_objects(tmp_path):
    made = coco(tmp_path / "set")
    made["images"][3]["id"] = 1
    put(tmp_path / "set" / JSON, made)
    report = repaired(tmp_path / "set", tmp_path / "out")
    assert (report.objects, report.excluded) == (6, 2)  # that of image 1 and that without an image
    assert right(opened(tmp_path / "out").train) == 4


def test_sets_of_several_years_and_of_one_stem_stay_apart(tmp_path):
    root = tmp_path / "set"
    for place, year in enumerate(("VOC2007", "VOC2012")):
        voc(root / year, range(4 * place, 4 * place + 4))
        for number in range(4 * place, 4 * place + 4):
            for folder, suffix in (("JPEGImages", "jpg"), ("Annotations", "xml")):
                path = root / year / folder / f"p{number}.{suffix}"
                path.rename(path.with_name(f"{number % 4}.{suffix}"))
        put(root / year / "ImageSets/Main/train.txt", "0\n1\n2\n3\n")
        for number in range(4 * place, 4 * place + 4):
            put(root / year / f"Annotations/{number % 4}.xml", xml(number, f"{number % 4}.jpg"))
    assert right(opened(root).train) == 8
    report = repaired(root, tmp_path / "out")
    assert report.kept == 8
    assert right(opened(tmp_path / "out").train) == 8


def test_any_document_is_accounted_for(tmp_path):
    """Random damage: no traceback, and kept and left out add up to the document's own length."""
    rng = np.random.default_rng(5)
    base = coco(tmp_path / "set")
    odd = (None, -1, 1e300, "x", [], {}, True, float("nan"), [[1, 2]], 3, "7", [5, 5, -3, 9])
    for trial in range(60):
        made = json.loads(json.dumps(base))
        for _ in range(rng.integers(1, 6)):
            part = made[("images", "annotations")[rng.integers(2)]]
            entry = part[rng.integers(len(part))]
            entry[list(entry)[rng.integers(len(entry))]] = odd[rng.integers(len(odd))]
        put(tmp_path / "set" / JSON, made)
        report = repaired(tmp_path / "set", tmp_path / f"out{trial}")
        assert report.objects == len(made["annotations"])
        assert report.images == len(made["images"])


def test_the_command_says_where_the_list_is(tmp_path, capsys):
    from resnets.cli.main import main

    made = coco(tmp_path / "set")
    made["annotations"][0]["category_id"] = 9
    put(tmp_path / "set" / JSON, made)
    Image.new("RGB", (5, 5)).save(tmp_path / "set/images/other.png")
    arguments = ["--out", str(tmp_path / "report"), "--repair", str(tmp_path / "out")]
    assert main(["data", "check", str(tmp_path / "set"), *arguments]) == 1
    output = capsys.readouterr().out
    assert "6 objects: 5 kept (0 of them corrected), 1 excluded" in output
    assert str(tmp_path / "out" / REPORT_FILE) in output


def corners_for_sides(entry):
    x, y, width, height = entry["bbox"]
    entry["bbox"] = [x, y, x + width, y + height]
    entry.pop("area", None)
    entry.pop("segmentation", None)


@pytest.mark.parametrize("odd", [[10, 10, 10, 30], [30, 30, 20, 40], None])
def test_corners_for_sides_are_excluded_though_one_box_is_odd(tmp_path, odd):
    made = coco(tmp_path / "set", 12)
    for entry in made["annotations"]:
        corners_for_sides(entry)
    made["annotations"][3]["bbox"] = odd
    put(tmp_path / "set" / JSON, made)
    with pytest.raises(DataError, match=r"set.*no good images"):
        opened(tmp_path / "set", skip_invalid=True)
    assert check_annotations(str(tmp_path / "set"), "instances").by_kind["box form"] == 1
    report = repaired(tmp_path / "set", tmp_path / "out")
    assert (report.kept, report.excluded) == (0, 12)


def test_voc_boxes_of_x_y_width_height_are_excluded(tmp_path):
    voc(tmp_path / "set")
    for number in range(6):
        left, top, wide, high = 40 + number, 8 + number, 20, 18 + number
        made = xml(number, f"p{number}.jpg").partition("<bndbox>")[0]
        keys = zip(("xmin", "ymin", "xmax", "ymax"), (left, top, wide, high), strict=True)
        box = "".join(f"<{key}>{value}</{key}>" for key, value in keys)
        put(
            tmp_path / f"set/Annotations/p{number}.xml",
            f"{made}<bndbox>{box}</bndbox></object></annotation>",
        )
    with pytest.raises(DataError, match="corners swapped"):
        opened(tmp_path / "set")
    report = repaired(tmp_path / "set", tmp_path / "out")
    assert (report.kept, report.excluded) == (0, 6)


def test_yolo_boxes_of_two_corners_are_excluded(tmp_path):
    for number in range(6):
        draw(tmp_path / f"set/images/p{number}.png", number)
        _, (left, top, right_, bottom) = object_of(number)
        shares = (left / WIDTH, top / HEIGHT, right_ / WIDTH, bottom / HEIGHT)
        line = " ".join(["0", *(f"{share:.6f}" for share in shares)])
        put(tmp_path / f"set/labels/p{number}.txt", line)
    put(tmp_path / "set/data.yaml", "train: images\nnames: [cat]\n")
    with pytest.raises(DataError, match="fit as two corners"):
        opened(tmp_path / "set")
    report = repair_annotations(str(tmp_path / "set"), "instances", tmp_path / "out")
    assert (report.kept, report.excluded) == (0, 6)


@pytest.mark.parametrize("beyond", [1, 2])
def test_boxes_beyond_the_edge_are_cut_only_where_they_are_few(tmp_path, beyond):
    made = coco(tmp_path / "set")
    for entry in made["annotations"][:beyond]:
        entry["bbox"][0] = -9
        del entry["segmentation"], entry["area"]
    put(tmp_path / "set" / JSON, made)
    report = repair_annotations(str(tmp_path / "set"), "instances", tmp_path / "out")
    assert (report.kept, report.excluded) == ((6, 0) if beyond == 1 else (0, 6))


def rescaled(root, sizes):
    """A set whose images are annotated at the first and stored at the second of two sizes."""
    made = document({number: f"p{number}.jpg" for number in range(len(sizes))})
    for number, (stated, stored) in enumerate(sizes):
        draw(root / f"images/p{number}.jpg", number, size=stored)
        made["images"][number] |= {"width": stated[0], "height": stated[1]}
        entry = made["annotations"][number]
        factors = (stated[0] / WIDTH, stated[1] / HEIGHT) * 2
        entry["bbox"] = [v * factor for v, factor in zip(entry["bbox"], factors, strict=True)]
        del entry["segmentation"], entry["area"]
    put(root / JSON, made)


def rows_of(out):
    with (out / REPORT_FILE).open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_a_resize_is_proved_by_sides_in_common(tmp_path):
    sizes = [((200, 100), (100, 50)), ((300, 200), (100, 67)), ((160, 160), (100, 100))]
    rescaled(tmp_path / "set", [*sizes, *sizes, *sizes])
    report = repaired(tmp_path / "set", tmp_path / "out")
    assert (report.kept, report.unverified) == (9, 0)
    assert not any("not verified" in row["reason"] for row in rows_of(tmp_path / "out"))


def test_a_cut_of_the_same_shape_is_not_told_from_a_resize(tmp_path):
    rescaled(tmp_path / "set", [((192, 128), (96, 64))] * 4)
    report = repaired(tmp_path / "set", tmp_path / "out")
    assert (report.kept, report.unverified) == (4, 4)
    assert "4 kept objects were scaled, not verified" in report.summary()
    assert all("scaled, not verified" in row["reason"] for row in rows_of(tmp_path / "out"))


def test_nothing_is_scaled_in_a_set_that_was_cut(tmp_path):
    rescaled(tmp_path / "set", [((192, 128), (96, 64))] * 4)
    for number in (0, 1):
        draw(tmp_path / f"set/images/p{number}.jpg", number, size=(96, 80))
    report = repaired(tmp_path / "set", tmp_path / "out")
    assert (report.kept, report.excluded) == (0, 4)


def test_boxes_that_all_lie_within_the_smaller_size_are_not_scaled(tmp_path):
    made = coco(tmp_path / "set")
    for image in made["images"]:
        image.update(width=2 * WIDTH, height=2 * HEIGHT)  # stale: the boxes are for the files
    put(tmp_path / "set" / JSON, made)
    report = repaired(tmp_path / "set", tmp_path / "out")
    assert (report.kept, report.excluded) == (0, 6)
