"""Results under the data's own ids, for test servers, of some classes; memory bounded by pixels."""

import copy
import json
import threading

import numpy as np
import pytest
from detect_sets import bare_split, bare_target, detections, save, write_coco, write_voc
from PIL import Image

from resnets.config import DataSpec, Recipe
from resnets.data.decode import open_image
from resnets.data.decode.decode import decode_fitted, decode_whole
from resnets.data.decode.open_image import PixelBudget
from resnets.data.errors import DataError
from resnets.detect.evaluate.server_submission import Unlabeled, open_unlabeled, save_results
from resnets.detect.evaluate.splits import choose_set, choose_split, reorder
from resnets.detect.evaluate.write import coco_results
from resnets.detect.loading.sources import open_detection
from resnets.detect.metrics.coco import coco_figures
from resnets.detect.metrics.segmentation import PixelMeter
from resnets.detect.metrics.voc import voc_figures
from resnets.detect.models.segmenter import interpolate_rows, most_likely_classes

CLASSES = ("red", "green", "blue")


def recipe_of(source):
    return Recipe(task="detect", data=DataSpec(source=str(source)))


def opened(root):
    return open_detection(DataSpec(source=str(root), val_fraction=0, test_fraction=0)).train


def test_results_spell_ids_as_the_data_does(tmp_path):
    document = copy.deepcopy(write_coco(tmp_path, "train", [(40, 30)] * 3))
    for entry in document["images"]:
        entry["id"] = {1: "1", 2: "0002", 3: "photo c"}[entry["id"]]
    for entry in document["annotations"]:
        entry["image_id"] = {1: "1", 2: "0002", 3: "photo c"}[entry["image_id"]]
        entry["category_id"] = str(entry["category_id"])
    for entry in document["categories"]:
        entry["id"] = str(entry["id"])
    save(tmp_path, "train", document)
    split = opened(tmp_path)
    ids = [target.image_id for target in split.targets]
    assert ids == ["1", "0002", "photo c"]
    found = [detections([[1, 1, 9, 9]], [0.9], [1])] * 3
    results = coco_results(ids, found, split.category_ids)
    assert [each["image_id"] for each in results] == ids
    assert {each["category_id"] for each in results} == {"7"}


def test_a_set_without_ground_truth_gets_the_server_form(tmp_path):
    document = write_coco(tmp_path, "train", [(40, 30)] * 3)
    write_coco(tmp_path, "test-dev2017", [(40, 30)] * 2)
    (tmp_path / "annotations/instances_test-dev2017.json").unlink()
    images = [
        {"id": 900 + n, "file_name": f"test-dev2017000{n}.png", "width": 40, "height": 30}
        for n in (1, 2)
    ]
    info = {"images": images, "categories": document["categories"]}
    path = tmp_path / "annotations/image_info_test-dev2017.json"
    path.write_text(json.dumps(info))
    assert len(choose_set(recipe_of(tmp_path), CLASSES, str(tmp_path), "train")) == 3
    found = choose_set(recipe_of("elsewhere"), ("blue", "red"), str(tmp_path), "test-dev2017")
    assert isinstance(found, Unlabeled)
    assert "2 of 2" not in found.split.description
    answers = [detections([[1, 2, 9, 10]], [0.5], [0]), detections([[1, 2, 9, 10]], [0.5], [1])]
    (written,) = save_results(found, answers, tmp_path / "out")
    expected = {"bbox": [1, 2, 8, 8], "score": 0.5}
    assert json.loads(written.read_text()) == [
        {"image_id": 901, "category_id": document["categories"][2]["id"], **expected},
        {"image_id": 902, "category_id": document["categories"][0]["id"], **expected},
    ]
    broken = tmp_path / "annotations/instances_train.json"
    whole = broken.read_text()
    broken.write_text(whole.replace('"name": "green"', '"name": "red"'))
    with pytest.raises(DataError, match="red"):  # broken ground truth is not taken for none
        choose_set(recipe_of("elsewhere"), CLASSES, str(tmp_path), "train")
    broken.write_text(whole)
    (tmp_path / "test-dev2017/test-dev20170002.png").unlink()
    with pytest.raises(DataError, match="1 images"):
        open_unlabeled(str(tmp_path), "test-dev2017", CLASSES)
    with pytest.raises(DataError, match="no image set"):
        open_unlabeled(str(tmp_path), "test2019", CLASSES)


def test_vocs_test_set_gets_a_file_for_each_class(tmp_path):
    write_voc(tmp_path, "a", (60, 40), [("cat", (1, 1, 10, 20), 0)])
    write_voc(tmp_path, "2008_000001", (60, 40), [])
    (tmp_path / "Annotations/2008_000001.xml").unlink()
    (tmp_path / "ImageSets/Main/train.txt").write_text("a\n")
    (tmp_path / "ImageSets/Main/test.txt").write_text("2008_000001\n")
    found = choose_set(recipe_of(tmp_path), ("cat", "bus"), str(tmp_path), "test")
    answers = [detections([[0, 0, 10, 20], [4, 4, 8, 8]], [0.9, 0.25], [0, 1])]
    written = save_results(found, answers, tmp_path / "out")
    assert [path.name for path in written] == ["comp4_det_test_cat.txt", "comp4_det_test_bus.txt"]
    assert written[0].read_text() == "2008_000001 0.900000 1.00 1.00 10.00 20.00\n"
    assert written[1].read_text() == "2008_000001 0.250000 5.00 5.00 8.00 8.00\n"


