"""Images with sets of labels: how tables write them, and how such sets are split."""

import json
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from digit_sets import digit_files

from resnets.config import ConfigError, DataSpec
from resnets.data import DataError, open_data
from resnets.data.dataset.labels import (
    class_counts,
    format_label,
    group_labels,
    label_numbers,
    multi_hot,
)
from resnets.data.sources.objects import open_objects
from resnets.data.sources.open import find_source
from resnets.data.tables.multilabel import parse_labels

SETS = [("cat", "dog"), ("cat",), (), ("dog", "eel"), ("eel",), ("cat", "dog", "eel")]
CLASSES = ("cat", "dog", "eel")
WHOLE = DataSpec(val_fraction=0, test_fraction=0, in_memory="never")


@pytest.fixture
def images(tmp_path: Path) -> list[str]:
    """a0.png, ... in `tmp_path`, one for each of `SETS`."""
    paths = [f"a{number}.png" for number in range(len(SETS))]
    for path, (data, _) in zip(paths, digit_files(2), strict=False):
        (tmp_path / path).write_bytes(data)
    return paths


def wanted() -> list[list[int]]:
    return multi_hot([[CLASSES.index(name) for name in each] for each in SETS], 3).tolist()


def opened(file: Path, **fields) -> object:
    return find_source(replace(WHOLE, source=str(file), **fields))


@pytest.mark.parametrize("separator", [";", "|", ","])
def test_a_separator_is_detected_and_reported(tmp_path, images, separator: str) -> None:
    file = tmp_path / "set.csv"
    rows = (f'{p},"{separator.join(names)}"' for p, names in zip(images, SETS, strict=True))
    file.write_text("path,labels\n" + "\n".join(rows))
    if separator == ",":  # dog is nowhere alone, so "cat,dog" may be a class
        with pytest.raises(DataError, match="line 4: no label"):
            opened(file)
        source = opened(file, labels="multi")
    else:
        source = opened(file)
    assert source.classes == CLASSES
    assert source.train.labels.dtype == np.uint8
    assert source.train.labels.tolist() == wanted()
    assert f"separated by {separator!r}, 1 without a label" in source.notes[0]


def test_lists_columns_and_rows(tmp_path, images) -> None:
    pairs = list(zip(images, SETS, strict=True))
    texts = {
        "lists.csv": "path,label\n" + "".join(f'{p},"{list(names)!r}"\n' for p, names in pairs),
        "columns.csv": "path,cat,dog,eel\n"
        + "".join(f"{p},{','.join(str(int(c in n)) for c in CLASSES)}\n" for p, n in pairs),
        "lines.jsonl": "".join(
            json.dumps({"file_name": p, "labels": list(names)}) + "\n" for p, names in pairs
        ),
        "flags.jsonl": "".join(
            json.dumps({"path": p, **{c: c in names for c in CLASSES}}) + "\n" for p, names in pairs
        ),
    }
    for name, text in texts.items():
        (tmp_path / name).write_text(text)
        source = opened(tmp_path / name)
        assert (source.classes, source.train.labels.tolist()) == (CLASSES, wanted()), name
    (tmp_path / "rows.csv").write_text(
        "path,label\n" + "".join(f"{p},{name}\n" for p, names in pairs for name in names)
    )
    with pytest.raises(DataError, match="3.*a0.png.*2"):
        opened(tmp_path / "rows.csv")
    found = opened(tmp_path / "rows.csv", labels="multi").train
    assert found.labels.tolist() == [row for row in wanted() if any(row)]
    (tmp_path / "lines.jsonl").write_text('{"path": "a0.png", "label": "x"}\n[1]\n')
    with pytest.raises(DataError, match="2.*JSON"):
        opened(tmp_path / "lines.jsonl")


def test_single_labels_stay_single(tmp_path, images) -> None:
    file = tmp_path / "set.csv"
    file.write_text("path,label\n" + "".join(f"{p},{'xyz'[n % 3]}\n" for n, p in enumerate(images)))
    assert opened(file).train.labels.tolist() == [0, 1, 2, 0, 1, 2]
    sets = opened(file, labels="multi")
    assert sets.train.labels.tolist() == np.eye(3, dtype=int).tolist() * 2


def test_a_few_lists_among_many_are_refused() -> None:
    labels = ["cat", "dog"] * 15 + ["cat;dog"]
    with pytest.raises(DataError, match="30.*'cat;dog'.*30"):
        parse_labels(labels, lambda row: f"row {row}")
    assert parse_labels(labels, str, "multi").labels[-1] == ("cat", "dog")
    doubtful = [f"{a},{b}" for a in "abc" for b in "xyz"]
    found = parse_labels(doubtful, str)
    assert (found.multi, list(found.labels)) == (False, doubtful)
    assert "9 of 9 classes have a comma" in found.warning


@pytest.mark.parametrize("streaming", [False, True])
def test_parquet_lists(tmp_path, images, streaming: bool) -> None:
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    data = [(tmp_path / path).read_bytes() for path in images]
    folder = tmp_path / "set"
    folder.mkdir()
    for name, labels in (
        ("lists", [list(names) for names in SETS]),
        ("text", [";".join(n) for n in SETS]),
    ):
        file = folder / f"{name}.parquet"
        pq.write_table(pa.table({"image": data, "label": labels}), file)
        source = opened(file, streaming=streaming)
        assert (source.classes, source.train.labels.tolist()) == (CLASSES, wanted())
        assert opened(file, labels="multi").train.labels.tolist() == wanted()


