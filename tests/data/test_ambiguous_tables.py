"""Ambiguous tables of labels are refused or reported, never guessed."""

import logging
import unicodedata
import zipfile
from pathlib import Path

import pytest
from digit_sets import digit_files

from resnets.config import DataSpec
from resnets.data import DataError, open_data
from resnets.data.dataset.source import Source
from resnets.data.layout.class_spelling import check_spellings
from resnets.data.sources.open import find_source
from resnets.data.splits.label_warnings import class_warnings
from resnets.data.tables.labels import encode_labels

NAMES = ("cat", "dog", "eel", "fox")
LABELS = ("cat", "dog") * 4


def put(root: Path, *names: str) -> None:
    """Different small images of these paths."""
    data = [each for each, _ in digit_files(10)]
    for number, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data[number])


def table(file: Path, head: str, *rows: str) -> Path:
    file.write_text("\n".join((head, *rows)) + "\n", encoding="utf-8")
    return file


def opened(path: Path, **spec: object) -> Source:
    return find_source(DataSpec(source=str(path), **spec))


def sizes(source: Source) -> tuple[int, int, int]:
    val = 0 if source.val is None else len(source.val.labels)
    return len(source.train.labels), val, source.test_images or 0


@pytest.fixture
def flat(tmp_path: Path) -> Path:
    put(tmp_path, *(f"{number}.png" for number in range(8)))
    return tmp_path


def described(root: Path, head: str, *cells: str) -> Path:
    rows = (f"{n}.png,{LABELS[n]},{cell}" for n, cell in enumerate(cells))
    return table(root / "set.csv", f"path,label,{head}", *rows)


# One row, images of two splits ---------------------------------------------------------------


@pytest.mark.parametrize("truth", [False, True])
def test_a_table_of_training_images_does_not_label_test_images(tmp_path, caplog, truth) -> None:
    put(tmp_path, *(f"train/{n}.png" for n in range(6)), *(f"test/{n}.png" for n in range(4)))
    file = table(tmp_path / "labels.csv", "id,label", *(f"{n},{LABELS[n]}" for n in range(6)))
    found = opened(tmp_path, **({"ground_truth": str(file)} if truth else {}))
    assert sizes(found) == (6, 0, 0)
    assert found.train.labels.tolist() == [0, 1, 0, 1, 0, 1]
    assert "4 .png (unlabelled image)" in found.skipped.describe()
    assert "test/" in caplog.text


def test_rows_that_may_mean_either_split_label_neither(tmp_path) -> None:
    put(tmp_path, *(f"train/{n}.png" for n in range(4)), *(f"valid/{n}.png" for n in range(4)))
    file = tmp_path / "labels.csv"
    table(file, "id,label", *(f"{n},{LABELS[n]}" for n in range(4)))
    with pytest.raises(DataError, match=r"line 2.*(train|valid)/0\.png"):
        opened(tmp_path)
    with pytest.raises(DataError, match=r"valid/0\.png|0\.png"):
        opened(tmp_path, ground_truth=str(file))
    rows = [f"{split}/{n}.png,{LABELS[n]}" for split in ("train", "valid") for n in range(4)]
    table(file, "path,label", *rows)
    assert sizes(opened(tmp_path))[0] == 4


def test_a_table_of_validation_images_does_not_label_training_images(tmp_path) -> None:
    put(tmp_path, *(f"train/{n}.png" for n in range(4)), *(f"val/{n}.png" for n in range(4)))
    table(tmp_path / "val.csv", "id,label", *(f"{n},{LABELS[n]}" for n in range(4)))
    with pytest.raises(DataError, match="train"):
        opened(tmp_path)
    table(tmp_path / "train.csv", "id,label", *(f"{n},{LABELS[n + 1]}" for n in range(4)))
    found = opened(tmp_path)
    assert found.train.labels.tolist() == [1, 0, 1, 0]
    assert found.test is not None
    assert found.test().labels.tolist() == [0, 1, 0, 1]


def test_one_row_does_not_label_two_images(tmp_path) -> None:
    put(tmp_path, *(f"{n}.png" for n in range(4)))
    (tmp_path / "0.jpg").write_bytes((tmp_path / "3.png").read_bytes())
    table(tmp_path / "labels.csv", "id,label", *(f"{n},{LABELS[n]}" for n in range(4)))
    with pytest.raises(DataError, match=r"0\.jpg.*0\.png"):
        opened(tmp_path)