def test_a_plain_folder_of_images_is_a_set_by_its_name(tmp_path):
    for name in ("photos/p0", "photos/p1", "other"):
        path = tmp_path / f"{name}.png"
        path.parent.mkdir(exist_ok=True)
        Image.new("RGB", (20, 20)).save(path)
    found = open_unlabeled(str(tmp_path), "photos", CLASSES)
    assert [target.image_id for target in found.split.targets] == ["p0", "p1"]


def test_some_of_the_classes_are_measured_and_reported(tmp_path):
    write_coco(tmp_path, "test", [(60, 40)] * 4)
    net = ("violet", "blue", "red", "black", "green")
    split = choose_split(recipe_of("elsewhere"), net, str(tmp_path), "test")
    assert "4 images, 3 of 5 classes" in split.description
    assert split.category_ids[0] is split.category_ids[3] is None
    right = [detections(t.boxes, np.ones(len(t)), t.labels) for t in split.targets]
    wrong = [detections([[1, 1, 9, 9]], [0.9], [0])] * 4
    both = [
        detections(
            np.concatenate([a["boxes"], b["boxes"]]),
            np.concatenate([a["scores"], b["scores"]]),
            np.concatenate([a["labels"], b["labels"]]),
        )
        for a, b in zip(right, wrong, strict=True)
    ]
    assert voc_figures(split, both).map == 1.0  # of classes that the data does not have none counts
    assert coco_figures(split, both).numbers["AP"] == pytest.approx(1.0)
    results = coco_results([1, 2, 3, 4], both, split.category_ids)
    assert len(results) == sum(len(target) for target in split.targets)


def test_classes_that_the_network_does_not_know_are_refused_where_there_are_objects():
    targets = [bare_target([[1, 1, 9, 9]], [1])]
    split = bare_split(targets, classes=3)
    assert reorder(split, ("class 1",)).targets[0].labels.tolist() == [0]
    with pytest.raises(DataError, match="class 1"):
        reorder(split, ("class 0", "class 2"))
    with pytest.raises(DataError):
        reorder(split, ("cat",))


def test_mean_iou_is_over_the_classes_of_the_data():
    truth = np.zeros((8, 8), np.uint8)
    predicted = truth.copy()
    predicted[:2] = 2  # a class that the data does not have
    meter = PixelMeter(3, present=(0, 1))
    meter.add(predicted, truth)
    figures = meter.figures()
    assert figures.class_iou == (0.75, None, None)
    assert figures.mean_iou == 0.75


def large(path, size, **options):
    rng = np.random.default_rng(0)
    small = Image.fromarray(rng.integers(0, 255, (30, 40, 3), np.uint8))
    small.resize(size, Image.Resampling.BILINEAR).save(path, **options)
    return path.read_bytes()


@pytest.mark.parametrize("orientation", [1, 6])
def test_fitted_images_are_those_that_are_resized_after_decoding(tmp_path, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    for size, fitted, least in (((640, 480), (300, 400), 0.0), ((6000, 4000), (400, 600), 2.0)):
        data = large(tmp_path / "a.jpg", size, exif=exif, quality=90)
        if orientation == 6:
            fitted = fitted[::-1]
        pixels, stored = decode_fitted(data, "a", lambda *_, fitted=fitted: fitted)
        whole = decode_whole(data, "a")
        assert stored == whole.shape[:2]
        plain = Image.fromarray(whole).resize(fitted[::-1], Image.Resampling.BILINEAR)
        difference = np.abs(pixels.astype(int) - np.asarray(plain))
        assert difference.mean() <= least
        assert pixels.shape == (*fitted, 3)


def test_large_images_wait_for_each_other():
    room, inside, most = PixelBudget(100), [], []

    def work(pixels):
        with room.reserve(pixels):
            inside.append(pixels)
            most.append(sum(inside))
            inside.remove(pixels)

    threads = [threading.Thread(target=work, args=(n,)) for n in (60, 60, 250, 40, 60) * 5]
    for each in threads:
        each.start()
    for each in threads:
        each.join(10)
    assert not any(each.is_alive() for each in threads)
    assert max(most) <= 250
    assert open_image.BUDGET.limit == open_image.DECODED_PIXELS


def test_class_maps_of_large_images_are_made_in_bands(monkeypatch):
    import torch

    logits = torch.randn(5, 13, 17)
    whole = most_likely_classes(logits, (97, 61))
    monkeypatch.setattr("resnets.detect.models.segmenter.MAX_VALUES", 5 * 61 * 7)
    assert (most_likely_classes(logits, (97, 61)) == whole).float().mean() > 0.999
    plane = torch.arange(4.0).reshape(1, 4, 1)
    expected = torch.nn.functional.interpolate(plane[None], (9, 1), mode="bilinear")[0]
    assert torch.allclose(interpolate_rows(plane, 0, 9, 9), expected)


def test_batches_of_many_masks_are_not_read_ahead(tmp_path, monkeypatch):
    """Whatever is read ahead, the batches are the same."""
    from itertools import islice

    from detect_batches import assert_equal, stream

    from resnets.detect.loading import train_batches as module

    write_coco(tmp_path, "train", [(80, 60)] * 6)
    plain = list(islice(stream(tmp_path).batches(), 4))
    monkeypatch.setattr(module, "BYTES_AHEAD", 1)
    for one, other in zip(plain, stream(tmp_path).batches(), strict=False):
        assert_equal(one, other)
