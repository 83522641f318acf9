"""A CSV of path,label[,split]: headers, paths, kinds of labels, and what bad lines say."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from digit_sets import digit_files

from resnets.config import ConfigError, DataSpec
from resnets.data import DataError, open_data

NAMES = ("nought", "one", "two", "three")
WHOLE = DataSpec(val_fraction=0, test_fraction=0, in_memory="never")


@pytest.fixture
def images(tmp_path: Path) -> list[tuple[str, int]]:
    """images/00.png, ... in `tmp_path`, 5 of each of four digits, with the digit."""
    (tmp_path / "images").mkdir()
    found = []
    for number, (data, digit) in enumerate(digit_files(5)):
        path = f"images/{number:02}.png"
        (tmp_path / path).write_bytes(data)
        found.append((path, digit))
    return found


def write(tmp_path: Path, text: str, encoding: str = "utf-8") -> DataSpec:
    file = tmp_path / "set.csv"
    file.write_bytes(text.encode(encoding))
    return replace(WHOLE, source=str(file))


def test_with_and_without_a_header(tmp_path: Path, images: list[tuple[str, int]]) -> None:
    plain = "".join(f"{path},{NAMES[digit]}\n" for path, digit in images)
    bare = open_data(write(tmp_path, plain)).train
    assert bare.description == "set.csv, 20 images"
    assert bare.classes == tuple(sorted(NAMES))
    wanted = [NAMES[digit] for _, digit in images]
    assert [bare.classes[label] for label in bare.labels] == wanted
    for row, (path, _) in enumerate(images):
        assert bare.files.read(row) == (tmp_path / path).read_bytes()
    for text in (
        "path,label\n" + plain,
        "\ufeffFile, Label\r\n\r\n" + plain.replace("\n", "\r\n"),
        "path,label\n" + "\n".join(sorted(plain.splitlines(), reverse=True)),
        "id,label,who,image\n" + "".join(
            f'7,"{NAMES[digit]}","Doe, Jane",./{path}\n' for path, digit in images
        ),
        "".join(f"{tmp_path / path},{NAMES[digit]}\n" for path, digit in images),
    ):  # fmt: skip
        again = open_data(write(tmp_path, text)).train
        assert torch.equal(again.labels, bare.labels)
        assert [again.files.read(row) for row in range(20)] == [
            bare.files.read(row) for row in range(20)
        ]


def test_numbers_are_classes_in_numerical_order(
    tmp_path: Path, images: list[tuple[str, int]]
) -> None:
    rows = "".join(f"{path},{9 + digit}\n" for path, digit in images)
    train = open_data(write(tmp_path, rows)).train
    assert train.classes == ("9", "10", "11", "12")
    assert train.labels.tolist() == [digit for _, digit in images]


def test_the_third_column_is_the_split(tmp_path: Path, images: list[tuple[str, int]]) -> None:
    splits = ["train", "train", "TRAIN", "valid", "test"]
    seen = dict.fromkeys(range(4), 0)
    rows = []
    for path, digit in images:
        rows.append(f"{path},{NAMES[digit]},{splits[seen[digit]]}\n")
        seen[digit] += 1
    spec = replace(write(tmp_path, "".join(rows)), val_fraction=0.1)
    found = open_data(spec)
    assert [len(split) for split in (found.train, found.val, found.test())] == [12, 4, 4]
    assert found.val.description == "set.csv val, 4 images"
    headed = "split,label,path\n" + "".join(
        ",".join(reversed(row.strip().split(","))) + "\n" for row in rows
    )
    assert torch.equal(open_data(write(tmp_path, headed)).val.labels, found.val.labels)
    only = [row for row in rows if ",valid" not in row]
    assert len(open_data(write(tmp_path, "".join(only))).test()) == 4
    unknown = "".join(rows).replace("one,test", "five,test")
    with pytest.raises(DataError, match="'five'.*4"):
        open_data(write(tmp_path, unknown))


def test_shares_are_held_out_and_do_not_depend_on_the_order_of_lines(
    tmp_path: Path, images: list[tuple[str, int]]
) -> None:
    rows = [f"{path},{digit}\n" for path, digit in images]
    names = []
    for lines in (rows, rows[::-1]):
        spec = replace(write(tmp_path, "".join(lines)), val_fraction=0.2, test_fraction=0.2)
        test = open_data(spec).test()
        names.append([test.files.name(row) for row in range(len(test))])
    assert names[0] == names[1]
    assert len(names[0]) == 7


def test_bad_lines_are_named(tmp_path: Path, images: list[tuple[str, int]]) -> None:
    good = "".join(f"{path},{digit}\n" for path, digit in images)
    one, two = (path for path, _ in images[:2])

    def refused(text: str, words: str, encoding: str = "latin-1") -> None:
        with pytest.raises(DataError, match=words) as caught:
            open_data(write(tmp_path, text, encoding))
        assert "\n" not in str(caught.value)

    several = "set data.labels=multi"
    refused("", r"set\.csv: names no images")
    refused("path,label\n", r"set\.csv: names no images")
    refused(good + "images/none.png,3\n", r"line 21: no file .*images/none\.png; paths are")
    refused(good.replace("images", "nowhere"), r"line 1: no file .*, and 19 more are missing")
    refused(good + f"{one},\n", "line 21: no label")
    refused(good + ",3\n", "line 21: no path")
    refused(good + f"{one},1,2\n", "line 21: 3 cells, but line 1 has 2")
    refused(f"{one},0,1,1,0\n", "line 1: 5 cells, expected path,label")
    for label in ("cat;dog", '"[1, 2]"', "cat|dog", "1 2", '"1,2"'):
        refused(good + f"{one},{label}\n", f"line 21: .* looks like several labels[;,] .*{several}")
    refused(good + f"{one},3\n", f"line 21: {one} is in line 1 already; .*{several}")
    refused(good + f"{one},0\n", f"line 21: {one} is in line 1 already; remove one")
    header = "path,breed,age\n" + good.replace("\n", ",7\n")
    refused(header, "line 1: the header has no label column; its columns are path, breed, age")
    refused(f"{one},1,mine\n{two},0,train\n", "line 1: split 'mine'; expected train, val or test")
    refused(f"{one},1,val\n{two},0,test\n", "contains the splits test, val, but no train")
    refused(good + f"{one},caf\xe9\n", "line 21: not UTF-8; save the file as UTF-8")
    refused(good + f'{one},"3\n', r"line \d+: not CSV \(unexpected end of data\)")
    refused(good.replace(",1", ",0").replace(",2", ",0").replace(",3", ",0"), "one class only")
    with pytest.raises(ConfigError, match=r"data\.streaming.*set\.csv"):
        open_data(replace(write(tmp_path, good), streaming=True))
