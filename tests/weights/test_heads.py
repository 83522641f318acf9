"""Heads are kept by the names of their classes, and by nothing else unless the user says so."""

import dataclasses
import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from detect_models import FPN, NET, small_model
from PIL import Image
from test_create import run_folder

import resnets
from resnets.config import ConfigError, DataSpec, ModelSpec, OptimSpec, Preprocess, Recipe
from resnets.data.tables.ground_truth_file import WNIDS
from resnets.detect.models.build import build_model
from resnets.detect.models.weights import find_model_tensors, load_whole_weights
from resnets.models import build, catalog
from resnets.train.run import run_training
from resnets.weights.heads import imagenet_classes, match_class_names, parse_classes
from resnets.weights.lazy_tensors import to_lazy
from resnets.weights.read import Weights

TINY = ModelSpec(name="tiny", depths=(1, 1), widths=(4, 8), stem_width=4, num_classes=3)


def test_classes_are_the_same_by_name() -> None:
    assert match_class_names(["a", "b"], ["b", "a"]).tolist() == [1, 0]
    assert match_class_names(["caf\u00e9", "b"], ["b", "cafe\u0301"]).tolist() == [1, 0]
    assert match_class_names(["a", "b"], ["a", "c"]) is None
    assert match_class_names(["a", "b", "c"], ["a", "b"]) is None
    assert match_class_names(["a", "a"], ["a", "a"]) is None
    assert match_class_names(imagenet_classes(), WNIDS[::-1]).tolist() == list(range(1000))[::-1]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Eight noisy images of each of two colors."""
    draw = np.random.default_rng(0)
    for name in ("b", "a"):
        (tmp_path / "data" / name).mkdir(parents=True)
        for index in range(8):
            pixels = draw.integers(0, 256, (20, 20, 3), np.uint8)
            Image.fromarray(pixels).save(tmp_path / "data" / name / f"{index}.png")
    return tmp_path / "data"


def train(
    data: Path, weights: Path, out: Path, **changes: object
) -> resnets.models.ImageClassifier:
    recipe = Recipe(
        model=TINY,
        data=DataSpec(source=str(data), size=20, resize=20),
        optim=OptimSpec(lr=0.0),
        duration="1it",
        batch_size=4,
        precision="float32",
        weights=str(weights),
        **changes,
    )
    run_training(recipe, out, device="cpu", quiet=True)
    return resnets.load(out)


def save(path: Path, **beside: object) -> torch.nn.Module:
    torch.manual_seed(1)
    net = build(dataclasses.replace(TINY, num_classes=2))
    torch.save({"state_dict": net.state_dict(), **beside}, path)
    return net


@pytest.mark.parametrize(
    ("classes", "rows"), [(["a", "b"], [0, 1]), (["b", "a"], [1, 0]), (["a", "c"], None)]
)
def test_training_keeps_a_head_of_the_same_classes(
    data: Path, tmp_path: Path, classes, rows, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "resnets")
    net = save(tmp_path / "w.pth", class_names=classes)
    found = train(data, tmp_path / "w.pth", tmp_path / "run")
    assert found.classes == ("a", "b")
    if rows is None:
        assert not torch.equal(found.head.weight, net.head.weight)
        assert "replaced by a new one" in caplog.text
    else:
        assert torch.equal(found.head.weight, net.head.weight[rows])
        assert "head kept" in caplog.text


def test_a_head_without_names_is_new_where_numbers_agree(
    data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "resnets")
    net = save(tmp_path / "w.pth")
    found = train(data, tmp_path / "w.pth", tmp_path / "run")
    assert not torch.equal(found.head.weight, net.head.weight)
    assert "weights_head=keep" in caplog.text
    kept = train(data, tmp_path / "w.pth", tmp_path / "kept", weights_head="keep")
    assert torch.equal(kept.head.weight, net.head.weight)


def test_a_head_can_be_replaced_in_any_case_but_not_kept(data: Path, tmp_path: Path) -> None:
    net = save(tmp_path / "w.pth", classes=["a", "b"])
    new = train(data, tmp_path / "w.pth", tmp_path / "new", weights_head="new")
    assert not torch.equal(new.head.weight, net.head.weight)
    torch.save(build(TINY).state_dict(), tmp_path / "three.pth")
    with pytest.raises(ConfigError, match="weights_head.*'keep'.*3.*2"):
        train(data, tmp_path / "three.pth", tmp_path / "run", weights_head="keep")


def test_a_run_of_other_classes_is_not_a_head(data: Path, tmp_path: Path) -> None:
    torch.manual_seed(7)
    run = run_folder(tmp_path, TINY, Preprocess(size=20, resize=20))  # a, b, c
    (data / "c").mkdir()
    for name in ("a", "b"):
        (data / name).rename(data / f"new {name}")
    for index in range(8):
        Image.new("RGB", (20, 20), (9 * index, 0, 0)).save(data / "c" / f"{index}.png")
    found = train(data, run, tmp_path / "out")
    assert not torch.equal(found.head.weight, resnets.load(run).head.weight)


@pytest.mark.parametrize("size", [None, 32])
def test_weights_for_small_images_do_not_train_on_large_ones(
    data: Path, tmp_path: Path, size: int | None
) -> None:
    """A CIFAR stem at 224 px: known from the run, or from the kernel alone."""
    spec = catalog.spec("cifar-resnet8", num_classes=2)
    if size is None:
        weights = tmp_path / "w.pth"
        torch.save(build(spec).state_dict(), weights)
    else:
        small = Preprocess(size=size, resize=size)
        weights = run_folder(tmp_path, dataclasses.replace(spec, num_classes=3), small)
    recipe = Recipe(
        model=spec,
        data=DataSpec(source=str(data), size=224, resize=224),
        weights=str(weights),
        duration="1it",
        batch_size=2,
    )
    with pytest.raises(ConfigError, match="32.*data.size=32") as caught:
        run_training(recipe, tmp_path / "out", device="cpu", quiet=True)
    assert "weights_size=any" in str(caught.value)
    assert not (tmp_path / "out").exists()


def whole(model: torch.nn.Module, classes: tuple[str, ...]) -> Weights:
    contents = {f"module.{name}": to_lazy(value) for name, value in model.state_dict().items()}
    return find_model_tensors(Weights("reference", contents, classes=classes))


@pytest.mark.parametrize("task", ["detect", "instances"])
def test_a_detectors_last_layers_follow_the_names(task: str) -> None:
    theirs = small_model(FPN, task, classes=3)
    model = small_model(FPN, task, classes=3)
    load_whole_weights(model, whole(theirs, ("a", "b", "c")), ("c", "a", "b"))
    predictor, expected = model.roi_heads.box_predictor, theirs.roi_heads.box_predictor
    assert torch.equal(predictor.cls_score.weight, expected.cls_score.weight[[0, 3, 1, 2]])
    boxes = expected.bbox_pred.bias.view(4, 4)[[0, 3, 1, 2]].flatten()
    assert torch.equal(predictor.bbox_pred.bias, boxes)
    if task == "instances":
        masks = theirs.roi_heads.mask_predictor.mask_fcn_logits.weight[[0, 3, 1, 2]]
        assert torch.equal(model.roi_heads.mask_predictor.mask_fcn_logits.weight, masks)


def test_a_detector_of_as_many_other_classes_gets_new_last_layers(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "resnets")
    theirs, model = small_model(FPN, "detect", classes=3), small_model(FPN, "detect", classes=3)
    drawn = model.roi_heads.box_predictor.cls_score.weight.clone()
    load_whole_weights(model, whole(theirs, ()), ("x", "y", "z"))
    assert torch.equal(model.roi_heads.box_predictor.cls_score.weight, drawn)
    assert "new layers for other classes" in caplog.text
    assert torch.equal(model.net.stem.conv.weight, theirs.net.stem.conv.weight)


def test_torchvisions_unused_numbers_are_not_classes() -> None:
    """COCO's lists have a background and gaps; a net of the others keeps their rows."""
    theirs, model = small_model(FPN, "detect", classes=4), small_model(FPN, "detect", classes=3)
    names = ("__background__", "a", "N/A", "b", "c")
    load_whole_weights(model, whole(theirs, names), ("a", "b", "c"))
    expected = theirs.roi_heads.box_predictor.cls_score.weight[[0, 1, 3, 4]]
    assert torch.equal(model.roi_heads.box_predictor.cls_score.weight, expected)


