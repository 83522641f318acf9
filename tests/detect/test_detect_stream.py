"""Training batches with boxes, masks and class maps."""

from collections import Counter
from itertools import islice

import numpy as np
import pytest
import torch
from detect_batches import assert_equal, stream
from detect_sets import bare_target, write_coco
from PIL import Image

from resnets.config import ConfigError, DetectSpec
from resnets.data.errors import DataError
from resnets.detect.data.transforms import (
    ResizeFlip,
    crop_square,
    fit_size,
    transform_boxes,
    transform_masks,
)
from resnets.detect.loading.sampling import WINDOW, Sampler, repeat_factors


@pytest.fixture
def coco(tmp_path):
    write_coco(tmp_path, "train", [(80, 60), (60, 80), (100, 50), (50, 100)] * 3)
    return tmp_path


def test_batch_k_is_the_same_whenever_asked_for(coco):
    first = list(islice(stream(coco).batches(), 9))
    for batch, again in zip(first[5:], stream(coco, workers=5).batches(5), strict=False):
        assert_equal(batch, again)
    other = next(stream(coco, seed=1).batches())
    assert other.ids.tolist() != first[0].ids.tolist()


def test_boxes_and_masks_follow_their_pixels(coco):
    """Each box holds its class's colour, whatever the size and mirroring."""
    flips = 0
    for batch in islice(stream(coco, flip_vertical=True).batches(), 12):
        for image, target in zip(batch.images, batch.targets, strict=True):
            assert min(image.shape[1:]) in (60, 90)
            assert target["masks"].shape == (2, *image.shape[1:])
            assert target["iscrowd"].tolist() == [0, 0]
            for box, label, mask in zip(
                target["boxes"], target["labels"], target["masks"], strict=True
            ):
                left, top, right, bottom = box.round().int().tolist()
                inside = image[:, top + 2 : bottom - 2, left + 2 : right - 2]
                assert inside.mean((1, 2)).argmax() == label - 1
                assert inside.mean((1, 2)).max() > 0.7
                area = (right - left) * (bottom - top)
                assert mask[top:bottom, left:right].sum() >= 0.95 * area
                assert mask.sum() <= 1.2 * area
            flips += int(target["boxes"][0, 0] > target["boxes"][1, 0])
    assert 0 < flips < 24  # the first rectangle lies left of the second unless mirrored


def test_an_epoch_shows_each_image_once_in_batches_of_one_shape(coco):
    training = stream(coco)
    batches = list(islice(training.batches(), 6))
    assert training.examples == 12
    assert sorted(row for batch in batches for row in batch.ids.tolist()) == list(range(12))
    mixed = sum(
        len({image.shape[1] > image.shape[2] for image in batch.images}) > 1 for batch in batches
    )
    assert mixed == 0


