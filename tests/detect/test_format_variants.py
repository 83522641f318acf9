"""Annotation sets as tools write them: titles, scalars, encodings, names; read right or refused."""

import tarfile
import time

import numpy as np
import pytest
import torch
from colored_sets import CATEGORIES, HEIGHT, WIDTH, document, draw, opened, put, right, voc, xml

from resnets.config import DataSpec, DetectSpec, Preprocess
from resnets.data.errors import DataError
from resnets.data.layout.folder_names import role_within, split_role
from resnets.data.transforms.preprocess import Preprocessor
from resnets.detect.check.run import check_annotations
from resnets.detect.data.masks import encode_masks, outline_box
from resnets.detect.loading.sources import open_detection
from resnets.detect.loading.train_batches import DetectStream

JSON = "annotations/instances_train.json"


def coco(root, count=4, start=0, folder="images"):
    """The document of a COCO set whose images are in `folder`."""
    for number in range(start, start + count):
        draw(root / folder / f"p{number}.jpg", number)
    return document({number: f"p{number}.jpg" for number in range(start, start + count)})


@pytest.mark.parametrize(
    ("name", "role"),
    [
        ("Train", "train"),
        ("TRAINING", "train"),
        ("train2017", "train"),
        ("training_set", "train"),
        ("Valid", "val"),
        ("validation", "val"),
        ("dev", "val"),
        ("Test", "test"),
        ("testing", "test"),
        ("test-dev2017", "test"),
        ("trainval", "trainval"),
        ("train_val", "trainval"),
        ("trainer", None),
        ("cats", None),
    ],
)
def test_one_table_of_split_names(name, role):
    assert split_role(name) == role


def test_split_names_within_longer_ones():
    names = ("lvis_v1_val", "my-Train-labels", "train_and_test", "latest")
    assert [role_within(name) for name in names] == ["val", "train", None, None]


@pytest.mark.parametrize(
    "places",
    [
        ("train/annotations/instances.json", "val/annotations/instances.json"),
        ("train/labels.json", "val/labels.json"),
        ("Train/_annotations.coco.json", "Valid/_annotations.coco.json"),
        ("annotations/set_train.json", "annotations/set_val.json"),
    ],
)
def test_each_set_keeps_its_own_split(tmp_path, places):
    for place, count, start in zip(places, (6, 3), (0, 6), strict=True):
        folder = place.partition("/")[0] if "/" in place[:6] else f"images{start}"
        put(tmp_path / place, coco(tmp_path, count, start, folder))
    splits = opened(tmp_path)
    assert (right(splits.train), right(splits.test())) == (6, 3)


def test_sets_of_one_title_are_joined(tmp_path):
    for camera in range(2):
        made = coco(tmp_path, 4, 4 * camera, f"cam{camera}/images")
        put(tmp_path / f"cam{camera}/instances_train.json", made)
    assert right(opened(tmp_path).train) == 8
    assert right(opened(tmp_path, train_set="cam1:train").train) == 4


def test_several_sets_for_one_role_are_refused_by_name(tmp_path):
    for place, name in enumerate(("train2014", "train2017")):
        put(tmp_path / f"annotations/instances_{name}.json", coco(tmp_path, 4, 4 * place, name))
    with pytest.raises(DataError, match="train2014.*train2017"):
        opened(tmp_path)
    assert right(opened(tmp_path, train_set="train2014+train2017").train) == 8


@pytest.mark.parametrize(
    ("folders", "lists"),
    [
        (("Train", "Test"), False),
        (("training", "testing"), False),
        (("set/train", "set/TEST"), False),
        (("VOC/all", "VOC/all"), True),
    ],
)
def test_test_images_of_voc_sets_are_never_trained_on(tmp_path, folders, lists):
    for folder, numbers in zip(folders, (range(5), range(5, 8)), strict=True):
        voc(tmp_path, numbers, annotations=folder, images=folder)
    if lists:
        put(tmp_path / "VOC/Train.txt", "\n".join(f"p{n}" for n in range(5)))
        put(tmp_path / "VOC/Test.txt", "\n".join(f"p{n}" for n in range(5, 8)))
    splits = opened(tmp_path)
    assert (right(splits.train), right(splits.test())) == (5, 3)


