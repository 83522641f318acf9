"""Predict and evaluate take loaded detectors, segmenters and localizers, and images in memory."""

import numpy as np
import pytest
import torch
from detect_models import FPN, PCR, SEGMENT, small_model
from detect_runs import tiny_run
from detect_sets import CATEGORIES, save, write_coco
from PIL import Image

import resnets
from resnets.models.transformer.network import Transformer

EXACT = {"device": "cpu", "precision": "float32"}
TASKS = {"detect": FPN, "instances": FPN, "segment": SEGMENT, "localize": PCR}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    root = tmp_path_factory.mktemp("runs")
    for title, sizes in {"train": [(80, 60), (60, 80)] * 4, "val": [(80, 60), (40, 90)]}.items():
        document = write_coco(root / "set", title, sizes)
        for each in document["annotations"]:  # localizers take images of one class
            each["category_id"] = CATEGORIES[each["image_id"] % len(CATEGORIES)]["id"]
        save(root / "set", title, document)
    return root


def trained(place, task):
    """The run of a task, trained once."""
    return place / task if (place / task).exists() else tiny_run(place, task, TASKS[task])


@pytest.fixture(scope="module", params=TASKS)
def run(request, place):
    return trained(place, request.param)


@pytest.fixture
def paths(place):
    return sorted((place / "set/val").glob("*.png"))


def values(prediction):
    assert prediction.error is None
    return {name: each for name, each in prediction.to_json().items() if name != "path"}


def test_a_path_a_loaded_model_and_images_in_memory_predict_the_same(run, paths):
    expected = resnets.predict(run, paths, **EXACT)
    opened = [Image.open(path) for path in paths]
    inputs = {
        "paths": paths,
        "opened": opened,
        "arrays": [np.asarray(Image.open(path)) for path in paths],
        "floats": [np.asarray(Image.open(path)) / np.float32(255) for path in paths],
        "tensors": [
            torch.from_numpy(np.asarray(Image.open(path)).copy()).movedim(2, 0) for path in paths
        ],
    }
    for weights in (run, resnets.load(run)):
        for kind, images in inputs.items():
            found = resnets.predict(weights, images, **EXACT)
            names = [str(path) for path in paths] if kind == "paths" else ["image 0", "image 1"]
            assert [str(each.path) for each in found] == names
            for one, other in zip(found, expected, strict=True):
                assert values(one) == values(other)
                np.testing.assert_array_equal(np.asarray(one.draw()), np.asarray(other.draw()))
    (one,) = resnets.predict(run, opened[1], **EXACT)  # one image that is not in a list
    assert values(one) == values(expected[1])


def test_a_loaded_model_is_left_as_it_was(run, paths):
    model = resnets.load(run).train()
    before = {name: each.clone() for name, each in model.state_dict().items()}
    strides = {name: each.stride() for name, each in model.state_dict().items()}
    found = resnets.predict(model, paths, **EXACT)
    expected = resnets.predict(run, paths, **EXACT)
    assert [values(each) for each in found] == [values(each) for each in expected]
    assert all(module.training for module in model.modules())
    for name, each in model.state_dict().items():
        assert torch.equal(each, before[name])
        assert each.stride() == strides[name]


def test_a_loaded_model_is_evaluated_as_its_run(run):
    model = resnets.load(run)
    options = {"split": "val", "quiet": True, **EXACT}
    expected = resnets.evaluate(run, **options)
    for each in (model, [model]):
        measured = resnets.evaluate(each, **options)
        assert measured.metrics == expected.metrics
        assert measured.protocol == expected.protocol
    assert resnets.evaluate([run, model], **options).examples == expected.examples


@pytest.mark.parametrize(
    "options", [{"model": "resnet18"}, {"classes": "a,b"}, {"backend": "onnx"},
                {"precision": "int8"}, {"calibrate": "digits"}, {"top_k": 3}],
)  # fmt: skip
def test_options_that_a_loaded_detector_does_not_have_are_refused(place, paths, options):
    model = resnets.load(trained(place, "detect"))
    with pytest.raises(resnets.ConfigError):
        resnets.predict(model, paths, **options)


def test_export_of_a_loaded_model_is_that_of_its_run(place, tmp_path):
    pytest.importorskip("onnx")
    run = trained(place, "segment")
    model = resnets.load(run).train()
    of_run = resnets.export(run, out=tmp_path / "run.onnx", quiet=True)
    of_model = resnets.export(model, out=tmp_path / "model.onnx", quiet=True)
    assert of_model.path.read_bytes() == of_run.path.read_bytes()
    assert of_model.manifest["source"]["weights"] == of_run.manifest["source"]["weights"]
    assert all(module.training for module in model.modules())
    with pytest.raises(resnets.ConfigError, match="loaded model"):
        resnets.export(model, classes="a,b")


def test_models_that_cannot_predict_are_refused(place, paths):
    run = trained(place, "detect")
    unnamed = resnets.load(run)
    unnamed.classes = ("a",)
    transformer = Transformer(resnets.recipes.recipe("text").transformer)
    for model in (unnamed, small_model(FPN, "detect"), torch.nn.Linear(1, 1), transformer):
        with pytest.raises(resnets.ConfigError):
            resnets.predict(model, paths)
    classifier = resnets.load("resnets:cifar10/cifar-resnet20")
    with pytest.raises(resnets.ConfigError, match="same task"):
        resnets.evaluate([classifier, resnets.load(run)], quiet=True)


def test_images_in_memory_that_cannot_be_read_have_an_error(place, paths, tmp_path):
    run = trained(place, "detect")
    whole = paths[0].read_bytes()
    (tmp_path / "cut.png").write_bytes(whole[: len(whole) // 2])
    images = [Image.open(tmp_path / "cut.png"), np.zeros((4, 4), int), Image.open(paths[0])]
    images += [Image.open(paths[0]).convert("L"), tmp_path / "missing.png"]
    found = resnets.predict(run, images, **EXACT)
    assert [each.error is None for each in found] == [False, False, True, True, False]
    assert found[0].error.startswith("image 0: ")
    assert found[1].error.startswith("image 1: ")
    with pytest.raises(resnets.DataError):
        found[0].draw()


def test_a_turned_image_in_memory_is_upright(place, tmp_path):
    run = trained(place, "detect")
    exif = Image.Exif()
    exif[0x0112] = 6  # the orientation: turned by 90 degrees
    Image.open(next((place / "set/val").glob("*.png"))).save(tmp_path / "turned.png", exif=exif)
    one, other = resnets.predict(
        run, [tmp_path / "turned.png", Image.open(tmp_path / "turned.png")], **EXACT
    )
    assert values(one) == values(other)


@pytest.mark.parametrize("name", ["foo", "0", "cuda:x", ""])
def test_an_unknown_device_is_refused_with_ours(name):
    with pytest.raises(resnets.ConfigError) as caught:
        resnets.predict("resnets:cifar10/cifar-resnet20", [], device=name)
    assert "auto, cpu, cuda" in str(caught.value)
