"""Class maps in the forms that people have them: read right, or refused by name before training."""

import json

import numpy as np
import pytest
from PIL import Image

from resnets.config import DataSpec, DetectSpec
from resnets.data.errors import DataError
from resnets.detect.check.run import annotation_tasks, check_annotations
from resnets.detect.class_maps.folders import find_class_maps
from resnets.detect.class_maps.schemes import read_class_table
from resnets.detect.data.class_maps import CITYSCAPES, UnknownValueError, voc_color
from resnets.detect.images.store import open_store
from resnets.detect.loading.sources import open_detection

WIDTH, HEIGHT = 40, 30
TRUTH = np.zeros((HEIGHT, WIDTH), np.uint8)
TRUTH[5:20, 8:30] = 1


def image(path, size=(WIDTH, HEIGHT)):
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(len(path.name))
    Image.fromarray(rng.integers(0, 255, (*size[::-1], 3), np.uint8)).save(path)


def save_map(path, class_map):
    path.parent.mkdir(parents=True, exist_ok=True)
    class_map.save(path)


def write_set(root, convert, *, classes="background\nobject\n", folder="masks", suffix=".png"):
    for number in range(4):
        image(root / f"images/p{number}.jpg")
        save_map(root / folder / f"p{number}{suffix}", convert(TRUTH))
    if classes:
        (root / "classes.txt").write_text(classes)


def opened(root, **fields):
    data = DataSpec(source=str(root), val_fraction=0, test_fraction=0)
    return open_detection(data, DetectSpec(**fields), "segment").train


def palette(values, colors=(0, 0, 0, 128, 0, 0)):
    made = Image.fromarray(values)
    made.putpalette(list(colors) + [0] * (768 - len(colors)))
    return made


def swapped(values):
    """The same drawing from a program that sorts its palette: class 1 is number 0."""
    return palette(1 - values, (128, 0, 0, 0, 0, 0))


FORMS = {
    "8-bit": Image.fromarray,
    "palette": palette,
    "grey RGB": lambda values: Image.fromarray(values).convert("RGB"),
    "grey RGBA": lambda values: Image.fromarray(values).convert("RGBA"),
    "grey with alpha": lambda values: Image.fromarray(values).convert("LA"),
    "1-bit": lambda values: Image.fromarray(values * 255).convert("1"),
    "16-bit": lambda values: Image.fromarray(values.astype(np.uint16)),
}


@pytest.mark.parametrize("form", FORMS)
def test_numbers_are_read_however_they_are_stored(tmp_path, form):
    write_set(tmp_path, FORMS[form])
    split = opened(tmp_path)
    assert split.classes == ("background", "object")
    assert all(np.array_equal(target.semantic.read(), TRUTH) for target in split.targets)


@pytest.mark.parametrize(
    "folder", ["labels", "annotations", "mask", "SegmentationClassPNG", "Part1_GroundTruth"]
)
def test_folders_of_other_names_and_suffixes_in_capitals(tmp_path, folder):
    write_set(tmp_path, palette, folder=folder, suffix=".PNG")
    assert len(opened(tmp_path)) == 4
    assert annotation_tasks(str(tmp_path)) == ("segment",)


NAMED = {
    "binary": lambda values: Image.fromarray(values * 255),
    "voc": lambda values: palette(values).convert("RGB"),
}


@pytest.mark.parametrize("scheme", NAMED)
def test_common_codings_are_refused_until_named(tmp_path, scheme):
    write_set(tmp_path, NAMED[scheme])
    with pytest.raises(DataError, match=rf"detect\.class_map={scheme}") as caught:
        opened(tmp_path)
    assert "\n" not in str(caught.value)
    report = check_annotations(str(tmp_path), "segment")
    assert report.problems
    split = opened(tmp_path, class_map=scheme)
    assert np.array_equal(split.targets[0].semantic.read(), TRUTH)
    assert (
        check_annotations(str(tmp_path), "segment", detect=DetectSpec(class_map=scheme)).problems
        == []
    )


def test_color_masks_with_alpha_and_sorted_palettes(tmp_path):
    write_set(tmp_path / "a", lambda values: palette(values).convert("RGBA"))
    write_set(tmp_path / "b", swapped)
    for name in "ab":
        split = opened(tmp_path / name, class_map="voc")
        assert np.array_equal(split.targets[0].semantic.read(), TRUTH)


