"""Figures of detection and segmentation, held against pycocotools and against brute force."""

import contextlib
import io
import json
import tarfile

import numpy as np
import pytest
from detect_sets import bare_split, bare_target, detections, random_detections

from resnets.config import DataSpec
from resnets.detect.data.masks import encode_masks, render_masks
from resnets.detect.evaluate.write import coco_results
from resnets.detect.loading.sources import open_detection
from resnets.detect.metrics.coco import NUMBERS, coco_figures
from resnets.detect.metrics.meters import object_metrics, pixel_metrics
from resnets.detect.metrics.segmentation import PixelMeter
from resnets.detect.metrics.voc import area_under, eleven_point, voc_figures


@pytest.fixture(scope="module")
def coco_test(shared_data):
    source = str(shared_data / "coco-tiny.tar")
    return open_detection(DataSpec(source=source), task="instances").test()


@pytest.fixture(scope="module")
def pycocotools_truth(shared_data, tmp_path_factory):
    """The set's own JSON, read by pycocotools, independent of our sources."""
    coco = pytest.importorskip("pycocotools.coco")
    path = tmp_path_factory.mktemp("coco") / "val.json"
    with tarfile.open(shared_data / "coco-tiny.tar") as tar:
        path.write_bytes(tar.extractfile("coco-tiny/annotations/instances_val2017.json").read())
    with contextlib.redirect_stdout(io.StringIO()):
        return coco.COCO(str(path))


@pytest.fixture(scope="module", params=[0, 1])
def random_found(request, coco_test):
    rng = np.random.default_rng(request.param)
    found = random_detections(coco_test, rng, 4.0 + 4 * request.param, masks=True)
    return [{**each, "boxes": each["boxes"].round(2)} for each in found]


@pytest.mark.parametrize("kind", ["bbox", "segm"])
def test_coco_agrees_with_pycocotools(coco_test, pycocotools_truth, random_found, kind):
    """On random predictions, from our results JSON against the original annotations."""
    from pycocotools.cocoeval import COCOeval

    ours = coco_figures(coco_test, random_found, kind)
    ids = [target.image_id for target in coco_test.targets]
    entries = json.loads(json.dumps(coco_results(ids, random_found, coco_test.category_ids)))
    for entry in entries:  # with both, pycocotools takes boxes for the areas of masks
        del entry["segmentation" if kind == "bbox" else "bbox"]
    with contextlib.redirect_stdout(io.StringIO()):
        judge = COCOeval(pycocotools_truth, pycocotools_truth.loadRes(entries), kind)
        judge.evaluate()
        judge.accumulate()
        judge.summarize()
    theirs = dict(zip(NUMBERS, judge.stats, strict=True))
    assert 0.05 < theirs["AP"] < 0.95
    for name in NUMBERS:
        assert ours.numbers[name] == pytest.approx(theirs[name], abs=2e-4), name
    precision = judge.eval["precision"][:, :, :, 0, -1]
    known = precision[0, 0] > -1
    assert [ap is not None for ap in ours.class_ap] == known.tolist()


def test_perfect_and_empty_answers(coco_test):
    perfect = []
    for target in coco_test.targets:
        each = detections(target.boxes, np.ones(len(target)), target.labels)
        size = target.height, target.width
        each["masks"] = encode_masks(render_masks(target.masks, size, size))
        perfect.append(each)
    judged = object_metrics(coco_test, perfect, "p", masks=True)
    assert judged.boxes.numbers["AP"] == judged.masks.numbers["AP"] == pytest.approx(1.0)
    assert judged.voc.map == judged.voc.map11 == pytest.approx(1.0)
    assert set(judged.headline) == {"AP", "AP50", "AP75", "mask_AP", "mask_AP50"}
    json.dumps(judged.to_json(), allow_nan=False)
    empty = [detections([], [], [])] * len(coco_test)
    nothing = object_metrics(coco_test, empty, "p")
    assert nothing.boxes.numbers["AP"] == nothing.voc.map == 0.0


def test_classes_without_objects_count_for_nothing():
    split = bare_split([bare_target([[0, 0, 10, 10]], [1])])
    found = [detections([[0, 0, 10, 10], [50, 50, 60, 60]], [0.9, 0.8], [1, 2])]
    judged = object_metrics(split, found, "p")
    assert judged.boxes.class_ap == (None, pytest.approx(1.0), None)
    assert judged.voc.area == (None, 1.0, None)
    assert judged.boxes.numbers["APl"] is None