def test_a_classifier_under_a_prefix_is_not_a_detector(tmp_path: Path) -> None:
    net = build(dataclasses.replace(NET, num_classes=4))
    torch.save({f"net.{k}": v for k, v in net.state_dict().items()}, tmp_path / "w.pth")
    recipe = Recipe(task="detect", model=NET, detect=FPN, weights=str(tmp_path / "w.pth"))
    model, _ = build_model(recipe, 3, ("a", "b", "c"))
    assert torch.equal(model.net.stem.conv.weight, net.stem.conv.weight)


def test_names_that_a_user_says(tmp_path: Path) -> None:
    (tmp_path / "names.txt").write_text("\ufeffant\n\nred bee\n", encoding="utf-8")
    assert parse_classes(str(tmp_path / "names.txt"), 2, "net") == ("ant", "red bee")
    assert parse_classes("numbers", 3, "net") == ("0", "1", "2")
    assert parse_classes("imagenet", 1000, "net") == imagenet_classes()
    assert parse_classes(None, 3, "net") == ()
    for said in ("a,b", "a,a,b"):
        with pytest.raises(ConfigError, match="--classes"):
            parse_classes(said, 3, "net")


def test_a_missing_file_is_not_a_class(tmp_path: Path) -> None:
    (tmp_path / "names.txt").touch()
    with pytest.raises(ConfigError, match=r"no such file; did you mean \S+names\.txt\?"):
        parse_classes(str(tmp_path / "nmes.txt"), 1, "net")
    assert parse_classes("a.txt,b.txt", 2, "net") == ("a.txt", "b.txt")


@pytest.mark.parametrize("line", ["{n} {name}", "{name},{n}", "{n}: {name}"])
def test_lines_that_number_their_class_are_read_in_that_order(tmp_path: Path, line: str) -> None:
    file = tmp_path / "names.txt"
    for first in (0, 1):
        numbered = [(2 + first, "cat"), (first, "dog"), (1 + first, "eel")]
        file.write_text("\n".join(line.format(n=n, name=name) for n, name in numbered))
        assert parse_classes(str(file), 3, "net") == ("dog", "eel", "cat")
    file.write_text("2010 Audi\n2012 Audi\n2007 Audi")
    assert parse_classes(str(file), 3, "net") == ("2010 Audi", "2012 Audi", "2007 Audi")
    file.write_text("name\nant\nbee")
    with pytest.raises(ConfigError, match="'name'.*header"):
        parse_classes(str(file), 3, "net")