def test_255_may_be_ignored_if_stated(tmp_path):
    write_set(tmp_path, lambda values: Image.fromarray(values * 255))
    read = opened(tmp_path, class_map="ids").targets[0].semantic.read()
    assert set(np.unique(read)) == {0, 255}


def test_values_of_no_class_stop_training_with_one_line(tmp_path):
    write_set(tmp_path, lambda values: Image.fromarray(values * 7))
    with pytest.raises(UnknownValueError, match="330 pixels of value 7") as caught:
        opened(tmp_path)
    assert "p0.png" in str(caught.value)
    with pytest.raises(DataError, match="no good"):
        opened(tmp_path, skip_invalid=True) and pytest.fail("all maps are bad")


def test_a_value_in_a_map_that_was_not_looked_at_ends_the_run(tmp_path, monkeypatch):
    """Only some maps are looked at before training; the reader knows the others by their values."""
    from detect_batches import stream

    write_set(tmp_path, Image.fromarray)
    save_map(tmp_path / "masks/p2.png", Image.fromarray(TRUTH * 9))
    monkeypatch.setattr("resnets.detect.class_maps.source.NUM_SCANNED", 2)
    monkeypatch.setattr("resnets.detect.class_maps.source.scan_maps.__defaults__", (2,))
    with pytest.raises(UnknownValueError):
        next(stream(tmp_path, task="segment", batch_size=4, train_sizes=(32,), crop=32).batches())


def test_maps_of_another_size_are_refused(tmp_path):
    write_set(tmp_path, lambda values: Image.fromarray(values).resize((20, 15)))
    with pytest.raises(DataError, match="20x15.*40x30"):
        opened(tmp_path)
    assert dict(check_annotations(str(tmp_path), "segment").by_kind) == {"mask size": 4}


def test_shares_by_value_and_classes_in_no_map_are_reported(tmp_path, caplog):
    write_set(tmp_path, Image.fromarray, classes="background\nobject\nsky\n")
    summary = opened(tmp_path).summary
    report = check_annotations(str(tmp_path), "segment")
    for text in (caplog.text, "\n".join(report.notes), json.dumps(summary.to_json())):
        assert "0 background 72.5%, 1 object 27.5%" in text
        assert "sky" in text


def test_maps_without_names_say_what_is_in_them(tmp_path):
    write_set(tmp_path, Image.fromarray, classes=None)
    with pytest.raises(DataError, match=r"0 72\.5%, 1 27\.5%"):
        opened(tmp_path)
    assert opened(tmp_path, class_map="binary").classes == ("background", "object")


def test_cityscapes_folders(tmp_path):
    for part, city in (("train", "aachen"), ("val", "ulm")):
        for number in range(2):
            stem = f"{city}_{number}"
            image(tmp_path / f"leftImg8bit/{part}/{city}/{stem}_leftImg8bit.png")
            label_ids = np.where(TRUTH, 26, 7).astype(np.uint8)
            colors = np.where(TRUTH[..., None], [0, 0, 142], [128, 64, 128]).astype(np.uint8)
            base = tmp_path / f"gtFine/{part}/{city}/{stem}_gtFine"
            save_map(base.with_name(base.name + "_labelIds.png"), Image.fromarray(label_ids))
            save_map(base.with_name(base.name + "_color.png"), Image.fromarray(colors))
    with pytest.raises(DataError, match="class_map=cityscapes"):
        opened(tmp_path)
    split = opened(tmp_path, class_map="cityscapes")
    assert len(split) == 2
    assert split.classes[13] == "car"
    assert split.classes == tuple(name for _, _, name in CITYSCAPES)
    assert np.array_equal(split.targets[0].semantic.read(), np.where(TRUTH, 13, 0))
    for path in tmp_path.rglob("*_labelIds.png"):
        path.unlink()
    split = opened(tmp_path, class_map="cityscapes")
    assert np.array_equal(split.targets[0].semantic.read(), np.where(TRUTH, 13, 0))


