"""A run pushed into a folder, and loaded from there by us, by timm and by torchvision."""

import dataclasses
import json
import re
from pathlib import Path

import pytest
import safetensors.torch
import torch
from paths import ROOT
from PIL import Image
from torchvision import models as torchvision_models
from weights_state import CLASSES, assert_same, logits, make_run, random_images

import resnets
from resnets.cli.main import main
from resnets.config import ConfigError, ModelSpec, Preprocess
from resnets.models import build, catalog
from resnets.weights.errors import WeightsError
from resnets.weights.push import push

SHARED = catalog.spec("resnet18", num_classes=3)
SEEN = Preprocess(size=64, resize=72, mean=(0.1, 0.2, 0.3), interpolation="bicubic")


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return make_run(tmp_path / "run", SHARED, SEEN)


def test_a_pushed_folder_loads_everywhere(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "models" / "pets"
    assert main(["push", str(run), "--to", str(out), "--licence", "apache-2.0"]) == 0
    assert str(out) in capsys.readouterr().out
    files = {"README.md", "config.json", "hubconf.py", "model.safetensors"}
    assert {entry.name for entry in out.iterdir()} == files
    expected, images = resnets.load(run), random_images()

    again = resnets.load(out)
    assert torch.equal(logits(again, images), logits(expected, images))
    assert again.classes == CLASSES
    assert again.preprocess.spec == SEEN
    assert again.recipe == expected.recipe

    theirs = torchvision_models.resnet18(num_classes=3)
    theirs.load_state_dict(safetensors.torch.load_file(out / "model.safetensors"))
    assert_same(logits(theirs, images), logits(expected, images))

    timm = pytest.importorskip("timm")
    theirs = timm.create_model(f"local-dir:{out}", pretrained=True)
    assert_same(logits(theirs, images), logits(expected, images))
    config = timm.data.resolve_model_data_config(theirs)
    assert tuple(config["input_size"]) == (3, 64, 64)
    assert tuple(config["mean"]) == (0.1, 0.2, 0.3)
    assert config["interpolation"] == "bicubic"
    assert int(64 / config["crop_pct"]) == 72
    assert theirs.pretrained_cfg["label_names"] == list(CLASSES)

    theirs = torch.hub.load(str(out), "model", source="local")
    assert torch.equal(logits(theirs, images), logits(expected, images))
    theirs = torch.hub.load(str(ROOT), "load", str(out), source="local")
    assert torch.equal(logits(theirs, images), logits(expected, images))

    start = resnets.create_model("resnet18", num_classes=7, weights=str(out))
    assert torch.equal(start.get_submodule("stem.conv").weight, expected.stem.conv.weight)


@pytest.mark.parametrize("layout", ["torchvision", "mmpretrain", "detectron2"])
def test_a_state_dict_for_another_library(tmp_path: Path, layout: str) -> None:
    run, out = make_run(tmp_path / "run", SHARED, SEEN), tmp_path / "out"
    net = resnets.load(run)
    assert main(["push", str(run), "--to", str(out), "--format", layout]) == 0
    again = resnets.load(out / "model.pth", model="resnet18", classes=net.classes)
    state = torch.load(out / "model.pth", weights_only=True)
    if layout == "mmpretrain":
        assert state["meta"]["dataset_meta"]["classes"] == list(net.classes)
    if layout == "torchvision":
        torchvision_models.resnet18(num_classes=3).load_state_dict(state)
    for name, tensor in net.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor)


def test_the_card_has_figures_protocol_recipe_and_license(run: Path, tmp_path: Path) -> None:
    push(str(run), str(tmp_path / "pets"), license="apache-2.0")
    text = (tmp_path / "pets" / "README.md").read_text()
    _, head, body = text.split("---\n", 2)
    assert 'license: "apache-2.0"' in head
    assert "value: 95.7500" in head
    assert "| test | 4.25% | 0.00% | 1,200 | 1 view, 64x64 px, float32, best, pets test |" in body
    assert "balanced" not in text  # the run is of a version that did not measure it
    assert 'weights = "torchvision:DEFAULT"' in body
    assert "torchvision.models.resnet18(num_classes=3)" in body
    assert "center crop of 64 px" in body
    import yaml

    front = yaml.safe_load(head)
    assert front["model-index"][0]["results"][0]["metrics"][0]["value"] == 95.75