def test_a_validation_set_of_training_images_is_refused(tmp_path):
    made = coco(tmp_path)
    put(tmp_path / JSON, made)
    put(tmp_path / "annotations/instances_val.json", made)
    put(tmp_path / "annotations/instances_test.json", coco(tmp_path, 2, 10))
    with pytest.raises(DataError, match="val shares images with train"):
        opened(tmp_path)
    kinds = check_annotations(str(tmp_path), "instances").by_kind
    assert dict(kinds) == {"in two sets": 4}


CROWDS = {False: ("0", 0, 0.0, "false", "no", "", None, False), True: ("1", 1.0, "True", "yes")}


def test_scalars_in_any_spelling(tmp_path):
    spelled = [(value, crowd) for crowd, values in CROWDS.items() for value in values]
    made = coco(tmp_path, len(spelled))
    for entry in made["images"]:
        entry |= {"width": str(entry["width"]), "height": float(entry["height"])}
        entry["id"] = f"{entry['id']}"
    for (value, _), entry in zip(spelled, made["annotations"], strict=True):
        entry |= {"iscrowd": value, "image_id": float(entry["image_id"])}
        entry["category_id"] = f"{entry['category_id']}.0"
        entry["bbox"] = [str(side) for side in entry["bbox"]]
    made["annotations"][0]["bbox"] = ", ".join(made["annotations"][0]["bbox"])
    made["categories"] = [entry | {"id": str(entry["id"])} for entry in CATEGORIES]
    put(tmp_path / JSON, made)
    split = opened(tmp_path).train
    assert right(split) == len(spelled)
    assert [bool(target.crowd[0]) for target in split.targets] == [crowd for _, crowd in spelled]
    assert [int(target.image_id) for target in split.targets] == list(range(1, len(spelled) + 1))


def test_a_flag_that_is_neither_yes_nor_no_stops(tmp_path):
    made = coco(tmp_path)
    made["annotations"][1]["iscrowd"] = "perhaps"
    put(tmp_path / JSON, made)
    with pytest.raises(DataError, match="2.*'perhaps'"):
        opened(tmp_path)


@pytest.mark.parametrize("root", ["cells", "Cells-abc"])
def test_a_root_category_is_not_a_class(tmp_path, root):
    made = coco(tmp_path, folder="train")
    made["categories"] = [
        {"id": 0, "name": root, "supercategory": "none"},
        *(entry | {"supercategory": root} for entry in CATEGORIES),
    ]
    put(tmp_path / "train/_annotations.coco.json", made)
    splits = opened(tmp_path)
    assert splits.classes == ("cat", "dog")
    assert right(splits.train) == 4
    made["annotations"][0]["category_id"] = 0  # one that is used is a class like others
    put(tmp_path / "train/_annotations.coco.json", made)
    assert opened(tmp_path).classes == (root, "cat", "dog")


def test_two_ids_of_one_name_are_refused_by_name(tmp_path):
    made = coco(tmp_path)
    made["categories"] = [*CATEGORIES, {"id": 7, "name": " cat"}]
    put(tmp_path / JSON, made)
    with pytest.raises(DataError, match="categories.*1.*7"):
        opened(tmp_path)


def test_a_category_that_training_lacks_counts_only_where_it_is_used(tmp_path):
    put(tmp_path / JSON, coco(tmp_path))
    made = coco(tmp_path, 2, 10)
    made["categories"] = [*CATEGORIES, {"id": 7, "name": "bird"}]
    put(tmp_path / "annotations/instances_val.json", made)
    assert right(opened(tmp_path).test()) == 2
    made["annotations"][0]["category_id"] = 7
    put(tmp_path / "annotations/instances_val.json", made)
    with pytest.raises(DataError, match=r"category 7 \(bird\) is not what it is in the training"):
        opened(tmp_path).test()