def test_sets_around_and_next_to_folders_of_maps(tmp_path):
    for part, base in (("train", 0), ("test", 10)):
        for number in range(base, base + 3):
            image(tmp_path / f"camvid/{part}/p{number}.png")
            save_map(tmp_path / f"camvid/{part}annot/p{number}.png", Image.fromarray(TRUTH))
            image(tmp_path / f"inside/{part}/images/p{number}.jpg")
            save_map(tmp_path / f"inside/{part}/masks/p{number}.png", Image.fromarray(TRUTH))
            image(tmp_path / f"beside/{part}/p{number}.jpg")
            mask = tmp_path / f"beside/{part}/p{number}_mask.png"
            save_map(mask, Image.fromarray(TRUTH))
    for name in ("camvid", "inside", "beside"):
        (tmp_path / name / "classes.txt").write_text("background\nobject\n")
        found = find_class_maps(open_store(str(tmp_path / name)))
        assert {title: len(paths) for title, paths in found.parts.items()} == {
            "train": 3,
            "test": 3,
        }
        data = DataSpec(source=str(tmp_path / name), val_fraction=0)
        splits = open_detection(data, task="segment")
        trained = {splits.train.files.name(row) for row in range(3)}
        assert all("/train/" in each for each in trained)
        assert len(splits.test()) == 3


def test_images_that_share_a_name_and_images_without_a_map(tmp_path, caplog):
    write_set(tmp_path, Image.fromarray)
    image(tmp_path / "images/extra.jpg")
    image(tmp_path / "other/images/p1.jpg")
    image(tmp_path / "images/p1.bmp")
    with pytest.raises(DataError, match="may be"):
        opened(tmp_path)
    (tmp_path / "images/p1.bmp").unlink()
    assert len(opened(tmp_path)) == 4
    assert "1 images without a class map" in caplog.text


def test_several_maps_of_one_image_are_refused(tmp_path):
    """As lesions of one image have maps of their own: the second is no image without a map."""
    for number in range(5):
        image(tmp_path / f"benign/p{number}.jpg")
        for end in ("mask", "mask_1") if number > 2 else ("mask",):
            save_map(tmp_path / f"benign/p{number}_{end}.png", Image.fromarray(TRUTH))
    (tmp_path / "classes.txt").write_text("background\nobject\n")
    assert check_annotations(str(tmp_path), "segment").by_kind == {"one image for two": 2}
    with pytest.raises(DataError):
        opened(tmp_path)


@pytest.mark.parametrize("end", ["sat", "image", "rgb"])
def test_images_and_maps_of_one_folder_that_both_have_an_ending(tmp_path, end):
    for number in range(3):
        image(tmp_path / f"train/{number}_{end}.jpg")
        save_map(tmp_path / f"train/{number}_mask.png", palette(TRUTH).convert("RGB"))
    (tmp_path / "class_dict.csv").write_text("name,r,g,b\nbackground,0,0,0\nobject,128,0,0\n")
    assert annotation_tasks(str(tmp_path)) == ("segment",)
    split = opened(tmp_path)
    assert all(split.files.name(row).endswith(f"_{end}.jpg") for row in range(3))
    assert np.array_equal(split.targets[0].semantic.read(), TRUTH)


def test_a_class_called_mask_is_not_a_class_map(tmp_path):
    rng = np.random.default_rng(0)
    for name in ("mask", "no_mask"):
        (tmp_path / name).mkdir()
        for number in range(3):
            pixels = rng.integers(0, 255, (20, 20, 3), np.uint8)
            Image.fromarray(pixels).save(tmp_path / name / f"{number}.png")
    assert annotation_tasks(str(tmp_path)) == ()


CLASS_FILES = {
    "classes.txt": "background\nobject\n",
    "labels.txt": "__ignore__\nbackground\nobject\n",
    "classes.yaml": "names: [background, object]\n",
    "labelmap.txt": "# label:color_rgb:parts:actions\nbackground:0,0,0::\nobject:128,0,0::\n",
    "label_colors.txt": "0 0 0\tbackground\n128 0 0\tobject\n",
    "class_dict.csv": "name,r,g,b\nbackground,0,0,0\nobject,128,0,0\n",
    "_classes.csv": "Pixel Value, Class\n0, background\n1, object\n",
    "codes.txt": "\ufeff0: background\n1: object\n",
}


@pytest.mark.parametrize("name", CLASS_FILES)
def test_files_that_name_the_classes(tmp_path, name):
    colored = name in ("labelmap.txt", "label_colors.txt", "class_dict.csv")
    write_set(tmp_path, NAMED["voc"] if colored else Image.fromarray, classes=None)
    (tmp_path / name).write_text(CLASS_FILES[name], encoding="utf-8")
    split = opened(tmp_path)
    assert split.classes == ("background", "object")
    assert np.array_equal(split.targets[0].semantic.read(), TRUTH)


