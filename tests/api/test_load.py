"""`resnets.load` opens the models of all tasks as modules."""

import numpy as np
import pytest
import torch
from detect_models import FPN, PCR, SEGMENT, small_model
from detect_runs import tiny_run
from detect_sets import write_coco
from PIL import Image

import resnets
from resnets.detect.models.base import DetectionModel


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    root = tmp_path_factory.mktemp("runs")
    write_coco(root / "set", "train", [(80, 60), (60, 80)] * 4)
    write_coco(root / "set", "val", [(80, 60), (40, 90)], seed=9)
    return root


@pytest.mark.parametrize(("task", "spec"), [("detect", FPN), ("instances", FPN)])
def test_a_detector_takes_a_list_of_images_as_torchvisions(place, task, spec):
    run = tiny_run(place, task, spec)
    model = resnets.load(run)
    assert isinstance(model, DetectionModel)
    assert not model.training
    assert model.recipe.task == task
    paths = sorted((place / "set/val").glob("*.png"))
    inputs = model.preprocess(paths)
    assert [tuple(each.shape) for each in inputs] == [(3, 64, 85), (3, 120, 53)]
    with torch.no_grad():
        found = [model([each])[0] for each in inputs]  # one by one, as predict does on a CPU
    predictions = resnets.predict(run, paths, threshold=0.0, device="cpu", precision="float32")
    for path, image, each, prediction in zip(paths, inputs, found, predictions, strict=True):
        objects = prediction.output.objects
        width, height = Image.open(path).size
        scale = torch.tensor([width / image.shape[2], height / image.shape[1]] * 2)
        np.testing.assert_allclose((each["boxes"] * scale).numpy(), objects["boxes"], atol=1e-3)
        np.testing.assert_allclose(each["scores"].numpy(), objects["scores"], atol=1e-5)
        assert (each["labels"] - 1).tolist() == objects["labels"].tolist()
        assert ("masks" in each) == (task == "instances")
    with pytest.raises(resnets.ConfigError, match="classes: only for classifiers"):
        resnets.load(run, classes="a,b,c")
    assert type(resnets.Run(run).model) is type(model)


def test_a_segmenter_takes_batches(place):
    run = tiny_run(place, "segment", SEGMENT)
    model = resnets.load(resnets.Run(run))
    (path, _) = sorted((place / "set/val").glob("*.png"))
    image = model.preprocess(path)
    with torch.no_grad():
        scores = model(image[None])
    assert scores.shape == (1, len(model.classes), *image.shape[1:])
    pixels = np.asarray(Image.open(path))
    torch.testing.assert_close(model.preprocess(pixels), image)
    torch.testing.assert_close(model.preprocess(Image.open(path)), image)


@pytest.mark.parametrize("spec", [FPN, PCR])
def test_a_batch_of_images_of_one_size_may_be_a_tensor(spec):
    model = small_model(spec, "detect" if spec is FPN else "localize")
    images = torch.randn(2, 3, 64, 96)
    with torch.no_grad():
        for one, other in zip(model(images), model(list(images)), strict=True):
            torch.testing.assert_close(one, other)


def test_models_of_text_and_signals(tmp_path):
    options = {"iterations": 1, "device": "cpu", "quiet": True, "precision": "float32"}
    run = resnets.train("signals", out=tmp_path / "signals", **options)
    model = resnets.load(run)
    signals = torch.randn(2, model.spec.in_channels, model.spec.input_size)
    assert model(signals).shape == (2, len(model.classes))
    small = {"depth": 1, "width": 16, "heads": 2, "context": 16}
    run = resnets.train("text", out=tmp_path / "text", transformer=small, **options)
    assert run.model(torch.zeros(2, 7, dtype=torch.int64)).shape == (2, 7, len(run.model.classes))


def test_an_artifact_is_not_a_module(tmp_path):
    with pytest.raises(resnets.ConfigError, match="is an artifact"):
        resnets.load(tmp_path / "net.onnx")


@pytest.mark.parametrize(
    "image", [np.zeros((0, 8, 3), np.uint8), np.zeros((8, 0), np.uint8), Image.new("RGB", (0, 4))]
)
def test_an_image_without_pixels_is_an_error_of_its_row(image):
    good = np.zeros((8, 8), np.uint8)
    found = resnets.predict("resnets:digits/cifar-resnet20", [good, image])
    assert [each.error is None for each in found] == [True, False]
    assert "no pixels" in found[1].error