@pytest.mark.parametrize(
    "changed",
    [
        lambda text: text.replace("<xmin>", "<x>").replace("</xmin>", "</x>")
        .replace("xmax>", "xmin>").replace("<x>", "<xmax>").replace("</x>", "</xmax>"),
        lambda text: text.replace("object>", "Object>").replace("name>", "NAME>"),
        lambda text: text.replace("<difficult>0</difficult>", ""),
        lambda text: text.replace("<difficult>0", "<difficult>Unspecified"),
        lambda text: text.replace("<size>", "<nosize>").replace("</size>", "</nosize>"),
        lambda text: text.replace("<width>96", "<width>0").replace("<height>64", "<height>0"),
        lambda text: text.replace("<width>96", "<width>96.0"),
        lambda text: text.replace("<name>cat", "<name> cat\n"),
        lambda text: b"\xef\xbb\xbf" + text.encode(),
        lambda text: ('<?xml version="1.0" encoding="gb2312"?>' + text).encode("gb2312"),
        lambda text: ('<?xml version="1.0" encoding="UTF-16"?>' + text).encode("utf-16"),
        lambda text: ('<?xml version="1.0" encoding="latin-1"?>' + text).encode("latin-1"),
    ],
)  # fmt: skip
def test_voc_as_tools_write_it(tmp_path, changed):
    voc(tmp_path)
    for number in range(0, 6, 2):
        put(tmp_path / f"Annotations/p{number}.xml", changed(xml(number, f"p{number}.jpg")))
        put(tmp_path / f"Annotations/p{number + 1}.xml", xml(number + 1, ""))
    assert right(opened(tmp_path).train) == 6


@pytest.mark.parametrize(
    ("annotations", "images", "suffix"),
    [("annotations", "images", ".XML"), ("ANNOTATIONS", "jpegimages", ".xml"), ("x", "x", ".Xml")],
)
def test_folders_and_suffixes_in_any_case(tmp_path, annotations, images, suffix):
    voc(tmp_path, annotations=annotations, images=images)
    for path in (tmp_path / annotations).glob("*.xml"):
        path.rename(path.with_suffix(suffix))
    for path in (tmp_path / images).glob("*.jpg"):
        path.rename(path.with_suffix(".JPG"))
    put(tmp_path / "imagesets/main/train.txt", "".join(f"p{n}\r\n" for n in range(6)))
    assert right(opened(tmp_path).train) == 6


@pytest.mark.parametrize(
    "line", ["my photo {}", "my photo {}.jpg", "my photo {}.xml", "my photo {} 1", "./my photo {}"]
)
def test_lists_with_spaces_suffixes_and_marks(tmp_path, line):
    for number in range(6):
        draw(tmp_path / f"JPEGImages/my photo {number}.jpg", number)
        put(tmp_path / f"Annotations/my photo {number}.xml", xml(number, ""))
    for title, numbers in (("train", range(4)), ("val", range(4, 6))):
        text = "\r\n".join(line.format(number) for number in numbers)
        put(tmp_path / f"ImageSets/Main/{title}.txt", b"\xef\xbb\xbf" + text.encode())
    splits = opened(tmp_path)
    assert (right(splits.train), right(splits.test())) == (4, 2)


def test_names_of_classes_with_a_mark(tmp_path):
    voc(tmp_path)
    put(tmp_path / "classes.txt", b"\xef\xbb\xbfdog\r\ncat\r\n")
    splits = opened(tmp_path)
    assert splits.classes == ("dog", "cat")
    assert right(splits.train) == 6


def test_classes_are_those_of_the_set(tmp_path):
    voc(tmp_path, range(0, 6, 2))
    splits = opened(tmp_path)
    assert splits.classes == ("cat",)  # not VOC's twenty
    assert right(splits.train) == 3


BOMB = '<!DOCTYPE a [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;">]>'


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b'<?xml version="1.0" encoding="unicode"?><annotation/>', "encoding 'unicode' is unknown"),
        (b'<?xml version="1.0" encoding="hex"?><annotation/>', "encoding 'hex' is unknown"),
        (b"<annotation>\xc3\x28</annotation>", "not utf-8 at byte 12"),
        (b"", "no element found"),
        (b"<annotation>", "no element found"),
        (b"<a>" * 100_000, "nested deeper"),
        (xml(2, "p2.jpg", head=BOMB).replace("cat", "&b;"), "it declares the entity"),
        (BOMB.replace('"aaaaaaaaaa"', 'SYSTEM "file:///etc/passwd"'), "it declares the entity"),
    ],
)
def test_bad_xml_is_one_line_that_names_the_file(tmp_path, content, says):
    voc(tmp_path)
    put(tmp_path / "Annotations/p2.xml", content)
    start = time.process_time()
    with pytest.raises(DataError, match=says) as caught:
        opened(tmp_path)
    assert "p2.xml" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert right(opened(tmp_path, skip_invalid=True).train) == 5
    assert time.process_time() - start < 5