def test_categories_of_coco(tmp_path: Path, shared_data: Path) -> None:
    with tarfile.open(shared_data / "coco-tiny.tar") as tar:
        tar.extractall(tmp_path, filter="data")
    coco = tmp_path / "coco-tiny"
    source = find_source(DataSpec(source=str(coco)))
    document = json.loads((coco / "annotations" / "instances_train2017.json").read_text())
    names = {each["id"]: each["name"] for each in document["categories"]}
    of = {each["id"]: set() for each in document["images"]}
    for each in document["annotations"]:
        of[each["image_id"]].add(names[each["category_id"]])
    found = [format_label(label, source.classes) for label in source.train.labels]
    by_name = {each["file_name"]: each["id"] for each in document["images"]}
    assert len(found) == len(of) == 64
    for row, text in enumerate(found):
        path = source.train.files.name(row)
        assert "/train2017/" in path
        assert set(filter(None, text.split(", "))) == of[by_name[Path(path).name]]
    assert source.test is not None
    assert len(source.test().labels) == 64
    assert find_source(DataSpec(source=str(coco / "annotations" / "instances_val2017.json")))


def test_objects_and_helpers() -> None:
    pixels = np.zeros((4, 8, 8), np.uint8)
    rows = np.array([[1, 1, 0], [0, 1, 0], [0, 0, 0], [1, 0, 1]])
    source = open_objects((pixels, rows))
    assert (source.classes, source.train.labels.tolist()) == (("0", "1", "2"), rows.tolist())
    named = open_objects([(pixels[0], ["a", "b"]), (pixels[1], {"b"}), (pixels[2], [])])
    assert named.train.labels.tolist() == [[1, 1], [0, 1], [0, 0]]
    with pytest.raises(DataError, match="mixes single labels"):
        open_objects([(pixels[0], "a"), (pixels[1], ["b"])])
    labels = rows.astype(np.uint8)
    assert class_counts(labels, 3).tolist() == [2, 2, 1]
    assert class_counts(np.array([0, 2, -1]), 3).tolist() == [1, 0, 1]
    groups = group_labels(np.concatenate([labels, labels]))
    assert groups[:4].tolist() == groups[4:].tolist()
    assert len(set(groups.tolist())) == 4
    assert [label_numbers(each) for each in labels] == [[0, 1], [1], [], [0, 2]]
    assert [label_numbers(each) for each in np.array([2, -1])] == [[2], []]


def test_shares_hold_out_every_label_and_move_no_image() -> None:
    from resnets.data.dataset.image_identity import hash_names, hold_out

    draw = np.random.default_rng(0)
    labels = (draw.random((300, 6)) < [0.5, 0.3, 0.2, 0.1, 0.02, 0.02]).astype(np.uint8)
    ids = hash_names([f"{n}.png" for n in range(300)])

    def sides(count: int) -> list[set[int]]:
        found = hold_out(labels[:count], ids[:count], val_fraction=0.1, test_fraction=0.2, seed=0)
        return [set(rows.tolist()) for rows in found]

    whole = sides(300)
    assert sorted(row for side in whole for row in side) == list(range(300))
    for side in whole:
        assert (class_counts(labels[sorted(side)], 6) > 0).all()
    assert abs(len(whole[2]) - 60) < 20
    moved = sum(len(one - two) for one, two in zip(sides(280), whole, strict=True))
    assert moved <= 4  # only images of the rarest labels


@pytest.mark.parametrize("fields", [{"folds": 3}, {"train_fraction": 0.5}])
def test_folds_and_subsets_of_sets_are_refused(tmp_path, images, fields) -> None:
    file = tmp_path / "set.csv"
    rows = (f"{p},{'|'.join(names)}" for p, names in zip(images, SETS, strict=True))
    file.write_text("\n".join(("path,label", *rows)))
    with pytest.raises(ConfigError, match=f"data.{next(iter(fields))}"):
        open_data(DataSpec(source=str(file), **fields))


def test_splits_of_sets_open(tmp_path, images) -> None:
    file = tmp_path / "set.csv"
    splits = ["train", "train", "train", "val", "train", "val"]
    rows = zip(images, SETS, splits, strict=True)
    file.write_text("path,label,split\n" + "".join(f"{p},{'|'.join(n)},{s}\n" for p, n, s in rows))
    opened = open_data(DataSpec(source=str(file), size=16), training=True)
    assert opened.train.labels.shape[1] == 3
    assert opened.summary.to_json()["rarest"] == {"class": "dog", "images": 1}


@pytest.mark.parametrize("grades", [("0,5", "1,0", "1,5"), ("0,0", "1,0"), ("1", "1,5", "2")])
def test_numbers_with_a_decimal_comma_are_not_sets(grades: tuple[str, ...]) -> None:
    labels = ["1", *grades] * 4 if "1" in grades else list(grades) * 4
    with pytest.raises(DataError, match=r"decimal comma.*labels=multi"):
        parse_labels(labels, str)
    assert parse_labels(labels, str, "multi").multi
    pairs = ["0,3", "1,3", "3", "0", "1", "1,2", "2"] * 4
    assert parse_labels(pairs, str).multi


def test_a_column_next_to_exclusive_ones_is_not_a_label() -> None:
    rows = [(name,) for name in ("cat", "dog", "eel")] * 10
    few = [("cat", "male"), *rows[1:]]
    with pytest.raises(DataError, match=r"row 0.*'male'.*29"):
        parse_labels(few, "row {}".format)
    many = [(*names, "flash") if row % 2 else names for row, names in enumerate(rows)]
    with pytest.raises(DataError, match="without 'flash'"):
        parse_labels(many, str)
    two = [(*names, "male") if row % 3 else names for row, names in enumerate(many)]
    with pytest.raises(DataError, match="'flash' and 'male'|'male' and 'flash'"):
        parse_labels(two, str)
    assert parse_labels(many, str, "multi").multi