# Columns of one name ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("head", "cells", "first"),
    [
        ("label,label", "{0},{1}", "columns 2 and 3 are called 'label' and 'label'"),
        ("Label,labels", "{0},{1}", "columns 2 and 3 are called 'Label' and 'labels'"),
        ("label,split,Split", "{0},train,test", "columns 3 and 4 are called 'split' and 'Split'"),
        ("cat,cat,dog", "1,0,0", "columns 2 and 3 are called 'cat' and 'cat'"),
    ],
)
def test_two_columns_of_one_name_are_refused(flat, head, cells, first) -> None:
    rows = [f"{n}.png," + cells.format(LABELS[n], n) for n in range(8)]
    with pytest.raises(DataError, match=first):
        opened(table(flat / "set.csv", f"path,{head}", *rows))


def test_a_copy_of_a_column_or_a_name_of_no_image_is_not_in_the_way(flat) -> None:
    rows = [f"{n}.png,{LABELS[n]},{LABELS[n]},{n}x" for n in range(8)]
    source = opened(table(flat / "set.csv", "path,label,label,Path", *rows))
    assert source.classes == ("cat", "dog")


def test_a_header_of_many_columns_is_named_in_part(tmp_path) -> None:
    pixels = [f"{row}x{column}" for row in range(28) for column in range(28)]
    head = ",".join(("label", *pixels))
    file = table(tmp_path / "set.csv", head, *(",".join(["1"] * 785) for _ in range(3)))
    with pytest.raises(DataError, match="has no path column") as caught:
        opened(file)
    assert len(str(caught.value)) < len(str(file)) + 200


# Columns of splits -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("head", "cells", "expected"),
    [
        ("is_valid,is_test", ("0,0", "0,0", "0,0", "0,0", "1,0", "1,0", "0,1", "0,1"), (4, 2, 2)),
        ("is_train", ("1", "1", "1", "1", "1", "1", "0", "0"), (6, 0, 2)),
        ("is_training_image", ("1",) * 5 + ("0",) * 3, (5, 0, 3)),
        (
            "Is Train,is_val",
            ("True,False",) * 5 + ("False,True",) + ("False,False",) * 2,
            (5, 1, 2),
        ),
        ("is_train,is_test", ("1,0",) * 5 + ("0,1",) + ("0,0",) * 2, (5, 2, 1)),
        ("isTrain,isVal,isTest", ("y,n,n",) * 5 + ("n,y,n",) + ("n,n,y",) * 2, (5, 1, 2)),
        ("split,is_test", ("train,0.0",) * 5 + ("val,0.0",) + ("test,1.0",) * 2, (5, 1, 2)),
    ],
)
def test_flags_in_any_combination(flat, head, cells, expected) -> None:
    assert sizes(opened(described(flat, head, *cells))) == expected


@pytest.mark.parametrize(
    ("head", "last"),
    [
        ("is_valid,is_test", "1,1"),
        ("is_train,is_test", "1,1"),
        ("is_train,is_valid,is_test", "0,0,0"),
        ("is_train,is_training_image", "1,0"),
        ("split,is_test", "train,1"),
        ("split,is_train", "val,1"),
        ("is_test", "maybe"),
    ],
)
def test_flags_that_contradict_each_other_are_refused(flat, head, last) -> None:
    first = {3: "1,0,0", 2: "train,0" if "split,is_test" in head else "train,1"}
    usual = first.get(head.count(",") + 1, "0")
    if not head.startswith("split") and head.count(",") == 1:
        usual = {"is_valid,is_test": "0,0", "is_train,is_test": "1,0"}.get(head, "1,1")
    with pytest.raises(DataError, match="line 9"):
        opened(described(flat, head, *(usual,) * 7, last))


@pytest.mark.parametrize(
    "name", ["fold", "cv_fold", "kfold", "group", "patient_id", "SubjectID", "video", "train"]
)
def test_columns_that_look_like_folds_or_groups_are_warned_about(flat, caplog, name) -> None:
    cells = (f"{n % 3},red" for n in range(8))
    source = opened(described(flat, f"{name},colour", *cells))
    assert sizes(source) == (8, 0, 0)
    assert f"'{name}'" in source.notes[0]
    assert "'colour'" in source.notes[0]
    assert f"'{name}'" in caplog.text
    assert "color" not in caplog.text


@pytest.mark.parametrize("name", ["fold", "Patient ID", "cv"])
def test_a_fold_or_group_is_not_a_label(flat, name) -> None:
    rows = (f"{n}.png,{n % 2}" for n in range(8))
    with pytest.raises(DataError, match="label"):
        opened(table(flat / "set.csv", f"path,{name}", *rows))


