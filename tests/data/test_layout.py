"""Which folders are splits, which are classes, what is neither; data check and training agree."""

import io
import unicodedata
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from resnets.config import DataSpec
from resnets.data import DataError
from resnets.data.check.images_by_split import open_contents
from resnets.data.dataset.summary import summarize_source
from resnets.data.finding_kinds import LAYOUT
from resnets.data.layout.folder_layout import MASKS, NO_CLASS_FOLDER, NO_LABELS, read_layout
from resnets.data.sources.open import find_source
from resnets.data.splits.open import open_data


def encoded(seed: int = 0, form: str = "PNG", mode: str = "RGB", size: int = 8) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 255, (size, size, 3), np.uint8)
    out = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(out, form)
    return out.getvalue()


def mask_bytes(mode: str = "L", size: int = 8) -> bytes:
    pixels = np.zeros((size, size, 3), np.uint8)
    pixels[2:5, 3:7] = 255, 128, 0
    out = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(out, "PNG")
    return out.getvalue()


def put(root: Path, *folders: str, count: int = 2, name: str = "{}.jpg", data: bytes = b"") -> Path:
    for folder in folders:
        (root / folder).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            file = root / folder / name.format(number)
            file.write_bytes(data or encoded(number, "JPEG"))
    return root


def read(root: Path, **spec: object) -> tuple[tuple[str, ...], dict[str, int]]:
    """Classes, and images of each split; data check sees the same."""
    data = DataSpec(source=str(root), **spec)
    source = find_source(data)
    parts = {"train": source.train, "val": source.val, "test": source.test and source.test()}
    counts = {role: len(part.labels) for role, part in parts.items() if part is not None}
    contents = open_contents(data)
    checked = sum(len(each.files) for each in contents.sections)
    assert not [
        each for each in contents.findings if each.kind is LAYOUT and "one class" not in each.detail
    ]
    assert sum(counts.values()) == checked
    return source.classes, counts


def refused(root: Path, words: str, **spec: object) -> None:
    data = DataSpec(source=str(root), **spec)
    with pytest.raises(DataError, match=words) as caught:
        find_source(data)
    assert "\n" not in str(caught.value)
    assert [each for each in open_contents(data).findings if each.kind is LAYOUT]


@pytest.mark.parametrize(
    "names",
    [
        ("train", "test"), ("Training", "Testing"), ("Train", "Test"), ("TRAIN", "TEST"),
        ("training_set", "test_set"), ("train_images", "test_images"), ("trainset", "testset"),
        ("train2017", "test2017"), ("Train Data", "Test Data"), ("seg_train", "seg_test"),
        ("asl_alphabet_train", "asl_alphabet_test"), ("training", "evaluation"),
        ("seg_train/seg_train", "seg_test/seg_test"), ("train/images", "test/images"),
        ("images/train", "images/test"), ("dataset/train", "dataset/test"),
        ("a/b/Training", "a/b/Testing"),
    ],
)  # fmt: skip
def test_split_folders_are_splits_however_they_are_called(tmp_path, names) -> None:
    train, test = names
    put(tmp_path, f"{train}/cat", f"{train}/dog", count=3)
    put(tmp_path, f"{test}/cat", f"{test}/dog")
    assert read(tmp_path) == (("cat", "dog"), {"train": 6, "test": 4})


@pytest.mark.parametrize("val", ["val", "Valid", "validation", "dev", "val_set"])
def test_three_splits(tmp_path: Path, val: str) -> None:
    put(tmp_path, *(f"{split}/{name}" for split in ("Train", val, "Test") for name in "ab"))
    assert read(tmp_path) == (("a", "b"), {"train": 4, "val": 4, "test": 4})


def test_splits_within_each_class(tmp_path: Path) -> None:
    put(tmp_path, "cat/train", "dog/train", count=3)
    put(tmp_path, "cat/test", "dog/test")
    assert read(tmp_path) == (("cat", "dog"), {"train": 6, "test": 4})
    put(tmp_path, "fox")
    refused(tmp_path, "fox/")


