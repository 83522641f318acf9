"""The folder of class maps: found by name or by matching files, reported, or refused."""

import numpy as np
import pytest
from PIL import Image, ImageDraw

from resnets.config import DataSpec, DetectSpec
from resnets.data.errors import DataError
from resnets.detect.check.images_by_split import annotated_contents
from resnets.detect.check.run import annotation_tasks, check_annotations
from resnets.detect.loading.sources import open_detection

SIZE = (40, 30)


def save(path, image):
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)


def photo(seed):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 255, (30, 40, 3), np.uint8))


def ellipse(box):
    drawn = Image.new("L", SIZE, 0)
    ImageDraw.Draw(drawn).ellipse(box, fill=255)
    return drawn


FIELD, VESSEL = ellipse([1, 1, 38, 28]), ellipse([10, 8, 20, 18])


def write_drive(root, folders=("mask", "1st_manual")):
    """DRIVE's tree: fields of view in mask/, the vessels that are wanted in 1st_manual/."""
    for number in range(1, 9):
        part, name = ("test", "training")[number > 4], f"{number:02d}"
        save(root / f"{part}/images/{name}_{part}.tif", photo(number))
        if "mask" in folders:
            save(root / f"{part}/mask/{name}_{part}_mask.gif", FIELD)
        if "1st_manual" in folders:
            save(root / f"{part}/1st_manual/{name}_manual1.gif", VESSEL)


def opened(root, **fields):
    data = DataSpec(source=str(root), val_fraction=0, test_fraction=0)
    return open_detection(data, DetectSpec(class_map="binary", **fields), "segment")


def test_of_several_folders_one_has_to_be_named(tmp_path):
    write_drive(tmp_path)
    with pytest.raises(DataError, match=r"1st_manual.*detect\.class_map_folder"):
        opened(tmp_path)
    spec = DetectSpec(class_map="binary", class_map_folder="1st_manual")
    splits = opened(tmp_path, class_map_folder="1st_manual")
    assert len(splits.train) == len(splits.test()) == 4
    expected = np.asarray(VESSEL) > 0
    assert all(np.array_equal(each.semantic.read(), expected) for each in splits.train.targets)
    assert any("training/1st_manual/ (4)" in note for note in splits.summary.notes)
    report = check_annotations(str(tmp_path), "segment", detect=spec)
    assert not report.problems
    assert any("test/1st_manual/ (4)" in note for note in report.notes)
    contents = annotated_contents(DataSpec(source=str(tmp_path)), "segment", spec)
    assert not contents.findings  # maps that are read are not images in no image set


def test_a_folder_of_any_name_that_matches_one_to_one_is_found(tmp_path):
    write_drive(tmp_path, folders=("1st_manual",))
    assert annotation_tasks(str(tmp_path)) == ("segment",)
    read = opened(tmp_path).train.targets[0].semantic.read()
    assert np.array_equal(read, np.asarray(VESSEL) > 0)


def test_folders_of_the_usual_names_are_rivals_too(tmp_path):
    for number in range(4):
        save(tmp_path / f"images/p{number}.png", photo(number))
        save(tmp_path / f"masks/p{number}.png", VESSEL)
        save(tmp_path / f"labels/p{number}.png", FIELD)
    with pytest.raises(DataError, match="class_map_folder"):
        opened(tmp_path)
    assert opened(tmp_path, class_map_folder="labels").train.targets[0].semantic.read().sum() == (
        np.count_nonzero(FIELD)
    )
    with pytest.raises(DataError, match="no folder absent"):
        opened(tmp_path, class_map_folder="absent")


def test_photos_and_depths_next_to_images_are_not_class_maps(tmp_path):
    for number in range(4):
        save(tmp_path / f"images/p{number}.png", photo(number))
        save(tmp_path / f"infrared/p{number}.png", photo(number + 9))
    assert annotation_tasks(str(tmp_path)) == ()
    assert annotation_tasks(str(tmp_path), DetectSpec(class_map="binary")) == ("segment",)