def test_other_columns_are_named_without_a_warning(flat, caplog) -> None:
    with caplog.at_level(logging.WARNING):
        source = opened(described(flat, "width,height", *("8,8" for _ in range(8))))
    assert "'width', 'height'" in source.notes[0]
    assert not caplog.records


def zipped(root: Path, top: str = "") -> Path:
    file = root.parent / f"{root.name}.zip"
    with zipfile.ZipFile(file, "w") as archive:
        for path in sorted(root.rglob("*.*")):
            archive.write(path, Path(top) / path.relative_to(root))
    return file


@pytest.mark.parametrize("top", ["", "set", "a/images"])
def test_a_split_column_in_an_archive_is_that_of_a_folder(flat, top) -> None:
    file = flat / "labels.csv"
    rows = [f"{n}.png,{LABELS[n]},{'train' if n < 4 else 'test'}" for n in range(7)]
    table(file, "filename,label,split", *rows)
    for source in (opened(zipped(flat, top)), opened(flat)):
        assert source.classes == ("cat", "dog")
        assert sizes(source) == (4, 0, 3)
        assert source.skipped.describe().count("1 .png (image that the table does not name)") == 1
        assert source.test is not None
        assert source.test().labels.tolist() == [0, 1, 0]
    table(file, "filename,label,split", *rows, "99.png,cat,test")
    with pytest.raises(DataError, match=r"line 9.*99\.png"):
        open_data(DataSpec(source=str(zipped(flat, top))))
    table(file, "filename,label,split", *rows[:6], "6.png,eel,test")
    with pytest.raises(DataError, match="eel"):
        open_data(DataSpec(source=str(zipped(flat, top))))


def test_a_table_that_contradicts_the_folders_of_splits_is_refused(tmp_path) -> None:
    put(tmp_path, *(f"train/{n}.png" for n in range(4)), *(f"test/{n}.png" for n in range(4, 8)))
    rows = [f"{n}.png,{LABELS[n]},{'train' if n < 4 else 'test'}" for n in range(8)]
    file = tmp_path / "labels.csv"
    table(file, "filename,label,split", *rows)
    assert sizes(opened(tmp_path)) == (4, 0, 4)
    table(file, "filename,label,split", *rows[:7], "7.png,dog,train")
    with pytest.raises(DataError, match="line 9"):
        opened(tmp_path)


def test_images_in_one_folder_point_at_the_tables_next_to_it(tmp_path) -> None:
    root = tmp_path / "set"
    put(root, *(f"images/{n}.png" for n in range(6)))
    table(root / "train.csv", "id,label", *(f"{n},{LABELS[n]}" for n in range(4)))
    table(root / "test.csv", "id", "4", "5")
    for source in (root, zipped(root)):
        with pytest.raises(DataError, match=r"test\.csv, train\.csv"):
            open_data(DataSpec(source=str(source)))


# Label files beside class folders ---------------------------------------------------------------

FOLDERS = ("left/a0.png", "left/a1.png", "right/b0.png", "right/b1.png")


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("labels.csv", "path,label\nleft/a0.png,cat\nleft/a1.png,dog\nright/b0.png,cat\n"),
        ("metadata.csv", "lesion,image_id,dx\nL1,a0,nv\nL2,a1,mel\nL3,b0,nv\n"),
        ("train.txt", "left/a0.png cat\nright/b1.png dog\n"),
        ("left/labels.csv", "a0.png,cat\na1.png,dog\n"),
        ("train.jsonl", '{"file_name": "left/a0.png", "y": "cat"}\n{"file_name": "right/b1.png"}'),
        ("coco.json", '{"images": [{"file_name": "a0.png"}, {"file_name": "b0.png"}]}'),
    ],
)
def test_a_file_that_names_the_images_of_class_folders_is_warned_about(
    tmp_path, file, text
) -> None:
    put(tmp_path, *FOLDERS)
    (tmp_path / file).parent.mkdir(exist_ok=True)
    (tmp_path / file).write_text(text)
    found = opened(tmp_path)
    assert found.classes == ("left", "right")
    assert any(file in warning for warning in found.warnings)
    summary = open_data(DataSpec(source=str(tmp_path), val_fraction=0, test_fraction=0)).summary
    assert any(file in warning for warning in summary.warnings)


