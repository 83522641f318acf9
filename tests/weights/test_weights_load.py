"""Weights in any format, ready to use: by `resnets.load` and in every command."""

import csv
import dataclasses
import json
import logging
from pathlib import Path

import pytest
import safetensors.torch
import torch
from caffe_model import caffemodel, random_blobs
from small_models import write_images
from torchvision import models
from weights_state import SMALL, assert_same, logits, make_run, random_images, random_state

import resnets
from resnets.cli.main import main
from resnets.config import ConfigError, Preprocess
from resnets.models import build, catalog
from resnets.weights.errors import WeightsError
from resnets.weights.load import LoadOptions, load_classifier
from resnets.weights.name_maps.maps import build_name_map

NAMES = ("ant", "bee", "cat", "dog")


@pytest.fixture(scope="module")
def theirs() -> torch.nn.Module:
    """torchvision's ResNet-18 of four classes."""
    net = models.resnet18(num_classes=4)
    net.load_state_dict(random_state(net, seed=1))
    return net.eval()


@pytest.fixture(scope="module")
def bare(theirs, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("bare") / "plain.pth"
    torch.save({"model": theirs.state_dict()}, path)
    return path


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small network's tensors alone, for commands."""
    path = tmp_path_factory.mktemp("small") / "small.safetensors"
    net = build(catalog.spec("cifar-resnet8", num_classes=4))
    safetensors.torch.save_file(random_state(net, seed=1), path)
    return path


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Class folders of four classes."""
    folder = tmp_path_factory.mktemp("images")
    for name in NAMES:
        write_images(folder / name, ((40, 31), (31, 40), (50, 50)))
    return folder


def test_a_bare_state_dict_is_loaded_by_its_network(theirs, bare: Path) -> None:
    net = resnets.load(bare, model="resnet18", classes=NAMES)
    assert not net.training
    assert net.classes == NAMES
    assert_same(logits(net, random_images()), logits(theirs, random_images()))
    seen = net.preprocess.spec
    assert (seen.size, seen.resize, seen.mean) == (224, 256, (0.485, 0.456, 0.406))
    assert resnets.load(bare, model="resnet18").classes == ("0", "1", "2", "3")


def test_a_gray_network_for_small_images(tmp_path: Path) -> None:
    net = build(catalog.spec("cifar-resnet8", num_classes=5, in_channels=1))
    safetensors.torch.save_file(net.state_dict(), tmp_path / "w.safetensors")
    found = resnets.load(tmp_path / "w.safetensors", model="cifar-resnet8")
    seen = found.preprocess.spec
    assert (seen.size, seen.resize, seen.channels) == (32, 32, 1)
    assert found.spec.num_classes == 5


def test_without_a_network_those_that_fit_are_named(bare: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="give model=NAME.*resnet18$"):
        resnets.load(bare)
    plain = {
        name: tensor
        for name, tensor in build(catalog.spec("plain18")).state_dict().items()
        if "num_batches" not in name
    }
    torch.save(plain, tmp_path / "plain.pth")
    with pytest.raises(ConfigError, match="resnet18-a.*plain18"):
        resnets.load(tmp_path / "plain.pth")
    torch.save({"encoder.weight": torch.zeros(3)}, tmp_path / "other.pth")
    with pytest.raises(ConfigError, match="`resnets info`"):
        resnets.load(tmp_path / "other.pth")


def test_commands_want_names_of_classes(bare: Path, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(WeightsError, match="4.*--classes"):
        load_classifier(bare, LoadOptions("resnet18"))
    caplog.set_level(logging.INFO, "resnets")
    net = load_classifier(bare, LoadOptions("resnet18", "ant,bee,cat,dog"))
    assert net.classes == NAMES
    assert "preprocessing assumed" in caplog.text
    assert "center 224 px" in caplog.text


def test_a_file_that_names_its_classes_and_one_without_a_head(theirs, tmp_path: Path) -> None:
    state = theirs.state_dict()
    path = tmp_path / "w.pth"
    torch.save({"state_dict": state, "class_to_idx": {n: k for k, n in enumerate(NAMES)}}, path)
    assert load_classifier(path, LoadOptions("resnet18")).classes == NAMES
    torch.save({name: tensor for name, tensor in state.items() if "fc" not in name}, path)
    with pytest.raises(WeightsError, match="has no head"):
        load_classifier(path, LoadOptions("resnet18", "ant,bee,cat,dog"))
    net = load_classifier(path, LoadOptions("resnet18"), "body")
    assert torch.equal(net.get_submodule("stem.conv").weight, state["conv1.weight"])


def test_a_run_says_its_own_network(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", catalog.spec("resnet18", num_classes=3), Preprocess())
    assert resnets.load(run, model="resnet18", classes="a,b,c").classes == ("a", "b", "c")
    with pytest.raises(ConfigError, match="model=resnet50.*resnet18"):
        resnets.load(run, model="resnet50")
    with pytest.raises(ConfigError, match="names 2 classes"):
        resnets.load(run, classes="a,b")


def test_formats_that_know_their_preprocessing(tmp_path: Path) -> None:
    blobs = random_blobs(SMALL, seed=1, bias=False, factor=1.0)
    (tmp_path / "m.caffemodel").write_bytes(caffemodel(blobs))
    catalog_net = dataclasses.replace(SMALL, stride_in="3x3")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(catalog, "spec", lambda name, **_: catalog_net)
        net = resnets.load(tmp_path / "m.caffemodel", model="small")
    assert net.preprocess.spec.channel_order == "bgr"
    assert net.spec.stride_in == "1x1"


def out_of(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str, str]:
    code = main([str(word) for word in words])
    out, err = capsys.readouterr()
    return code, out, err


def test_every_command_takes_them(
    small: Path, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One mechanism: the same options, the same probabilities, the preprocessing in a line."""
    said = ("--model", "cifar-resnet8", "--classes", ",".join(NAMES))
    fixed = ("--device", "cpu", "--precision", "float32")
    file = images / "ant" / "00.png"
    code, out, err = out_of(capsys, "predict", small, file, "--json", *said, *fixed)
    assert code == 0
    expected = json.loads(out)[0]["predictions"]
    assert "preprocessing assumed" in err
    assert {each["class"] for each in expected} == set(NAMES)

    code, out, _ = out_of(capsys, "evaluate", small, "--data", images, "--json", *said, *fixed)
    assert code == 0
    assert json.loads(out)["examples"] == 12

    parquet = tmp_path / "f.parquet"
    words = ("features", small, images, "--out", parquet, "--model", "cifar-resnet8")
    assert out_of(capsys, *words, *fixed)[0] == 0
    assert parquet.is_file()

    bulk = ("predict", small, "--data", images, "--out", tmp_path / "bulk", "--format", "csv")
    code, _, err = out_of(capsys, *bulk, *said, *fixed)
    assert code == 0, err
    with open(tmp_path / "bulk" / "part-00000.csv", encoding="utf-8") as rows:
        assert len(list(csv.reader(rows))) == 13

    study = ("study", "responses", small, "--data", images, "--out", tmp_path / "study")
    assert out_of(capsys, *study, "--examples", 4, "--device", "cpu", *said)[0] == 0

    pushed = tmp_path / "pushed"
    assert out_of(capsys, "push", small, "--to", pushed, *said)[0] == 0
    code, out, err = out_of(capsys, "predict", pushed, file, "--json", *fixed)
    assert code == 0
    assert json.loads(out)[0]["predictions"] == expected


@pytest.mark.slow
def test_export_takes_them(small: Path, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    out = tmp_path / "net.onnx"
    said = ["--model", "cifar-resnet8", "--classes", ",".join(NAMES)]
    assert main(["export", str(small), "--out", str(out), *said]) == 0
    assert json.loads((tmp_path / "net.onnx.json").read_text())["classes"] == list(NAMES)


def test_serve_takes_them(small: Path, tmp_path: Path) -> None:
    from resnets.serve.models import fingerprint, open_model

    options = {"backend": "torch", "device": "cpu", "precision": "float32"}
    loading = LoadOptions("cifar-resnet8", ",".join(NAMES))
    where = str(small)
    model = open_model(where, fingerprint(where), **options, loading=loading)
    assert model.classes == NAMES
    model.prepare_explain("bee")
    run = make_run(tmp_path / "run", catalog.spec("resnet18", num_classes=3), Preprocess())
    beside = open_model(str(run), fingerprint(str(run)), **options, loading=loading)
    assert len(beside.classes) == 3  # it says its own


def test_a_network_saved_from_python(tmp_path: Path) -> None:
    net = resnets.create_model("cifar-resnet8", num_classes=2)
    net.load_state_dict(random_state(net, seed=2))
    seen = Preprocess(size=32, resize=36, mean=(0.1, 0.2, 0.3))
    net.save(tmp_path / "mine", classes=("cat", "dog"), preprocess=seen)
    again = resnets.load(tmp_path / "mine")
    assert again.classes == ("cat", "dog")
    assert again.preprocess.spec == seen
    assert_same(logits(again, random_images(32)), logits(net, random_images(32)))
    assert net.classes == ()  # the network itself is as it was
    net.save(str(tmp_path / "bare"))
    bare = resnets.load(tmp_path / "bare")
    assert bare.classes == ("0", "1")
    assert bare.preprocess.spec.size == 32  # assumed
    with pytest.raises(ConfigError, match="is not empty"):
        net.save(tmp_path / "mine")
    with pytest.raises(ConfigError, match="names 3 classes"):
        net.save(tmp_path / "other", classes=("a", "b", "c"))
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["bare", "mine"]


def test_a_cifar_stem_shows_in_its_kernel(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """ResNet-18 for CIFAR as most repositories have it: 3x3, stride 1, no pool, head `linear`."""
    spec = catalog.spec("resnet18", stem="cifar", num_classes=4, input_size=32)
    net = build(spec)
    net.load_state_dict(random_state(net, seed=1))
    torch.save(
        {"net": build_name_map("cifar", net).to_foreign(net.state_dict())}, tmp_path / "w.pth"
    )
    with pytest.raises(ConfigError, match="resnet18$"):
        resnets.load(tmp_path / "w.pth")
    found = resnets.load(tmp_path / "w.pth", model="resnet18")
    assert "loaded as resnet18 with a CIFAR stem" in caplog.text
    assert found.preprocess.spec.size == 32
    assert_same(logits(found, random_images(32)), logits(net, random_images(32)))