def test_the_folder_that_is_proposed_tells_the_rivals_apart(tmp_path):
    for number in range(4):
        stem = f"a_{number:06}_000019"
        save(tmp_path / f"leftImg8bit/train/a/{stem}_leftImg8bit.png", photo(number))
        for kind in ("gtFine", "gtCoarse"):
            save(tmp_path / f"{kind}/train/a/{stem}_{kind}_labelIds.png", VESSEL)
    with pytest.raises(DataError, match=r"class_map_folder=gt(Fine|Coarse)$"):
        opened(tmp_path)
    assert len(opened(tmp_path, class_map_folder="gtFine").train) == 4


def test_colors_and_instances_next_to_class_maps_are_named_and_not_candidates(tmp_path):
    """KITTI: training/semantic/ beside semantic_rgb/ and instance/."""
    for number in range(4):
        save(tmp_path / f"training/image_2/{number:06}_10.png", photo(number))
        save(tmp_path / f"training/semantic_rgb/{number:06}_10.png", photo(number + 9))
        for kind in ("semantic", "instance"):
            save(tmp_path / f"training/{kind}/{number:06}_10.png", VESSEL)
    splits = opened(tmp_path)
    assert len(splits.train) == 4
    assert any("semantic_rgb" in note and "instance" in note for note in splits.summary.notes)


def test_lists_that_name_folders_are_refused(tmp_path):
    """DAVIS: ImageSets/2017/train.txt names sequences."""
    for number in range(4):
        for folder, image in (("JPEGImages", photo(number)), ("Annotations", VESSEL)):
            save(tmp_path / f"{folder}/480p/s{number % 2}/{number:05}.png", image)
    (tmp_path / "ImageSets/2017").mkdir(parents=True)
    (tmp_path / "ImageSets/2017/train.txt").write_text("s0\n")
    with pytest.raises(DataError, match=r"train\.txt.*s0"):
        opened(tmp_path)


@pytest.mark.parametrize("names", [("x{0}_mask", "x{0}_mask_1"), ("{0}aa", "{0}bb")])
def test_masks_of_single_objects_are_refused_in_one_line(tmp_path, names):
    """BUSI: several masks of one name; DSB 2018: several of any name in the folder of an image."""
    for number in range(4):
        save(tmp_path / f"n{number}/images/x{number}.png", photo(number))
        for name in names:
            save(tmp_path / f"n{number}/masks/{name.format(number)}.png", VESSEL)
    with pytest.raises(DataError, match="instances"):
        opened(tmp_path)


def write_voc(root, lists):
    for number in range(6):
        name = f"2007_{number:06d}"
        save(root / f"JPEGImages/{name}.jpg", photo(number))
        save(root / f"SegmentationClassAug/{name}.png", VESSEL.point(lambda v: v // 255))
        if number < 4:
            save(root / f"SegmentationClass/{name}.png", FIELD.point(lambda v: v // 255))
    (root / "ImageSets/Segmentation").mkdir(parents=True)
    for title, lines in lists.items():
        (root / f"ImageSets/Segmentation/{title}.txt").write_text("".join(f"{x}\n" for x in lines))


def test_lists_of_images_and_maps_are_read_as_both(tmp_path):
    names = [f"2007_{number:06d}" for number in range(6)]
    pairs = [f"/JPEGImages/{n}.jpg /SegmentationClassAug/{n}.png" for n in names]
    write_voc(tmp_path, {"train": names[:2], "val": names[2:4], "trainaug": pairs})

    def train(**fields):
        data = DataSpec(source=str(tmp_path), val_fraction=0, test_fraction=0)
        return open_detection(data, DetectSpec(**fields), "segment")

    plain = train()
    assert plain.train.targets[0].semantic.read().sum() == np.count_nonzero(FIELD)
    joined = train(train_set="trainaug").train
    assert len(joined) == 6
    assert joined.targets[0].semantic.read().sum() == np.count_nonzero(VESSEL)
    assert any("SegmentationClass" in note for note in plain.summary.notes)
    other = train(class_map_folder="SegmentationClassAug").train
    assert other.targets[0].semantic.read().sum() == np.count_nonzero(VESSEL)


def test_a_list_with_the_map_of_another_image_is_refused(tmp_path):
    pair = "/JPEGImages/2007_000000.jpg /SegmentationClassAug/2007_000001.png"
    write_voc(tmp_path, {"train": [pair]})
    with pytest.raises(DataError, match="same name"):
        annotation_tasks(str(tmp_path))