@pytest.mark.parametrize("name", ["instances_train.json", "other.json"])
@pytest.mark.parametrize(
    "content",
    [
        b'{"images":' + b"[" * 200_000 + b"]" * 200_000 + b"}",
        b'{"images": [], "annotations": [',
        b'{"images": [{"id": ' + b"9" * 5000 + b'}], "annotations": [], "categories": []}',
        '{"images": [], "annotations": [], "categories": [{"id": 1, "name": "\xe9"}]}'.encode(
            "latin-1"
        ),
        b'{"images": {}, "annotations": {}, "categories": {}}',
        b"",
    ],
)
def test_bad_json_is_one_line_that_names_the_file(tmp_path, name, content):
    draw(tmp_path / "images/a.jpg", 1)
    put(tmp_path / "annotations" / name, content)
    for task in ("detect", "instances"):
        with pytest.raises(DataError) as caught:
            open_detection(DataSpec(source=str(tmp_path)), DetectSpec(), task)
        assert name in str(caught.value)
        assert "\n" not in str(caught.value)


def test_a_json_lists_images_of_other_folders_of_the_machine_only_by_its_own_names(tmp_path):
    """`info.pictures` names where images lie; nothing else there is listed or read."""
    draw(tmp_path / "elsewhere/p0.jpg", 0)
    draw(tmp_path / "p1.jpg", 1)
    made = document({0: "p0.jpg", 1: "../p1.jpg"}) | {
        "info": {"pictures": str(tmp_path / "elsewhere")}
    }
    put(tmp_path / "set" / JSON, made)
    with pytest.raises(DataError, match=r"\.\./p1.jpg"):
        opened(tmp_path / "set")
    assert right(opened(tmp_path / "set", skip_invalid=True).train) == 1
    put(tmp_path / "set" / JSON, made | {"info": {"pictures": "/"}})
    with pytest.raises(DataError, match="its image is missing"):
        opened(tmp_path / "set")


def test_a_tar_is_read_like_its_folder(tmp_path):
    for place, count, start in (("train", 6, 0), ("val", 3, 6)):
        made = coco(tmp_path / "set", count, start, f"{place}/images")
        put(tmp_path / f"set/{place}/annotations/instances.json", made)
    with tarfile.open(tmp_path / "set.tar", "w") as tar:
        tar.add(tmp_path / "set", "deep/set")
    splits = opened(tmp_path / "set.tar")
    assert (right(splits.train), right(splits.test())) == (6, 3)


@pytest.mark.parametrize("stated", ["area", "segmentation", "neither"])
def test_boxes_of_two_corners_are_not_taken_for_sides(tmp_path, stated):
    made = coco(tmp_path, 6)
    for entry in made["annotations"]:
        x, y, width, height = entry["bbox"]
        entry["bbox"] = [x, y, x + width, y + height]
        for key in {"area", "segmentation"} - {stated}:
            del entry[key]
    put(tmp_path / JSON, made)
    with pytest.raises(DataError, match=r"bbox is two corners|pass the edge"):
        opened(tmp_path)
    if stated != "neither":
        kinds = check_annotations(str(tmp_path), "instances").by_kind
        assert kinds["box form"] == 1  # once for the set


@pytest.mark.parametrize("form", ["coco", "voc"])
def test_boxes_that_are_shares_are_not_taken_for_pixels(tmp_path, form):
    made = coco(tmp_path)
    for entry in made["annotations"]:
        entry["bbox"] = [side / 100 for side in entry["bbox"]]
    if form == "coco":
        put(tmp_path / JSON, made)
    for entry in made["annotations"] if form == "voc" else ():
        x, y, width, height = entry["bbox"]
        corners = zip(("xmin", "ymin", "xmax", "ymax"), (x, y, x + width, y + height), strict=True)
        box = "".join(f"<{key}>{value}</{key}>" for key, value in corners)
        body = f"<object><name>cat</name><bndbox>{box}</bndbox></object>"
        put(tmp_path / f"xml/p{entry['id'] - 1}.xml", f"<annotation>{body}</annotation>")
    with pytest.raises(DataError, match="all boxes lie within one pixel"):
        opened(tmp_path)


