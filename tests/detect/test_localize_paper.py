"""The paper's localization (appendix C): crops, dense and multi-scale tests, classes of others."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from detect_models import NET, PCR, small_model
from detect_sets import CATEGORIES, write_coco

import resnets
from resnets import recipes
from resnets.cli.main import main
from resnets.config import ConfigError, DataSpec, OptimSpec, Preprocess, Recipe, from_toml
from resnets.data.transforms.preprocess import Preprocessor
from resnets.detect.data.transforms import crop_object
from resnets.detect.loading.sources import open_detection
from resnets.detect.loading.train_batches import DetectStream
from resnets.detect.models.base import InferenceOptions
from resnets.detect.models.layers import rescale
from resnets.detect.models.localizer import Refiner
from resnets.models import build, catalog
from resnets.train.run import run_training

CROP = dataclasses.replace(PCR, train_crop=48, train_sizes=(64,), max_size=200, scale=(1.0, 1.5))
RCNN = dataclasses.replace(CROP, head="rcnn", proposals=(20, 10), proposals_from="unused")
SMALL = dataclasses.replace(NET, input_size=32)
NAMES = [each["name"] for each in CATEGORIES]


@pytest.fixture(scope="module")
def objects(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A COCO set whose images have objects of one class each."""
    root = tmp_path_factory.mktemp("objects")
    for title, count in (("train", 6), ("val", 4)):
        document = write_coco(root, title, [(90 + 8 * n, 70) for n in range(count)], count)
        for each in document["annotations"]:
            each["category_id"] = CATEGORIES[each["image_id"] % 3]["id"]
        (root / "annotations" / f"instances_{title}.json").write_text(json.dumps(document))
    return root


