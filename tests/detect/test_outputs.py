"""`infer` of every kind of model: one output, the same by predict, evaluate and serve."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from detect_models import FPN, NET, PCR, SEGMENT, small_model
from PIL import Image

from resnets.config import Preprocess
from resnets.data.decode.bad_samples import BadSamples
from resnets.data.transforms.preprocess import Preprocessor
from resnets.detect.data.class_maps import IGNORE
from resnets.detect.data.types import DetectionSplit, Target
from resnets.detect.evaluate.measure import detect_all, measure
from resnets.detect.models.predictor import InferenceInput, Predictor, predict_images

CLASSES = ("disc", "box", "star")
SIZE = (90, 130)
KINDS = {
    "detect": (FPN, NET),
    "instances": (FPN, NET),
    "segment": (SEGMENT, dataclasses.replace(NET, dilate=2)),
    "localize": (PCR, NET),
}


class Whole:
    """A class map that is all of class 1, but for a row that counts for nothing."""

    def read(self):
        classes = np.ones(SIZE, np.uint8)
        classes[0] = IGNORE
        return classes

    def relabel(self, labels):
        raise AssertionError("classes are in order")


@pytest.fixture(scope="module")
def split(tmp_path_factory):
    from resnets.data.files.folder import FolderFiles

    folder = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    for number in range(3):
        pixels = rng.integers(0, 255, (*SIZE, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    outline = [[20.0, 20.0, 60.0, 20.0, 60.0, 60.0, 20.0, 60.0]]
    target = Target(
        boxes=np.array([[20, 20, 60, 60]], np.float32),
        labels=np.array([1], np.int64),
        crowd=np.zeros(1, np.bool_),
        difficult=np.zeros(1, np.bool_),
        areas=np.array([1600], np.float32),
        masks=(outline,),
        semantic=Whole(),
        image_id=1,
        width=SIZE[1],
        height=SIZE[0],
    )
    files = FolderFiles(folder, [f"{number}.png" for number in range(3)])
    targets = [dataclasses.replace(target, image_id=number) for number in range(3)]
    return DetectionSplit(files, targets, CLASSES, "three images", (1, 2, 3))


def predictor(task, models=1):
    spec, net = KINDS[task]
    spec = dataclasses.replace(spec, score_threshold=0.0, train_sizes=(64,), max_size=128)
    spec = dataclasses.replace(spec, proposals=(20, 10))  # of which each class has a detection
    members = [small_model(spec, task, net, seed=seed) for seed in range(models)]
    means = Preprocessor(Preprocess())
    return Predictor.of(members, means, torch.device("cpu"), "float32")


@pytest.mark.parametrize("task", KINDS)
def test_an_output_is_json_an_image_and_counts(split, task):
    chosen = predictor(task)
    (first, *_), unreadable = list(chosen.inputs(split.files, BadSamples())), BadSamples()
    (output,) = chosen.infer([first])
    assert output.size == SIZE
    plain = json.loads(json.dumps(output.to_json(CLASSES), allow_nan=False))
    assert (plain["height"], plain["width"]) == SIZE
    pixels = split.read(0)[0]
    assert output.draw(pixels, CLASSES).width >= SIZE[1]
    counts = output.counts(CLASSES)
    if task == "segment":
        assert sum(counts.values()) == SIZE[0] * SIZE[1]
        assert sum(each["share"] for each in plain["areas"]) == pytest.approx(1, abs=1e-4)
        assert output.objects is None
    else:
        assert sum(counts.values()) == len(plain["objects"]) == len(output.objects["scores"])
        scores = [each["score"] for each in plain["objects"]]
        assert scores == sorted(scores, reverse=True)
        assert all(("mask" in each) == (task == "instances") for each in plain["objects"])
    assert len(unreadable) == 0


@pytest.mark.parametrize("task", KINDS)
@pytest.mark.parametrize("models", [1, 2])
def test_predict_serve_and_evaluate_find_the_same(split, task, models):
    chosen = predictor(task, models)
    paths = [split.files.root / name for name in split.files.paths]
    predicted = [each.output for each in predict_images(chosen, paths, 0.0)]
    served = chosen.infer([chosen.prepare(path.read_bytes(), path.name) for path in paths])
    for one, other in zip(predicted, served, strict=True):
        assert one.to_json(CLASSES) == other.to_json(CLASSES)
    measured = measure(chosen, split, "weights")
    assert measured.metrics.examples == 3
    if task in ("detect", "instances"):
        objects, errors = detect_all(chosen, split)
        assert not errors
        for each, found, alone in zip(predicted, measured.found, objects, strict=True):
            for name in ("boxes", "scores", "labels"):
                assert np.array_equal(each.objects[name], found[name])
                assert np.array_equal(each.objects[name], alone[name])
        assert (measured.metrics.masks is not None) == (task == "instances")
    if task == "segment":
        pixels = sum(each.areas[1] for each in predicted)
        row = sum(int((each.classes[0] == 1).sum()) for each in predicted)
        counted = 3 * (SIZE[0] - 1) * SIZE[1]
        expected = (pixels - row) / counted
        assert measured.metrics.semantic.pixel_accuracy == pytest.approx(expected)


@pytest.mark.parametrize("task", ["detect", "segment", "localize"])
def test_a_threshold_excludes_detections_only(split, task):
    chosen = predictor(task)
    (output,) = chosen.infer([next(chosen.inputs(split.files, BadSamples()))])
    kept = output.above(1.0)
    if task == "detect":
        assert len(output.objects["scores"]) > 0 == len(kept.objects["scores"])
    else:
        assert kept.to_json(CLASSES) == output.to_json(CLASSES)


@pytest.mark.parametrize("task", KINDS)
def test_images_of_one_size_are_computed_together_and_as_alone(task, monkeypatch):
    alone = predictor(task)
    together = dataclasses.replace(alone, batch_pixels=2 * 64 * 96)
    generator = np.random.default_rng(0)
    sizes = [(64, 96), (64, 80), (64, 96), (64, 96), (64, 80)]
    inputs = []
    for row, size in enumerate(sizes):
        image = torch.from_numpy(generator.integers(0, 256, (3, *size), np.uint8))
        inputs.append(InferenceInput(row, (2 * size[0], 2 * size[1]), image))
    expected = alone.infer(inputs)
    model, batches = type(alone.models[0]), []
    infer = model.infer

    def record(self, images, *args):
        batches.append(len(images))
        return infer(self, images, *args)

    monkeypatch.setattr(model, "infer", record)
    found = list(together.outputs(iter(inputs)))
    assert batches == [2, 1, 2]
    assert [each for each, _ in found] == inputs
    for (_, output), other in zip(found, expected, strict=True):
        assert output.size == other.size
        assert output.agreement(other) == pytest.approx(1.0, abs=1e-3)
        if task != "segment":
            np.testing.assert_allclose(
                output.objects["scores"], other.objects["scores"], rtol=1e-3, atol=1e-5
            )
            np.testing.assert_allclose(
                output.objects["boxes"], other.objects["boxes"], rtol=1e-3, atol=1e-2
            )
