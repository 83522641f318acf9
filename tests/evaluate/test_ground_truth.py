"""What counts as right: sets of labels and the files that hold them."""

import json
from pathlib import Path

import pytest
import torch

from resnets.data import DataError
from resnets.evaluate.data.ground_truth import GroundTruth, read_labels, split_truth

CLASSES = ("ant", "bee", "cat")
# Stored class by class, as ImageNet's validation folders are; file names tell the order.
NAMES = ("val/bee/p_2.jpg", "val/bee/p_4.jpg", "val/ant/p_1.jpg", "val/cat/p_3.jpg")


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def test_a_prediction_in_the_set_is_right_and_the_rest_follows_the_likeliest():
    truth = GroundTruth([(0, 2), (1,), (1, 2)])
    logits = torch.tensor([[1.0, 0.0, 3.0], [5.0, 1.0, 0.0], [9.0, 2.0, 1.0]])
    rows = torch.tensor([0, 1, 2])
    assert truth.targets(rows, logits).tolist() == [2, 1, 1]
    assert truth.targets(torch.tensor([2, 0]), logits[[2, 0]]).tolist() == [1, 2]
    # Never a class outside of the set, whatever the net computes.
    assert truth.targets(rows, logits * float("nan")).tolist() == [0, 1, 1]
    assert truth.targets(rows, logits * float("inf")).tolist()[1] == 1


def test_own_labels_are_mapped_to_the_networks_outputs():
    truth = split_truth(torch.tensor([0, 2, 1]), torch.tensor([1, 2, 0]))
    assert list(truth.labels) == [(1,), (0,), (2,)]
    assert truth.rows == [0, 1, 2]
    assert truth.note == ""


def test_real_json_is_in_the_order_of_file_names(tmp_path: Path):
    # Beyer et al. 2020: a list of lists, entry i for the i-th file of the validation set.
    real = write(tmp_path / "real.json", json.dumps([[0], [1, 2], [], [2]]))
    truth = read_labels(real, NAMES, CLASSES)
    assert list(truth.labels) == [(1, 2), (2,), (0,), ()]
    assert truth.rows == [0, 1, 2]
    assert truth.note == (
        "labels real.json (4 for 3 images, any of them is correct),"
        " 1 images without a label excluded, numbers taken as class indices (1 is bee),"
        " by position (p_1.jpg = ant)"
    )


@pytest.mark.parametrize("text", ["ant\ncat\n\nbee\n", "0\n2\n\n1\n"])
def test_text_holds_a_name_or_number_a_line(tmp_path: Path, text: str):
    truth = read_labels(write(tmp_path / "val.txt", text), NAMES, CLASSES)
    assert list(truth.labels) == [(2,), (1,), (0,), ()]
    assert ("as class indices" in truth.note) == text.startswith("0")


@pytest.mark.parametrize(
    ("text", "classes"), [("ant\n2\n\n1\n", CLASSES), ("0\n1\n2\n2\n", ("1", "2", "3"))]
)
def test_labels_are_all_names_or_all_numbers(tmp_path: Path, text: str, classes: tuple[str, ...]):
    with pytest.raises(DataError, match="line 1"):
        read_labels(write(tmp_path / "val.txt", text), NAMES, classes)


def test_csv_names_paths_by_their_ends_and_may_name_more(tmp_path: Path):
    table = write(
        tmp_path / "labels.csv",
        "path,label\np_1.jpg,ant\nval/bee/p_2.jpg,bee\np_2.jpg,cat\nelsewhere.jpg,ant\n\n",
    )
    truth = read_labels(table, NAMES, CLASSES)
    assert list(truth.labels) == [(1, 2), (), (0,), ()]


def test_members_of_a_tar_have_paths_too(tmp_path: Path):
    table = write(tmp_path / "labels.csv", "cat/1.jpg,cat\n")
    names = ("/data/set.tar:bee/1.jpg", "/data/set.tar:cat/1.jpg")
    assert list(read_labels(table, names, CLASSES).labels) == [(), (2,)]


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("a.json", "[[0], [1]", "as JSON"),
        ("a.json", '{"0": 1}', "expected a list"),
        ("a.json", "[[0], [1]]", "labels 2 images, the split has 4"),
        ("a.json", "[[0], [1], [2], [3]]", r"entry 3: .?3.? is not a class of the model.*0\.\.2"),
        ("a.json", "[[0], [-1], [2], [1]]", "entry 1: .?-1.? is not a class"),
        ("a.json", "[[], [], [], []]", "contains none of the 4 images"),
        ("a.txt", "ant\nbee\neel\ncat", "line 3: 'eel' is not a class"),
        ("a.csv", "p_1.jpg,ant,cat", "line 1: 3 cells"),
        ("a.csv", "x.jpg,ant", "contains none of the 4 images, such as val/bee/p_2.jpg"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, name: str, text: str, said: str):
    with pytest.raises(DataError, match=said):
        read_labels(write(tmp_path / name, text), NAMES, CLASSES)


def test_a_path_that_means_two_images_is_refused(tmp_path: Path):
    table = write(tmp_path / "a.csv", "1.jpg,ant")
    with pytest.raises(DataError, match="1.*1.jpg.*a/1.jpg.*b/1.jpg"):
        read_labels(table, ("a/1.jpg", "b/1.jpg"), CLASSES)


def test_unreadable_label_files_are_named(tmp_path: Path):
    with pytest.raises(DataError, match="no.json"):
        read_labels(tmp_path / "no.json", NAMES, CLASSES)
    (tmp_path / "raw.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match="not UTF-8"):
        read_labels(tmp_path / "raw.json", NAMES, CLASSES)


UNPADDED = tuple(f"flat/{number}.jpg" for number in range(1, 13))


@pytest.mark.parametrize("name", ["a.txt", "a.json"])
def test_numbers_that_are_not_padded_have_two_orders(tmp_path: Path, name: str):
    labels = ["ant"] * 6 + ["bee"] * 6
    text = json.dumps(labels) if name.endswith("json") else "\n".join(labels)
    file = write(tmp_path / name, text)
    with pytest.raises(DataError, match="path,label"):
        read_labels(file, UNPADDED, CLASSES)
    padded = read_labels(file, [f"flat/{number:02}.jpg" for number in range(1, 13)], CLASSES)
    assert list(padded.labels) == [(0,)] * 6 + [(1,)] * 6
    assert "01.jpg = ant" in padded.paired
    assert "01.jpg = ant" in padded.note
    rows = "".join(f"{path},{label}\n" for path, label in zip(UNPADDED, labels, strict=True))
    table = read_labels(write(tmp_path / "a.csv", rows), UNPADDED, CLASSES)
    assert list(table.labels) == list(padded.labels)
    assert table.paired == ""


def test_pixels_without_files_are_labeled_as_stored(tmp_path: Path):
    labels = ["ant"] * 6 + ["bee"] * 6
    names = [f"image {number}" for number in range(12)]
    file = write(tmp_path / "a.txt", "\n".join(labels))
    truth = read_labels(file, names, CLASSES, stored_order=True)
    assert list(truth.labels) == [(0,)] * 6 + [(1,)] * 6