@pytest.fixture(scope="module")
def run(objects: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("run") / "pcr"
    recipe = Recipe(
        name="small",
        task="localize",
        model=NET,
        data=DataSpec(source=str(objects)),
        detect=CROP,
        optim=OptimSpec(lr=0.01),
        duration="2it",
        batch_size=2,
        precision="float32",
    )
    result = run_training(recipe, out, device="cpu", quiet=True)
    assert result["test"]["protocol"].startswith("center crop of 48 px, shorter side 64 px")
    return out


@pytest.fixture(scope="module")
def classifiers(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two networks of the set's classes, in another order and with one class more."""
    root = tmp_path_factory.mktemp("nets")
    paths = []
    for seed in range(2):
        torch.manual_seed(seed)
        net = build(catalog.spec("cifar-resnet8", num_classes=4))
        seen = Preprocess(size=32, resize=32)
        net.save(root / f"{seed}", classes=["other", *NAMES[::-1]], preprocess=seen)
        paths.append(root / f"{seed}")
    return paths


def test_crops_have_half_of_an_object() -> None:
    boxes = np.array([[10, 10, 30, 30], [100, 50, 140, 90]], np.float32)
    (rows, columns), found, kept = crop_object(boxes, (100, 150), 48, [(0.99, 0.0), (0.0, 0.1)])
    assert (rows, columns) == (slice(0, 48), slice(10, 58))  # the second place
    assert kept.tolist() == [0]
    assert found.tolist() == [[0, 10, 20, 30]]
    (rows, columns), found, kept = crop_object(boxes, (100, 150), 48, [(0.99, 0.0)])
    assert kept.tolist() == [0]  # no place has one: the square around the first
    assert found[0].tolist() == [10, 10, 30, 30]
    large = np.array([[0, 0, 150, 100]], np.float32)
    (rows, columns), found, kept = crop_object(large, (100, 150), 48, [(0.5, 0.5)])
    assert (rows.stop - rows.start, columns.stop - columns.start) == (48, 48)
    assert found.tolist() == [[0, 0, 48, 48]]
    whole, found, _ = crop_object(boxes, (100, 150), 400, [(0.5, 0.5)])
    assert whole == (slice(0, 100), slice(0, 150))
    assert np.array_equal(found, boxes)


def test_training_images_are_crops_that_differ_by_epoch(objects: Path) -> None:
    data = DataSpec(source=str(objects))
    split = open_detection(data, CROP, "localize").train
    means = Preprocessor(Preprocess())

    def batches(count: int) -> list:
        stream = DetectStream(split, data, CROP, means, 2, 0, torch.device("cpu"), "localize")
        found = []
        for batch in stream.batches():
            found.append(batch)
            if len(found) == count:
                return found
        raise AssertionError

    first, again = batches(6), batches(6)
    for one, other in zip(first, again, strict=True):
        for image, target, same in zip(one.images, one.targets, other.images, strict=True):
            assert image.shape == (3, 48, 48)
            assert torch.equal(image, same)
            assert len(target["boxes"]) == len(target["labels"]) >= 1
            assert (target["boxes"] >= 0).all()
            assert (target["boxes"] <= 48).all()


def test_the_center_square_is_tested_in_the_image_own_pixels() -> None:
    model = small_model(CROP, "localize")
    image = torch.randn(3, 64, 100, generator=torch.Generator().manual_seed(0))
    found = model.infer(image[None], [(128, 200)])[0].located
    with torch.no_grad():
        scores, boxes, _ = model([image[:, 8:56, 26:74]])
    expected = (boxes[0] + torch.tensor([26.0, 8, 26, 8])) * 2
    np.testing.assert_allclose(found["boxes"], expected.numpy(), rtol=1e-4, atol=1e-3)
    np.testing.assert_allclose(found["scores"], scores[0].numpy(), rtol=1e-5)


def test_at_several_scales_the_most_confident_box_of_a_class_is_kept() -> None:
    model = small_model(CROP, "localize")
    image = torch.randn(3, 96, 130, generator=torch.Generator().manual_seed(0))
    scales = (48, 64, 96)
    options = InferenceOptions(scales=scales)
    found = model.infer(image[None], [(96, 130)], options=options)[0].located
    with torch.no_grad():
        each = [model([rescale(image, side / 96)]) for side in scales]
    for label in range(3):
        best = max(range(3), key=lambda view: each[view][2][0, label].item())
        expected = each[best][1][0, label] * 96 / scales[best]
        np.testing.assert_allclose(found["boxes"][label], expected.numpy(), rtol=1e-4, atol=1e-3)
    mean = torch.stack([view[0][0] for view in each]).mean(0)
    np.testing.assert_allclose(found["scores"], mean.numpy(), rtol=1e-4)
    one = model.infer(image[None], [(96, 130)], options=InferenceOptions(scales=(96,)))[0].located
    with torch.no_grad():
        np.testing.assert_allclose(one["boxes"], model([image])[1][0].numpy(), rtol=1e-4, atol=1e-3)


def test_a_batch_of_the_recipe_has_the_anchors_and_regions_of_the_paper() -> None:
    proposals, regions = (
        recipes.recipe("localize", f"resnet101-{head}") for head in ("pcr", "rcnn")
    )
    assert (proposals.batch_size, proposals.detect.rpn_batch_size) == (256, 8)
    assert proposals.detect.train_crop == 224
    assert regions.batch_size * regions.detect.box_batch_size == 256
    assert regions.detect.proposals == (200, 200)


def test_rcnn_predicts_each_class_by_itself() -> None:
    """Losses of a region: whether it is the object, for each class; the box of its class."""
    random = torch.Generator().manual_seed(0)
    logits, offsets = torch.randn(4, 3, generator=random), torch.randn(4, 3, 4, generator=random)
    labels, truth = torch.tensor([2, 0, 1, 2]), torch.randn(4, 4, generator=random)
    losses = Refiner._region_losses(logits, offsets, labels, truth)
    of_classes = of_boxes = 0.0
    for row, label in enumerate(labels.tolist()):
        for index in range(3):
            share = logits[row, index].sigmoid()
            of_classes -= (share if label == index + 1 else 1 - share).log()
        if label:
            for found, expected in zip(offsets[row, label - 1], truth[row], strict=True):
                error = (found - expected).abs()
                of_boxes += 4.5 * error**2 if error < 1 / 9 else error - 1 / 18
    torch.testing.assert_close(losses["loss_classifier"], of_classes / 4)
    torch.testing.assert_close(losses["loss_box_reg"], of_boxes / 4)


def test_rcnn_reads_the_classes_that_others_say() -> None:
    """With more classes than it reads, those that are given decide."""
    spec = dataclasses.replace(RCNN, train_crop=None)
    model = small_model(spec, "localize", SMALL, classes=9)
    image = torch.randn(3, 64, 64, generator=torch.Generator().manual_seed(0))
    given = torch.arange(9.0).softmax(0)
    with torch.no_grad():
        scores, _, confidence = model([image], scores=given[None])
    assert torch.equal(scores[0], given)
    assert (confidence[0] > 1).nonzero()[:, 0].tolist() == [4, 5, 6, 7, 8]
    found = model.infer(image[None], [(64, 64)], scores=given[None])[0].located
    np.testing.assert_allclose(found["scores"], given.numpy())


def test_classes_from_other_networks_are_evaluated(
    run: Path, classifiers: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["evaluate", str(run), "--json", "--scales", "64,96", "--device", "cpu"]
    assert main([*words, "--classes-from", *map(str, classifiers), "--flip"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert "dense at shorter sides 64, 96 px" in report["protocol"]
    assert "2 models" in report["protocol"]
    own = resnets.evaluate(run, scales=(64, 96), quiet=True).evaluation.located
    theirs = report["localization"]
    assert theirs["given_error"] == own.given_error  # boxes do not depend on them
    nets = [resnets.load(path) for path in classifiers]
    split = open_detection(
        from_toml(run / "recipe.toml", stored=True).data, CROP, "localize"
    ).test()
    wrong = 0
    for row, target in enumerate(split.targets):
        image = split.files.read(row)
        shares = []
        for net in nets:
            path = run / "image.png"
            path.write_bytes(image)
            x = net.preprocess(path)[None]
            with torch.no_grad():
                shares.append(
                    torch.stack([net(x).softmax(1), net(x.flip(3)).softmax(1)]).mean(0)[0]
                )
        outputs = [nets[0].classes.index(name) for name in split.classes]
        wrong += int(torch.stack(shares).mean(0)[outputs].argmax()) != int(target.labels[0])
    assert theirs["class_top1_error"] == pytest.approx(100 * wrong / len(split))


def test_classes_from_a_plain_file_take_its_network_and_names_as_options(
    run: Path, classifiers: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    net = resnets.load(classifiers[0])
    torch.save(net.state_dict(), tmp_path / "plain.pth")
    words = ["evaluate", str(run), "--json", "--device", "cpu"]
    words += ["--classes-from", str(tmp_path / "plain.pth")]
    assert main(words) == 2
    assert "give --model NAME" in capsys.readouterr().err
    words += ["--model", "cifar-resnet8"]
    assert main(words) == 1
    assert "give --classes FILE" in capsys.readouterr().err
    assert main([*words, "--classes", ",".join(net.classes)]) == 0
    assert json.loads(capsys.readouterr().out)["examples"] > 0
    assert main(["evaluate", str(run), "--model", "cifar-resnet8"]) == 2


def test_classes_from_others_are_refused_where_they_do_not_fit(
    run: Path, classifiers: list[Path], tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="classes_from"):
        resnets.evaluate(classifiers[0], str(tmp_path), classes_from=[str(classifiers[1])])
    net = resnets.load(classifiers[0])
    net.save(tmp_path / "others", classes=["a", "b", "c", "d"])
    with pytest.raises(ValueError, match="red"):
        resnets.evaluate(run, classes_from=[str(tmp_path / "others")], quiet=True)
    with pytest.raises(ConfigError, match="views"):
        resnets.evaluate(run, views="ten-crop", quiet=True)