@pytest.mark.parametrize("keep_empty", [False, True])
def test_localization_leaves_images_without_objects_out_of_every_share(tmp_path, keep_empty):
    voc(tmp_path, range(6))
    empty = "<annotation><size><width>96</width><height>64</height></size></annotation>"
    for number in range(6, 14):
        draw(tmp_path / f"JPEGImages/p{number}.jpg", number)
        difficult = xml(number, "").replace("<difficult>0", "<difficult>1")
        put(tmp_path / f"Annotations/p{number}.xml", empty if number < 12 else difficult)
    detect = DetectSpec(keep_empty=keep_empty)
    data = DataSpec(source=str(tmp_path), val_fraction=0.2, test_fraction=0.2)
    splits = open_detection(data, detect, "localize")
    shares = (splits.train, splits.val, splits.test())
    assert sum(map(len, shares)) == 8
    for share in shares:
        assert all(len(set(target.labels.tolist())) == 1 for target in share.targets)
    preprocessor = Preprocessor(Preprocess(mean=(0.5,) * 3, std=(0.25,) * 3))
    stream = DetectStream(
        splits.train, data, detect, preprocessor, 2, 0, torch.device("cpu"), "localize"
    )
    batches = stream.batches()
    for _ in range(6):  # a net for one class an image cannot learn from none
        assert all(len(target["labels"]) for target in next(batches).targets)


@pytest.mark.parametrize("key", ["filename", "path", "coco_url"])
def test_the_file_of_an_image_under_another_key(tmp_path, key):
    made = coco(tmp_path)
    for entry in made["images"]:
        entry[key] = f"http://host/images/{entry.pop('file_name')}"
    put(tmp_path / JSON, made)
    assert right(opened(tmp_path).train) == 4


def test_polygons_in_other_brackets(tmp_path):
    made = coco(tmp_path)
    for place, entry in enumerate(made["annotations"]):
        (flat,) = entry["segmentation"]
        pairs = [list(pair) for pair in zip(flat[::2], flat[1::2], strict=True)]
        entry["segmentation"] = ([flat], flat, pairs, [pairs])[place]
    put(tmp_path / JSON, made)
    assert check_annotations(str(tmp_path), "instances").problems == []
    data = DataSpec(source=str(tmp_path), val_fraction=0, test_fraction=0)
    split = open_detection(data, DetectSpec(), "instances").train
    for target, entry in zip(split.targets, coco(tmp_path)["annotations"], strict=True):
        assert target.masks[0][0].tolist() == entry["segmentation"][0]


def test_objects_without_an_outline_are_noted_and_serve_for_boxes(tmp_path):
    made = coco(tmp_path, 6)
    for entry, outline in zip(made["annotations"], ([], None, [[]]), strict=False):
        entry["segmentation"] = outline
    del made["annotations"][3]["segmentation"]
    put(tmp_path / JSON, made)
    report = check_annotations(str(tmp_path), "instances")
    assert report.problems == []
    assert any("4 objects without" in note for note in report.notes)
    assert right(opened(tmp_path).train) == 6
    with pytest.raises(DataError, match="no segmentation"):
        open_detection(DataSpec(source=str(tmp_path)), DetectSpec(), "instances")


@pytest.mark.parametrize("wrong", ["half", "exchanged", "none"])
def test_outlines_that_do_not_agree_with_their_boxes_are_noted(tmp_path, wrong):
    made = coco(tmp_path)
    for entry in made["annotations"]:
        if wrong == "half":
            entry["segmentation"] = [[v / 2 for v in entry["segmentation"][0]]]
        else:  # run lengths, of columns or, wrongly, of rows
            left, top, width, height = entry["bbox"]
            mask = np.zeros((HEIGHT, WIDTH), np.uint8)
            mask[top : top + height, left : left + width] = 1
            runs = mask.reshape(-1) if wrong == "exchanged" else mask.T.reshape(-1)
            edges = np.flatnonzero(np.diff(runs)) + 1
            counts = np.diff([0, *edges, runs.size]).tolist()
            entry["segmentation"] = {"size": [HEIGHT, WIDTH], "counts": counts}
    put(tmp_path / JSON, made)
    report = check_annotations(str(tmp_path), "instances")
    notes = [note for note in report.warnings if "do not agree" in note]
    assert len(notes) == (wrong != "none")
    assert not notes or "4 of 4" in notes[0]
    assert report.problems == []


def test_the_box_around_run_lengths_is_that_of_their_pixels():
    rng = np.random.default_rng(0)
    for _ in range(200):
        mask = (rng.random((1, *rng.integers(1, 9, 2))) < rng.random() ** 2).astype(np.uint8)
        rows, columns = np.nonzero(mask[0])
        right_box = (0, 0, 0, 0)
        if len(rows):
            right_box = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
        assert outline_box(encode_masks(mask)[0], mask.shape[1:]) == right_box