@pytest.mark.parametrize(
    ("paths", "head", "rows"),
    [
        ("p{0}/{1}.png", "patient,diagnosis", ["p{0},{2}"]),
        ("train/{0:05}/T1w/{1}.png", "BraTS21ID,MGMT_value", ["{0:05},{2}"]),  # RSNA-MICCAI
        ("train/XR/patient{0}/study1/{1}.png", "", ["train/XR/patient{0}/study1/,{2}"]),  # MURA
    ],
)
def test_a_table_of_folders_is_warned_about(tmp_path, paths, head, rows) -> None:
    put(tmp_path, *(paths.format(n, image) for n in range(6) for image in range(2)))
    put(tmp_path, "train/XW/patient9/study1/0.png" if "XR" in paths else paths.format(7, 0))
    filled = [row.format(n, n, n % 2) for row in rows for n in range(6)]
    (tmp_path / "studies.csv").write_text("\n".join([*filter(None, [head]), *filled]))
    (warning,) = (each for each in opened(tmp_path).warnings if "studies.csv" in each)
    assert "'0', '1'" in warning
    assert (head.rpartition(",")[2] or "column 2") in warning


def test_a_table_that_names_classes_is_not_taken_for_one_of_folders(tmp_path) -> None:
    put(tmp_path, *FOLDERS)
    (tmp_path / "names.csv").write_text("folder,name\nleft,Left side\nright,Right side\n")
    assert not opened(tmp_path).warnings


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("meta/train.json", '{"left": ["left/a0", "left/a1"]}'),  # Food-101
        ("labels/train1.txt", "left/a0.png\nright/b0.png\n"),  # DTD
        ("train_test_split.txt", "1 0\n2 1\n"),  # CUB-200
    ],
)
def test_lists_of_splits_next_to_class_folders_are_warned_about(tmp_path, file, text) -> None:
    put(tmp_path / "set", *(f"images/{path}" for path in FOLDERS))
    put(tmp_path / "split", *(f"i/{role}/{path}" for role in ("train", "test") for path in FOLDERS))
    for root, warned in ((tmp_path / "set", True), (tmp_path / "split", False)):
        (root / file).parent.mkdir(exist_ok=True)
        (root / file).write_text(text)
        assert any(file in warning for warning in opened(root).warnings) == warned


def test_the_only_table_of_a_flat_split_labels_it_where_a_column_is_called_so(tmp_path) -> None:
    """GTSRB: Final_Test/Images/GT-final_test.csv; what `predict` writes labels nothing."""
    put(tmp_path, *(f"Final_Training/{each}/0.png" for each in ("00000", "00001")))
    put(tmp_path, "Final_Test/Images/0.png", "Final_Test/Images/1.png")
    file = tmp_path / "Final_Test/Images/GT-final_test.csv"
    table(file, "Filename;Width;ClassId", "0.png;8;1", "1.png;8;0")
    found = opened(tmp_path)
    assert found.test().labels.tolist() == [1, 0]
    table(file, "path,class,score,left,top", "0.png,00001,0.5,1,2", "1.png,00000,1,1,2")
    assert opened(tmp_path).test is None


def test_a_table_called_like_the_role_of_a_folder_labels_it(tmp_path) -> None:
    """APTOS: train.csv beside train_images/, test.csv without labels beside test_images/."""
    put(tmp_path, *(f"{role}_images/{name}.png" for role in ("train", "test") for name in "ab"))
    table(tmp_path / "train.csv", "id_code,diagnosis", "a,0", "b,4")
    table(tmp_path / "test.csv", "id_code", "a", "b")
    found = opened(tmp_path)
    assert found.classes == ("0", "4")
    assert found.test is None


def test_columns_of_groups_next_to_class_folders_are_warned_about(tmp_path) -> None:
    put(tmp_path, *FOLDERS)
    rows = ["p1,left,a0.png", "p1,left,a1.png", "p2,right,b0.png"]
    table(tmp_path / "drivers.csv", "subject,classname,img", *rows)
    assert any("'subject'" in warning for warning in opened(tmp_path).warnings)
    table(tmp_path / "drivers.csv", "row,classname,img", *rows)
    found = opened(tmp_path)
    assert not found.warnings
    assert any("drivers.csv" in note for note in found.notes)


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("README.txt", "Images of left and right.\nTaken by hand, a0 among them.\n"),
        ("classes.txt", "left\nright\n"),
        ("sizes.csv", "a,b\n0,1\n1,2\n"),
    ],
)
def test_other_files_next_to_class_folders_are_only_counted(tmp_path, file, text) -> None:
    put(tmp_path, *FOLDERS)
    (tmp_path / file).write_text(text)
    found = opened(tmp_path)
    assert not found.warnings
    assert not any(file in note for note in found.notes)