@pytest.mark.parametrize("test", ["test", "test1", "seg_pred/seg_pred", "test/unknown", "Test"])
def test_unlabeled_test_images_are_excluded_with_a_count(tmp_path: Path, test: str) -> None:
    put(tmp_path, "train/cat", "train/dog", "val/cat", "val/dog")
    put(tmp_path, test, count=5)
    assert read(tmp_path) == (("cat", "dog"), {"train": 4, "test": 4})
    skipped = find_source(DataSpec(source=str(tmp_path))).skipped
    assert skipped.counts == {(NO_LABELS, ".jpg"): 5}


@pytest.mark.parametrize(
    "folders",
    [
        ("site_a/cat", "site_a/dog", "site_b/cat", "site_b/dog"),  # the same class folders twice
        ("fold1/cat", "fold1/dog", "fold2/cat", "fold2/dog"),
        ("imagesTr", "labelsTr", "imagesTs"),  # nnU-Net
        ("ISIC2018_Task1-2_Training_Input", "ISIC2018_Task1_Training_GroundTruth"),
        ("a/abbey", "a/airport", "b/bakery"),  # SUN397, filed by letter
        ("images", "masks"), ("rgb", "depth"), ("JPEGImages", "SegmentationClass"),
        ("cat", "dog", "test"), ("control", "val"),
        ("train/cat", "train/dog", "more/cat"),
        ("train2014/cat", "train2014/dog", "train2017/cat"),
        ("Test/cat", "Test/dog", "val/cat"),
        ("train/cat", "train/dog", "test/fox"),
        ("P0/benign", "P0/malign", "P1/benign", "P2/malign", "P3/benign", "P3/malign"),  # patients
        ("P0/benign", "P1/malign", "P2/benign", "P3/malign"),  # each with one finding
        ("10253/0", "10253/1", "10254/0", "10254/1", "10255/0"),
        ("bounding_box_train", "bounding_box_test", "query"),  # Market-1501
    ],
)  # fmt: skip
def test_what_may_mean_two_things_is_refused_by_name(tmp_path: Path, folders) -> None:
    put(tmp_path, *folders)
    refused(tmp_path, str(tmp_path))


def test_an_option_takes_every_folder_as_a_class(tmp_path: Path) -> None:
    put(tmp_path, "control", "test", "masks", "images")
    classes, counts = read(tmp_path, labels_from="folder")
    assert classes == ("control", "images", "masks", "test")
    assert counts == {"train": 8}


def test_letters_may_be_classes_and_words_that_end_alike_too(tmp_path: Path) -> None:
    put(tmp_path / "letters", "a", "b")
    assert read(tmp_path / "letters")[0] == ("a", "b")
    put(tmp_path / "words", "raw input", "white label")
    assert read(tmp_path / "words")[0] == ("raw input", "white label")


def test_a_train_may_be_a_vehicle(tmp_path: Path) -> None:
    put(tmp_path, "bus", "car", "train")
    assert read(tmp_path) == (("bus", "car", "train"), {"train": 6})
    assert "train/" in find_source(DataSpec(source=str(tmp_path))).notes[0]


def test_class_folders_may_be_nested_by_year(tmp_path: Path) -> None:
    put(tmp_path, "cat/2019", "cat/2020", "dog/2019", "dog/2020", "dog/images")
    assert read(tmp_path) == (("cat", "dog"), {"train": 10})


def test_folders_below_classes_that_recur_a_little_belong_to_the_classes(tmp_path: Path) -> None:
    put(tmp_path, "cat/kaggle", "cat/own", "dog/web", "dog/own", "cow/farm", "cow/web2")
    put(tmp_path, "7/1999", "7/2001", "9/1999", "9/2001")
    assert read(tmp_path)[0] == ("7", "9", "cat", "cow", "dog")


@pytest.mark.parametrize(
    ("folders", "odd"),
    [
        (("DCIM/100APPLE", "DCIM/101APPLE"), "100APPLE"),
        (("tench", "springer", "Photos from 2019"), "Photos from 2019"),
        (("tench", "springer", "tench - Copy"), "tench - Copy"),
        (("2019-05-01", "2019-05-02"), "2019-05-01"),
        (("cat", "dog", "camera", "12345678", "bin", "2019"), None),
    ],
)
def test_class_folders_called_by_a_program_are_warned_about(tmp_path: Path, folders, odd) -> None:
    put(tmp_path, *folders)
    source = find_source(DataSpec(source=str(tmp_path)))
    assert [odd in each for each in source.warnings] == ([] if odd is None else [True])
    summary = summarize_source(source)
    assert summary.to_json()["warnings"] == list(source.warnings)
    assert (odd is None) != any(line.startswith("warning:") for line in summary.lines())
    assert not find_source(DataSpec(source=str(tmp_path), labels_from="folder")).warnings