def test_bad_files_of_names_are_data_errors(tmp_path):
    write_set(tmp_path, Image.fromarray, classes=None)
    bomb = "a: &a [x]\nnames: [*a, *a]\n"
    for text in (bomb, "names: {300: x}", "[" * 3000, "!!python/object:os.system x", "\x00"):
        (tmp_path / "classes.yaml").write_text(text)
        with pytest.raises(DataError):
            read_class_table(open_store(str(tmp_path)))


def test_maps_saved_as_jpeg_are_named_for_what_they_are(tmp_path):
    write_set(tmp_path, lambda values: Image.fromarray(values * 100), suffix=".jpg")
    with pytest.raises(DataError, match="JPEG"):
        opened(tmp_path)


def test_voc_colors_are_those_of_its_palette():
    known = {0: 0, 1: 0x800000, 15: 0xC08080, 20: 0x004080}
    assert {number: voc_color(number) for number in known} == known


def test_a_map_does_not_get_the_image_of_another_folder(tmp_path):
    # siteB's 001 is missing; siteA's has no map.
    image(tmp_path / "images/siteA/001.png")
    image(tmp_path / "images/siteB/002.png")
    for name in ("001", "002"):
        save_map(tmp_path / f"masks/siteB/{name}.png", Image.fromarray(TRUTH))
    (tmp_path / "classes.txt").write_text("background\nobject\n")
    with pytest.raises(DataError, match=r"001\.png"):
        opened(tmp_path)


def test_a_map_does_not_get_the_image_of_a_shorter_name(tmp_path):
    for name in ("7", "8", "9"):
        image(tmp_path / f"images/{name}.png")
    for name in ("7_l", "8", "9"):
        save_map(tmp_path / f"masks/{name}.png", Image.fromarray(TRUTH))
    (tmp_path / "classes.txt").write_text("background\nobject\n")
    with pytest.raises(DataError, match=r"7_l\.png"):
        opened(tmp_path)


TABLE = "name,r,g,b\nroad,128,64,128\ndog,0,200,0\nborder,0,0,0\n"


def test_an_index_map_of_zeros_is_of_class_0_whatever_class_is_black(tmp_path):
    write_set(tmp_path, Image.fromarray, classes="")
    (tmp_path / "class_dict.csv").write_text(TABLE)
    save_map(tmp_path / "masks/p3.png", Image.fromarray(np.zeros_like(TRUTH)))
    labels = [target.semantic.read() for target in opened(tmp_path).targets]
    assert sorted(np.unique(labels[3]).tolist()) == [0]
    assert sorted(np.unique(labels[0]).tolist()) == [0, 1]


def test_the_numbers_of_a_table_count(tmp_path):
    path = tmp_path / "class_dict.csv"
    path.write_text("id,name,r,g,b\n2,bird,0,0,220\n0,background,0,0,0\n1,dog,0,200,0\n")
    table = read_class_table(open_store(str(tmp_path)))
    assert table.names == {0: "background", 1: "dog", 2: "bird"}
    assert table.colors[0x00C800] == 1
    for twice in ("id,name\n1,a\n1,b\n", "name,r,g,b\na,1,2,3\nb,1,2,3\n"):
        path.write_text(twice)
        with pytest.raises(DataError, match="class_dict.csv"):
            read_class_table(open_store(str(tmp_path)))


@pytest.mark.parametrize("name", ["_classes.csv", "class_dict.csv", "sub/classes.txt"])
def test_class_files_that_disagree_are_refused(tmp_path, name):
    write_set(tmp_path, Image.fromarray)
    (tmp_path / "classes.txt").write_text("background\nobject\n\n")
    other = CLASS_FILES[name.rpartition("/")[2]]
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text(other)
    assert len(opened(tmp_path)) > 0
    (tmp_path / name).write_text(other.replace("object", "car"))
    with pytest.raises(DataError, match="class 1 is car, but object"):
        opened(tmp_path)


def test_a_blank_line_between_class_names_is_refused(tmp_path):
    write_set(tmp_path, Image.fromarray)
    (tmp_path / "classes.txt").write_text("background\n\nobject\n")
    with pytest.raises(DataError, match=r"classes\.txt.*2"):
        opened(tmp_path)
