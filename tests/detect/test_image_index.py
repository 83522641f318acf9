"""Which image file belongs to which annotation: the right one, or a problem that stops."""

import contextlib
import shutil
import time
import unicodedata

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

from resnets.data.errors import DataError
from resnets.detect.check.run import check_annotations
from resnets.detect.images.index import ImageIndex
from resnets.detect.images.path_matching import ImageReference
from resnets.detect.images.store import Store

JSON = "annotations/instances_train.json"


def two_cameras(root, prefix=""):
    """Eight images, of two folders with the same names."""
    names = {}
    for number in range(8):
        below = f"cam{number // 4}/f{number % 4}.jpg"
        draw(root / "images" / below, number)
        names[number] = f"{prefix}{below}"
    return names


@pytest.mark.parametrize(
    "prefix",
    [
        "",
        "./",
        "images/",
        "/home/me/set/images/",
        "C:\\data\\images\\",
        "..\\..\\media\\",
        "file:///mnt/images/",
        "/data/local-files/?d=images/",
    ],
)
def test_the_longest_common_path_suffix_decides(tmp_path, prefix):
    names = two_cameras(tmp_path, prefix)
    if "\\" in prefix:
        names = {number: name.replace("/", "\\") for number, name in names.items()}
    put(tmp_path / JSON, document(names))
    assert right(opened(tmp_path).train) == 8


def test_a_stated_folder_that_lacks_the_file_means_missing(tmp_path):
    put(tmp_path / JSON, document(two_cameras(tmp_path)))
    (tmp_path / "images/cam1/f2.jpg").unlink()
    with pytest.raises(DataError, match="cam1/f2.jpg"):
        opened(tmp_path)
    assert right(opened(tmp_path, skip_invalid=True).train) == 7
    report = check_annotations(str(tmp_path), "instances")
    assert dict(report.by_kind) == {"missing image": 1}


def test_no_image_of_a_folder_that_others_state_takes_the_place_of_a_missing_one(tmp_path):
    put(tmp_path / JSON, document(two_cameras(tmp_path)))
    shutil.rmtree(tmp_path / "images/cam1")
    assert right(opened(tmp_path, skip_invalid=True).train) == 4
    report = check_annotations(str(tmp_path), "instances")
    assert dict(report.by_kind) == {"missing image": 4}


def test_one_file_for_two_entries_is_a_problem(tmp_path):
    for number in range(4):
        draw(tmp_path / "images" / f"f{number}.jpg", number)
    names = {n: f"cam{n // 4}/f{n % 4}.jpg" for n in range(8)}
    put(tmp_path / JSON, document(names))
    report = check_annotations(str(tmp_path), "instances")
    assert dict(report.by_kind) == {"one image for two": 8}
    with pytest.raises(DataError, match="that of another entry too"):
        opened(tmp_path)


def test_more_than_one_candidate_is_a_problem_unless_they_are_copies(tmp_path):
    put(tmp_path / JSON, document({n: f"f{n}.jpg" for n in range(4)}))
    for number in range(4):
        draw(tmp_path / "one" / f"f{number}.jpg", number)
        draw(tmp_path / "other" / f"f{number}.jpg", number)
    assert right(opened(tmp_path).train) == 4
    draw(tmp_path / "other/f3.jpg", 5)
    with pytest.raises(DataError, match="f3.jpg.*one/f3.jpg.*other/f3.jpg"):
        opened(tmp_path)


@pytest.mark.parametrize("folder", ["masks", "annotated", "trimaps", "SegmentationClass", "depth"])
@pytest.mark.parametrize("form", ["coco", "voc"])
def test_folders_of_masks_and_drawings_hold_no_images(tmp_path, folder, form):
    for number in range(4):
        draw(tmp_path / "images" / f"p{number}.jpg", number)
        draw(tmp_path / folder / f"p{number}.jpg", number + 1)
        draw(tmp_path / folder / f"p{number}.png", number + 1)
        put(tmp_path / f"xml/p{number}.xml", xml(number, "other.jpg") if form == "voc" else "")
    if form == "coco":
        put(tmp_path / JSON, document({n: f"p{n}.jpg" for n in range(4)}))
    assert right(opened(tmp_path).train) == 4
    shutil.rmtree(tmp_path / "images")
    with pytest.raises(DataError, match="its image is missing"):
        opened(tmp_path)


def test_another_format_counts_only_where_it_is_stated(tmp_path):
    for number in range(3):
        draw(tmp_path / f"images/p{number}.jpg", number)
        draw(tmp_path / f"images/p{number}.png", number + 1)
    put(tmp_path / JSON, document({n: f"p{n}.jpg" for n in range(3)}))
    assert right(opened(tmp_path).train) == 3
    (tmp_path / "images/p1.jpg").unlink()
    with pytest.raises(DataError, match="p1.jpg"):
        opened(tmp_path)
    put(tmp_path / JSON, document({n: f"p{n}" for n in range(3)}))
    with pytest.raises(DataError, match="images/p0.jpg.*images/p0.png"):
        opened(tmp_path)