def test_identical_images_in_two_classes_are_warned_about(tmp_path: Path) -> None:
    put(tmp_path, "train/cat", "train/dog", count=5, data=b"")
    for number in range(5):
        (tmp_path / f"train/dog/{number}.jpg").write_bytes(encoded(50 + number, "JPEG"))
    spec = DataSpec(source=str(tmp_path), overlap="allow")
    assert not open_data(spec, training=True).summary.warnings
    put(tmp_path, "train/cat", count=1, name="also{}.jpg", data=encoded(53, "JPEG"))
    (warning,) = open_data(spec, training=True).summary.warnings
    assert warning.startswith("2 images")
    assert "cat/also0.jpg" in warning
    assert "dog/3.jpg" in warning
    put(tmp_path, "test/cat", "test/dog", count=1, name="t{}.jpg", data=encoded(54, "JPEG"))
    (warning,) = open_data(spec, training=True).summary.warnings
    assert warning.startswith("5 images")  # in two splits, too


def test_pages_that_are_not_read_are_warned_about(tmp_path: Path) -> None:
    put(tmp_path, "cat", "dog", count=5)
    spec = DataSpec(source=str(tmp_path))
    assert not open_data(spec).summary.warnings
    pages = [Image.new("L", (8, 8), value) for value in (3, 5, 7)]
    for name in ("cat/scan.tif", "dog/film.gif"):
        pages[0].save(tmp_path / name, save_all=True, append_images=pages[1:])
    (warning,) = open_data(replace(spec, val_fraction=0.0, test_fraction=0.0)).summary.warnings
    assert "2 of 2" in warning
    assert "cat/scan.tif" in warning


def test_labels_in_file_names_are_reported_with_the_remedy(tmp_path: Path) -> None:
    put(tmp_path, "train", count=4, name="cat.{}.jpg")
    put(tmp_path, "train", count=4, name="dog.{}.jpg")
    put(tmp_path, "test1", count=3)
    refused(tmp_path, r"cat, dog.*data\.labels_from=name")
    assert read(tmp_path, labels_from="name")[0] == ("cat", "dog")
    put(tmp_path / "more", "train", count=3, name="{}.jpg")
    refused(tmp_path / "more", "labels_from=name needs", labels_from="name")


def test_images_next_to_class_folders_are_counted(tmp_path: Path) -> None:
    put(tmp_path, "set/cat", "set/dog", "set")
    put(tmp_path, ".", count=1)
    assert read(tmp_path) == (("cat", "dog"), {"train": 4})
    skipped = find_source(DataSpec(source=str(tmp_path))).skipped
    assert skipped.counts == {(NO_CLASS_FOLDER, ".jpg"): 3}


@pytest.mark.parametrize(
    ("mask", "mode"),
    [("{}.png", "L"), ("{}.png", "RGB"), ("{}_mask.png", "RGB"), ("{}_depth.png", "L"),
     ("{}-seg.png", "P"), ("masks/{}.png", "L"), ("Masks/x{}.png", "RGB")],
)  # fmt: skip
def test_masks_next_to_images_are_not_trained_on(tmp_path: Path, mask: str, mode: str) -> None:
    put(tmp_path, "cat", "dog", "cat/masks", "dog/masks", "cat/Masks", "dog/Masks", count=0)
    put(tmp_path, "cat", "dog", count=3)
    put(tmp_path, "cat", "dog", count=3, name=mask, data=mask_bytes(mode))
    assert read(tmp_path) == (("cat", "dog"), {"train": 6})
    assert find_source(DataSpec(source=str(tmp_path))).skipped.counts == {(MASKS, ".png"): 6}
    found = [
        each
        for each in open_contents(DataSpec(source=str(tmp_path))).findings
        if each.kind.name == "mask"
    ]
    assert len(found) == 6


