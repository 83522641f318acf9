"""Results of `resnets.evaluate` offer the same of every task."""

import json

import pytest
from detect_models import FPN, SEGMENT
from detect_runs import tiny_run
from detect_sets import write_coco

import resnets


def signals_run(root):
    options = {"iterations": 1, "device": "cpu", "quiet": True, "precision": "float32"}
    return resnets.train("signals", out=root / "signals", **options)


def detection_run(root, task, spec):
    write_coco(root / "set", "train", [(80, 60), (60, 80)] * 4)
    write_coco(root / "set", "val", [(80, 60), (40, 90)], seed=9)
    return tiny_run(root, task, spec)


@pytest.mark.parametrize(
    ("make", "metric", "title"),
    [
        (lambda root: "resnets:digits/cifar-resnet20", "top1_error", "top-1 error"),
        (signals_run, "top1_error", "top-1 error"),
        (lambda root: detection_run(root, "detect", FPN), "AP", "mAP"),
        (lambda root: detection_run(root, "segment", SEGMENT), "mean_iou", "mean IoU"),
    ],
)
def test_results_have_metrics_examples_protocol_and_errors(tmp_path, make, metric, title):
    weights = make(tmp_path)
    data = "digits" if isinstance(weights, str) else None
    found = resnets.evaluate(weights, data, device="cpu", quiet=True)
    assert 0 <= found.metrics[metric] <= 100
    assert all(isinstance(value, float) for value in found.metrics.values())
    assert found.examples > 0
    assert not found.errors
    values = json.loads(json.dumps(found.to_json()))
    assert values["protocol"] == found.protocol
    assert values["examples"] == found.examples
    assert str(found).startswith(f"{title} {found.metrics[metric]:.2f}%")
    assert str(found).endswith(f"({found.protocol})")


def test_weights_without_a_record_say_whether_their_recipe_held_the_images_out(caplog):
    weights = "resnets:digits/cifar-resnet20"
    resnets.evaluate(weights, device="cpu", quiet=True)
    assert "by the recipe these images were held out" in caplog.text
    caplog.clear()
    images = resnets.open_data("digits").train.images[:8, :, :, 0].numpy()
    resnets.evaluate(weights, (images, list("01234567")), device="cpu", quiet=True)
    assert "may have been trained on" in caplog.text