def test_voc_takes_the_format_that_filename_states(tmp_path):
    voc(tmp_path, range(3))
    for number in range(3):
        draw(tmp_path / f"JPEGImages/p{number}.png", number + 1)
    assert right(opened(tmp_path).train) == 3
    (tmp_path / "JPEGImages/p1.jpg").unlink()
    with pytest.raises(DataError, match="p1.xml.*p1.jpg"):
        opened(tmp_path)


def test_voc_folders_of_annotations_and_images_correspond(tmp_path):
    for number in range(8):
        below = f"cam{number // 4}/f{number % 4}"
        draw(tmp_path / f"images/{below}.jpg", number)
        put(tmp_path / f"annotations/{below}.xml", xml(number, "wrong.jpg"))
    assert right(opened(tmp_path).train) == 8
    (tmp_path / "images/cam1/f2.jpg").unlink()
    assert right(opened(tmp_path, skip_invalid=True).train) == 7


@pytest.mark.parametrize(
    ("title", "folders"),
    [
        (("train2017", "val2017"), ("images/train", "images/val")),
        (("train", "val"), ("Train", "Valid")),
        (("train", "val"), ("data/train/images", "data/val/images")),
    ],
)
def test_sets_of_the_same_names_find_their_own_folders(tmp_path, title, folders):
    for part, (name, folder) in enumerate(zip(title, folders, strict=True)):
        numbers = range(4 * part, 4 * part + 4)
        for number in numbers:
            draw(tmp_path / folder / f"{number % 4}.jpg", number)
        put(
            tmp_path / f"annotations/instances_{name}.json",
            document({n: f"{n % 4}.jpg" for n in numbers}),
        )
    splits = opened(tmp_path)
    assert (right(splits.train), right(splits.test())) == (4, 4)
    (tmp_path / folders[1] / "2.jpg").unlink()  # train's of that name does not take its place
    with pytest.raises(DataError, match=r"2.jpg: its image is missing"):
        opened(tmp_path).test()


@pytest.mark.parametrize(
    ("stated", "stored"),
    [
        ("café {}.jpg", unicodedata.normalize("NFD", "café {}.jpg")),
        ("my%20photo%20{}.jpg", "my photo {}.jpg"),
        ("100%25{}.jpg", "100%{}.jpg"),
        ("P{}.JPG", "p{}.jpg"),
        ("p{}.jpg", "p{}.jpeg"),
    ],
)
def test_one_name_in_two_spellings(tmp_path, stated, stored):
    for number in range(3):
        draw(tmp_path / "images" / stored.format(number), number)
    put(tmp_path / JSON, document({n: stated.format(n) for n in range(3)}))
    assert right(opened(tmp_path).train) == 3


def test_missing_images_are_counted_by_the_check(tmp_path, capsys):
    from resnets.cli.main import main

    put(tmp_path / "set" / JSON, document({n: f"f{n}.jpg" for n in range(9)}))
    for number in range(4):
        draw(tmp_path / f"set/images/f{number}.jpg", number)
    assert main(["data", "check", str(tmp_path / "set"), "--out", str(tmp_path / "out")]) == 1
    assert "5 missing image" in capsys.readouterr().out


def test_an_image_of_another_size_stops_training(tmp_path):
    put(tmp_path / JSON, document({n: f"f{n}.jpg" for n in range(4)}))
    for number in range(4):
        draw(tmp_path / f"images/f{number}.jpg", number)
    draw(tmp_path / "images/f2.jpg", 2, size=(2 * WIDTH, HEIGHT))
    with pytest.raises(DataError, match="f2.jpg.*192x64.*96x64"):
        opened(tmp_path)


@pytest.mark.parametrize("form", ["coco", "voc"])
def test_one_list_of_images_in_split_folders_is_split_by_them(tmp_path, form):
    folders = {"Train": range(5), "Test": range(5, 8)}
    for folder, numbers in folders.items():
        for number in numbers:
            draw(tmp_path / "images" / folder / f"p{number}.jpg", number)
            if form == "voc":
                put(tmp_path / f"annotations/p{number}.xml", xml(number, f"p{number}.jpg"))
    if form == "coco":
        put(tmp_path / "annotations.json", document({n: f"p{n}.jpg" for n in range(8)}))
    splits = opened(tmp_path)
    assert (right(splits.train), right(splits.test())) == (5, 3)
    report = check_annotations(str(tmp_path), "instances")
    assert {title: count["objects"] for title, count in report.counts.items()} == {
        "Train": 5,
        "Test": 3,
    }
    assert any("Test/, Train/" in note for note in report.notes)