def test_masks_next_to_the_splits_of_a_class(tmp_path: Path) -> None:
    put(tmp_path, "bottle/train/good", "cable/train/good", count=3)
    put(tmp_path, "bottle/test/broken", "cable/test/broken", "bottle/ground_truth/broken")
    assert read(tmp_path) == (("bottle", "cable"), {"train": 6, "test": 4})
    assert find_source(DataSpec(source=str(tmp_path))).skipped.counts == {(MASKS, ".jpg"): 2}
    put(tmp_path, "bottle/more")
    refused(tmp_path, "more/")


def test_a_suffix_that_says_nothing_belongs_to_the_name(tmp_path: Path) -> None:
    put(tmp_path, "cat", "dog", count=6, name="2024.01.0{}", data=encoded(1))
    assert read(tmp_path) == (("cat", "dog"), {"train": 12})


def test_different_images_of_one_name_stay(tmp_path: Path) -> None:
    put(tmp_path, "cat", "dog", count=8)
    put(tmp_path, "cat", count=2, name="{}.png", data=encoded(9, size=9))
    put(tmp_path, "dog", count=6, name="new{}.png", data=encoded(9))
    put(tmp_path, "dog", count=1, name="{}.png", data=encoded(9))  # of the same size, in colour
    assert read(tmp_path) == (("cat", "dog"), {"train": 25})


@pytest.mark.parametrize("mode", ["RGB", "L", "P"])
def test_different_images_of_one_name_and_size_stay_and_are_warned_about(tmp_path, mode) -> None:
    for number in range(4):  # 0.jpg and 0.png, all of one size
        put(tmp_path, "cat", "dog", count=0)
        for seed, name in enumerate(("cat", "dog")):
            first = encoded(10 * number + seed, "PNG", "L" if mode == "L" else "RGB", 64)
            out = io.BytesIO()
            Image.open(io.BytesIO(first)).save(out, "JPEG")
            (tmp_path / name / f"{number}.jpg").write_bytes(out.getvalue())
            second = encoded(10 * number + seed + 2, "PNG", mode, 64)
            (tmp_path / name / f"{number}.png").write_bytes(second)
    assert read(tmp_path) == (("cat", "dog"), {"train": 16})
    (warning,) = find_source(DataSpec(source=str(tmp_path))).warnings
    assert warning.startswith("8 pairs")
    assert "cat/0.jpg" in warning


def test_a_copy_and_a_mask_that_comes_first_are_excluded(tmp_path: Path) -> None:
    put(tmp_path, "cat", "dog", count=0)
    for number in range(3):
        image = Image.open(io.BytesIO(encoded(number, size=64))).resize((96, 96))
        image.save(tmp_path / f"cat/{number}.jpg", quality=90)
        image.save(tmp_path / f"cat/{number}.png")
        image.save(tmp_path / f"dog/{number}.png")
        mask = Image.open(io.BytesIO(mask_bytes(size=64))).resize((96, 96))
        mask.save(tmp_path / f"dog/{number}.jpg")
    source = find_source(DataSpec(source=str(tmp_path)))
    kept = [source.train.files.name(row)[-9:] for row in range(len(source.train.labels))]
    assert kept == [*(f"cat/{n}.jpg" for n in range(3)), *(f"dog/{n}.png" for n in range(3))]
    assert not source.warnings


def test_one_class_in_two_spellings_across_splits_is_one(tmp_path: Path) -> None:
    composed, decomposed = (unicodedata.normalize(form, "café") for form in ("NFC", "NFD"))
    put(tmp_path, f"train/{decomposed}", "train/Dog", "train/hot dog")
    put(tmp_path, f"test/{composed}", "test/dog ", "test/Hot_Dog")
    classes, counts = read(tmp_path)
    assert classes == ("Dog", composed, "hot dog")
    assert counts == {"train": 6, "test": 6}
    assert len(find_source(DataSpec(source=str(tmp_path))).notes) == 2