def test_windows_hold_each_position_once_at_any_length():
    tall = np.arange(37) % 3 == 0
    sampler = Sampler(np.ones(37), tall, 4, seed=9)
    steps = 37 * 9  # whole epochs and whole windows
    seen = Counter(row for step in range(steps) for row in sampler.draw(step).rows.tolist())
    assert set(seen.values()) == {steps * 4 // 37}
    mixed = [len(set(tall[sampler.draw(step).rows])) > 1 for step in range(steps)]
    assert min(WINDOW, 37 // 4) == 9
    assert 0 < sum(mixed) <= 37  # one batch of each window at most


def test_rare_classes_are_repeated():
    targets = [bare_target([[0, 0, 9, 9]], [0])] * 15 + [bare_target([[0, 0, 9, 9]], [1])]
    repeats = repeat_factors(targets, 2, 0.25)
    assert repeats[:15].tolist() == [1.0] * 15
    assert repeats[15] == pytest.approx(2.0)  # sqrt(0.25 / (1 / 16))
    sampler = Sampler(repeats * 1.25, np.zeros(16, bool), 1, seed=0)
    assert sampler.examples == 22  # ceil(15 * 1.25 + 2.5)
    epochs = [
        Counter(int(sampler.draw(step).rows[0]) for step in range(22 * e, 22 * e + 22))
        for e in range(40)
    ]
    assert all(counts[row] in (1, 2) for counts in epochs for row in range(15))
    assert {counts[15] for counts in epochs} <= {2, 3}
    assert np.mean([counts[15] for counts in epochs]) == pytest.approx(2.5 * 22 / 21.25, abs=0.2)


def test_repeats_of_an_image_are_changed_differently(tmp_path):
    write_coco(tmp_path, "train", [(80, 60)] * 2)
    training = stream(tmp_path, repeat_threshold=0.9, train_sizes=tuple(range(40, 140)))
    training.sampler.repeats[:] = 4.0
    shapes = {image.shape for batch in islice(training.batches(), 4) for image in batch.images}
    assert len(shapes) > 4


def test_empty_and_crowded_images(tmp_path):
    import json

    write_coco(tmp_path, "train", [(80, 60)] * 4)
    path = tmp_path / "annotations" / "instances_train.json"
    document = json.loads(path.read_text())
    document["annotations"] = [e for e in document["annotations"] if e["image_id"] != 2]
    for entry in document["annotations"]:
        entry["iscrowd"] = int(entry["image_id"] == 3)
    path.write_text(json.dumps(document))
    assert stream(tmp_path).examples == 2
    every = stream(tmp_path, keep_empty=True)
    assert every.examples == 4
    sizes = [
        len(target["labels"]) for batch in islice(every.batches(), 2) for target in batch.targets
    ]
    assert sorted(sizes) == [0, 0, 2, 2]
    empty = next(t for batch in every.batches() for t in batch.targets if not len(t["labels"]))
    assert empty["boxes"].shape == (0, 4)
    assert empty["masks"].shape[0] == 0


def test_another_image_takes_the_place_of_an_unreadable_one(coco, caplog):
    path = coco / "train" / "train0002.png"
    path.write_bytes(path.read_bytes()[:99])
    training = stream(coco)
    batches = list(islice(training.batches(), 12))
    assert all(1 not in batch.ids.tolist() for batch in batches)
    assert "train0002.png" in caplog.text
    again = islice(stream(coco, workers=1).batches(4), 3)
    for batch, other in zip(batches[4:7], again, strict=True):
        assert_equal(batch, other)
    for number in range(3, 9):
        (coco / "train" / f"train{number:04d}.png").write_bytes(b"")
    with pytest.raises(DataError, match="cannot be read"):
        list(islice(stream(coco).batches(), 12))


def test_class_maps_follow_their_pixels(coco):
    """Maps drawn from the image itself agree with it after scaling, mirroring and cutting."""
    (coco / "semantic_train").mkdir()
    for path in (coco / "train").iterdir():
        pixels = np.asarray(Image.open(path)).astype(int)
        bright = pixels.max(2) > 180
        classes = np.where(bright, pixels.argmax(2), 3).astype(np.uint8)
        Image.fromarray(classes).save(coco / "semantic_train" / path.name)
    (coco / "semantic_classes.yaml").write_text("classes: [red, green, blue, noise]\n")
    training = stream(coco, "segment", batch_size=4, scale=(0.5, 1.5))
    outside = 0
    for batch in islice(training.batches(), 4):
        assert batch.images.shape == (4, 3, 64, 64)
        assert batch.targets.shape == (4, 64, 64)
        assert batch.targets.dtype == torch.int64
        seen = torch.where(batch.images.amax(1) > 0.7, batch.images.argmax(1), 3)
        counted = batch.targets != 255
        outside += int((~counted).sum())
        assert (seen == batch.targets)[counted].float().mean() > 0.97
        assert batch.images.permute(0, 2, 3, 1)[~counted].abs().sum() == 0
    assert outside > 0


def test_geometry_by_hand():
    assert fit_size(1000, 500, 600, 1000) == (500, 1000)
    assert fit_size(500, 375, 600, 1000) == (600, 800)
    change = ResizeFlip((50, 200), flip=True)
    boxes = transform_boxes(np.array([[10, 20, 30, 40]], np.float32), (100, 100), change)
    assert boxes.tolist() == [[140, 10, 180, 20]]
    run = {"size": [4, 6], "counts": [4, 8, 12]}  # column by column: columns 1 and 2
    target = bare_target([[1, 0, 3, 4]], [0], size=(4, 6), masks=(run,))
    flipped = transform_masks(target, ResizeFlip((4, 6), flip=True))
    assert flipped[0, 0].tolist() == [0, 0, 0, 1, 1, 0]
    assert transform_masks(target, ResizeFlip((2, 3)))[0].sum() == 2
    pixels, classes = np.ones((4, 6, 3), np.uint8), np.zeros((4, 6), np.uint8)
    image, labels = crop_square(pixels, classes, 5, (0.99, 0.99), (7, 8, 9))
    assert labels[0].tolist() == [255] * 5
    assert labels[1:].max() == 0
    assert image[0, 0].tolist() == [7, 8, 9]


def test_bad_fields_are_named():
    for fields, says in (
        ({"train_sizes": ()}, "detect.train_sizes"),
        ({"max_size": 100}, "detect.max_size"),
        ({"scale": (2.0, 1.0)}, "detect.scale"),
        ({"repeat_threshold": 1.0}, "detect.repeat_threshold"),
    ):
        with pytest.raises(ConfigError, match=says):
            DetectSpec(**fields)