def test_a_folder_of_another_name_is_reported(tmp_path):
    for number in range(4):
        draw(tmp_path / f"photos/p{number}.jpg", number)
    put(tmp_path / JSON, document({n: f"original/p{n}.jpg" for n in range(4)}))
    assert right(opened(tmp_path).train) == 4
    report = check_annotations(str(tmp_path), "instances")
    assert any("original/" in note for note in report.notes)


def test_the_folder_of_the_annotations_comes_before_copies_below_it(tmp_path):
    voc(tmp_path, annotations=".", images=".")
    for number in range(6):
        draw(tmp_path / f"done/p{number}.jpg", number + 1)
    assert right(opened(tmp_path).train) == 6


def test_an_xml_that_names_the_image_of_another_does_not_take_it(tmp_path):
    voc(tmp_path)
    (tmp_path / "JPEGImages/p2.jpg").unlink()
    put(tmp_path / "Annotations/p2.xml", xml(2, "p3.jpg"))
    with pytest.raises(DataError, match="p2.xml.*p3.jpg"):
        opened(tmp_path)
    assert right(opened(tmp_path, skip_invalid=True).train) == 5


@pytest.mark.parametrize("wrong", ["shared", "damaged", "missing"])
def test_what_is_wrong_with_a_test_set_stops_a_run_before_its_first_step(tmp_path, wrong, capsys):
    from resnets.cli.main import main

    for number in range(6):
        draw(tmp_path / f"set/images/f{number}.jpg", number)
    names = {n: f"f{n}.jpg" for n in range(4)}
    put(tmp_path / "set" / JSON, document(names))
    tests = {"shared": {3: "f3.jpg", 4: "f4.jpg"}, "missing": {5: "f5.jpg", 9: "f9.jpg"}}
    made = document(tests[wrong]) if wrong in tests else '{"images": ['
    put(tmp_path / "set/annotations/instances_test.json", made)
    arguments = ["detect-small", "--data", str(tmp_path / "set"), "--out", str(tmp_path / "run")]
    assert main(["train", *arguments, "--set", "data.val_fraction=0"]) == 1
    says = {"shared": "shares images", "damaged": "invalid JSON", "missing": "image is missing"}
    assert says[wrong] in capsys.readouterr().err
    assert not (tmp_path / "run/metrics.jsonl").exists()


def test_a_folder_in_filename_tells_images_of_one_name_apart(tmp_path):
    for number in range(8):
        camera, name = f"cam{number // 4}", f"f{number % 4}.jpg"
        draw(tmp_path / f"images/{camera}/{name}", number)
        stated = f"D:\\data\\{camera}\\{name}" if number % 2 else f"{camera}/{name}"
        put(tmp_path / f"xml/{camera}_f{number % 4}.xml", xml(number, stated))
    assert right(opened(tmp_path).train) == 8


def test_an_entry_that_is_listed_twice_alike_is_one(tmp_path):
    made = document({n: f"f{n}.jpg" for n in range(4)})
    for number in range(4):
        draw(tmp_path / f"images/f{number}.jpg", number)
    made["images"].append(dict(made["images"][1]))
    put(tmp_path / JSON, made)
    assert right(opened(tmp_path).train) == 4
    made["images"][4]["file_name"] = "f3.jpg"
    put(tmp_path / JSON, made)
    with pytest.raises(DataError, match="image 2: id occurs twice"):
        opened(tmp_path)


def test_images_of_the_only_list_are_not_trained_on_where_it_is_for_test(tmp_path):
    voc(tmp_path)
    put(tmp_path / "ImageSets/Main/test.txt", "p4\np5\n")
    with pytest.raises(DataError, match="none of the image sets test, unlisted is for training"):
        opened(tmp_path)
    splits = opened(tmp_path, train_set="unlisted")
    assert (right(splits.train), right(splits.test())) == (4, 2)


class NoFiles:
    """Files that nothing reads."""

    def name(self, row):
        return str(row)


@pytest.mark.parametrize("form", ["images/{}/color.jpg", "{}/color.jpg", "images/{}/color"])
def test_one_name_in_thousands_of_folders(form):
    count = 5000
    paths = [f"images/{number:05d}/color.jpg" for number in range(count)]
    index = ImageIndex.of(Store("x", "x", NoFiles(), {p: row for row, p in enumerate(paths)}))
    numbers = [f"{number:05d}" for number in range(count)]
    beside = "" if form.endswith("g") else "images/{}/color.xml"
    entries = [ImageReference((form.format(each),), beside.format(each)) for each in numbers]
    start = time.process_time()
    assert [match.path for match in index.match(entries)] == paths
    assert time.process_time() - start < 5  # grows with the number of folders, not its square


