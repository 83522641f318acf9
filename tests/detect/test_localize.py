"""Localization error (ImageNet), compared with a brute-force computation on real images."""

import numpy as np
import pytest
from detect_sets import bare_split, bare_target

from resnets.config import DataSpec
from resnets.data.errors import DataError
from resnets.detect.loading.sources import open_detection
from resnets.detect.metrics.localization import localization_figures, on_object, single_class
from resnets.detect.metrics.meters import location_metrics


@pytest.fixture(scope="module")
def single(shared_data):
    """The images of coco-tiny's training set whose objects are all of one class."""
    data = DataSpec(source=str(shared_data / "coco-tiny.tar"), val_fraction=0)
    return single_class(open_detection(data).train)


def brute_force(split, located):
    """The errors in percent, written out pixel by pixel where boxes have whole corners."""
    top1 = top5 = given = 0
    for target, each in zip(split.targets, located, strict=True):
        truth = int(target.labels[0])

        def covers(label, target=target, each=each):
            box = each["boxes"][label]
            if np.isnan(box).any():
                return False
            plane = np.zeros((1000, 1000), bool)
            left, top, right, bottom = box.astype(int)
            plane[top:bottom, left:right] = True
            for other in target.boxes.astype(int):
                own = np.zeros_like(plane)
                own[other[1] : other[3], other[0] : other[2]] = True
                if (plane & own).sum() * 2 >= (plane | own).sum():
                    return True
            return False

        order = sorted(range(len(split.classes)), key=lambda label: (-each["scores"][label], label))
        top1 += not (order[0] == truth and covers(truth))
        top5 += not any(label == truth and covers(label) for label in order[:5])
        given += not covers(truth)
    return tuple(100 * count / len(split) for count in (top1, top5, given))


def random_located(split, rng):
    """Boxes with whole corners near the objects; classes right now and then."""
    located = []
    for target in split.targets:
        truth = int(target.labels[0])
        scores = rng.random(len(split.classes)).astype(np.float32) * 0.5
        scores[truth] += rng.choice([0.0, 0.45, 0.6])
        boxes = rng.integers(0, 300, (len(scores), 4)).astype(np.float32)
        boxes[:, 2:] += boxes[:, :2] + 1
        near = target.boxes[rng.integers(len(target))].round() + rng.integers(-25, 25, 4)
        near = np.clip(near, 0, 900)
        boxes[truth] = [*near[:2], *np.maximum(near[2:], near[:2] + 1)]
        if rng.random() < 0.1:
            boxes[truth] = np.nan
        located.append({"scores": scores, "boxes": boxes})
    return located


@pytest.mark.parametrize("seed", range(3))
def test_errors_agree_with_brute_force(single, seed):
    located = random_located(single, np.random.default_rng(seed))
    whole = bare_split(
        [bare_target(t.boxes.round(), t.labels, (t.height, t.width)) for t in single.targets], 80
    )
    figures = localization_figures(whole, located)
    errors = figures.top1_error, figures.top5_error, figures.given_error
    assert errors == pytest.approx(brute_force(whole, located))
    assert 0 < figures.given_error < 100
    assert figures.given_error <= figures.top5_error <= figures.top1_error
    assert figures.class_top5_error <= figures.top5_error


def test_the_true_boxes_make_no_error(single):
    located = []
    for target in single.targets:
        scores = np.zeros(len(single.classes), np.float32)
        boxes = np.full((len(single.classes), 4), np.nan, np.float32)
        scores[target.labels[0]], boxes[target.labels[0]] = 1, target.boxes[0]
        located.append({"scores": scores, "boxes": boxes})
    judged = location_metrics(single, located, "p")
    assert judged.headline == dict.fromkeys(judged.headline, 0.0)
    assert judged.located.images == len(single) > 10
    assert "localization" in judged.to_json()


def test_overlap_of_one_half_is_enough():
    truth = np.array([[0, 0, 10, 10]], np.float32)
    boxes = np.array([[0, 0, 10, 5], [0, 0, 10, 4.9], [np.nan] * 4], np.float32)
    assert on_object(boxes, truth).tolist() == [True, False, False]


def test_right_class_with_a_wrong_box_fails_only_where_the_box_counts():
    split = bare_split([bare_target([[0, 0, 10, 10], [50, 50, 60, 60]], [2, 2])])
    boxes = np.zeros((3, 4), np.float32)
    boxes[2] = [20, 20, 40, 40]
    figures = localization_figures(split, [{"scores": np.array([0.1, 0.2, 0.9]), "boxes": boxes}])
    assert (figures.class_top1_error, figures.top1_error, figures.given_error) == (0, 100, 100)
    boxes[2] = [50, 50, 60, 58]  # on the second of the two objects
    figures = localization_figures(split, [{"scores": np.array([0.9, 0.2, 0.1]), "boxes": boxes}])
    assert (figures.top1_error, figures.top5_error, figures.given_error) == (100, None, 0)


def test_images_of_several_classes_are_excluded():
    one, two = bare_target([[0, 0, 1, 1]] * 2, [1, 1]), bare_target([[0, 0, 1, 1]] * 2, [0, 1])
    assert len(single_class(bare_split([one, two, one]))) == 2
    with pytest.raises(DataError, match="no image with objects of one class only"):
        single_class(bare_split([two]))