@pytest.mark.parametrize(
    ("metrics", "column", "cell", "types"),
    [
        (
            {"top1_error": 4.25, "balanced_error": 9.5, "macro_f1": 88.0},
            "| top-1 error | balanced error | macro F1 |",
            "| 4.25% | 9.50% | 88.00% |",
            ["accuracy", "balanced_accuracy", "f1"],
        ),
        (
            {"mAP": 71.0, "macro_f1": 60.0, "micro_f1": 65.0},
            "| mAP | micro F1 | macro F1 |",
            "| 71.00% | 65.00% | 60.00% |",
            ["mean_average_precision", "f1"],
        ),
    ],
)
def test_the_card_has_all_metrics_of_a_run(
    run: Path, tmp_path: Path, metrics, column, cell, types
) -> None:
    import yaml

    result = json.loads((run / "result.json").read_text())
    measured = {"examples": 1200, "protocol": "1 view"}
    (run / "result.json").write_text(json.dumps({**result, "test": {**measured, **metrics}}))
    push(str(run), str(tmp_path / "pets"))
    _, head, body = (tmp_path / "pets" / "README.md").read_text().split("---\n", 2)
    header, separator, row = re.search(r"(?m)^\| split .*\n\|-.*\n\| test .*", body)[0].split("\n")
    assert column in header
    assert separator.count("|") == header.count("|") == row.count("|")
    assert cell in row
    listed = yaml.safe_load(head)["model-index"][0]["results"][0]["metrics"]
    assert [each["type"] for each in listed] == types


@pytest.mark.parametrize(
    ("spec", "seen"),
    [
        (catalog.spec("cifar-resnet20", num_classes=3), Preprocess(size=32, resize=32)),
        (
            dataclasses.replace(SHARED, depths=(1, 1, 1, 1), in_channels=1),
            Preprocess(size=32, resize=32, channels=1, mean=(0.5,), std=(0.2,)),
        ),
        (
            catalog.spec("resnet50-v1", num_classes=3, widths=(4, 6, 8, 10)),
            Preprocess(size=32, resize=32, mean_image=True, channel_order="bgr"),
        ),
    ],
)
def test_models_without_a_counterpart_in_timm(
    tmp_path: Path, spec: ModelSpec, seen: Preprocess
) -> None:
    """No other library has them: our names, and no claim that another reads them."""
    run = make_run(tmp_path / "run", spec, seen)
    push(str(run), str(tmp_path / "net"))
    again, expected = resnets.load(tmp_path / "net"), resnets.load(run)
    images = torch.randn(2, spec.in_channels, 32, 32)
    assert torch.equal(logits(again, images), logits(expected, images))
    assert again.spec == expected.spec
    image = torch.randint(0, 256, (40, 40, 3), dtype=torch.uint8).numpy()
    assert torch.equal(again.preprocess(image), expected.preprocess(image))
    text = (tmp_path / "net" / "README.md").read_text()
    assert "timm" not in text.replace("for timm only in part", "")
    assert "Not stated" in text


def test_a_gray_model_of_timm(tmp_path: Path) -> None:
    timm = pytest.importorskip("timm")
    spec = dataclasses.replace(SHARED, in_channels=1)
    seen = Preprocess(size=32, resize=32, channels=1, mean=(0.5,), std=(0.2,))
    run = make_run(tmp_path / "run", spec, seen)
    push(str(run), str(tmp_path / "net"))
    theirs = timm.create_model(f"local-dir:{tmp_path / 'net'}", pretrained=True)
    images = torch.randn(2, 1, 32, 32)
    assert_same(logits(theirs, images), logits(resnets.load(run), images))


@pytest.mark.parametrize("name", ["resnet10t", pytest.param("resnetv2_50", marks=pytest.mark.ci)])
def test_a_model_that_only_timm_supports(tmp_path: Path, name: str) -> None:
    run = make_run(tmp_path / "run", catalog.spec(name, num_classes=3), SEEN)
    out = tmp_path / "net"
    push(str(run), str(out))
    expected, images = resnets.load(run), random_images()
    assert torch.equal(logits(resnets.load(out), images), logits(expected, images))
    assert "torchvision.models" not in (out / "README.md").read_text()
    timm = pytest.importorskip("timm")
    theirs = timm.create_model(f"local-dir:{out}", pretrained=True)
    assert_same(logits(theirs, images), logits(expected, images))
    start = timm.create_model(f"local-dir:{out}", pretrained=True, num_classes=5, in_chans=1)
    assert start(images[:, :1]).shape == (2, 5)  # it finds the first convolution and the head
    state = safetensors.torch.load_file(out / "model.safetensors")
    torch.save(state, tmp_path / "plain.pth")
    again = resnets.load(tmp_path / "plain.pth", model=name, classes=CLASSES)
    assert torch.equal(logits(again, images), logits(expected, images))