@pytest.mark.parametrize(
    "names",
    [("Cat", "cat"), ("dog", "dog "), ("hot dog", "hot_dog"),
     tuple(unicodedata.normalize(form, "café") for form in ("NFC", "NFD"))],
)  # fmt: skip
def test_classes_that_differ_by_next_to_nothing_are_refused(tmp_path: Path, names) -> None:
    put(tmp_path, *names, "other")
    refused(tmp_path, "differ only")
    assert len(read(tmp_path, labels_from="folder")[0]) == 3


def test_letters_of_two_cases_are_classes(tmp_path: Path) -> None:
    put(tmp_path, "A", "a", "B", "b")
    assert read(tmp_path)[0] == ("A", "B", "a", "b")


ONE_HOT = "filename, cat, dog\n0.jpg,1,0\n1.jpg,0,1\n2.jpg,0,1\n"
TABLE = "image_id;breed\n0;cat\n1;dog\n2;dog\n"


@pytest.mark.parametrize(("file", "text"), [("_classes.csv", ONE_HOT), ("labels.csv", TABLE)])
@pytest.mark.parametrize("packed", [False, True])
def test_flat_splits_take_their_labels_from_a_table(tmp_path, file, text, packed) -> None:
    root = tmp_path / "set"
    for split in ("train", "valid", "test"):
        put(root, split, count=3)
        (root / split / file).write_text(text)
    if packed:
        with zipfile.ZipFile(tmp_path / "set.zip", "w") as archive:
            for path in sorted(root.rglob("*.*")):
                archive.write(path, path.relative_to(tmp_path))
        root = tmp_path / "set.zip"
    assert read(root) == (("cat", "dog"), {"train": 3, "val": 3, "test": 3})
    source = find_source(DataSpec(source=str(root)))
    assert source.train.labels.tolist() == [0, 1, 1]
    assert file in source.notes[0]
    assert not source.skipped.total  # the tables are used


def test_a_flat_folder_with_a_table_next_to_it(tmp_path: Path) -> None:
    put(tmp_path, "train", count=3)
    put(tmp_path, "test", count=2, name="x{}.jpg")
    (tmp_path / "labels.csv").write_text("id,label\n0,cat\n1,dog\n2,dog\n")
    (tmp_path / "test.csv").write_text("id,size\nx0,9\nx1,7\n")  # as Kaggle has it: no labels
    assert read(tmp_path) == (("cat", "dog"), {"train": 3})
    put(tmp_path, "train", count=5)
    refused(tmp_path, "labels.csv.*2 of 5")
    (tmp_path / "labels.csv").write_text("id,cat,dog\n" + "".join(f"{n},1,1\n" for n in range(5)))
    refused(tmp_path, "at once", labels="single")
    assert find_source(DataSpec(source=str(tmp_path))).train.labels.tolist() == [[1, 1]] * 5
    (tmp_path / "labels.csv").unlink()
    refused(tmp_path, "labels.csv")


def test_an_empty_class_says_what_is_in_it(tmp_path: Path) -> None:
    put(tmp_path, "cat", "dog")
    put(tmp_path, "fox", name="{}.dng")
    refused(tmp_path, r"fox.*2 \.dng")


def test_a_folder_that_repeats_its_parent_is_not_a_class():
    """Kaggle's malaria set: cell_images/cell_images/ has the same classes and files again."""
    files = [f"cells/{name}/{n}.png" for name in ("Parasitized", "Uninfected") for n in range(3)]
    again = [f"cells/{each}" for each in files]
    folders = sorted({part for each in files + again for part in parents(each)})
    paths = sorted(files + again)
    layout = read_layout(paths, folders, "set")
    (split,) = layout.splits
    assert sorted(set(split.names)) == ["Parasitized", "Uninfected"]
    assert [paths[row] for row in split.rows] == files
    assert sorted(paths[row] for row in layout.skipped) == sorted(again)
    assert any("cells/cells" in note for note in layout.notes)
    more = sorted([*paths, "cells/cells/Uninfected/other.png"])
    with pytest.raises(DataError, match=r"cells/cells/ .*other\.png"):
        read_layout(more, folders, "set")


def parents(path):
    parts = path.split("/")[:-1]
    return ["/".join(parts[: n + 1]) for n in range(len(parts))]
