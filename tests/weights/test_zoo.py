"""Models of the zoo: what the index says of them, their figures, and what is refused."""

import hashlib
import importlib.util
import json
import shutil
from pathlib import Path

import pytest
import torch
from paths import ROOT

import resnets
from resnets.cli.main import main
from resnets.config import ConfigError
from resnets.weights import zoo
from resnets.weights.errors import WeightsError

SMALL = "digits/cifar-resnet20"


@pytest.fixture
def copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the zoo, which the tests may change."""
    folder = tmp_path / "zoo"
    shutil.copytree(zoo.FOLDER, folder)
    monkeypatch.setattr(zoo, "FOLDER", folder)
    return folder


def change_index(folder: Path, **fields: object) -> None:
    path = folder / zoo.INDEX
    index = json.loads(path.read_text())
    index[SMALL] |= fields
    path.write_text(json.dumps(index))


@pytest.mark.parametrize("name", list(zoo.read_index()))
def test_each_model_loads_and_its_card_agrees_with_the_index(name: str) -> None:
    entry = zoo.read_index()[name]
    net = resnets.load(f"resnets:{name}")
    assert len(net.classes) == net.spec.num_classes
    assert net.preprocess is not None
    assert net.recipe.data.source == entry.data == name.partition("/")[0]
    assert f"{name.partition('/')[2]}-".startswith(f"{net.spec.name}-")  # or NET-RECIPE
    if entry.url is None:
        card = (entry.folder / "README.md").read_text()
        for said in (f"{entry.top1_error:.2f}%", entry.protocol, entry.license, entry.command):
            assert said in card
        assert {path.name for path in entry.folder.iterdir()} == {*entry.sha256, "README.md"}


def test_the_page_of_weights_lists_each_model() -> None:
    page = (ROOT / "docs" / "weights.md").read_text()
    for name, entry in zoo.read_index().items():
        row = f"| `resnets:{name}` | {entry.top1_error:.2f}% | {entry.examples:,} |"
        assert f"{row} `{entry.command}` |" in page


def test_the_error_in_the_index_is_that_of_the_files() -> None:
    found = resnets.evaluate(f"resnets:{SMALL}", "digits", precision="float32", quiet=True)
    entry = zoo.read_index()[SMALL]
    assert found.evaluation.examples == entry.examples
    assert abs(found.evaluation.top1_error - entry.top1_error) < 100.5 / entry.examples


def test_the_model_starts_a_model_of_other_classes() -> None:
    net = resnets.create_model("cifar-resnet20", 3, 3, weights=f"resnets:{SMALL}")
    theirs = resnets.load(f"resnets:{SMALL}")
    name = "stage3.2.conv2.weight"
    assert torch.equal(net.get_parameter(name), theirs.get_parameter(name))
    assert net.head.out_features == 3
    with pytest.raises(ConfigError, match="shortcut"):  # the tensors would fit
        resnets.create_model("cifar-plain20", weights=f"resnets:{SMALL}")


def test_unknown_names_are_refused_with_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["predict", "resnets:digits/cifar-resnet2", "x.png"]) == 2
    assert SMALL in capsys.readouterr().err
    with pytest.raises(ConfigError, match="known"):
        resnets.load("resnets:zzz")


def test_changed_and_missing_files_are_refused(copied: Path) -> None:
    file = copied / SMALL / "model.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    with pytest.raises(WeightsError, match=r"model\.safetensors.*SHA-256"):
        resnets.load(f"resnets:{SMALL}")
    file.unlink()
    with pytest.raises(WeightsError, match="missing"):
        resnets.load(f"resnets:{SMALL}")


def test_larger_models_are_downloaded_once_and_verified(
    copied: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RESNETS_CACHE", str(tmp_path / "cache"))
    expected = resnets.load(f"resnets:{SMALL}")
    away = (copied / SMALL).rename(tmp_path / "away")
    change_index(copied, url=away.as_uri())
    for _ in range(2):  # the second time from the cache
        net = resnets.load(f"resnets:{SMALL}")
        assert torch.equal(net.head.weight, expected.head.weight)
        away.rename(tmp_path / "gone") if away.exists() else None
    shutil.rmtree(tmp_path / "cache")
    with pytest.raises(WeightsError, match="cannot download"):
        resnets.load(f"resnets:{SMALL}")
    wrong = dict.fromkeys(zoo.read_index()[SMALL].sha256, "0" * 64)
    change_index(copied, url=(tmp_path / "gone").as_uri(), sha256=wrong)
    with pytest.raises(WeightsError):
        resnets.load(f"resnets:{SMALL}")


def test_the_script_adds_a_run(digits_run: Path, tmp_path: Path) -> None:
    spec = importlib.util.spec_from_file_location("zoo_script", ROOT / "benchmarks" / "zoo.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    entry = script.add(
        str(digits_run),
        "digits/tiny",
        data="digits",
        command="resnets train digits",
        license="MIT",
        notes=["A note."],
        out=tmp_path,
        index=tmp_path,
    )
    net = resnets.load(tmp_path / "digits" / "tiny")
    exact = resnets.load(digits_run)
    for name, value in net.named_parameters():
        wanted = exact.get_parameter(name)
        assert torch.equal(value, wanted.half().float() if value.dim() > 1 else wanted)
    assert net.recipe.data.source == "digits"
    card = (tmp_path / "digits" / "tiny" / "README.md").read_text()
    assert "A note." in card
    assert 'load("resnets:digits/tiny")' in card
    file = tmp_path / "digits" / "tiny" / "model.safetensors"
    assert entry.sha256[file.name] == hashlib.sha256(file.read_bytes()).hexdigest()
    assert set(json.loads((tmp_path / "index.json").read_text())) == {"digits/tiny"}