def labelme(number, stated):
    label, (left, top, right, bottom) = object_of(number)
    points = [[left, top], [right, bottom]]
    shape = {"label": label, "points": points, "shape_type": "rectangle"}
    size = {"imageWidth": WIDTH, "imageHeight": HEIGHT}
    return {"imagePath": stated, "shapes": [shape], **size}


def stating(root, form, name, number, stated):
    """A file called `name` of image `number` that states the file name `stated`."""
    if form == "voc":
        put(root / f"{name}.xml", xml(number, stated))
    else:
        put(root / f"{name}.json", labelme(number, stated))


@pytest.mark.parametrize("form", ["voc", "labelme"])
@pytest.mark.parametrize("folder", ["", "images/"])
def test_names_that_mean_two_images_are_problems(tmp_path, form, folder):
    for number, name in enumerate("abcd"):  # a and b were swapped after they were annotated
        draw(tmp_path / f"{folder}{name}.png", number)
        stating(tmp_path, form, name, number, {"a": "b", "b": "a"}.get(name, name) + ".png")
    report = check_annotations(str(tmp_path), "detect")
    assert dict(report.by_kind) == {"several images": 2}
    assert right(opened(tmp_path, skip_invalid=True).train) == 2


@pytest.mark.parametrize("form", ["voc", "labelme"])
@pytest.mark.parametrize("lost", [None, 0, 1, 3])
def test_files_that_were_renumbered_never_get_the_image_of_another(tmp_path, form, lost):
    for number in range(4):  # image n was called n + 1
        if number != lost:
            draw(tmp_path / f"{number}.png", number)
        stating(tmp_path, form, str(number), number, f"{number + 1}.png")
    with pytest.raises(DataError, match="its image"):
        opened(tmp_path)
    report = check_annotations(str(tmp_path), "detect")
    assert set(report.by_kind) <= {"several images", "one image for two", "missing image"}
    with contextlib.suppress(DataError):  # where none is left
        right(opened(tmp_path, skip_invalid=True).train)


@pytest.mark.parametrize("stale", ["0.png", "template.png"])
def test_voc_copies_with_the_filename_of_their_original_are_of_their_own_image(tmp_path, stale):
    draw(tmp_path / "0.png", 0)
    put(tmp_path / "0.xml", xml(0, "0.png"))
    for number in (1, 2):
        draw(tmp_path / f"flip_{number}.png", number)
        put(tmp_path / f"flip_{number}.xml", xml(number, stale))
    assert right(opened(tmp_path).train) == 3


@pytest.mark.parametrize("deep", ["", "/batch1"])
def test_annotations_of_a_folder_are_of_the_images_in_the_folder_called_like_it(tmp_path, deep):
    for site in ("siteA", "siteB"):
        for number in range(3):
            draw(tmp_path / f"images/{site}{deep}/{number}.png", number + 3 * (site == "siteB"))
    for number in range(3):
        put(tmp_path / f"json/siteB{deep}/{number}.json", labelme(number + 3, f"{number}.png"))
    (tmp_path / f"images/siteB{deep}/0.png").unlink()
    if not deep:
        with pytest.raises(DataError, match=r"0\.png: its image is missing"):
            opened(tmp_path)
        assert right(opened(tmp_path, skip_invalid=True).train) == 2
    (tmp_path / f"images/siteA{deep}/0.png").unlink()
    assert check_annotations(str(tmp_path), "detect").by_kind["missing image"] == 1


def test_bare_names_from_several_folders_are_noted(tmp_path):
    for number in range(4):
        draw(tmp_path / f"images/cam{number % 2}/{number}.png", number)
    put(tmp_path / "annotations/export.json", document({n: f"{n}.png" for n in range(4)}))
    notes = check_annotations(str(tmp_path), "detect").notes
    assert any("2 from images/cam0/" in note for note in notes)


@pytest.mark.parametrize("folder", ["drawn", "predictions_1", "visualized/old"])
def test_json_in_a_folder_of_drawings_is_not_an_annotation(tmp_path, folder):
    voc(tmp_path)
    made = document({n: f"p{n}.jpg" for n in range(6)})
    for entry in made["annotations"]:
        entry["bbox"] = [1, 1, 5, 5]
    put(tmp_path / folder / "detections.json", made)
    assert right(opened(tmp_path).train) == 6
    assert any("drawings" in note for note in check_annotations(str(tmp_path), "detect").notes)
    for path in (tmp_path / "Annotations").iterdir():
        path.unlink()
    with pytest.raises(DataError, match="drawings"):
        opened(tmp_path)