def brute_force_voc(split, found, label, overlap):
    """VOC's rule written out, one detection at a time."""
    rows = [
        (float(score), row, box)
        for row, each in enumerate(found)
        for box, score, of in zip(each["boxes"], each["scores"], each["labels"], strict=True)
        if of == label
    ]
    rows.sort(key=lambda entry: -entry[0])
    used, hits = set(), []
    for _, row, box in rows:
        target = split.targets[row]
        best, at = -1.0, None
        for place in range(len(target)):
            if target.labels[place] != label:
                continue
            x1, y1, x2, y2 = map(float, target.boxes[place])
            wide = min(x2, box[2]) - max(x1, box[0])
            high = min(y2, box[3]) - max(y1, box[1])
            shared = wide * high if wide > 0 and high > 0 else 0.0
            mine = float((box[2] - box[0]) * (box[3] - box[1]))
            iou = shared / (mine + (x2 - x1) * (y2 - y1) - shared)
            if iou > best:
                best, at = iou, place
        if best >= overlap and target.difficult[at]:
            continue
        if best >= overlap and (row, at) not in used:
            used.add((row, at))
            hits.append(1)
        else:
            hits.append(0)
    total = sum(
        int(of == label and not hard)
        for target in split.targets
        for of, hard in zip(target.labels, target.difficult, strict=True)
    )
    right, recall, precision = 0, [], []
    for count, hit in enumerate(hits, start=1):
        right += hit
        recall.append(right / total)
        precision.append(right / count)
    eleven = sum(
        max([p for r, p in zip(recall, precision, strict=True) if r >= level / 10], default=0.0)
        for level in range(11)
    )
    area, before = 0.0, 0.0
    for place, level in enumerate(recall):
        area += (level - before) * max(precision[place:])
        before = level
    return eleven / 11, area


@pytest.mark.parametrize("overlap", [0.3, 0.5, 0.75])
def test_voc_agrees_with_brute_force(overlap):
    rng = np.random.default_rng(4)
    targets = []
    for _ in range(25):
        boxes = rng.uniform(0, 60, (rng.integers(1, 6), 4))
        boxes[:, 2:] = boxes[:, :2] + rng.uniform(8, 40, (len(boxes), 2))
        labels, hard = rng.integers(0, 3, len(boxes)), rng.random(len(boxes)) < 0.25
        targets.append(bare_target(boxes, labels, difficult=hard))
    split = bare_split(targets)
    found = random_detections(split, rng, 4.0, masks=False)
    for each in found:  # no ties, whose order is not the rule's
        each["scores"] = rng.random(len(each["scores"])).astype(np.float32)
    figures = voc_figures(split, found, overlap)
    for label in range(3):
        eleven, area = brute_force_voc(split, found, label, overlap)
        assert figures.ap11[label] == pytest.approx(eleven)
        assert figures.area[label] == pytest.approx(area)
    assert figures.map == pytest.approx(np.mean(figures.area))


def test_voc_curves_by_hand():
    recall, precision = np.array([0.25, 0.25, 0.5]), np.array([1.0, 0.5, 2 / 3])
    assert area_under(recall, precision) == pytest.approx(0.25 + 0.25 * 2 / 3)
    assert eleven_point(recall, precision) == pytest.approx((3 * 1.0 + 3 * 2 / 3) / 11)


def test_difficult_objects_count_for_nothing_found_or_not():
    split = bare_split([bare_target([[0, 0, 20, 20], [50, 50, 70, 70]], [0, 0], difficult=[0, 1])])
    alone = [detections([[0, 0, 20, 20]], [0.5], [0])]
    both = [detections([[0, 0, 20, 20], [50, 50, 70, 70]], [0.5, 0.9], [0, 0])]
    for found in (alone, both):
        assert voc_figures(split, found).map == 1.0
        assert coco_figures(split, found).numbers["AP"] == pytest.approx(1.0)


def test_mean_iou_agrees_with_brute_force():
    rng = np.random.default_rng(0)
    truth, predicted = rng.integers(0, 4, (2, 6, 20, 30))
    truth = np.where(rng.random(truth.shape) < 0.1, 255, truth)
    meter = PixelMeter(5)
    for one, other in zip(predicted, truth, strict=True):
        meter.add(one.astype(np.uint8), other.astype(np.uint8))
    figures = meter.figures()
    counted = truth != 255
    expected = []
    for label in range(4):
        both = ((truth == label) & (predicted == label)).sum()
        either = (((truth == label) | (predicted == label)) & counted).sum()
        expected.append(both / either)
    assert figures.class_iou == (*(pytest.approx(share) for share in expected), None)
    assert figures.mean_iou == pytest.approx(np.mean(expected))
    assert figures.pixel_accuracy == pytest.approx((truth == predicted)[counted].mean())


def test_the_ground_truth_scores_one_on_real_class_maps(shared_data):
    source = str(shared_data / "coco-tiny.tar")
    split = open_detection(DataSpec(source=source), task="segment").test()
    split = split.take(np.arange(8))
    meter = PixelMeter(len(split.classes))
    for target in split.targets:
        truth = target.semantic.read()
        meter.add(np.where(truth == 255, 0, truth), truth)
    judged = pixel_metrics(split, meter, "p")
    assert judged.semantic.mean_iou == judged.semantic.pixel_accuracy == 1.0
    json.dumps(judged.to_json(), allow_nan=False)