@pytest.mark.parametrize("file", ["labels.xlsx", "labels.json", "metadata.jsonl", "list.txt"])
@pytest.mark.parametrize("folder", ["images/", ""])
def test_label_files_of_kinds_that_are_not_read_are_named(tmp_path, file, folder) -> None:
    root = tmp_path / "set"
    put(root, f"{folder}a0.png", f"{folder}a1.png", f"{folder}a2.png")
    (root / file).write_text('{"a0.png": "cat",\n"a1.png": "dog"}')
    with pytest.raises(DataError, match=file):
        open_data(DataSpec(source=str(root)))


def test_lists_of_numbered_images_are_named(tmp_path) -> None:
    """FGVC-Aircraft: twenty lists of ID and label beside images that are called by numbers."""
    ids = [f"{34309 + 7 * n:07}" for n in range(8)]
    put(tmp_path, *(f"images/{each}.png" for each in ids))
    for level in ("variant", "family", "manufacturer"):
        for split, rows in (("train", ids[:4]), ("val", ids[4:6]), ("test", ids[6:])):
            text = "".join(f"{each} Boeing 707\n" for each in rows)
            (tmp_path / f"images_{level}_{split}.txt").write_text(text)
            (tmp_path / f"images_{split}.txt").write_text("\n".join(rows))
    (tmp_path / "sizes.txt").write_text("34309 5 5\n12 4 4\n17 3 2\n")
    with pytest.raises(DataError, match=r"images_family_test\.txt.*9"):
        open_data(DataSpec(source=str(tmp_path)))
    with pytest.raises(DataError, match="tab or comma"):
        opened(tmp_path / "images_variant_train.txt")


def test_many_files_of_one_image_each_are_not_lists(tmp_path) -> None:
    put(tmp_path, *(f"images/{n:04}.png" for n in range(12)))
    (tmp_path / "labels").mkdir()
    for number in range(12):
        (tmp_path / "labels" / f"{number:04}.txt").write_text("0001 0.5\n0002 0.5\n0003 0.5\n")
    with pytest.raises(DataError) as raised:
        open_data(DataSpec(source=str(tmp_path)))
    assert "0001.txt" not in str(raised.value)


@pytest.mark.parametrize("file", ["train.txt", "labels.json"])
def test_label_files_in_archives_are_named_as_in_folders(tmp_path, file) -> None:
    put(tmp_path / "set", *FOLDERS)
    (tmp_path / "set" / file).write_text('"left/a0.png": cat,\n"right/b1.png": dog\n')
    for source in (tmp_path / "set", zipped(tmp_path / "set")):
        assert any(file in warning for warning in opened(source).warnings)


def test_the_annotations_of_tiny_imagenet_label_its_validation_images(tmp_path) -> None:
    put(tmp_path, "train/n1/images/n1_0.png", "train/n2/images/n2_0.png")
    put(tmp_path, "val/images/val_0.png", "val/images/val_1.png", "val/images/val_2.png")
    rows = [f"val_{n}.png\t{label}\t0\t0\t62\t62" for n, label in enumerate(("n2", "n1", "n2"))]
    file = tmp_path / "val" / "val_annotations.txt"
    file.write_text("\n".join(rows) + "\n")
    for spec in ({}, {"ground_truth": str(file)}):
        found = opened(tmp_path, **spec)
        assert found.test().labels.tolist() == [1, 0, 1]
        assert not found.warnings
    file.write_text("\n".join(row.replace("62", "dog") for row in rows) + "\n")
    with pytest.raises(DataError, match="val_annotations"):
        opened(tmp_path)


# Labels ----------------------------------------------------------------------------------------


def test_labels_are_all_names_or_all_places() -> None:
    def number(labels: tuple[str, ...], classes: tuple[str, ...]) -> list[int]:
        return encode_labels(labels, classes, lambda row: f"line {row}", by_index=True).tolist()

    assert number(("1", "2", "3"), ("1", "2", "3")) == [0, 1, 2]
    assert number(("0", "2"), ("cat", "dog", "eel")) == [0, 2]
    assert number(("1", "2"), ("0", "1", "2")) == [1, 2]
    assert number(("2", "10"), ("0", "1", "10", *map(str, range(2, 10)))) == [3, 2]
    assert number(("01", "02"), ("01", "02", "03")) == [0, 1]
    for labels, classes in (
        (("0", "1", "2"), ("1", "2", "3")),
        (("cat", "1"), ("cat", "dog")),
        (("0", "3"), ("cat", "dog", "eel")),
        (("1", "2"), ("1", "10", "2", "3")),  # all are names, and all are places
        (("1",), ("1", "2", "3")),
    ):
        with pytest.raises(DataError, match="line"):
            number(labels, classes)