def test_transformers_loads_a_pushed_folder(run: Path, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    push(str(run), str(tmp_path / "net"))
    theirs = transformers.AutoModelForImageClassification.from_pretrained(tmp_path / "net").eval()
    images = random_images()
    with torch.inference_mode():
        assert_same(theirs(images).logits, logits(resnets.load(run), images))
        features = transformers.AutoModel.from_pretrained(tmp_path / "net").eval()(images)
    assert features.pooler_output.shape == (2, 512)
    assert tuple(theirs.config.id2label.values()) == CLASSES
    processor = transformers.AutoImageProcessor.from_pretrained(tmp_path / "net")
    image = torch.randint(0, 256, (100, 150, 3), dtype=torch.uint8).numpy()
    seen = processor(Image.fromarray(image), return_tensors="pt")["pixel_values"][0]
    assert (seen - resnets.load(run).preprocess(image)).abs().max() < 3 / 255 / 0.2


def test_a_checkpoint_alone_has_no_figures(run: Path, tmp_path: Path) -> None:
    (run / "result.json").unlink()
    push(str(run / "checkpoints" / "best.safetensors"), str(tmp_path / "net"))
    text = (tmp_path / "net" / "README.md").read_text()
    assert "No results were published with these weights (best.safetensors (step 3))" in text
    assert "model-index" not in text


def test_what_is_there_stays(run: Path, tmp_path: Path) -> None:
    taken = tmp_path / "taken"
    taken.mkdir()
    (taken / "thesis.txt").write_text("years of work")
    with pytest.raises(ConfigError, match="is not empty"):
        push(str(run), str(taken))
    with pytest.raises(ConfigError, match="hub:ORG/NAME"):
        push(str(run), "hub:nobody")
    empty = tmp_path / "empty"
    empty.mkdir()
    push(str(run), str(empty))
    assert {entry.name for entry in tmp_path.iterdir()} == {"taken", "empty", "run"}


def test_no_hub_is_one_clear_line(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(WeightsError, match="org/pets") as caught:
        push(str(run), "hub:org/pets")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda config: config["resnets"].update(format=9), "format 9, this version reads 1"),
        (lambda config: config["resnets"]["model"].update(depth=3), "unknown field depth"),
        (lambda config: config["resnets"].pop("model"), "cannot be read .*KeyError"),
        (lambda config: config["resnets"]["model"].update(num_classes=9), "no head for 9 classes"),
        (lambda config: config.pop("resnets"), None),
    ],
)
def test_a_changed_folder_is_named(run: Path, tmp_path: Path, change, words) -> None:
    out = tmp_path / "net"
    push(str(run), str(out))
    config = json.loads((out / "config.json").read_text())
    change(config)
    (out / "config.json").write_text(json.dumps(config))
    if words is None:  # what is left is timm's, which serves as well
        assert resnets.load(out).spec.depths == (2, 2, 2, 2)
        return
    with pytest.raises(WeightsError, match=words):
        resnets.load(out)


def test_a_folder_of_another_library(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    safetensors.torch.save_file(build(SHARED).state_dict(), tmp_path / "model.safetensors")
    with pytest.raises(WeightsError, match="model_type 'bert'"):
        resnets.load(tmp_path)
    (tmp_path / "config.json").write_text("not json")
    with pytest.raises(WeightsError, match="config.json"):
        resnets.load(tmp_path)


def test_python_pushes_runs_and_loaded_models(run: Path, tmp_path: Path) -> None:
    theirs, ours, loaded = (tmp_path / name for name in ("theirs", "ours", "loaded"))
    assert main(["push", str(run), "--to", str(theirs)]) == 0
    assert resnets.push(resnets.Run(run), ours) == str(ours)
    assert sorted(each.name for each in ours.iterdir()) == sorted(
        each.name for each in theirs.iterdir()
    )
    name = "model.safetensors"
    assert (ours / name).read_bytes() == (theirs / name).read_bytes()
    net = resnets.load(run)
    resnets.push(net, loaded)
    assert (loaded / name).read_bytes() == (theirs / name).read_bytes()
    assert "4.25%" in (ours / "README.md").read_text()
    assert "4.25%" not in (loaded / "README.md").read_text()  # of its run only
    for call, message in (
        (lambda: resnets.push(run, ours, private=True), "^private=True: is for a repository"),
        (lambda: resnets.push(net, ours, private=True), "^private=True: is for a repository"),
        (lambda: resnets.push(net, tmp_path / "x", model="resnet18"), "^model: only for weights"),
        (lambda: resnets.push(net, "hub:nobody"), "^to=hub:nobody: write it as"),
        (lambda: resnets.push(net, ours, format="keras"), "^format='keras': must be one of"),
    ):
        with pytest.raises(resnets.ConfigError, match=message):
            call()