@pytest.mark.parametrize("truth", [False, True])
def test_numbers_of_a_test_split_that_may_be_names_or_places_are_refused(tmp_path, truth) -> None:
    put(tmp_path, "train/1/a.png", "train/2/a.png", "train/3/a.png", "test/b.png", "test/c.png")
    place = tmp_path if truth else tmp_path / "test"
    file = table(
        place / ("truth.csv" if truth else "labels.csv"), "path,label", "b.png,1", "c.png,2"
    )
    spec = {"ground_truth": str(file)} if truth else {}
    with pytest.raises(DataError, match="truth.csv" if truth else "labels.csv"):
        opened(tmp_path, **spec)
    table(file, "path,label", "b.png,1", "c.png,3")  # no place
    assert sizes(opened(tmp_path, **spec)) == (3, 0, 2)


@pytest.mark.parametrize(
    "other",
    [
        "Cat",
        "CAT ",
        "cat\0",
        "cafe\u0301",
        "nan",
        "NaN",
        "None",
        "null",
        "NA",
        "N/A",
        "\\N",
        "#REF!",
    ],
)
@pytest.mark.parametrize("name", ["set.csv", "labels.csv"])
def test_a_label_that_is_hardly_another_or_missing_is_refused(flat, other, name) -> None:
    composed = unicodedata.normalize("NFC", other)
    first = composed if composed != other else "cat"
    labels = [first, "dog"] * 3 + ["dog", other]
    rows = (f'{n}.png,"{label}"' for n, label in enumerate(labels))
    file = table(flat / name, "path,label", *rows)
    for source in (file, flat) if name == "labels.csv" else (file,):
        with pytest.raises(DataError, match="line 9"):
            opened(source)


def test_letters_of_two_cases_are_labels(flat) -> None:
    rows = (f"{n}.png,{'aAbB'[n % 4]}" for n in range(8))
    assert opened(table(flat / "set.csv", "path,label", *rows)).classes == ("A", "B", "a", "b")


def test_classes_that_seem_to_be_none_are_warned_about(flat) -> None:
    assert class_warnings(("cat", "dog"), (3, 1)) == []
    (said,) = class_warnings(("?", "cat", "Not_labeled"), (2, 3, 4))
    assert "'?' (2 images), 'Not_labeled' (4 images)" in said
    ages = tuple(map(str, range(20, 48)))
    assert "28 classes are numbers" in class_warnings(ages, (2,) * 28)[0]
    assert class_warnings(ages, (50,) * 28) == []
    assert "12 of 12 classes have one image" in class_warnings(ages[:12], (1,) * 12)[0]
    (said,) = class_warnings(("cat", "truck", "turck"), (90, 80, 9))
    assert "'turck' (9 images) for 'truck' (80)" in said
    assert class_warnings(("tshirt", "shirt"), (90, 80)) == []
    for pair in (("typical", "atypical"), ("rifle", "trifle"), ("白色小轿车", "白色小汽车")):
        assert class_warnings(pair, (90, 9)) == []
    assert class_warnings(("truck", "turck"), (80, 0)) == []  # a table may name more classes
    with pytest.raises(DataError, match="the label -1"):
        check_spellings(["0", "1", "-1"], "line {}".format)
    check_spellings(["-2", "2"], str)


@pytest.mark.parametrize(
    ("cells", "row", "cell"),
    [
        ((("1", "0"), ("0", "1"), ("0", ""), ("1", "0")), 2, "''"),
        ((("True", "False"), ("False", "maybe"), ("False", "True")), 1, "'maybe'"),
        ((("x", ""), ("", "x"), ("x", "")), 0, "'x'"),
    ],
)
def test_the_cell_that_is_not_a_value_of_a_column_of_classes_is_named(tmp_path, cells, row, cell):
    names = [f"{number}.png" for number in range(len(cells))]
    put(tmp_path, *names)
    rows = [",".join((name, *each)) for name, each in zip(names, cells, strict=True)]
    with pytest.raises(DataError) as caught:
        opened(table(tmp_path / "set.csv", "path,cat,dog\n", *rows))
    assert f"the row of '{row}.png' has {cell}" in str(caught.value)
